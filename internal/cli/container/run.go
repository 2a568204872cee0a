package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Run is `container run`: create, attach, wait and start in one.
var Run = &command.Command{
	Name: "run", Top: "run", Args: "[OPTIONS] IMAGE [COMMAND] [ARG...]", Short: "Create a container from an image and start it",
	Min: 1, Max: -1, Stop: true,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		o := newOptions(fs)
		r := runOptions{options: o}
		fs.BoolVarP(&r.detach, "detach", "d", false, "Leave it in the background and print its ID")
		fs.BoolVar(&r.sigProxy, "sig-proxy", true, "Send the signals that come here on to the process")
		fs.StringVar(&r.detachKeys, "detach-keys", "", "Keys that detach the terminal")
		return r.run
	},
}

type runOptions struct {
	*options
	detach, sigProxy bool
	detachKeys       string
}

// runError chooses the exit code as Docker does: 127 for a command that was not found, 126 for one that can't be run, 125 for all else.
func runError(env *command.Env, err error, verb string) error {
	text := err.Error()
	code := 125
	if strings.HasSuffix(text, "No command specified") {
		err = &command.Hint{Err: err, Line: "The image names no command, as none does that was imported: say one after its name, such as bash."}
	}
	switch {
	case strings.Contains(text, "executable file not found"), strings.Contains(text, "no such file or directory"), strings.Contains(text, "system cannot find the file specified"):
		code = 127
	case strings.Contains(text, "permission denied"), strings.Contains(text, "is a directory"):
		code = 126
	}
	if client.IsConnection(err) {
		code = 125
	}
	return withStatus(env, err, verb, code)
}

func (r *runOptions) run(ctx context.Context, env *command.Env, args []string) error {
	req, err := r.parse(env, args, "run")
	if err != nil {
		return err
	}
	cfg := req.Config
	if r.detach {
		if len(r.attach.Values) > 0 {
			return errors.New("conflicting options: cannot specify both --attach and --detach")
		}
		cfg.AttachStdin, cfg.AttachStdout, cfg.AttachStderr, cfg.StdinOnce = false, false, false, false
	} else if err := env.IO.CheckTTY(cfg.AttachStdin, cfg.Tty); err != nil {
		return err
	}
	detachKeys := env.DetachKeys(r.detachKeys)
	keys, err := parse.DetachKeys(detachKeys)
	if err != nil {
		return err
	}
	c, err := env.Client()
	if err != nil {
		return err
	}
	wishes := client.RunOptions{Attach: client.AttachOptions{Stdin: cfg.AttachStdin, Stdout: cfg.AttachStdout, Stderr: cfg.AttachStderr, DetachKeys: detachKeys}}
	attach := cfg.AttachStdin || cfg.AttachStdout || cfg.AttachStderr
	if attach {
		wishes.Wait = "next-exit"
		if r.autoRemove {
			wishes.Wait = "removed"
		}
	}
	a := &asked{c: c, wishes: wishes, proxy: r.sigProxy && !r.detach, createOnly: r.cidFile != ""}
	id, err := r.create(ctx, env, c, req, a.ask)
	if err != nil {
		return runError(env, err, "run")
	}
	defer a.stop()
	all := a.run
	if !attach {
		fmt.Fprintln(env.IO.Out, id)
		if all != nil {
			defer all.Close()
			go all.Copy(nil, nil)
			err = all.Started(ctx)
		} else {
			err = c.ContainerStart(ctx, id, "")
		}
		if err != nil {
			return runError(env, err, "run")
		}
		return nil
	}
	if r.sigProxy {
		// From here the signals are the container's; ending is, too.
		ctx = context.WithoutCancel(ctx)
	}
	s := &session{io: env.IO, all: all, stdin: cfg.AttachStdin, stdout: cfg.AttachStdout, stderr: cfg.AttachStderr, tty: cfg.Tty, keys: keys}
	if all != nil {
		s.stream = all.Stream
		defer s.stream.Close()
		return r.attached(ctx, env, c, s, endStatus(all.Ended()), id)
	}
	stream, wait, err := c.AttachAndWait(ctx, id, wishes.Attach, wishes.Wait)
	if err != nil {
		return err
	}
	defer stream.Close()
	s.stream = stream
	return r.attached(ctx, env, c, s, waitStatus(wait), id)
}

