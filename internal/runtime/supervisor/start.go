package supervisor

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

// Start starts a supervisor as Options say and returns when it listens. If another one holds the socket's lock, it
// ends at once, and Start returns nil when that other one listens.
func Start(ctx context.Context, opts Options) error {
	program, err := opts.Program()
	if err != nil {
		return err
	}
	defer program.Close()
	init, err := opts.Init()
	if err != nil {
		return err
	}
	defer init.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	// Its complaints, which nobody waits for: a panic, a log that cannot be written.
	complaints, err := os.OpenFile(filepath.Join(opts.ExecRoot, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
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
	pid, err := fork.Start(exe,
		[]string{"gantry-supervisor", "-exec-root", opts.ExecRoot, "-build", opts.Build},
		&syscall.ProcAttr{
			Dir:   "/",
			Env:   []string{},
			Files: []uintptr{null.Fd(), null.Fd(), complaints.Fd(), init.Fd(), w.Fd()},
			Sys:   &syscall.SysProcAttr{Setsid: true},
		}, &opts.Cgroup)
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	w.Close()
	go func() { // it outlives this process, but must not be left a zombie where it does not
		if p, err := os.FindProcess(pid); err == nil {
			p.Wait()
		}
	}()
	if deadline, ok := ctx.Deadline(); ok {
		r.SetReadDeadline(deadline)
	} else {
		r.SetReadDeadline(time.Now().Add(30 * time.Second))
	}
	msg, err := io.ReadAll(io.LimitReader(r, 4096))
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	if len(msg) > 0 {
		return errors.New("start the supervisor: " + string(msg))
	}
	return nil
}
