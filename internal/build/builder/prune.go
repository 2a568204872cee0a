package builder

import (
	"context"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/build/solve"
)

// Policy bounds the build cache. A zero field means the default.
type Policy struct {
	Keep int64         // bytes; default 20 GiB
	Age  time.Duration // since its last use; default 60 days
}

func (p Policy) orDefault() Policy {
	if p.Keep <= 0 {
		p.Keep = 20 << 30
	}
	if p.Age <= 0 {
		p.Age = 60 * 24 * time.Hour
	}
	return p
}

// PruneOptions select what Prune removes.
type PruneOptions struct {
	All  bool  // also what an image shares
	Keep int64 // bytes of the newest that may stay; 0: none
	// Filters are Docker's: until, id, parent, type, description, inuse, shared, private.
	Filters map[string][]string
}

// Prune removes what the cache keeps and nobody uses now; it returns what it removed and the bytes of it.
func (s *Service) Prune(ctx context.Context, o PruneOptions) (ids []string, freed int64, err error) {
	list, err := s.solver.Prune(ctx, solve.PruneOptions{All: o.All, Keep: o.Keep, Filters: o.Filters, Shared: s.shared(ctx)})
	for _, u := range list {
		ids = append(ids, u.ID)
		freed += u.Size
	}
	if err == nil && len(list) > 0 {
		err = s.Images.Collect(ctx)
	}
	return ids, freed, err
}

// Usage lists what the cache keeps.
func (s *Service) Usage(ctx context.Context) []solve.Usage { return s.solver.Usage(s.shared(ctx)) }

func (s *Service) shared(ctx context.Context) func(digest.Digest) bool {
	chains, err := s.Images.Chains(ctx)
	if err != nil {
		return nil
	}
	return func(c digest.Digest) bool { return chains[c] }
}

// tidy keeps the cache within its bounds, behind a build.
func (s *Service) tidy() {
	if !s.tidying.TryLock() {
		return
	}
	s.work.Go(func() {
		defer s.tidying.Unlock()
		p := s.Policy.orDefault()
		list, err := s.solver.Bound(s.ctx, p.Keep, p.Age)
		if err == nil && len(list) > 0 {
			err = s.Images.Collect(s.ctx)
		}
		if err != nil && s.ctx.Err() == nil {
			s.Log.Warn("bounding the build cache failed", "err", err)
		}
	})
}

// pinned adds a digest to a name, so that what is built is what was resolved.
func pinned(ref string, d digest.Digest) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil || d == "" {
		return ref
	}
	if _, ok := named.(reference.Canonical); ok {
		return ref
	}
	c, err := reference.WithDigest(named, d)
	if err != nil {
		return ref
	}
	return c.String()
}
