package layer

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/state"
)

func openStore(t testing.TB, root string) (*Store, func()) {
	t.Helper()
	needRoot(t)
	st, err := state.Open(filepath.Join(root, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(root, st, Options{})
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	shut := func() {
		if !closed {
			closed = true
			s.Close()
			st.Close()
		}
	}
	t.Cleanup(shut)
	return s, shut
}

func source(data []byte) Source {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// unpackAll makes a stack of layers, each with one file, and returns their chain IDs, bottom first.
func unpackAll(t testing.TB, s *Store, l *Lease, names ...string) []digest.Digest {
	t.Helper()
	var chain []digest.Digest
	var parent digest.Digest
	for _, n := range names {
		data := archive(t, file(n, n))
		i, err := s.Unpack(t.Context(), l, parent, digest.FromBytes(data), source(data))
		if err != nil {
			t.Fatal(err)
		}
		parent = i.ChainID
		chain = append(chain, parent)
	}
	return chain
}

func none(func(digest.Digest)) error { return nil }

func TestLayerIsUnpackedOnceForAllWhoAsk(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	data := archive(t, file("a", "x"))
	var opened atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			l := s.Lease()
			defer l.Release()
			i, err := s.Unpack(t.Context(), l, "", digest.FromBytes(data), func() (io.ReadCloser, error) {
				opened.Add(1)
				return source(data)()
			})
			if err != nil || i.Size != 1 {
				t.Errorf("%+v, %v", i, err)
			}
		})
	}
	wg.Wait()
	if opened.Load() != 1 {
		t.Errorf("unpacked %d times", opened.Load())
	}
}

func TestFailedUnpackingLeavesNothingAndBlocksNobody(t *testing.T) {
	root := t.TempDir()
	s, _ := openStore(t, root)
	l := s.Lease()
	data := archive(t, file("a", "x"))
	d := digest.FromBytes(data)
	if _, err := s.Unpack(t.Context(), l, "", d, source(archive(t, file("a", "y")))); !errs.Invalid.Is(err) || !strings.Contains(err.Error(), "diff ID") {
		t.Errorf("got %v", err)
	}
	if _, err := s.Unpack(t.Context(), l, "", d, source(append(slices.Clone(data), 0))); !errs.Invalid.Is(err) {
		t.Errorf("a byte behind the end belongs to the digest: %v", err)
	}
	if _, err := s.Unpack(t.Context(), l, digest.FromString("none"), d, source(data)); !errs.NotFound.Is(err) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(root, "layers/tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Unpack(t.Context(), l, "", d, source(data)); err != nil {
		t.Error(err)
	}
}

func TestCollectTakesTheUnwantedFromTheTop(t *testing.T) {
	root := t.TempDir()
	s, shut := openStore(t, root)
	l := s.Lease()
	a := unpackAll(t, s, l, "1", "2", "3")
	b := unpackAll(t, s, l, "1", "x")
	if gone, err := s.Collect(t.Context(), none); err != nil || gone != nil {
		t.Fatalf("leased: %v, %v", gone, err)
	}
	l.Release()
	if err := s.CreateWritable(b[1], "c1"); err != nil {
		t.Fatal(err)
	}
	gone, err := s.Collect(t.Context(), func(mark func(digest.Digest)) error { mark(a[1]); return nil })
	if err != nil || len(gone) != 1 || gone[0].ChainID != a[2] {
		t.Fatalf("%v, %v", gone, err)
	}
	shut() // what a container is on is known again after a restart
	s, _ = openStore(t, root)
	gone, err = s.Collect(t.Context(), none)
	if err != nil || len(gone) != 1 || gone[0].ChainID != a[1] {
		t.Fatalf("%v, %v", gone, err)
	}
	if err := s.RemoveWritable("c1"); err != nil {
		t.Fatal(err)
	}
	gone, err = s.Collect(t.Context(), none)
	if err != nil || len(gone) != 2 || gone[0].ChainID != b[1] || gone[1].ChainID != b[0] {
		t.Fatalf("%v, %v", gone, err)
	}
	if err := s.CreateWritable(b[1], "c1"); !errs.NotFound.Is(err) {
		t.Errorf("got %v", err)
	}
}

