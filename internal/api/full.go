package api

import (
	"errors"

	"github.com/docker/go-units"

	"gantry/internal/errs"
	"gantry/internal/kernel/fs"
)

// advised is an error that says what to do about it.
type advised struct{ error }

func (e advised) Unwrap() error { return e.error }

// advise adds to the error of a full disk how full the data root's is and what makes room: on a line of its own, for tools match
// the end of the first. Which disk it was the kernel does not say, so this tells facts only.
func (s *Server) advise(err error) error {
	if !fs.IsFull(err) || s.deps.Trash == nil || s.deps.Trash.Disk == nil || errors.As(err, new(advised)) {
		return err
	}
	free, all := s.deps.Trash.Disk()
	return advised{errs.KindOf(err).Errorf("%w\nthe data root %s has %s of %s free: `gantry system df` shows what takes how much, `gantry undo --empty` and `gantry system prune` make room",
		err, s.deps.Host.DataRoot, units.HumanSize(float64(free)), units.HumanSize(float64(all)))}
}
