// Package container is the life of containers: create, start, stop, remove, exec, and what is known of each.
//
// A container's status is one value with one pure transition function; Docker's seven states and its
// overlapping booleans are derived from it here and nowhere else. One goroutine owns each container and
// carries out what is asked of it, step by recorded step; readers take a Snapshot and never wait.
package container

import "errors"

// ErrDetached ends an attachment whose client typed the detach keys.
var ErrDetached = errors.New("read escape sequence")

// Status is where a container stands in its life.
type Status uint8

// The statuses. Docker knows them by the names that String returns.
const (
	Created Status = iota
	Running
	Paused
	Restarting // ended, and the restart policy will start it again
	Removing
	Exited
	Dead // removal failed; it is tried again when the engine starts
)

var statusNames = [...]string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}

// String returns Docker's name of the status.
func (s Status) String() string { return statusNames[s] }

// Alive reports whether there is a process, or will be again without anyone asking. Docker's
// State.Running is true for these.
func (s Status) Alive() bool { return s == Running || s == Paused || s == Restarting }
