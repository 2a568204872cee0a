// Package session is how a build and the command line that asked for it talk: over one connection, which is taken over
// from an HTTP/1.1 request, speaks HTTP/2 from then on, and ends the build when it ends.
//
// The engine is the client on it. What the graph asks for, it asks of the command line, which serves:
//
//	POST /folder/{name}         a selection's names with their digests, a line of JSON each (Entry)
//	POST /files/{name}          the contents of the files whose paths are sent as JSON, in that order, each behind its length
//	GET  /secret/{id}           a secret's content
//	POST /agent/{id}            a connection to an SSH agent, both ways
//	POST /output/{n}            takes in the archive of the request's output n
//	POST /events                takes in what happens, a line of JSON each (Event), the last of which says how it ended
//
// So a file's content travels only if a step needs it that is not known yet, and if the engine has no file of that digest
// from another build (Files).
package session

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build"
	"gantry/internal/build/graph"
	"gantry/internal/build/source"
	"gantry/internal/layer"
)

// Path is where the API takes a session in: the request's body is a build.Request as JSON, the reply 101.
const Path = "/gantry/build"

// MaxRequest bounds the request's body, in bytes: a Dockerfile and some names.
const MaxRequest = 16 << 20

// Bounds of what a client may send: names of a folder, and bytes of one line.
const (
	maxEntries = 2 << 20
	maxLine    = 1 << 20
)

// Entry is a source.Entry as JSON. Paths and links need not be UTF-8, so they are bytes.
type Entry struct {
	Path   []byte            `json:"p"`
	Mode   uint32            `json:"m"`
	UID    uint32            `json:"u,omitempty"`
	GID    uint32            `json:"g,omitempty"`
	Size   int64             `json:"s,omitempty"`
	Rdev   uint64            `json:"r,omitempty"`
	Mtime  int64             `json:"t,omitempty"` // nanoseconds since 1970
	Link   []byte            `json:"l,omitempty"`
	Xattrs map[string][]byte `json:"x,omitempty"`
	Inode  [2]uint64         `json:"i,omitzero"`
	Digest digest.Digest     `json:"d,omitempty"`
	Error  string            `json:"error,omitempty"` // instead of all else: the list ends here
}

func toWire(e *source.Entry) Entry {
	w := Entry{Path: []byte(e.Path), Mode: e.Mode, UID: e.UID, GID: e.GID, Size: e.Size, Rdev: e.Rdev, Mtime: e.Mtime.UnixNano(),
		Link: []byte(e.Link), Inode: e.Inode, Digest: e.Digest}
	if len(e.Xattrs) > 0 {
		w.Xattrs = make(map[string][]byte, len(e.Xattrs))
		for k, v := range e.Xattrs {
			w.Xattrs[k] = []byte(v)
		}
	}
	return w
}

func (w *Entry) entry() source.Entry {
	e := source.Entry{Path: string(w.Path), Digest: w.Digest, Node: layer.Node{Mode: w.Mode, UID: w.UID, GID: w.GID, Size: w.Size, Rdev: w.Rdev,
		Mtime: time.Unix(0, w.Mtime), Link: string(w.Link), Inode: w.Inode}}
	if len(w.Xattrs) > 0 {
		e.Xattrs = make(map[string]string, len(w.Xattrs))
		for k, v := range w.Xattrs {
			e.Xattrs[k] = string(v)
		}
	}
	return e
}

// Event is a build.Event as JSON. Vertices are known by their digests, from the event "planned" on.
type Event struct {
	Kind      string        `json:"kind"`
	Time      time.Time     `json:"time"`
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Error     string        `json:"error,omitempty"`
	Stream    int           `json:"stream,omitempty"`
	Data      []byte        `json:"data,omitempty"`
	Status    *build.Status `json:"status,omitempty"`
	Container string        `json:"container,omitempty"`
	Text      string        `json:"text,omitempty"`
	Why       string        `json:"why,omitempty"`

	// Of "planned".
	Vertices []Vertex        `json:"vertices,omitempty"`
	Warnings []graph.Warning `json:"warnings,omitempty"`

	// Of "ended".
	Built *build.Built `json:"built,omitempty"`
	Code  int          `json:"code,omitempty"` // exit status of the program that failed
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

var kinds = map[build.EventKind]string{build.Planned: "planned", build.Started: "started", build.Cached: "cached", build.Completed: "completed",
	build.Failed: "failed", build.Logged: "logged", build.Reported: "reported", build.Running: "running", build.Exporting: "exporting"}

// FromBuild makes of an event what is sent.
func FromBuild(e build.Event) Event {
	w := Event{Kind: kinds[e.Kind], Time: e.Time, Stream: e.Stream, Data: e.Data, Container: e.Container, Text: e.Text, Why: e.Why}
	if e.Vertex != nil {
		w.Vertex = e.Vertex.Digest()
	}
	if e.Err != nil {
		w.Error = e.Err.Error()
	}
	if e.Kind == build.Reported {
		w.Status = &e.Status
	}
	if e.Kind == build.Planned && e.Result != nil {
		w.Warnings = e.Result.Warnings
		for _, v := range e.Result.Graph.Vertices {
			x := Vertex{Digest: v.Digest(), Name: v.Meta.Name, Stage: v.Meta.Stage, Command: v.Meta.Command, Source: v.Meta.Source, Internal: v.Meta.Internal}
			for _, in := range v.Inputs {
				x.Inputs = append(x.Inputs, in.Vertex.Digest())
			}
			w.Vertices = append(w.Vertices, x)
		}
	}
	return w
}

// A file travels as its length and its content. A file that could not be read, or changed on the way, has the length
// badFile and a message in the same form.
const badFile = ^uint64(0)

func writeLength(w io.Writer, n uint64) error {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, err := w.Write(b[:])
	return err
}

func readLength(r io.Reader) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, fmt.Errorf("read a file's length: %w", err)
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

func at(kind, name string) string { return "http://client/" + kind + "/" + url.PathEscape(name) }
