package container

import (
	"context"

	"gantry/internal/errs"
	"gantry/internal/kernel/cgroup"
)

// group opens the cgroup of a running container.
func (c *container) group() (*cgroup.Group, error) {
	return c.s.Cgroups.OpenDirs(c.now.live.Cgroup.Dirs)
}

// Pause freezes all processes of a running container.
func (s *Service) Pause(ctx context.Context, ref string) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error {
		switch c.now.Status {
		case Running:
		case Paused:
			return errs.Conflict.Errorf("Container %s is already paused", c.id)
		case Restarting:
			return errs.Conflict.Errorf("Container %s is restarting, wait until the container is running", c.id)
		default:
			return errNotRunning(c.id)
		}
		g, err := c.group()
		if err == nil {
			err = g.Freeze(ctx)
		}
		if err != nil {
			return errs.KindOf(err).Errorf("Cannot pause container %s: %w", c.id, err)
		}
		c.move(Froze)
		c.publish()
		c.saveBehind(nil)
		s.event(&c.now, "pause")
		return nil
	})
}

// Unpause lets the processes of a paused container run on.
func (s *Service) Unpause(ctx context.Context, ref string) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error {
		if c.now.Status != Paused {
			return errs.Conflict.Errorf("Container %s is not paused", c.id)
		}
		if err := c.thaw(); err != nil {
			return errs.KindOf(err).Errorf("Cannot unpause container %s: %w", c.id, err)
		}
		return nil
	})
}

// thaw makes a paused container a running one.
func (c *container) thaw() error {
	g, err := c.group()
	if err == nil {
		err = g.Thaw()
	}
	if err != nil {
		return err
	}
	c.move(Thawed)
	c.publish()
	c.saveBehind(nil)
	c.s.event(&c.now, "unpause")
	return nil
}

// frozen reports whether an adopted container was paused.
func (c *container) frozen() bool {
	g, err := c.group()
	if err != nil {
		return false
	}
	f, err := g.Frozen()
	return err == nil && f
}
