package container

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"

	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

// Attach attaches to the running (or about to run) container.
func (s *Service) Attach(ctx context.Context, ref string, o AttachOptions) (*Attachment, error) {
	keys, err := parseDetachKeys(o.DetachKeys)
	if err != nil {
		return nil, err
	}
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	snap := c.get()
	switch snap.Status {
	case Paused:
		return nil, errs.Conflict.Errorf("container %s is paused, unpause the container before attach", ref)
	case Restarting:
		return nil, errs.Conflict.Errorf("container %s is restarting, wait until the container is running", ref)
	}
	a := newAttachment(snap.Config.Tty, o.Stdin && snap.Config.OpenStdin, o.Stdout, o.Stderr, keys)
	a.onDetach = func() { s.event(c.snap.Load(), "detach") }
	a.onClose = func() { c.detach(a) }
	a.closeStdin = func() {
		// Docker's rule: with StdinOnce the process sees the end of its input; otherwise the client leaves.
		if snap.Config.StdinOnce && !snap.Config.Tty {
			// Every copy of the write end has to go, those of the others who are attached too.
			for _, other := range c.takeEarly() {
				other.dropStdin()
			}
			s.closeStdin(c.id)
		} else {
			a.finish(nil)
		}
	}
	if o.Logs {
		if err := s.logsFirst(ctx, a, &snap, o); err != nil {
			return nil, err
		}
	}
	s.event(&snap, "attach")
	if !o.Stream {
		a.finish(nil)
		return a.handle(), nil
	}
	// In the goroutine, so that no start slips between looking at the status and waiting for the start.
	err = c.do(ctx, func() error {
		c.mu.Lock()
		if c.gone {
			c.mu.Unlock()
			return errNoSuch(ref)
		}
		c.attached[a] = struct{}{}
		c.mu.Unlock()
		if c.now.Status == Running {
			a.join(s.ctx, s.Processes, c.id)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { a.Close() })
	return a.handle(), nil
}

func (s *Service) closeStdin(id string) {
	if err := s.Processes.CloseStdin(s.ctx, id); err != nil && !errs.NotFound.Is(err) && !errs.Conflict.Is(err) {
		s.Log.Warn("closing stdin failed", "id", id, "err", err)
	}
}

// logsFirst gives a what the log holds already.
func (s *Service) logsFirst(ctx context.Context, a *attachment, snap *Snapshot, o AttachOptions) error {
	r, err := s.openLog(snap, LogOptions{Stdout: o.Stdout, Stderr: o.Stderr, Tail: -1}, nil)
	if err != nil {
		return err
	}
	a.before = r
	return nil
}

// takeEarly returns those who attached before the start.
func (c *container) takeEarly() []*attachment {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*attachment, 0, len(c.attached))
	for a := range c.attached {
		list = append(list, a)
	}
	return list
}

// detach drops a from the list.
func (c *container) detach(a *attachment) {
	c.mu.Lock()
	delete(c.attached, a)
	c.mu.Unlock()
}

// endAttached ends all attachments once they have had all output.
func (c *container) endAttached() {
	for _, a := range c.takeEarly() {
		c.detach(a)
		a.end()
	}
}

// attachment is one client's hold on the streams of a container or an exec. It may be made before there is a
// process; join then gives it the streams.
type attachment struct {
	tty                   bool
	stdin, stdout, stderr bool
	keys                  detacher
	before                LogReader // what comes ahead of the stream; nil: nothing
	begun                 bool      // Next's own: before is at its end

	onDetach, onClose, closeStdin func()
	waitEnd                       <-chan struct{} // an exec's: the end is told only when the exit code is known

	joined chan struct{} // closed when out and in are set, or there will be none
	once   sync.Once

	mu  sync.Mutex
	out *supervisor.Attachment
	in  *os.File
	err error // of joining

	drained   chan struct{} // closed when Next has met the end of the output
	drainOnce sync.Once

	left     chan struct{} // closed when the client leaves or is let go
	leftOnce sync.Once
	leftErr  error // what Output.Next says then

	closed sync.Once
	held   []byte // scratch of Write
}

func newAttachment(tty, stdin, stdout, stderr bool, keys []byte) *attachment {
	if tty {
		stderr = false // a terminal has one output
	}
	return &attachment{tty: tty, stdin: stdin, stdout: stdout, stderr: stderr, keys: detacher{keys: keys}, joined: make(chan struct{}), left: make(chan struct{}), drained: make(chan struct{}),
		onDetach: func() {}, onClose: func() {}, closeStdin: func() {}}
}

func (a *attachment) handle() *Attachment {
	h := &Attachment{Terminal: a.tty, Output: a}
	if a.stdin {
		h.Stdin = (*attachedStdin)(a)
	}
	return h
}

// join gives the streams of the process id to a.
func (a *attachment) join(ctx context.Context, k *supervisor.Keeper, id string) {
	a.once.Do(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		defer close(a.joined)
		if a.stdout || a.stderr {
			a.out, a.err = k.Attach(ctx, id, a.stdout, a.stderr)
		}
		if a.stdin {
			// It may be closed already: what the client sends goes nowhere then.
			a.in, _ = k.Stdin(id)
		}
	})
}

