package image

import (
	"context"
	"fmt"
	"slices"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/trash"
)

// Remove takes away a reference, and with the last one the image. In use it is errs.Conflict in Docker's words. noPrune has
// no effect yet: it spares untagged parents, and no image has a parent.
//
// The rules are Docker's: a name is only untagged while others lead to the image; an ID stands for all names if
// they are of one repository; force untags, but never deletes what a running container uses.
func (s *Service) Remove(ctx context.Context, ref string, force, noPrune bool) ([]Deleted, error) {
	deleted, _, err := s.removeCounted(ctx, ref, force)
	return deleted, err
}

// removeCounted is Remove that tells also the bytes of the layers that went.
func (s *Service) removeCounted(ctx context.Context, ref string, force bool) ([]Deleted, int64, error) {
	deleted, x, err := s.remove(ctx, ref, force)
	if x == nil || err != nil {
		return deleted, 0, err
	}
	var gone []layer.Info
	if s.trash.Takes(ctx) {
		gone = s.alone(x)
	} else if gone, err = s.Collect(context.WithoutCancel(ctx)); err != nil {
		return deleted, 0, fmt.Errorf("remove image %s: %w", ref, err)
	}
	var freed int64
	for _, g := range gone {
		freed += g.Size
	}
	for _, c := range chains(x) {
		if slices.ContainsFunc(gone, func(g layer.Info) bool { return g.ChainID == c }) {
			deleted = append(deleted, Deleted{Deleted: c.String()})
		}
	}
	return deleted, freed, nil
}

// alone lists the layers of a removed image that now only the trash keeps.
func (s *Service) alone(x *resolved) (list []layer.Info) {
	unwanted := s.layers.Unwanted(func(mark func(digest.Digest)) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.markLayers(mark)
	})
	for _, c := range chains(x) {
		if info, ok := unwanted[c]; ok {
			list = append(list, info)
		}
	}
	return list
}

// chains lists the chain IDs of the image's layers, topmost first.
func chains(x *resolved) []digest.Digest {
	var all []digest.Digest
	var c digest.Digest
	for _, d := range x.config.RootFS.DiffIDs {
		c = layer.ChainID(c, d)
		all = append(all, c)
	}
	slices.Reverse(all)
	return all
}

// remove changes the references; it returns the image if nothing leads to it any more.
func (s *Service) remove(ctx context.Context, ref string, force bool) (deleted []Deleted, _ *resolved, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	i, err := s.lookup(ref)
	if err != nil {
		return nil, nil, err
	}
	if s.trash.Protected(trash.Image, i.ID.String()) {
		return nil, nil, trash.ErrProtected(trash.Image, ref)
	}
	x := s.known[i.Target.Digest]
	running, stopped := s.usersOf(i.ID)
	names := s.names(i.ID)
	e := edit{}
	var untagged []reference.Named
	untag := func(n reference.Named) {
		e[key(n)] = nil
		untagged = append(untagged, n)
		deleted = append(deleted, Deleted{Untagged: reference.FamiliarString(n)})
		names = slices.DeleteFunc(names, func(o reference.Named) bool { return key(o) == key(n) })
	}
	byName := !isIDPrefix(i.ID, ref)
	if byName {
		if users := append(running, stopped...); !force && oneRepository(names) && len(users) > 0 {
			return nil, nil, errs.Conflict.Errorf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image %s", ref, cut(users[0].ID), short(i.ID))
		}
		named, err := s.recordOf(ref, names)
		if err != nil {
			return nil, nil, err
		}
		if named != nil {
			untag(named)
			if _, ok := named.(reference.Canonical); !ok && !slices.ContainsFunc(names, func(n reference.Named) bool {
				_, isDigest := n.(reference.Canonical)
				return !isDigest && n.Name() == named.Name()
			}) { // the repository's last tag takes its digests along
				for _, n := range slices.Clone(names) {
					if n.Name() == named.Name() {
						untag(n)
					}
				}
			}
			if len(names) > 0 {
				return s.finish(ctx, e, deleted, untagged, x, i.ID, false)
			}
		}
	}
	conflict := func() error {
		switch {
		case len(running) > 0:
			return conflictError(i.ID, "cannot be forced", "image is being used by running container "+cut(running[0].ID))
		case force:
			return nil
		case len(names) > 0 && (byName || !oneRepository(names)):
			return conflictError(i.ID, "must be forced", "image is referenced in multiple repositories")
		case len(stopped) > 0:
			return conflictError(i.ID, "must be forced", "image is being used by stopped container "+cut(stopped[0].ID))
		}
		return nil
	}
	if err := conflict(); err != nil {
		if len(untagged) > 0 { // by name and forced: the name goes, the image stays for its container
			return s.finish(ctx, e, deleted, untagged, x, i.ID, false)
		}
		return nil, nil, err
	}
	for _, n := range slices.Clone(names) {
		untag(n)
	}
	deleted = append(deleted, Deleted{Deleted: i.ID.String()})
	return s.finish(ctx, e, deleted, untagged, x, i.ID, true)
}

