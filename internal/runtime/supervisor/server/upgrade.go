package server

import (
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/component"
	"gantry/internal/runtime/supervisor/protocol"
)

// saved is what one program leaves to the next when it execs it. Fds keep their numbers.
type saved struct {
	Version  int         `json:"version"`
	Listener int         `json:"listener"`
	Lock     int         `json:"lock"`
	State    int         `json:"state"`
	Procs    []savedProc `json:"procs"`
	Conns    []savedConn `json:"conns"`
}

const savedVersion = 1

type savedProc struct {
	Info      protocol.Process `json:"info"`
	Pidfd     int              `json:"pidfd"`
	Stdin     int              `json:"stdin"`
	Pty       int              `json:"pty"`
	PtyIn     int              `json:"pty_in"`
	Mntns     int              `json:"mntns"`
	Out       [2]int           `json:"out"`
	Ended     [2]bool          `json:"ended"`
	Slot      int              `json:"slot"`
	Paused    bool             `json:"paused"`
	Child     bool             `json:"child"`
	Lingering bool             `json:"lingering"`
	Clients   []savedClient    `json:"clients,omitempty"`
}

type savedClient struct {
	Fd    int       `json:"fd"`
	Want  [2]bool   `json:"want"`
	Next  [2]uint64 `json:"next"`
	Done  [2]bool   `json:"done"`
	Frame int       `json:"frame"`
	Left  uint32    `json:"left"`
	Head  []byte    `json:"head,omitempty"`
}

type savedConn struct {
	Fd    int  `json:"fd"`
	Watch bool `json:"watch"`
	Asked bool `json:"asked"` // it asked for the upgrade and waits for the answer
}

// upgrade execs program. It returns only if that could not be done; all goes on as before then.
func (s *Server) upgrade(c *conn, program, init int, build string) error {
	s.reapMu.Lock()
	if s.upgrading {
		s.reapMu.Unlock()
		return conflict("another upgrade is under way")
	}
	s.upgrading = true
	// One that hangs (init in a mount of a dead server) must not keep all others waiting at the gate.
	for wait := 0; s.launching > 0; wait++ {
		s.reapMu.Unlock()
		if wait == 10000 {
			s.endUpgrade()
			return conflict("a launch does not come to its end")
		}
		time.Sleep(time.Millisecond)
		s.reapMu.Lock()
	}
	s.reapMu.Unlock()
	defer s.endUpgrade()
	s.gate.Lock()
	defer s.gate.Unlock()

	sv, fds := s.save(c)
	u := component.Upgrade{Name: "supervisor", Conf: s.conf.Conf, Build: build, Program: program, State: sv, Fds: fds,
		Further: map[string]int{InitFlag: init}}
	return u.Exec()
}

func (s *Server) endUpgrade() {
	s.reapMu.Lock()
	s.upgrading = false
	s.reapMu.Unlock()
}

// Check tells whether this program can take over what another one left at fd.
func Check(fd int) error {
	_, err := load(fd)
	return err
}

func load(fd int) (*saved, error) {
	sv := new(saved)
	if err := component.Load(fd, sv); err != nil {
		return nil, err
	}
	if sv.Version != savedVersion {
		return nil, errors.New("state of version " + strconv.Itoa(sv.Version))
	}
	return sv, nil
}

// save describes everything, and lists the fds that must live on. The gate is locked: nothing moves.
func (s *Server) save(asked *conn) (*saved, []int) {
	sv := &saved{Version: savedVersion, Listener: s.listener, Lock: s.lock, State: s.state.fd}
	fds := []int{s.listener, s.lock, s.state.fd}
	s.mu.Lock()
	defer s.mu.Unlock()
	add := func(p *process) {
		if p.gone || !p.started {
			return
		}
		sp := savedProc{Info: p.info, Pidfd: p.pidfd, Stdin: p.stdin, Pty: p.pty, PtyIn: p.ptyIn, Mntns: p.mntns, Out: [2]int{-1, -1},
			Slot: p.slot, Paused: p.paused, Child: p.child, Lingering: p.lingering}
		for i, st := range p.streams {
			if st != nil {
				sp.Out[i], sp.Ended[i] = st.fd, st.ended
			}
		}
		for _, fd := range []int{sp.Pidfd, sp.Stdin, sp.Pty, sp.PtyIn, sp.Mntns, sp.Out[0], sp.Out[1]} {
			if fd >= 0 {
				fds = append(fds, fd)
			}
		}
		for _, c := range p.clients {
			sp.Clients = append(sp.Clients, savedClient{Fd: c.fd, Want: c.want, Next: c.next, Done: c.done, Frame: c.frame, Left: c.left, Head: c.head})
			fds = append(fds, c.fd)
		}
		sv.Procs = append(sv.Procs, sp)
	}
	for _, p := range s.procs {
		add(p)
	}
	for p := range s.ghosts {
		add(p)
	}
	for c := range s.conns {
		c.Control(func(fd int) {
			sv.Conns = append(sv.Conns, savedConn{Fd: fd, Watch: c.watch, Asked: c == asked})
			fds = append(fds, fd)
		})
	}
	return sv, fds
}

