package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// What is made here has plain layers: nothing is packed that never leaves the host. Before its first push it is; the image keeps
// its ID and its layers' diff IDs, and its names lead to the packed manifest from then on, so that the digest that a registry
// knows it by is the one that it has here. The same image is packed to the same bytes.

// pack returns x with its layers compressed if it was made here and has never been in a registry, else x itself.
func (p *push) pack(ctx context.Context, x *resolved) (*resolved, error) {
	s := p.s
	m, ok, err := s.unpacked(x)
	if err != nil || !ok {
		return x, err
	}
	blobs := s.content.Lease()
	defer blobs.Release()
	p.list(p.layerIDs(m))
	err = sideBySide(ctx, len(m.Layers), func(ctx context.Context, i int, _ func(context.Context) error) error {
		if m.Layers[i].MediaType != ocispec.MediaTypeImageLayer {
			return nil
		}
		b, err := s.compress(ctx, blobs, m.Layers[i].Digest)
		m.Layers[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: b.Digest, Size: b.Size}
		return err
	})
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("make manifest: %w", err)
	}
	b, err := s.content.IngestBytes(ctx, blobs, data)
	if err != nil {
		return nil, err
	}
	y, err := s.resolveAny(ocispec.Descriptor{MediaType: m.MediaType, Digest: b.Digest, Size: b.Size})
	if err != nil {
		return nil, err
	}
	if y.id != x.id || y.chain != x.chain {
		return nil, errs.Internal.Errorf("packing changed image %s", x.id)
	}
	if err := s.measure(y); err != nil {
		return nil, err
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	for name, r := range s.refs {
		if r.Target.Digest == x.target.Digest {
			e[name] = &record{y.target, r.Time}
		}
	}
	if len(e) == 0 { // removed meanwhile
		return nil, errs.NotFound.Errorf("An image does not exist locally with the tag: %s", reference.FamiliarName(p.name)) //nolint:staticcheck // Docker's words
	}
	return y, s.apply(e, y)
}

// unpacked returns the manifest of an image that was made here, has plain layers, and is in no registry that we know of.
func (s *Service) unpacked(x *resolved) (m ocispec.Manifest, ok bool, err error) {
	if x.target.Digest != x.manifest.Digest {
		return m, false, nil
	}
	data, err := s.content.Read(x.target.Digest, maxManifest)
	if err != nil {
		return m, false, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, false, errs.Invalid.Errorf("read manifest %s: %w", x.target.Digest, err)
	}
	// What makeManifest writes, and nobody else to the byte: what was received keeps its digest.
	same := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: m.Config.Digest, Size: m.Config.Size},
		Layers: []ocispec.Descriptor{},
	}
	plain, made := 0, false
	for _, l := range m.Layers {
		same.Layers = append(same.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
		if l.MediaType == ocispec.MediaTypeImageLayer {
			plain++
			_, err := s.content.Stat(l.Digest)
			made = made || err != nil // here, and never was an archive
		}
	}
	ok = plain > 0 && (made || plain == len(m.Layers))
	again, err := json.Marshal(same)
	if err != nil || !ok || !bytes.Equal(again, data) {
		return m, false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for name, r := range s.refs {
		if r.Target.Digest != x.target.Digest || isHeld(name) {
			continue
		}
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			if _, known := named.(reference.Canonical); known {
				return m, false, nil
			}
		}
	}
	return m, true, nil
}

// compress packs a plain layer into a blob.
func (s *Service) compress(ctx context.Context, l *content.Lease, plain digest.Digest) (content.Blob, error) {
	in, err := s.openBlob(ctx, plain)
	if err != nil {
		return content.Blob{}, err
	}
	defer in.Close()
	r, w := io.Pipe()
	go func() {
		z := gzip.NewWriter(w)
		_, err := io.CopyBuffer(struct{ io.Writer }{z}, struct{ io.Reader }{in}, make([]byte, 256<<10))
		if err == nil {
			err = z.Close()
		}
		w.CloseWithError(err) // nil is the end
	}()
	defer r.Close()
	return s.content.Ingest(ctx, l, r, content.Expect{})
}
