// Package version says which Gantry this is.
package version

// Version is set by the linker (-X gantry/internal/version.Version=…).
var Version = "dev"
