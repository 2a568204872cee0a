package server

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/runtime/fork"
	"gantry/internal/runtime/jsonlog"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor/protocol"
)

// launch starts a process: see package spec for what it and init tell each other.
func (s *Server) launch(req *protocol.Request, named map[string]int) (*process, *spec.Failure, error) {
	l := req.Launch
	payload, ok := named[protocol.FdInit]
	if l == nil || !ok || !validID(l.ID) {
		return nil, nil, invalid("a launch without an ID or a payload")
	}
	mode := spec.ModeInit
	switch {
	case l.Container != "":
		mode = spec.ModeExec
	case l.JoinPID != nil:
		mode = spec.ModeJoin
		if l.Clone&(unix.CLONE_NEWUSER|unix.CLONE_NEWPID) != 0 {
			return nil, nil, invalid("cannot share PID namespace when user namespaces or a new PID namespace are asked for")
		}
	}
	p := newProcess(s, &protocol.Process{ID: l.ID, Container: l.Container, Stdio: l.Stdio, Log: l.Log})
	if err := s.announce(p); err != nil {
		return nil, nil, err
	}
	b := &birth{p: p, l: l, mode: mode, payload: payload, target: -1, between: -1, child: [3]int{-1, -1, -1}}
	failure, err := b.run()
	b.close()
	defer closeFd(&b.between)
	if failure == nil && err == nil {
		p.mu.Lock()
		p.paused = req.Paused
		p.started = true
		early := p.early
		p.register()
		p.pump(false)
		p.mu.Unlock()
		if early { // it was so quick
			p.exit(code(p.status), false)
		}
		s.launched()
		return p, nil, nil
	}
	b.abort()
	s.launched()
	s.mu.Lock()
	delete(s.procs, l.ID)
	s.mu.Unlock()
	p.mu.Lock()
	p.close()
	p.mu.Unlock()
	return nil, failure, err
}

func validID(id string) bool {
	if len(id) < 1 || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return false // it becomes a file's name
		}
	}
	return true
}

// announce makes the ID known, and counts a launch, until launched.
func (s *Server) announce(p *process) error {
	id := p.info.ID
	for {
		s.mu.Lock()
		dropping := s.dropping[id]
		if s.procs[id] != nil {
			s.mu.Unlock()
			return conflict("process " + id + " exists already")
		}
		if dropping == nil {
			s.procs[id] = p
			s.mu.Unlock()
			break
		}
		s.mu.Unlock()
		<-dropping // an overlay's upper directory must not be mounted twice at a time
	}
	s.reapMu.Lock()
	defer s.reapMu.Unlock()
	if s.upgrading { // it has seen that none is under way, and waits for the gate that this one would hold
		s.mu.Lock()
		delete(s.procs, id)
		s.mu.Unlock()
		return conflict("an upgrade of the supervisor is under way")
	}
	s.launching++
	return nil
}

func (s *Server) launched() {
	s.reapMu.Lock()
	defer s.reapMu.Unlock()
	if s.launching--; s.launching == 0 {
		clear(s.orphans) // what is left there were children between
	}
}

// birth is a launch under way.
type birth struct {
	p       *process
	l       *spec.Launch
	mode    string
	payload int
	child   [3]int   // its stdio
	status  *os.File // our end of the status socket; waited for by the runtime's poller, for a launch may take long
	target  int      // pidfd of the process to join
	between int      // pidfd of init where that is not the process itself (join and exec)
	ptyDone bool
}

func (b *birth) close() {
	for i := range b.child {
		if b.child[i] != b.p.srv.null {
			closeFd(&b.child[i])
		}
	}
	if b.status != nil {
		b.status.Close()
	}
	closeFd(&b.target)
}

func (b *birth) run() (*spec.Failure, error) {
	p, l, s := b.p, b.l, b.p.srv
	if p.slot = s.state.alloc(); p.slot < 0 {
		return nil, errors.New("too many processes: " + strconv.Itoa(maxProcesses))
	}
	p.info.Slot = p.slot
	p.openLog()
	if err := b.stdio(); err != nil {
		return nil, errors.New("pipes: " + err.Error())
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errors.New("socketpair: " + err.Error())
	}
	unix.SetNonblock(pair[0], true)
	b.status = os.NewFile(uintptr(pair[0]), "status")
	files := []uintptr{uintptr(b.child[0]), uintptr(b.child[1]), uintptr(b.child[2]), uintptr(b.payload), uintptr(pair[1])}
	if err := b.join(); err != nil {
		unix.Close(pair[1])
		return nil, err
	}
	if b.target >= 0 {
		files = append(files, uintptr(b.target))
	}
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: &syscall.SysProcAttr{}}
	pidfd := -1
	attr.Sys.PidFD = &pidfd
	if b.mode == spec.ModeInit {
		attr.Sys.Cloneflags = l.Clone
		if l.Clone&unix.CLONE_NEWUSER != 0 {
			attr.Sys.UidMappings, attr.Sys.GidMappings = maps(l.UIDMaps), maps(l.GIDMaps)
			attr.Sys.GidMappingsEnableSetgroups = true
		}
	}
	pid, err := fork.Start(s.conf.Init, []string{"gantry-init", b.mode}, attr, &l.Cgroup)
	unix.Close(pair[1])
	if b.mode != spec.ModeInit {
		b.between = pidfd
	} else if pid > 0 {
		b.claim(pid, pidfd)
	}
	if err != nil {
		if pid > 0 && b.mode != spec.ModeInit {
			unix.Kill(pid, unix.SIGKILL) // a child of this process, and only reap waits for it
		}
		return nil, err
	}
	return b.shakeHands()
}

