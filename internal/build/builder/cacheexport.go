package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build"
	"gantry/internal/build/cachefile"
	"gantry/internal/build/solve"
	"gantry/internal/errs"
	"gantry/internal/remote"
)

// inline is the cache that goes into the image's configuration: the steps whose layers the image has. nil: none is wanted.
func (s *Service) inline(ctx context.Context, r *build.Request, solved *solve.Solved) ([]byte, error) {
	if !slices.ContainsFunc(r.CacheTo, func(c build.CacheTo) bool { return c.Type == "inline" }) {
		return nil, nil
	}
	list, err := solved.Kept(ctx, false)
	if err != nil {
		return nil, err
	}
	m := &cachefile.Maker{}
	describe(m, list, func(diff digest.Digest) cachefile.Layer {
		return cachefile.Layer{Annotations: &cachefile.Annotations{DiffID: diff}}
	})
	return json.Marshal(m.Config)
}

// describe adds steps.
func describe(m *cachefile.Maker, list []solve.Kept, layer func(digest.Digest) cachefile.Layer) {
	for _, k := range list {
		step := &cachefile.Step{ID: k.ID, Keys: k.Keys, Kind: k.Kind, Name: k.Name, Parents: k.Parents, Size: k.Size}
		rec := cachefile.Record{Digest: digest.NewDigestFromEncoded(digest.SHA256, k.ID), Step: step}
		for _, o := range k.Outs {
			top := m.Layers(o.Diffs, layer)
			step.Outs = append(step.Outs, cachefile.Out{Layer: top, Empty: o.Empty})
			if top >= 0 {
				rec.Results = append(rec.Results, cachefile.Result{Layer: top, CreatedAt: k.Created})
			}
		}
		m.Records = append(m.Records, rec)
	}
}

// exportCaches writes the cache where else it is wanted.
func (s *Service) exportCaches(ctx context.Context, r *build.Request, solved *solve.Solved) error {
	for i := range r.CacheTo {
		c := &r.CacheTo[i]
		if c.Type == "inline" {
			continue
		}
		where := c.Ref
		if c.Type == "local" {
			where = "a folder"
		}
		tell(r.Sink, build.Event{Kind: build.Exporting, Text: "exporting cache to " + where})
		if err := s.exportCache(ctx, r, c, solved); err != nil {
			if !c.IgnoreError || ctx.Err() != nil {
				return fmt.Errorf("export cache to %s: %w", where, err)
			}
			tell(r.Sink, build.Event{Kind: build.Exporting, Text: "WARNING: export cache to " + where + ": " + err.Error()})
		}
	}
	return nil
}

// small is a blob that is made here.
type small struct {
	desc ocispec.Descriptor
	data []byte
}

func smallBlob(mediaType string, v any) (small, error) {
	data, err := json.Marshal(v)
	return small{ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, data}, err
}

func (s *Service) exportCache(ctx context.Context, r *build.Request, c *build.CacheTo, solved *solve.Solved) error {
	if s.Content == nil {
		return errs.NotImplemented.Errorf("this engine exports no caches")
	}
	list, err := solved.Kept(ctx, c.All)
	if err != nil {
		return err
	}
	lease := s.Content.Lease()
	defer lease.Release()
	archives := map[digest.Digest]ocispec.Descriptor{}
	var blobs []ocispec.Descriptor
	for _, k := range list {
		for _, o := range k.Outs {
			for _, diff := range o.Diffs {
				if _, ok := archives[diff]; ok {
					continue
				}
				d, err := s.Images.Archive(ctx, lease, diff)
				if err != nil {
					return err
				}
				d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{"containerd.io/uncompressed": diff.String()}}
				archives[diff] = d
				blobs = append(blobs, d)
			}
		}
	}
	m := &cachefile.Maker{}
	describe(m, list, func(diff digest.Digest) cachefile.Layer {
		d := archives[diff]
		return cachefile.Layer{Blob: d.Digest, Annotations: &cachefile.Annotations{MediaType: d.MediaType, DiffID: diff, Size: d.Size}}
	})
	config, err := smallBlob(cachefile.MediaType, m.Config)
	if err != nil {
		return err
	}
	var manifest small
	if c.Index {
		manifest, err = smallBlob(ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
			Manifests: append(slices.Clone(blobs), config.desc)})
	} else {
		manifest, err = smallBlob(ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config.desc, Layers: append([]ocispec.Descriptor{}, blobs...)})
	}
	if err != nil {
		return err
	}
	if c.Type == "local" {
		return s.cacheFolder(ctx, c, blobs, config, manifest)
	}
	return s.pushCache(ctx, r, c, blobs, config, manifest)
}

// pushCache sends the cache to a registry.
func (s *Service) pushCache(ctx context.Context, r *build.Request, c *build.CacheTo, blobs []ocispec.Descriptor, config, manifest small) error {
	repo, tag, err := s.repository(r, c.Ref, c.Insecure)
	if err != nil {
		return err
	}
	send := func(d ocispec.Descriptor, open remote.Source) error {
		has, err := repo.HasBlob(ctx, d.Digest)
		if err != nil || has {
			return err
		}
		_, err = repo.Push(ctx, d, nil, open, nil)
		return err
	}
	for _, d := range blobs {
		err := send(d, func(offset int64) (io.ReadCloser, error) {
			f, err := s.Content.Open(d.Digest)
			if err != nil {
				return nil, err
			}
			if _, err := f.Seek(offset, io.SeekStart); err != nil {
				f.Close()
				return nil, err
			}
			return f, nil
		})
		if err != nil {
			return err
		}
	}
	err = send(config.desc, func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(config.data[offset:])), nil
	})
	if err != nil {
		return err
	}
	return repo.PutManifest(ctx, tag, manifest.desc.MediaType, manifest.data)
}

// repository finds where a reference's registry has it.
func (s *Service) repository(r *build.Request, ref string, insecure bool) (*remote.Repository, string, error) {
	if s.Remote == nil {
		return nil, "", errs.NotImplemented.Errorf("this engine talks to no registries")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, "", errs.Invalid.Wrap(err)
	}
	var a remote.Access
	if r.Access != nil {
		a = r.Access(ref)
	}
	a.Insecure = a.Insecure || insecure
	repo, err := s.Remote.Repository(named, a)
	if err != nil {
		return nil, "", err
	}
	if c, ok := named.(reference.Canonical); ok {
		return repo, c.Digest().String(), nil
	}
	return repo, reference.TagNameOnly(named).(reference.Tagged).Tag(), nil
}

// cacheFolder sends the cache to the client, as an OCI layout.
func (s *Service) cacheFolder(ctx context.Context, c *build.CacheTo, blobs []ocispec.Descriptor, config, manifest small) error {
	tag := c.Tag
	if tag == "" {
		tag = "latest"
	}
	top := manifest.desc
	top.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(c.To)
	put := func(name string, size int64, from io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
		_, err := io.Copy(tw, from)
		return err
	}
	for _, dir := range []string{"blobs/", "blobs/sha256/"} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	name := func(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }
	for _, d := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := s.Content.Open(d.Digest)
		if err != nil {
			return err
		}
		err = put(name(d.Digest), d.Size, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	for _, b := range []small{config, manifest} {
		if err := put(name(b.desc.Digest), b.desc.Size, bytes.NewReader(b.data)); err != nil {
			return err
		}
	}
	const layout = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`
	if err := put(ocispec.ImageLayoutFile, int64(len(layout)), bytes.NewReader([]byte(layout))); err != nil {
		return err
	}
	// Last: what it names is there.
	if err := put(ocispec.ImageIndexFile, int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	return tw.Close()
}
