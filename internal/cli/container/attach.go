package container

import (
	"context"
	"errors"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Attach is `container attach`.
var Attach = &command.Command{
	Name: "attach", Top: "attach", Args: "[OPTIONS] CONTAINER", Short: "Join the streams of a running container",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		noStdin := fs.Bool("no-stdin", false, "Do not send stdin")
		sigProxy := fs.Bool("sig-proxy", true, "Send the signals that come here on to the process")
		detachKeys := fs.String("detach-keys", "", "Keys that detach the terminal")
		return func(ctx context.Context, env *command.Env, args []string) error {
			return attach(ctx, env, args[0], !*noStdin, *sigProxy, env.DetachKeys(*detachKeys))
		}
	},
}

func attachable(s *container.State) error {
	switch {
	case s == nil || !s.Running:
		return errors.New("You cannot attach to a stopped container, start it first") //nolint:staticcheck // Docker's words
	case s.Paused:
		return errors.New("You cannot attach to a paused container, unpause it first") //nolint:staticcheck // Docker's words
	case s.Restarting:
		return errors.New("You cannot attach to a restarting container, wait until it is running") //nolint:staticcheck // Docker's words
	}
	return nil
}

func attach(ctx context.Context, env *command.Env, name string, stdin, sigProxy bool, detachKeys string) error {
	keys, err := parse.DetachKeys(detachKeys)
	if err != nil {
		return err
	}
	c, err := env.Client()
	if err != nil {
		return err
	}
	info, err := c.ContainerInspect(ctx, name)
	if err != nil {
		return err
	}
	if err := attachable(info.State); err != nil {
		return err
	}
	if err := env.IO.CheckTTY(stdin, info.Config.Tty); err != nil {
		return err
	}
	if sigProxy && !info.Config.Tty {
		ctx = context.WithoutCancel(ctx)
		defer proxySignals(c, known(info.ID)).stop()
	}
	o := client.AttachOptions{Stdin: stdin && info.Config.OpenStdin, Stdout: true, Stderr: true, DetachKeys: detachKeys}
	stream, wait, err := c.AttachAndWait(ctx, info.ID, o, "")
	if err != nil {
		return err
	}
	defer stream.Close()
	// It may have ended between the first look and the attach, and an attach to an ended container would wait forever for output.
	again, err := c.ContainerInspect(ctx, info.ID)
	if err != nil {
		return err
	}
	if err := attachable(again.State); err != nil {
		return err
	}
	if info.Config.Tty && env.IO.OutIsTerminal() {
		// A program redraws only when its size changes, so it changes twice.
		if h, w := env.IO.Size(); h > 0 {
			_ = c.ContainerResize(ctx, info.ID, h+1, w+1)
		}
		defer followSize(env, func(h, w uint) error { return c.ContainerResize(ctx, info.ID, h, w) })()
	}
	s := &session{io: env.IO, stream: stream, stdin: o.Stdin, stdout: true, stderr: true, tty: info.Config.Tty, keys: keys}
	if err := s.run(ctx); err != nil {
		wait.Body.Close()
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
	defer wait.Body.Close()
	code, err := readWait(wait.Body)
	if err != nil {
		return err
	}
	return exit(code)
}