// restore takes over what the program before left.
func (s *Server) restore(fd int) error {
	sv, err := load(fd)
	if err != nil {
		return err
	}
	s.listener, s.lock = sv.Listener, sv.Lock
	unix.CloseOnExec(s.listener)
	unix.CloseOnExec(s.lock)
	unix.CloseOnExec(sv.State)
	if s.state, err = newState(sv.State); err != nil {
		return err
	}
	for i := range sv.Procs {
		sp := &sv.Procs[i]
		for _, fd := range []int{sp.Pidfd, sp.Stdin, sp.Pty, sp.PtyIn, sp.Mntns, sp.Out[0], sp.Out[1]} {
			if fd >= 0 {
				unix.CloseOnExec(fd)
			}
		}
		p := newProcess(s, &sp.Info)
		p.pid, p.pidfd, p.stdin, p.pty, p.ptyIn, p.mntns = sp.Info.Pid, sp.Pidfd, sp.Stdin, sp.Pty, sp.PtyIn, sp.Mntns
		p.slot, p.paused, p.started, p.child, p.lingering = sp.Slot, sp.Paused, true, sp.Child, sp.Lingering
		if p.slot >= 0 {
			s.state.take(p.slot)
			p.openLog()
		}
		for i := range 2 {
			if sp.Out[i] >= 0 || sp.Ended[i] {
				p.streams[i] = &stream{p: p, i: i, fd: sp.Out[i], ended: sp.Ended[i], slot: s.state.slot(p.slot, i)}
			}
		}
		for _, sc := range sp.Clients {
			unix.CloseOnExec(sc.Fd)
			c := &client{p: p, fd: sc.Fd, want: sc.Want, next: sc.Next, done: sc.Done, frame: sc.Frame, left: sc.Left, head: sc.Head}
			p.clients = append(p.clients, c)
			c.register()
		}
		p.register()
		if p.lingering {
			s.ghosts[p] = struct{}{}
		} else {
			s.procs[sp.Info.ID] = p
		}
		if p.info.Exit == nil {
			if p.child {
				s.children[p.pid] = p
				p.watchChild()
			} else {
				p.watchPidfd()
			}
		}
	}
	s.kept = sv.Conns
	return nil
}

// resumeConns goes on with the connections of the program before, and with the streams.
func (s *Server) resumeConns() {
	s.gate.RLock() // the next upgrade may be asked for at once
	defer s.gate.RUnlock()
	for _, k := range s.kept {
		unix.CloseOnExec(k.Fd)
		c := s.serve(k.Fd)
		if c == nil {
			continue
		}
		if k.Watch {
			s.mu.Lock()
			c.watch = true
			s.watchers[c] = struct{}{}
			s.mu.Unlock()
		}
		if k.Asked {
			c.send(&protocol.Reply{Hello: &protocol.Hello{Protocol: protocol.Version, Build: s.conf.Build, Pid: os.Getpid()}}, nil, true)
		}
	}
	s.kept = nil
	s.mu.Lock()
	ghosts := make([]*process, 0, len(s.ghosts))
	for p := range s.ghosts {
		ghosts = append(ghosts, p)
	}
	s.mu.Unlock()
	for _, p := range append(s.all(), ghosts...) {
		p.mu.Lock()
		p.pump(false)
		p.mu.Unlock()
	}
}
