package layer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/state"
)

// layersOf are the archives of an image in which each layer says something about those below it.
func layersOf(t testing.TB) [][]byte {
	return [][]byte{
		archive(t, folder("etc", 0o711), file("etc/a", "1"), file("etc/b", "1"), folder("usr", 0o755), file("usr/x", "1"), folder("var", 0o700), file("var/log", "1")),
		archive(t, file("etc/c", "2"), file("etc/.wh.a", ""), file("opt/deep/er", "2"), file("usr/.wh..wh..opq", "")),
		archive(t, folder("./", 0o751), file("usr/y", "3"), file("var/.wh.nothing", "")),
		archive(t, file("etc/a", "4"), file("var/.wh.log", ""), file(".wh.opt", ""), file("opt/new", "4")),
		archive(t, file("opt/newer", "5"), file("var/z", "5")),
	}
}

// TestLayersAreMadeSideBySide begins the layers of an image from the top: they come out as when each finds those below it.
func TestLayersAreMadeSideBySide(t *testing.T) {
	made := func(s *Store, beside bool) [][]string {
		archives := layersOf(t)
		l := s.Lease()
		defer l.Release()
		done := make([]chan struct{}, len(archives))
		for i := range done {
			done[i] = make(chan struct{})
		}
		var wg sync.WaitGroup
		chains := make([]digest.Digest, len(archives))
		for i, data := range archives {
			chains[i] = digest.FromBytes(data)
			if i > 0 {
				chains[i] = ChainID(chains[i-1], digest.FromBytes(data))
			}
		}
		for i := range slices.Backward(archives) {
			r := Recipe{Diff: digest.FromBytes(archives[i]), Open: source(archives[i]), Kept: beside}
			if i > 0 {
				r.Parent = chains[i-1]
				r.Below = func(context.Context) error { <-done[i-1]; return nil }
			}
			wg.Go(func() {
				defer close(done[i])
				if _, err := s.Make(t.Context(), l, r); err != nil {
					t.Errorf("layer %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		var trees [][]string
		for _, c := range chains {
			trees = append(trees, describe(t, filepath.Join(s.base, "layers", s.layers[c].Dir)))
		}
		return trees
	}
	a, _ := openStore(t, t.TempDir())
	b, _ := openStore(t, t.TempDir())
	var serial [][]string
	l := a.Lease()
	defer l.Release()
	var parent digest.Digest
	for _, data := range layersOf(t) {
		info, err := a.Unpack(t.Context(), l, parent, digest.FromBytes(data), source(data))
		if err != nil {
			t.Fatal(err)
		}
		parent = info.ChainID
		serial = append(serial, describe(t, filepath.Join(a.base, "layers", a.layers[parent].Dir)))
	}
	beside := made(b, true)
	for i := range serial {
		// Directories that no archive has get the time at which they were made.
		if x, y := undated(serial[i]), undated(beside[i]); !slices.Equal(x, y) {
			t.Errorf("layer %d: one after the other\n%s\nside by side\n%s", i, strings.Join(x, "\n"), strings.Join(y, "\n"))
		}
	}
}

func undated(lines []string) []string {
	out := slices.Clone(lines)
	for i, l := range out {
		f := strings.Fields(l)
		out[i] = strings.Join(append(f[:3:3], f[4:]...), " ")
	}
	return out
}

// TestALayerBelowThatFailsEndsThoseAbove: they wait for it, and get its error's place.
func TestALayerBelowThatFailsEndsThoseAbove(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	l := s.Lease()
	defer l.Release()
	ctx, cancel := context.WithCancel(t.Context())
	data := archive(t, file("etc/a", "x"))
	started := make(chan struct{})
	errc := make(chan error, 1)
	go func() {
		_, err := s.Make(ctx, l, Recipe{Parent: digest.FromString("below"), Diff: digest.FromBytes(data), Open: source(data), Below: func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			return ctx.Err()
		}})
		errc <- err
	}()
	<-started
	cancel()
	if err := <-errc; err == nil {
		t.Error("made on top of nothing")
	}
	if left, _ := os.ReadDir(filepath.Join(s.base, "layers/tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestAPowerCutLosesLayersWholly reopens the store in another boot before and after what was made had reached the disk.
func TestAPowerCutLosesLayersWholly(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	// open opens the store as in the named boot; the returned function ends it as a crash would.
	open := func(boot string) (*Store, func()) {
		t.Helper()
		st, err := state.Open(filepath.Join(root, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(root, st, Options{Boot: boot, Settle: time.Hour}) // nothing is synced but what the test asks for
		if err != nil {
			t.Fatal(err)
		}
		return s, func() {
			s.once.Do(func() { close(s.quit) })
			<-s.ended
			s.trash.close()
			st.Close()
		}
	}
	data := archive(t, file("a", "x"))
	diff := digest.FromBytes(data)
	s, crash := open("one")
	l := s.Lease()
	if _, err := s.Make(t.Context(), l, Recipe{Diff: diff, Open: source(data), Kept: true}); err != nil {
		t.Fatal(err)
	}
	crash()
	s, crash = open("one") // only the engine ended
	if _, err := s.Get(diff); err != nil || len(s.Lost()) != 0 {
		t.Errorf("after a crash of the engine: %v, lost %v", err, s.Lost())
	}
	crash()
	s, crash = open("two")
	if _, err := s.Get(diff); err == nil || !slices.Equal(s.Lost(), []digest.Digest{diff}) {
		t.Errorf("after a crash of the machine: %v, lost %v", err, s.Lost())
	}
	crash()
	s, crash = open("two") // told once
	if len(s.Lost()) != 0 {
		t.Errorf("lost again: %v", s.Lost())
	}
	l = s.Lease()
	if _, err := s.Make(t.Context(), l, Recipe{Diff: diff, Open: source(data), Kept: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.settle(); err != nil {
		t.Fatal(err)
	}
	crash()
	s, crash = open("three")
	defer crash()
	if _, err := s.Get(diff); err != nil || len(s.Lost()) != 0 {
		t.Errorf("what had reached the disk: %v, lost %v", err, s.Lost())
	}
}