func TestWritableLayer(t *testing.T) {
	root := t.TempDir()
	s, _ := openStore(t, root)
	top := folder("./", 0o750)
	top.Uid = 7
	data := archive(t, top, file("etc/a", "1"))
	i, err := s.Unpack(t.Context(), s.Lease(), "", digest.FromBytes(data), source(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateWritable(i.ChainID, "c1"); err != nil {
		t.Fatal(err)
	}
	o, err := s.Overlay(i.ChainID, "c1")
	if err != nil || o.Base != root || o.Upper != "containers/c1/upper" || o.Work != "containers/c1/work" || len(o.Lower) != 2 {
		t.Fatalf("%+v, %v", o, err)
	}
	if _, err := os.Stat(filepath.Join(root, o.Lower[0], ".dockerenv")); err != nil {
		t.Errorf("the topmost lower directory lacks the mark of containers: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(root, o.Upper), &st); err != nil || st.Mode&0o7777 != 0o750 || st.Uid != 7 {
		t.Errorf("upper is not as the image's root: %o %d, %v", st.Mode, st.Uid, err)
	}
	up := filepath.Join(root, o.Upper)
	if err := os.WriteFile(filepath.Join(up, "f"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(up, "f"), filepath.Join(up, "g")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Size("c1"); err != nil || n != 1000 {
		t.Errorf("size %d, %v", n, err)
	}
	if err := s.RemoveDir("c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "containers/c1")); !os.IsNotExist(err) {
		t.Errorf("folder left: %v", err)
	}
	if err := s.RemoveDir("c1"); err != nil {
		t.Errorf("twice: %v", err)
	}
	for _, id := range []string{"", "..", "a/b", "a:b", "a,b"} {
		if err := s.CreateWritable(i.ChainID, id); !errs.Invalid.Is(err) {
			t.Errorf("ID %q: %v", id, err)
		}
	}
	if o, err := s.Overlay("", "c2"); err != nil || len(o.Lower) != 2 {
		t.Errorf("an image without layers: %+v, %v", o, err)
	}
}

func TestManyLayersFitIntoOneMount(t *testing.T) {
	root := t.TempDir()
	s, _ := openStore(t, root)
	var names []string
	for n := range MaxLayers {
		names = append(names, fmt.Sprint(n))
	}
	chain := unpackAll(t, s, s.Lease(), names...)
	id := strings.Repeat("0123456789abcdef", 4)
	o, err := s.Overlay(chain[len(chain)-1], id)
	if err != nil {
		t.Fatal(err)
	}
	if opts := "lowerdir=" + strings.Join(o.Lower, ":") + ",upperdir=" + o.Upper + ",workdir=" + o.Work; len(opts) > 3000 {
		t.Errorf("options have %d bytes: the page is 4096", len(opts))
	}
	data := archive(t, file("more", ""))
	if _, err := s.Unpack(t.Context(), s.Lease(), chain[len(chain)-1], digest.FromBytes(data), source(data)); !errs.Invalid.Is(err) || !strings.Contains(err.Error(), "max depth exceeded") {
		t.Errorf("got %v", err)
	}
}

// TestCrash is what the child process of the next test does: it dies at the fail point.
func TestCrash(t *testing.T) {
	root := os.Getenv("GANTRY_TEST_LAYER_ROOT")
	if root == "" {
		t.Skip("only as a child of TestLayerIsWholeOrNeverWas")
	}
	s, _ := openStore(t, root)
	l := s.Lease()
	unpackAll(t, s, l, "a", "b")
	l.Release()
	if _, err := s.Collect(t.Context(), none); err != nil {
		t.Fatal(err)
	}
}

func TestLayerIsWholeOrNeverWas(t *testing.T) {
	needRoot(t)
	for _, point := range []string{"layer-unpacked", "layer-renamed", "layer-forgotten"} {
		t.Run(point, func(t *testing.T) {
			root := t.TempDir()
			child := exec.Command(os.Args[0], "-test.run=^TestCrash$")
			child.Env = append(os.Environ(), "GANTRY_TEST_LAYER_ROOT="+root, "GANTRY_FAILPOINT="+point)
			out, err := child.CombinedOutput()
			if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child did not die as it should: %v\n%s", err, out)
			}
			s, shut := openStore(t, root)
			if len(s.layers) != 0 {
				t.Errorf("records: %v", s.layers)
			}
			unpackAll(t, s, s.Lease(), "a", "b")
			shut()
			entries, err := os.ReadDir(filepath.Join(root, "layers"))
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) != 6 { // 0, _m, tmp, trash and the two layers
				t.Errorf("layers has %v", entries)
			}
		})
	}
}

func TestSniffNamesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	for head, says := range map[string]string{"BZh9": "bzip2", "\xfd7zXZ\x00": "xz"} {
		if _, err := Sniff([]byte(head)); !errs.Invalid.Is(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", head, err)
		}
	}
	for head, want := range map[string]Compression{"": Plain, "x": Plain, "\x1f\x8b\x08": Gzip, "\x28\xb5\x2f\xfd": Zstd, "\x51\x2a\x4d\x18": Zstd} {
		if got, err := Sniff([]byte(head)); err != nil || got != want {
			t.Errorf("%q: %v, %v", head, got, err)
		}
	}
}
