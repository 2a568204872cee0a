package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Finding is something that a check found wrong.
type Finding struct {
	Kind    string // "blob", "layer", "image", "state", "orphan"
	Name    string
	Problem string
	Mended  string // what was done about it; empty: nothing
	Advice  string // how to get back what is lost, or how to have it mended
}

// Checked counts what was read.
type Checked struct {
	Blobs, Layers, Images int
	Bytes                 int64 // of blobs
}

// Check reads every blob and every layer and tells say what is wrong. With repair it mends what can be: a layer is unpacked
// again from its archive, unless runs names a container that runs on it; a damaged blob is dropped, so that
// the next load or pull brings it.
func (s *Service) Check(ctx context.Context, repair bool, runs func(chain digest.Digest) string, say func(Finding)) (c Checked, err error) {
	bad, err := s.checkBlobs(ctx, repair, &c, say)
	if err != nil {
		return c, err
	}
	s.checkReferences(&c, say)
	return c, s.checkLayers(ctx, repair, bad, runs, &c, say)
}

// blobUsers names the images that need a blob. It is called with s.mu held.
func (s *Service) blobUsers(d digest.Digest) []string {
	var names []string
	for _, i := range s.imagesLocked() {
		if x := s.known[i.Target.Digest]; x.target.Digest == d || slices.Contains(x.blobs, d) {
			names = append(names, called(i))
		}
	}
	return names
}

func called(i *Image) string {
	if len(i.RepoTags) > 0 {
		return i.RepoTags[0]
	}
	return short(i.ID)
}

func (s *Service) checkBlobs(ctx context.Context, repair bool, c *Checked, say func(Finding)) (bad map[digest.Digest]bool, err error) {
	bad = map[digest.Digest]bool{}
	blobs, err := s.content.All()
	if err != nil {
		return nil, err
	}
	for _, d := range blobs {
		whole, n, err := s.content.Check(ctx, d)
		if errs.NotFound.Is(err) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		c.Blobs++
		c.Bytes += n
		if whole {
			continue
		}
		bad[d] = true
		f := Finding{Kind: "blob", Name: d.String(), Problem: "its content is not what its digest says"}
		s.mu.RLock()
		users := s.blobUsers(d)
		s.mu.RUnlock()
		_, packed := s.layers.TarSize(d)
		switch {
		case len(users) == 0:
			f.Advice = "no image needs it"
		case packed == nil:
			f.Advice = "nothing is lost: it is made again from the layer's files when it is needed"
		default:
			f.Advice = "load or pull again: " + strings.Join(users, ", ")
		}
		if repair {
			if err := s.content.Drop(d); err != nil {
				return nil, err
			}
			f.Mended = "dropped"
		}
		say(f)
	}
	// What should be here and is not.
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.known {
		need := []digest.Digest{x.target.Digest, x.manifest.Digest, x.id}
		for _, l := range x.layers {
			if _, err := s.layers.TarSize(l.Digest); err != nil {
				need = append(need, l.Digest)
			}
		}
		for _, d := range need {
			if _, err := s.content.Stat(d); errs.NotFound.Is(err) && !bad[d] {
				bad[d] = true
				say(Finding{Kind: "blob", Name: d.String(), Problem: "it is missing", Advice: "load or pull again: " + strings.Join(s.blobUsers(d), ", ")})
			}
		}
	}
	return bad, nil
}

// checkReferences tells of images that could not be read when the engine started.
func (s *Service) checkReferences(c *Checked, say func(Finding)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c.Images = len(s.known)
	for key, r := range s.refs {
		if s.known[r.Target.Digest] != nil {
			continue
		}
		name, _ := familiar(strings.TrimPrefix(key, "@"))
		x, err := s.resolveAny(r.Target)
		if err == nil {
			err = s.measure(x)
		}
		if err == nil {
			err = errors.New("it is whole again: restart the engine to have it back")
		}
		say(Finding{Kind: "image", Name: name, Problem: err.Error(), Advice: "load or pull it again"})
	}
}

func (s *Service) checkLayers(ctx context.Context, repair bool, bad map[digest.Digest]bool, runs func(digest.Digest) string, c *Checked, say func(Finding)) error {
	archive := map[digest.Digest]digest.Digest{} // by diff ID
	users := map[digest.Digest][]string{}        // by chain ID
	s.mu.RLock()
	for _, i := range s.imagesLocked() {
		x := s.known[i.Target.Digest]
		for n, l := range x.layers {
			if _, err := s.content.Stat(l.Digest); err == nil && !bad[l.Digest] && n < len(x.config.RootFS.DiffIDs) {
				archive[x.config.RootFS.DiffIDs[n]] = l.Digest
			}
		}
		for _, chain := range chains(x) {
			users[chain] = append(users[chain], called(i))
		}
	}
	s.mu.RUnlock()
	for _, info := range s.layers.All() {
		var open layer.Source
		if d, ok := archive[info.DiffID]; ok {
			open = func() (io.ReadCloser, error) { return s.content.Open(d) }
		}
		err := s.layers.Check(ctx, info.ChainID, open)
		if errs.NotFound.Is(err) && !errors.Is(err, layer.ErrDamaged) {
			continue
		}
		c.Layers++
		if err == nil {
			continue
		}
		if !errors.Is(err, layer.ErrDamaged) {
			return err
		}
		f := Finding{Kind: "layer", Name: info.ChainID.String(), Problem: err.Error()}
		who := strings.Join(users[info.ChainID], ", ")
		busy := runs(info.ChainID)
		switch {
		case open == nil:
			f.Advice = fmt.Sprintf("lost: its archive is not here. Remove and then load, pull or build again: %s", who)
		case !repair:
			f.Advice = "`gantry system check --repair` unpacks it again"
		case busy != "":
			f.Advice = fmt.Sprintf("stop container %s, which runs on it, and check again", busy)
		default:
			if err := s.layers.Repair(ctx, info.ChainID, open); err != nil {
				f.Advice = err.Error()
			} else {
				f.Mended = "unpacked again from its archive"
			}
		}
		say(f)
	}
	return nil
}

// imagesLocked is sorted(view) for who holds s.mu.
func (s *Service) imagesLocked() []*Image {
	var list []*Image
	for _, i := range s.join() {
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b *Image) int { return newestFirst(*a, *b) })
	return list
}
