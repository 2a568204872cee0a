package server

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/supervisor/protocol"
)

// client is an attached reader. Nothing is buffered for one that is slow: what it has not got stays in the process's pipe.
type client struct {
	p    *process
	fd   int
	poll *pollee
	want [2]bool
	next [2]uint64 // offset of the next byte to send
	done [2]bool   // its end has been sent
	full bool      // the socket takes no more for now

	frame int    // the stream + 1 of the frame being sent, 0 for none
	left  uint32 // bytes of its data not yet sent
	head  []byte // what is left of its header
}

// attach makes a reader of the streams wanted and returns the engine's end of its socket. The caller holds p.mu.
func (p *process) attach(want [2]bool, from []uint64) (fd int, offsets []uint64, err error) {
	offsets = make([]uint64, 2)
	for i, s := range p.streams {
		if s != nil {
			offsets[i] = s.offset()
		}
		if len(from) == 2 {
			if s != nil && (from[i] < s.slot.Consumed || from[i] > offsets[i]) && want[i] {
				return -1, nil, invalid("output from " + itoa(from[i]) + " on is not there any more")
			}
			offsets[i] = from[i]
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, nil, err
	}
	c := &client{p: p, fd: pair[0], want: want, next: [2]uint64{offsets[0], offsets[1]}}
	p.clients = append(p.clients, c)
	c.register()
	for i, s := range p.streams {
		if s == nil && want[i] {
			c.end(i, c.next[i])
		}
	}
	if want == [2]bool{} {
		c.close()
	}
	return pair[1], offsets, nil
}

func (c *client) register() {
	c.poll = c.p.srv.poll.add(c.fd, func(events uint32) {
		p := c.p
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.gone || c.fd < 0 {
			return
		}
		c.full = false
		if events&(unix.EPOLLHUP|unix.EPOLLERR|unix.EPOLLRDHUP) != 0 {
			c.close()
		}
		p.pump(false)
	})
	c.p.srv.poll.arm(c.poll, unix.EPOLLRDHUP)
}

func (c *client) arm() {
	if c.full {
		c.p.srv.poll.arm(c.poll, unix.EPOLLRDHUP|unix.EPOLLOUT)
	} else {
		c.p.srv.poll.arm(c.poll, unix.EPOLLRDHUP)
	}
}

// close ends the reader. The caller holds p.mu, and calls pump if the process may have waited for this one.
func (c *client) close() {
	if c.fd < 0 {
		return
	}
	c.p.srv.poll.remove(c.poll)
	closeFd(&c.fd)
	for i, o := range c.p.clients {
		if o == c {
			c.p.clients = append(c.p.clients[:i:i], c.p.clients[i+1:]...)
			break
		}
	}
}

func (c *client) header(i int, flags byte, length uint32, offset uint64) {
	h := make([]byte, protocol.FrameHeader)
	h[0], h[1] = byte(i+1), flags
	binary.BigEndian.PutUint32(h[4:], length)
	binary.BigEndian.PutUint64(h[8:], offset)
	c.head, c.frame, c.left = h, i+1, length
}

// send sends what the reader has not got of data, which is at offset base of stream i; true when there is nothing left of it.
func (c *client) send(i int, base uint64, data []byte) bool {
	end := base + uint64(len(data))
	for c.fd >= 0 && (c.next[i] < end || c.frame == i+1) {
		if c.full || c.frame != 0 && c.frame != i+1 {
			return false
		}
		if c.next[i] < base {
			c.close() // cannot be: it would miss something
			return true
		}
		if c.frame == 0 {
			c.header(i, 0, uint32(end-c.next[i]), c.next[i])
		}
		from := c.next[i] - base
		if !c.write(data[from : from+uint64(c.left)]) {
			return c.fd < 0
		}
	}
	return true
}

// end sends the end of stream i; false if the socket does not take it now.
func (c *client) end(i int, offset uint64) bool {
	for c.fd >= 0 && !c.done[i] {
		if c.full || c.frame != 0 && c.frame != i+1 {
			return false
		}
		if c.frame == 0 {
			c.header(i, protocol.FlagEnd, 0, offset)
		}
		if !c.write(nil) {
			return c.fd < 0
		}
		c.done[i] = true
	}
	if (!c.want[0] || c.done[0]) && (!c.want[1] || c.done[1]) {
		c.close() // what is in the socket's buffer is still read
	}
	return true
}

// write sends the rest of the frame, whose data is data; true when it is done.
func (c *client) write(data []byte) bool {
	for len(c.head)+len(data) > 0 {
		n, err := unix.SendmsgBuffers(c.fd, [][]byte{c.head, data}, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM {
			c.full = true
			return false
		}
		if err != nil {
			c.close()
			return false
		}
		k := min(n, len(c.head))
		c.head = c.head[k:]
		n -= k
		data = data[n:]
		c.left -= uint32(n)
		c.next[c.frame-1] += uint64(n)
	}
	c.frame = 0
	return true
}