func conflictError(id digest.Digest, how, why string) error {
	return errs.Conflict.Errorf("conflict: unable to delete %s (%s) - %s", short(id), how, why)
}

func cut(id string) string { return id[:min(len(id), 12)] }

// finish applies what remove decided: with whole the image goes, without it stays even if it lost its last name.
func (s *Service) finish(ctx context.Context, e edit, deleted []Deleted, untagged []reference.Named, x *resolved, id digest.Digest, whole bool) ([]Deleted, *resolved, error) {
	for target, other := range s.known {
		if other.id != id {
			continue
		}
		if whole {
			e.release(s, target)
		} else if !s.leadsTo(e, target) && target == x.target.Digest && !s.leadsToImage(e, id) {
			for key, r := range s.refs {
				if gone, ok := e[key]; ok && gone == nil && r.Target.Digest == target {
					e[held(target)] = &record{x.target, r.Time}
				}
			}
		}
	}
	if err := s.throw(ctx, e, id); err != nil {
		return nil, nil, fmt.Errorf("remove image: %w", err)
	}
	for range untagged {
		s.event("untag", x, x.id.String())
	}
	if !whole {
		return deleted, nil, nil
	}
	s.event("delete", x, x.id.String())
	return deleted, x, nil
}

func (s *Service) leadsToImage(e edit, id digest.Digest) bool {
	for target, x := range s.known {
		if x.id == id && s.leadsTo(e, target) {
			return true
		}
	}
	return false
}

// names are the references that lead to the image, tags first, in order.
func (s *Service) names(id digest.Digest) []reference.Named {
	var keys []string
	for k, r := range s.refs {
		if x := s.known[r.Target.Digest]; x != nil && x.id == id && !isHeld(k) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	var names []reference.Named
	for _, k := range keys {
		if n, err := reference.ParseNormalizedNamed(k); err == nil {
			names = append(names, n)
		}
	}
	return names
}

// recordOf finds the reference that was asked for among the image's names; nil if ref is a digest that is no name.
func (s *Service) recordOf(ref string, names []reference.Named) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, nil // 64 hexadecimal digits: a manifest's digest
	}
	for _, n := range names {
		if key(n) == key(named) {
			return n, nil
		}
	}
	if c, ok := named.(reference.Canonical); ok { // found by its manifest's digest: all tags of that repository lead there
		for _, n := range names {
			if n.Name() == c.Name() {
				return n, nil
			}
		}
	}
	return nil, nil
}

// oneRepository reports Docker's "single reference": one tag, and beside it only digests of the same repository.
func oneRepository(names []reference.Named) bool {
	if len(names) <= 1 {
		return len(names) == 1
	}
	var single reference.Named
	repositories := map[string]bool{}
	for _, n := range names {
		if _, ok := n.(reference.Canonical); ok {
			repositories[n.Name()] = true
		} else if single == nil {
			single = n
		} else {
			return false
		}
	}
	if single == nil {
		single = names[0]
	}
	return len(repositories) == 1 && repositories[single.Name()]
}

// usersOf splits the containers made from the image by whether they run.
func (s *Service) usersOf(id digest.Digest) (running, stopped []User) {
	if s.users == nil {
		return nil, nil
	}
	for _, u := range s.users.ImageUsers(id) {
		if u.Running {
			running = append(running, u)
		} else {
			stopped = append(stopped, u)
		}
	}
	return running, stopped
}
