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
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/network/dns"
	"gantry/internal/network/relay/protocol"
	"gantry/internal/runtime/component"
)

// Server is the running relay.
type Server struct {
	conf     component.Conf
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
func Run(conf component.Conf) error {
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
		s.listener, s.lock, err = component.Listen(conf.Dir, protocol.SocketName, protocol.LockName)
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
		if !component.Trusted(fd) {
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
