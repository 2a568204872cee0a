// Command init is what the supervisor starts in a container's namespaces, before the container's own program.
package main

import (
	"runtime"
	"syscall"
	_ "unsafe" // for linkname

	"gantry/internal/runtime/initproc"
)

// The main goroutine must stay on the main thread, whose namespaces and credentials the container gets.
// That can only be asked for before main runs.
func init() { runtime.LockOSThread() }

func main() {
	initproc.Main(args())
	syscall.Exit(1)
}

// args returns the arguments; package os, which has them too, would cost a tenth of the start.
//
//go:linkname args os.runtime_args
func args() []string
