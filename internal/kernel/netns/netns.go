// Package netns makes network namespaces and works in them.
//
// A namespace lives as long as something holds it: a process in it, a socket of it, an open file of it. A new
// one is held by the file that a [Namespace] is, then by the container's process, which enters it through
// [Namespace.Path]. Nothing is mounted for it. So nothing is left behind when all who knew of it are killed: with
// the last holder the kernel takes away the namespace, and the interfaces in it with their other ends.
//
// Threads that leave the host's namespace come back before anybody else runs on them, or end.
package netns

import (
	"fmt"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/link"
)

// Namespace is an open network namespace.
type Namespace struct {
	file *os.File
	conn *link.Conn // of the namespace; may be nil
}

const own = "/proc/thread-self/ns/net"

// New makes a namespace whose loopback is up. It costs about 300 µs, most of it in the kernel's constructors of
// namespaces; whoever wants them faster keeps some ready.
func New() (*Namespace, error) {
	var n *Namespace
	err := apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		if n, err = here(); err != nil {
			return err
		}
		if err := n.conn.Up("lo"); err != nil {
			n.Close()
			return fmt.Errorf("bring up loopback: %w", err)
		}
		return nil
	})
	return n, err
}

// Open opens the namespace at path, such as /proc/<pid>/ns/net.
func Open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	n := &Namespace{file: f}
	err = n.Do(func() (err error) {
		n.conn, err = link.Dial()
		return err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return n, nil
}

// Current returns the calling thread's namespace.
func Current() (*Namespace, error) { return here() }

func here() (*Namespace, error) {
	f, err := os.Open(own)
	if err != nil {
		return nil, err
	}
	conn, err := link.Dial()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Namespace{f, conn}, nil
}

// Path leads other processes of the same PID namespace here, as long as it is open.
func (n *Namespace) Path() string {
	return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(n.file.Fd()))
}

// Fd returns the descriptor, which stays the Namespace's.
func (n *Namespace) Fd() int { return int(n.file.Fd()) }

// Links speaks to the namespace's interfaces, from any thread.
func (n *Namespace) Links() *link.Conn { return n.conn }

// Do runs fn on a thread inside the namespace. What fn starts elsewhere is not inside.
func (n *Namespace) Do(fn func() error) error {
	return apart(func() error {
		if err := unix.Setns(n.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace: %w", err)
		}
		return fn()
	})
}

// Close lets go of the namespace.
func (n *Namespace) Close() error {
	if n.conn != nil {
		n.conn.Close()
	}
	return n.file.Close()
}

// apart runs fn on a thread that stands in the caller's namespace and comes back to it. One that cannot be brought back
// ends: a locked goroutine that returns takes its thread along. (A caller that has locked its thread in another
// namespace than the process's, as tests do, gets its goroutine's own thread back in the process's.)
func apart(fn func() error) error {
	home, err := os.Open(own)
	if err != nil {
		return err
	}
	defer home.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		before, err := os.Open(own)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer before.Close()
		if err = unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err == nil {
			err = fn()
		}
		if unix.Setns(int(before.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
