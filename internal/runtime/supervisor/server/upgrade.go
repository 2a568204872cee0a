package server

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
	b, err := json.Marshal(sv)
	if err != nil {
		return err
	}
	memfd, err := unix.MemfdCreate("gantry-upgrade", unix.MFD_CLOEXEC)
	if err != nil {
		return errors.New("memfd_create: " + err.Error())
	}
	defer unix.Close(memfd)
	for done := 0; done < len(b); {
		n, err := unix.Write(memfd, b[done:])
		if err != nil {
			return err
		}
		done += n
	}
	exe, err := unix.FcntlInt(uintptr(program), unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		return err
	}
	defer unix.Close(exe)
	path := "/proc/self/fd/" + strconv.Itoa(exe)
	if err := check(exe, memfd); err != nil {
		return err
	}
	fds = append(fds, memfd, init)
	for _, fd := range fds {
		cloexec(fd, false)
	}
	err = syscall.Exec(path, []string{"gantry-supervisor", "-exec-root", s.conf.ExecRoot, "-build", build,
		"-init", strconv.Itoa(init), "-state", strconv.Itoa(memfd), "-ready", "-1"}, []string{})
	for _, fd := range fds {
		cloexec(fd, true)
	}
	return errors.New("execve: " + err.Error())
}

func (s *Server) endUpgrade() {
	s.reapMu.Lock()
	s.upgrading = false
	s.reapMu.Unlock()
}

func cloexec(fd int, on bool) {
	flag := 0
	if on {
		flag = unix.FD_CLOEXEC
	}
	unix.FcntlInt(uintptr(fd), unix.F_SETFD, flag)
}

// check runs the new program once, to see that it is one and understands what is left to it: after execve(2) there is no way back.
func check(program, memfd int) error {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	pidfd := -1
	n := uintptr(null)
	pid, err := fork.Start(program, []string{"gantry-supervisor", "-check", "-state", "3"},
		&syscall.ProcAttr{Dir: "/", Env: []string{}, Files: []uintptr{n, n, n, uintptr(memfd)}, Sys: &syscall.SysProcAttr{PidFD: &pidfd}}, &spec.Cgroup{})
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
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if code(status) != 0 {
		return errors.New("new program: it cannot take over (exit code " + strconv.Itoa(code(status)) + ")")
	}
	return nil
}

// Check tells whether this program can take over what another one left at fd.
func Check(fd int) error {
	_, err := load(fd)
	return err
}

func load(fd int) (*saved, error) {
	if _, err := unix.Seek(fd, 0, 0); err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "state")
	defer f.Close()
	sv := new(saved)
	if err := json.NewDecoder(f).Decode(sv); err != nil {
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
		c.raw.Control(func(fd uintptr) {
			sv.Conns = append(sv.Conns, savedConn{Fd: int(fd), Watch: c.watch, Asked: c == asked})
			fds = append(fds, int(fd))
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
	cloexec(s.listener, true)
	cloexec(s.lock, true)
	cloexec(sv.State, true)
	if s.state, err = newState(sv.State); err != nil {
		return err
	}
	for i := range sv.Procs {
		sp := &sv.Procs[i]
		for _, fd := range []int{sp.Pidfd, sp.Stdin, sp.Pty, sp.PtyIn, sp.Mntns, sp.Out[0], sp.Out[1]} {
			if fd >= 0 {
				cloexec(fd, true)
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
			cloexec(sc.Fd, true)
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
		cloexec(k.Fd, true)
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
