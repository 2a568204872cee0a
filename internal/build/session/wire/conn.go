package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Frames: one byte of kind, four of the stream's number, four of length, big endian, then the payload.
const (
	frameOpen   = 1 // a new stream, with what is asked
	frameData   = 2
	frameEnd    = 3 // this side says no more
	frameBreak  = 4 // this side neither says nor hears any more
	frameCredit = 5 // four bytes: so much more may be sent

	header   = 9
	maxFrame = 64 << 10 // bytes of data in a frame

	// window is how many bytes may be under way on a stream that nobody has read: who reads slowly holds up its stream alone.
	window = 1 << 20
)

// Conn is one end of a connection with many streams. Its methods may be called from any goroutine.
type Conn struct {
	conn   net.Conn
	accept func(*Stream)
	done   chan struct{}

	writing sync.Mutex
	out     []byte
	opening sync.Mutex // numbers go out in their order

	mu      sync.Mutex
	streams map[uint32]*Stream
	last    uint32 // number of the newest stream
	err     error
	work    sync.WaitGroup
}

// NewConn begins to talk. Streams that the other end opens are given to accept, each in a goroutine of its own; nil accepts none.
func NewConn(conn net.Conn, accept func(*Stream)) *Conn {
	c := &Conn{conn: conn, accept: accept, done: make(chan struct{}), streams: map[uint32]*Stream{}, out: make([]byte, header+maxFrame)}
	go func() {
		err := c.read()
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			err = io.ErrUnexpectedEOF
		}
		c.fail(err)
	}()
	return c
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection and all streams, and waits for those that were accepted.
func (c *Conn) Close() {
	c.fail(net.ErrClosed)
	c.work.Wait()
}

func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	list := c.streams
	c.streams = nil
	c.mu.Unlock()
	c.conn.Close()
	for _, s := range list {
		s.fail(err)
	}
	close(c.done)
}

