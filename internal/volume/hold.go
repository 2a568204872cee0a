package volume

import (
	"context"
	"maps"
	"slices"
	"strings"

	"gantry/internal/errs"
)

// Hold makes the volumes that are not there, and keeps all of them from removal for the container until Release. It may be
// told twice. With behind, records of new ones follow the return.
func (s *Service) Hold(ctx context.Context, container string, want []Request, behind bool) error {
	var made []*vol
	for _, r := range want {
		for {
			v, err := s.create(ctx, r, behind)
			if err != nil {
				for _, v := range made {
					s.mu.Lock()
					delete(v.holders, container)
					s.mu.Unlock()
				}
				return err
			}
			s.mu.Lock()
			if s.vols[r.Name] == v && v.gone == nil {
				v.hold(container)
				s.mu.Unlock()
				made = append(made, v)
				break
			}
			s.mu.Unlock() // removed just now: once more
		}
	}
	return nil
}

// Keep tells that a container of before holds volumes. Those that are not there any more are missed when it starts.
func (s *Service) Keep(container string, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if v := s.vols[n]; v != nil {
			v.hold(container)
		}
	}
}

// Use is one volume in a container.
type Use struct {
	Name, Destination string
	RW                bool
	Propagation       string
}

// Mount tells that a container that holds the volumes starts, and returns how each is mounted.
func (s *Service) Mount(ctx context.Context, container string, uses []Use) ([]Source, error) {
	list := make([]Source, len(uses))
	for i, u := range uses {
		// A volume that was lost is made anew, as Docker makes it.
		v, err := s.create(ctx, Request{Name: u.Name}, false)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		r := record{Name: u.Name, Options: v.Options}
		s.mu.Unlock()
		list[i] = r.source(s.data(u.Name))
		if err := s.ready(ctx, &r, &list[i]); err != nil {
			return nil, err
		}
		v.work.Lock() // who restores it is done soon
		s.mu.Lock()
		if list[i].Type == "tmpfs" {
			for c, mounted := range v.holders {
				if mounted && c != container {
					list[i].From = c
				}
			}
		}
		v.holders[container] = true
		s.mu.Unlock()
		v.work.Unlock()
	}
	for _, u := range uses {
		rw := "false"
		if u.RW {
			rw = "true"
		}
		s.event("mount", u.Name, "container", container, "destination", u.Destination, "propagation", u.Propagation, "read/write", rw)
	}
	return list, nil
}

// Sources returns how volumes are mounted, and tells nobody.
func (s *Service) Sources(names []string) []Source {
	list := make([]Source, len(names))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, n := range names {
		if v := s.vols[n]; v != nil {
			list[i] = v.source(s.data(n))
		}
	}
	return list
}

// Mounted tells that a container of before runs.
func (s *Service) Mounted(container string, names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		if v := s.vols[n]; v != nil {
			v.holders[container] = true
		}
	}
}

// Unmount tells that the container has ended, or could not start.
func (s *Service) Unmount(container string) {
	var names []string
	s.mu.Lock()
	for name, v := range s.vols {
		if v.holders[container] {
			v.holders[container] = false
			names = append(names, name)
		}
	}
	s.mu.Unlock()
	slices.Sort(names)
	for _, n := range names {
		s.event("unmount", n, "container", container)
	}
}

// Release ends the holding of a container that is removed. Of the volumes named, those that nobody else holds go. What this costs
// the disk follows the return, but for the trash. ctx says whether they go into the trash.
func (s *Service) Release(ctx context.Context, container string, remove []string) {
	s.mu.Lock()
	for _, v := range s.vols {
		delete(v.holders, container)
	}
	var gone []*vol
	for _, n := range remove {
		if v := s.vols[n]; v != nil && v.gone == nil && len(v.holders) == 0 && !v.Protected {
			v.gone = make(chan struct{})
			gone = append(gone, v)
		}
	}
	s.mu.Unlock()
	for _, v := range gone {
		wait := s.bury(ctx, v)
		rest := func() {
			if err := wait(); err != nil {
				s.Log.Error("removing a volume failed", "volume", v.Name, "err", err)
			}
		}
		if s.Trash.Takes(ctx) {
			rest() // whoever undoes the removal right after the reply finds it
			continue
		}
		s.work.Go(rest)
	}
}

// hold notes that a container holds the volume, mounted or not. s.mu is held.
func (v *vol) hold(container string) {
	if _, already := v.holders[container]; !already {
		v.holders[container] = false
	}
}

// holdersOf names the containers that hold the volume. s.mu is held.
func (v *vol) holdersOf() []string { return slices.Sorted(maps.Keys(v.holders)) }

// running names the containers that have it mounted. s.mu is held.
func (v *vol) running() (list []string) {
	for c, mounted := range v.holders {
		if mounted {
			list = append(list, c)
		}
	}
	slices.Sort(list)
	return list
}

func errInUse(name string, by []string) error {
	return errs.Conflict.Errorf("remove %s: volume is in use - [%s]", name, strings.Join(by, ", "))
}
