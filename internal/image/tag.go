package image

import (
	"context"
	"fmt"
	"time"

	"github.com/distribution/reference"

	"gantry/internal/errs"
	"gantry/internal/ids"
)

// Tag makes the reference target point to what source points to.
func (s *Service) Tag(ctx context.Context, source, target string) error {
	named, err := reference.ParseNormalizedNamed(target)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	if _, ok := named.(reference.Canonical); ok {
		return errs.Invalid.Errorf("refusing to create a tag with a digest reference")
	}
	if err := checkAmbiguous(named); err != nil {
		return err
	}
	name := reference.TagNameOnly(named)
	i, err := s.Get(ctx, source)
	if err != nil {
		return err
	}
	s.change.Lock()
	defer s.change.Unlock()
	x := s.known[i.Target.Digest]
	if x == nil { // removed since
		_, err := s.lookup(source)
		if err == nil {
			err = errs.Conflict.Errorf("image %s is being removed", source)
		}
		return err
	}
	e := edit{}
	s.displace(e, name.String(), x)
	e[name.String()] = &record{x.target, time.Now().UTC()}
	e.release(s, x.target.Digest)
	if err := s.apply(e); err != nil {
		return fmt.Errorf("tag image: %w", err)
	}
	s.event("tag", x, reference.FamiliarString(name))
	return nil
}

// checkAmbiguous refuses a name that would be taken for an ID or a digest. With a tag the package reference lets an ID pass.
func checkAmbiguous(named reference.Named) error {
	switch name := reference.FamiliarName(named); {
	case name == "sha256":
		return errs.Invalid.Errorf("refusing to create an ambiguous tag using digest algorithm as name")
	case ids.Valid(name):
		return errs.Invalid.Errorf("invalid repository name (%s), cannot specify 64-byte hexadecimal strings", name)
	}
	return nil
}
