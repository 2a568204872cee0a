package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// maxIndexFile bounds index.json and manifest.json, which are kept in memory.
const maxIndexFile = 16 << 20

// maxName bounds the names in an archive, in bytes, which are kept in memory too: the format would allow a mebibyte each.
const maxName = 4095

// archive is an image archive whose files went into the content store as they came: they may come in any
// order, and what they are is only known at the end.
type archive struct {
	s     *Service
	lease *content.Lease
	meta  map[string][]byte        // index.json, manifest.json, oci-layout
	files map[string]digest.Digest // all others
	links map[string]string        // path → target path; `docker save` before 25 wrote equal layers so
	fresh map[digest.Digest]bool   // blobs that came with the archive and were not here before

	named naming
}

// readArchive takes in the files of r: a tar stream, plain or compressed.
func (s *Service) readArchive(ctx context.Context, l *content.Lease, r io.Reader) (_ *archive, err error) {
	a := &archive{
		s: s, lease: l, meta: map[string][]byte{}, files: map[string]digest.Digest{}, links: map[string]string{}, fresh: map[digest.Digest]bool{},
	}
	// What was read is whole on the disk before anybody looks for it; and before an error is told, as then it is collected.
	defer func() {
		if nerr := a.named.wait(); err == nil {
			err = nerr
		}
	}()
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	left := &io.LimitedReader{R: plain, N: s.limits.Archive}
	tr := tar.NewReader(left)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err == nil || errors.Is(err, tar.ErrInsecurePath) { // names are keys here, never paths
			err = a.add(ctx, h, tr)
		}
		if left.N <= 0 {
			return nil, errs.Invalid.Errorf("archive is larger than %d bytes", s.limits.Archive)
		}
		if err != nil {
			return nil, archiveError(err)
		}
		if n >= s.limits.Entries {
			return nil, errs.Invalid.Errorf("archive has more than %d entries", s.limits.Entries)
		}
	}
	// Read what follows, so that a packed stream's checksum is looked at.
	if _, err := io.Copy(io.Discard, left); err != nil {
		return nil, archiveError(err)
	}
	return a, nil
}

// naming is blobs on their way to the disk and to their names, beside what is still being read.
type naming struct {
	wg    sync.WaitGroup
	slots chan struct{} // bounds the files that are open
	mu    sync.Mutex
	err   error // the first
}

func (n *naming) begin(finish func() error) {
	if n.slots == nil {
		n.slots = make(chan struct{}, 16)
	}
	n.slots <- struct{}{}
	n.wg.Go(func() {
		defer func() { <-n.slots }()
		if err := finish(); err != nil {
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.err == nil {
				n.err = err
			}
		}
	})
}

func (n *naming) wait() error {
	n.wg.Wait()
	return n.err
}

// archiveError makes findings of the tar reader the archive's fault; other errors keep their kind.
func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Invalid.Errorf("read archive: %w", err)
	}
	return fmt.Errorf("read archive: %w", err)
}

