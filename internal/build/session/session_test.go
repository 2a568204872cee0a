package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/build"
	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/build/session/offer"
	"gantry/internal/build/session/wire"
	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// connect serves the offer at one end of a connection and returns the engine's end, and what Serve returns.
func connect(t *testing.T, o *offer.Offer, files *Files) (*Client, chan error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	there, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if o.Event == nil {
		o.Event = func(wire.Event) {}
	}
	served := make(chan error, 1)
	go func() { served <- o.Serve(t.Context(), here); here.Close() }()
	c, err := NewClient(context.Background(), there, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return c, served
}

func newFiles(t *testing.T) *Files {
	t.Helper()
	f, err := OpenFiles(filepath.Join(t.TempDir(), "files"), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func paths(tree source.Tree) (out []string) {
	for _, e := range tree.Entries() {
		out = append(out, e.Path)
	}
	return out
}

func content(t *testing.T, tree source.Tree, path string) string {
	t.Helper()
	all := tree.Entries()
	for i := range all {
		if all[i].Path == path {
			r, err := tree.Open(t.Context(), &all[i])
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			data, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
	}
	t.Fatalf("no %s in %v", path, paths(tree))
	return ""
}

func TestFolder(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	write(t, dir, map[string]string{"a.go": "package a", "b/c": "two", "b-d": "three", "skip/x": "no", "skip/keep/y": "yes", "bad\xffname": "odd", "empty": ""})
	if err := os.Symlink("../elsewhere", filepath.Join(dir, "b/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a.go"), filepath.Join(dir, "hard")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "a.go"), 0o644); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	// Who has the files is no matter of the image's.
	for _, name := range []string{"a.go", "b"} {
		if err := os.Chown(filepath.Join(dir, name), 77, 88); err != nil && os.Getuid() == 0 {
			t.Fatal(err)
		}
	}
	attributes := unix.Setxattr(filepath.Join(dir, "b-d"), "user.mine", []byte{0xff, 0}, 0) == nil
	files := newFiles(t)
	o := &offer.Offer{Folders: map[string]offer.Folder{"context": {Path: dir, Exclude: []string{"skip", "!skip/keep"}}}, Cache: cache}
	c, served := connect(t, o, files)
	tree, err := c.Folder(t.Context(), &graph.Local{Name: "context"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a.go", "b", "b/c", "b/link", "b-d", "bad\xffname", "empty", "hard", "skip", "skip/keep", "skip/keep/y"}
	if got := paths(tree); !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	all := tree.Entries()
	if all[3].Link != "../elsewhere" || all[0].Inode == [2]uint64{} || all[0].Inode != all[7].Inode || all[0].Mode != unix.S_IFREG|0o644 || all[6].Size != 0 {
		t.Errorf("entries: %+v", all)
	}
	for _, e := range all {
		if e.UID != 0 || e.GID != 0 {
			t.Errorf("%s belongs to %d:%d", e.Path, e.UID, e.GID)
		}
	}
	if attributes && all[4].Xattrs["user.mine"] != "\xff\x00" {
		t.Errorf("attributes of b-d: %q", all[4].Xattrs)
	}
	if tree.Digest() == "" || !files.Has(tree.Digest()) {
		t.Error("the list was not kept")
	}
	if files.Has(all[0].Digest) {
		t.Error("a content came that nobody asked for")
	}
	if err := tree.Want(t.Context(), []*source.Entry{&all[0], &all[2], &all[5], &all[6]}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"a.go": "package a", "b/c": "two", "bad\xffname": "odd", "empty": "", "skip/keep/y": "yes"} {
		if got := content(t, tree, path); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	if _, err := c.Folder(t.Context(), &graph.Local{Name: "nosuch"}); !errs.NotFound.Is(err) {
		t.Errorf("a folder that is not offered: %v", err)
	}
	part, err := c.Folder(t.Context(), &graph.Local{Name: "context", Follow: []string{"/b-*", "empty"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(part); !slices.Equal(got, []string{"b-d", "empty"}) {
		t.Errorf("a part: %q", got)
	}
	part, err = c.Folder(t.Context(), &graph.Local{Name: "context", Include: []string{"b"}, Exclude: []string{"**/link"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(part); !slices.Equal(got, []string{"b", "b/c"}) {
		t.Errorf("included: %q", got)
	}
	c.End(&build.Built{Image: "sha256:1"}, nil, 0)
	if err := <-served; err != nil {
		t.Error(err)
	}

	// Another build of the same: the list is known. It is read from what the engine keeps, whatever the client would send.
	c, _ = connect(t, o, files)
	again, err := c.Folder(t.Context(), &graph.Local{Name: "context"})
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != tree.Digest() || !slices.Equal(paths(again), want) {
		t.Errorf("again: %s, %q", again.Digest(), paths(again))
	}

	// Another build: only what changed travels, and what is as it was is not even read.
	write(t, dir, map[string]string{"b/c": "new"})
	c, _ = connect(t, o, files)
	if tree, err = c.Folder(t.Context(), &graph.Local{Name: "context"}); err != nil {
		t.Fatal(err)
	}
	for _, e := range tree.Entries() {
		if e.IsRegular() && files.Has(e.Digest) == (e.Path == "b/c" || e.Path == "b-d") {
			t.Errorf("%s: here already: %v", e.Path, files.Has(e.Digest))
		}
	}
	if got := content(t, tree, "b/c"); got != "new" {
		t.Errorf("b/c: %q", got)
	}
}

// TestChangedMeanwhile: a file that is written to during the build is an error that says so, and never a wrong content.
func TestChangedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"same": "12345", "longer": "12345", "gone": "12345"})
	c, _ := connect(t, &offer.Offer{Folders: map[string]offer.Folder{"context": {Path: dir}}}, newFiles(t))
	tree, err := c.Folder(t.Context(), &graph.Local{Name: "context"})
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"same": "54321", "longer": "123456"})
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	all := tree.Entries()
	for i, want := range []string{"no such file", "changed", "changed"} {
		if err := tree.Want(t.Context(), []*source.Entry{&all[i]}); !errs.Invalid.Is(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), all[i].Path) {
			t.Errorf("%s: %v", all[i].Path, err)
		}
	}
}

func TestSecretsAgentsOutputs(t *testing.T) {
	agent := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", agent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = io.Copy(conn, conn)
		conn.Close()
		for {
			if conn, err = l.Accept(); err != nil {
				return
			}
			_, _ = io.WriteString(conn, "bye")
			conn.Close()
		}
	}()
	var got bytes.Buffer
	var events []wire.Event
	c, served := connect(t, &offer.Offer{
		Secrets: map[string]func() ([]byte, error){"token": func() ([]byte, error) { return []byte("s3cret"), nil }, "bad": func() ([]byte, error) { return nil, errors.New("open token: gone") }},
		Agents:  map[string]string{"default": agent},
		Outputs: map[int]func(io.Reader) error{1: func(r io.Reader) error { _, err := io.Copy(&got, r); return err }, 2: func(io.Reader) error { return errors.New("no room") }},
		Event:   func(e wire.Event) { events = append(events, e) },
	}, newFiles(t))
	if data, err := c.Secret(t.Context(), "token"); err != nil || string(data) != "s3cret" {
		t.Errorf("secret: %q, %v", data, err)
	}
	if _, err := c.Secret(t.Context(), "nosuch"); !errs.NotFound.Is(err) {
		t.Errorf("no secret: %v", err)
	}
	if _, err := c.Secret(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("a secret that cannot be read: %v", err)
	}
	conn, err := c.Agent(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		msg := fmt.Sprint("question ", i)
		if _, err := io.WriteString(conn, msg); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len(msg))
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != msg {
			t.Fatalf("agent: %q, %v", answer, err)
		}
	}
	conn.Close()
	for range 20 { // one that says a word and hangs up
		if conn, err = c.Agent(t.Context(), "default"); err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(conn); err != nil || string(data) != "bye" {
			t.Fatalf("agent: %q, %v", data, err)
		}
		conn.Close()
	}
	out := c.Output(1)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if _, err := out.Write(big); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil || !bytes.Equal(got.Bytes(), big) {
		t.Errorf("output: %v, %d of %d bytes", err, got.Len(), len(big))
	}
	out = c.Output(2)
	if _, err := out.Write(big); err == nil || err.Error() != "write the output: no room" {
		t.Errorf("writing an output that cannot be written: %v", err)
	}
	if err := out.Close(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("an output that cannot be written: %v", err)
	}
	c.Event(build.Event{Kind: build.Logged, Data: []byte("hello\xff\n"), Stream: 1})
	c.End(nil, errors.New("it failed"), 3)
	if err := <-served; err != nil {
		t.Error(err)
	}
	if len(events) != 2 || string(events[0].Data) != "hello\xff\n" || events[1].Kind != wire.Ended || events[1].Error != "it failed" || events[1].Code != 3 {
		t.Errorf("events: %+v", events)
	}
}

// TestWhereItIsWrong: with what is wrong with a Dockerfile go its lines.
func TestWhereItIsWrong(t *testing.T) {
	var last wire.Event
	c, served := connect(t, &offer.Offer{Event: func(e wire.Event) { last = e }}, newFiles(t))
	_, err := dockerfile.Convert(t.Context(), []byte("FROM scratch\nEXPOSE \\\n  http\n"), nil, dockerfile.Options{})
	c.End(nil, fmt.Errorf("build: %w", err), 1)
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(last.Source, []graph.Range{{Start: 2, End: 3}}) || !strings.Contains(last.Error, "http") {
		t.Errorf("%+v", last)
	}
}

// TestGone: an end that goes ends what the other is doing.
func TestGone(t *testing.T) {
	here, there := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- (&offer.Offer{Event: func(wire.Event) {}}).Serve(ctx, here) }()
	c, err := NewClient(t.Context(), there, newFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Secret(t.Context(), "none"); !errs.NotFound.Is(err) {
		t.Fatal(err)
	}
	cancel()
	<-c.Context().Done()
	if err := context.Cause(c.Context()); !errs.Canceled.Is(err) {
		t.Errorf("the engine's end: %v", err)
	}
	if err := <-served; !errs.Canceled.Is(err) {
		t.Errorf("the command line's end: %v", err)
	}
	c.End(nil, errors.New("x"), 1) // does not hang

	here, there = net.Pipe()
	go func() { served <- (&offer.Offer{Event: func(wire.Event) {}}).Serve(t.Context(), here) }()
	if c, err = NewClient(t.Context(), there, newFiles(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Secret(t.Context(), "none"); !errs.NotFound.Is(err) {
		t.Fatal(err)
	}
	there.Close()
	if err := <-served; !errs.Unavailable.Is(err) {
		t.Errorf("after the engine went: %v", err)
	}
}

func TestFilesAreTrimmed(t *testing.T) {
	dir := t.TempDir()
	f, err := OpenFiles(dir, 25)
	if err != nil {
		t.Fatal(err)
	}
	put := func(s string, age time.Duration) source.Entry {
		e := source.Entry{Digest: toDigest(s)}
		if err := f.Put(e.Digest, strings.NewReader(s)); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-age)
		if err := os.Chtimes(f.path(e.Digest), when, when); err != nil {
			t.Fatal(err)
		}
		return e
	}
	old, mid, young := put("0123456789", time.Hour), put("abcdefghij", time.Minute), put("ABCDEFGHIJ", 0)
	if err := f.Put(toDigest("x"), strings.NewReader("y")); !errs.Invalid.Is(err) {
		t.Errorf("a content of another digest: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tmp", "torn"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err = OpenFiles(dir, 25); err != nil {
		t.Fatal(err)
	}
	if f.Has(old.Digest) || !f.Has(mid.Digest) || !f.Has(young.Digest) {
		t.Error("it was not the oldest that went")
	}
	if n, err := f.Size(); err != nil || n != 20 {
		t.Errorf("%d bytes, %v", n, err)
	}
	// One that is damaged is found, and goes.
	if err := os.WriteFile(f.path(mid.Digest), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := f.Open(mid.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
	r.Close()
	if f.Has(mid.Digest) {
		t.Error("a damaged file stays")
	}
	// So it is by who reads no more than the bytes that there should be.
	put("abcdefghij", 0)
	if err := os.WriteFile(f.path(mid.Digest), []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err = f.Open(mid.Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged file: %v", err)
	}
	r.Close()
	if n, err := f.Clear(); err != nil || n != 10 || f.Has(young.Digest) {
		t.Errorf("cleared %d, %v", n, err)
	}
}

func toDigest(s string) digest.Digest { return digest.FromString(s) }

func TestKindsHaveNames(t *testing.T) {
	for k := build.Planned; k <= build.Exporting; k++ {
		if FromBuild(build.Event{Kind: k, Err: errors.New("x")}).Kind == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
}
