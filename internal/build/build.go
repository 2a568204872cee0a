// Package build makes images: it has a front end turn what is asked into a graph (package graph), has the graph solved
// (package solve), and makes of the result what is wanted of it: an image with names, an archive, a folder.
//
// Who asks is behind interfaces. A [Client] gives folders, secrets and agents when the graph asks for them, whether it sent
// an archive with its request or talks through a session; a [Sink] is told what happens, and shows it as Docker's classic builder
// does, as lines or as a picture that moves.
package build

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build/graph"
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

// Request is one build. As JSON it is what a session begins with.
type Request struct {
	ID     string // names the build for Cancel; may be empty
	Client Client `json:"-"`
	// Dockerfile is the file's content; nil reads File from the client's folder "dockerfile", or "context" where it has none.
	Dockerfile []byte
	// File is the Dockerfile's path in its folder, for reading and for messages; "" is Dockerfile.
	File   string
	Target string // stage; "" is the last
	// Args are the build arguments. A nil value is one that the client's environment does not have.
	Args          map[string]*string
	Labels        map[string]string
	NoCache       bool
	NoCacheFilter []string // stages
	Pull          bool     // ask the registry even for images that are here
	Platforms     []ocispec.Platform
	// Ignore are the patterns of .dockerignore, for the check that finds a COPY of what they leave out.
	Ignore []string
	// Contexts are --build-context: name to "local:" and a folder of the client's, docker-image://, oci-layout:// or an address.
	Contexts map[string]string
	// Remote is an address, of git or http, that is the context instead of a folder of the client's.
	Remote string

	Network      string // of RUN: "", "default", "none", "host"
	ExtraHosts   []string
	Ulimits      []graph.Ulimit
	ShmSize      int64 // bytes
	CgroupParent string
	Resources    graph.Resources
	// Check asks for the front end's checks alone: nothing is solved, and Built is empty.
	Check       bool
	Insecure    bool // RUN --security=insecure and --network=host are allowed
	HostNetwork bool // RUN --network=host is
	Epoch       *time.Time

	Outputs []Output
	Sink    Sink `json:"-"` // may be nil
	// Access is what the client knows of an image's registry; nil: nothing.
	Access func(ref string) remote.Access `json:"-"`
	// Classic has the history and some details as Docker's classic builder has them, see dockerfile.Options.
	Classic bool `json:"-"`
}

// Output is one thing to make of the result.
type Output struct {
	// Type is "image" (into the engine's images), "local" (a tar stream of the files, for a folder of the client's), "tar" (the
	// same), "docker" or "oci" (an image archive).
	Type  string
	Names []string  // of an image, "repository[:tag]"
	To    io.Writer `json:"-"` // where an archive goes
}

// Built is what came of a build.
type Built struct {
	Image    digest.Digest // ID of the image, its config's digest; "" where none was wanted
	Manifest digest.Digest
	Names    []string // in full
	Config   []byte
}

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

// Status tells how far a part of a vertex is.
type Status struct {
	ID             string // names the part
	Action         string // "Downloading", "transferring context"
	Current, Total int64  // bytes; Total 0: not known
	Done           bool
}

// Sink is told what happens. It is called by one goroutine at a time.
type Sink interface{ Event(Event) }
