package trash

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// shelf is a Keeper whose things are names, 10 bytes each.
type shelf struct {
	mu        sync.Mutex
	there     map[string]bool
	discarded []string
	changed   chan struct{}
	st        *state.Store
}

func (s *shelf) Restore(_ context.Context, it Item, as string, taken func(state.Tx) error) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := it.Key
	if as != "" {
		name = as
	}
	if s.there[name] {
		return "", errs.Conflict.Errorf("%s is taken", name)
	}
	if err := s.st.Update(taken); err != nil {
		return "", err
	}
	s.there[name] = true
	return name, nil
}

func (s *shelf) Discard(_ context.Context, it Item) error {
	s.mu.Lock()
	s.discarded = append(s.discarded, it.Key)
	s.mu.Unlock()
	s.changed <- struct{}{}
	return nil
}

func (s *shelf) Size(Item) int64 { return 10 }

func open(t *testing.T, o Options) (*Bin, *shelf) {
	t.Helper()
	st, err := state.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	b, err := Open(st, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	s := &shelf{there: map[string]bool{}, changed: make(chan struct{}, 2*MaxItems), st: st}
	b.Handle(Container, s)
	return b, s
}

func throw(t *testing.T, b *Bin, ctx context.Context, key string) *Item {
	t.Helper()
	if !b.Takes(ctx) {
		t.Fatal("not taken")
	}
	it, err := b.New(ctx, Container, key, []string{key}, map[string]string{"key": key})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.state.Update(it.Put); err != nil {
		t.Fatal(err)
	}
	b.Add(it)
	return it
}

func names(back []Restored) (list []string) {
	for _, r := range back {
		list = append(list, r.Name)
	}
	slices.Sort(list)
	return list
}

func TestUndo(t *testing.T) {
	t.Parallel()
	b, s := open(t, Options{Keep: time.Hour})
	one := Choose(t.Context(), Choice{})
	throw(t, b, one, "a1")
	throw(t, b, one, "a2")
	two := Choose(t.Context(), Choice{})
	throw(t, b, two, "box")
	throw(t, b, Along(two, "box"), "its-volume")
	throw(t, b, two, "other")
	throw(t, b, Choose(t.Context(), Choice{}), "last")

	if b.Takes(Choose(t.Context(), Choice{Now: true})) {
		t.Error("now is taken")
	}
	if _, err := b.Undo(t.Context(), "nosuch", ""); !errs.NotFound.Is(err) {
		t.Errorf("no such: %v", err)
	}
	if back, err := b.Undo(t.Context(), "", ""); err != nil || !slices.Equal(names(back), []string{"last"}) {
		t.Errorf("the last: %v %v", back, err)
	}
	if back, err := b.Undo(t.Context(), "box", ""); err != nil || !slices.Equal(names(back), []string{"box", "its-volume"}) {
		t.Errorf("what went along: %v %v", back, err)
	}
	// A part that fails leaves the rest to come back, and stays itself.
	s.there["a1"] = true
	throw(t, b, two, "other2")
	if back, err := b.Undo(t.Context(), "other", ""); err != nil || len(back) != 1 {
		t.Errorf("by its name: %v %v", back, err)
	}
	if _, err := b.Undo(t.Context(), "other2", "new"); err != nil || !s.there["new"] {
		t.Errorf("another name: %v", err)
	}
	back, err := b.Undo(t.Context(), "", "")
	if !errs.Conflict.Is(err) || !slices.Equal(names(back), []string{"a2"}) {
		t.Errorf("one of two: %v %v", back, err)
	}
	if _, err := b.Undo(t.Context(), "a1", "a3"); err != nil {
		t.Error(err)
	}
	again, err := Open(b.state, Options{Keep: time.Hour})
	if err != nil || len(again.Items("")) != 0 || len(b.Items("")) != 0 {
		t.Errorf("left: %v, %v; on disk %v", b.Items(""), err, again.Items(""))
	}
}

func TestThingsGoByThemselves(t *testing.T) {
	t.Parallel()
	b, s := open(t, Options{Keep: time.Hour})
	it := throw(t, b, t.Context(), "old")
	throw(t, b, t.Context(), "young")
	it.Removed = time.Now().Add(-2 * time.Hour)
	b.Add(it)
	b.Start()
	<-s.changed
	if left := b.Items(""); len(left) != 1 || left[0].Key != "young" {
		t.Errorf("left: %v", left)
	}
	for i := range MaxItems { // bounded: with these, the one before is too many
		throw(t, b, t.Context(), fmt.Sprint("more", i))
	}
	<-s.changed
	if s.discarded[1] != "young" {
		t.Errorf("discarded: %v", s.discarded)
	}
}

func TestAFullDiskEmptiesTheTrash(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	free := int64(1000)
	b, s := open(t, Options{Keep: time.Hour, Disk: func() (int64, int64) {
		mu.Lock()
		defer mu.Unlock()
		return free, 1000
	}})
	for _, key := range []string{"oldest", "older", "old", "new"} {
		throw(t, b, t.Context(), key)
	}
	b.MakeRoom(t.Context())
	if n := len(b.Items("")); n != 4 {
		t.Errorf("with room on the disk %d are left", n)
	}
	mu.Lock()
	free = 75 // of 100 that are to be free
	mu.Unlock()
	b.MakeRoom(t.Context())
	if !slices.Equal(s.discarded, []string{"oldest", "older", "old"}) {
		t.Errorf("discarded: %v", s.discarded)
	}
}

func TestProtection(t *testing.T) {
	t.Parallel()
	b, _ := open(t, Options{Keep: time.Hour})
	if err := b.Protect(t.Context(), Image, "x", true); err != nil || !b.Protected(Image, "x") || b.Protected(Volume, "x") {
		t.Error(err)
	}
	again, err := Open(b.state, Options{})
	if err != nil || !again.Protected(Image, "x") {
		t.Error("forgotten", err)
	}
	if err := b.Protect(t.Context(), Image, "x", false); err != nil || b.Protected(Image, "x") {
		t.Error(err)
	}
	var none *Bin
	if none.Protected(Image, "x") || none.Takes(t.Context()) || none.Items("") != nil {
		t.Error("no trash keeps something")
	}
}
