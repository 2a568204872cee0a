// Package netlink speaks netlink(7): messages are put together in a batch, sent with one system call, and
// answered one by one.
//
// A socket belongs for ever to the network namespace of the thread that made it, whatever that thread does
// later. So whoever holds a Conn of a container's namespace configures it from any thread.
package netlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const header = unix.SizeofNlMsghdr

// Batch is a row of messages. The zero value is empty and ready.
type Batch struct {
	buf   []byte
	last  int // where the last message begins
	count int
}

// Begin starts a message with its fixed header (ifinfomsg, nfgenmsg, …). NLM_F_REQUEST is added.
func (b *Batch) Begin(typ, flags uint16, fixed []byte) {
	b.last = len(b.buf)
	b.count++
	b.buf = append(b.buf, make([]byte, header)...)
	binary.NativeEndian.PutUint16(b.buf[b.last+4:], typ)
	binary.NativeEndian.PutUint16(b.buf[b.last+6:], flags|unix.NLM_F_REQUEST)
	b.Raw(fixed)
}

// Raw adds bytes that are no attribute.
func (b *Batch) Raw(p []byte) {
	b.buf = pad(append(b.buf, p...))
	b.fix()
}

// Attr adds an attribute to the message begun last.
func (b *Batch) Attr(typ uint16, data []byte) {
	var h [4]byte
	binary.NativeEndian.PutUint16(h[:], uint16(4+len(data)))
	binary.NativeEndian.PutUint16(h[2:], typ)
	b.buf = pad(append(append(b.buf, h[:]...), data...))
	b.fix()
}

// U8 adds a number of one byte.
func (b *Batch) U8(typ uint16, v uint8) { b.Attr(typ, []byte{v}) }

// U32 adds a number in the machine's byte order, as rtnetlink wants it.
func (b *Batch) U32(typ uint16, v uint32) { b.Attr(typ, binary.NativeEndian.AppendUint32(nil, v)) }

// BE32 adds a number in network byte order, as nfnetlink wants it.
func (b *Batch) BE32(typ uint16, v uint32) { b.Attr(typ, binary.BigEndian.AppendUint32(nil, v)) }

// String adds a text with the NUL that ends it.
func (b *Batch) String(typ uint16, s string) { b.Attr(typ, append([]byte(s), 0)) }

