package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Commit says what a container's changes become.
type Commit struct {
	Container string        // its ID: whose writable layer
	ChainID   digest.Digest // of the layers that it stands on
	Image     digest.Digest // that it was made from; may be gone
	Config    dockerspec.DockerOCIImageConfig
	Author    string
	Comment   string
	CreatedBy string
	Name      reference.NamedTagged // of the new image; nil: none
}

// ParseName reads the name that a new image is to have; nil for an empty one.
func ParseName(name string) (reference.NamedTagged, error) {
	if name == "" {
		return nil, nil
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	if _, ok := named.(reference.Canonical); ok {
		return nil, errs.Invalid.Errorf("cannot import digest reference")
	}
	if err := checkAmbiguous(named); err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named).(reference.NamedTagged), nil
}

// Commit makes an image of a container's changes on top of its own image. Its layer has no blob: the layer
// store makes the archive again when it is needed.
func (s *Service) Commit(ctx context.Context, c Commit) (digest.Digest, error) {
	blobs, layers := s.content.Lease(), s.layers.Lease()
	defer blobs.Release()
	defer layers.Release()
	base, err := s.baseOf(c)
	if err != nil {
		return "", err
	}
	for _, d := range base.layers {
		blobs.Hold(d.Digest)
	}
	made, err := s.layers.Snapshot(ctx, layers, c.ChainID, c.Container)
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	img := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created: &now, Author: c.Author, Platform: base.config.Platform, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: base.config.RootFS.DiffIDs},
		History: append([]ocispec.History(nil), base.config.History...),
	}, Config: c.Config}
	list := append([]ocispec.Descriptor(nil), base.layers...)
	empty := made.DiffID == layer.EmptyDiff
	if !empty {
		desc, err := s.describeMade(made.DiffID)
		if err != nil {
			return "", err
		}
		list = append(list, desc)
		img.RootFS.DiffIDs = append(append([]digest.Digest(nil), img.RootFS.DiffIDs...), made.DiffID)
	}
	img.History = append(img.History, ocispec.History{Created: &now, CreatedBy: c.CreatedBy, Author: c.Author, Comment: c.Comment, EmptyLayer: empty})
	x, err := s.add(ctx, blobs, &img, list, c.Name)
	if err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	return x.id, nil
}

// baseOf finds the image on whose layers the container stands. When it was removed by force, the layers are still
// there, and what was kept of it follows from them.
func (s *Service) baseOf(c Commit) (*resolved, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.known {
		if x.id == c.Image {
			return x, nil
		}
	}
	x := &resolved{config: dockerspec.DockerOCIImage{Image: ocispec.Image{Platform: hostPlatform()}}}
	if c.ChainID == "" {
		return x, nil
	}
	for _, o := range s.known { // another image on the same layers
		if o.chain == c.ChainID {
			return o, nil
		}
	}
	return nil, errs.NotFound.Errorf("No such image: %s: the image of the container was removed, and with it the archives of its layers", c.Image)
}

// describeMade describes a layer that has no blob, or has one all the same.
func (s *Service) describeMade(diff digest.Digest) (ocispec.Descriptor, error) {
	size, err := s.content.Stat(diff)
	if err != nil {
		size, err = s.layers.TarSize(diff)
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diff, Size: size}, err
}

// Import says what an archive of files becomes.
type Import struct {
	Changes []string
	Message string
	Name    string // empty: none
	OS      string // empty: linux
	Arch    string // empty: the host's
	Variant string
}

// Import makes an image with one layer of r: a tar stream, plain or compressed. The archive is kept as it came.
func (s *Service) Import(ctx context.Context, r io.Reader, o Import) (digest.Digest, error) {
	id, err := s.importFrom(ctx, r, o)
	if err != nil {
		_, cerr := s.Collect(context.WithoutCancel(ctx))
		return "", errors.Join(err, cerr)
	}
	return id, nil
}

func (s *Service) importFrom(ctx context.Context, r io.Reader, o Import) (digest.Digest, error) {
	name, err := ParseName(o.Name)
	if err != nil {
		return "", err
	}
	var config dockerspec.DockerOCIImageConfig
	if err := Apply(&config, o.Changes); err != nil {
		return "", err
	}
	blobs, layers := s.content.Lease(), s.layers.Lease()
	defer blobs.Release()
	defer layers.Release()
	blob, err := s.content.Ingest(ctx, blobs, r, content.Expect{Max: s.limits.Archive})
	if err != nil {
		return "", err
	}
	desc, err := s.describeLayer(blob.Digest)
	if err != nil {
		return "", err
	}
	f, err := s.content.Open(blob.Digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	plain, _, err := layer.Decompress(f)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	made, err := s.layers.Import(ctx, layers, plain)
	if err != nil {
		return "", err
	}
	now := time.Now().UTC()
	p := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH, Variant: o.Variant}
	if o.OS != "" {
		p.OS = o.OS
	}
	if o.Arch != "" {
		p.Architecture = o.Arch
	}
	img := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created: &now, Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{made.DiffID}},
		History: []ocispec.History{{Created: &now, Comment: o.Message}},
	}, Config: config}
	x, err := s.add(ctx, blobs, &img, []ocispec.Descriptor{desc}, name)
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	s.event("import", x, x.id.String())
	return x.id, nil
}

// add writes config and manifest of a new image and gives it its name, or none.
func (s *Service) add(ctx context.Context, l *content.Lease, img *dockerspec.DockerOCIImage, layers []ocispec.Descriptor, name reference.NamedTagged) (*resolved, error) {
	x, err := s.write(ctx, l, img, layers)
	if err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	now := time.Now().UTC()
	if name != nil {
		s.displace(e, name.String(), x)
		e[name.String()] = &record{x.target, now}
		e.release(s, x.target.Digest)
	} else if !s.leadsTo(e, x.target.Digest) {
		e[held(x.target.Digest)] = &record{x.target, now}
	}
	if err := s.apply(e, x); err != nil {
		return nil, err
	}
	if name != nil {
		s.event("tag", x, reference.FamiliarString(name))
	}
	return x, nil
}
