// Gantry is the front: the command line's verbs, and the engine inside it.
//
// `gantry daemon` and `gantry registry` become the engine; everything else is internal/cli. This program stays thin, for it starts at every
// command: what it may import is held by a test (thin_test.go).
package main

import (
	"fmt"
	"os"

	"gantry/internal/cli"
	"gantry/internal/version"
)

// Set by the linker (-X main.commit=… -X main.built=…).
var commit, built string

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "daemon" || os.Args[1] == "registry") {
		err := becomeEngine(os.Args[1:])
		fmt.Fprintln(os.Stderr, "gantry "+os.Args[1]+":", err)
		os.Exit(1)
	}
	os.Exit(cli.Main(os.Args, cli.Build{Version: version.Version, Commit: commit, Time: built}, startEngine))
}
