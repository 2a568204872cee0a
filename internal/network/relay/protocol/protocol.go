// Package protocol is what the engine and the relay say to each other: JSON Requests and Replies with file descriptors, as
// package message carries them, over a unix socket below the exec-root. A connection carries requests in order, each
// answered once. Peers are checked by SO_PEERCRED: only the relay's own uid may speak.
//
// The package is linked into the relay, and so imports nothing big.
package protocol

import "net/netip"

// Version is the one spoken; the relay accepts it and the one before.
const Version = 1

// SocketName is the name of the relay's socket in the exec-root, LockName that of the file whose lock says whose the socket is.
const (
	SocketName = "relay.sock"
	LockName   = "relay.lock"
)

// Ops of a Request.
const (
	OpHello   = "hello"   // → Hello
	OpPut     = "put"     // Sandbox, fds FdUDP and FdTCP or none: make it, or make it know this from now on
	OpHold    = "hold"    // ID, Ports, one fd for each or none: hold them for the sandbox, or lead them elsewhere
	OpDrop    = "drop"    // ID: forget the sandbox, close all that is held for it; one that is not known is no error
	OpList    = "list"    // → Held
	OpFds     = "fds"     // ID, From → duplicates of the sandbox's sockets from number From on, as many as go into a message
	OpUpgrade = "upgrade" // Build, fd FdProgram: the relay execs itself; there is an answer only if it could not
	OpQuit    = "quit"    // end, if nothing is held
)

// Names of fds in FdNames.
const (
	FdUDP     = "udp"     // the name server's sockets in a sandbox
	FdTCP     = "tcp"     //
	FdPort    = "port"    // a published port's
	FdProgram = "program" // OpUpgrade
)

// Request is one message from the engine.
type Request struct {
	Version int      `json:"v"`
	Op      string   `json:"op"`
	ID      string   `json:"id,omitempty"`
	Sandbox *Sandbox `json:"sandbox,omitempty"`
	Ports   []Port   `json:"ports,omitempty"`
	From    int      `json:"from,omitempty"`
	Build   string   `json:"build,omitempty"`
	FdNames []string `json:"fds,omitempty"`
}

// Reply is one message back.
type Reply struct {
	Error   string   `json:"error,omitempty"`
	Hello   *Hello   `json:"hello,omitempty"`
	Held    []Held   `json:"held,omitempty"`
	FdNames []string `json:"fds,omitempty"`
}

// Hello tells who answers.
type Hello struct {
	Protocol int    `json:"protocol"`
	Build    string `json:"build"` // digest of the running program, to know whether an upgrade is due
	Pid      int    `json:"pid"`
}

// Sandbox is a network namespace and what may be known in it.
type Sandbox struct {
	ID       string           `json:"id"` // of the container that it was made for
	Networks []Network        `json:"networks,omitempty"`
	Upstream []netip.AddrPort `json:"upstream,omitempty"` // name servers of other names, asked from the host's namespace
}

// Network is a sandbox's place on a network: what others on it know it by, and so what it may know of them.
type Network struct {
	ID    string            `json:"id"`
	Name  string            `json:"name"` // may be put behind names
	V4    netip.Addr        `json:"v4,omitzero"`
	V6    netip.Addr        `json:"v6,omitzero"`
	Names []string          `json:"names,omitempty"` // the first is the answer to who has the address
	Links map[string]string `json:"links,omitempty"` // names that only this sandbox has for others, by theirs
}

// Port is a published port of the host, whose socket the relay holds.
type Port struct {
	Proto string         `json:"proto"`
	Host  netip.AddrPort `json:"host"`
	// Target is where the relay leads what comes to the socket; without one the socket keeps the port from others, no more.
	Target netip.AddrPort `json:"target,omitzero"`
	// Keep: connections to the target wear the client's address. Not those of clients Near: the target would answer them directly.
	Keep bool           `json:"keep,omitempty"`
	Near []netip.Prefix `json:"near,omitempty"`
}

// Held is what the relay holds for a sandbox.
type Held struct {
	Sandbox
	Resolver bool   `json:"resolver,omitempty"` // it has the name server's sockets
	Ports    []Port `json:"ports,omitempty"`
}
