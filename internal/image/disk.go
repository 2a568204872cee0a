package image

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"gantry/internal/content"
	"gantry/internal/disk"
)

// DiskParts tells what the files of images and layers belong to: to images, to what only the trash keeps, to what is
// on its way, or to nobody.
func (s *Service) DiskParts() []disk.Part {
	inTrash := s.trash.Items("")
	unwanted := s.layers.Unwanted(func(mark func(digest.Digest)) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.markLayers(mark)
	})
	onlyPulls := s.layers.Unwanted(func(mark func(digest.Digest)) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, x := range s.known {
			mark(x.chain)
		}
	})
	leased := s.layers.OnlyLeased(func(mark func(digest.Digest)) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.markLayers(mark)
	})
	trashed := map[digest.Digest]bool{} // and what lies below
	for _, it := range inTrash {
		for _, c := range it.Holds.Chains {
			for c != "" && !trashed[c] {
				trashed[c] = true
				c = unwanted[c].Parent
			}
		}
	}
	dirs, made := s.layers.Dirs()
	layerOwner := func(name string) (disk.Owner, bool) {
		switch name {
		case "tmp":
			return disk.Owner{Kind: disk.Partial}, true
		case "trash":
			return disk.Owner{Kind: disk.Trash}, true
		case "0", "_m":
			return disk.Owner{Kind: disk.State}, true
		}
		if name, _, nested := strings.Cut(name, "/"); nested {
			return disk.Owner{}, name == ""
		}
		chain, ok := dirs[name]
		switch {
		case !ok && made(name):
			return disk.Owner{Kind: disk.Partial, Name: "layer " + name}, true
		case !ok:
			return disk.Owner{Kind: disk.Orphans, Name: "layer " + name}, true
		}
		_, gone := unwanted[chain]
		if _, half := onlyPulls[chain]; half && !gone {
			return disk.Owner{Kind: disk.Partial, Name: "layer " + chain.String()}, true
		}
		if leased[chain] {
			return disk.Owner{Kind: disk.BuildCache, Name: "layer " + chain.String()}, true
		}
		if !gone {
			return disk.Owner{Kind: disk.Images, Name: chain.String()}, true
		}
		if trashed[chain] {
			return disk.Owner{Kind: disk.Trash, Name: "layer " + chain.String()}, true
		}
		return disk.Owner{Kind: disk.Orphans, Name: "layer " + chain.String()}, true
	}
	const (
		used = 1 + iota
		bin
	)
	blobs := map[digest.Digest]int{}
	for _, it := range inTrash {
		for _, d := range it.Holds.Blobs {
			blobs[d] = bin
		}
	}
	coming := map[digest.Digest]bool{}
	s.mu.RLock()
	for _, u := range s.pulls {
		for _, d := range u.Blobs {
			coming[d] = true
		}
	}
	for _, r := range s.refs {
		blobs[r.Target.Digest] = used
	}
	for _, x := range s.known {
		for _, d := range x.blobs {
			blobs[d] = used
		}
	}
	s.mu.RUnlock()
	blobOwner := func(algorithm digest.Algorithm) func(string) (disk.Owner, bool) {
		return func(name string) (disk.Owner, bool) {
			d := digest.NewDigestFromEncoded(algorithm, name)
			switch {
			case blobs[d] == used:
				return disk.Owner{Kind: disk.Images, Name: "blob " + d.String()}, true
			case coming[d], s.content.Leased(d):
				return disk.Owner{Kind: disk.Partial, Name: "blob " + d.String()}, true
			case blobs[d] == bin:
				return disk.Owner{Kind: disk.Trash, Name: "blob " + d.String()}, true
			}
			return disk.Owner{Kind: disk.Orphans, Name: "blob " + d.String()}, true
		}
	}
	partial := func(name string) (disk.Owner, bool) { return disk.Owner{Kind: disk.Partial, Name: name}, true }
	parts := []disk.Part{
		{Dir: "layers", Of: layerOwner},
		{Dir: "layers/tmp", Of: partial},
		{Dir: "content/ingest", Of: func(name string) (disk.Owner, bool) {
			if strings.HasPrefix(name, content.Gone) { // being deleted
				return disk.Owner{Kind: disk.Trash}, true
			}
			return partial(name)
		}},
		{Dir: "content/partial", Of: partial},
	}
	for _, a := range content.Algorithms() {
		parts = append(parts, disk.Part{Dir: "content/blobs/" + a.String(), Of: blobOwner(a)})
	}
	return parts
}
