package server

import (
	"encoding/json"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/network/relay/protocol"
	"gantry/internal/runtime/fork"
	"gantry/internal/runtime/spec"
)

// saved is what one program leaves to the next when it execs it. Fds keep their numbers.
type saved struct {
	Version  int           `json:"version"`
	Listener int           `json:"listener"`
	Lock     int           `json:"lock"`
	Boxes    []savedBox    `json:"boxes"`
	Streams  []savedStream `json:"streams"`
}

const savedVersion = 1

type savedBox struct {
	protocol.Held
	Fds []int `json:"fds"` // in the order of sandbox.sockets
}

type savedStream struct {
	Client    int         `json:"client"`
	Server    int         `json:"server"`
	Connected bool        `json:"connected"`
	Ways      [2]savedWay `json:"ways"`
}

type savedWay struct {
	R      int  `json:"r"`
	W      int  `json:"w"`
	Inside int  `json:"inside"`
	Ended  bool `json:"ended"`
	Shut   bool `json:"shut"`
}

// upgrade execs program. It returns only if that could not be done; all goes on as before then. The engine's connection
// ends with the program: it connects anew, and waits meanwhile in the listener's queue. Questions that are under way at name
// servers go unanswered; who asked asks again.
func (s *Server) upgrade(program int, build string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flowMu.Lock()
	defer s.flowMu.Unlock()
	sv, fds := s.save()
	b, err := json.Marshal(sv)
	if err != nil {
		return err
	}
	memfd, err := unix.MemfdCreate("gantry-upgrade", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
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
	path := "/proc/self/fd/" + itoa(exe)
	if err := check(exe, memfd); err != nil {
		return err
	}
	fds = append(fds, memfd)
	for _, fd := range fds {
		cloexec(fd, false)
	}
	err = syscall.Exec(path, []string{"gantry-relay", "-exec-root", s.conf.Dir, "-build", build, "-state", itoa(memfd), "-ready", "-1"}, []string{})
	for _, fd := range fds {
		cloexec(fd, true)
	}
	return os.NewSyscallError("execve", err)
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
	n := uintptr(null)
	pid, err := fork.Start(program, []string{"gantry-relay", "-check", "-state", "3"},
		&syscall.ProcAttr{Dir: "/", Env: []string{}, Files: []uintptr{n, n, n, uintptr(memfd)}, Sys: &syscall.SysProcAttr{}}, &spec.Cgroup{})
	if err != nil {
		return errors.New("new program: " + err.Error())
	}
	timer := time.AfterFunc(10*time.Second, func() { unix.Kill(pid, unix.SIGKILL) })
	defer timer.Stop()
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		return errors.New("new program: it cannot take over (status " + itoa(int(status)) + ")")
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
		return nil, errors.New("state of version " + itoa(sv.Version))
	}
	return sv, nil
}

// save describes everything, and lists the fds that must live on. Both locks are held: nothing moves.
func (s *Server) save() (*saved, []int) {
	sv := &saved{Version: savedVersion, Listener: s.listener, Lock: s.lock}
	fds := []int{s.listener, s.lock}
	for _, b := range s.boxes {
		own, _ := b.sockets()
		sv.Boxes = append(sv.Boxes, savedBox{b.held(), own})
		fds = append(fds, own...)
	}
	for st := range s.streams {
		x := savedStream{Client: st.client, Server: st.server, Connected: st.connected}
		for i, w := range st.ways {
			x.Ways[i] = savedWay{w.r, w.w, w.inside, w.ended, w.shut}
		}
		sv.Streams = append(sv.Streams, x)
		fds = append(fds, st.fds()...)
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
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range sv.Boxes {
		x := &sv.Boxes[i]
		for _, fd := range x.Fds {
			cloexec(fd, true)
		}
		b := &sandbox{rec: x.Sandbox}
		s.boxes[b.rec.ID] = b
		s.table.add(&b.rec)
		rest := x.Fds
		if x.Resolver && len(rest) >= 2 {
			if err := s.resolve(b, rest[0], rest[1]); err != nil {
				return err
			}
			rest = rest[2:]
		}
		for i, p := range x.Ports {
			if i < len(rest) {
				if err := s.hold(b, p, rest[i]); err != nil {
					return err
				}
			}
		}
	}
	s.flowMu.Lock()
	defer s.flowMu.Unlock()
	for _, x := range sv.Streams {
		st := &stream{srv: s, client: x.Client, server: x.Server, connected: x.Connected}
		for i, w := range x.Ways {
			st.ways[i] = way{w.R, w.W, w.Inside, w.Ended, w.Shut}
		}
		for _, fd := range st.fds() {
			cloexec(fd, true)
		}
		s.streams[st] = struct{}{}
		if !st.watch() {
			st.abort()
		}
	}
	return nil
}
