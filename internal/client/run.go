package client

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/container"

	"gantry/internal/runstream"
)

// RunOptions say what is wanted beside the create: streams, and a wait ("": none).
type RunOptions struct {
	Attach AttachOptions
	Wait   string
}

// Run is a container that the engine starts, attaches and waits for unasked: see package runstream.
type Run struct {
	*Stream
	started chan error
	ended   chan WaitResult
}

// WaitResult is the end of a container, or why it is not known.
type WaitResult struct {
	Response container.WaitResponse
	Err      error
}

// hearOut is how long whoever is interrupted waits for the engine's word whether there is a container already, which would then have to
// be told of the interruption.
const hearOut = 2 * time.Second

// ContainerRun creates a container and has it run. An engine that knows only how to create does that, and the Run is nil.
func (c *Client) ContainerRun(ctx context.Context, name, platform string, req container.CreateRequest, o RunOptions) (out container.CreateResponse, run *Run, err error) {
	wishes := attachQuery(o.Attach)
	set(wishes, "wait", o.Wait)
	r := createRequest(name, platform, req)
	r.Header = map[string]string{runstream.Header: wishes.Encode()}
	out, run, err = c.run(ctx, &r)
	if c.tooNew(err) {
		if err := c.Negotiate(ctx); err != nil {
			return out, nil, err
		}
		out, run, err = c.run(ctx, &r)
	}
	return out, run, err
}

func (c *Client) run(ctx context.Context, r *Request) (out container.CreateResponse, run *Run, err error) {
	if err := ctx.Err(); err != nil {
		return out, nil, err
	}
	p, err := c.send(context.WithoutCancel(ctx), r, true)
	if err != nil {
		return out, nil, err
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		p.cn.SetReadDeadline(time.Now().Add(hearOut))
		close(cut)
	})
	out, run, err = p.run()
	if !stop() {
		<-cut
		p.cn.SetReadDeadline(time.Time{})
		if err != nil {
			err = ctx.Err()
		}
	}
	return out, run, err
}

func (p *Pending) run() (out container.CreateResponse, run *Run, err error) {
	resp, err := p.Receive()
	if err != nil {
		return out, nil, err
	}
	if resp.Status != 101 {
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		return out, nil, err
	}
	s := &Stream{cn: p.cn, mediaType: resp.Header("Content-Type"), stop: p.stop}
	if err := readFrame(s, runstream.Created, &out); err != nil {
		s.Close()
		return out, nil, err
	}
	return out, &Run{Stream: s, started: make(chan error, 1), ended: make(chan WaitResult, 1)}, nil
}

// readFrame reads one frame, which must be of that stream, into v.
func readFrame(r io.Reader, stream byte, v any) error {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[4:])
	if head[0] != stream || n > maxErrorBody {
		return errors.New("the engine's answer makes no sense")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// Copy hands the output on, until the run's stream ends; then Started and Ended have been answered, whatever became of it. A container
// with a terminal has all its output on stdout. A nil writer drops its stream.
func (r *Run) Copy(stdout, stderr io.Writer) error {
	started, ended := false, false
	err := demux(stdout, stderr, r.Stream, func(kind byte, payload []byte) error {
		switch kind {
		case runstream.Started:
			var o runstream.Outcome
			if err := json.Unmarshal(payload, &o); err != nil {
				return err
			}
			var refused error
			if o.Status != 0 {
				refused = &Error{o.Status, o.Message}
			}
			if !started {
				started = true
				r.started <- refused
			}
		case runstream.Ended:
			var w container.WaitResponse
			if err := json.Unmarshal(payload, &w); err != nil {
				return err
			}
			ended = true
			r.ended <- WaitResult{Response: w}
			return io.EOF // nothing follows
		}
		return nil
	})
	if ended {
		err = nil
	}
	broken := err
	if broken == nil {
		broken = io.ErrUnexpectedEOF
	}
	if !started {
		r.started <- &streamError{fmt.Errorf("error during connect: %w", broken)}
	}
	if !ended {
		r.ended <- WaitResult{Err: broken}
	}
	return err
}

// Started waits until the container runs, or returns why it does not. Somebody must be copying.
func (r *Run) Started(ctx context.Context) error {
	select {
	case err := <-r.started:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Ended gives the container's end, once.
func (r *Run) Ended() <-chan WaitResult { return r.ended }
