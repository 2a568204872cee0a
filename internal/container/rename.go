package container

import (
	"context"
	"strings"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// Rename gives the container another name. The old one is free when it returns.
func (s *Service) Rename(ctx context.Context, ref, name string) error {
	if ref == "" || name == "" || name == "/" {
		return errs.Invalid.Errorf("Neither old nor new names may be empty")
	}
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	bare, err := checkName("/" + strings.TrimPrefix(name, "/"))
	if err != nil {
		return errs.Invalid.Errorf("Error when allocating new name: %w", err)
	}
	return c.do(ctx, func() error {
		old := c.now.Name
		if old == bare {
			return errs.Invalid.Errorf("Renaming a container with the same name as its current name")
		}
		if _, err := s.reserveName(bare, c.id); err != nil {
			return errs.KindOf(err).Errorf("Error when allocating new name: %w", err)
		}
		next := c.now
		next.Name = bare
		f, err := freeze(newRecord(&next, c.manual))
		if err == nil {
			err = s.State.Update(func(tx state.Tx) error {
				var holder string
				if ok, err := tx.Get(nameBucket, old, &holder); err != nil {
					return err
				} else if ok && holder == c.id {
					if err := tx.Delete(nameBucket, old); err != nil {
						return err
					}
				}
				return f.reserve(tx)
			})
		}
		if err != nil {
			s.releaseName(bare, c.id)
			return err
		}
		c.now.Name = bare
		if s.Connector != nil {
			n, err := s.Connector.Rename(c.id, bare)
			if err != nil {
				s.Log.Error("a renamed container may be found in its networks by its old name after the engine's next start", "container", c.id, "err", err)
			}
			if n != nil {
				c.connected(n)
			}
		}
		c.publish()
		s.releaseName(old, c.id)
		s.event(&c.now, "rename", "oldName", "/"+old)
		return nil
	})
}
