// Package network is the verbs of networks, one file each.
package network
