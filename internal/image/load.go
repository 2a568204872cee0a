package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/layer"
)

// Load takes in a docker-archive or an OCI layout, tar-ed, plain or compressed by gzip or zstd. progress is told, in
// Docker's words, what happens to names that were taken; it may be nil. An archive that is broken at any place
// leaves nothing behind.
func (s *Service) Load(ctx context.Context, r io.Reader, progress func(string)) ([]Loaded, error) {
	loaded, err := s.load(ctx, r, progress)
	if err != nil {
		_, cerr := s.Collect(context.WithoutCancel(ctx))
		return nil, errors.Join(fmt.Errorf("load image: %w", err), cerr)
	}
	return loaded, nil
}

func (s *Service) load(ctx context.Context, r io.Reader, progress func(string)) ([]Loaded, error) {
	blobs, layers := s.content.Lease(), s.layers.Lease()
	defer blobs.Release()
	defer layers.Release()
	a, err := s.readArchive(ctx, blobs, r)
	if err != nil {
		return nil, err
	}
	images, err := a.images(ctx)
	if err != nil {
		return nil, err
	}
	for i := range images {
		if err := s.unpack(ctx, layers, &images[i], a.fresh); err != nil {
			return nil, err
		}
	}
	failpoint.Hit("image-unpacked")
	return s.commit(images, progress)
}

// unpack makes the image's layers. fresh are blobs whose digests were computed just now.
func (s *Service) unpack(ctx context.Context, l *layer.Lease, f *found, fresh map[digest.Digest]bool) error {
	x, err := s.resolve(f.target)
	if err != nil {
		return err
	}
	if err := s.unpackAll(ctx, l, x, fresh); err != nil {
		return err
	}
	if err := s.measure(x); err != nil {
		return err
	}
	f.resolved = x
	return nil
}

// unpackAll makes the layers of an image whose blobs are here, side by side. Those in fresh are not
// hashed again, if they are plain and so have been already.
func (s *Service) unpackAll(ctx context.Context, l *layer.Lease, x *resolved, fresh map[digest.Digest]bool) error {
	if len(x.layers) != len(x.config.RootFS.DiffIDs) {
		return errs.Invalid.Errorf("image %s has %d layers, but its config names %d", x.id, len(x.layers), len(x.config.RootFS.DiffIDs))
	}
	if len(x.layers) > layer.MaxLayers {
		return errs.Invalid.Errorf("max depth exceeded: an image has at most %d layers", layer.MaxLayers)
	}
	ids := chains(x)
	slices.Reverse(ids)
	return sideBySide(ctx, len(x.layers), func(ctx context.Context, i int, below func(context.Context) error) error {
		desc := x.layers[i]
		size, err := s.content.Stat(desc.Digest)
		if err != nil {
			return errs.Invalid.Errorf("layer %d: %w", i, err)
		}
		if size != desc.Size {
			return errs.Invalid.Errorf("layer %d: blob %s has %d bytes, not %d", i, desc.Digest, size, desc.Size)
		}
		diff := x.config.RootFS.DiffIDs[i]
		r := layer.Recipe{Diff: diff, Below: below, Kept: true, Hashed: diff == desc.Digest && fresh[diff], Open: func() (io.ReadCloser, error) {
			return s.content.Open(desc.Digest)
		}}
		if i > 0 {
			r.Parent = ids[i-1]
		}
		_, err = s.layers.Make(ctx, l, r)
		return err
	})
}

// commit gives the images their names.
func (s *Service) commit(images []found, progress func(string)) ([]Loaded, error) {
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	var loaded []Loaded
	var fresh []*resolved
	var said []string
	now := time.Now().UTC()
	for _, f := range images {
		x := f.resolved
		fresh = append(fresh, x)
		for _, n := range f.names {
			if old := s.displace(e, n.String(), x); old != nil {
				said = append(said, fmt.Sprintf("The image %s already exists, renaming the old one with ID %s to empty string", reference.FamiliarString(n), old.id))
			}
			e[n.String()] = &record{x.target, now}
			loaded = append(loaded, Loaded{reference.FamiliarString(n), x.id})
		}
		if len(f.names) > 0 {
			e.release(s, x.target.Digest)
			continue
		}
		loaded = append(loaded, Loaded{ID: x.id})
		if !s.leadsTo(e, x.target.Digest) {
			e[held(x.target.Digest)] = &record{x.target, now}
		}
	}
	if err := s.apply(e, fresh...); err != nil {
		return nil, err
	}
	if progress != nil {
		for _, line := range said {
			progress(line)
		}
	}
	for _, f := range images {
		s.event("load", f.resolved, f.resolved.id.String())
	}
	return loaded, nil
}

// displace keeps what the name leads to now as a dangling image, if x is another and nothing else leads to it.
// It returns the image that lost the name.
func (s *Service) displace(e edit, name string, x *resolved) *resolved {
	var old *resolved
	if r, ok := s.current(e, name); ok {
		old = s.known[r.Target.Digest]
	}
	if old == nil || old.id == x.id {
		return nil
	}
	e[name] = nil
	if !s.leadsTo(e, old.target.Digest) {
		e[held(old.target.Digest)] = &record{old.target, time.Now().UTC()}
	}
	return old
}

// current is what the name leads to once e is applied. It and the next two are called with s.change held, under
// which nobody writes s.refs and s.known.
func (s *Service) current(e edit, name string) (record, bool) {
	if r, ok := e[name]; ok {
		if r == nil {
			return record{}, false
		}
		return *r, true
	}
	r, ok := s.refs[name]
	return r, ok
}

// leadsTo reports whether any record leads to the target once e is applied.
func (s *Service) leadsTo(e edit, target digest.Digest) bool {
	for key, r := range s.refs {
		if _, changed := e[key]; !changed && r.Target.Digest == target {
			return true
		}
	}
	for _, r := range e {
		if r != nil && r.Target.Digest == target {
			return true
		}
	}
	return false
}

// release drops the record that kept the target while it had no name.
func (e edit) release(s *Service, target digest.Digest) {
	if _, ok := s.current(e, held(target)); ok {
		e[held(target)] = nil
	}
}

func short(d digest.Digest) string { return ids.Short(d.String()) }
