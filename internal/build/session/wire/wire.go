// Package wire is what a build and the command line that asked for it say to each other: over one connection, which is taken
// over from an HTTP/1.1 request, and ends the build when it ends.
//
// Both ends have many streams on it (Conn). The engine opens them: what the graph asks for, it asks of the command line, by what
// the stream begins with (Ask), and the answer begins with whether it can be given (Answer):
//
//	folder   the digest of a selection's list of names (List); then, if the engine asks for it by one byte, the list
//	files    contents: the engine sends numbers of names in a list, varints, and gets each content behind its length
//	secret   a secret's content
//	agent    a connection to an SSH agent, both ways
//	output   takes in the archive of the request's output Number
//	events   takes in what happens, a line of JSON each (Event), the last of which says how it ended
//
// So a folder that is as it was costs its digest; and a file's content travels only if a step needs it that is not known yet, and if
// the engine has no file of that digest from another build.
//
// The package is part of the front, which starts at every command: it links nothing heavy.
package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// Path is where the API takes a session in: the request's body is a Request as JSON, the reply 101.
const Path = "/gantry/build"

// Bounds of what is believed of the other end, in bytes.
const (
	MaxRequest = 16 << 20 // the request's body: a Dockerfile and some names
	maxAsk     = 1 << 20
	maxText    = 64 << 10 // an error
)

// Request is one build, as it is asked for.
type Request struct {
	ID string // names the build for its cancellation; may be empty
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
	Debug       bool // an image of the state before the step that fails is wanted: Built.Debug
	Insecure    bool // RUN --security=insecure and --network=host are allowed
	HostNetwork bool // RUN --network=host is
	Epoch       *time.Time

	Outputs []Output
	// CacheFrom are caches elsewhere that may be used, CacheTo where this build's goes besides the engine's own.
	CacheFrom []CacheFrom
	CacheTo   []CacheTo
}

// Output is one thing to make of the result.
type Output struct {
	// Type is "image" (into the engine's images), "local" (a tar stream of the files, for a folder of the client's), "tar" (the
	// same), "docker" or "oci" (an image archive).
	Type  string
	Names []string  // of an image, "repository[:tag]"
	To    io.Writer `json:"-"` // where an archive goes, in the engine
}

// CacheFrom is a cache elsewhere.
type CacheFrom struct {
	Type     string // "registry": also an image with the cache in it; "local": an OCI layout
	Ref      string // of a registry
	Insecure bool
	Here     bool   // only an image that is here
	Folder   string // the client's, of a layout
	Tag      string // in the layout
	Digest   digest.Digest
}

// CacheOutput is the number of the first of a request's CacheTo among the outputs that a client takes in.
const CacheOutput = 1000

// CacheTo is where a build's cache goes.
type CacheTo struct {
	Type        string // "inline": into the image; "registry"; "local": a tar stream of an OCI layout
	Ref         string // of a registry
	Insecure    bool
	Tag         string // in the layout
	All         bool   // also the steps whose layers the result does not have
	Index       bool   // the manifest is an index instead of an image's
	IgnoreError bool
	To          io.Writer `json:"-"` // where a layout goes, in the engine
}

// Built is what came of a build.
type Built struct {
	Image    digest.Digest // ID of the image, its config's digest; "" where none was wanted
	Manifest digest.Digest
	Names    []string // in full
	Config   []byte
	Debug    digest.Digest // of a build that failed: an image of the state before the step, to be removed by whoever asked for it
}

// Status tells how far a part of a vertex is.
type Status struct {
	ID             string // names the part
	Action         string // "Downloading", "transferring context"
	Current, Total int64  // bytes; Total 0: not known
	Done           bool
}

// Event is a build.Event as JSON. Vertices are known by their digests, from the event "planned" on.
type Event struct {
	Kind      string        `json:"kind"`
	Time      time.Time     `json:"time"`
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Error     string        `json:"error,omitempty"`
	Stream    int           `json:"stream,omitempty"`
	Data      []byte        `json:"data,omitempty"`
	Status    *Status       `json:"status,omitempty"`
	Container string        `json:"container,omitempty"`
	Text      string        `json:"text,omitempty"`
	Why       string        `json:"why,omitempty"`

	// Of "planned".
	Vertices []Vertex        `json:"vertices,omitempty"`
	Warnings []graph.Warning `json:"warnings,omitempty"`

	// Of "ended".
	Built *Built `json:"built,omitempty"`
	Code  int    `json:"code,omitempty"` // exit status of the program that failed
	// Source are the lines of the Dockerfile that the error is about, where no vertex tells them: it could not be understood.
	Source []graph.Range `json:"source,omitempty"`
}

// Vertex is what a command line shows of a vertex.
type Vertex struct {
	Digest   digest.Digest   `json:"digest"`
	Name     string          `json:"name"`
	Stage    string          `json:"stage,omitempty"`
	Command  string          `json:"command,omitempty"`
	Source   []graph.Range   `json:"source,omitempty"`
	Internal bool            `json:"internal,omitempty"`
	Inputs   []digest.Digest `json:"inputs,omitempty"`
}

// Ended is the kind of the last event.
const Ended = "ended"

// Ask is what a stream begins with.
type Ask struct {
	Kind   string // "folder", "files", "secret", "agent", "output", "events"
	Name   string `json:",omitempty"` // of a folder, a secret, an agent
	Number int    `json:",omitempty"` // of an output
	// Which part of a folder is wanted, see graph.Local.
	Include, Exclude, Follow []string `json:",omitempty"`
	List                     string   `json:",omitempty"` // of files: their list's digest
}

// Open opens a stream with what is asked.
func (a *Ask) Open(c *Conn) (*Stream, error) {
	data, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	if len(data) > maxAsk {
		return nil, errs.Invalid.Errorf("ask the client for %s %s: the question is too long", a.Kind, a.Name)
	}
	return c.open(data)
}

// ReadAsk tells what a stream that the other end opened is for.
func ReadAsk(s *Stream) (*Ask, error) {
	var a Ask
	return &a, json.Unmarshal(s.ask, &a)
}

// What an answer begins with.
const (
	given    = 0
	missing  = 1
	withheld = 2
)

// Answer begins an answer: that it follows, or, with an error, why it does not.
func Answer(s *Stream, err error) error {
	if err == nil {
		_, err = s.Write([]byte{given})
		return err
	}
	b := []byte{withheld}
	if errs.NotFound.Is(err) {
		b[0] = missing
	}
	text := err.Error()
	if _, err := s.Write(append(b, text[:min(len(text), maxText)]...)); err != nil {
		return err
	}
	return s.CloseWrite()
}

// Await reads what an answer begins with. If it does not follow that is an error with the other end's words.
func Await(s *Stream) error {
	var b [1]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return err
	}
	if b[0] == given {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(s, maxText))
	if err != nil {
		return err
	}
	if b[0] == missing {
		return errs.NotFound.Errorf("%s", text)
	}
	return errs.Invalid.Errorf("%s", text)
}

// BadFile is, in place of a file's length, that it could not be read, or has changed on the way; a message follows in the same form.
const BadFile = ^uint64(0)

// WriteLength writes the length of what follows.
func WriteLength(w io.Writer, n uint64) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, err := w.Write(b[:])
	return err
}

// ReadLength reads the length of what follows.
func ReadLength(r io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("read a file's length: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}