// asked is the engine's being asked for a container to run: for everything at once, where it can.
type asked struct {
	c          *client.Client
	wishes     client.RunOptions
	proxy      bool // signals are the container's
	createOnly bool // its ID is to be in a file before it starts

	run     *client.Run // nil where the rest is to be asked for
	signals *proxy
}

func (a *asked) ask(ctx context.Context, name, platform string, req container.CreateRequest) (out container.CreateResponse, err error) {
	if a.proxy {
		// Caught before, for they are the container's as soon as there is one.
		told := make(chan string, 1)
		a.signals = proxySignals(a.c, told)
		defer func() {
			if err != nil {
				a.signals.release()
			} else {
				told <- out.ID
			}
			close(told)
		}()
	}
	if a.createOnly {
		return a.c.ContainerCreate(ctx, name, platform, req)
	}
	out, a.run, err = a.c.ContainerRun(ctx, name, platform, req, a.wishes)
	return out, err
}

func (a *asked) stop() {
	if a.signals != nil {
		a.signals.stop()
	}
}

// attached starts the container whose streams and exit are already ours, and stays until it ends or is left.
func (r *runOptions) attached(ctx context.Context, env *command.Env, c *client.Client, s *session, status <-chan ending, id string) error {
	ioCtx, stopIO := context.WithCancel(ctx)
	defer stopIO()
	// The streams are joined before the start: nothing of the first output waits, and ctrl-c finds the terminal as it will be.
	done := make(chan error, 1)
	go func() { done <- s.run(ioCtx) }()

	start := func() error { return c.ContainerStart(ctx, id, "") }
	if s.all != nil {
		start = func() error { return s.all.Started(ctx) }
	}
	if err := start(); err != nil {
		stopIO()
		<-done
		if r.autoRemove {
			<-status
		}
		return runError(env, err, "run")
	}
	if s.tty && env.IO.OutIsTerminal() {
		defer followSize(env, func(h, w uint) error { return c.ContainerResize(ctx, id, h, w) })()
	}
	select {
	case err := <-done:
		if errors.Is(err, parse.ErrDetached) {
			return nil
		}
		if err != nil {
			return err
		}
		return (<-status).exit(env)
	case end := <-status:
		if !s.stdout && !s.stderr {
			stopIO()
		}
		<-done // what the container wrote last may still be on its way
		return end.exit(env)
	}
}

// ending is how a container ended: its exit code, or why that can't be known. Who leaves before does not ask.
type ending struct {
	code int
	err  error
}

func (e ending) exit(env *command.Env) error {
	if e.err != nil {
		fmt.Fprintf(env.IO.Err, "Error waiting for container: %v\n", e.err)
	}
	return exit(e.code)
}

func exit(code int) error {
	if code == 0 {
		return nil
	}
	return &command.StatusError{Code: code}
}

// waitStatus reads the exit code from a wait's response when it comes. What can't be known is 125.
func waitStatus(resp *client.Response) <-chan ending {
	ch := make(chan ending, 1)
	go func() {
		defer resp.Body.Close()
		code, err := readWait(resp.Body)
		ch <- ending{code, err}
	}()
	return ch
}

// endStatus is waitStatus of a run that the engine does whole.
func endStatus(ended <-chan client.WaitResult) <-chan ending {
	ch := make(chan ending, 1)
	go func() {
		res := <-ended
		code, err := int(res.Response.StatusCode), res.Err
		if err == nil && res.Response.Error != nil && res.Response.Error.Message != "" {
			err = errors.New(res.Response.Error.Message)
		}
		if err != nil {
			code = 125
		}
		ch <- ending{code, err}
	}()
	return ch
}

func readWait(r io.Reader) (int, error) {
	var w container.WaitResponse
	if err := json.NewDecoder(r).Decode(&w); err != nil {
		return 125, err
	}
	if w.Error != nil && w.Error.Message != "" {
		return 125, errors.New(w.Error.Message)
	}
	return int(w.StatusCode), nil
}
