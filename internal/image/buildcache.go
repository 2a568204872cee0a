package image

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// Archive describes the archive in which a layer leaves the host, and gives it to the lease: as it came, or packed now.
func (s *Service) Archive(ctx context.Context, l *content.Lease, diff digest.Digest) (ocispec.Descriptor, error) {
	desc, ok := s.blobOf(diff)
	if ok && desc.MediaType != ocispec.MediaTypeImageLayer {
		l.Hold(desc.Digest)
		if _, err := s.content.Stat(desc.Digest); err == nil {
			return desc, nil
		}
	}
	b, err := s.compress(ctx, l, diff)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: b.Digest, Size: b.Size}, err
}

// Field returns a field of an image's configuration that is in no specification, as it came; nil without it.
func (s *Service) Field(ctx context.Context, ref, name string) (json.RawMessage, error) {
	img, err := s.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	data, err := s.content.Read(img.ID, maxConfig)
	if err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, errs.Invalid.Errorf("read image config %s: %w", img.ID, err)
	}
	return all[name], nil
}
