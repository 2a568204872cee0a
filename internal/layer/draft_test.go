package layer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	kernelfs "gantry/internal/kernel/fs"
)

// written makes a finished draft.
func written(t *testing.T, s *Store, parent *Draft, chain digest.Digest, o FinishOptions, write func(w *Writer) error) *Draft {
	t.Helper()
	d, err := s.NewDraft(parent, chain)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.Write(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := write(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Finish(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	return d
}

func put(name, content string) func(*Writer) error {
	return func(w *Writer) error {
		return w.Put(name, &Node{Mode: TypeFile | 0o640, UID: 3, GID: 4, Size: int64(len(content)), Mtime: time.Unix(1e9, 0)}, strings.NewReader(content))
	}
}

// TestDraftsBecomeLayers: two on each other, on a layer, become layers with what was written, in one go, and can be made again.
func TestDraftsBecomeLayers(t *testing.T) {
	root := t.TempDir()
	s, shut := openStore(t, root)
	l := s.Lease()
	defer l.Release()
	base := unpackAll(t, s, l, "below")[0]
	a := written(t, s, nil, base, FinishOptions{}, func(w *Writer) error {
		if data, err := w.ReadFile("below", 100); err != nil || string(data) != "below" {
			t.Errorf("below it is %q, %v", data, err)
		}
		return put("dir/a", "a")(w)
	})
	b := written(t, s, a, "", FinishOptions{}, func(w *Writer) error {
		if there, err := w.Remove("below"); !there || err != nil {
			t.Errorf("remove: %v, %v", there, err)
		}
		if n, there, err := w.Lookup("dir/a", true); err != nil || !there || n.UID != 3 || n.Size != 1 {
			t.Errorf("dir/a is %v, %v, %v", n, there, err)
		}
		for dir, want := range map[string]string{"dir": "a", "/dir/": "a", "/": "dir", "nosuch": ""} {
			if names, err := w.Names(dir); err != nil || strings.Join(names, " ") != want {
				t.Errorf("%s has %v, %v, not %q", dir, names, err, want)
			}
		}
		return w.Link("dir/a", "dir/b")
	})
	if err := s.Adopt(t.Context(), l, []*Draft{b}, nil); err != nil {
		t.Fatal(err)
	}
	chain := b.Becomes()
	list, err := s.Chain(chain)
	if err != nil || len(list) != 3 || list[1].ChainID != a.Becomes() || list[2].ChainID != base {
		t.Fatalf("the layers are %v, %v", list, err)
	}
	for _, info := range list[:2] {
		if got := digest.FromBytes(pull(t, s, info.DiffID)); got != info.DiffID {
			t.Errorf("made again, layer %s is %s", info.DiffID, got)
		}
	}
	a.Release()
	b.Release()
	shut()
	s, _ = openStore(t, root)
	if _, err := s.Get(chain); err != nil {
		t.Errorf("after a restart: %v", err)
	}
}

// TestDraftsThatComeToTheSame are one layer; one with nothing in it is none; one that nobody adopts leaves nothing.
func TestDraftsThatComeToTheSame(t *testing.T) {
	s, shut := openStore(t, t.TempDir())
	l := s.Lease()
	defer l.Release()
	base := unpackAll(t, s, l, "below")[0]
	one := written(t, s, nil, base, FinishOptions{}, put("f", "x"))
	two := written(t, s, nil, base, FinishOptions{}, put("f", "x"))
	stubs := FinishOptions{Stubs: []string{"/mnt/secret", "/below"}}
	empty := written(t, s, nil, base, stubs, func(w *Writer) error { return w.MkdirAll("mnt/secret", 0o755, 0, 0, nil) })
	kept := written(t, s, nil, base, stubs, put("mnt/secret/left", "by the program"))
	if !empty.Empty() || kept.Empty() || one.Empty() {
		t.Errorf("empty: %v, %v, %v", empty.Empty(), kept.Empty(), one.Empty())
	}
	if err := s.Adopt(t.Context(), l, []*Draft{one, two, empty, kept}, nil); err != nil {
		t.Fatal(err)
	}
	if one.Becomes() != two.Becomes() || empty.Becomes() != base {
		t.Errorf("they become %s, %s and %s on %s", one.Becomes(), two.Becomes(), empty.Becomes(), base)
	}
	lost := written(t, s, nil, base, FinishOptions{}, put("g", "y"))
	dir := lost.path()
	for _, d := range []*Draft{one, two, empty, kept, lost} {
		d.Release()
	}
	if err := lost.Hold(); err == nil {
		t.Error("a draft that was let go can be held")
	}
	shut() // what was thrown away is deleted by then
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("of the draft that nobody adopted there is %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(s.base, "layers/tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("in layers/tmp there is %v, %v", entries, err)
	}
}

// TestDraftEpoch: no file is newer than what was asked for, and so two drafts of the same at other times are the same.
func TestDraftEpoch(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	var diffs []digest.Digest
	for _, stamp := range []int64{1e9, 17e8} {
		d := written(t, s, nil, "", FinishOptions{Epoch: time.Unix(1e9, 0)}, func(w *Writer) error {
			return w.Put("f", &Node{Mode: TypeFile | 0o600, Mtime: time.Unix(stamp, 0)}, strings.NewReader(""))
		})
		diff, err := d.Name(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		diffs = append(diffs, diff)
		d.Release()
	}
	if diffs[0] != diffs[1] {
		t.Errorf("they are %s and %s", diffs[0], diffs[1])
	}
}

// TestWriterStaysInside: links in what lies below lead nowhere else, and a path that means to is refused or meant inside.
func TestWriterStaysInside(t *testing.T) {
	top := t.TempDir()
	outside := filepath.Join(top, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(top, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	s, _ := openStore(t, root)
	below := written(t, s, nil, "", FinishOptions{}, func(w *Writer) error {
		for name, to := range map[string]string{"abs": outside, "up": "../../../../../.." + outside, "loop": "loop"} {
			if err := w.Put(name, &Node{Mode: TypeLink | 0o777, Link: to}, nil); err != nil {
				return err
			}
		}
		return w.MkdirAll(strings.TrimPrefix(outside, "/"), 0o755, 0, 0, nil)
	})
	defer below.Release()
	d := written(t, s, below, "", FinishOptions{}, func(w *Writer) error {
		for _, name := range []string{"abs/f", "up/g", "../../h"} {
			_ = put(name, "x")(w) // refused, or inside
		}
		if _, there, err := w.Lookup("loop", true); there || err == nil {
			t.Errorf("a loop of links leads somewhere: %v", err)
		}
		return nil
	})
	defer d.Release()
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside there is %v, %v", entries, err)
	}
	if _, err := os.Lstat(filepath.Join(top, "h")); err == nil {
		t.Error("a path went up")
	}
}

// TestReader reads what is there, and follows no link out.
func TestReader(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	for name, data := range map[string]string{"in/f": "inside", "out": "outside"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(top, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, name), []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../out", filepath.Join(top, "in/link")); err != nil {
		t.Fatal(err)
	}
	root, err := kernelfs.OpenRoot(filepath.Join(top, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r := NewReader(root)
	if n, err := r.Stat("f"); err != nil || !n.IsRegular() || n.Size != 6 {
		t.Errorf("f is %v, %v", n, err)
	}
	if n, err := r.Stat("link"); err != nil || !n.IsLink() || n.Link != "../../out" {
		t.Errorf("link is %v, %v", n, err)
	}
	if names, err := r.Names("."); err != nil || len(names) != 2 {
		t.Errorf("there are %v, %v", names, err)
	}
	if f, err := r.Open("link"); err == nil {
		f.Close()
		t.Error("a link that leads out is opened")
	}
	if _, err := r.Open("../out"); err == nil {
		t.Error("a path that leads out is opened")
	}
}

// TestVouch: a layer that came as an archive of ours can be made again without it; one of another's form cannot.
func TestVouch(t *testing.T) {
	from, _ := openStore(t, t.TempDir())
	d := written(t, from, nil, "", FinishOptions{}, put("dir/f", "x"))
	defer d.Release()
	l := from.Lease()
	defer l.Release()
	if err := from.Adopt(t.Context(), l, []*Draft{d}, nil); err != nil {
		t.Fatal(err)
	}
	info, _ := d.Info()
	data := pull(t, from, info.DiffID)

	root := t.TempDir()
	to, shut := openStore(t, root)
	l2 := to.Lease()
	defer l2.Release()
	made, err := to.Unpack(t.Context(), l2, "", info.DiffID, source(data))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := to.Vouch(t.Context(), made.ChainID); !again || err != nil {
		t.Errorf("ours: %v, %v", again, err)
	}
	foreign := unpackAll(t, to, l2, "other")[0]
	if again, err := to.Vouch(t.Context(), foreign); again || err != nil {
		t.Errorf("another's: %v, %v", again, err)
	}
	shut()
	to, _ = openStore(t, root)
	if !to.Made(made.ChainID) || to.Made(foreign) {
		t.Error("after a restart it is forgotten which can be made again")
	}
	if got := pull(t, to, info.DiffID); string(got) != string(data) {
		t.Error("made again, it is another archive")
	}
}
