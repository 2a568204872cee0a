package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build"
	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// layoutRef begins the reference of an image that came from an OCI layout of the client's: its ID follows.
const layoutRef = "oci-layout:"

// layout takes in an image of an OCI layout that the client offers as a folder of that name. It is among the engine's images
// afterwards, without a name, as one that was pulled to be built upon is with one.
func (s *Service) layout(ctx context.Context, r *build.Request, ref dockerfile.ImageRef) (dockerfile.ResolvedImage, error) {
	t, err := r.Client.Folder(ctx, &graph.Local{Name: ref.Layout})
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	index, err := solve.ReadFile(ctx, t, "/"+ocispec.ImageIndexFile, maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return dockerfile.ResolvedImage{}, errs.Invalid.Errorf("the folder of context %s is no OCI layout: it has no %s", ref.Layout, ocispec.ImageIndexFile)
	}
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	named, err := reference.ParseNormalizedNamed(ref.Ref)
	if err != nil {
		return dockerfile.ResolvedImage{}, errs.Invalid.Wrap(err)
	}
	c, ok := named.(reference.Canonical)
	if !ok {
		return dockerfile.ResolvedImage{}, errs.Invalid.Errorf("context %s names no digest in its OCI layout", ref.Layout)
	}
	want, err := pickLayout(index, "", c.Digest())
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	id, err := s.loadLayout(ctx, t, want)
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	img, err := s.Images.Get(ctx, id.String())
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	return dockerfile.ResolvedImage{Ref: layoutRef + id.String(), Config: img.Config}, nil
}

// loadLayout makes an archive of what the manifest names, and of nothing else.
func (s *Service) loadLayout(ctx context.Context, t source.Tree, want ocispec.Descriptor) (digest.Digest, error) {
	files := source.NewFiles(t)
	list := map[digest.Digest]*source.Entry{}
	var add func(d ocispec.Descriptor, depth int) error
	add = func(d ocispec.Descriptor, depth int) error {
		if depth > 4 || list[d.Digest] != nil {
			return nil
		}
		if err := d.Digest.Validate(); err != nil {
			return errs.Invalid.Wrap(err)
		}
		e, err := files.Find(strings.TrimPrefix(layoutPath(d.Digest), "/"))
		if errors.Is(err, fs.ErrNotExist) {
			if depth == 0 {
				return errs.NotFound.Errorf("the OCI layout has no %s", d.Digest)
			}
			return nil // another platform's; what is needed is missed when it is loaded
		}
		if err != nil {
			return err
		}
		list[d.Digest] = e
		data := []byte(nil)
		switch d.MediaType {
		case ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, "",
			"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json":
			if data, err = solve.ReadFile(ctx, t, "/"+e.Path, maxManifest); err != nil {
				return err
			}
		default:
			return nil
		}
		var m manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return errs.Invalid.Errorf("read manifest %s: %w", d.Digest, err)
		}
		below := append(m.Manifests, m.Layers...)
		if m.Config != nil {
			below = append(below, *m.Config)
		}
		for _, x := range below {
			if x.MediaType == "" {
				x.MediaType = "application/octet-stream"
			}
			if err := add(x, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(want, 0); err != nil {
		return "", err
	}
	var entries []*source.Entry
	for _, e := range list {
		entries = append(entries, e)
	}
	if err := t.Want(ctx, entries); err != nil {
		return "", err
	}
	data, err := solve.ReadFile(ctx, t, "/"+list[want.Digest].Path, maxManifest)
	if err != nil {
		return "", err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err == nil && m.Manifests != nil {
		want.MediaType = ocispec.MediaTypeImageIndex
	}
	top := ocispec.Descriptor{MediaType: want.MediaType, Digest: want.Digest, Size: list[want.Digest].Size, Platform: want.Platform}
	index, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{top}})
	if err != nil {
		return "", err
	}
	pr, pw := io.Pipe()
	defer pr.Close()
	go func() { pw.CloseWithError(writeLayout(ctx, pw, t, index, list)) }()
	return s.Images.Load(ctx, pr)
}

func writeLayout(ctx context.Context, w io.Writer, t source.Tree, index []byte, list map[digest.Digest]*source.Entry) error {
	tw := tar.NewWriter(w)
	put := func(name string, size int64, from io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		_, err := io.Copy(tw, from)
		return err
	}
	const layout = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`
	if err := put(ocispec.ImageLayoutFile, int64(len(layout)), strings.NewReader(layout)); err != nil {
		return err
	}
	if err := put(ocispec.ImageIndexFile, int64(len(index)), bytes.NewReader(index)); err != nil {
		return err
	}
	for d, e := range list {
		in, err := t.Open(ctx, e)
		if err != nil {
			return err
		}
		err = put(strings.TrimPrefix(layoutPath(d), "/"), e.Size, in)
		in.Close()
		if err != nil {
			return err
		}
	}
	return tw.Close()
}
