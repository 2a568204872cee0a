package peer

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watcher tells when the other end of a connection is gone altogether.
//
// Reading cannot tell: a client that closed its writing side only (`echo hi | docker run -i`) and one that died
// look the same, an end of file, and the first still waits for output. The kernel knows the difference for unix
// sockets: EPOLLHUP, unlike EPOLLRDHUP, comes when both directions are down (epoll_ctl(2)). TCP does not know it;
// there a dead client is found by the next write.
//
// It watches any number of connections with one epoll instance, which in turn waits in the
// Go runtime's: no thread is held.
type Watcher struct {
	file *os.File
	raw  syscall.RawConn

	mu   sync.Mutex
	next int32
	gone map[int32]func()
}

// New returns a watcher; Close ends it.
func New() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an epoll instance: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that os.File hands it to the runtime's poller
		unix.Close(fd)
		return nil, fmt.Errorf("make an epoll instance non-blocking: %w", err)
	}
	w := &Watcher{file: os.NewFile(uintptr(fd), "epoll"), gone: make(map[int32]func())}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil, fmt.Errorf("reach an epoll instance: %w", err)
	}
	go w.loop()
	return w, nil
}

// Watch calls gone, once, in the watcher's goroutine, when the peer of conn has hung up. stop ends the
// watch; it must be called before conn is closed, and gone may still be running when it returns. A conn
// without a descriptor (TLS) is not watched.
func (w *Watcher) Watch(conn net.Conn, gone func()) (stop func(), err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return func() {}, nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("watch a connection: %w", err)
	}
	w.mu.Lock()
	w.next++
	key := w.next
	w.gone[key] = gone
	w.mu.Unlock()
	err = w.control(raw, func(ep, fd int) error {
		// No event is asked for: EPOLLHUP and EPOLLERR come anyway. One shot, for a hang-up lasts.
		return unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: key})
	})
	if err != nil {
		w.take(key)
		return nil, fmt.Errorf("watch a connection: %w", err)
	}
	return func() {
		w.take(key)
		_ = w.control(raw, func(ep, fd int) error { return unix.EpollCtl(ep, unix.EPOLL_CTL_DEL, fd, nil) })
	}, nil
}

// control calls f with the descriptors of the epoll instance and of the connection, both held open meanwhile.
func (w *Watcher) control(raw syscall.RawConn, f func(ep, fd int) error) error {
	var inner error
	err := w.raw.Control(func(ep uintptr) {
		inner = raw.Control(func(fd uintptr) { inner = f(int(ep), int(fd)) })
	})
	if err != nil {
		return err
	}
	return inner
}

func (w *Watcher) take(key int32) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.gone[key]
	delete(w.gone, key)
	return f
}

// loop ends when the watcher is closed.
func (w *Watcher) loop() {
	var events [16]unix.EpollEvent
	for {
		n := 0
		err := w.raw.Read(func(ep uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(ep), events[:], 0)
			return err == nil && n > 0 // else wait until the instance is readable
		})
		if err != nil {
			return
		}
		for _, e := range events[:n] {
			if f := w.take(e.Fd); f != nil {
				f()
			}
		}
	}
}

// Close ends the watcher and all watches; nobody is called any more.
func (w *Watcher) Close() error {
	w.mu.Lock()
	clear(w.gone)
	w.mu.Unlock()
	return w.file.Close()
}
