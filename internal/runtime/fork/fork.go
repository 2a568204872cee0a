// Package fork starts a process inside a cgroup, at the price of the fork alone.
//
// On cgroup v2 that is CLONE_INTO_CGROUP (Linux 5.7). On v1 the usual way, writing the child's pid into cgroup.procs, waits
// for an RCU grace period of the whole machine (6 ms when idle); a thread that moves only itself, by writing "0" into `tasks`,
// does not. So the forking thread moves, forks (the child is born where its parent thread stands), and moves back.
package fork

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/spec"
)

// Start forks and execs the program that is open as fd program, as syscall.ForkExec does, in cg, and returns the pid.
// attr.Sys.CgroupFD is set here. The program's fd must be beyond those that attr.Files makes in the child. A limit of
// processes that comes late (spec.Cgroup.LatePids) is left to the caller.
func Start(program int, argv []string, attr *syscall.ProcAttr, cg *spec.Cgroup) (pid int, err error) {
	// In the child ForkExec moves what is in its way to just above the highest of Files. Were the program there, what is
	// executed would be a pipe or a socket ("permission denied"): one of Files must lie above it.
	files, last := slices.Clone(attr.Files), len(attr.Files)-1
	above, err := unix.FcntlInt(files[last], unix.F_DUPFD_CLOEXEC, program+1)
	if err != nil {
		return 0, fmt.Errorf("fork: %w", err)
	}
	defer unix.Close(above)
	files[last] = uintptr(above)
	child := *attr
	child.Files = files
	attr = &child
	path := fmt.Sprintf("/proc/self/fd/%d", program)
	if cg.Unified != "" {
		fd, err := unix.Open(cg.Unified, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, &os.PathError{Op: "open", Path: cg.Unified, Err: err}
		}
		defer unix.Close(fd)
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, fd
	}
	if len(cg.Tasks) == 0 {
		if pid, err = syscall.ForkExec(path, argv, attr); err != nil {
			return 0, fmt.Errorf("fork: %w", err)
		}
		return pid, limit(cg)
	}
	runtime.LockOSThread()
	home := true
	defer func() {
		// A thread that could not go home ends with its goroutine (it stays locked): else goroutines
		// of no container would run, and be charged, in this one's cgroup.
		if home {
			runtime.UnlockOSThread()
		}
	}()
	for _, tasks := range cg.Tasks {
		if err = move(tasks); err != nil {
			break
		}
	}
	if err == nil {
		if pid, err = syscall.ForkExec(path, argv, attr); err != nil {
			err = fmt.Errorf("fork: %w", err)
		}
	}
	for _, tasks := range cg.Home {
		if e := move(tasks); e != nil {
			home = false
			if err == nil {
				err = e
			}
		}
	}
	if err == nil {
		err = limit(cg)
	}
	return pid, err
}

// limit sets what could not be set while the forking thread stood in the cgroup.
func limit(cg *spec.Cgroup) error {
	if cg.PidsMaxFile == "" || cg.LatePids() {
		return nil
	}
	return Limit(cg)
}

// Limit sets the limit of processes.
func Limit(cg *spec.Cgroup) error { return write(cg.PidsMaxFile, cg.PidsMax) }

func move(tasks string) error { return write(tasks, "0") }

func write(path, content string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(content)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
