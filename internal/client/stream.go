package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Stream is a hijacked connection: raw bytes both ways. Reads give what the engine sends.
type Stream struct {
	cn        *conn
	mediaType string
	stop      func() bool
}

// Upgrade sends r and takes the connection over.
func (c *Client) Upgrade(ctx context.Context, r Request) (*Stream, error) {
	s, err := c.upgrade(ctx, &r)
	if c.tooNew(err) {
		if err := c.Negotiate(ctx); err != nil {
			return nil, err
		}
		return c.upgrade(ctx, &r)
	}
	return s, err
}

func (c *Client) upgrade(ctx context.Context, r *Request) (*Stream, error) {
	p, err := c.send(ctx, r, true)
	if err != nil {
		return nil, err
	}
	return p.Stream()
}

// Stream reads the head of the response of a request that was sent to be upgraded.
func (p *Pending) Stream() (*Stream, error) {
	resp, err := p.Receive()
	if err != nil {
		return nil, err
	}
	// Engines that predate 101 answer 200 and go on raw all the same.
	if resp.Status != 101 && resp.Status != 200 {
		resp.Body.Close()
		return nil, fmt.Errorf("unable to upgrade to tcp, received %d", resp.Status)
	}
	return &Stream{cn: p.cn, mediaType: resp.Header("Content-Type"), stop: p.stop}, nil
}

// Read reads what the engine sends, after the response's head.
func (s *Stream) Read(p []byte) (int, error) { return s.cn.r.Read(p) }

// WriteTo lets io.Copy use the buffer that is already filled, and splice after it where the kernel can.
func (s *Stream) WriteTo(w io.Writer) (int64, error) { return s.cn.r.WriteTo(w) }

// Write sends to the container's stdin.
func (s *Stream) Write(p []byte) (int, error) { return s.cn.Conn.Write(p) }

// ReadFrom copies r to the container's stdin.
func (s *Stream) ReadFrom(r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{s.cn.Conn}, r, make([]byte, 64<<10))
}

// CloseWrite says that stdin has ended; output still flows.
func (s *Stream) CloseWrite() error {
	if c, ok := s.cn.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Conn returns the connection, for what is more than bytes both ways. Reads through it begin with what came already.
func (s *Stream) Conn() net.Conn { return buffered{s.cn.Conn, s.cn.r} }

type buffered struct {
	net.Conn
	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Close ends both ways.
func (s *Stream) Close() error {
	s.stop()
	return s.cn.Close()
}

// Demux splits a stream of Docker's frames (one byte of stream number, three zero, four of length in big endian,
// then the bytes) until its end. A nil writer drops its stream. It never holds more than a buffer of a frame,
// however long the engine says the frame is.
func Demux(stdout, stderr io.Writer, r io.Reader) error {
	return demux(stdout, stderr, r, nil)
}

// demux is Demux that gives frames of other streams than Docker's to control, whole.
func demux(stdout, stderr io.Writer, r io.Reader, control func(kind byte, payload []byte) error) error {
	buf := make([]byte, 32<<10)
	have := 0 // bytes of buf in use
	pos := 0
	for {
		for have-pos < 8 {
			if pos > 0 {
				have = copy(buf, buf[pos:have])
				pos = 0
			}
			n, err := r.Read(buf[have:])
			have += n
			if err != nil && have < 8 {
				if err == io.EOF {
					return nil
				}
				return err
			}
		}
		kind := buf[pos]
		left := int64(binary.BigEndian.Uint32(buf[pos+4 : pos+8]))
		pos += 8
		var w io.Writer
		var fault []byte
		whole := kind == 3
		switch kind {
		case 0, 1:
			w = stdout
		case 2:
			w = stderr
		case 3: // the engine's own error, in band
		default:
			if whole = control != nil; !whole {
				return fmt.Errorf("unrecognized stream: %d", kind)
			}
		}
		for left > 0 {
			if pos == have {
				n, err := r.Read(buf)
				pos, have = 0, n
				if n == 0 && err != nil {
					if err == io.EOF {
						return nil
					}
					return err
				}
				continue
			}
			n := min(int64(have-pos), left)
			part := buf[pos : pos+int(n)]
			if whole {
				if len(fault) < maxErrorBody {
					fault = append(fault, part...)
				}
			} else if w != nil {
				if _, err := w.Write(part); err != nil {
					return err
				}
			}
			pos += int(n)
			left -= n
		}
		switch {
		case kind == 3:
			return errors.New("error from daemon in stream: " + string(fault))
		case whole:
			if err := control(kind, fault); err != nil {
				return err
			}
		}
	}
}
