package api

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	mobytypes "github.com/moby/moby/api/types"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/kernel/peer"
)

// linger is how long a finished attachment waits for the client to close its side.
const linger = 10 * time.Second

// stream is the two-way byte stream of an attachment or an exec: a connection taken over from HTTP/1.1,
// or the bodies of a request and its reply where a client speaks HTTP/2 or sends stdin as a chunked body.
type stream struct {
	in    io.Reader
	out   io.Writer
	flush func()   // nil where writes go out by themselves
	conn  net.Conn // taken over; nil over bodies
	close func()
	watch func(gone func()) (stop func()) // for the client's hanging up
}

// takeOver makes of the request a stream, and replies as Docker does: 101 UPGRADED where the client asked for an
// upgrade, else 200 and raw bytes. multiplexed says that output will be framed.
func (s *Server) takeOver(c *call, multiplexed bool) (*stream, error) {
	kind := mobytypes.MediaTypeRawStream
	if multiplexed && c.version >= v(42) {
		kind = mobytypes.MediaTypeMultiplexedStream
	}
	_, upgrade := c.r.Header["Upgrade"]
	if c.r.ProtoMajor != 1 || !upgrade && c.r.ContentLength == -1 {
		return overBodies(c, kind)
	}
	h, ok := c.w.(http.Hijacker)
	if !ok {
		return nil, errs.Invalid.Errorf("this connection cannot be taken over")
	}
	conn, rw, err := h.Hijack()
	if err != nil {
		return nil, errs.Internal.Errorf("take over the connection: %w", err)
	}
	s.hold(conn)
	// Docker says raw-stream here whatever follows: such clients look at Tty instead.
	head := "HTTP/1.1 200 OK\r\nContent-Type: " + mobytypes.MediaTypeRawStream + "\r\n\r\n"
	if upgrade {
		head = "HTTP/1.1 101 UPGRADED\r\nContent-Type: " + kind + "\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: " + maxVersion.String() + "\r\n\r\n"
	}
	// docker-py reads the header through a buffer and the stream past it, from the socket: output that comes close behind
	// the header, in the same read, would be lost to it. Docker takes so long to start an exec that it hardly ever is.
	if err := peer.WriteApart(conn, []byte(head)); err != nil {
		s.letGo(conn)
		conn.Close()
		return nil, errs.Canceled.Wrap(err)
	}
	st := &stream{watch: func(gone func()) func() { return s.watch(conn, gone) }, in: conn, out: conn, conn: conn, close: func() { s.letGo(conn); conn.Close() }}
	if n := rw.Reader.Buffered(); n > 0 { // a client may send stdin with its request
		st.in = io.MultiReader(io.LimitReader(rw.Reader, int64(n)), conn)
	}
	return st, nil
}

// overBodies uses the request's body as stdin while the reply is being written.
func overBodies(c *call, kind string) (*stream, error) {
	if err := fullDuplex(c); err != nil {
		return nil, errs.Internal.Errorf("stream over bodies: %w", err)
	}
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(200)
	c.flush()
	return &stream{in: c.r.Body, out: c.w, flush: c.flush, close: func() {}, watch: func(func()) func() { return func() {} }}, nil
}

// fullDuplex lets a handler reply before it has read the whole body. HTTP/2 always does.
func fullDuplex(c *call) error {
	if c.r.ProtoMajor != 1 {
		return nil
	}
	return http.NewResponseController(c.w).EnableFullDuplex()
}

// closeWrite tells the client that no more output comes, and leaves its side open.
func (s *stream) closeWrite() {
	if h, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite()
	}
}

// pump moves bytes both ways until the output ends, the client detaches or goes away. It closes the
// attachment and the stream.
func (s *stream) pump(a *container.Attachment, multiplexed bool) {
	// Without input and output nothing else would tell that the client is gone, for ever.
	stop := s.watch(func() { a.Output.Close() })
	input := s.copyIn(a)
	s.copyOut(a, &framer{w: s.out, plain: !multiplexed})
	a.Output.Close()   // lets go of a write to a process that does not read
	if s.conn == nil { // the reply ends with the handler
		return
	}
	s.finish(input, stop)
}

// copyIn feeds the process with what the client sends. The channel is closed at the end of that.
func (s *stream) copyIn(a *container.Attachment) <-chan struct{} {
	input := make(chan struct{})
	go func() {
		defer close(input)
		if a.Stdin != nil {
			_, err := io.Copy(a.Stdin, s.in)
			a.Stdin.Close() // the process sees the end of its input
			if errors.Is(err, container.ErrDetached) {
				return
			}
		}
		// The process takes no more, or never did: what the client still sends is read, so that closing the
		// socket does not turn the output's end into a reset at its side.
		_, _ = io.Copy(io.Discard, s.in)
	}()
	return input
}

// copyOut hands the output on until it ends.
func (s *stream) copyOut(a *container.Attachment, f *framer) {
	for {
		which, p, err := a.Output.Next()
		if err != nil {
			return
		}
		if f.write(which, p) != nil {
			return
		}
		if s.flush != nil {
			s.flush()
		}
	}
}

// finish closes a connection that was taken over: when the client has, or has not for long. input is copyIn's, stop ends the watch.
func (s *stream) finish(input <-chan struct{}, stop func()) {
	s.closeWrite()
	_ = s.conn.SetReadDeadline(time.Now().Add(linger))
	<-input
	stop()
	s.close()
}

// framer writes output in Docker's stdcopy format: a header of one byte for the stream, three of zero
// and four of length (big endian) before each piece. With plain set, nothing but the bytes.
type framer struct {
	w     io.Writer
	plain bool
	head  [8]byte
	vec   [2][]byte
}

// maxFrame bounds a frame's payload; readers allocate it whole.
const maxFrame = 1 << 20

func (f *framer) write(which byte, p []byte) error {
	if f.plain {
		_, err := f.w.Write(p)
		return err
	}
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		f.head[0] = which
		binary.BigEndian.PutUint32(f.head[4:], uint32(n))
		f.vec[0], f.vec[1] = f.head[:], p[:n]
		b := net.Buffers(f.vec[:]) // one writev(2) where w is a socket
		if _, err := b.WriteTo(f.w); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// flusher is a buffered writer over a reply that sends what it holds as soon as nobody is writing: lines
// of a busy log go out together, a lone line at once.
type flusher struct {
	mu    sync.Mutex
	buf   *bufio.Writer
	flush func()
	dirty chan struct{}
	err   error
}

func newFlusher(w io.Writer, flush func()) *flusher {
	f := &flusher{buf: bufio.NewWriterSize(w, 32<<10), flush: flush, dirty: make(chan struct{}, 1)}
	go func() {
		for range f.dirty {
			f.mu.Lock()
			f.send()
			f.mu.Unlock()
		}
	}()
	return f
}

func (f *flusher) send() {
	if f.buf.Buffered() > 0 && f.err == nil {
		if f.err = f.buf.Flush(); f.err == nil {
			f.flush()
		}
	}
}

// do lets fn write, and sees that it is sent.
func (f *flusher) do(fn func(io.Writer) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = fn(f.buf)
	}
	select {
	case f.dirty <- struct{}{}:
	default:
	}
	return f.err
}

// end sends the rest. Nothing may be written afterwards.
func (f *flusher) end() {
	close(f.dirty)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.send()
	f.err = io.ErrClosedPipe // the goroutine may wake up once more, after the handler has returned
}