// Nest adds an attribute that holds what fill adds.
func (b *Batch) Nest(typ uint16, fill func()) {
	at := len(b.buf)
	b.Attr(typ|unix.NLA_F_NESTED, nil)
	fill()
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

// Bytes are the messages, for tests of what reads such.
func (b *Batch) Bytes() []byte { return b.buf }

// Len returns the number of messages.
func (b *Batch) Len() int { return b.count }

func (b *Batch) fix() {
	binary.NativeEndian.PutUint32(b.buf[b.last:], uint32(len(b.buf)-b.last))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// Error is what the kernel answered to a message.
type Error struct {
	Index int // of the message in its batch
	Errno unix.Errno
	Text  string // the kernel's own explanation, or ""
}

func (e *Error) Error() string {
	if e.Text != "" {
		return e.Text + ": " + e.Errno.Error()
	}
	return e.Errno.Error()
}

func (e *Error) Unwrap() error { return e.Errno }

// Conn is a netlink socket. One request is under way at a time.
type Conn struct {
	mu   sync.Mutex
	fd   int
	port uint32
	seq  uint32
	buf  []byte
}

// Dial opens a socket of the protocol (unix.NETLINK_ROUTE, …) in the calling thread's network namespace, and joins
// the multicast groups.
func Dial(protocol int, groups ...int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	c := &Conn{fd: fd, buf: make([]byte, 64<<10)}
	// Answers need not repeat the request; explanations are welcome.
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	// Failures in a large transaction are each answered: more than the usual buffer holds.
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	if err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	if sa, err := unix.Getsockname(fd); err == nil {
		c.port = sa.(*unix.SockaddrNetlink).Pid
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("join netlink group %d: %w", g, err)
		}
	}
	return c, nil
}

// Close closes the socket.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

func (c *Conn) send(p []byte) error {
	if c.fd < 0 {
		return errClosed
	}
	return unix.Sendto(c.fd, p, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

var errClosed = errors.New("netlink socket is closed")

// Do sends all messages and waits for each one's answer. The kernel carries out every one, whatever became of
// those before it; the first failure is returned, as an *Error.
func (c *Conn) Do(b *Batch) error {
	if b.count == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.seq + 1
	for at := 0; at < len(b.buf); {
		c.seq++
		h := b.buf[at:]
		flags := binary.NativeEndian.Uint16(h[6:])
		binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_ACK)
		binary.NativeEndian.PutUint32(h[8:], c.seq)
		at += int(binary.NativeEndian.Uint32(h))
	}
	if err := c.send(b.buf); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	return c.acks(first, c.seq, false)
}

// Transact sends the messages as one nfnetlink transaction: all of them, or none. Whichever failed first is told.
func (c *Conn) Transact(subsystem uint16, b *Batch) error {
	if b.count == 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var all Batch
	fixed := []byte{unix.AF_UNSPEC, 0, byte(subsystem >> 8), byte(subsystem)}
	all.Begin(unix.NFNL_MSG_BATCH_BEGIN, 0, fixed)
	last := len(all.buf) + b.last
	all.buf = append(all.buf, b.buf...)
	all.Begin(unix.NFNL_MSG_BATCH_END, 0, fixed)
	// Only the last message is asked to answer its success; failures are always told, and come before.
	h := all.buf[last:]
	binary.NativeEndian.PutUint16(h[6:], binary.NativeEndian.Uint16(h[6:])|unix.NLM_F_ACK)
	first := c.seq + 1
	var ack uint32
	for at := 0; at < len(all.buf); {
		c.seq++
		if at == last {
			ack = c.seq
		}
		binary.NativeEndian.PutUint32(all.buf[at+8:], c.seq)
		at += int(binary.NativeEndian.Uint32(all.buf[at:]))
	}
	if err := c.send(all.buf); err != nil {
		return fmt.Errorf("send netfilter transaction: %w", err)
	}
	err := c.acks(first, ack, true)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.Index-- // BATCH_BEGIN is not the caller's
	}
	return err
}

// acks reads until the message numbered last is answered. In a transaction the first message, which begins it, is answered only
// where all of it is refused (no such subsystem in this kernel, no CAP_NET_ADMIN, no memory); nothing need follow then.
func (c *Conn) acks(first, last uint32, transaction bool) error {
	var failed *Error
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive netlink answer: %w", err)
		}
		done := false
		err = each(c.buf[:n], func(m Message) bool {
			if m.Type != unix.NLMSG_ERROR || m.seq-first > last-first {
				return true
			}
			if e := m.err(); e != nil && failed == nil {
				e.Index = int(m.seq - first)
				failed = e
			}
			done = done || m.seq == last || transaction && m.seq == first
			return true
		})
		switch {
		case err != nil:
			return err
		case done && failed != nil:
			return failed
		case done:
			return nil
		}
	}
}

// Dump sends the one message of b with NLM_F_DUMP and hands every answer to fn, whose argument is valid during
// the call only. A dump that a change cut through is repeated, so fn may see things twice: reset is called first.
func (c *Conn) Dump(b *Batch, reset func(), fn func(Message)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for try := 0; ; try++ {
		c.seq++
		binary.NativeEndian.PutUint16(b.buf[6:], binary.NativeEndian.Uint16(b.buf[6:])|unix.NLM_F_DUMP)
		binary.NativeEndian.PutUint32(b.buf[8:], c.seq)
		if err := c.send(b.buf); err != nil {
			return fmt.Errorf("send netlink dump: %w", err)
		}
		if reset != nil {
			reset()
		}
		interrupted, err := c.answers(fn)
		if err != nil || !interrupted || try == 10 {
			return err
		}
	}
}

