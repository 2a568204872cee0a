package container

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"gantry/internal/cli/command"
	"gantry/internal/cli/iostreams"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// session joins the caller's streams with a container's or an exec's.
type session struct {
	io                    *iostreams.Streams
	stream                *client.Stream
	all                   *client.Run // set where the engine does the whole run by stream
	stdin, stdout, stderr bool
	tty                   bool
	keys                  []byte
}

// run copies until the output ends (nil), the user types the detach sequence (parse.ErrDetached), or ctx ends. Where no output is attached,
// the end of the input is the end.
func (s *session) run(ctx context.Context) error {
	restore := func() {}
	if s.stdin && s.tty {
		r, err := s.io.Raw()
		if err != nil {
			return err
		}
		restore = r
	}
	defer restore()

	var in chan error
	if s.stdin {
		in = make(chan error, 1)
		go func() { in <- s.copyIn() }()
	}
	var out chan error
	if s.stdout || s.stderr {
		out = make(chan error, 1)
		go func() { out <- s.copyOut() }()
	} else if s.all != nil {
		go s.copyOut() // which brings also how the start went, and the end
	}
	for {
		select {
		case err := <-out:
			return err
		case err := <-in:
			if errors.Is(err, parse.ErrDetached) || out == nil {
				return err
			}
			in = nil // the container may still have much to say
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *session) copyIn() error {
	r := s.io.In
	if s.tty {
		r = parse.Escape(r, s.keys)
	}
	_, err := io.Copy(s.stream, r)
	if errors.Is(err, parse.ErrDetached) {
		return err
	}
	// What is read after the container stopped listening is nobody's loss.
	s.stream.CloseWrite()
	return nil
}

func (s *session) copyOut() error {
	var out, errs io.Writer
	if s.stdout {
		out = s.io.Out
	}
	if s.stderr {
		errs = s.io.Err
	}
	if s.all != nil {
		if s.tty && !s.stdout {
			out = errs
		}
		return s.all.Copy(out, errs)
	}
	if s.tty {
		if !s.stdout {
			_, err := io.Copy(s.io.Err, s.stream)
			return err
		}
		_, err := io.Copy(s.io.Out, s.stream)
		return err
	}
	return client.Demux(out, errs, s.stream)
}

// proxy sends the signals that this process gets on to a container.
type proxy struct {
	signals chan os.Signal
	stopped atomic.Bool
}

// proxySignals begins that; what comes before told has told the container's ID waits.
//
// To catch a signal costs Go's runtime two switches of threads, and to leave it to its fate again as much; there are 62, a
// millisecond and a half each way on a busy machine. So those that people and service managers send are caught when it returns and the
// others when there is a container, beside its start; and stop, after which the process ends, only lets what comes fall.
func proxySignals(c *client.Client, told <-chan string) *proxy {
	p := &proxy{signals: make(chan os.Signal, 128)}
	signal.Notify(p.signals, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		id, ok := <-told
		if !ok {
			return
		}
		go signal.Notify(p.signals)
		for s := range p.signals {
			n, ok := s.(syscall.Signal)
			// SIGCHLD and SIGPIPE concern this process alone; SIGURG is how the Go runtime preempts; SIGWINCH goes by the terminal's size.
			if !ok || n == syscall.SIGCHLD || n == syscall.SIGPIPE || n == syscall.SIGURG || n == syscall.SIGWINCH || p.stopped.Load() {
				continue
			}
			name := signalName(n)
			if name == "" {
				continue
			}
			// A container that is gone can't be told.
			_ = c.ContainerKill(context.Background(), id, name)
		}
	}()
	return p
}

// stop lets fall what comes from now on.
func (p *proxy) stop() { p.stopped.Store(true) }

// release gives the signals back their meaning for this process, where no ID has been told.
func (p *proxy) release() { signal.Stop(p.signals) }

// known tells of an ID.
func known(id string) <-chan string {
	told := make(chan string, 1)
	told <- id
	return told
}

// followSize keeps a remote terminal as large as the one on stdout.
func followSize(env *command.Env, resize func(height, width uint) error) (stop func()) {
	set := func() error {
		h, w := env.IO.Size()
		if h == 0 && w == 0 {
			return nil
		}
		return resize(h, w)
	}
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGWINCH)
	go func() {
		// The process may not be there yet: the engine has answered the start, but an exec's terminal comes a moment later.
		for try := range 10 {
			if set() == nil {
				break
			}
			time.Sleep(time.Duration(try+1) * 10 * time.Millisecond)
		}
		for range ch {
			_ = set()
		}
	}()
	return func() { signal.Stop(ch); close(ch) }
}
