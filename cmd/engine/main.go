// Command engine is the daemon: it serves Docker's API. The front, cmd/gantry, carries it inside and runs it as
// `gantry daemon`.
package main

import (
	"fmt"
	"os"

	"gantry/internal/cli"
	"gantry/internal/cli/build"
	"gantry/internal/cli/command"
	"gantry/internal/daemon"
	registry "gantry/internal/registry/command"
	"gantry/internal/version"
)

func main() {
	args := os.Args[1:]
	// Run from a memfd, the kernel calls it by the number of a descriptor; people look for it in ps and top.
	_ = os.WriteFile("/proc/self/comm", []byte("gantry"), 0)
	if len(args) > 0 && args[0] == "registry" {
		os.Exit(registry.Main(args[1:]))
	}
	if len(args) > 1 && args[0] == "cli" {
		b := cli.Build{Version: version.Version, Commit: version.Commit, Time: version.Time}
		os.Exit(cli.MainHeavy(args[1:], b, map[string]command.Flags{"build": build.Build, "builder prune": build.Prune, "builder du": build.DiskUsage}))
	}
	if len(args) == 0 || args[0] != "daemon" {
		fmt.Fprintln(os.Stderr, "Usage:  engine daemon [OPTIONS]\n        engine registry serve [OPTIONS]\n\nThe engine of Gantry; `gantry daemon` and `gantry registry` run it.")
		os.Exit(2)
	}
	os.Exit(daemon.Main(args[1:], programs()))
}
