// Package component is what the small processes that outlive the engine, its supervisor and its relay, have in common: how
// the engine starts one, how one reads its command line, whose the socket in the exec-root is, and how one gives way to its next
// version by execve(2) of itself, with all that it holds.
//
// Both sides are here, so it has nothing that would make a small program large: no fmt, no net, no context.
package component

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/fork"
	"gantry/internal/runtime/spec"
)

// Component is one to be started.
type Component struct {
	Name    string     // the program's: gantry-NAME is its argv[0], and DIR/NAME.log takes its complaints, a panic mostly
	Dir     string     // the exec-root
	Build   string     // of the program; who asks for an upgrade compares it
	Program *os.File   // executable
	Files   []*os.File // further fds, from 4 on; 3 says when it is ready
	Cgroup  *spec.Cgroup
	// In, if any, calls f where the component is to be born, in a network namespace for example.
	In func(f func() error) error
}

// Start starts it and returns when it listens. If another one holds the socket's lock, it ends at once, and Start returns nil
// when that other one listens.
func (c *Component) Start(deadline time.Time) error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	complaints, err := os.OpenFile(c.Dir+"/"+c.Name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer complaints.Close()
	r, w, err := os.Pipe() // its end of file says: listening; anything read from it says why not
	if err != nil {
		return err
	}
	defer r.Close()
	defer w.Close()
	// The program's own fd must not be in the way of those that the child gets.
	exe, err := unix.FcntlInt(c.Program.Fd(), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	defer unix.Close(exe)
	files := []uintptr{null.Fd(), null.Fd(), complaints.Fd(), w.Fd()}
	for _, f := range c.Files {
		files = append(files, f.Fd())
	}
	in := c.In
	if in == nil {
		in = func(f func() error) error { return f() }
	}
	var pid int
	err = in(func() (err error) {
		pid, err = fork.Start(exe, []string{argv0(c.Name), dirFlag, c.Dir, buildFlag, c.Build},
			&syscall.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}, c.Cgroup)
		return err
	})
	if err != nil {
		return err
	}
	w.Close()
	go func() { // it outlives this process, but must not be left a zombie where it does not
		if p, err := os.FindProcess(pid); err == nil {
			p.Wait()
		}
	}()
	r.SetReadDeadline(deadline)
	msg, err := io.ReadAll(io.LimitReader(r, 4096))
	if err == nil && len(msg) > 0 {
		err = errors.New(string(msg))
	}
	return err
}

// Ended waits for the end of one that has said that it will end, by its pidfd; on a busy machine that is not at once.
func Ended(pidfd int) {
	const patience = 10 * time.Second
	for end := time.Now().Add(patience); ; {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return
		}
	}
}

func argv0(name string) string { return "gantry-" + name }