func maps(in []spec.IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(in))
	for i, m := range in {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Container), HostID: int(m.Host), Size: int(m.Size)}
	}
	return out
}

// openLog makes the log's File. The file itself is made with the first output: creating one costs as much as the fork, and many
// processes never say a word.
func (p *process) openLog() {
	if l := &p.info.Log; l.Driver == "json-file" && l.Path != "" {
		p.log = jsonlog.New(l.Path, l.MaxSize, l.MaxFiles)
	}
}

// stdio makes the child's fds 0 to 2 and ours behind them. Only ours are nonblocking, the two ends of a pipe differ in that.
func (b *birth) stdio() error {
	p := b.p
	null := p.srv.null
	b.child = [3]int{null, null, null}
	if b.l.Stdio.Terminal {
		return nil // init makes the pty
	}
	pipe := func() (r, w int, err error) {
		var fds [2]int
		err = unix.Pipe2(fds[:], unix.O_CLOEXEC)
		return fds[0], fds[1], err
	}
	if b.l.Stdio.OpenStdin {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		b.child[0], p.stdin = r, w
		unix.SetNonblock(w, true)
	}
	for i := range 2 {
		r, w, err := pipe()
		if err != nil {
			return err
		}
		b.child[i+1] = w
		unix.SetNonblock(r, true)
		p.streams[i] = &stream{p: p, i: i, fd: r, slot: p.srv.state.slot(p.slot, i)}
	}
	return nil
}

// join opens the process to join and makes sure that it is the one that was meant.
func (b *birth) join() error {
	of := b.l.JoinPID
	if b.mode == spec.ModeExec {
		of = &spec.Process{Pid: b.l.Pid, StartTime: b.l.StartTime}
	}
	if b.mode == spec.ModeInit {
		return nil
	}
	fd, err := unix.PidfdOpen(of.Pid, 0)
	if err == nil {
		b.target = fd
		if ticks, _, ok := startTime(of.Pid); ok && ticks == of.StartTime {
			return nil
		}
	}
	return conflict("process " + strconv.Itoa(of.Pid) + " is not running")
}

// own tells whether pid, which init named as the process's, can be. What is sent by the status socket need not be init's
// words: a container with CAP_SYS_PTRACE may stop the child as soon as it appears in its PID namespace, and speak by it.
// Believed, it could name any process of the host, to have it killed as its own. The caller holds reapMu.
func (b *birth) own(pid int) bool {
	if _, reaped := b.p.srv.orphans[pid]; reaped {
		return true // only a child's end comes there
	}
	if b.p.srv.children[pid] != nil || parent(pid) != os.Getpid() {
		return false
	}
	of := b.l.JoinPID
	if b.mode == spec.ModeExec {
		of = &spec.Process{Pid: b.l.Pid}
	}
	var its, target unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/pid", &its) != nil || unix.Stat("/proc/"+strconv.Itoa(of.Pid)+"/ns/pid", &target) != nil {
		return true // one of them has ended
	}
	return its.Ino == target.Ino && its.Dev == target.Dev
}

// claim makes a pid this process's: from now on reap tells it its end.
func (b *birth) claim(pid, pidfd int) {
	p, s := b.p, b.p.srv
	s.reapMu.Lock()
	if b.mode != spec.ModeInit && !b.own(pid) {
		s.reapMu.Unlock()
		return
	}
	status, dead := s.orphans[pid]
	if dead {
		delete(s.orphans, pid)
	} else {
		s.children[pid] = p
		if pidfd < 0 { // cannot be another's: it is not reaped before the lock is free
			pidfd, _ = unix.PidfdOpen(pid, 0)
		}
		p.info.StartTime, _, _ = startTime(pid)
	}
	s.reapMu.Unlock()
	p.mu.Lock()
	p.pid, p.info.Pid, p.pidfd, p.child = pid, pid, pidfd, true
	if !dead && pidfd >= 0 {
		p.watchChild()
	}
	p.mu.Unlock()
	if dead {
		p.reaped(status)
	}
}

// launchTimeout is how long init has, where the engine does not say. Its work takes milliseconds, but may lead to a file
// system whose server does not answer, or is the container's own and does not want to.
const launchTimeout = 2 * time.Minute

