// Package protocol is what the engine and the supervisor say to each other.
//
// It runs over a unix stream socket below the exec-root. A message is four bytes of length (big endian) and
// a JSON Request or Reply; file descriptors travel with its first byte as SCM_RIGHTS (unix(7)). One connection carries
// requests in order, each answered once; a connection that asked for Watch carries only Exit events
// after the answer. Peers are checked by SO_PEERCRED: only the supervisor's own uid may speak.
//
// The package is linked into the supervisor, and so imports nothing big.
package protocol

import (
	"time"

	"gantry/internal/runtime/spec"
)

// Version is the one spoken; the server accepts it and the one before. 2: OpLaunch takes a socket for the payload.
const Version = 2

// SocketName is the name of the supervisor's socket in the exec-root, LockName that of the file whose lock says whose the
// socket is, ExitsName that of the directory with one file for each process that has ended and is not forgotten.
const (
	SocketName = "supervisor.sock"
	LockName   = "supervisor.lock"
	ExitsName  = "exits"
)

// FrameHeader is the size of a frame's header on an attach socket: the stream (1 byte), flags (1), zero (2), the
// length of the data (4, big endian), and the offset of its first byte in the stream since the process began (8).
const FrameHeader = 16

// FlagEnd in a frame's flags: the stream has ended at the offset, no data follows. A socket that is closed before
// every stream asked for had its end was cut by the death of one of the two sides.
const FlagEnd = 1

// Ops of a Request.
const (
	OpHello   = "hello"   // → Reply.Hello, fd "state"
	OpLaunch  = "launch"  // Launch, Paused, fd "init" (a memfd with JSON of spec.Init or spec.Exec, or a socket by which it comes) → Process and its fds, or Failure
	OpAdopt   = "adopt"   // Process, fds as in Fds: take over a process whose supervisor died; first, without a Process, fd "state"
	OpList    = "list"    // → Processes
	OpSignal  = "signal"  // ID, Signal
	OpResize  = "resize"  // ID, Height, Width
	OpResume  = "resume"  // ID: let the streams of a Launch with Paused, or of an adopted process, flow
	OpAttach  = "attach"  // ID → one fd: a socket carrying frames (see FrameHeader)
	OpFds     = "fds"     // ID → fds of the process, named by Reply.FdNames
	OpCloseIn = "closein" // ID: close stdin's write end
	OpForget  = "forget"  // ID: the exit code has been recorded, drop it
	OpWatch   = "watch"   // → a stream of Exit; those not yet forgotten come first
	OpUpgrade = "upgrade" // fds: new program, new init; the server execs itself
	OpQuit    = "quit"    // end, if it holds no process
)

// Request is one message from the engine.
type Request struct {
	Version int          `json:"v"`
	Op      string       `json:"op"`
	ID      string       `json:"id,omitempty"`
	Launch  *spec.Launch `json:"launch,omitempty"`
	Process *Process     `json:"process,omitempty"`
	FdNames []string     `json:"fds,omitempty"`
	Signal  int          `json:"signal,omitempty"`
	Height  uint16       `json:"h,omitempty"`
	Width   uint16       `json:"w,omitempty"`
	// Attach: which streams are wanted, and from which offset of each on (stdout's, stderr's; nil: from now on).
	Stdout  bool     `json:"stdout,omitempty"`
	Stderr  bool     `json:"stderr,omitempty"`
	Offsets []uint64 `json:"offsets,omitempty"`
	Build   string   `json:"build,omitempty"` // OpUpgrade: what Hello.Build will be
	// Paused: no byte of the output is read before OpResume, so that whoever attaches first sees all of it.
	Paused bool `json:"paused,omitempty"`
}

// Reply is one message back.
type Reply struct {
	Error     string        `json:"error,omitempty"`
	Code      string        `json:"code,omitempty"` // what kind of error: one of Code…, or "" for internal
	Failure   *spec.Failure `json:"failure,omitempty"`
	Hello     *Hello        `json:"hello,omitempty"`
	Process   *Process      `json:"process,omitempty"`
	Processes []Process     `json:"processes,omitempty"`
	Exit      *Exit         `json:"exit,omitempty"`
	Offsets   []uint64      `json:"offsets,omitempty"` // OpAttach: of the first byte that will come, for stdout and stderr
	FdNames   []string      `json:"fds,omitempty"`
}

// Codes of a Reply with Error.
const (
	CodeNotFound = "not found" // no process of this ID
	CodeConflict = "conflict"  // the process has ended, or already exists; or (quit) there still is one
	CodeInvalid  = "invalid"
)

// Hello tells who answers.
type Hello struct {
	Protocol int    `json:"protocol"`
	Build    string `json:"build"` // digest of the running program and of init, to know whether an upgrade is due
	Pid      int    `json:"pid"`
}

// Process is one started process, a container's first or an exec.
type Process struct {
	ID        string     `json:"id"`
	Container string     `json:"container,omitempty"` // set for an exec
	Pid       int        `json:"pid"`
	StartTime uint64     `json:"start_time"` // clock ticks since boot, proc_pid_stat(5) field 22
	Started   time.Time  `json:"started"`
	Stdio     spec.Stdio `json:"stdio"`
	Log       spec.Log   `json:"log"`
	Slot      int        `json:"slot"`           // where in FdState its streams' progress is
	Exit      *Exit      `json:"exit,omitempty"` // nil while it runs
}

// Exit tells how a process ended.
type Exit struct {
	ID   string `json:"id"`
	Code int    `json:"code"` // 0–255; 128+n for signal n
	// Unknown: the process is gone, and nobody can tell how (its parent died and the kernel is older than
	// 6.15, which brought PIDFD_INFO_EXIT). Code is then 255.
	Unknown bool      `json:"unknown,omitempty"`
	At      time.Time `json:"at"`
	// Pid and StartTime tell which run of ID it was, as in Process; 0 where that is not known.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
}

// Streams of a Frame, as Docker numbers them.
const (
	Stdin  = 0
	Stdout = 1
	Stderr = 2
)

// Names of fds in FdNames.
const (
	FdInit    = "init"    // OpLaunch: the payload, or its socket; OpUpgrade: the new init program
	FdProgram = "program" // OpUpgrade: the new supervisor program
	FdSocket  = "socket"  // OpAttach: the socket with the frames

	FdPid    = "pid"    // pidfd
	FdStdin  = "stdin"  // write end of stdin's pipe
	FdStdout = "stdout" // read end; with a pty that of the pipe into which the supervisor moves its output
	FdStderr = "stderr" // read end
	FdPty    = "pty"    // master
	FdPtyIn  = "ptyin"  // with a pty: the write end of the pipe behind FdStdout
	FdState  = "state"  // memfd, one for all processes: what has been logged and consumed of each stream
)
