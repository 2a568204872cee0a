// Package userns makes user namespaces that only map owners: for idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP).
//
// A namespace lives as long as a process is in it, and has its maps from a process outside. Here that is a child that
// is stopped by ptrace(2) before it has run its first instruction, and killed when it has served.
package userns

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/view"
)

// Swap is a map in which a and b stand for each other, and every other ID for itself.
func Swap(a, b uint32) []syscall.SysProcIDMap {
	const end = 1<<32 - 1 // the last ID, 4294967295, means "none" and cannot be mapped
	lo, hi := int(min(a, b)), int(max(a, b))
	if lo == hi {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: end}}
	}
	var m []syscall.SysProcIDMap
	add := func(inside, outside, size int) {
		if size > 0 {
			m = append(m, syscall.SysProcIDMap{ContainerID: inside, HostID: outside, Size: size})
		}
	}
	add(0, 0, lo)
	add(lo, hi, 1)
	add(lo+1, lo+1, hi-lo-1)
	add(hi, lo, 1)
	add(hi+1, hi+1, end-hi-1)
	return m
}

// Namespace is a user namespace, held by a process.
type Namespace struct {
	Pid       int
	StartTime uint64 // in clock ticks since boot, as in proc_pid_stat(5)

	quit, done chan struct{}
}

// New makes a user namespace with these maps.
func New(uids, gids []syscall.SysProcIDMap) (*Namespace, error) {
	n := &Namespace{quit: make(chan struct{}), done: make(chan struct{})}
	made := make(chan error)
	go func() {
		// Tracing belongs to the thread, and so does the signal by which the child dies with it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(n.done)
		p, err := os.StartProcess("/proc/self/exe", []string{"gantry-userns"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER, UidMappings: uids, GidMappings: gids, GidMappingsEnableSetgroups: true,
			Ptrace: true, Pdeathsig: syscall.SIGKILL,
		}})
		if err != nil {
			made <- fmt.Errorf("make user namespace: %w", err)
			return
		}
		n.Pid, n.StartTime = p.Pid, view.Started(p.Pid)
		made <- nil
		<-n.quit
		p.Kill()
		p.Wait()
	}()
	return n, <-made
}

// Open opens the namespace.
func (n *Namespace) Open() (*os.File, error) {
	return os.Open("/proc/" + strconv.Itoa(n.Pid) + "/ns/user")
}

// Close ends the process; mounts that were made with the namespace keep it.
func (n *Namespace) Close() {
	close(n.quit)
	<-n.done
}
