package image

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// Make makes an image of layers that are here, as a build does. What config says of its root file system is replaced. Without a
// name the image is dangling. cache, if any, goes into its configuration, for builds elsewhere.
func (s *Service) Make(ctx context.Context, config dockerspec.DockerOCIImage, chain digest.Digest, names []string, cache []byte) (id, manifest digest.Digest, err error) {
	var tags []reference.NamedTagged
	for _, n := range names {
		t, err := ParseName(n)
		if err != nil {
			return "", "", err
		}
		tags = append(tags, t)
	}
	blobs, layers := s.content.Lease(), s.layers.Lease()
	defer blobs.Release()
	defer layers.Release()
	layers.Hold(chain)
	list, err := s.describeChain(blobs, &config, chain)
	if err != nil {
		return "", "", err
	}
	x, err := s.write(ctx, blobs, &withCache{config, cache}, list)
	if err != nil {
		return "", "", err
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	now := time.Now().UTC()
	for _, t := range tags {
		s.displace(e, t.String(), x)
		e[t.String()] = &record{x.target, now}
	}
	if len(tags) > 0 {
		e.release(s, x.target.Digest)
	} else if !s.leadsTo(e, x.target.Digest) {
		e[held(x.target.Digest)] = &record{x.target, now}
	}
	if err := s.apply(e, x); err != nil {
		return "", "", err
	}
	for _, t := range tags {
		s.event("tag", x, reference.FamiliarString(t))
	}
	return x.id, x.target.Digest, nil
}

// withCache is an image's configuration with BuildKit's field for a cache.
type withCache struct {
	dockerspec.DockerOCIImage
	Cache []byte `json:"moby.buildkit.cache.v0,omitempty"`
}

// describeChain lists the layers of chain, bottom first, and writes their diff IDs into config.
func (s *Service) describeChain(l *content.Lease, config *dockerspec.DockerOCIImage, chain digest.Digest) ([]ocispec.Descriptor, error) {
	infos, err := s.layers.Chain(chain)
	if err != nil {
		return nil, err
	}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	list := []ocispec.Descriptor{}
	for i := len(infos) - 1; i >= 0; i-- {
		diff := infos[i].DiffID
		desc, ok := s.blobOf(diff)
		if !ok {
			if desc, err = s.describeMade(diff); err != nil {
				return nil, err
			}
		}
		l.Hold(desc.Digest)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
		list = append(list, desc)
	}
	return list, nil
}

// blobOf finds the archive in which a layer came, as an image here names it.
func (s *Service) blobOf(diff digest.Digest) (ocispec.Descriptor, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, x := range s.known {
		for i, d := range x.config.RootFS.DiffIDs {
			if d == diff && i < len(x.layers) {
				if _, err := s.content.Stat(x.layers[i].Digest); err == nil || errs.NotFound.Is(err) && x.layers[i].Digest == diff {
					return x.layers[i], true
				}
			}
		}
	}
	return ocispec.Descriptor{}, false
}

// write puts config and manifest of a new image into the store.
func (s *Service) write(ctx context.Context, l *content.Lease, img any, layers []ocispec.Descriptor) (*resolved, error) {
	config, err := json.Marshal(img)
	if err != nil {
		return nil, err
	}
	c, err := s.content.IngestBytes(ctx, l, config)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: c.Digest, Size: c.Size}, Layers: layers,
	})
	if err != nil {
		return nil, err
	}
	b, err := s.content.IngestBytes(ctx, l, manifest)
	if err != nil {
		return nil, fmt.Errorf("make image: %w", err)
	}
	x, err := s.resolve(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: b.Digest, Size: b.Size})
	if err != nil {
		return nil, err
	}
	return x, s.measure(x)
}
