package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/kernel/fs"
)

func openRoot(t testing.TB, dir string) fs.Root {
	t.Helper()
	r, err := fs.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// TestExtractStaysInside: neither names nor links in the container or in the archive lead out of the root.
func TestExtractStaysInside(t *testing.T) {
	needRoot(t)
	outside := t.TempDir()
	secret := filepath.Join(outside, "secret")
	if err := os.WriteFile(secret, []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for link, target := range map[string]string{"abs": outside, "up": "../../../../../../.." + outside, "file": secret} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	evil := archive(t,
		file("../../x", "1"), file("abs/secret", "evil"), file("up/secret", "evil"), file("file", "evil"), symlink("made", outside), file("made/secret", "evil"),
		file("/etc/y", "1"))
	_ = Extract(t.Context(), bytes.NewReader(evil), openRoot(t, dir), "/", ExtractOptions{})
	for _, e := range []entry{file("abs/secret", "evil"), file("up/secret", "evil"), file("file", "evil"), hardlink("hard", "abs/secret"), hardlink("hard2", "../.."+secret), file("/etc/y", "1")} {
		_ = Extract(t.Context(), bytes.NewReader(archive(t, e)), openRoot(t, dir), "/", ExtractOptions{})
	}
	if b, err := os.ReadFile(secret); err != nil || string(b) != "s" {
		t.Fatalf("outside: %q, %v", b, err)
	}
	if names, _ := os.ReadDir(outside); len(names) != 1 {
		t.Fatalf("outside: %v", names)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "etc/y")); err != nil || string(b) != "1" {
		t.Errorf("inside: %q, %v", b, err)
	}
}

func TestExtractKeepsKinds(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "d/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range []entry{file("d", "x"), folder("d/sub/", 0o700)} {
		err := Extract(t.Context(), bytes.NewReader(archive(t, e)), openRoot(t, dir), "/", ExtractOptions{KeepKind: true})
		if (e.Typeflag == tar.TypeReg) != (err != nil) {
			t.Errorf("%s: %v", e.Name, err)
		}
	}
	if err := Extract(t.Context(), bytes.NewReader(archive(t, file("d", "x"))), openRoot(t, dir), "/", ExtractOptions{}); err != nil {
		t.Errorf("without the option a file takes the directory's place: %v", err)
	}
}

// FuzzExtract feeds archives to a root beside which there is something to reach.
func FuzzExtract(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root")
	}
	f.Add(archive(f, file("a", "1"), hardlink("b", "a"), symlink("c", "../x"), file("c/d", "1")))
	f.Add(archive(f, folder("d/", 0o700), file("../../e", "1"), device(tar.TypeChar, "n", 1, 3)))
	f.Fuzz(func(t *testing.T, data []byte) {
		top := t.TempDir()
		dir := filepath.Join(top, "root")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = Extract(t.Context(), bytes.NewReader(data), openRoot(t, dir), "/sub", ExtractOptions{Limits: Limits{Bytes: 1 << 20, Entries: 100}})
		if names, _ := os.ReadDir(top); len(names) != 1 {
			t.Fatalf("made outside of the root: %v", names)
		}
	})
}

func TestAbsoluteKeepsWhatIsAtTheEnd(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"": "/", ".": "/.", "/": "/", "a": "/a", "a/": "/a/", "/a/.": "/a/.", "../..": "/", "/a/../b/": "/b/", "/.": "/.", "a/./b": "/a/b",
	} {
		if got := absolute(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFollowStaysInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for link, target := range map[string]string{"up": "../../../etc", "abs": "/etc/x", "loop": "loop", "gone": "no/such"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	root := openRoot(t, dir)
	for in, want := range map[string]string{"/up": "/etc", "/abs": "/etc/x", "/gone": "/no/such", "/up/../a": "/a", "/x/y": "/x/y"} {
		if got := follow(root, in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	if got := follow(root, "/loop"); !strings.HasPrefix(got, "/") {
		t.Errorf("a loop: %s", got)
	}
}

// TestExtractMuch: what is copied into a container may be larger than what is unpacked between two looks at the disk.
func TestExtractMuch(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	if err := Extract(t.Context(), bytes.NewReader(archive(t, file("big", strings.Repeat("x", checkEvery+1)))), openRoot(t, dir), "/", ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "big")); err != nil || fi.Size() != checkEvery+1 {
		t.Errorf("%v, %v", fi, err)
	}
}
