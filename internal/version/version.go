// Package version says which Gantry this is.
package version

// Version is set by the linker (-X gantry/internal/version.Version=…).
var Version = "dev"

// Commit and Time say what it was built from: the commit, and when that was made (RFC 3339), so that equal sources
// make equal programs. The linker sets them as well.
var (
	Commit = "unknown"
	Time   = "unknown"
)
