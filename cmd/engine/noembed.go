//go:build !embed

package main

// programs returns nothing: without the build tag they are found beside the executable.
func programs() map[string][]byte { return nil }
