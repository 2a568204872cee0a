package builder

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build"
	"gantry/internal/build/cachefile"
	"gantry/internal/build/graph"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/remote"
)

// caches are those elsewhere that a build may use. It is a solve.Importer.
type caches struct {
	s       *Service
	steps   map[string]*solve.Kept
	layers  map[digest.Digest]archive // by diff ID
	unpacks sync.Mutex                // one chain at a time: they have most layers in common
}

// archive is where a layer's archive is to be had.
type archive struct {
	desc ocispec.Descriptor
	// fetch brings it into the content store, as it is, and gives it to the lease; nil: it is in the store, or the layer is here.
	fetch func(ctx context.Context, l *content.Lease, d ocispec.Descriptor) error
}

// importCaches reads what the caches of the request have; nil without any. One that can't be read is told, and no reason not to build.
func (s *Service) importCaches(ctx context.Context, r *build.Request) solve.Importer {
	if len(r.CacheFrom) == 0 || s.Content == nil {
		return nil
	}
	c := &caches{s: s, steps: map[string]*solve.Kept{}, layers: map[digest.Digest]archive{}}
	for i := range r.CacheFrom {
		from := &r.CacheFrom[i]
		where := from.Ref
		if from.Type == "local" {
			where = "a folder"
		}
		tell(r.Sink, build.Event{Kind: build.Exporting, Text: "importing cache from " + where})
		if err := c.read(ctx, r, from); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			tell(r.Sink, build.Event{Kind: build.Exporting, Text: "WARNING: importing cache from " + where + " failed: " + err.Error()})
		}
	}
	return c
}

func (c *caches) read(ctx context.Context, r *build.Request, from *build.CacheFrom) error {
	if from.Type == "local" {
		return c.fromFolder(ctx, r, from)
	}
	var err error
	if !from.Here {
		if err = c.fromRegistry(ctx, r, from); err == nil || ctx.Err() != nil {
			return err
		}
	}
	// An image that is here may have brought its cache with it.
	value, herr := c.s.Images.Field(ctx, from.Ref, cachefile.Field)
	if herr != nil || value == nil {
		if err == nil && !errs.NotFound.Is(herr) {
			err = herr
		}
		return err
	}
	return c.inline(value, nil)
}

// inline takes in the cache that an image's configuration has. Its layers are the image's.
func (c *caches) inline(value json.RawMessage, at func(diff digest.Digest) (archive, bool)) error {
	var data []byte // base64 in JSON
	if err := json.Unmarshal(value, &data); err != nil {
		return errs.Invalid.Errorf("read the cache in the image's configuration: %w", err)
	}
	return c.add(data, at)
}

// add takes in a configuration; at tells where a layer's archive is.
func (c *caches) add(data []byte, at func(diff digest.Digest) (archive, bool)) error {
	config, err := cachefile.Parse(data)
	if err != nil {
		return err
	}
	found := 0
	below := map[int][]digest.Digest{} // by layer: steps that stand on the same ones have one list
	for i := range config.Records {
		step := config.Records[i].Step
		if step == nil {
			continue
		}
		k := &solve.Kept{ID: step.ID, Keys: step.Keys, Kind: step.Kind, Name: step.Name, Parents: step.Parents, Size: step.Size}
		usable := true
		for _, o := range step.Outs {
			diffs, ok := below[o.Layer]
			if !ok {
				if diffs, err = config.Diffs(o.Layer); err != nil {
					return err
				}
				below[o.Layer] = diffs
			}
			for _, d := range diffs {
				if _, known := c.layers[d]; known || at == nil {
					continue
				}
				if a, ok := at(d); ok {
					c.layers[d] = a
				} else {
					usable = false
				}
			}
			k.Outs = append(k.Outs, solve.KeptOut{Diffs: diffs, Empty: o.Empty})
		}
		if !usable {
			continue
		}
		found++
		for _, key := range append([]string{step.ID}, step.Keys...) {
			if c.steps[key] == nil {
				c.steps[key] = k
			}
		}
	}
	if found == 0 && len(config.Records) > 0 {
		return errs.Invalid.Errorf("another builder wrote it: none of its %d steps can be used", len(config.Records))
	}
	return nil
}

// Find implements solve.Importer.
func (c *caches) Find(key string) *solve.Kept { return c.steps[key] }

