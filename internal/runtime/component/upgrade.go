package component

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/fork"
	"gantry/internal/runtime/spec"
)

// Upgrade is a component's change to another program.
type Upgrade struct {
	Name    string // as in Component
	Conf    Conf
	Build   string // the new program's
	Program int    // fd
	State   any    // what the new program reads by [Load]; fds keep their numbers
	Fds     []int  // that the new program is to have
	Further map[string]int
}

// Exec changes this process into the program. It returns only if that could not be done; all is as before then.
func (u *Upgrade) Exec() error {
	b, err := json.Marshal(u.State)
	if err != nil {
		return err
	}
	state, err := unix.MemfdCreate("gantry-upgrade", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(state)
	for done := 0; done < len(b); {
		n, err := unix.Write(state, b[done:])
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		done += n
	}
	exe, err := unix.FcntlInt(uintptr(u.Program), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	defer unix.Close(exe)
	if err := u.check(exe, state); err != nil {
		return err
	}
	args := []string{argv0(u.Name), dirFlag, u.Conf.Dir, buildFlag, u.Build, stateFlag, strconv.Itoa(state), readyFlag, "-1"}
	fds := append([]int{state}, u.Fds...)
	for flag, fd := range u.Further {
		args, fds = append(args, flag, strconv.Itoa(fd)), append(fds, fd)
	}
	for _, fd := range fds {
		CloseOnExec(fd, false)
	}
	err = syscall.Exec("/proc/self/fd/"+strconv.Itoa(exe), args, []string{})
	for _, fd := range fds {
		CloseOnExec(fd, true)
	}
	return os.NewSyscallError("execve", err)
}

// check runs the new program once, to see that it is one and understands what is left to it: after execve(2) there is no way
// back. The caller keeps others from reaping meanwhile.
func (u *Upgrade) check(program, state int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	n, pidfd := uintptr(null), -1
	pid, err := fork.Start(program, []string{argv0(u.Name), checkFlag, stateFlag, "3"},
		&syscall.ProcAttr{Dir: "/", Env: []string{}, Files: []uintptr{n, n, n, uintptr(state)}, Sys: &syscall.SysProcAttr{PidFD: &pidfd}}, &spec.Cgroup{})
	if err != nil {
		return errors.New("new program: " + err.Error())
	}
	defer unix.Close(pidfd)
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for end := time.Now().Add(10 * time.Second); ; {
		k, err := unix.Poll(poll, int(max(0, time.Until(end).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if k == 0 {
			unix.Kill(pid, unix.SIGKILL)
		}
		break
	}
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // a status of 0 would say that it can
			return os.NewSyscallError("wait4", err)
		}
		break
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return errors.New("new program: it cannot take over (wait status " + strconv.Itoa(int(status)) + ")")
	}
	return nil
}

// CloseOnExec sets or clears the flag of that name.
func CloseOnExec(fd int, on bool) {
	flag := 0
	if on {
		flag = unix.FD_CLOEXEC
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
}

// Load reads into state what the program before left at fd, and closes it. Whether its version is known, the caller checks.
func Load(fd int, state any) error {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	return json.NewDecoder(f).Decode(state)
}