func (c *Conn) read() error {
	in := bufio.NewReaderSize(c.conn, header+maxFrame)
	for {
		h, err := in.Peek(header)
		if err != nil {
			return err
		}
		kind, id, n := h[0], binary.BigEndian.Uint32(h[1:]), binary.BigEndian.Uint32(h[5:])
		_, _ = in.Discard(header)
		limit := uint32(maxFrame)
		if kind == frameOpen {
			limit = maxAsk
		}
		if n > limit {
			return fmt.Errorf("a frame of %d bytes", n)
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(in, payload); err != nil {
			return err
		}
		if err := c.frame(kind, id, payload); err != nil {
			return err
		}
	}
}

func (c *Conn) frame(kind byte, id uint32, payload []byte) error {
	c.mu.Lock()
	s := c.streams[id]
	if kind == frameOpen {
		defer c.mu.Unlock()
		if c.accept == nil || id != c.last+1 || c.err != nil {
			return fmt.Errorf("stream %d is opened by the wrong end, or out of turn", id)
		}
		c.last = id
		s = newStream(c, id)
		s.ask = payload
		c.streams[id] = s
		c.work.Go(func() { c.accept(s) })
		return nil
	}
	last := c.last
	c.mu.Unlock()
	if s == nil {
		if id == 0 || id > last {
			return fmt.Errorf("a frame of stream %d, which was not opened", id)
		}
		return nil // of one that ended here
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch kind {
	case frameData:
		if s.waiting += len(payload); s.waiting > window || s.inEnd {
			return fmt.Errorf("stream %d has more data than it may", id)
		}
		if len(payload) > 0 {
			s.in = append(s.in, payload)
		}
	case frameEnd:
		s.inEnd = true
	case frameBreak:
		if s.outErr = errBroken; !s.inEnd { // what was said to its end is read to its end
			s.inErr = errBroken
		}
		s.forget()
	case frameCredit:
		if len(payload) != 4 {
			return errors.New("a credit that is no number")
		}
		if s.credit += int(binary.BigEndian.Uint32(payload)); s.credit > window {
			return fmt.Errorf("stream %d is given more credit than there is", id)
		}
	default:
		return fmt.Errorf("a frame of kind %d", kind)
	}
	if s.inEnd && s.outEnd {
		s.forget()
	}
	s.changed.Broadcast()
	return nil
}

func (c *Conn) write(kind byte, id uint32, payload []byte) error {
	c.writing.Lock()
	b := append(c.out[:0], kind)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	_, err := c.conn.Write(append(b, payload...))
	c.writing.Unlock()
	if err != nil { // half a frame may be out
		c.fail(err)
	}
	return err
}

func (c *Conn) open(ask []byte) (*Stream, error) {
	c.opening.Lock()
	defer c.opening.Unlock()
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return nil, c.err
	}
	c.last++
	s := newStream(c, c.last)
	c.streams[s.id] = s
	c.mu.Unlock()
	return s, c.write(frameOpen, s.id, ask)
}

// errBroken is what a stream ends with that the other end has given up.
var errBroken = errors.New("the other end has broken it off")

// Stream is bytes both ways. It is a net.Conn without deadlines.
type Stream struct {
	c   *Conn
	id  uint32
	ask []byte

	mu      sync.Mutex
	changed *sync.Cond
	in      [][]byte // what came and was not read
	waiting int      // bytes of it
	taken   int      // bytes that were read, and for which no credit was given yet
	inEnd   bool
	inErr   error
	credit  int // bytes that may be sent
	outEnd  bool
	outErr  error
}

func newStream(c *Conn, id uint32) *Stream {
	s := &Stream{c: c, id: id, credit: window}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inErr == nil && !s.inEnd {
		s.inErr = err
	}
	if s.outErr == nil {
		s.outErr = err
	}
	s.changed.Broadcast()
}

// forget is called, with s.mu held, when nothing more is heard of the stream.
func (s *Stream) forget() {
	s.c.mu.Lock()
	delete(s.c.streams, s.id)
	s.c.mu.Unlock()
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	for len(s.in) == 0 && s.inErr == nil && !s.inEnd {
		s.changed.Wait()
	}
	if len(s.in) == 0 {
		defer s.mu.Unlock()
		if s.inErr != nil {
			return 0, s.inErr
		}
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && len(s.in) > 0 {
		m := copy(p[n:], s.in[0])
		n += m
		if s.in[0] = s.in[0][m:]; len(s.in[0]) == 0 {
			s.in[0] = nil
			s.in = s.in[1:]
		}
	}
	s.waiting -= n
	s.taken += n
	credit := 0
	if s.taken >= window/2 && !s.inEnd && s.inErr == nil {
		credit, s.taken = s.taken, 0
	}
	s.mu.Unlock()
	if credit > 0 {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(credit))
		_ = s.c.write(frameCredit, s.id, b[:]) // a connection that is broken fails what is read next
	}
	return n, nil
}

// Write implements io.Writer.
func (s *Stream) Write(p []byte) (done int, err error) {
	for len(p) > 0 {
		s.mu.Lock()
		for s.credit == 0 && s.outErr == nil {
			s.changed.Wait()
		}
		if s.outErr != nil {
			defer s.mu.Unlock()
			return done, s.outErr
		}
		n := min(len(p), s.credit, maxFrame)
		s.credit -= n
		s.mu.Unlock()
		if err := s.c.write(frameData, s.id, p[:n]); err != nil {
			return done, err
		}
		done += n
		p = p[n:]
	}
	return done, nil
}

// CloseWrite says that no more is written.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	if s.outEnd || s.outErr != nil {
		defer s.mu.Unlock()
		return s.outErr
	}
	s.outEnd, s.outErr = true, io.ErrClosedPipe
	if s.inEnd {
		s.forget()
	}
	s.mu.Unlock()
	return s.c.write(frameEnd, s.id, nil)
}

// Close ends both ways. The other end hears of it unless both had said all.
func (s *Stream) Close() error {
	s.mu.Lock()
	over := s.outEnd && s.inEnd || s.inErr != nil
	s.inErr, s.outErr = net.ErrClosed, net.ErrClosed
	s.in, s.waiting = nil, 0
	s.changed.Broadcast()
	s.forget()
	s.mu.Unlock()
	if over {
		return nil
	}
	return s.c.write(frameBreak, s.id, nil)
}

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return s.c.conn.LocalAddr() }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return s.c.conn.RemoteAddr() }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
