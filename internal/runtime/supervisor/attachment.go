package supervisor

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"

	"gantry/internal/runtime/supervisor/protocol"
)

// Frame is a piece of one stream.
type Frame struct {
	Stream int    // Stdout or Stderr; a terminal's output is Stdout
	Offset uint64 // of its first byte in the stream
	Data   []byte // valid until the next call of Next
}

// Attachment is a reader of a process's output. While it is not read, the process stops at its next write, when the
// buffers (some 200 KiB) are full. It lives on over the death of the supervisor.
type Attachment struct {
	k    *Keeper
	id   string
	want [3]bool
	ctx  context.Context
	quit context.CancelFunc

	// Next's own:
	buf       []byte
	stream    int
	left      uint32 // bytes of the current frame not yet read
	next      [3]uint64
	completed [3]bool

	mu     sync.Mutex
	conn   *os.File
	closed bool
}

// Attach returns a reader of the streams asked for, from now on; see Launch for how to see all.
func (k *Keeper) Attach(ctx context.Context, id string, stdout, stderr bool) (*Attachment, error) {
	a := &Attachment{k: k, id: id, want: [3]bool{Stdout: stdout, Stderr: stderr}, buf: make([]byte, 32<<10)}
	a.ctx, a.quit = context.WithCancel(k.ctx)
	err := k.again(ctx, func(c *Client) error {
		socket, offsets, err := c.Attach(ctx, id, stdout, stderr, nil)
		if err != nil {
			return err
		}
		// Registered while c is still the current client, or recovery would not count it in.
		k.mu.Lock()
		defer k.mu.Unlock()
		p := k.procs[id]
		if p == nil || k.client != c {
			os.NewFile(uintptr(socket), "attach").Close()
			if p == nil {
				return noProcess(id)
			}
			return ErrGone
		}
		if p.attached == nil {
			p.attached = make(map[*Attachment]struct{})
		}
		p.attached[a] = struct{}{}
		a.conn = os.NewFile(uintptr(socket), "attach")
		a.next[Stdout], a.next[Stderr] = offsets[0], offsets[1]
		return nil
	})
	if err != nil {
		a.quit()
		return nil, err
	}
	return a, nil
}

// Next returns the next piece of output, or io.EOF when every stream asked for has ended.
func (a *Attachment) Next() (Frame, error) {
	for {
		f, err := a.read()
		if err == nil && f.Data == nil {
			continue // the end of one stream
		}
		if err == nil || a.ended() {
			return f, err
		}
		a.mu.Lock()
		closed := a.closed
		a.mu.Unlock()
		if closed {
			return Frame{}, os.ErrClosed
		}
		if err := a.rejoin(); err != nil {
			return Frame{}, err
		}
	}
}

func (a *Attachment) ended() bool {
	return (!a.want[Stdout] || a.completed[Stdout]) && (!a.want[Stderr] || a.completed[Stderr])
}

func (a *Attachment) read() (Frame, error) {
	if a.ended() {
		return Frame{}, io.EOF
	}
	if a.left == 0 {
		var h [protocol.FrameHeader]byte
		if _, err := io.ReadFull(a.conn, h[:]); err != nil {
			return Frame{}, err
		}
		a.stream = int(h[0])
		offset := binary.BigEndian.Uint64(h[8:])
		if a.stream != Stdout && a.stream != Stderr || offset != a.next[a.stream] {
			return Frame{}, errors.New("supervisor: a frame out of order")
		}
		if h[1]&protocol.FlagEnd != 0 {
			a.completed[a.stream] = true
			if a.ended() {
				return Frame{}, io.EOF
			}
			return Frame{}, nil
		}
		a.left = binary.BigEndian.Uint32(h[4:])
		if a.left == 0 {
			return Frame{}, nil
		}
	}
	n, err := a.conn.Read(a.buf[:min(int(a.left), len(a.buf))])
	if n <= 0 {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	f := Frame{Stream: a.stream, Offset: a.next[a.stream], Data: a.buf[:n]}
	a.left -= uint32(n)
	a.next[a.stream] += uint64(n)
	return f, nil
}

// rejoin attaches to the supervisor that took over, from where this reader stands, and lets the streams
// flow when all readers of the process are back.
func (a *Attachment) rejoin() error {
	a.left = 0
	var with *Client
	err := a.k.again(a.ctx, func(c *Client) error {
		socket, _, err := c.Attach(a.ctx, a.id, a.want[Stdout] && !a.completed[Stdout], a.want[Stderr] && !a.completed[Stderr],
			[]uint64{a.next[Stdout], a.next[Stderr]})
		if err != nil {
			return err
		}
		a.mu.Lock()
		old := a.conn
		a.conn = os.NewFile(uintptr(socket), "attach")
		a.mu.Unlock()
		old.Close()
		with = c
		return nil
	})
	a.k.rejoined(a, with)
	return err
}

// rejoined counts a reader that came back to the supervisor of with, or (nil) never will.
func (k *Keeper) rejoined(a *Attachment, with *Client) {
	k.mu.Lock()
	p, c := k.procs[a.id], k.client
	resume := false
	// If that supervisor has died meanwhile too, this reader is lost once more: it reads what the socket has, and comes again.
	if p != nil && (with == nil || with == c) {
		if _, ok := p.lost[a]; ok {
			delete(p.lost, a)
			resume = len(p.lost) == 0 && !p.paused
		}
	}
	k.mu.Unlock()
	if resume && c != nil {
		c.Resume(k.ctx, a.id) // if it dies again, the next one is told when it adopts
	}
}

// Copy writes the output to the writers until its end, or an error of one of them.
func (a *Attachment) Copy(stdout, stderr io.Writer) error {
	for {
		f, err := a.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		w := stdout
		if f.Stream == Stderr {
			w = stderr
		}
		if _, err := w.Write(f.Data); err != nil {
			return err
		}
	}
}

// Close detaches: the process goes on.
func (a *Attachment) Close() {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.closed = true
	conn := a.conn
	a.mu.Unlock()
	conn.Close()
	a.quit()
	a.k.mu.Lock()
	p := a.k.procs[a.id]
	if p != nil {
		delete(p.attached, a)
	}
	a.k.mu.Unlock()
	a.k.rejoined(a, nil)
}
