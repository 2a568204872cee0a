package container

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Start is `container start`.
var Start = &command.Command{
	Name: "start", Top: "start", Args: "[OPTIONS] CONTAINER [CONTAINER...]", Short: "Start stopped containers",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		attach := fs.BoolP("attach", "a", false, "Show its output and send it the signals that come here")
		stdin := fs.BoolP("interactive", "i", false, "Send it stdin")
		detachKeys := fs.String("detach-keys", "", "Keys that detach the terminal")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			if !*attach && !*stdin {
				return startAll(ctx, env, c, args)
			}
			if len(args) > 1 {
				return errors.New("you cannot start and attach multiple containers at once")
			}
			return startAttached(ctx, env, c, args[0], *stdin, env.DetachKeys(*detachKeys))
		}
	},
}

func startAll(ctx context.Context, env *command.Env, c *client.Client, names []string) error {
	var failed []string
	for _, n := range names {
		if err := c.ContainerStart(ctx, n, ""); err != nil {
			if client.IsConnection(err) {
				return err
			}
			fmt.Fprintln(env.IO.Err, err)
			failed = append(failed, n)
			continue
		}
		fmt.Fprintln(env.IO.Out, n)
	}
	if len(failed) > 0 {
		return fmt.Errorf("Error: failed to start containers: %s", strings.Join(failed, ", ")) //nolint:staticcheck // Docker's words
	}
	return nil
}

func startAttached(ctx context.Context, env *command.Env, c *client.Client, name string, stdin bool, detachKeys string) error {
	keys, err := parse.DetachKeys(detachKeys)
	if err != nil {
		return err
	}
	info, err := c.ContainerInspect(ctx, name)
	if err != nil {
		return err
	}
	// The name may be given to another container meanwhile.
	id := info.ID
	if !info.Config.Tty {
		ctx = context.WithoutCancel(ctx)
		defer proxySignals(c, known(id)).stop()
	}
	if err := env.IO.CheckTTY(stdin, info.Config.Tty); err != nil {
		return err
	}
	o := client.AttachOptions{Stdin: stdin && info.Config.OpenStdin, Stdout: true, Stderr: true, DetachKeys: detachKeys}
	condition := "next-exit"
	if info.HostConfig.AutoRemove {
		condition = "removed"
	}
	stream, wait, err := c.AttachAndWait(ctx, id, o, condition)
	if err != nil {
		return err
	}
	defer stream.Close()
	s := &session{io: env.IO, stream: stream, stdin: o.Stdin, stdout: true, stderr: true, tty: info.Config.Tty, keys: keys}
	status := waitStatus(wait)
	ioCtx, stopIO := context.WithCancel(ctx)
	defer stopIO()
	done := make(chan error, 1)
	go func() { done <- s.run(ioCtx) }()
	if err := c.ContainerStart(ctx, id, ""); err != nil {
		stopIO()
		<-done
		if info.HostConfig.AutoRemove {
			<-status
		}
		return err
	}
	if s.tty && env.IO.OutIsTerminal() {
		defer followSize(env, func(h, w uint) error { return c.ContainerResize(ctx, id, h, w) })()
	}
	if err := <-done; err != nil {
		if errors.Is(err, parse.ErrDetached) {
			return nil
		}
		return err
	}
	return (<-status).exit(env)
}
