package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/fork"
)

// start starts a relay and returns when it listens. If another one holds the socket's lock, it ends at once, and start
// returns nil when that other one listens.
func start(ctx context.Context, opts *Options) error {
	program, err := opts.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	build, err := opts.Build()
	if err != nil {
		return err
	}
	cgroup, err := opts.Cgroup()
	if err != nil {
		return fmt.Errorf("make the relay's cgroup: %w", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	// Its complaints, which nobody waits for: a panic.
	complaints, err := os.OpenFile(filepath.Join(opts.Dir, "relay.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
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
	exe, err := unix.FcntlInt(program.Fd(), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	defer unix.Close(exe)
	var pid int
	// It connects to containers and asks name servers from the host's namespace, and is born there.
	err = opts.Host.Do(func() (err error) {
		pid, err = fork.Start(exe, []string{"gantry-relay", "-exec-root", opts.Dir, "-build", build},
			&syscall.ProcAttr{
				Dir:   "/",
				Env:   []string{},
				Files: []uintptr{null.Fd(), null.Fd(), complaints.Fd(), w.Fd()},
				Sys:   &syscall.SysProcAttr{Setsid: true},
			}, &cgroup)
		return err
	})
	if err != nil {
		return fmt.Errorf("start the relay: %w", err)
	}
	w.Close()
	go func() { // it outlives this process, but must not be left a zombie where it does not
		if p, err := os.FindProcess(pid); err == nil {
			p.Wait()
		}
	}()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	r.SetReadDeadline(deadline)
	msg, err := io.ReadAll(io.LimitReader(r, 4096))
	if err == nil && len(msg) > 0 {
		err = errors.New(string(msg))
	}
	if err != nil {
		return fmt.Errorf("start the relay: %w", err)
	}
	return nil
}