// shakeHands reads what init says until it execs or fails.
func (b *birth) shakeHands() (*spec.Failure, error) {
	p := b.p
	var failure *spec.Failure
	execs := false
	buf := make([]byte, spec.StatusMax)
	oob := make([]byte, unix.CmsgSpace(4*4))
	raw, err := b.status.SyscallConn()
	if err != nil {
		return nil, err
	}
	limit := time.Duration(b.l.Timeout)
	if limit <= 0 {
		limit = launchTimeout
	}
	b.status.SetReadDeadline(time.Now().Add(limit))
	for {
		var n, oobn int
		var err error
		rerr := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), buf, oob, unix.MSG_CMSG_CLOEXEC)
			return err != unix.EAGAIN
		})
		if err == unix.EINTR {
			continue
		}
		if errors.Is(rerr, os.ErrDeadlineExceeded) {
			return &spec.Failure{Stage: "init", Message: "the process was not started within " + limit.String(), Code: 125}, nil
		}
		if err != nil || rerr != nil {
			break // ECONNRESET: it ended without reading an answer
		}
		var fds []int
		if oobn > 0 {
			if msgs, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
				for i := range msgs {
					got, _ := unix.ParseUnixRights(&msgs[i])
					fds = append(fds, got...)
				}
			}
		}
		if n == 0 {
			message.CloseAll(fds)
			break
		}
		msg := string(buf[:n])
		switch {
		case msg == spec.StatusExec:
			execs = true
			if b.l.Cgroup.LatePids() {
				if err := fork.Limit(&b.l.Cgroup); err != nil {
					return nil, errors.New("limit the processes: " + err.Error())
				}
				raw.Control(func(fd uintptr) { unix.Sendto(int(fd), []byte(spec.StatusOK), unix.MSG_NOSIGNAL, nil) })
			}
		case msg == spec.StatusPty && len(fds) == 1 && b.l.Stdio.Terminal && !b.ptyDone:
			b.ptyDone = true
			if err := p.openPty(fds[0], b.l.Stdio.Height, b.l.Stdio.Width); err != nil {
				return nil, errors.New("terminal: " + err.Error())
			}
			fds = nil
			raw.Control(func(fd uintptr) { unix.Sendto(int(fd), []byte(spec.StatusOK), unix.MSG_NOSIGNAL, nil) })
		case strings.HasPrefix(msg, spec.StatusPID):
			if pid, err := strconv.Atoi(msg[len(spec.StatusPID):]); err == nil && pid > 1 && p.pid == 0 {
				b.claim(pid, -1)
			}
		case msg[0] == '{' && failure == nil:
			failure = new(spec.Failure)
			if json.Unmarshal(buf[:n], failure) != nil {
				failure = &spec.Failure{Stage: "init", Message: "init told its failure in words that cannot be read", Code: 125}
			}
		}
		message.CloseAll(fds)
	}
	if failure == nil && (!execs || p.pid == 0 || b.l.Stdio.Terminal && !b.ptyDone) {
		failure = &spec.Failure{Stage: "init", Message: "the process ended before its program was started", Code: 125}
	}
	if failure != nil {
		return failure, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.info.Started = time.Now()
	if b.mode == spec.ModeInit && b.l.Clone&unix.CLONE_NEWNS != 0 && !p.early {
		if fd, err := unix.Open("/proc/"+strconv.Itoa(p.pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			p.mntns = fd
		}
	}
	return nil, nil
}

// openPty takes the master of the process's terminal, and makes the pipe behind it.
func (p *process) openPty(fd int, height, width uint16) error {
	p.pty = fd
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if height > 0 || width > 0 {
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}); err != nil {
			return err
		}
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return err
	}
	p.ptyIn = pipe[1]
	p.streams[0] = &stream{p: p, i: 0, fd: pipe[0], slot: p.srv.state.slot(p.slot, 0)}
	return nil
}

// register has the streams waited for. The caller holds p.mu.
func (p *process) register() {
	for _, s := range p.streams {
		if s == nil || s.ended {
			continue
		}
		fd := s.fd
		if p.pty >= 0 {
			fd = p.pty
		}
		s.poll = p.srv.poll.add(fd, func(uint32) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.pump(false)
		})
	}
}

// abort ends what a failed launch has started, and waits for its end: the engine takes the cgroup away next.
func (b *birth) abort() {
	p := b.p
	if b.between >= 0 {
		unix.PidfdSendSignal(b.between, unix.SIGKILL, nil, 0)
	}
	p.mu.Lock()
	pid, pidfd, early := p.pid, p.pidfd, p.early
	p.mu.Unlock()
	if pid == 0 || early {
		return
	}
	if pidfd >= 0 {
		unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	}
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-p.dead:
	case <-timer.C: // in an uninterruptible sleep
		p.srv.reapMu.Lock()
		delete(p.srv.children, pid)
		p.srv.reapMu.Unlock()
	}
}
