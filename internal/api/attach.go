package api

import (
	"gantry/internal/container"
)

// containerAttach is POST /containers/{id}/attach.
func (s *Server) containerAttach(c *call) error {
	x, err := s.deps.Containers.Get(c.name)
	if err != nil {
		return err
	}
	a, err := s.deps.Containers.Attach(c.r.Context(), x.ID, container.AttachOptions{
		Stdin:      c.flag("stdin"),
		Stdout:     c.flag("stdout"),
		Stderr:     c.flag("stderr"),
		Logs:       c.flag("logs"),
		Stream:     c.flag("stream"),
		DetachKeys: c.str("detachKeys"),
	})
	if err != nil {
		return err
	}
	framed := !a.Terminal
	st, err := s.takeOver(c, framed)
	if err != nil {
		a.Output.Close()
		return err
	}
	st.pump(a, framed)
	return nil
}