func (a *archive) add(ctx context.Context, h *tar.Header, r io.Reader) error {
	if len(h.Name) > maxName || len(h.Linkname) > maxName {
		return errs.Invalid.Errorf("archive has a name longer than %d bytes", maxName)
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") { // nothing in the archive would bound the zeros that are read from it
			return errs.Invalid.Errorf("archive has a sparse file: %q", h.Name)
		}
	}
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	switch h.Typeflag {
	case tar.TypeSymlink:
		a.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	case tar.TypeLink:
		a.links[name] = path.Clean(strings.TrimLeft(h.Linkname, "/"))
		return nil
	case tar.TypeReg:
	default:
		return nil
	}
	delete(a.links, name)
	switch name {
	case "index.json", "manifest.json", "oci-layout":
		data, err := io.ReadAll(io.LimitReader(r, maxIndexFile+1))
		if err != nil {
			return err
		}
		if len(data) > maxIndexFile {
			return errs.Invalid.Errorf("%s is larger than %d bytes", name, maxIndexFile)
		}
		a.meta[name] = data
		return nil
	}
	switch path.Base(name) {
	case "VERSION", "json", "repositories":
		return nil // only Docker before 1.10 reads them: syncs saved
	}
	e := content.Expect{Size: h.Size, Sized: true}
	if rest, ok := strings.CutPrefix(name, "blobs/"); ok {
		if algorithm, hex, ok := strings.Cut(rest, "/"); ok {
			d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
			if content.Check(d) == nil {
				e.Digest = d
			}
		}
	}
	b, finish, err := a.s.content.Receive(ctx, a.lease, r, e)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.named.begin(func() error {
		if err := finish(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	a.files[name] = b.Digest
	if b.New {
		a.fresh[b.Digest] = true
	}
	return nil
}

// file returns the blob that a path in the archive leads to.
func (a *archive) file(name string) (digest.Digest, error) {
	p := path.Clean(strings.TrimLeft(name, "/"))
	for range 10 {
		if d, ok := a.files[p]; ok {
			return d, nil
		}
		next, ok := a.links[p]
		if !ok {
			break
		}
		p = next
	}
	return "", errs.Invalid.Errorf("archive has no file %q", name)
}

// found is an image that an archive holds, and the names it gives it.
type found struct {
	target ocispec.Descriptor
	names  []reference.NamedTagged

	resolved *resolved // once it is unpacked
}

// images says what the archive holds. An OCI layout is preferred where it is both: its manifests are the
// ones that the image had when it was saved.
func (a *archive) images(ctx context.Context) ([]found, error) {
	index, isOCI := a.meta["index.json"]
	manifest, isDocker := a.meta["manifest.json"]
	switch {
	case isOCI:
		all, err := a.ociImages(ctx, index)
		if err == nil && isDocker {
			err = a.dockerNames(manifest, all)
		}
		return all, err
	case isDocker:
		return a.dockerImages(ctx, manifest)
	}
	return nil, errs.Invalid.Errorf("archive is no image: it has neither manifest.json nor index.json")
}

// annotationImageName is containerd's: the full reference.
const annotationImageName = "io.containerd.image.name"

func (a *archive) ociImages(ctx context.Context, data []byte) ([]found, error) {
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, errs.Invalid.Errorf("read index.json: %w", err)
	}
	if len(index.Manifests) == 0 {
		return nil, errs.Invalid.Errorf("index.json lists no images")
	}
	if len(index.Manifests) > maxManifests {
		return nil, errs.Invalid.Errorf("index.json lists more than %d manifests", maxManifests)
	}
	// By name, in the order of the archive: descriptors of one name are the platforms of one image.
	var order []string
	named := map[string][]ocispec.Descriptor{}
	for _, d := range index.Manifests {
		if err := content.Check(d.Digest); err != nil {
			return nil, errs.Invalid.Errorf("index.json: %w", err)
		}
		name := nameOf(d)
		d.Annotations = nil // the archive's names are not the image's
		if named[name] == nil {
			order = append(order, name)
		}
		named[name] = append(named[name], d)
	}
	var all []found
	at := map[digest.Digest]int{}
	add := func(d ocispec.Descriptor, name string) error {
		i, ok := at[d.Digest]
		if !ok {
			size, err := a.s.content.Stat(d.Digest)
			if err != nil {
				return errs.Invalid.Errorf("index.json: %w", err)
			}
			if d.Size != size {
				return errs.Invalid.Errorf("index.json: blob %s has %d bytes, not %d", d.Digest, size, d.Size)
			}
			i = len(all)
			at[d.Digest] = i
			all = append(all, found{target: d})
		}
		if name == "" {
			return nil
		}
		n, err := parseTagged(name)
		if err == nil {
			all[i].names = append(all[i].names, n)
		}
		return err
	}
	for _, name := range order {
		group := named[name]
		if platforms(group) {
			d, err := a.makeIndex(ctx, group)
			if err != nil {
				return nil, err
			}
			group = []ocispec.Descriptor{d}
		}
		for _, d := range group {
			if err := add(d, name); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// nameOf is the reference that index.json gives to a descriptor; empty if none that one could use.
func nameOf(d ocispec.Descriptor) string {
	if name := d.Annotations[annotationImageName]; name != "" {
		return name
	}
	name := d.Annotations[ocispec.AnnotationRefName]
	if !strings.ContainsAny(name, "/:") {
		return "" // a tag without a repository
	}
	return name
}

// platforms reports whether the descriptors are one image for several platforms, each another.
func platforms(group []ocispec.Descriptor) bool {
	seen := map[string]bool{}
	for _, d := range group {
		if d.Platform == nil || seen[formatPlatform(*d.Platform)] {
			return false
		}
		seen[formatPlatform(*d.Platform)] = true
	}
	return len(group) > 1
}

// makeIndex writes the index of an image whose platforms index.json lists side by side.
func (a *archive) makeIndex(ctx context.Context, manifests []ocispec.Descriptor) (ocispec.Descriptor, error) {
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests,
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make index: %w", err)
	}
	b, err := a.s.content.IngestBytes(ctx, a.lease, data)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: b.Digest, Size: b.Size}, err
}

func parseTagged(name string) (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, errs.Invalid.Errorf("invalid tag %q: %w", name, err)
	}
	if c, ok := named.(reference.Canonical); ok {
		return nil, errs.Invalid.Errorf("invalid tag %q: refers to a digest", c.String())
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return nil, errs.Invalid.Errorf("invalid tag %q", name)
	}
	return tagged, nil
}

// dockerImage is an element of a docker-archive's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func parseDocker(data []byte) ([]dockerImage, error) {
	var list []dockerImage
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, errs.Invalid.Errorf("read manifest.json: %w", err)
	}
	if len(list) == 0 {
		return nil, errs.Invalid.Errorf("manifest.json lists no images")
	}
	if len(list) > maxManifests {
		return nil, errs.Invalid.Errorf("manifest.json lists more than %d images", maxManifests)
	}
	return list, nil
}

