// Command pack makes a docker-archive of one layer from the tar of a root file system, or of another archive's layers
// and one more. Its output depends on its input alone, and is also an OCI layout, as `docker save` has written it since
// version 25.
package main

import (
	"archive/tar"
	"context"
	_ "crypto/sha256" // what digests are made with
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	packer "gantry/internal/layer"
)

// stamp is the time of everything the packer itself makes.
var stamp = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func main() {
	var names, cmd, entrypoint, env, ports, volumes list
	flag.Var(&names, "name", "`reference` of the image; several are allowed")
	flag.Var(&cmd, "cmd", "`word` of the default command; several make its arguments")
	flag.Var(&entrypoint, "entrypoint", "`word` of the entrypoint")
	flag.Var(&env, "env", "`NAME=value` of the environment")
	flag.Var(&ports, "port", "exposed `port/protocol`")
	flag.Var(&volumes, "volume", "`directory` that is a volume")
	workdir := flag.String("workdir", "", "working directory")
	stop := flag.String("stop-signal", "", "signal that ends the program")
	by := flag.String("created-by", "test/images/make", "what the history says of the new layer")
	rootfs := flag.String("rootfs", "", "tar of the root file system")
	base := flag.String("base", "", "`archive` that this program made, on whose layers the new one lies")
	upper := flag.String("upper", "", "`directory` that overlayfs wrote, instead of -rootfs")
	out := flag.String("o", "", "archive to write")
	flag.Parse()
	if (*rootfs == "") == (*upper == "") || *out == "" || len(names) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	config := dockerspec.DockerOCIImageConfig{
		ImageConfig: ocispec.ImageConfig{
			Cmd:          cmd,
			Entrypoint:   entrypoint,
			Env:          append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...),
			ExposedPorts: set(ports),
			Volumes:      set(volumes),
			WorkingDir:   *workdir,
			StopSignal:   *stop,
		},
	}
	if i := slices.IndexFunc(env, func(v string) bool { return strings.HasPrefix(v, "PATH=") }); i >= 0 {
		config.Env = env
	}
	if err := write(names, config, *base, *rootfs, *upper, *by, *out); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

func set(words []string) map[string]struct{} {
	if len(words) == 0 {
		return nil
	}
	m := map[string]struct{}{}
	for _, w := range words {
		m[w] = struct{}{}
	}
	return m
}

// write makes one image.
func write(names []string, config dockerspec.DockerOCIImageConfig, base, rootfs, upper, by, out string) error {
	image := dockerspec.DockerOCIImage{Image: ocispec.Image{
		Created:  &stamp,
		Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		RootFS:   ocispec.RootFS{Type: "layers"},
	}, Config: config}
	dir, err := os.MkdirTemp(filepath.Dir(out), "pack-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var layers []string
	if base != "" {
		below, files, err := unpack(base, dir)
		if err != nil {
			return fmt.Errorf("read %s: %w", base, err)
		}
		image.RootFS, image.History, layers = below.RootFS, below.History, files
	}
	if upper != "" {
		rootfs = filepath.Join(dir, "top")
		if err := tarUpper(upper, rootfs); err != nil {
			return err
		}
	}
	image.History = append(image.History, ocispec.History{Created: &stamp, CreatedBy: by})
	return pack(names, image, append(layers, rootfs), out)
}

// unpack reads an archive of pack's: its image, and its layers as files in dir.
func unpack(archive, dir string) (image dockerspec.DockerOCIImage, layers []string, err error) {
	in, err := os.Open(archive)
	if err != nil {
		return image, nil, err
	}
	defer in.Close()
	r := tar.NewReader(in)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return image, nil, err
		}
		f, err := os.Create(filepath.Join(dir, filepath.Base(h.Name)))
		if err != nil {
			return image, nil, err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return image, nil, err
		}
	}
	var manifests []struct {
		Config string
		Layers []string
	}
	if err := readJSON(filepath.Join(dir, "manifest.json"), &manifests); err != nil {
		return image, nil, err
	}
	for _, l := range manifests[0].Layers {
		layers = append(layers, filepath.Join(dir, filepath.Base(l)))
	}
	return image, layers, readJSON(filepath.Join(dir, filepath.Base(manifests[0].Config)), &image)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// tarUpper writes what overlayfs left in the directory upper as a layer.
func tarUpper(upper, file string) error {
	root, err := os.Open(upper)
	if err != nil {
		return err
	}
	defer root.Close()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	err = packer.Pack(context.Background(), f, int(root.Fd()), packer.PackOptions{Layer: true})
	return errors.Join(err, f.Close())
}

// pack writes the archive of image, whose layers' tars are files, the lowest first.
func pack(names []string, image dockerspec.DockerOCIImage, files []string, out string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	image.RootFS.DiffIDs = nil
	var layers []ocispec.Descriptor
	var paths []string
	for _, file := range files {
		l, err := addLayer(w, blob, file)
		if err != nil {
			return err
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
		layers = append(layers, l)
		paths = append(paths, blob(l.Digest))
	}
	configDesc, err := addJSON(w, blob, ocispec.MediaTypeImageConfig, image)
	if err != nil {
		return err
	}
	manifest, err := addJSON(w, blob, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    layers,
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
	for _, file := range []struct {
		name string
		v    any
	}{
		{"index.json", index},
		{"manifest.json", []any{map[string]any{"Config": blob(configDesc.Digest), "RepoTags": names, "Layers": paths}}},
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
	} {
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

func addLayer(w *tar.Writer, name func(digest.Digest) string, file string) (ocispec.Descriptor, error) {
	in, err := os.Open(file)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer in.Close()
	d, err := digest.FromReader(in)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	size, err := in.Seek(0, io.SeekCurrent)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size}, add(w, name(d), size, in)
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
