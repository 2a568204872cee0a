// Package storagetest holds a registry.Storage to its promises. Every implementation runs it.
package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"gantry/internal/registry"
)

// Run tests storages; open returns a new, empty one.
func Run(t *testing.T, open func(t *testing.T) registry.Storage) {
	t.Run("objects", func(t *testing.T) { objects(t, open(t)) })
	t.Run("lists", func(t *testing.T) { lists(t, open(t)) })
	t.Run("stages", func(t *testing.T) { stages(t, open(t)) })
	t.Run("replacing", func(t *testing.T) { replacing(t, open(t)) })
}

func read(t *testing.T, st registry.Storage, key string) []byte {
	t.Helper()
	f, info, err := st.Open(key)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil || int64(len(b)) != info.Size {
		t.Fatalf("%s: %d bytes of %d: %v", key, len(b), info.Size, err)
	}
	return b
}

func objects(t *testing.T, st registry.Storage) {
	for _, key := range []string{"a", "x/y/z", "repos/a/_tags/v1"} {
		if _, _, err := st.Open(key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v", key, err)
		}
		if _, err := st.Stat(key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", key, err)
		}
		if err := st.Delete(key); err != nil {
			t.Errorf("delete what is not there: %v", err)
		}
		before := time.Now().Add(-time.Second)
		for _, data := range []string{"one", "", "another"} {
			if err := st.Put(key, []byte(data)); err != nil {
				t.Fatal(err)
			}
			if got := read(t, st, key); string(got) != data {
				t.Errorf("%s: %q", key, got)
			}
			if info, err := st.Stat(key); err != nil || info.Size != int64(len(data)) || info.Time.Before(before) {
				t.Errorf("%s: %+v, %v", key, info, err)
			}
		}
		// Whoever has it open keeps it.
		f, _, err := st.Open(key)
		if err != nil {
			t.Fatal(err)
		}
		if err := st.Delete(key); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != "another" {
			t.Errorf("%q, %v", b, err)
		}
		f.Close()
		if _, err := st.Stat(key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", key, err)
		}
	}
	// What is above an object is none.
	if err := st.Put("p/q", nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"p", "p/q/r"} {
		if _, err := st.Stat(key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("stat %s: %v", key, err)
		}
		if f, _, err := st.Open(key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %s: %v %v", key, f, err)
		}
	}
}

func lists(t *testing.T, st registry.Storage) {
	list := func(key string) (names []string) {
		t.Helper()
		if err := st.List(key, func(e registry.Entry) error {
			name := e.Name
			if e.Dir {
				name += "/"
			}
			names = append(names, name)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	if got := list("none"); len(got) != 0 {
		t.Error(got)
	}
	var want []string
	for i := range 40 {
		name := fmt.Sprintf("t%02d", i)
		want = append(want, name)
		if err := st.Put("l/"+name, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Put("l/d/e/f", nil); err != nil {
		t.Fatal(err)
	}
	want = append(want, "d/")
	slices.Sort(want)
	if got := list("l"); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := list("l/d"); !slices.Equal(got, []string{"e/"}) {
		t.Error(got)
	}
	stop := errors.New("stop")
	if err := st.List("l", func(registry.Entry) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
}

func stages(t *testing.T, st registry.Storage) {
	if _, err := st.Stage("none", false); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	s, err := st.Stage("up", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Stage("up", true); err == nil {
		t.Error("begun twice")
	}
	io.WriteString(s, "hello, ")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Gone on with, later.
	if s, err = st.Stage("up", false); err != nil || s.Size() != 7 {
		t.Fatal(err)
	}
	io.WriteString(s, "world and more")
	if err := s.Truncate(12); err != nil || s.Size() != 12 {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if n, err := s.ReadAt(b, 7); n != 5 || string(b) != "world" {
		t.Errorf("%q, %v", b, err)
	}
	io.WriteString(s, "!")
	var open []string
	if err := st.Stages(func(e registry.Entry) error { open = append(open, e.Name); return nil }); err != nil || !slices.Equal(open, []string{"up"}) {
		t.Error(open, err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit("blobs/x/y"); err != nil {
		t.Fatal(err)
	}
	if got := read(t, st, "blobs/x/y"); string(got) != "hello, world!" {
		t.Errorf("%q", got)
	}
	if _, err := st.Stage("up", false); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an upload that has ended is still there:", err)
	}
	if s, err = st.Stage("other", true); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Stage("other", false); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a discarded upload is still there:", err)
	}
}

// replacing puts one object many times at once: readers see one of them, whole.
func replacing(t *testing.T, st registry.Storage) {
	const size = 10_000
	if err := st.Put("k", make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		writers.Go(func() {
			for i := range 10 {
				if err := st.Put("k", bytes.Repeat([]byte{byte(10*w + i)}, size)); err != nil {
					t.Error(err)
				}
			}
		})
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				f, _, err := st.Open("k")
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(f)
				f.Close()
				if err != nil || len(b) != size || bytes.Count(b, b[:1]) != size {
					t.Errorf("a mixture of %d bytes: %v", len(b), err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}
