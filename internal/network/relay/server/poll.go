package server

import (
	"sync"

	"golang.org/x/sys/unix"
)

// poller tells of sockets that are ready, on one thread. All that a sandbox at rest costs is its sockets and an entry here; a
// goroutine waiting at each socket would cost a stack.
type poller struct {
	fd int
	mu *sync.Mutex // of what the handlers touch; held while they run

	next     uint64
	handlers map[uint64]func(events uint32)
	again    map[uint64]func(events uint32) // those that stopped before they were through
}

func newPoller(mu *sync.Mutex) (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &poller{fd: fd, mu: mu, handlers: make(map[uint64]func(uint32)), again: make(map[uint64]func(uint32))}, nil
}

// add has f called when fd is ready. Events carry a number of their own, not the fd's, so that what is on its way for a
// socket that is closed meanwhile reaches nobody. p.mu is held.
func (p *poller) add(fd int, events uint32, f func(uint32)) (token uint64, err error) {
	p.next++
	token = p.next
	if err := unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, event(token, events)); err != nil {
		return 0, err
	}
	p.handlers[token] = f
	return token, nil
}

func event(token uint64, events uint32) *unix.EpollEvent {
	return &unix.EpollEvent{Events: events, Fd: int32(token), Pad: int32(token >> 32)}
}

// change changes which events are waited for. p.mu is held.
func (p *poller) change(token uint64, fd int, events uint32) {
	unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, event(token, events))
}

// remove ends what add began; the fd is still open, for duplicates elsewhere would keep it here. p.mu is held.
func (p *poller) remove(token uint64, fd int) {
	if _, ok := p.handlers[token]; ok {
		unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil)
		delete(p.handlers, token)
		delete(p.again, token)
	}
}

// repeat has the handler called again after the others had their turn. p.mu is held.
func (p *poller) repeat(token uint64) { p.again[token] = p.handlers[token] }

func (p *poller) run() {
	events := make([]unix.EpollEvent, 64)
	for {
		wait := -1
		p.mu.Lock()
		if len(p.again) > 0 {
			wait = 0
		}
		p.mu.Unlock()
		n, err := unix.EpollWait(p.fd, events, wait)
		if err != nil {
			n = 0 // EINTR
		}
		p.mu.Lock()
		again := p.again
		if len(again) > 0 {
			p.again = make(map[uint64]func(uint32))
		}
		for i := range events[:n] {
			token := uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32
			delete(again, token)
			if f := p.handlers[token]; f != nil {
				f(events[i].Events)
			}
		}
		for token := range again {
			if f := p.handlers[token]; f != nil {
				f(0)
			}
		}
		p.mu.Unlock()
	}
}
