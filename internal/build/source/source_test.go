package source

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		data := ""
		if h.Typeflag == 0 {
			h.Typeflag, data = tar.TypeReg, "data of "+h.Name
			h.Size = int64(len(data))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, data)
	}
	w.Close()
	return b.Bytes()
}

func content(t *testing.T, tr Tree, name string) string {
	t.Helper()
	r, err := NewFiles(tr).Open(t.Context(), name)
	if err != nil {
		return err.Error()
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func TestReadArchive(t *testing.T) {
	t.Parallel()
	plain := archive(t, tar.Header{Name: "b/c"}, tar.Header{Name: "./a", Uid: 5, Gid: 6}, tar.Header{Name: "b/link", Typeflag: tar.TypeSymlink, Linkname: "c"},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "a"}, tar.Header{Name: "/abs"}, tar.Header{Name: "b-d"})
	var gz, x bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(plain)
	z.Close()
	xw, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	xw.Write(plain)
	xw.Close()
	for how, packed := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "xz": x.Bytes()} {
		a, err := ReadArchive(t.Context(), bytes.NewReader(packed), t.TempDir(), Limits{})
		if err != nil {
			t.Fatalf("%s: %v", how, err)
		}
		defer a.Close()
		var names []string
		for _, e := range a.Entries() {
			names = append(names, e.Path)
			if e.UID != 0 || e.GID != 0 {
				t.Errorf("%s belongs to %d:%d", e.Path, e.UID, e.GID)
			}
		}
		if want := []string{"a", "abs", "b", "b/c", "b/link", "b-d", "hard"}; !slices.Equal(names, want) {
			t.Errorf("%s: names are %v, not %v", how, names, want)
		}
		if !slices.IsSortedFunc(names, Compare) {
			t.Errorf("%v is not sorted", names)
		}
		f := NewFiles(a)
		hard, err := f.Find("hard")
		if err != nil {
			t.Fatal(err)
		}
		if first, _ := f.Find("a"); hard.Inode != first.Inode || hard.Inode == [2]uint64{} || hard.Digest != digest.FromString("data of ./a") {
			t.Errorf("the hard link is %+v, what it leads to %+v", hard, first)
		}
		if got := content(t, a, "b/c"); got != "data of b/c" {
			t.Errorf("b/c holds %q", got)
		}
		if _, err := f.Find("b/link/x"); err == nil {
			t.Error("a file has something in it")
		}
		if _, err := f.Find("nosuch"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what is not there is %v", err)
		}
		if e, err := f.Find("b/../b/./c"); err != nil || e.Path != "b/c" {
			t.Errorf("%v, %v", e, err)
		}
	}
}

// TestUntar: what begins as an archive does is one, also if it is cut off; only then is an error told instead of a file copied.
func TestUntar(t *testing.T) {
	t.Parallel()
	plain := archive(t, tar.Header{Name: "a"}, tar.Header{Name: "b"})
	packed := func(data []byte) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		z.Write(data)
		z.Close()
		return b.Bytes()
	}
	damaged := packed(plain)
	damaged[len(damaged)-5] ^= 1
	for _, c := range []struct {
		name string
		data []byte
		is   bool
		end  error
	}{
		{"plain", plain, true, nil},
		{"packed", packed(plain), true, nil},
		{"cut off", packed(plain)[:len(packed(plain))-10], true, io.ErrUnexpectedEOF},
		{"damaged", damaged, true, gzip.ErrChecksum},
		{"a packed file", packed([]byte("hello")), false, nil},
		{"cut off before its first header", packed(plain)[:20], false, nil},
		{"a file", []byte("hello"), false, nil},
		{"nothing", nil, false, nil},
	} {
		r, is, err := Untar(bytes.NewReader(c.data))
		if err != nil || is != c.is {
			t.Errorf("%s: %v, %v", c.name, is, err)
		}
		if !is {
			continue
		}
		got, err := io.ReadAll(r)
		if !errors.Is(err, c.end) || !bytes.HasPrefix(plain, got) || c.end == nil && len(got) != len(plain) {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
		r.Close()
	}
}

