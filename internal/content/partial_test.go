package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
)

func partial(t *testing.T, s *Store, data []byte) (*Partial, *Lease) {
	t.Helper()
	l := s.Lease()
	t.Cleanup(l.Release)
	p, err := s.Partial(t.Context(), l, digest.FromBytes(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, l
}

func TestAPartIsKeptOverEverything(t *testing.T) {
	root := t.TempDir()
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for at := 0; at < len(data); at += 300_000 {
		s, err := Open(root) // each time after the last one's end
		if err != nil {
			t.Fatal(err)
		}
		p, l := partial(t, s, data)
		if p.Offset() != int64(at) {
			t.Fatalf("%d bytes are there, not %d", p.Offset(), at)
		}
		if _, err := s.Partial(t.Context(), l, digest.FromBytes(data), int64(len(data))); !errs.Conflict.Is(err) {
			t.Errorf("opened twice: %v", err)
		}
		if _, err := p.Write(data[at:min(at+300_000, len(data))]); err != nil {
			t.Fatal(err)
		}
		if at+300_000 < len(data) {
			if err := p.Commit(); !errs.Invalid.Is(err) {
				t.Errorf("committed too early: %v", err)
			}
			p.Close()
			continue
		}
		if err := p.Commit(); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(digest.FromBytes(data), 1<<20); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if entries, err := os.ReadDir(s.partialDir()); err != nil || len(entries) != 0 {
			t.Errorf("left: %v %v", entries, err)
		}
	}
}

func TestAPartIsNeverMoreThanPromised(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data := []byte("content")
	p, _ := partial(t, s, data)
	if _, err := p.Write([]byte("contents")); !errs.Invalid.Is(err) {
		t.Errorf("more than promised: %v", err)
	}
	if _, err := p.Write([]byte("CONTENT")); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); !errs.Invalid.Is(err) {
		t.Errorf("another content: %v", err)
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Error(err)
	}
	other, _ := partial(t, s, []byte("other"))
	other.Write([]byte("oth"))
	other.Discard()
	if entries, err := os.ReadDir(s.partialDir()); err != nil || len(entries) != 0 {
		t.Errorf("left: %v %v", entries, err)
	}
	if _, err := s.Partial(t.Context(), s.Lease(), digest.FromString("x"), 1<<60); !errs.Unavailable.Is(err) {
		t.Errorf("more than the disk has: %v", err)
	}
	if _, err := s.Partial(t.Context(), s.Lease(), "sha256:../../x", 1); !errs.Invalid.Is(err) {
		t.Errorf("no digest: %v", err)
	}
}

func TestReadersReadAlong(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789"), 50_000)
	type end struct {
		data []byte
		err  error
	}
	read := func(p *Partial, ctx context.Context) chan end {
		r, err := p.Reader(ctx)
		if err != nil {
			t.Fatal(err)
		}
		c := make(chan end, 1)
		go func() {
			got, err := io.ReadAll(r)
			r.Close()
			c <- end{got, err}
		}()
		return c
	}
	for _, c := range []struct {
		name string
		do   func(p *Partial, cancel func())
		want error
	}{
		{"never", func(p *Partial, _ func()) { p.Close() }, errBroken},
		{"anew", func(p *Partial, _ func()) { p.Restart() }, errBroken},
		{"canceled", func(_ *Partial, cancel func()) { cancel() }, context.Canceled},
		{"whole", func(p *Partial, _ func()) { p.Write(data[250_000:]); p.Commit() }, nil}, // last: there is no part afterwards
	} {
		ctx, cancel := context.WithCancel(t.Context())
		p, _ := partial(t, s, data)
		p.Restart()
		p.Write(data[:250_000])
		r := read(p, ctx)
		c.do(p, cancel)
		if e := <-r; !errors.Is(e.err, c.want) || e.err == nil && !bytes.Equal(e.data, data) {
			t.Errorf("%s: %d bytes, %v", c.name, len(e.data), e.err)
		}
		cancel()
		p.Close()
	}
}

func TestOldPartsGo(t *testing.T) {
	root := t.TempDir()
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := partial(t, s, []byte("content"))
	p.Write([]byte("con"))
	p.Close()
	if err := s.clearPartials(time.Now().Add(partialLife - time.Hour)); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(s.partialDir()); len(entries) != 1 {
		t.Errorf("a young part went")
	}
	if err := s.clearPartials(time.Now().Add(partialLife + time.Hour)); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(s.partialDir()); len(entries) != 0 {
		t.Errorf("an old part stayed")
	}
}