// Unpack implements solve.Importer.
func (c *caches) Unpack(ctx context.Context, l *layer.Lease, diffs []digest.Digest, report func(solve.Status)) error {
	c.unpacks.Lock()
	defer c.unpacks.Unlock()
	blobs := c.s.Content.Lease()
	defer blobs.Release()
	parent := digest.Digest("")
	for _, diff := range diffs {
		chain := layer.ChainID(parent, diff)
		l.Hold(chain)
		if _, err := c.s.Layers.Get(chain); err == nil {
			parent = chain
			continue
		}
		a, ok := c.layers[diff]
		if !ok || a.fetch == nil {
			return errs.NotFound.Errorf("layer %s is neither here nor in the cache", diff)
		}
		blobs.Hold(a.desc.Digest)
		if _, err := c.s.Content.Stat(a.desc.Digest); err != nil {
			report(solve.Status{ID: a.desc.Digest.String(), Action: "importing", Total: a.desc.Size})
			if err := a.fetch(ctx, blobs, a.desc); err != nil {
				return err
			}
			report(solve.Status{ID: a.desc.Digest.String(), Action: "importing", Current: a.desc.Size, Total: a.desc.Size, Done: true})
		}
		recipe := layer.Recipe{Parent: parent, Diff: diff, Open: func() (io.ReadCloser, error) { return c.s.Content.Open(a.desc.Digest) }}
		if _, err := c.s.Layers.Make(ctx, l, recipe); err != nil {
			return err
		}
		// The archive goes: an image of the layer must be able to do without.
		if again, err := c.s.Layers.Vouch(ctx, chain); err != nil {
			return err
		} else if !again {
			return errs.Invalid.Errorf("layer %s was not made by Gantry, and no image here has it", diff)
		}
		parent = chain
	}
	return nil
}

// maxManifest bounds a manifest, in bytes; registries refuse larger ones.
const maxManifest = 4 << 20

// manifest is what is read of a cache's manifest, an image's, or an index of either.
type manifest struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// medium is where blobs are read from.
type medium struct {
	manifest func(ctx context.Context, d ocispec.Descriptor) ([]byte, error)
	blob     func(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error)
	fetch    func(ctx context.Context, l *content.Lease, d ocispec.Descriptor) error
}

// take reads the manifest in any of the forms that a cache has.
func (c *caches) take(ctx context.Context, m medium, data []byte, depth int) error {
	var x manifest
	if err := json.Unmarshal(data, &x); err != nil {
		return errs.Invalid.Errorf("read the cache's manifest: %w", err)
	}
	config, list := x.Config, x.Layers
	for i, d := range x.Manifests {
		if d.MediaType == cachefile.MediaType {
			config, list = &x.Manifests[i], x.Manifests
		}
	}
	if config == nil {
		// An index of images, of which ours has the cache inline.
		for _, d := range x.Manifests {
			if depth > 3 || d.Platform != nil && (d.Platform.OS != "linux" || d.Platform.Architecture != runtime.GOARCH) {
				continue
			}
			next, err := m.manifest(ctx, d)
			if err != nil {
				return err
			}
			return c.take(ctx, m, next, depth+1)
		}
		return errs.Invalid.Errorf("it is no cache, and no image that has one")
	}
	at := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range list {
		at[d.Digest] = d
	}
	body, err := m.blob(ctx, *config, cachefile.MaxSize)
	if err != nil {
		return err
	}
	if config.MediaType == cachefile.MediaType {
		parsed, err := cachefile.Parse(body)
		if err != nil {
			return err
		}
		byDiff := map[digest.Digest]archive{}
		for _, l := range parsed.Layers {
			if d, ok := at[l.Blob]; ok && l.Annotations != nil {
				byDiff[l.Annotations.DiffID] = archive{d, m.fetch}
			}
		}
		return c.add(body, func(diff digest.Digest) (archive, bool) { a, ok := byDiff[diff]; return a, ok })
	}
	var image struct {
		RootFS ocispec.RootFS `json:"rootfs"`
		Cache  []byte         `json:"moby.buildkit.cache.v0"` // cachefile.Field
	}
	if err := json.Unmarshal(body, &image); err != nil {
		return errs.Invalid.Errorf("read the image's configuration: %w", err)
	}
	if image.Cache == nil {
		return errs.Invalid.Errorf("the image has no cache in it (--cache-to type=inline puts it there)")
	}
	return c.add(image.Cache, func(diff digest.Digest) (archive, bool) {
		for i, d := range image.RootFS.DiffIDs {
			if d == diff && i < len(list) {
				return archive{list[i], m.fetch}, true
			}
		}
		return archive{}, false
	})
}

