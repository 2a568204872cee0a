package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/message"
	"gantry/internal/network/relay/protocol"
)

// errGone says that the relay died, or was not there: whether a request that was under way took effect is not known.
var errGone = errs.Unavailable.Errorf("the relay is gone")

// deadline is how long an answer is waited for. Nothing that is asked takes more than microseconds.
const deadline = 20 * time.Second

// client is a connection to a relay. One goroutine calls.
type client struct {
	conn    *message.Conn
	version int         // the one to speak: the older of the two sides'
	replies chan answer // closed when the relay is gone
	hello   protocol.Hello
}

type answer struct {
	body []byte
	fds  []int
}

// dial connects to the relay of an exec-root and checks that it speaks a version known here.
func dial(dir string) (*client, error) {
	conn, err := message.Dial(dir, protocol.SocketName)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, version: protocol.Version, replies: make(chan answer)}
	go c.read()
	r, _, err := c.call(&protocol.Request{Op: protocol.OpHello}, nil)
	if err == nil && r.Hello == nil {
		err = errors.New("relay: a hello without contents")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	c.hello = *r.Hello
	if v := c.hello.Protocol; v < protocol.Version-1 || v > protocol.Version+1 {
		c.close()
		return nil, fmt.Errorf("the relay speaks protocol %d, this engine %d", v, protocol.Version)
	}
	c.version = min(c.version, c.hello.Protocol)
	return c, nil
}

// read passes answers on, until there are none any more.
func (c *client) read() {
	defer close(c.replies)
	for {
		body, fds, err := c.conn.Receive()
		if err != nil {
			return
		}
		c.replies <- answer{body, fds}
	}
}

func (c *client) close() {
	c.conn.Close()
	for a := range c.replies {
		message.CloseAll(a.fds)
	}
}

// call sends a request and returns the answer with its fds, which are the caller's then.
func (c *client) call(req *protocol.Request, fds []int) (*protocol.Reply, []int, error) {
	req.Version = c.version
	body, err := json.Marshal(req)
	if err != nil {
		return nil, nil, err
	}
	c.conn.WriteDeadline(time.Now().Add(deadline)) // one that is stopped takes what goes into the socket, and no more
	if err := c.conn.Send(body, fds); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errGone, err)
	}
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	var a answer
	var ok bool
	select {
	case a, ok = <-c.replies:
	case <-timer.C:
		err = errors.New("it does not answer")
	}
	if !ok {
		return nil, nil, fmt.Errorf("%w: %w", errGone, errors.Join(err, fs.ErrClosed))
	}
	r := new(protocol.Reply)
	if err := json.Unmarshal(a.body, r); err != nil {
		message.CloseAll(a.fds)
		return nil, nil, err
	}
	if r.Error != "" {
		message.CloseAll(a.fds)
		return nil, nil, errors.New("relay: " + r.Error)
	}
	return r, a.fds, nil
}

// know tells the relay what is known of a sandbox.
func (c *client) know(b *box) error {
	_, _, err := c.call(&protocol.Request{Op: protocol.OpPut, Sandbox: &b.rec}, nil)
	return err
}

// put gives the relay all that is known of a sandbox. With sockets it gets those, too.
func (c *client) put(b *box, sockets bool) error {
	req := &protocol.Request{Op: protocol.OpPut, Sandbox: &b.rec}
	var fds []int
	if sockets && b.udp >= 0 {
		req.FdNames, fds = []string{protocol.FdUDP, protocol.FdTCP}, []int{b.udp, b.tcp}
	}
	if _, _, err := c.call(req, fds); err != nil {
		return err
	}
	for rest := b.ports; len(rest) > 0; {
		part := rest[:min(len(rest), message.MaxFds)]
		rest = rest[len(part):]
		req := &protocol.Request{Op: protocol.OpHold, ID: b.rec.ID}
		var fds []int
		for _, p := range part {
			req.Ports = append(req.Ports, p.Port)
			if sockets {
				req.FdNames, fds = append(req.FdNames, protocol.FdPort), append(fds, p.Fd)
			}
		}
		if _, _, err := c.call(req, fds); err != nil {
			return err
		}
	}
	return nil
}

// list returns what the relay holds, without sockets.
func (c *client) list() ([]protocol.Held, error) {
	r, _, err := c.call(&protocol.Request{Op: protocol.OpList}, nil)
	if err != nil {
		return nil, err
	}
	return r.Held, nil
}

// take returns duplicates of the sockets that the relay holds for a sandbox.
func (c *client) take(h *protocol.Held) (*box, error) {
	b := &box{rec: h.Sandbox, udp: -1, tcp: -1}
	want := len(h.Ports)
	if h.Resolver {
		want += 2
	}
	var all []int
	for len(all) < want {
		_, fds, err := c.call(&protocol.Request{Op: protocol.OpFds, ID: h.ID, From: len(all)}, nil)
		if err == nil && len(fds) == 0 {
			err = errors.New("relay: fewer sockets than it says")
		}
		if err != nil {
			message.CloseAll(all)
			return nil, err
		}
		all = append(all, fds...)
	}
	if h.Resolver {
		b.udp, b.tcp, all = all[0], all[1], all[2:]
	}
	for i, p := range h.Ports {
		b.ports = append(b.ports, Port{p, all[i]})
	}
	return b, nil
}
