package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
)

// saved is an image that goes into an archive, with the names that were asked for.
type saved struct {
	x     *resolved
	names []reference.NamedTagged
}

// Save returns a function that writes the images to an archive that is both an OCI layout and a docker-archive: the blobs lie
// where the first wants them, and manifest.json points to them. refs are names with or without a tag, or IDs; a
// repository alone stands for all its tags, as in Docker. The same images make the same bytes: files
// come in the order of their names, without times.
func (s *Service) Save(ctx context.Context, refs []string) (func(io.Writer) error, error) {
	if len(refs) == 0 {
		return nil, errs.Invalid.Errorf("no images to save")
	}
	lease := s.content.Lease()
	var list []*saved
	for _, ref := range refs {
		if err := s.choose(ctx, &list, ref); err != nil {
			lease.Release()
			return nil, err
		}
	}
	for _, v := range list {
		lease.Hold(v.x.blobs...)
	}
	return func(w io.Writer) error {
		defer lease.Release()
		if err := s.writeArchive(ctx, w, list); err != nil {
			return fmt.Errorf("save: %w", err)
		}
		return nil
	}, nil
}

// choose adds what ref stands for to the list.
func (s *Service) choose(ctx context.Context, list *[]*saved, ref string) error {
	add := func(target digest.Digest, name reference.NamedTagged) error {
		s.mu.RLock()
		x := s.known[target]
		s.mu.RUnlock()
		if x == nil {
			return errs.NotFound.Errorf("No such image: %s", ref)
		}
		i := slices.IndexFunc(*list, func(v *saved) bool { return v.x.target.Digest == target })
		if i < 0 {
			i = len(*list)
			*list = append(*list, &saved{x: x})
		}
		if v := (*list)[i]; name != nil && !slices.ContainsFunc(v.names, func(n reference.NamedTagged) bool { return n.String() == name.String() }) {
			v.names = append(v.names, name)
		}
		return nil
	}
	img, err := s.Get(ctx, ref)
	named, perr := reference.ParseNormalizedNamed(ref)
	if perr == nil && reference.IsNameOnly(named) && (err != nil || !isIDPrefix(img.ID, ref)) {
		// All tags of the repository.
		s.mu.RLock()
		var keys []string
		targets := map[string]digest.Digest{}
		for k, r := range s.refs {
			if n, err := reference.ParseNormalizedNamed(k); err == nil && !isHeld(k) && n.Name() == named.Name() {
				if _, ok := n.(reference.NamedTagged); ok {
					keys = append(keys, k)
					targets[k] = r.Target.Digest
				}
			}
		}
		s.mu.RUnlock()
		slices.Sort(keys)
		for _, k := range keys {
			n, _ := reference.ParseNormalizedNamed(k)
			if err := add(targets[k], n.(reference.NamedTagged)); err != nil {
				return err
			}
		}
		if len(keys) > 0 {
			return nil
		}
	}
	if errs.NotFound.Is(err) {
		return errs.NotFound.Errorf("No such image: %s", ref)
	}
	if err != nil {
		return err
	}
	var name reference.NamedTagged
	if perr == nil && !isIDPrefix(img.ID, ref) {
		if _, isDigest := named.(reference.Canonical); !isDigest {
			name, _ = reference.TagNameOnly(named).(reference.NamedTagged)
		}
	}
	return add(img.Target.Digest, name)
}

func blobPath(d digest.Digest) string {
	return path.Join("blobs", d.Algorithm().String(), d.Encoded())
}

// archived is a file of the archive: bytes, or a blob.
type archived struct {
	name string
	data []byte
	blob digest.Digest
	size int64
}

