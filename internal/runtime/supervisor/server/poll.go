package server

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for all fds of all processes with a few threads. A process has no goroutine and no buffer of its own.
type poller struct {
	fd int

	mu   sync.Mutex
	all  map[int32]*pollee
	last int32
}

// pollee is an fd that is waited for. Each event disarms it, until arm.
type pollee struct {
	fd    int
	key   int32 // never used twice, so that a late event of a closed fd meets nobody
	ready func(events uint32)
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &poller{fd: fd, all: make(map[int32]*pollee)}, nil
}

// add makes a pollee, not armed.
func (p *poller) add(fd int, ready func(events uint32)) *pollee {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		p.last++
		if _, ok := p.all[p.last]; !ok {
			break
		}
	}
	e := &pollee{fd: fd, key: p.last, ready: ready}
	p.all[e.key] = e
	// Nothing but ONESHOT is asked for, yet a hang-up is always reported: it is added when it is armed.
	return e
}

// arm waits for one event.
func (p *poller) arm(e *pollee, events uint32) {
	ev := unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: e.key}
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, e.fd, &ev); err == unix.ENOENT {
		unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, e.fd, &ev)
	}
}

// remove must be called before the fd is closed: a duplicate held elsewhere would keep it in the kernel's list.
func (p *poller) remove(e *pollee) {
	p.mu.Lock()
	delete(p.all, e.key)
	p.mu.Unlock()
	unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, e.fd, nil)
}

// run serves events; several goroutines do.
func (p *poller) run(gate *sync.RWMutex) {
	var events [16]unix.EpollEvent
	for {
		// One thread takes few, so that the others help when there are many.
		n, err := unix.EpollWait(p.fd, events[:], -1)
		if err != nil && err != unix.EINTR {
			panic("epoll_wait: " + err.Error())
		}
		for i := range max(n, 0) {
			p.mu.Lock()
			e := p.all[events[i].Fd]
			p.mu.Unlock()
			if e != nil {
				gate.RLock()
				e.ready(events[i].Events)
				gate.RUnlock()
			}
		}
	}
}

// later arms a pollee after a while. Those of one kind of delay wait together for one timer.
func (s *Server) later(e *pollee, delay time.Duration) {
	s.lateMu.Lock()
	defer s.lateMu.Unlock()
	waiting := s.late[delay]
	s.late[delay] = append(waiting, e)
	if len(waiting) > 0 {
		return
	}
	time.AfterFunc(delay, func() {
		s.lateMu.Lock()
		list := s.late[delay]
		delete(s.late, delay)
		s.lateMu.Unlock()
		for _, e := range list {
			s.poll.mu.Lock()
			if s.poll.all[e.key] == e { // under the lock: remove, and a close behind it, come before or after
				s.poll.arm(e, unix.EPOLLIN)
			}
			s.poll.mu.Unlock()
		}
	})
}

// workspace is what moving output takes. There are as many as threads that do.
type workspace struct {
	in   []byte // an unfinished line and a piece
	out  []byte // records
	pipe [2]int // where peeked bytes pass
}

func (s *Server) workspace() *workspace {
	select {
	case w := <-s.spaces:
		return w
	default:
	}
	w := &workspace{in: make([]byte, carrySize+peekSize), out: make([]byte, 0, 16<<10)}
	if err := unix.Pipe2(w.pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		// Without fds nothing can be moved: those that are in use come back.
		return <-s.spaces
	}
	return w
}

func (s *Server) release(w *workspace) {
	if cap(w.out) > 512<<10 {
		w.out = nil
	}
	select {
	case s.spaces <- w:
	default:
		unix.Close(w.pipe[0])
		unix.Close(w.pipe[1])
	}
}
