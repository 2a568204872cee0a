package server

import (
	"encoding/json"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/runtime/component"
	"gantry/internal/runtime/supervisor/protocol"
)

// conn is one connection of the engine.
type conn struct {
	*message.Conn
	srv   *Server
	watch bool
	// upgrade is what is to be done after the exchange under way.
	upgrade func()
}

// accept serves connections until quit.
func (s *Server) accept() error {
	f := os.NewFile(uintptr(s.listener), "listener")
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var aerr error
		err := raw.Read(func(l uintptr) bool {
			s.gate.RLock() // no connection may appear while an upgrade lists them
			defer s.gate.RUnlock()
			var fd int
			if fd, _, aerr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK); aerr != nil {
				return aerr != unix.EAGAIN
			}
			if !component.Trusted(fd) {
				unix.Close(fd)
				return true
			}
			s.serve(fd)
			return true
		})
		if err != nil {
			return err
		}
		if aerr == unix.EMFILE || aerr == unix.ENFILE {
			time.Sleep(10 * time.Millisecond) // it stays in the queue
		}
	}
}

func (s *Server) serve(fd int) *conn {
	m, err := message.New(fd)
	if err != nil {
		return nil
	}
	c := &conn{Conn: m, srv: s}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	go c.run()
	return c
}

func (c *conn) run() {
	defer func() {
		c.srv.gate.RLock() // an upgrade must not pass on the number of an fd that is closed meanwhile
		defer c.srv.gate.RUnlock()
		c.srv.mu.Lock()
		delete(c.srv.conns, c)
		delete(c.srv.watchers, c)
		c.srv.mu.Unlock()
		c.Close()
	}()
	for {
		// Waiting is done outside the gate, and takes nothing from the socket: an upgrade finds
		// connections between two messages.
		c.ReadDeadline(time.Time{})
		if c.Wait() != nil {
			return
		}
		c.srv.gate.RLock()
		ok := c.exchange()
		c.srv.gate.RUnlock()
		if c.upgrade != nil { // outside the gate, of which it takes the whole
			c.upgrade()
			c.upgrade = nil
		}
		if !ok {
			return
		}
	}
}

// exchange reads a request and answers it.
func (c *conn) exchange() bool {
	c.ReadDeadline(time.Now().Add(10 * time.Second)) // a message comes at once, or an upgrade would wait for it
	body, fds, err := c.Receive()
	if err != nil {
		return false
	}
	req := new(protocol.Request)
	if json.Unmarshal(body, req) != nil {
		message.CloseAll(fds)
		return false
	}
	named := make(map[string]int, len(fds))
	for i, fd := range fds {
		if i < len(req.FdNames) && named[req.FdNames[i]] == 0 {
			named[req.FdNames[i]] = fd
		} else {
			unix.Close(fd)
		}
	}
	reply, out, outNames := c.srv.handle(c, req, named)
	for _, fd := range named { // those that are still there were not taken
		unix.Close(fd)
	}
	if reply == nil {
		return true
	}
	reply.FdNames = outNames
	return c.send(reply, out, true) == nil
}

// send sends a reply with fds. Without wait it gives up when the socket does not take it at once.
func (c *conn) send(reply *protocol.Reply, fds []int, wait bool) error {
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	if !wait {
		return c.TrySend(body, fds)
	}
	c.WriteDeadline(time.Now().Add(10 * time.Second))
	return c.Send(body, fds)
}

// tell sends an exit to all watchers, and returns how many there are. One that does not read is cut off: it will ask anew.
func (s *Server) tell(e *protocol.Exit) int {
	s.mu.Lock()
	list := make([]*conn, 0, len(s.watchers))
	for c := range s.watchers {
		list = append(list, c)
	}
	s.mu.Unlock()
	for _, c := range list {
		if c.send(&protocol.Reply{Exit: e}, nil, false) != nil {
			// Closed by its own goroutine, which this wakes.
			c.Control(func(fd int) { unix.Shutdown(fd, unix.SHUT_RDWR) })
		}
	}
	return len(list)
}
