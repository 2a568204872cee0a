//go:build !embed

package main

// Without the tag the engine is beside this executable.
const engine = ""
