package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
)

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ingest(t *testing.T, s *Store, l *Lease, data string) digest.Digest {
	t.Helper()
	b, err := s.IngestBytes(t.Context(), l, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return b.Digest
}

func has(t *testing.T, s *Store, d digest.Digest) bool {
	t.Helper()
	_, err := s.Stat(d)
	if err != nil && !errs.NotFound.Is(err) {
		t.Fatal(err)
	}
	return err == nil
}

func nothing(func(digest.Digest)) error { return nil }

func TestBlobsAreKeptAsReceived(t *testing.T) {
	t.Parallel()
	s := open(t)
	l := s.Lease()
	defer l.Release()
	for _, a := range algorithms {
		want := bytes.Repeat([]byte("gantry"), 100_000)
		for range 2 { // the second finds it there
			b, err := s.Ingest(t.Context(), l, iotest.HalfReader(bytes.NewReader(want)), Expect{Digest: a.FromBytes(want), Size: int64(len(want)), Sized: true})
			if err != nil || b.Digest != a.FromBytes(want) || b.Size != int64(len(want)) {
				t.Fatalf("%v, %v", b, err)
			}
			got, err := s.Read(b.Digest, 1<<20)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if _, err := s.Read(b.Digest, 10); !errs.Invalid.Is(err) {
				t.Errorf("bound: %v", err)
			}
		}
	}
}

func TestWhatIsNotAsPromisedLeavesNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	l := s.Lease()
	defer l.Release()
	there := ingest(t, s, l, "hello")
	boom := errors.New("boom")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		e    Expect
		kind errs.Kind
	}{
		"digest":          {t.Context(), strings.NewReader("x"), Expect{Digest: digest.FromString("y")}, errs.Invalid},
		"digest of there": {t.Context(), strings.NewReader("x"), Expect{Digest: there}, errs.Invalid},
		"short":           {t.Context(), strings.NewReader("x"), Expect{Size: 2, Sized: true}, errs.Invalid},
		"long":            {t.Context(), strings.NewReader("xxx"), Expect{Size: 2, Sized: true}, errs.Invalid},
		"more than max":   {t.Context(), strings.NewReader("xxx"), Expect{Max: 2}, errs.Invalid},
		"path":            {t.Context(), strings.NewReader("x"), Expect{Digest: "sha256:../../etc/passwd"}, errs.Invalid},
		"algorithm":       {t.Context(), strings.NewReader("x"), Expect{Digest: "md5:d41d8cd98f00b204e9800998ecf8427e"}, errs.Invalid},
		"broken reader":   {t.Context(), io.MultiReader(strings.NewReader("x"), iotest.ErrReader(boom)), Expect{}, errs.Internal},
		"canceled":        {canceled, strings.NewReader("x"), Expect{}, errs.Canceled},
	} {
		if _, err := s.Ingest(c.ctx, l, c.r, c.e); !c.kind.Is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if u, err := s.Usage(); err != nil || u.Blobs != 1 {
		t.Errorf("%+v, %v", u, err)
	}
	if left, _ := os.ReadDir(s.ingestDir()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestReopeningRemovesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	s := open(t)
	l := s.Lease()
	d := ingest(t, s, l, "whole")
	if err := os.WriteFile(filepath.Join(s.ingestDir(), "123"), []byte("par"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := Open(s.root)
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(again.ingestDir()); len(left) != 0 || !has(t, again, d) {
		t.Errorf("left: %v", left)
	}
}

func TestCollectKeepsRootsAndLeases(t *testing.T) {
	t.Parallel()
	s := open(t)
	root, leased, garbage := s.Lease(), s.Lease(), s.Lease()
	a, b, c := ingest(t, s, root, "root"), ingest(t, s, leased, "leased"), ingest(t, s, garbage, "garbage")
	root.Release()
	garbage.Release()
	garbage.Release()
	f, err := s.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := s.Collect(t.Context(), func(mark func(digest.Digest)) error { mark(a); return nil })
	if err != nil || got.Blobs != 1 || got.Bytes != int64(len("garbage")) {
		t.Errorf("%+v, %v", got, err)
	}
	if !has(t, s, a) || !has(t, s, b) || has(t, s, c) {
		t.Error("the wrong blobs are gone")
	}
	if data, err := io.ReadAll(f); err != nil || string(data) != "garbage" {
		t.Errorf("open blob: %q, %v", data, err)
	}
	leased.Release()
	if _, err := s.Collect(t.Context(), func(func(digest.Digest)) error { return io.ErrNoProgress }); err == nil || !has(t, s, b) {
		t.Errorf("a failed marking must remove nothing: %v", err)
	}
}

// A lease that ends while a collection is under way, because its reference was recorded just after roots
// looked, must not lose its blobs.
func TestWhatIsReferredToDuringACollectionStays(t *testing.T) {
	t.Parallel()
	s := open(t)
	early := s.Lease()
	a := ingest(t, s, early, "before")
	var b digest.Digest
	_, err := s.Collect(t.Context(), func(func(digest.Digest)) error {
		late := s.Lease()
		b = ingest(t, s, late, "during")
		late.Release()
		early.Release()
		return nil
	})
	if err != nil || !has(t, s, a) || !has(t, s, b) {
		t.Errorf("%v %v, %v", has(t, s, a), has(t, s, b), err)
	}
	if _, err := s.Collect(t.Context(), nothing); err != nil || has(t, s, a) || has(t, s, b) {
		t.Errorf("the next one takes them: %v", err)
	}
}

func TestCollectRunsOnline(t *testing.T) {
	t.Parallel()
	s := open(t)
	stop := make(chan struct{})
	var collector, workers sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Collect(t.Context(), nothing); err != nil {
				t.Error(err)
			}
		}
	})
	for n := range 3 {
		workers.Go(func() {
			for i := range 20 {
				l := s.Lease()
				d := ingest(t, s, l, strings.Repeat("x", n%2+i))
				if !has(t, s, d) {
					t.Error("a leased blob is gone")
				}
				l.Release()
			}
		})
	}
	workers.Wait()
	close(stop)
	collector.Wait()
}
