package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	hostHeader    = "api.moby.localhost" // engines refuse an empty Host; Docker's client sends this one
	maxHeaderLine = 64 << 10             // bytes
	maxHeaders    = 256
)

// conn is one connection, HTTP/1.1 until it is hijacked.
type conn struct {
	net.Conn
	r      *bufio.Reader
	source atomic.Pointer[error] // why the stream of a request broke off
}

func newConn(nc net.Conn) *conn { return &conn{Conn: nc, r: bufio.NewReaderSize(nc, 4096)} }

func (cn *conn) writeRequest(c *Client, r *Request, body []byte, upgrade bool) error {
	b := make([]byte, 0, 512+len(body))
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, c.target(r)...)
	b = append(b, " HTTP/1.1\r\nHost: "+hostHeader+"\r\nUser-Agent: "...)
	b = append(b, c.userAgent...)
	b = append(b, "\r\n"...)
	for k, v := range r.Header {
		if strings.ContainsAny(k+v, "\r\n") {
			return errors.New("a line break in a header")
		}
		b = append(b, k+": "+v+"\r\n"...)
	}
	if upgrade {
		b = append(b, "Connection: Upgrade\r\nUpgrade: tcp\r\n"...)
	}
	switch {
	case r.Stream != nil:
		b = append(b, "Content-Type: "+r.Type+"\r\n"...)
		// The engine may answer while it reads (progress, or a refusal), so the body goes beside.
		if f, n := wholeFile(r.Stream); f != nil {
			b = append(b, "Content-Length: "...)
			b = strconv.AppendInt(b, n, 10)
			b = append(b, "\r\n\r\n"...)
			if _, err := cn.Write(b); err != nil {
				return err
			}
			go cn.writeFile(f, n)
			return nil
		}
		b = append(b, "Transfer-Encoding: chunked\r\n\r\n"...)
		if _, err := cn.Write(b); err != nil {
			return err
		}
		go cn.writeChunks(r.Stream)
		return nil
	case body != nil:
		b = append(b, "Content-Type: application/json\r\n"...)
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
		b = append(b, "\r\n\r\n"...)
		b = append(b, body...)
	case r.Method == "POST" || r.Method == "PUT":
		// Without it engines before 20.10 take an upgrade's first stdin bytes for a body.
		b = append(b, "Content-Length: 0\r\n\r\n"...)
	default:
		b = append(b, "\r\n"...)
	}
	_, err := cn.Write(b)
	return err
}

// Response is an engine's answer.
type Response struct {
	Status int
	Reason string // "404 Not Found"
	Body   io.ReadCloser

	header    map[string]string
	keepAlive bool
}

// Header returns the header of that name (case does not matter), or "".
func (r *Response) Header(name string) string { return r.header[strings.ToLower(name)] }

