package api

import (
	"fmt"

	types "github.com/moby/moby/api/types/container"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

// execCreate is POST /containers/{id}/exec.
func (s *Server) execCreate(c *call) error {
	var x struct {
		types.ExecCreateRequest
		Cmd words // instead of ExecCreateRequest's
	}
	if err := c.decode(&x); err != nil {
		return err
	}
	if len(x.Cmd) == 0 {
		return errs.Invalid.Errorf("No exec command specified")
	}
	if c.version < v(42) {
		x.ConsoleSize = nil
	}
	if c.version < v(35) {
		x.WorkingDir = ""
	}
	id, err := s.deps.Containers.ExecCreate(c.r.Context(), c.name, container.ExecConfig{
		User:         x.User,
		Privileged:   x.Privileged,
		Tty:          x.Tty,
		ConsoleSize:  x.ConsoleSize,
		AttachStdin:  x.AttachStdin,
		AttachStdout: x.AttachStdout,
		AttachStderr: x.AttachStderr,
		DetachKeys:   x.DetachKeys,
		Env:          x.Env,
		WorkingDir:   x.WorkingDir,
		Cmd:          x.Cmd,
	})
	if err != nil {
		return err
	}
	return c.reply(201, types.ExecCreateResponse{ID: id})
}

// execStart is POST /exec/{id}/start.
func (s *Server) execStart(c *call) error {
	var x types.ExecStartRequest
	if err := c.decode(&x); err != nil {
		return err
	}
	if c.version < v(42) || !x.Tty {
		x.ConsoleSize = nil
	}
	a, err := s.deps.Containers.ExecStart(c.r.Context(), c.name, x.Detach, x.Tty, x.ConsoleSize)
	if x.Detach {
		if err != nil {
			return err
		}
		return c.ok(200)
	}
	if k := errs.KindOf(err); err != nil && (k == errs.NotFound || k == errs.Conflict) {
		return err
	}
	st, oops := s.takeOver(c, !x.Tty)
	if oops != nil {
		if a != nil {
			a.Output.Close()
		}
		return oops
	}
	if err != nil {
		// A process that can't be started (no such file, no permission) is told of in the stream: the
		// CLI prints it, and takes 126 or 127 from the exec's exit code.
		f := framer{w: st.out, plain: x.Tty}
		_ = f.write(supervisor.Stdout, fmt.Appendf(nil, "%v\r\n", s.advise(err)))
		st.closeWrite()
		st.close()
		return nil
	}
	st.pump(a, !x.Tty)
	return nil
}

// execInspect is GET /exec/{id}/json.
func (s *Server) execInspect(c *call) error {
	x, err := s.deps.Containers.ExecGet(c.name)
	if err != nil {
		return err
	}
	p := &types.ExecProcessConfig{Tty: x.Config.Tty, User: x.Config.User, Privileged: &x.Config.Privileged}
	if len(x.Config.Cmd) > 0 {
		p.Entrypoint, p.Arguments = x.Config.Cmd[0], x.Config.Cmd[1:]
	}
	return c.reply(200, types.ExecInspectResponse{
		ID:            x.ID,
		Running:       x.Running,
		ExitCode:      x.ExitCode,
		ProcessConfig: p,
		OpenStdin:     x.Config.AttachStdin,
		OpenStdout:    x.Config.AttachStdout,
		OpenStderr:    x.Config.AttachStderr,
		CanRemove:     x.CanRemove,
		ContainerID:   x.Container,
		DetachKeys:    []byte(x.Config.DetachKeys),
		Pid:           x.Pid,
	})
}

func (s *Server) execResize(c *call) error {
	h, w, err := c.hw()
	if err != nil {
		return err
	}
	if err := s.deps.Containers.ExecResize(c.r.Context(), c.name, h, w); err != nil {
		return err
	}
	return c.ok(200)
}
