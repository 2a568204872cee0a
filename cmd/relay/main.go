// Command relay holds sockets that outlive the engine; see package server. The engine starts it, from a sealed memfd.
package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/internal/network/relay/server"
	"gantry/internal/runtime/fork"
)

func main() {
	// It idles with a small heap: memory counts, and two threads of Go suffice.
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	conf := server.Config{Ready: 3, State: -1}
	check := false
	// Not package flag: it would bring fmt's and reflect's weight for four words that only the engine says.
	args := os.Args[1:]
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		if name == "-check" {
			check = true
			continue
		}
		if len(args) == 0 {
			fail(conf.Ready, "value missing for "+name)
		}
		value := args[0]
		args = args[1:]
		n, err := strconv.Atoi(value)
		switch name {
		case "-exec-root":
			conf.Dir, err = value, nil
		case "-build":
			conf.Build, err = value, nil
		case "-ready":
			conf.Ready = n
		case "-state":
			conf.State = n
		default: // a later version's, which knows that this one may be asked
			err = nil
		}
		if err != nil {
			fail(conf.Ready, name+": "+err.Error())
		}
	}
	if check {
		if server.Check(conf.State) != nil {
			os.Exit(1)
		}
		return
	}
	if conf.State < 0 {
		fork.CloseInherited(conf.Ready)
	}
	if conf.Ready >= 0 {
		unix.CloseOnExec(conf.Ready)
	}
	if err := server.Run(conf); !server.Taken(err) {
		fail(conf.Ready, err.Error())
	}
}

func fail(ready int, text string) {
	if ready >= 0 {
		unix.Write(ready, []byte(text))
	}
	os.Stderr.WriteString("relay: " + text + "\n")
	os.Exit(1)
}
