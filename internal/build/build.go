// Package build makes images: it has a front end turn what is asked into a graph (package graph), has the graph solved
// (package solve), and makes of the result what is wanted of it: an image with names, an archive, a folder.
//
// Who asks is behind interfaces. A [Client] gives folders, secrets and agents when the graph asks for them, whether it sent
// an archive with its request or talks through a session; a [Sink] is told what happens, and shows it as Docker's classic builder
// does, as lines or as a picture that moves.
package build

import (
	"context"
	"net"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
	"gantry/internal/build/session/wire"
	"gantry/internal/build/source"
	"gantry/internal/remote"
)

// Client is whoever asks for a build, as far as it is asked in turn.
type Client interface {
	// Folder returns a folder that the client offers: "context", "dockerfile", or one named by --build-context. What the
	// client does not have is errs.NotFound.
	Folder(ctx context.Context, l *graph.Local) (source.Tree, error)
	// Secret returns a secret's content; errs.NotFound if the client has none of that ID.
	Secret(ctx context.Context, id string) ([]byte, error)
	// Agent connects to an SSH agent; errs.NotFound if the client has none of that ID.
	Agent(ctx context.Context, id string) (net.Conn, error)
}

// Request is one build.
type Request struct {
	wire.Request
	Client Client
	Sink   Sink // may be nil
	// Access is what the client knows of an image's registry; nil: nothing.
	Access func(ref string) remote.Access
	// Classic has the history and some details as Docker's classic builder has them, see dockerfile.Options.
	Classic bool
}

// What a session carries, too.
type (
	Output = wire.Output
	Built  = wire.Built
	Status = wire.Status

	CacheFrom = wire.CacheFrom
	CacheTo   = wire.CacheTo
)

// EventKind says what happened.
type EventKind uint8

const (
	Planned   EventKind = iota // Result is known: Vertices, Steps, Warnings
	Started                    // Vertex is being done
	Cached                     // Vertex need not be done
	Completed                  // Vertex is done
	Failed                     // Vertex failed, with Err
	Logged                     // Vertex's program wrote Data to Stream (1: stdout, 2: stderr)
	Reported                   // Status of a part of Vertex: a layer of a pull, files of a transfer
	Running                    // Vertex's program runs, as Container
	Exporting                  // what Text says is made of the result
)

// Event is one thing that happened in a build.
type Event struct {
	Kind      EventKind
	Time      time.Time
	Vertex    *graph.Vertex
	Err       error
	Stream    int
	Data      []byte // not to be kept
	Status    Status
	Container string
	Text      string // of an Image that is Completed: its ID
	Result    *graph.Result
	// State is, when Cached or Completed, what the vertex's first output is known by.
	State digest.Digest
	// Why says, when Started, why the cache did not have it: "no such step before", "file src/main.go".
	Why string
}

// Sink is told what happens. It is called by one goroutine at a time.
type Sink interface{ Event(Event) }