// end tells that the process is gone: with no streams joined nothing will come.
func (a *attachment) end() {
	a.once.Do(func() { close(a.joined) })
	a.dropStdin()
	a.mu.Lock()
	out := a.out
	a.mu.Unlock()
	if out == nil {
		a.finish(nil)
	}
}

// finish lets the client go: Next returns err, or io.EOF.
func (a *attachment) finish(err error) {
	a.leftOnce.Do(func() {
		if err == nil {
			err = io.EOF
		}
		a.leftErr = err
		close(a.left)
		a.once.Do(func() { close(a.joined) })
		a.dropStdin()
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.out != nil {
			a.out.Close()
		}
	})
}

// Next hands out what the process writes.
func (a *attachment) Next() (byte, []byte, error) {
	if a.before != nil && !a.begun {
		line, err := a.before.Next()
		if err == nil {
			return line.Stream, line.Text, nil
		}
		a.begun = true
		if !errors.Is(err, io.EOF) {
			return 0, nil, err
		}
	}
	select {
	case <-a.joined:
	case <-a.left:
		return 0, nil, a.leftErr
	}
	a.mu.Lock()
	out, err := a.out, a.err
	a.mu.Unlock()
	if err == nil && out == nil {
		// Stdin alone: it lasts as long as the process.
		<-a.left
		return 0, nil, a.leftErr
	}
	var f supervisor.Frame
	if err == nil {
		if f, err = out.Next(); err == nil {
			return byte(f.Stream), f.Data, nil
		}
	}
	select {
	case <-a.left:
		return 0, nil, a.leftErr
	default:
	}
	if errs.NotFound.Is(err) || errs.Conflict.Is(err) {
		err = io.EOF // it ended before it could be attached to
	}
	if errors.Is(err, io.EOF) && a.waitEnd != nil {
		// `docker exec` asks for the exit code as soon as the output ends: it must be known by then.
		a.drainOnce.Do(func() { close(a.drained) })
		select {
		case <-a.waitEnd:
		case <-a.left:
			return 0, nil, a.leftErr
		}
	}
	return 0, nil, err
}

// Close ends the client's hold; the process goes on.
func (a *attachment) Close() error {
	a.closed.Do(func() {
		a.finish(os.ErrClosed)
		a.onClose()
		if a.before != nil {
			a.before.Close()
		}
	})
	return nil
}

// dropStdin closes this attachment's copy of stdin's write end.
func (a *attachment) dropStdin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.in != nil {
		a.in.Close()
		a.in = nil
	}
}

// attachedStdin is the writing side of an attachment.
type attachedStdin attachment

// Write feeds the process. It waits for the start, and while the process does not read.
func (w *attachedStdin) Write(p []byte) (int, error) {
	a := (*attachment)(w)
	select {
	case <-a.joined:
	case <-a.left:
		return 0, io.ErrClosedPipe
	}
	out, detached := p, false
	if a.tty {
		out, detached = a.keys.filter(a.held[:0], p)
		a.held = out
	}
	if len(out) > 0 {
		a.mu.Lock()
		in := a.in
		a.mu.Unlock()
		if in == nil {
			if !detached {
				return 0, io.ErrClosedPipe
			}
		} else if _, err := in.Write(out); err != nil && !detached {
			return 0, err
		}
	}
	if detached {
		a.onDetach()
		a.finish(ErrDetached)
		return 0, ErrDetached
	}
	return len(p), nil
}

// Close tells that the client sends no more.
func (w *attachedStdin) Close() error {
	a := (*attachment)(w)
	select {
	case <-a.joined:
	case <-a.left:
		return nil
	}
	a.mu.Lock()
	in := a.in
	a.mu.Unlock()
	if in == nil {
		return nil
	}
	if rest := a.keys.rest(); len(rest) > 0 {
		in.Write(rest)
	}
	// First the file, then the supervisor's write end: the process reads the end when the last one is closed.
	a.dropStdin()
	a.closeStdin()
	return nil
}
