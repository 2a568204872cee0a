package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// thrown is what the trash has of an image, or of a name that was taken from one: the references that went.
type thrown struct {
	ID   digest.Digest     `json:"id"`
	Refs map[string]record `json:"refs"`
}

// throw applies the removal e of references to the image id, and puts them into the trash if ctx says so. It is called
// with s.change held.
func (s *Service) throw(ctx context.Context, e edit, id digest.Digest) error {
	if !s.trash.Takes(ctx) {
		return s.apply(e)
	}
	t := thrown{id, map[string]record{}}
	var names []string
	holds := trash.Holds{}
	for key, r := range e {
		old, there := s.refs[key]
		if r != nil || !there {
			continue
		}
		t.Refs[key] = old
		if !isHeld(key) {
			name, _ := familiar(key)
			names = append(names, name)
		}
		if x := s.known[old.Target.Digest]; x != nil && !slices.Contains(holds.Blobs, old.Target.Digest) {
			holds.Blobs = append(append(holds.Blobs, old.Target.Digest), x.blobs...)
			if x.chain != "" && !slices.Contains(holds.Chains, x.chain) {
				holds.Chains = append(holds.Chains, x.chain)
			}
		}
	}
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(digestsLast(a), digestsLast(b)) })
	it, err := s.trash.New(ctx, trash.Image, id.String(), names, t)
	if err != nil {
		return err
	}
	it.Holds = holds
	// In the trash before s.known forgets it, under the lock that Collect marks with.
	return s.applyWith(e, it.Put, func() { s.trash.Add(it) })
}

func digestsLast(name string) string {
	if strings.Contains(name, "@") {
		return "~" + name
	}
	return name
}

// Keeper brings images back from the trash.
func (s *Service) Keeper() trash.Keeper { return keeper{s} }

type keeper struct{ s *Service }

// Restore gives the image its names again.
func (k keeper) Restore(ctx context.Context, it trash.Item, as string, taken func(state.Tx) error) (string, error) {
	s := k.s
	var t thrown
	if err := it.Decode(&t); err != nil {
		return "", err
	}
	renamed, err := ParseName(as)
	if err != nil {
		return "", err
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	var fresh []*resolved
	var names []string
	for key, r := range t.Refs {
		x := s.known[r.Target.Digest]
		if x == nil {
			if x, err = s.resolveAny(r.Target); err == nil {
				err = s.measure(x)
			}
			if err != nil {
				return "", fmt.Errorf("bring image %s back: %w", short(t.ID), err)
			}
			fresh = append(fresh, x)
		}
		if named, err := reference.ParseNormalizedNamed(key); renamed != nil && (isHeld(key) || err == nil && !isCanonical(named)) {
			key = renamed.String()
		}
		if cur, ok := s.refs[key]; ok && cur.Target.Digest != r.Target.Digest {
			name, _ := familiar(key)
			return "", errs.Conflict.Errorf("cannot bring image %s back: the name %s belongs to another image again\n`gantry undo --as NAME %s` gives it another", short(t.ID), name, short(t.ID))
		}
		if isHeld(key) && s.leadsTo(e, r.Target.Digest) {
			continue
		}
		e[key] = &r
		if !isHeld(key) {
			e.release(s, r.Target.Digest)
			name, _ := familiar(key)
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if err := s.applyWith(e, taken, func() {}, fresh...); err != nil {
		return "", fmt.Errorf("bring image %s back: %w", short(t.ID), err)
	}
	slices.Sort(names)
	for _, r := range t.Refs {
		if x := s.known[r.Target.Digest]; x != nil {
			for _, n := range names {
				s.event("tag", x, n)
			}
			break
		}
	}
	if len(names) == 0 {
		return short(t.ID), nil
	}
	return strings.Join(names, ", "), nil
}

func isCanonical(n reference.Named) bool {
	_, ok := n.(reference.Canonical)
	return ok
}

// Discard has nothing to do: Collect finds what nobody holds any more.
func (k keeper) Discard(context.Context, trash.Item) error { return nil }

// Size is that of the layers and blobs that only this item holds.
func (k keeper) Size(it trash.Item) (n int64) {
	for _, info := range k.s.heldOnlyBy(it) {
		n += info.Size
	}
	blobs := map[digest.Digest]bool{}
	for _, d := range it.Holds.Blobs {
		blobs[d] = true
	}
	k.s.mu.RLock()
	for _, x := range k.s.known {
		for _, d := range append(x.blobs, x.target.Digest) {
			delete(blobs, d)
		}
	}
	k.s.mu.RUnlock()
	for _, other := range k.s.trash.Items("") {
		if other.ID != it.ID {
			for _, d := range other.Holds.Blobs {
				delete(blobs, d)
			}
		}
	}
	for d := range blobs {
		if size, err := k.s.content.Stat(d); err == nil {
			n += size
		}
	}
	return n
}

func (s *Service) heldOnlyBy(it trash.Item) map[digest.Digest]layer.Info {
	return s.layers.Unwanted(func(mark func(digest.Digest)) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.markLayers(mark)
		for _, other := range s.trash.Items("") {
			if other.ID != it.ID {
				for _, c := range other.Holds.Chains {
					mark(c)
				}
			}
		}
	})
}
