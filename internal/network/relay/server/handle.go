package server

import (
	"encoding/json"
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/network/relay/protocol"
)

// serve answers one connection's requests.
func (s *Server) serve(c *message.Conn) {
	defer c.Close()
	for {
		body, fds, err := c.Receive()
		if err != nil {
			return
		}
		var req protocol.Request
		if err = json.Unmarshal(body, &req); err == nil && len(req.FdNames) != len(fds) {
			err = errors.New("other file descriptors than were named")
		}
		if err != nil {
			message.CloseAll(fds)
			return
		}
		reply, out := s.handle(&req, fds)
		if req.Op == protocol.OpUpgrade && reply.Error == "" {
			reply.Error = s.upgrade(fds[0], req.Build).Error()
		}
		for _, fd := range fds {
			if fd >= 0 { // it was not taken
				unix.Close(fd)
			}
		}
		data, err := json.Marshal(reply)
		if err == nil {
			err = c.Send(data, out)
		}
		message.CloseAll(out)
		if err != nil {
			return
		}
		if req.Op == protocol.OpQuit && reply.Error == "" {
			os.Exit(0)
		}
	}
}

// handle answers one request. Fds that it takes it makes -1.
func (s *Server) handle(req *protocol.Request, fds []int) (reply *protocol.Reply, out []int) {
	reply = new(protocol.Reply)
	if req.Op != protocol.OpHello && req.Version != protocol.Version && req.Version != protocol.Version-1 {
		reply.Error = "protocol version " + strconv.Itoa(req.Version) + " is not known, only " + strconv.Itoa(protocol.Version) + " and the one before"
		return reply, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	switch req.Op {
	case protocol.OpHello:
		reply.Hello = &protocol.Hello{Protocol: protocol.Version, Build: s.conf.Build, Pid: os.Getpid()}
	case protocol.OpPut:
		err = s.put(req, fds)
	case protocol.OpHold:
		err = s.holdAll(req, fds)
	case protocol.OpDrop:
		s.drop(req.ID)
	case protocol.OpList:
		for _, b := range s.boxes {
			reply.Held = append(reply.Held, b.held())
		}
	case protocol.OpFds:
		out, reply.FdNames, err = s.duplicates(req.ID, req.From)
	case protocol.OpUpgrade:
		if len(fds) != 1 {
			err = errors.New("an upgrade without a program")
		}
	case protocol.OpQuit:
		if len(s.boxes) > 0 {
			err = errors.New("sockets of " + strconv.Itoa(len(s.boxes)) + " sandboxes are held")
		}
	default:
		err = errors.New("unknown operation " + req.Op)
	}
	if err != nil {
		reply.Error = err.Error()
	}
	return reply, out
}

func (s *Server) put(req *protocol.Request, fds []int) error {
	rec := req.Sandbox
	if rec == nil || rec.ID == "" || len(fds) != 0 && (len(fds) != 2 || req.FdNames[0] != protocol.FdUDP || req.FdNames[1] != protocol.FdTCP) {
		return errors.New("a sandbox without a name, or with half a name server")
	}
	b := s.boxes[rec.ID]
	if b == nil {
		b = new(sandbox)
		s.boxes[rec.ID] = b
	}
	s.table.remove(&b.rec)
	b.rec = *rec
	s.table.add(&b.rec)
	if len(fds) == 0 {
		return nil
	}
	if err := s.resolve(b, fds[0], fds[1]); err != nil {
		return err
	}
	fds[0], fds[1] = -1, -1
	return nil
}

func (s *Server) holdAll(req *protocol.Request, fds []int) error {
	b := s.boxes[req.ID]
	if b == nil {
		return errors.New("no sandbox " + req.ID)
	}
	if len(fds) != 0 && len(fds) != len(req.Ports) {
		return errors.New("ports and sockets do not match")
	}
	for i, p := range req.Ports {
		if len(fds) == 0 {
			if k := b.port(p); k >= 0 {
				if err := b.ports[k].lead(p); err != nil {
					return err
				}
			}
			continue
		}
		if err := s.hold(b, p, fds[i]); err != nil {
			return err
		}
		fds[i] = -1
	}
	return nil
}

func (s *Server) drop(id string) {
	b := s.boxes[id]
	if b == nil {
		return
	}
	s.table.remove(&b.rec)
	if b.resolver != nil {
		b.resolver.close()
	}
	for _, p := range b.ports {
		p.close()
	}
	delete(s.boxes, id)
	s.endIfIdle()
}

func (b *sandbox) held() protocol.Held {
	h := protocol.Held{Sandbox: b.rec, Resolver: b.resolver != nil}
	for _, p := range b.ports {
		h.Ports = append(h.Ports, p.info)
	}
	return h
}

// sockets are a sandbox's, those of the name server first.
func (b *sandbox) sockets() (fds []int, names []string) {
	if r := b.resolver; r != nil {
		fds, names = append(fds, r.udp, r.tcp), append(names, protocol.FdUDP, protocol.FdTCP)
	}
	for _, p := range b.ports {
		fds, names = append(fds, p.fd), append(names, protocol.FdPort)
	}
	return fds, names
}

func (s *Server) duplicates(id string, from int) (list []int, names []string, err error) {
	b := s.boxes[id]
	if b == nil {
		return nil, nil, errors.New("no sandbox " + id)
	}
	fds, all := b.sockets()
	if from < 0 || from > len(fds) {
		return nil, nil, errors.New("no socket " + strconv.Itoa(from))
	}
	end := min(len(fds), from+message.MaxFds)
	for _, fd := range fds[from:end] {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			message.CloseAll(list)
			return nil, nil, err
		}
		list = append(list, d)
	}
	return list, all[from:end], nil
}
