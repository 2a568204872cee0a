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
	id, err := r.create(ctx, env, c, req)
	if err != nil {
		return runError(env, err, "run")
	}
	if !cfg.AttachStdin && !cfg.AttachStdout && !cfg.AttachStderr {
		fmt.Fprintln(env.IO.Out, id)
		if r.sigProxy && !r.detach {
			defer proxySignals(c, id)()
		}
		if err := c.ContainerStart(ctx, id, ""); err != nil {
			return runError(env, err, "run")
		}
		return nil
	}
	if r.sigProxy {
		// From here the signals are the container's; ending is, too.
		ctx = context.WithoutCancel(ctx)
		defer proxySignals(c, id)()
	}
	condition := "next-exit"
	if r.autoRemove {
		condition = "removed"
	}
	stream, wait, err := c.AttachAndWait(ctx, id, client.AttachOptions{Stdin: cfg.AttachStdin, Stdout: cfg.AttachStdout, Stderr: cfg.AttachStderr, DetachKeys: detachKeys}, condition)
	if err != nil {
		return err
	}
	defer stream.Close()
	s := &session{io: env.IO, stream: stream, stdin: cfg.AttachStdin, stdout: cfg.AttachStdout, stderr: cfg.AttachStderr, tty: cfg.Tty, keys: keys}
	return r.attached(ctx, env, c, s, wait, id)
}

// attached starts the container whose streams and exit are already ours, and stays until it ends or is left.
func (r *runOptions) attached(ctx context.Context, env *command.Env, c *client.Client, s *session, wait *client.Response, id string) error {
	status := waitStatus(env, wait)
	ioCtx, stopIO := context.WithCancel(ctx)
	defer stopIO()
	// The streams are joined before the start: nothing of the first output waits, and ctrl-c finds the terminal as it will be.
	done := make(chan error, 1)
	go func() { done <- s.run(ioCtx) }()

	if err := c.ContainerStart(ctx, id, ""); err != nil {
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
		return exit(<-status)
	case code := <-status:
		if !s.stdout && !s.stderr {
			stopIO()
		}
		<-done // what the container wrote last may still be on its way
		return exit(code)
	}
}

func exit(code int) error {
	if code == 0 {
		return nil
	}
	return &command.StatusError{Code: code}
}

// waitStatus reads the exit code from a wait's response when it comes. What can't be known is 125.
func waitStatus(env *command.Env, resp *client.Response) <-chan int {
	ch := make(chan int, 1)
	go func() {
		defer resp.Body.Close()
		code, err := readWait(resp.Body)
		if err != nil {
			fmt.Fprintf(env.IO.Err, "Error waiting for container: %v\n", err)
		}
		ch <- code
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
