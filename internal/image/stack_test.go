package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"gantry/internal/content"
	"gantry/internal/layer"
	"gantry/internal/state"
)

// TestAnImageSurvivesAPowerCut opens the images in another boot before the pulled layers had reached the disk: the layers are
// made again of the blobs.
func TestAnImageSurvivesAPowerCut(t *testing.T) {
	needRoot(t)
	h := newHub(t)
	f := makeFixture(t, "power", hostPlatform(), nil)
	h.putImage(t, "repo", "1", f)
	open := func(root, boot string) *Service {
		t.Helper()
		st, err := state.Open(filepath.Join(root, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		blobs, err := content.Open(filepath.Join(root, "content"))
		if err != nil {
			t.Fatal(err)
		}
		layers, err := layer.Open(root, st, layer.Options{Boot: boot, Settle: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { layers.Close() })
		s, err := Open(st, blobs, layers, Options{Remote: client(t)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before, after := filepath.Join(t.TempDir(), "before"), filepath.Join(t.TempDir(), "after")
	if err := os.Mkdir(before, 0o700); err != nil {
		t.Fatal(err)
	}
	s := open(before, "one")
	if err := s.Pull(t.Context(), h.host+"/repo:1", PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", before, after).CombinedOutput(); err != nil { // as it is at this moment
		t.Fatalf("%v: %s", err, out)
	}
	s = open(after, "two")
	if len(s.layers.Lost()) != len(f.layers) {
		t.Errorf("lost: %v", s.layers.Lost())
	}
	i, err := s.Get(t.Context(), h.host+"/repo:1")
	if err != nil {
		t.Fatal(err)
	}
	if i.ID != f.id || i.Size == 0 {
		t.Errorf("%+v", i)
	}
	chain, err := s.layers.Chain(s.known[i.Target.Digest].chain)
	if err != nil || len(chain) != len(f.layers) {
		t.Errorf("%v, %v", chain, err)
	}
}

func TestSideBySide(t *testing.T) {
	t.Parallel()
	var order []int
	if err := sideBySide(t.Context(), 20, func(ctx context.Context, i int, below func(context.Context) error) error {
		if err := below(ctx); err != nil {
			return err
		}
		order = append(order, i) // one after the other: each after the one below
		return nil
	}); err != nil || len(order) != 20 || order[0] != 0 || order[19] != 19 {
		t.Errorf("%v, %v", order, err)
	}
	boom := errors.New("boom")
	var waiting atomic.Int32
	err := sideBySide(t.Context(), 20, func(ctx context.Context, i int, below func(context.Context) error) error {
		if i == 0 {
			return boom
		}
		waiting.Add(1)
		return below(ctx)
	})
	if err != boom {
		t.Errorf("%v", err)
	}
}
