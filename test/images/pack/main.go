// Command pack makes a docker-archive of one layer from the tar of a root file system. Its output depends on its
// input alone, and is also an OCI layout, as `docker save` has written it since version 25.
package main

import (
	"archive/tar"
	_ "crypto/sha256" // what digests are made with
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// stamp is the time of everything the packer itself makes.
var stamp = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func main() {
	var names, cmd, ports list
	flag.Var(&names, "name", "`reference` of the image; several are allowed")
	flag.Var(&cmd, "cmd", "`word` of the default command; several make its arguments")
	flag.Var(&ports, "port", "exposed `port/protocol`")
	workdir := flag.String("workdir", "", "working directory")
	rootfs := flag.String("rootfs", "", "tar of the root file system")
	out := flag.String("o", "", "archive to write")
	flag.Parse()
	if *rootfs == "" || *out == "" || len(names) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	var config dockerspec.DockerOCIImageConfig
	config.Cmd = cmd
	config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	config.WorkingDir = *workdir
	for _, p := range ports {
		if config.ExposedPorts == nil {
			config.ExposedPorts = map[string]struct{}{}
		}
		config.ExposedPorts[p] = struct{}{}
	}
	if err := pack(names, config, *rootfs, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func pack(names []string, config dockerspec.DockerOCIImageConfig, rootfs, out string) (err error) {
	in, err := os.Open(rootfs)
	if err != nil {
		return err
	}
	defer in.Close()
	layer, err := digest.FromReader(in)
	if err != nil {
		return err
	}
	size, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	if err := add(w, blob(layer), size, in); err != nil {
		return err
	}

	image := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created:  &stamp,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer}},
		History:  []ocispec.History{{Created: &stamp, CreatedBy: "test/images/make"}},
	}, Config: config}
	configDesc, err := addJSON(w, blob, ocispec.MediaTypeImageConfig, image)
	if err != nil {
		return err
	}
	manifest, err := addJSON(w, blob, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: layer, Size: size}},
	})
	if err != nil {
		return err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, name := range names {
		m := manifest
		_, tag, _ := strings.Cut(name, ":")
		m.Annotations = map[string]string{"io.containerd.image.name": "docker.io/library/" + name, ocispec.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, m)
	}
	files := []struct {
		name string
		v    any
	}{
		{"index.json", index},
		{"manifest.json", []any{map[string]any{"Config": blob(configDesc.Digest), "RepoTags": names, "Layers": []string{blob(layer)}}}},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	}
	for _, file := range files {
		data, err := json.Marshal(file.v)
		if err != nil {
			return err
		}
		if err := add(w, file.name, int64(len(data)), strings.NewReader(string(data))); err != nil {
			return err
		}
	}
	return w.Close()
}

func addJSON(w *tar.Writer, name func(digest.Digest) string, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, add(w, name(d.Digest), d.Size, strings.NewReader(string(data)))
}

func add(w *tar.Writer, name string, size int64, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: size, ModTime: stamp}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.Copy(w, r)
	return err
}