func (c *caches) fromRegistry(ctx context.Context, r *build.Request, from *build.CacheFrom) error {
	repo, tag, err := c.s.repository(r, from.Ref, from.Insecure)
	if err != nil {
		return err
	}
	top, err := repo.Manifest(ctx, tag)
	if err != nil {
		return err
	}
	return c.take(ctx, medium{
		manifest: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
			m, err := repo.Manifest(ctx, d.Digest.String())
			return m.Data, err
		},
		blob: func(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
			return repo.Blob(ctx, d, limit)
		},
		fetch: func(ctx context.Context, l *content.Lease, d ocispec.Descriptor) error {
			return c.s.fetchBlob(ctx, l, repo, d)
		},
	}, top.Data, 0)
}

func (s *Service) fetchBlob(ctx context.Context, l *content.Lease, repo *remote.Repository, d ocispec.Descriptor) error {
	part, err := s.Content.Partial(ctx, l, d.Digest, d.Size)
	if err != nil {
		return err
	}
	defer part.Close()
	return repo.FetchInto(ctx, part, d)
}

// fromFolder reads the OCI layout that the client offers.
func (c *caches) fromFolder(ctx context.Context, r *build.Request, from *build.CacheFrom) error {
	t, err := r.Client.Folder(ctx, &graph.Local{Name: from.Folder})
	if err != nil {
		return err
	}
	files := source.NewFiles(t)
	read := func(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
		if err := content.Check(d.Digest); err != nil {
			return nil, err
		}
		data, err := solve.ReadFile(ctx, t, layoutPath(d.Digest), limit)
		if err == nil && d.Digest.Algorithm().FromBytes(data) != d.Digest {
			err = errs.Invalid.Errorf("blob %s is damaged", d.Digest)
		}
		return data, err
	}
	index, err := solve.ReadFile(ctx, t, "/"+ocispec.ImageIndexFile, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return errs.Invalid.Errorf("the folder is no OCI layout: it has no %s", ocispec.ImageIndexFile)
	}
	if err != nil {
		return err
	}
	want, err := pickLayout(index, from.Tag, from.Digest)
	if err != nil {
		return err
	}
	body, err := read(ctx, want, maxManifest)
	if err != nil {
		return err
	}
	return c.take(ctx, medium{
		manifest: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) { return read(ctx, d, maxManifest) },
		blob:     read,
		fetch: func(ctx context.Context, l *content.Lease, d ocispec.Descriptor) error {
			if err := content.Check(d.Digest); err != nil {
				return err
			}
			e, err := files.Find(strings.TrimPrefix(layoutPath(d.Digest), "/"))
			if err != nil {
				return err
			}
			in, err := t.Open(ctx, e)
			if err != nil {
				return err
			}
			defer in.Close()
			_, err = c.s.Content.Ingest(ctx, l, in, content.Expect{Digest: d.Digest, Size: d.Size, Sized: true})
			return err
		},
	}, body, 0)
}

func layoutPath(d digest.Digest) string {
	return "/blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

// pickLayout finds in an OCI layout's index what a tag or a digest means; neither: the tag latest, or the only one that there is.
func pickLayout(data []byte, tag string, d digest.Digest) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return ocispec.Descriptor{}, errs.Invalid.Errorf("read %s: %w", ocispec.ImageIndexFile, err)
	}
	named := tag
	if named == "" {
		named = "latest"
	}
	for _, m := range index.Manifests {
		if err := content.Check(m.Digest); err != nil {
			return m, errs.Invalid.Errorf("read %s: %w", ocispec.ImageIndexFile, err)
		}
		if d != "" && m.Digest == d || d == "" && m.Annotations[ocispec.AnnotationRefName] == named {
			return m, nil
		}
	}
	switch {
	case d != "":
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: -1}, nil // it need not be listed
	case tag == "" && len(index.Manifests) == 1:
		return index.Manifests[0], nil
	}
	return ocispec.Descriptor{}, errs.NotFound.Errorf("the OCI layout has no %q", named)
}
