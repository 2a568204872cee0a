// Package container is the life of containers: create, start, stop, remove, exec, and what is known of each.
//
// A container's status is one value with one pure transition function; Docker's seven states and its
// overlapping booleans are derived from it here and nowhere else. One goroutine owns each container and
// carries out what is asked of it, step by recorded step; readers take a Snapshot and never wait.
package container

import (
	"errors"

	"gantry/internal/errs"
)

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

// Event is what can happen to a container.
type Event uint8

// The events.
const (
	Started      Event = iota // its process runs
	StartFailed               // its process could not be started
	Ended                     // its process is gone, and stays so
	EndedAgain                // its process is gone, and the restart policy will start another
	Canceled                  // the restart that was due will not be
	Froze                     // its processes are frozen
	Thawed                    // they run again
	RemoveBegun               // from here on it only goes away
	RemoveFailed              // and this time it could not
)

var eventNames = [...]string{"started", "start failed", "ended", "ended, to restart", "restart canceled", "paused", "unpaused", "removal begun", "removal failed"}

// String returns the event in words.
func (e Event) String() string { return eventNames[e] }

// transitions is the whole life of a container. What is not here cannot happen.
var transitions = map[Status]map[Event]Status{
	Created:    {Started: Running, StartFailed: Created, RemoveBegun: Removing},
	Running:    {Ended: Exited, EndedAgain: Restarting, Froze: Paused},
	Paused:     {Ended: Exited, EndedAgain: Restarting, Thawed: Running},
	Restarting: {Started: Running, StartFailed: Exited, Canceled: Exited},
	Exited:     {Started: Running, StartFailed: Exited, RemoveBegun: Removing},
	Removing:   {RemoveFailed: Dead},
	Dead:       {RemoveBegun: Removing},
}

// Next returns the status that follows s upon e. A transition that cannot be is errs.Conflict, or
// errs.NotModified when e asks for what is already so; callers put Docker's words to it where users see it.
func Next(s Status, e Event) (Status, error) {
	if n, ok := transitions[s][e]; ok {
		return n, nil
	}
	if (e == Started && s == Running) || (e == Froze && s == Paused) || (e == RemoveBegun && s == Removing) {
		return s, errs.NotModified.Errorf("container is already %s", s)
	}
	return s, errs.Conflict.Errorf("container is %s: it cannot be %s", s, e)
}

// ParseStatus is the inverse of Status.String.
func ParseStatus(s string) (Status, bool) {
	for i, n := range statusNames {
		if n == s {
			return Status(i), true
		}
	}
	return 0, false
}
