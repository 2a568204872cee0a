// Package volume is the verbs of volumes, one file each.
package volume
