package api

import (
	"gantry/internal/errs"
	"gantry/internal/image"
)

// imagePush is POST /images/{name}/push.
func (s *Server) imagePush(c *call) error {
	name := c.name
	if tag := c.str("tag"); tag != "" {
		name += ":" + tag
	}
	o := image.PushOptions{}
	if p := c.str("platform"); p != "" && c.version >= v(46) {
		platform, err := parsePlatform(p)
		if err != nil {
			return err
		}
		o.Platform = &platform
	}
	var err error
	if o.Access, err = c.access(); err != nil {
		return err
	}
	// No tag is all tags: the clients name one, latest too.
	if o.All, err = image.IsNameOnly(name); err != nil {
		return errs.Invalid.Wrap(err)
	}
	m := messages{c: c}
	if err := s.deps.Images.Push(c.r.Context(), name, o, m.progress); err != nil {
		return m.fail(s.advise(err))
	}
	return nil
}
