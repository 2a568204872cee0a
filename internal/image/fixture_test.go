package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// part is a file of an archive; with link it is a symbolic link.
type part struct {
	name, link string
	data       []byte
}

func pack(t testing.TB, parts ...part) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, p := range parts {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: p.name, Mode: 0o644, Size: int64(len(p.data))}
		if p.link != "" {
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: p.name, Linkname: p.link, Mode: 0o777}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fixture is an image of three layers, the second above a whiteout; plain, gzip and zstd.
type fixture struct {
	plain, layers [][]byte
	config        []byte
	manifest      []byte
	id            digest.Digest
}

// makeFixture makes an image that differs by salt; edit may change its config.
func makeFixture(t testing.TB, salt string, platform ocispec.Platform, edit func(*dockerspec.DockerOCIImage)) fixture {
	t.Helper()
	var f fixture
	f.plain = [][]byte{
		pack(t, part{name: "etc/a", data: []byte("one " + salt)}, part{name: "etc/b", data: []byte("one")}),
		pack(t, part{name: "etc/.wh.a"}, part{name: "etc/c", data: []byte("two")}),
		pack(t, part{name: "etc/d", data: []byte("three")}),
	}
	f.layers = [][]byte{f.plain[0], gz(t, f.plain[1]), zst(t, f.plain[2])}
	created := time.Date(2024, 1, 1, 0, 0, len(salt), 0, time.UTC)
	c := dockerspec.DockerOCIImage{Image: ocispec.Image{Created: &created, Platform: platform, RootFS: ocispec.RootFS{Type: "layers"}}}
	c.Config.Cmd = []string{"sh"}
	c.Config.Labels = map[string]string{"salt": salt}
	for _, p := range f.plain {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(p))
	}
	if edit != nil {
		edit(&c)
	}
	f.config = toJSON(t, c)
	f.id = digest.FromBytes(f.config)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(ocispec.MediaTypeImageConfig, f.config)}
	for n, mt := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd} {
		m.Layers = append(m.Layers, describe(mt, f.layers[n]))
	}
	f.manifest = toJSON(t, m)
	return f
}

func describe(mediaType string, data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

func blobPart(data []byte) part {
	return part{name: "blobs/sha256/" + digest.FromBytes(data).Encoded(), data: data}
}

func (f fixture) blobs() []part {
	parts := []part{blobPart(f.config), blobPart(f.manifest)}
	for _, l := range f.layers {
		parts = append(parts, blobPart(l))
	}
	return parts
}

// dockerArchive is what `docker save` wrote before version 25.
func (f fixture) dockerArchive(t testing.TB, tags ...string) []part {
	parts := []part{{name: f.id.Encoded() + ".json", data: f.config}}
	var names []string
	for n, l := range f.layers {
		name := fmt.Sprintf("%064x/layer.tar", n)
		names = append(names, name)
		parts = append(parts, part{name: name, data: l})
	}
	return append(parts, part{name: "manifest.json", data: toJSON(t, []dockerImage{{f.id.Encoded() + ".json", tags, names}})})
}

// layout is an OCI image layout whose index.json lists descriptors; each name makes one.
func layout(t testing.TB, target ocispec.Descriptor, annotation string, names []string, blobs ...part) []part {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for _, n := range names {
		d := target
		d.Annotations = map[string]string{annotation: n}
		index.Manifests = append(index.Manifests, d)
	}
	if len(names) == 0 {
		index.Manifests = append(index.Manifests, target)
	}
	return append([]part{{name: "oci-layout", data: []byte(`{"imageLayoutVersion":"1.0.0"}`)}, {name: "index.json", data: toJSON(t, index)}}, blobs...)
}
