package solve

import "gantry/internal/build"

// What a build talks with, see package build.
type (
	Client    = build.Client
	Event     = build.Event
	EventKind = build.EventKind
	Status    = build.Status
	Sink      = build.Sink
)

// Kinds of events, see package build.
const (
	Planned   = build.Planned
	Started   = build.Started
	Cached    = build.Cached
	Completed = build.Completed
	Failed    = build.Failed
	Logged    = build.Logged
	Reported  = build.Reported
	Running   = build.Running
	Exporting = build.Exporting
)
