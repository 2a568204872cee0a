package server

import (
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/supervisor/protocol"
)

// handle answers one request. Fds that it takes it deletes from named.
func (s *Server) handle(c *conn, req *protocol.Request, named map[string]int) (reply *protocol.Reply, fds []int, names []string) {
	reply = new(protocol.Reply)
	if req.Op != protocol.OpHello && req.Version != protocol.Version && req.Version != protocol.Version-1 {
		reply.Code, reply.Error = protocol.CodeInvalid, "protocol version "+itoa(uint64(req.Version))+" is not known, only "+itoa(protocol.Version)+" and the one before"
		return reply, nil, nil
	}
	var err error
	switch req.Op {
	case protocol.OpHello:
		reply.Hello = &protocol.Hello{Protocol: protocol.Version, Build: s.conf.Build, Pid: os.Getpid()}
		return reply, []int{s.state.fd}, []string{protocol.FdState}
	case protocol.OpList:
		reply.Processes = s.list()
	case protocol.OpWatch:
		return s.startWatch(c), nil, nil
	case protocol.OpLaunch:
		var p *process
		if p, reply.Failure, err = s.launch(req, named); p != nil {
			p.mu.Lock() // the fds must not be closed by the process's end meanwhile
			defer p.mu.Unlock()
			reply.Process = &p.info
			names, fds := p.fds()
			c.send2(reply, fds, names)
			return nil, nil, nil
		}
	case protocol.OpAdopt:
		err = s.adopt(req, named)
	case protocol.OpUpgrade:
		// It needs all to stand still, and so is done when this exchange is over.
		program, init, build := named[protocol.FdProgram], named[protocol.FdInit], req.Build
		if program <= 0 || init <= 0 {
			err = invalid("an upgrade without the programs")
			break
		}
		delete(named, protocol.FdProgram)
		delete(named, protocol.FdInit)
		c.upgrade = func() {
			err := s.upgrade(c, program, init, build) // returns only if it failed
			unix.Close(program)
			unix.Close(init)
			c.send(&protocol.Reply{Error: err.Error()}, nil, true)
		}
		return nil, nil, nil
	case protocol.OpQuit:
		if err = s.quit(); err == nil {
			c.send(reply, nil, true)
			os.Exit(0)
		}
	default:
		p := s.process(req.ID)
		if p == nil {
			err = noProcess(req.ID)
			break
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.gone || !p.started && req.Op != protocol.OpSignal {
			err = noProcess(req.ID)
			break
		}
		switch req.Op {
		case protocol.OpSignal:
			err = p.signal(req.Signal)
		case protocol.OpResize:
			if p.pty < 0 {
				err = conflict("process " + req.ID + " has no terminal")
			} else {
				err = unix.IoctlSetWinsize(p.pty, unix.TIOCSWINSZ, &unix.Winsize{Row: req.Height, Col: req.Width})
			}
		case protocol.OpResume:
			p.paused = false
			p.pump(p.info.Exit != nil)
		case protocol.OpAttach:
			var fd int
			if fd, reply.Offsets, err = p.attach([2]bool{req.Stdout, req.Stderr}, req.Offsets); err == nil {
				p.pump(false)
				c.send2(reply, []int{fd}, []string{protocol.FdSocket})
				unix.Close(fd)
				return nil, nil, nil
			}
		case protocol.OpFds:
			names, fds := p.fds()
			c.send2(reply, fds, names) // with p locked: they cannot be closed meanwhile
			return nil, nil, nil
		case protocol.OpCloseIn:
			closeFd(&p.stdin)
		case protocol.OpForget:
			err = s.forget(p)
		default:
			err = invalid("unknown operation " + req.Op)
		}
	}
	if err != nil {
		reply.Error = err.Error()
		if e, ok := err.(*coded); ok {
			reply.Code = e.code
		}
	}
	return reply, nil, nil
}

func (c *conn) send2(reply *protocol.Reply, fds []int, names []string) {
	reply.FdNames = names
	c.send(reply, fds, true)
}

func (s *Server) process(id string) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[id]
}

func (s *Server) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*process, 0, len(s.procs))
	for _, p := range s.procs {
		list = append(list, p)
	}
	return list
}

func (s *Server) list() []protocol.Process {
	procs := s.all()
	list := make([]protocol.Process, 0, len(procs))
	for _, p := range procs {
		p.mu.Lock()
		if p.started && !p.gone {
			list = append(list, p.info)
		}
		p.mu.Unlock()
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Started.Before(list[j].Started) })
	return list
}

// startWatch makes c a watcher and tells it all exits that are not forgotten.
func (s *Server) startWatch(c *conn) *protocol.Reply {
	if c.send(&protocol.Reply{}, nil, true) != nil {
		return nil
	}
	s.mu.Lock()
	s.watchers[c] = struct{}{} // first, so that none falls between; one may come twice
	c.watch = true
	s.mu.Unlock()
	for _, p := range s.list() {
		if p.Exit != nil {
			c.send(&protocol.Reply{Exit: p.Exit}, nil, true)
		}
	}
	return nil
}

func (p *process) signal(sig int) error {
	if p.info.Exit != nil || p.pidfd < 0 {
		return conflict("process " + p.info.ID + " has ended")
	}
	err := unix.PidfdSendSignal(p.pidfd, unix.Signal(sig), nil, 0)
	if err == unix.ESRCH {
		return conflict("process " + p.info.ID + " has ended")
	}
	return err
}

// forget drops an ended process. The caller holds p.mu.
func (s *Server) forget(p *process) error {
	if p.info.Exit == nil {
		return conflict("process " + p.info.ID + " still runs")
	}
	p.dropMounts() // before the ID is free: the next launch waits for it
	s.mu.Lock()
	if s.procs[p.info.ID] == p {
		delete(s.procs, p.info.ID)
	}
	s.mu.Unlock()
	os.Remove(s.exitPath(p.info.ID))
	p.lingering = true
	p.paused = false
	s.mu.Lock()
	s.ghosts[p] = struct{}{}
	s.mu.Unlock()
	p.pump(true) // closes it when no reader is behind
	return nil
}

// quit agrees to end if nothing runs.
func (s *Server) quit() error {
	for _, p := range s.all() {
		p.mu.Lock()
		runs := p.info.Exit == nil
		p.mu.Unlock()
		if runs {
			return conflict("process " + p.info.ID + " runs")
		}
	}
	s.mu.Lock()
	dropping := make([]chan struct{}, 0, len(s.dropping))
	for _, done := range s.dropping {
		dropping = append(dropping, done)
	}
	s.mu.Unlock()
	for _, done := range dropping {
		<-done // who was told that this process ends would find it still there, taking mounts apart
	}
	os.Remove(s.conf.Dir + "/" + protocol.SocketName)
	return nil
}
