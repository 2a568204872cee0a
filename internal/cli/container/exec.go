package container

import (
	"context"
	"errors"
	"os"

	"github.com/moby/moby/api/types/container"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Exec is `container exec`.
var Exec = &command.Command{
	Name: "exec", Top: "exec", Args: "[OPTIONS] CONTAINER COMMAND [ARG...]", Short: "Run a command in a running container",
	Min: 2, Max: -1, Stop: true,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var o execOptions
		fs.BoolVarP(&o.detach, "detach", "d", false, "Leave the command in the background")
		fs.StringVar(&o.detachKeys, "detach-keys", "", "Keys that detach the terminal")
		fs.BoolVarP(&o.stdin, "interactive", "i", false, "Keep stdin open, attached or not")
		fs.BoolVarP(&o.req.Tty, "tty", "t", false, "Give the command a terminal")
		fs.StringVarP(&o.req.User, "user", "u", "", "User to run as: <name|uid>[:<group|gid>]")
		fs.BoolVar(&o.req.Privileged, "privileged", false, "Give the command nearly all the host's rights")
		fs.StringVarP(&o.req.WorkingDir, "workdir", "w", "", "Working directory in the container")
		o.env = flags.NewList("list", checkEnv)
		fs.VarP(o.env, "env", "e", "Set a variable NAME=value; a bare NAME takes the caller's value")
		o.envFile = flags.NewList("list", nil)
		fs.Var(o.envFile, "env-file", "Read variables from a file, one a line")
		return o.run
	},
}

type execOptions struct {
	req          container.ExecCreateRequest
	detach       bool
	stdin        bool
	detachKeys   string
	env, envFile *flags.List
}

func (o *execOptions) run(ctx context.Context, env *command.Env, args []string) (err error) {
	name := args[0]
	req := o.req
	req.Cmd = args[1:]
	if req.Env, err = parse.KeyValues(o.envFile.Values, o.env.Values, os.LookupEnv); err != nil {
		return err
	}
	req.DetachKeys = env.DetachKeys(o.detachKeys)
	keys, err := parse.DetachKeys(req.DetachKeys)
	if err != nil {
		return err
	}
	if !o.detach {
		req.AttachStdin, req.AttachStdout, req.AttachStderr = o.stdin, true, true
	}
	c, err := env.Client()
	if err != nil {
		return err
	}
	if !o.detach {
		if err := env.IO.CheckTTY(req.AttachStdin, req.Tty); err != nil {
			// That there is no such container is the better news; an exec made for nothing could not be removed again.
			if _, err := c.ContainerInspect(ctx, name); err != nil {
				return err
			}
			return err
		}
	}
	if req.Tty {
		h, w := env.IO.Size()
		if h > 0 && w > 0 {
			req.ConsoleSize = &[2]uint{h, w}
		}
	}
	id, err := c.ExecCreate(ctx, name, req)
	if err != nil {
		return err
	}
	if id == "" {
		return errors.New("exec ID empty")
	}
	start := container.ExecStartRequest{Detach: o.detach, Tty: req.Tty, ConsoleSize: req.ConsoleSize}
	if o.detach {
		return c.ExecStart(ctx, id, start)
	}
	stream, err := c.ExecAttach(ctx, id, start)
	if err != nil {
		return err
	}
	defer stream.Close()
	if req.Tty && env.IO.InIsTerminal() {
		defer followSize(env, func(h, w uint) error { return c.ExecResize(ctx, id, h, w) })()
	}
	s := &session{io: env.IO, stream: stream, stdin: req.AttachStdin, stdout: true, stderr: true, tty: req.Tty, keys: keys}
	if err := s.run(ctx); err != nil {
		return err
	}
	info, err := c.ExecInspect(ctx, id)
	if err != nil {
		if client.IsConnection(err) {
			return &command.StatusError{Code: 255} // the engine went away with the answer
		}
		return err
	}
	return exit(*exitCode(&info))
}

func exitCode(info *container.ExecInspectResponse) *int {
	zero := 0
	if info.ExitCode == nil {
		return &zero
	}
	return info.ExitCode
}
