// Package server is the relay: the small process that outlives the engine and holds sockets which must not close with it.
// Those are of three kinds: name servers inside containers' network namespaces, published ports that no rule can lead to a
// container (from ::1, and IPv6 to containers that have none), and the sockets that keep published ports from other
// programs. It decides nothing: the engine makes the sockets and says who has which name (package protocol).
//
// Both hold all of the sockets. So either may be killed: the next relay gets them from the engine, the next engine from the
// relay, and what came meanwhile waits in them. An upgrade is an execve(2) of itself, with all sockets and the connections
// that go through it (upgrade.go).
//
// Control, names, and the acceptance of connections happen on one thread under one lock, relayed bytes on another.
package server

import (
	"errors"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/network/dns"
	"gantry/internal/network/relay/protocol"
)

// Config says how to serve.
type Config struct {
	Dir   string // the exec-root
	Build string
	Ready int // fd to close when the socket listens, or to write to why it does not
	State int // after an upgrade: the fd of what the program before left; else -1
}

// Server is the running relay.
type Server struct {
	conf     Config
	listener int
	lock     int // of the file that says whose the socket is
	forward  *dns.Forwarder

	mu       sync.Mutex
	poll     *poller
	boxes    map[string]*sandbox
	table    *table
	underWay int // questions and connections of all resolvers
	sweeping bool
	ending   bool
	buf      [65536]byte
	oob      [256]byte

	flowMu  sync.Mutex // may be taken under mu
	flow    *poller
	streams map[*stream]struct{}
}

// sandbox is what is held for one. The server's lock guards it.
type sandbox struct {
	rec      protocol.Sandbox
	resolver *resolver
	ports    []*port
}

func (b *sandbox) port(p protocol.Port) int {
	for i, x := range b.ports {
		if x.info.Proto == p.Proto && x.info.Host == p.Host {
			return i
		}
	}
	return -1
}

// Run serves until OpQuit, which ends the process; it returns only to say why it cannot serve.
func Run(conf Config) error {
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no container process may look into this one
	unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&[]byte("gantry-relay\x00")[0])), 0, 0, 0)
	s := &Server{conf: conf, forward: dns.NewForwarder(), boxes: make(map[string]*sandbox), table: newTable(), streams: make(map[*stream]struct{})}
	var err error
	if s.poll, err = newPoller(&s.mu); err != nil {
		return err
	}
	if s.flow, err = newPoller(&s.flowMu); err != nil {
		return err
	}
	if conf.State >= 0 {
		err = s.restore(conf.State)
	} else {
		err = s.listen()
	}
	if err != nil {
		return err
	}
	if conf.Ready >= 0 {
		unix.Close(conf.Ready)
	}
	go s.endOnSignal()
	go s.poll.run()
	go s.flow.run()
	return s.accept()
}

// errTaken: another relay has this exec-root. That is no failure for who wanted one.
var errTaken = errors.New("another relay runs")

// Taken tells whether Run's error means that another relay serves the exec-root already.
func Taken(err error) bool { return err == errTaken }

// listen makes the socket. A lock on a file beside it says whose it is: one left by a relay that was killed is replaced.
func (s *Server) listen() (err error) {
	path := s.conf.Dir + "/" + protocol.LockName
	if s.lock, err = unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for unix.Flock(s.lock, unix.LOCK_EX|unix.LOCK_NB) != nil {
		if c, err := message.Dial(s.conf.Dir, protocol.SocketName); err == nil {
			c.Close()
			return errTaken
		}
		time.Sleep(time.Millisecond) // one that was killed holds it until its last thread is gone; or it is just starting
	}
	s.listener, err = message.Listen(s.conf.Dir, protocol.SocketName)
	return err
}

// accept serves connections until quit.
func (s *Server) accept() error {
	f := os.NewFile(uintptr(s.listener), "listener")
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var fd int
		var aerr error
		err := raw.Read(func(l uintptr) bool {
			fd, _, aerr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return aerr != unix.EAGAIN
		})
		switch {
		case err != nil:
			return err
		case aerr == unix.EMFILE || aerr == unix.ENFILE:
			time.Sleep(10 * time.Millisecond) // it stays in the queue
			continue
		case aerr != nil:
			continue
		}
		// The socket's mode says the same; this holds also where somebody changed that.
		if cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil || int(cred.Uid) != os.Geteuid() {
			unix.Close(fd)
			continue
		}
		if c, err := message.New(fd); err == nil {
			go s.serve(c)
		}
	}
}

// endOnSignal makes SIGTERM mean: end when nothing is held any more. A machine that goes down sends it to all processes; a
// kill by mistake closes no container's name server.
func (s *Server) endOnSignal() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	for sig := range ch {
		if sig != syscall.SIGTERM {
			continue
		}
		s.mu.Lock()
		s.ending = true
		s.endIfIdle()
		s.mu.Unlock()
	}
}

func (s *Server) endIfIdle() {
	if s.ending && len(s.boxes) == 0 {
		os.Exit(0)
	}
}

// outOfFiles takes a listener out of sight for a moment where a connection could not be accepted for want of descriptors:
// it would be ready again at once. The server's lock is held.
func (s *Server) outOfFiles(err error, token uint64, fd int) {
	switch err {
	case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
	default:
		return
	}
	s.poll.change(token, fd, 0)
	time.AfterFunc(100*time.Millisecond, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.poll.handlers[token] != nil {
			s.poll.change(token, fd, unix.EPOLLIN)
		}
	})
}

func itoa(n int) string { return strconv.Itoa(n) }
