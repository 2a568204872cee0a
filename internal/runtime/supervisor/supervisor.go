// Package supervisor is the engine's side of the one small process that outlives it and holds all
// containers. The process itself is package server below this one; what the two say to each other is package protocol.
//
// The engine uses a Keeper: it finds or starts the supervisor, launches processes through it, and holds
// duplicates of their fds, so that a death of the supervisor, like one of the engine, loses nothing.
package supervisor

import (
	"golang.org/x/sys/unix"

	"gantry/internal/runtime/supervisor/protocol"
)

// What the protocol and the engine name alike.
type (
	Process = protocol.Process
	Exit    = protocol.Exit
	Hello   = protocol.Hello
)

// Signal is a signal's number (signal(7)).
type Signal = unix.Signal

// Streams of a Frame, as Docker numbers them.
const (
	Stdin  = protocol.Stdin
	Stdout = protocol.Stdout
	Stderr = protocol.Stderr
)
