package volume

import (
	"context"
	"maps"
	"time"

	api "github.com/moby/moby/api/types/volume"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/state"
)

// Request says what volume is wanted.
type Request struct {
	Name            string // "": a new one without a name
	Driver          string // "": local
	Labels, Options map[string]string
	Protected       bool
	// Anonymous: it was named by the engine, and goes with its container.
	Anonymous bool
}

// Create makes a volume. One that is there already is as good, whatever its labels and options, as in Docker.
func (s *Service) Create(ctx context.Context, r Request) (api.Volume, error) {
	if r.Name == "" {
		r.Name, r.Anonymous = ids.New(), true
	}
	v, err := s.create(ctx, r, false)
	if err != nil {
		return api.Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Protected && !v.Protected {
		v.Protected = true
		if err := s.put(&v.record); err != nil {
			return api.Volume{}, err
		}
	}
	return s.describe(v), nil
}

// create returns the volume of that name, made if it is not there. With behind, its record follows the return.
func (s *Service) create(ctx context.Context, r Request, behind bool) (*vol, error) {
	if err := check(&r); err != nil {
		return nil, errs.KindOf(err).Errorf("create %s: %w", r.Name, err)
	}
	v, old, err := s.reserve(ctx, r)
	if err != nil || old {
		return v, err
	}
	rec := v.record
	wait := s.State.Submit(func(tx state.Tx) error { return tx.Put(bucket, rec.Name, &rec) })
	if !behind {
		err = wait()
	}
	failpoint.Hit("volume.create.record")
	if err == nil {
		err = s.makeDirs(&rec)
	}
	if err != nil {
		s.State.Update(func(tx state.Tx) error { return tx.Delete(bucket, r.Name) })
		s.aside(s.dir(r.Name))
		s.forget(v)
		return nil, errs.KindOf(err).Errorf("create %s: %w", r.Name, err)
	}
	if behind {
		s.work.Go(func() {
			if err := wait(); err != nil {
				s.Log.Error("recording a volume failed", "volume", r.Name, "err", err)
			}
		})
	}
	s.settle(v)
	s.event("create", r.Name)
	return v, nil
}

// check refuses what Docker refuses.
func check(r *Request) error {
	if r.Driver != "" && r.Driver != driver && r.Driver != "default" {
		return errs.NotFound.Errorf("error looking up volume plugin %s: plugin %q not found", r.Driver, r.Driver)
	}
	if err := checkName(r.Name); err != nil {
		return err
	}
	return checkOptions(r.Options)
}

// reserve takes the name: the volume that it returns is as if not there until settle or forget. old: there is one already.
func (s *Service) reserve(ctx context.Context, r Request) (v *vol, old bool, err error) {
	for {
		s.mu.Lock()
		v := s.vols[r.Name]
		if v == nil {
			labels := maps.Clone(r.Labels)
			if r.Anonymous {
				if labels == nil {
					labels = map[string]string{}
				}
				labels[AnonymousLabel] = ""
			}
			v = &vol{record: record{V: version, Name: r.Name, Created: time.Now().UTC(), Labels: labels, Options: maps.Clone(r.Options), Protected: r.Protected},
				holders: map[string]bool{}, gone: make(chan struct{})}
			s.number(&v.record)
			if err := s.canLimit(&v.record); err != nil {
				s.mu.Unlock()
				return nil, false, errs.KindOf(err).Errorf("create %s: %w", r.Name, err)
			}
			s.vols[r.Name] = v
			s.mu.Unlock()
			return v, false, nil
		}
		wait := v.gone
		s.mu.Unlock()
		if wait == nil {
			return v, true, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

// settle makes a reserved volume one that is there.
func (s *Service) settle(v *vol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(v.gone)
	v.gone = nil
}

// forget frees the name of a volume that was reserved, or is removed.
func (s *Service) forget(v *vol) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.vols, v.Name)
	close(v.gone)
}

// Protect keeps a volume from rm and prune, or does so no longer.
func (s *Service) Protect(name string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(name)
	if err != nil || v.Protected == on {
		return err
	}
	r := v.record
	r.Protected = on
	if err := s.put(&r); err != nil {
		return err
	}
	v.Protected = on
	return nil
}
