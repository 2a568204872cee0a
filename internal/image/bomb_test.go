package image

import (
	"bytes"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/state"
)

type same byte

func (s same) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s)
	}
	return len(b), nil
}

// bomb is a layer that packs very well: a file of n bytes.
func bomb(t *testing.T, n int64) []byte {
	t.Helper()
	header := pack(t, part{name: "bomb"})[:512]
	// The size is in octal digits, the checksum over a field of blanks (POSIX, ustar).
	copy(header[124:136], []byte(strings.Repeat("0", 11)+"\x00"))
	for i, v := 134, n; v > 0; i, v = i-1, v/8 {
		header[i] = byte('0' + v%8)
	}
	copy(header[148:156], "        ")
	sum := 0
	for _, c := range header {
		sum += int(c)
	}
	for i := 153; i >= 148; i, sum = i-1, sum/8 {
		header[i] = byte('0' + sum%8)
	}
	header[154] = 0
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(header)
	if _, err := io.CopyN(w, same('x'), n); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestABombOverTheWire pulls a layer of a megabyte that unpacks to a gigabyte: it ends where the limit is, or where the disk
// would get full, says so, and leaves nothing.
func TestABombOverTheWire(t *testing.T) {
	needRoot(t)
	h := newHub(t)
	f := makeFixture(t, "bomb", hostPlatform(), nil)
	l := bomb(t, 1<<30)
	if len(l) > 8<<20 {
		t.Fatalf("the bomb has %d bytes", len(l))
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, f.config)}
	m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayerGzip, l))
	for _, more := range f.layers[1:] {
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayerGzip, more))
	}
	f.layers[0], f.manifest = l, toJSON(t, m)
	h.putImage(t, "bomb", "1", f)
	for _, c := range []struct {
		name   string
		limits layer.Limits
		kind   errs.Kind
		says   string
	}{
		{"limit", layer.Limits{Bytes: 100 << 20}, errs.Invalid, "layer is larger than its limit"},
		{"disk", layer.Limits{Free: 1 << 60}, errs.Unavailable, "no space left on device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			st, err := state.Open(filepath.Join(root, "state.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer st.Close()
			blobs, err := content.Open(filepath.Join(root, "content"))
			if err != nil {
				t.Fatal(err)
			}
			layers, err := layer.Open(root, st, layer.Options{Limits: c.limits})
			if err != nil {
				t.Fatal(err)
			}
			defer layers.Close()
			s, err := Open(st, blobs, layers, Options{Remote: client(t)})
			if err != nil {
				t.Fatal(err)
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err = s.Pull(t.Context(), h.host+"/bomb:1", PullOptions{}, nil)
			runtime.ReadMemStats(&after)
			if errs.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (kind %v)", err, errs.KindOf(err))
			}
			if grown := int64(after.Sys) - int64(before.Sys); grown > 100<<20 {
				t.Errorf("memory grew by %d bytes", grown)
			}
			if _, err := s.layers.Get(digest.FromBytes(f.plain[0])); !errs.NotFound.Is(err) {
				t.Errorf("the layer is there: %v", err)
			}
			if c.kind == errs.Invalid {
				empty(t, s, root)
			}
		})
	}
}
