package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerSizes are the packed sizes, in MB, of the layers of the image that is pulled and pushed: those of a common language
// image (a base, tools, compilers, the language, its libraries, what was added).
var layerSizes = []int64{49, 24, 64, 211, 20, 60, 22}

// bigImage is an image as a registry has it, made of this machine's own programs and libraries, as real files pack and
// unpack; it lies in the cache.
type bigImage struct {
	dir      string
	manifest []byte
	parsed   ocispec.Manifest
}

func makeBigImage() (*bigImage, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	b := &bigImage{dir: filepath.Join(cache, "gantry", "bench-image-2")}
	if b.load() == nil {
		return b, nil
	}
	tmp := b.dir + ".tmp"
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return nil, err
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	files := newFileSource()
	defer files.close()
	for _, mb := range layerSizes {
		d, diff, err := writeLayer(tmp, files, mb*1e6)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
	}
	c, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(c), Size: int64(len(c))}
	if err := os.WriteFile(filepath.Join(tmp, m.Config.Digest.Encoded()), c, 0o644); err != nil {
		return nil, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tmp, "manifest"), data, 0o644); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return nil, err
	}
	if err := os.Rename(tmp, b.dir); err != nil {
		return nil, err
	}
	return b, b.load()
}

func (b *bigImage) load() (err error) {
	if b.manifest, err = os.ReadFile(filepath.Join(b.dir, "manifest")); err != nil {
		return err
	}
	return json.Unmarshal(b.manifest, &b.parsed)
}

// pushTo puts the image into an empty registry.
func (b *bigImage) pushTo(client *http.Client, base, repo, tag string) error {
	send := func(method, url, mediaType string, body io.Reader, size int64) (string, error) {
		q, err := http.NewRequest(method, url, body)
		if err != nil {
			return "", err
		}
		q.ContentLength = size
		q.Header.Set("Content-Type", mediaType)
		resp, err := client.Do(q)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if resp.StatusCode >= 300 {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
			return "", fmt.Errorf("%s %s: %s %s", method, url, resp.Status, text)
		}
		at, err := resp.Location()
		if err != nil {
			return "", nil
		}
		return at.String(), nil
	}
	for _, d := range append([]ocispec.Descriptor{b.parsed.Config}, b.parsed.Layers...) {
		at, err := send("POST", base+"/v2/"+repo+"/blobs/uploads/", "", http.NoBody, 0)
		if err != nil {
			return err
		}
		sep := "?"
		if bytes.ContainsRune([]byte(at), '?') {
			sep = "&"
		}
		f, err := os.Open(filepath.Join(b.dir, d.Digest.Encoded()))
		if err != nil {
			return err
		}
		_, err = send("PUT", at+sep+"digest="+d.Digest.String(), "application/octet-stream", f, d.Size)
		f.Close()
		if err != nil {
			return err
		}
	}
	_, err := send("PUT", base+"/v2/"+repo+"/manifests/"+tag, b.parsed.MediaType, bytes.NewReader(b.manifest), int64(len(b.manifest)))
	return err
}

// fileSource goes through the files of this machine's /usr, and begins again, elsewhere, when it runs out of them.
type fileSource struct {
	next chan string
	quit chan struct{}
}

func newFileSource() *fileSource {
	s := &fileSource{make(chan string), make(chan struct{})}
	go func() {
		for {
			filepath.WalkDir("/usr", func(path string, e fs.DirEntry, err error) error {
				if err != nil {
					return nil
				}
				if e.IsDir() {
					return nil
				}
				select {
				case s.next <- path:
					return nil
				case <-s.quit:
					return fs.SkipAll
				}
			})
			select {
			case <-s.quit:
				return
			default:
			}
		}
	}()
	return s
}

func (s *fileSource) close() { close(s.quit) }

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) { c.n += int64(len(b)); return len(b), nil }

// writeLayer packs files until the archive has about size bytes.
func writeLayer(dir string, files *fileSource, size int64) (d ocispec.Descriptor, diff digest.Digest, err error) {
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return d, "", err
	}
	defer f.Close()
	packed, plain, n := sha256.New(), sha256.New(), &counter{}
	z := gzip.NewWriter(io.MultiWriter(f, packed, n))
	tw := tar.NewWriter(io.MultiWriter(z, plain))
	time0 := time.Unix(1735689600, 0)
	known := map[string]bool{}
	var parents func(path string) error
	parents = func(path string) error {
		if path == "" || path == "." || known[path] {
			return nil
		}
		known[path] = true
		if err := parents(filepath.Dir(path)); err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o755, ModTime: time0})
	}
	for n.n < size {
		path := <-files.next
		fi, err := os.Lstat(path)
		if err != nil || !fi.Mode().IsRegular() && fi.Mode()&fs.ModeSymlink == 0 || fi.Size() > 20e6 {
			continue
		}
		name := path[1:]
		for i := 1; known[name]; i++ {
			name = fmt.Sprintf("again%d%s", i, path)
		}
		if err := parents(filepath.Dir(name)); err != nil {
			return d, "", err
		}
		known[name] = true
		h := &tar.Header{Name: name, Mode: int64(fi.Mode().Perm()), ModTime: fi.ModTime().Truncate(time.Second)}
		if !fi.Mode().IsRegular() {
			h.Typeflag = tar.TypeSymlink
			if h.Linkname, err = os.Readlink(path); err != nil {
				return d, "", err
			}
			if err := tw.WriteHeader(h); err != nil {
				return d, "", err
			}
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		h.Typeflag, h.Size = tar.TypeReg, int64(len(data))
		if err := tw.WriteHeader(h); err != nil {
			return d, "", err
		}
		if _, err := tw.Write(data); err != nil {
			return d, "", err
		}
	}
	if err := tw.Close(); err != nil {
		return d, "", err
	}
	if err := z.Close(); err != nil {
		return d, "", err
	}
	d = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, packed), Size: n.n}
	return d, digest.NewDigest(digest.SHA256, plain), os.Rename(f.Name(), filepath.Join(dir, d.Digest.Encoded()))
}
