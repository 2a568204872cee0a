package image

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
)

// Get resolves a reference: name[:tag][@digest], an image ID or a unique prefix of one, or the digest of a
// manifest. Not found, it is errs.NotFound with Docker's "No such image: …". The builtin hello-world
// and registry are there whenever they are asked for by name, unless that name was given to another image.
func (s *Service) Get(ctx context.Context, ref string) (Image, error) {
	i, err := s.lookup(ref)
	if err != nil {
		if name := builtinName(ref); name != "" {
			if err := s.addBuiltin(ctx, name); err != nil {
				return Image{}, err
			}
			i, err = s.lookup(ref)
		}
	}
	return i, err
}

// Find is Get that makes nothing: an image that is inside the engine is found only when it was made before.
func (s *Service) Find(ref string) (Image, error) { return s.lookup(ref) }

// lookup is Get of what is there. Names come before ID prefixes, as in Docker: an image that is called "cafe" hides
// the one whose ID begins so.
func (s *Service) lookup(ref string) (Image, error) {
	images := s.view()
	parsed, err := reference.ParseAnyReference(ref)
	if err != nil {
		return Image{}, errs.Invalid.Wrap(err)
	}
	if named, ok := parsed.(reference.Named); ok {
		if i := s.byName(images, named); i != nil {
			return *i, nil
		}
		if i, ambiguous := byPrefix(images, ref); i != nil {
			return *i, nil
		} else if ambiguous {
			return Image{}, errs.NotFound.Errorf("%w\n%q is the beginning of several image IDs: give more of it", noSuchImage(named), ref)
		}
		return Image{}, noSuchImage(named)
	}
	d := digest.Digest(parsed.(reference.Digested).Digest())
	if i := images[d]; i != nil {
		return *i, nil
	}
	for _, i := range images {
		if i.Target.Digest == d || i.Manifest.Digest == d {
			return *i, nil
		}
	}
	return Image{}, noSuchImage(parsed)
}

func noSuchImage(ref reference.Reference) error {
	if named, ok := ref.(reference.Named); ok {
		ref = reference.TagNameOnly(named)
	}
	return errs.NotFound.Errorf("No such image: %s", familiarString(ref))
}

func familiarString(ref reference.Reference) string {
	if named, ok := ref.(reference.Named); ok {
		return reference.FamiliarString(named)
	}
	return ref.String()
}

// key is the record's key for a name. With a digest the tag does not count.
func key(named reference.Named) string {
	if c, ok := named.(reference.Canonical); ok {
		return named.Name() + "@" + c.Digest().String()
	}
	return reference.TagNameOnly(named).String()
}

func (s *Service) byName(images map[digest.Digest]*Image, named reference.Named) *Image {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if r, ok := s.refs[key(named)]; ok {
		if x := s.known[r.Target.Digest]; x != nil {
			return withTarget(images[x.id], x)
		}
		return nil
	}
	c, ok := named.(reference.Canonical)
	if !ok {
		return nil
	}
	// A loaded image has no digest reference of its own, but its blobs have the digests they had in the registry.
	for k, r := range s.refs {
		x := s.known[r.Target.Digest]
		if x == nil || isHeld(k) || (x.target.Digest != c.Digest() && x.manifest.Digest != c.Digest()) {
			continue
		}
		if other, err := reference.ParseNormalizedNamed(k); err == nil && other.Name() == named.Name() {
			return withTarget(images[x.id], x)
		}
	}
	return nil
}

// withTarget is the image as x leads to it: several targets may share one config.
func withTarget(i *Image, x *resolved) *Image {
	if i == nil { // removed in between
		return nil
	}
	c := *i
	c.Target, c.Manifest = x.target, x.manifest
	return &c
}

// byPrefix finds the one image whose ID begins with prefix, "sha256:" allowed before it.
func byPrefix(images map[digest.Digest]*Image, prefix string) (found *Image, ambiguous bool) {
	hex := strings.TrimPrefix(prefix, "sha256:")
	if hex == "" {
		return nil, false
	}
	for id, i := range images {
		if !strings.HasPrefix(id.Encoded(), hex) {
			continue
		}
		if found != nil {
			return nil, true
		}
		found = i
	}
	return found, false
}

// isIDPrefix reports whether ref names the image by its ID, Docker's rule for what `rmi` removes.
func isIDPrefix(id digest.Digest, ref string) bool {
	return strings.HasPrefix(id.String(), ref) || strings.HasPrefix(id.Encoded(), ref)
}

func newestFirst(a, b Image) int {
	if c := b.Created().Compare(a.Created()); c != 0 {
		return c
	}
	return cmp.Compare(a.ID, b.ID)
}

func sorted(images map[digest.Digest]*Image) []Image {
	list := make([]Image, 0, len(images))
	for _, i := range images {
		list = append(list, *i)
	}
	slices.SortFunc(list, newestFirst)
	return list
}
