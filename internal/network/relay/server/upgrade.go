package server

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/internal/network/relay/protocol"
	"gantry/internal/runtime/component"
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
	u := component.Upgrade{Name: "relay", Conf: s.conf, Build: build, Program: program, State: sv, Fds: fds}
	return u.Exec()
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
	unix.CloseOnExec(s.listener)
	unix.CloseOnExec(s.lock)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range sv.Boxes {
		x := &sv.Boxes[i]
		for _, fd := range x.Fds {
			unix.CloseOnExec(fd)
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
			unix.CloseOnExec(fd)
		}
		s.streams[st] = struct{}{}
		if !st.watch() {
			st.abort()
		}
	}
	return nil
}
