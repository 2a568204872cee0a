// Package session is the engine's end of a session (package wire): a client that gives folders, secrets and agents when a build asks
// for them, and is told what happens. The command line's end is package offer.
package session

import (
	"gantry/internal/build"
	"gantry/internal/build/session/wire"
)

var kinds = map[build.EventKind]string{build.Planned: "planned", build.Started: "started", build.Cached: "cached", build.Completed: "completed",
	build.Failed: "failed", build.Logged: "logged", build.Reported: "reported", build.Running: "running", build.Exporting: "exporting"}

// FromBuild makes of an event what is sent.
func FromBuild(e build.Event) wire.Event {
	w := wire.Event{Kind: kinds[e.Kind], Time: e.Time, Stream: e.Stream, Data: e.Data, Container: e.Container, Text: e.Text, Why: e.Why}
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
			x := wire.Vertex{Digest: v.Digest(), Name: v.Meta.Name, Stage: v.Meta.Stage, Command: v.Meta.Command, Source: v.Meta.Source, Internal: v.Meta.Internal}
			for _, in := range v.Inputs {
				x.Inputs = append(x.Inputs, in.Vertex.Digest())
			}
			w.Vertices = append(w.Vertices, x)
		}
	}
	return w
}