// dockerNames adds manifest.json's names to images of the layout that have none of their own.
func (a *archive) dockerNames(data []byte, all []found) error {
	list, err := parseDocker(data)
	if err != nil {
		return err
	}
	for i := range all {
		if len(all[i].names) > 0 {
			continue
		}
		x, err := a.s.resolve(all[i].target)
		if err != nil {
			return err
		}
		for _, m := range list {
			if config, err := a.file(m.Config); err != nil || config != x.id {
				continue
			}
			for _, tag := range m.RepoTags {
				named, err := parseTagged(tag)
				if err != nil {
					return err
				}
				all[i].names = append(all[i].names, named)
			}
		}
	}
	return nil
}

// dockerImages makes a manifest for each image of a docker-archive: it brings a config and layers, but no manifest.
func (a *archive) dockerImages(ctx context.Context, data []byte) ([]found, error) {
	list, err := parseDocker(data)
	if err != nil {
		return nil, err
	}
	var all []found
	for _, m := range list {
		var f found
		for _, tag := range m.RepoTags {
			named, err := parseTagged(tag)
			if err != nil {
				return nil, err
			}
			f.names = append(f.names, named)
		}
		config, err := a.file(m.Config)
		if err != nil {
			return nil, err
		}
		var layers []digest.Digest
		for _, name := range m.Layers {
			d, err := a.file(name)
			if err != nil {
				return nil, err
			}
			layers = append(layers, d)
		}
		if f.target, err = a.s.makeManifest(ctx, a.lease, config, layers); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// makeManifest writes the OCI manifest of a config and layers that lie in the content store.
func (s *Service) makeManifest(ctx context.Context, l *content.Lease, config digest.Digest, layers []digest.Digest) (ocispec.Descriptor, error) {
	size, err := s.content.Stat(config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: config, Size: size},
		Layers:    []ocispec.Descriptor{},
	}
	for _, d := range layers {
		desc, err := s.describeLayer(d)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, desc)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("make manifest: %w", err)
	}
	b, err := s.content.IngestBytes(ctx, l, data)
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: b.Digest, Size: b.Size}, err
}

func (s *Service) describeLayer(d digest.Digest) (ocispec.Descriptor, error) {
	f, err := s.content.Open(d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("describe layer: %w", err)
	}
	head := make([]byte, 6)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF && err != io.EOF {
		return ocispec.Descriptor{}, fmt.Errorf("describe layer: %w", err)
	}
	c, err := layer.Sniff(head[:n])
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	mediaType := map[layer.Compression]string{
		layer.Plain: ocispec.MediaTypeImageLayer, layer.Gzip: ocispec.MediaTypeImageLayerGzip, layer.Zstd: ocispec.MediaTypeImageLayerZstd,
	}[c]
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: fi.Size()}, nil
}
