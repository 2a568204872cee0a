// Command engine is the daemon: it serves Docker's API. The front, cmd/gantry, carries it inside and runs it as
// `gantry daemon`.
package main

import (
	"fmt"
	"os"

	"gantry/internal/daemon"
	registry "gantry/internal/registry/command"
)

func main() {
	args := os.Args[1:]
	// Run from a memfd, the kernel calls it by the number of a descriptor; people look for it in ps and top.
	_ = os.WriteFile("/proc/self/comm", []byte("gantry"), 0)
	if len(args) > 0 && args[0] == "registry" {
		os.Exit(registry.Main(args[1:]))
	}
	if len(args) == 0 || args[0] != "daemon" {
		fmt.Fprintln(os.Stderr, "Usage:  engine daemon [OPTIONS]\n        engine registry serve [OPTIONS]\n\nThe engine of Gantry; `gantry daemon` and `gantry registry` run it.")
		os.Exit(2)
	}
	os.Exit(daemon.Main(args[1:], programs()))
}
