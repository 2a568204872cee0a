package server

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/component"
	"gantry/internal/runtime/supervisor/protocol"
)

// conn is one connection of the engine. Package net would be a third of the program; the runtime's poller serves os.File as well.
type conn struct {
	srv   *Server
	file  *os.File
	raw   syscall.RawConn
	write sync.Mutex
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
	f := os.NewFile(uintptr(fd), "conn")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil
	}
	c := &conn{srv: s, file: f, raw: raw}
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
		c.file.Close()
	}()
	for {
		// Waiting is done outside the gate, and takes nothing from the socket: an upgrade finds
		// connections between two messages.
		c.file.SetReadDeadline(time.Time{})
		var one [1]byte
		var n int
		var perr error
		err := c.raw.Read(func(fd uintptr) bool {
			n, _, perr = unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK)
			return perr != unix.EAGAIN
		})
		if err != nil || perr != nil || n == 0 {
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
	c.file.SetReadDeadline(time.Now().Add(10 * time.Second)) // a message comes at once, or an upgrade would wait for it
	req, fds, err := c.receive()
	if err != nil {
		closeList(fds)
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

func closeList(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func (c *conn) receive() (req *protocol.Request, fds []int, err error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*protocol.MaxFds))
	var n, oobn, flags int
	var rerr error
	err = c.raw.Read(func(fd uintptr) bool {
		n, oobn, flags, _, rerr = unix.Recvmsg(int(fd), head[:], oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN
	})
	if err == nil {
		err = rerr
	}
	if err != nil {
		return nil, nil, err
	}
	if oobn > 0 {
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return nil, nil, err
		}
		for i := range msgs {
			if got, err := unix.ParseUnixRights(&msgs[i]); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	if n == 0 || flags&unix.MSG_CTRUNC != 0 {
		return nil, fds, io.ErrUnexpectedEOF
	}
	if _, err := io.ReadFull(c.file, head[n:]); err != nil {
		return nil, fds, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > protocol.MaxMessage {
		return nil, fds, errors.New("message too large")
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(c.file, body); err != nil {
		return nil, fds, err
	}
	req = new(protocol.Request)
	return req, fds, json.Unmarshal(body, req)
}

// send writes a reply with fds. Without wait it gives up when the socket does not take it at once.
func (c *conn) send(reply *protocol.Reply, fds []int, wait bool) error {
	body, err := json.Marshal(reply)
	if err != nil {
		return err
	}
	msg := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body))), body...)
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.write.Lock()
	defer c.write.Unlock()
	c.file.SetWriteDeadline(time.Now().Add(10 * time.Second))
	var werr error
	err = c.raw.Write(func(fd uintptr) bool {
		for len(msg) > 0 {
			var n int
			n, werr = unix.SendmsgN(int(fd), msg, oob, nil, unix.MSG_NOSIGNAL)
			if werr == unix.EINTR {
				continue
			}
			if werr == unix.EAGAIN {
				return !wait
			}
			if werr != nil {
				return true
			}
			msg, oob = msg[n:], nil
		}
		return true
	})
	if err == nil {
		err = werr
	}
	return err
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
			c.raw.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) })
		}
	}
	return len(list)
}