func (cn *conn) line() (string, error) {
	var long []byte
	for {
		b, err := cn.r.ReadSlice('\n')
		if err == bufio.ErrBufferFull {
			if long = append(long, b...); len(long) > maxHeaderLine {
				return "", errors.New("a header line is too long")
			}
			continue
		}
		if err != nil {
			if err == io.EOF && len(b)+len(long) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if long != nil {
			b = append(long, b...)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	}
}

func (cn *conn) readResponse(method string) (*Response, error) {
	for {
		resp, err := cn.readHead()
		if err != nil {
			return nil, err
		}
		if resp.Status >= 100 && resp.Status < 200 && resp.Status != 101 {
			continue
		}
		b := &body{}
		resp.Body = b
		switch {
		case method == "HEAD" || resp.Status == 101 || resp.Status == 204 || resp.Status == 304:
			b.r = eof{}
		case strings.EqualFold(resp.Header("Transfer-Encoding"), "chunked"):
			b.r = &chunked{cn: cn}
		case resp.Header("Content-Length") != "":
			n, err := strconv.ParseInt(resp.Header("Content-Length"), 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("bad Content-Length %q", resp.Header("Content-Length"))
			}
			b.r = &exact{cn, n}
		default:
			b.r, resp.keepAlive = cn.r, false
		}
		return resp, nil
	}
}

func (cn *conn) readHead() (*Response, error) {
	first, err := cn.line()
	if err != nil {
		return nil, err
	}
	proto, rest, ok := strings.Cut(first, " ")
	if !ok || !strings.HasPrefix(proto, "HTTP/1.") {
		return nil, fmt.Errorf("malformed HTTP response %.40q", first)
	}
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if err != nil || status < 100 || status > 999 {
		return nil, fmt.Errorf("malformed HTTP status %.40q", rest)
	}
	resp := &Response{Status: status, Reason: rest, header: make(map[string]string, 12), keepAlive: proto == "HTTP/1.1"}
	for range maxHeaders {
		l, err := cn.line()
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if l == "" {
			if strings.EqualFold(resp.Header("Connection"), "close") {
				resp.keepAlive = false
			}
			return resp, nil
		}
		k, v, ok := strings.Cut(l, ":")
		if !ok {
			return nil, fmt.Errorf("malformed HTTP header %.40q", l)
		}
		resp.header[strings.ToLower(k)] = strings.TrimSpace(v)
	}
	return nil, errors.New("too many HTTP headers")
}

// body tells its connection whether it was read to its end.
type body struct {
	r      io.Reader
	ctx    context.Context
	finish func(whole bool)
	done   bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	switch {
	case err == io.EOF:
		b.end(true)
	case err != nil:
		b.end(false)
		if b.ctx != nil && b.ctx.Err() != nil {
			err = b.ctx.Err()
		}
	}
	return n, err
}

// WriteTo hands on what is left of the body; to a file, from a unix socket, the kernel moves it (splice(2)).
func (b *body) WriteTo(w io.Writer) (n int64, err error) {
	var buf []byte
	if f, ok := w.(*os.File); ok && !splices(f) {
		w = struct{ io.Writer }{w}
	}
	for {
		var m int64
		switch r := b.r.(type) {
		case *exact:
			m, err = r.cn.moveTo(w, r.n, &buf)
			if r.n -= m; r.n <= 0 && err == nil {
				err = io.EOF
			}
		case *chunked:
			if err = r.err; err == nil && r.left == 0 {
				err = r.next()
			}
			if err == nil {
				m, err = r.cn.moveTo(w, int64(r.left), &buf)
				r.left -= uint64(m)
			}
			r.err = err
		default:
			if buf == nil {
				buf = make([]byte, moveBuffer)
			}
			var k int
			k, err = r.Read(buf)
			if k > 0 {
				k, werr := w.Write(buf[:k])
				if m = int64(k); werr != nil {
					err = werr
				}
			}
		}
		n += m
		if err == io.EOF {
			b.end(true)
			return n, nil
		}
		if err != nil {
			b.end(false)
			if b.ctx != nil && b.ctx.Err() != nil {
				err = b.ctx.Err()
			}
			return n, err
		}
	}
}

const moveBuffer = 256 << 10

// moveTo copies up to n bytes from the connection: something, or an error.
func (cn *conn) moveTo(w io.Writer, n int64, buf *[]byte) (int64, error) {
	if n <= 0 {
		return 0, nil
	}
	if have := int64(cn.r.Buffered()); have > 0 {
		p, _ := cn.r.Peek(int(min(have, n)))
		m, err := w.Write(p)
		cn.r.Discard(m)
		return int64(m), err
	}
	var m int64
	var err error
	if f, ok := w.(*os.File); ok {
		m, err = f.ReadFrom(&io.LimitedReader{R: cn.Conn, N: n})
	} else {
		if *buf == nil {
			*buf = make([]byte, moveBuffer)
		}
		m, err = io.CopyBuffer(struct{ io.Writer }{w}, &io.LimitedReader{R: cn.Conn, N: n}, *buf)
	}
	if err == nil && m < n {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

func (b *body) Close() error {
	if b.done {
		return nil
	}
	// The last bytes (a chunked body's end) are often still unread though the caller has all it needs.
	var p [1]byte
	if c, ok := b.r.(*chunked); ok && c.left == 0 && c.cn.r.Buffered() > 0 {
		b.Read(p[:])
	} else if e, ok := b.r.(*exact); ok && e.n == 0 {
		b.end(true)
	} else if _, ok := b.r.(eof); ok {
		b.end(true)
	}
	b.end(false)
	return nil
}

func (b *body) end(whole bool) {
	if !b.done && b.finish != nil {
		b.done = true
		b.finish(whole)
	}
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// exact reads a body of known length.
type exact struct {
	cn *conn
	n  int64
}

func (e *exact) Read(p []byte) (int, error) {
	if e.n <= 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.n {
		p = p[:e.n]
	}
	n, err := e.cn.r.Read(p)
	e.n -= int64(n)
	if err == io.EOF && e.n > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunked reads a chunked body (RFC 9112, section 7.1).
type chunked struct {
	cn    *conn
	left  uint64 // bytes of the chunk under way
	begun bool
	err   error
}

func (c *chunked) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	if c.left == 0 {
		if c.err = c.next(); c.err != nil {
			return 0, c.err
		}
	}
	if uint64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.cn.r.Read(p)
	c.left -= uint64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.err = err
	return n, err
}

func (c *chunked) next() error {
	broken := func(err error) error {
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if c.begun {
		l, err := c.cn.line()
		if err != nil {
			return broken(err)
		}
		if l != "" {
			return errors.New("malformed chunk")
		}
	}
	c.begun = true
	l, err := c.cn.line()
	if err != nil {
		return broken(err)
	}
	size, _, _ := strings.Cut(l, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 63)
	if err != nil {
		return fmt.Errorf("malformed chunk size %.20q", l)
	}
	if n > 0 {
		c.left = n
		return nil
	}
	for range maxHeaders { // trailers
		l, err := c.cn.line()
		if err != nil {
			return broken(err)
		}
		if l == "" {
			return io.EOF
		}
	}
	return errors.New("too many trailers")
}
