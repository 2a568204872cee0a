package server

import (
	"os"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reaper listens for SIGCHLD from now on, and returns what waits for children when it comes.
func (s *Server) reaper() func() {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, unix.SIGCHLD)
	return func() {
		for {
			s.gate.RLock()
			s.reap() // at first those that ended while the program was being exchanged
			s.gate.RUnlock()
			<-ch
		}
	}
}

// reap waits for all children that have ended. Those that no launch knows are either the children between (join and exec, see
// package spec) or so quick that their launch has not got their pid yet; it finds them in orphans. The caller holds the gate.
func (s *Server) reap() {
	type end struct {
		p      *process
		status unix.WaitStatus
	}
	var ends []end
	s.reapMu.Lock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		if p := s.children[pid]; p != nil {
			delete(s.children, pid)
			ends = append(ends, end{p, status})
		} else if s.launching > 0 {
			s.orphans[pid] = status
		}
	}
	s.reapMu.Unlock()
	for _, e := range ends {
		e.p.reaped(e.status)
	}
}

// reaped takes the end of a child.
func (p *process) reaped(status unix.WaitStatus) {
	p.mu.Lock()
	started := p.started
	if !started {
		p.status = status
		p.early = true
		close(p.dead)
	}
	p.mu.Unlock()
	if started {
		p.exit(code(status), false)
	}
}

// code is the exit code as shells and Docker count it.
func code(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// watchPidfd waits for the end of a process that is not a child: its supervisor died, it was adopted.
func (p *process) watchPidfd() {
	p.watch = p.srv.poll.add(p.pidfd, func(uint32) {
		p.mu.Lock()
		if p.gone || p.info.Exit != nil {
			p.mu.Unlock()
			return
		}
		c, known, again := p.fate()
		if again {
			p.srv.later(p.watch, reapDelay)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		if !known {
			c = 255
		}
		p.exit(c, !known)
	})
	p.srv.poll.arm(p.watch, unix.EPOLLIN)
}

// watchChild has a child reaped by the thread that its pidfd wakes: three switches sooner than by SIGCHLD, which has to pass through
// the runtime's signal handling, and which stays for all others. The caller holds p.mu.
func (p *process) watchChild() {
	p.watch = p.srv.poll.add(p.pidfd, func(uint32) { p.srv.reap() })
	p.srv.poll.arm(p.watch, unix.EPOLLIN)
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h, its first version.
type pidfdInfo struct {
	Mask     uint64
	CgroupID uint64
	_        [11]uint32 // pid, tgid, ppid, and ids
	ExitCode int32
}

// reapDelay is how long a zombie that is somebody else's is left to its parent before it is looked at again.
const reapDelay = 5 * time.Millisecond

const (
	pidfdGetInfo  = 0xc040ff0b // _IOWR(0xFF, 11, 64 bytes), Linux 6.13
	pidfdInfoExit = 1 << 3     // Linux 6.15: the exit code, once the process has been reaped
)

// fate finds out how an ended process that is not a child ended. Again: its parent has not reaped it yet.
func (p *process) fate() (c int, known, again bool) {
	info := pidfdInfo{Mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(p.pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	if errno == 0 && info.Mask&pidfdInfoExit != 0 {
		return code(unix.WaitStatus(info.ExitCode)), true, false
	}
	// A zombie tells its status to root in field 52; it stays one only until the new parent waits for it.
	ticks, status, ok := startTime(p.pid)
	if ok && ticks == p.info.StartTime {
		if status >= 0 {
			return code(unix.WaitStatus(status)), true, false
		}
		return 0, false, true
	}
	return 0, false, errno == 0
}