// Get sends the one message of b and hands what comes back to fn.
func (c *Conn) Get(b *Batch, fn func(Message)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	binary.NativeEndian.PutUint16(b.buf[6:], binary.NativeEndian.Uint16(b.buf[6:])|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(b.buf[8:], c.seq)
	if err := c.send(b.buf); err != nil {
		return fmt.Errorf("send netlink request: %w", err)
	}
	_, err := c.answers(fn)
	return err
}

func (c *Conn) answers(fn func(Message)) (interrupted bool, err error) {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("receive netlink answer: %w", err)
		}
		var failed error
		done := false
		if err := each(c.buf[:n], func(m Message) bool {
			if m.seq != c.seq {
				return true
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.Type {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				if e := m.err(); e != nil {
					failed = e
				}
				done = true
			default:
				fn(m)
			}
			return true
		}); err != nil {
			return false, err
		}
		if done || failed != nil {
			return interrupted, failed
		}
	}
}

// ErrStopped is how a Receive ends whose Stop was used.
var ErrStopped = errors.New("stopped")

// Stop ends a Receive that waits.
type Stop struct{ fd int }

// NewStop makes a Stop.
func NewStop() (*Stop, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	return &Stop{fd}, err
}

// Stop ends the Receive under way, and all that follow.
func (s *Stop) Stop() { unix.Write(s.fd, []byte{1, 0, 0, 0, 0, 0, 0, 1}) }

// Close is for when no Receive uses it any more.
func (s *Stop) Close() error { return unix.Close(s.fd) }

// atOnce bounds how many datagrams one Receive takes in.
const atOnce = 10000

// Receive waits for what multicast groups bring, and hands it to fn with all that is there already: of a change of thousands of
// rules, say, the kernel tells by hundreds of datagrams at once. It fails with unix.ENOBUFS when something was lost, after which it
// may be called again, and with ErrStopped.
func (c *Conn) Receive(stop *Stop, fn func(Message)) error {
	for {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}, {Fd: int32(stop.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return err
		}
		if fds[1].Revents != 0 {
			return ErrStopped
		}
		got := 0
		for got < atOnce {
			n, _, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT)
			if err == unix.EINTR {
				continue
			}
			if err == unix.EAGAIN {
				break
			}
			if err == nil {
				err = each(c.buf[:n], func(m Message) bool { fn(m); return true })
			}
			if err != nil {
				return err
			}
			got++
		}
		if got > 0 {
			return nil
		}
	}
}

// Port returns the number by which the kernel names this socket, in what it tells others of its doings.
func (c *Conn) Port() uint32 { return c.port }

// Message is one message received.
type Message struct {
	Type  uint16
	Port  uint32 // of the socket by which the change came about that a multicast message tells of
	Data  []byte // the fixed header and the attributes
	flags uint16
	seq   uint32
}

func (m *Message) err() *Error {
	if len(m.Data) < 4 {
		return &Error{Errno: unix.EBADMSG}
	}
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	e := &Error{Errno: unix.Errno(-code)}
	if m.flags&unix.NLM_F_ACK_TLVS != 0 && len(m.Data) > 4+header {
		rest := m.Data[4+header:]
		if m.flags&unix.NLM_F_CAPPED == 0 {
			rest = nil // the request follows; no need to look behind it
		}
		Attrs(rest, func(typ uint16, data []byte) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				e.Text = Text(data)
			}
		})
	}
	return e
}

var errShort = errors.New("netlink message is cut short")

func each(p []byte, fn func(Message) bool) error {
	for len(p) >= header {
		n := int(binary.NativeEndian.Uint32(p))
		if n < header || n > len(p) {
			return errShort
		}
		m := Message{Type: binary.NativeEndian.Uint16(p[4:]), flags: binary.NativeEndian.Uint16(p[6:]), seq: binary.NativeEndian.Uint32(p[8:]), Port: binary.NativeEndian.Uint32(p[12:]), Data: p[header:n]}
		if !fn(m) {
			return nil
		}
		p = p[min((n+3)&^3, len(p)):]
	}
	return nil
}

// Attrs hands every attribute in p to fn. What is cut short is left out.
func Attrs(p []byte, fn func(typ uint16, data []byte)) {
	for len(p) >= 4 {
		n := int(binary.NativeEndian.Uint16(p))
		if n < 4 || n > len(p) {
			return
		}
		fn(binary.NativeEndian.Uint16(p[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), p[4:n])
		p = p[min((n+3)&^3, len(p)):]
	}
}

// Text is the text of an attribute.
func Text(data []byte) string {
	for i, c := range data {
		if c == 0 {
			return string(data[:i])
		}
	}
	return string(data)
}