func TestArchiveBounds(t *testing.T) {
	t.Parallel()
	for _, l := range []Limits{{Bytes: 10}, {Entries: 1}} {
		_, err := ReadArchive(t.Context(), bytes.NewReader(archive(t, tar.Header{Name: "a"}, tar.Header{Name: "b"})), t.TempDir(), l)
		if !errs.Invalid.Is(err) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	// Zeros take no room, and are there.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "zeros", Mode: 0o644, Size: 1 << 20, Typeflag: tar.TypeReg})
	w.Write(make([]byte, 1<<20))
	w.Close()
	a, err := ReadArchive(t.Context(), &b, t.TempDir(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got := content(t, a, "zeros"); got != string(make([]byte, 1<<20)) {
		t.Errorf("%d bytes came back", len(got))
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	list := []string{"a", "a/b", "a/b/c", "a/c", "a-b", "a.b", "ab"}
	for i, x := range list {
		for j, y := range list {
			if c := Compare(x, y); c < 0 != (i < j) || c == 0 != (i == j) {
				t.Errorf("Compare(%q, %q) is %d", x, y, c)
			}
		}
	}
}

func TestFetchHTTP(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/named":
			w.Header().Set("Content-Disposition", `attachment; filename="../other.txt"`)
		case r.URL.Path == "/private" && r.Header.Get("Authorization") != "token x":
			http.Error(w, "no", http.StatusForbidden)
			return
		case r.URL.Path == "/missing":
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, "hello")
	}))
	defer s.Close()
	f := NewFetcher(t.TempDir())
	sum := digest.FromString("hello")
	for _, c := range []struct {
		op   graph.HTTP
		auth string
		name string // or the error
	}{
		{graph.HTTP{URL: s.URL + "/file.txt"}, "", "file.txt"},
		{graph.HTTP{URL: s.URL + "/file.txt", Filename: "x", Checksum: sum}, "", "x"},
		{graph.HTTP{URL: s.URL + "/named"}, "", "other.txt"},
		{graph.HTTP{URL: s.URL + "/"}, "", "download"},
		{graph.HTTP{URL: s.URL + "/private"}, "token x", "private"},
		{graph.HTTP{URL: s.URL + "/private"}, "", "invalid response status 403"},
		{graph.HTTP{URL: s.URL + "/missing"}, "", "invalid response status 404"},
		{graph.HTTP{URL: s.URL + "/a", Checksum: digest.FromString("other")}, "", "digest mismatch"},
	} {
		a, err := f.HTTP(t.Context(), &c.op, c.auth, nil)
		if err != nil {
			if !strings.Contains(err.Error(), c.name) {
				t.Errorf("%+v: %v", c.op, err)
			}
			continue
		}
		e := a.Entries()[0]
		if e.Path != c.name || e.Digest != sum || content(t, a, c.name) != "hello" || e.Mode != 0o100600 {
			t.Errorf("%+v made %+v", c.op, e)
		}
		a.Close()
	}
}

func TestFetchGit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git here")
	}
	repo := t.TempDir()
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", repo, "-c", "user.name=x", "-c", "user.email=x@y"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	if err := os.MkdirAll(filepath.Join(repo, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(filepath.Join(repo, "sub", "f"), []byte("one"), 0o644)
	os.Symlink("f", filepath.Join(repo, "sub", "l"))
	git("add", ".")
	git("commit", "-q", "-m", "one")
	first := git("rev-parse", "HEAD")
	git("tag", "v1")
	os.WriteFile(filepath.Join(repo, "sub", "f"), []byte("two"), 0o755)
	git("commit", "-q", "-am", "two")
	f := NewFetcher(t.TempDir())
	for _, c := range []struct {
		op   graph.Git
		file string
		want string // content or error
	}{
		{graph.Git{Remote: repo}, "sub/f", "two"},
		{graph.Git{Remote: repo, Ref: "main", Subdir: "sub"}, "l/../f", "two"},
		{graph.Git{Remote: repo, Ref: "v1"}, "sub/f", "one"},
		{graph.Git{Remote: repo, Ref: first}, "sub/f", "one"},
		{graph.Git{Remote: repo, Ref: "v1", Checksum: first[:12]}, "sub/f", "one"},
		{graph.Git{Remote: repo, Ref: "main", Checksum: first[:12]}, "", "expected checksum to match"},
		{graph.Git{Remote: repo, Ref: "nosuch"}, "", "failed to fetch remote"},
		{graph.Git{Remote: repo, Subdir: "../.."}, "sub/f", "two"},
		{graph.Git{Remote: repo, Subdir: "nosuch"}, "", "invalid subdir"},
		{graph.Git{Remote: "--upload-pack=x"}, "", "bad address"},
		{graph.Git{Remote: "ext::sh -c true"}, "", "failed to fetch"},
	} {
		a, err := f.Git(context.Background(), &c.op, GitAuth{}, nil)
		if err != nil {
			if c.file != "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v: %v", c.op, err)
			}
			continue
		}
		if _, err := NewFiles(a).Find(".git"); err == nil {
			t.Errorf("%+v brought .git along", c.op)
		}
		if got := content(t, a, c.file); got != c.want && !strings.Contains(c.file, "..") {
			t.Errorf("%+v: %s is %q", c.op, c.file, got)
		}
		a.Close()
	}
}

// FuzzReadArchive: whatever comes, it ends, and what it gives is a tree.
func FuzzReadArchive(f *testing.F) {
	f.Add(archive(f, tar.Header{Name: "a/b"}, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	f.Add(archive(f, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "h"}))
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte{0xfd, '7', 'z', 'X', 'Z', 0, 0, 4})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ReadArchive(t.Context(), bytes.NewReader(data), dir, Limits{Bytes: 1 << 20, Entries: 1000})
		if err != nil {
			return
		}
		defer a.Close()
		files := NewFiles(a)
		for _, e := range a.Entries() {
			up, _ := split(e.Path)
			if up != "" {
				if p := files.byPath[up]; p == nil || !p.IsDir() {
					t.Fatalf("%q is in %v", e.Path, p)
				}
			}
			if e.Path != strings.Trim(e.Path, "/") || strings.Contains("/"+e.Path+"/", "/../") {
				t.Fatalf("bad path %q", e.Path)
			}
			files.Find(e.Path + "/x")
		}
	})
}