func (s *Service) writeArchive(ctx context.Context, w io.Writer, list []*saved) error {
	files := map[string]archived{}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var manifest []entry
	repositories := map[string]map[string]string{}
	for _, v := range list {
		if err := s.collectBlobs(files, v.x); err != nil {
			return err
		}
		e := entry{Config: blobPath(v.x.id), Layers: []string{}}
		for _, l := range v.x.layers {
			e.Layers = append(e.Layers, blobPath(l.Digest))
		}
		slices.SortFunc(v.names, func(a, b reference.NamedTagged) int { return strings.Compare(a.String(), b.String()) })
		for _, n := range v.names {
			e.RepoTags = append(e.RepoTags, reference.FamiliarString(n))
			d := v.x.target
			d.Annotations = map[string]string{annotationImageName: n.String(), ocispec.AnnotationRefName: n.Tag()}
			index.Manifests = append(index.Manifests, d)
			if len(v.x.layers) > 0 {
				repo := reference.FamiliarName(n)
				if repositories[repo] == nil {
					repositories[repo] = map[string]string{}
				}
				repositories[repo][n.Tag()] = v.x.layers[len(v.x.layers)-1].Digest.Encoded()
			}
		}
		if len(v.names) == 0 {
			index.Manifests = append(index.Manifests, v.x.target)
		}
		manifest = append(manifest, e)
	}
	for name, v := range map[string]any{
		"index.json": index, "manifest.json": manifest, "oci-layout": ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, "repositories": repositories,
	} {
		if name == "repositories" && len(repositories) == 0 {
			continue
		}
		data, err := json.Marshal(v)
		if err != nil {
			return err
		}
		files[name] = archived{name: name, data: data, size: int64(len(data))}
	}
	return s.writeFiles(ctx, w, files)
}

// collectBlobs adds the blobs of an image that are here; other platforms' may not be.
func (s *Service) collectBlobs(files map[string]archived, x *resolved) error {
	sizes := map[digest.Digest]int64{}
	for _, l := range x.layers {
		sizes[l.Digest] = l.Size
	}
	for _, d := range x.blobs {
		size, err := s.content.Stat(d)
		if errs.NotFound.Is(err) {
			declared, needed := sizes[d]
			if size, err = s.layers.TarSize(d); err != nil {
				if needed || d == x.id {
					return fmt.Errorf("image %s: %w", x.id, err)
				}
				continue
			}
			if needed && size != declared {
				return fmt.Errorf("image %s: layer %s has %d bytes, not %d", x.id, d, size, declared)
			}
		}
		if err != nil {
			return err
		}
		files[blobPath(d)] = archived{name: blobPath(d), blob: d, size: size}
	}
	return nil
}

func (s *Service) writeFiles(ctx context.Context, w io.Writer, files map[string]archived) error {
	dirs := map[string]bool{}
	var names []string
	for n := range files {
		names = append(names, n)
		for d := path.Dir(n); d != "."; d = path.Dir(d) {
			if !dirs[d] {
				dirs[d] = true
				names = append(names, d+"/")
			}
		}
	}
	slices.Sort(names)
	tw := tar.NewWriter(w)
	buf := make([]byte, 1<<20)
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(n, "/") {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: n, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
				return err
			}
			continue
		}
		f := files[n]
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: f.size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return err
		}
		if f.blob == "" {
			if _, err := tw.Write(f.data); err != nil {
				return err
			}
			continue
		}
		if err := s.copyBlob(ctx, tw, f.blob, buf); err != nil {
			return err
		}
	}
	return tw.Close()
}

// openBlob opens a blob: the file, or the archive that is made again of a layer.
func (s *Service) openBlob(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	f, err := s.content.Open(d)
	if err == nil {
		return f, nil
	}
	if !errs.NotFound.Is(err) {
		return nil, err
	}
	return s.layers.OpenTar(ctx, d)
}

// openBlobAt is openBlob from an offset on.
func (s *Service) openBlobAt(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	r, err := s.openBlob(ctx, d)
	if err != nil {
		return nil, err
	}
	if f, ok := r.(io.Seeker); ok {
		_, err = f.Seek(offset, io.SeekStart)
	} else {
		_, err = io.CopyN(io.Discard, r, offset)
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	return r, nil
}

// blobSize returns the size of what openBlob opens.
func (s *Service) blobSize(d digest.Digest) (int64, error) {
	n, err := s.content.Stat(d)
	if errs.NotFound.Is(err) {
		return s.layers.TarSize(d)
	}
	return n, err
}

func (s *Service) copyBlob(ctx context.Context, w io.Writer, d digest.Digest, buf []byte) error {
	r, err := s.openBlob(ctx, d)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf)
	if cerr := r.Close(); err == nil && !errors.Is(cerr, context.Canceled) {
		err = cerr
	}
	return err
}
