// Package server is the supervisor: the one small process that is the parent of all containers, and outlives
// the engine. It forks, reaps, and moves output from pipes and ptys to log files and attached readers. It
// decides nothing: the engine sends finished specs (package protocol), and fetches exits.
//
// Nothing of a process's output is lost when either of the two is killed: the engine holds duplicates of
// the fds, and what has been done with each stream is in a memory that both hold (state.go). So the next supervisor
// goes on at the very byte. An upgrade is an execve(2) of itself, with all fds (upgrade.go).
package server

import (
	"errors"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/component"
	"gantry/internal/runtime/supervisor/protocol"
)

// Config says how to serve.
type Config struct {
	component.Conf
	Init int // fd of init's program
}

// InitFlag tells on the command line where init's program is.
const InitFlag = "-init"

// Server is the running supervisor.
type Server struct {
	conf  Config
	poll  *poller
	state *state

	// gate is held for reading by whatever touches a process, for writing by an upgrade.
	gate sync.RWMutex

	spaces chan *workspace

	lateMu sync.Mutex
	late   map[time.Duration][]*pollee

	mu       sync.Mutex
	procs    map[string]*process
	ghosts   map[*process]struct{}    // forgotten, but not read to the end
	dropping map[string]chan struct{} // by ID: mount namespaces on their way out
	watchers map[*conn]struct{}
	conns    map[*conn]struct{}
	listener int
	null     int         // /dev/null
	kept     []savedConn // connections of the program before, until they are served again
	lock     int         // of the file that says whose the socket is

	ending atomic.Bool // SIGTERM has come

	reapMu    sync.Mutex
	children  map[int]*process // by pid
	upgrading bool             // no launch may begin
	launching int              // launches whose pid may not be known yet
	orphans   map[int]unix.WaitStatus
}

const pumpers = 3 // threads that move output: one may wait for a disk

// Run serves until OpQuit, which ends the process; it returns only to say why it cannot serve.
func Run(conf Config) error {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)                                                      // no container process may look into this one
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("gantry-supervis\x00")[0])), 0, 0, 0) // else "64", the number of the fd that was executed
	unix.Umask(0o022)                                                                                 // what containers begin with, whatever the engine was started with
	s := &Server{
		conf:     conf,
		spaces:   make(chan *workspace, pumpers+1),
		late:     make(map[time.Duration][]*pollee),
		procs:    make(map[string]*process),
		ghosts:   make(map[*process]struct{}),
		dropping: make(map[string]chan struct{}),
		watchers: make(map[*conn]struct{}),
		conns:    make(map[*conn]struct{}),
		children: make(map[int]*process),
		orphans:  make(map[int]unix.WaitStatus),
		listener: -1,
	}
	var err error
	if s.poll, err = newPoller(); err != nil {
		return err
	}
	// Where init's program is must not be in the way of the fds that a child gets.
	if fd, err := unix.FcntlInt(uintptr(conf.Init), unix.F_DUPFD_CLOEXEC, 64); err == nil {
		unix.Close(conf.Init)
		s.conf.Init = fd
	} else {
		return errors.New("no init program: " + err.Error())
	}
	if s.null, err = unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	reap := s.reaper()
	if conf.State >= 0 {
		err = s.restore(conf.State)
	} else {
		if err = s.begin(); err == nil {
			s.state, err = newState(-1)
		}
	}
	if err != nil {
		return err
	}
	s.loadExits()
	if conf.Ready >= 0 {
		unix.Close(conf.Ready)
	}
	s.resumeConns()
	go s.endOnSignal()
	go reap() // after that: the watchers must be told
	for range pumpers {
		go s.poll.run(&s.gate)
	}
	return s.accept()
}

// begin makes the socket, and the folder for exits.
func (s *Server) begin() (err error) {
	if s.listener, s.lock, err = component.Listen(s.conf.Dir, protocol.SocketName, protocol.LockName); err != nil {
		return err
	}
	if err := os.Mkdir(s.conf.Dir+"/"+protocol.ExitsName, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	return nil
}

// endOnSignal makes SIGTERM mean: end when nothing runs any more. A machine that goes down sends it to all processes, and
// the containers' ends are still to be told; but a kill by mistake ends no container's logging. They are caught, not ignored, for
// that would be inherited.
func (s *Server) endOnSignal() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	for sig := range ch {
		if sig == unix.SIGTERM {
			s.ending.Store(true)
			s.endIfIdle()
		}
	}
}

func (s *Server) endIfIdle() {
	if s.ending.Load() && s.quit() == nil {
		os.Exit(0)
	}
}

// complain tells of what nobody asked for and nobody waits for.
func (s *Server) complain(what string, err error) {
	os.Stderr.WriteString("supervisor: " + what + ": " + err.Error() + "\n")
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }

// coded is an error with a protocol code.
type coded struct{ code, text string }

func (e *coded) Error() string { return e.text }

func invalid(text string) error  { return &coded{protocol.CodeInvalid, text} }
func conflict(text string) error { return &coded{protocol.CodeConflict, text} }
func noProcess(id string) error  { return &coded{protocol.CodeNotFound, "no process " + id} }
