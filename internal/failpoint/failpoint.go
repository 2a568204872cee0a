// Package failpoint lets a test kill the process, as a crash would, at a named place.
//
// GANTRY_FAILPOINT=name ends the process by SIGKILL when Hit(name) is reached for the first time. The
// variable is read once; without it Hit costs one comparison.
package failpoint

import (
	"os"
	"syscall"
)

var armed = os.Getenv("GANTRY_FAILPOINT")

// Hit kills the process if the fail point name is armed.
func Hit(name string) {
	if armed != "" && armed == name {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way: do not run on
	}
}
