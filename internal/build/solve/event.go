package solve

import (
	"context"
	"net"
	"time"

	"gantry/internal/build/graph"
	"gantry/internal/build/source"
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

// EventKind says what happened.
type EventKind uint8

const (
	Planned   EventKind = iota // Result is known: vertices, steps, warnings
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
	State string
	// Why says, when Started, why the cache did not have it.
	Why string
}

// Status tells how far a part of a vertex is.
type Status struct {
	ID             string // names the part
	Action         string // "Downloading", "transferring context"
	Current, Total int64  // bytes; Total 0: not known
	Done           bool
}

// Sink is told what happens. It is called by one goroutine at a time.
type Sink interface{ Event(Event) }
