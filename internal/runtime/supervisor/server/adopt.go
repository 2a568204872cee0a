package server

import (
	"golang.org/x/sys/unix"

	"gantry/internal/runtime/supervisor/protocol"
)

// adopt takes over a process whose supervisor died. Its streams stay still until OpResume: the readers must
// come back first.
func (s *Server) adopt(req *protocol.Request, named map[string]int) error {
	if req.Process == nil {
		return s.adoptState(named)
	}
	info := req.Process
	if !validID(info.ID) || info.Pid <= 0 {
		return invalid("a process without an ID or a pid")
	}
	old := s.process(info.ID)
	if old != nil {
		// Known here is at most the exit that the last supervisor wrote down.
		old.mu.Lock()
		defer old.mu.Unlock()
		if old.slot >= 0 || !old.started {
			return conflict("process " + info.ID + " exists already")
		}
		info.Exit = old.info.Exit
	}
	p := newProcess(s, info)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !s.state.take(info.Slot) {
		return invalid("slot " + itoa(uint64(info.Slot)) + " is taken")
	}
	p.pid, p.slot, p.paused, p.started = info.Pid, info.Slot, true, true
	take := func(name string) int {
		fd, ok := named[name]
		if !ok {
			return -1
		}
		delete(named, name)
		unix.SetNonblock(fd, true)
		return fd
	}
	p.pidfd, p.stdin, p.pty, p.ptyIn = take(protocol.FdPid), take(protocol.FdStdin), take(protocol.FdPty), take(protocol.FdPtyIn)
	p.openLog()
	for i, name := range []string{protocol.FdStdout, protocol.FdStderr} {
		if fd := take(name); fd >= 0 {
			p.streams[i] = &stream{p: p, i: i, fd: fd, slot: s.state.slot(p.slot, i)}
		}
	}
	// The one that was killed while it wrote the log is the only one in phase logging, and nothing was written
	// behind it: the log is cut before anything is added.
	for _, st := range p.streams {
		if st != nil {
			st.recover()
		}
	}
	p.register()
	s.mu.Lock()
	s.procs[info.ID] = p
	s.mu.Unlock()
	if info.Exit == nil {
		if p.pidfd < 0 {
			return invalid("process " + info.ID + " without a pidfd")
		}
		p.watchPidfd()
	}
	return nil
}

// adoptState takes over the state memory of the supervisor that died, as long as this one's is not in use.
func (s *Server) adoptState(named map[string]int) error {
	fd, ok := named[protocol.FdState]
	if !ok {
		return invalid("nothing to adopt")
	}
	s.state.mu.Lock()
	inUse := len(s.state.used) > 0
	s.state.mu.Unlock()
	if inUse {
		return conflict("the state memory is in use")
	}
	st, err := newState(fd)
	if err != nil {
		return err
	}
	delete(named, protocol.FdState)
	unix.Munmap(s.state.mem)
	unix.Close(s.state.fd)
	s.state = st
	return nil
}
