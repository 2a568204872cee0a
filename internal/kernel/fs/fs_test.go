package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func testRoot(t *testing.T) (Root, string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(dir+"/root/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	r, err := OpenRoot(dir + "/root")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, dir
}

// where tells which path fd is, relative to dir.
func where(t *testing.T, fd int, dir string) string {
	t.Helper()
	p, err := os.Readlink("/proc/self/fd/" + string(appendInt(nil, fd)))
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	return strings.TrimPrefix(p, dir)
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

func TestTypeName(t *testing.T) {
	t.Parallel()
	for magic, want := range map[int64]string{0xef53: "extfs", 0x9123683e: "btrfs", -0x6edc97c2: "btrfs", 0x58465342: "xfs", 0x01021994: "tmpfs", 1: "unknown"} {
		if got := TypeName(magic); got != want {
			t.Errorf("%#x: %s, not %s", magic, got, want)
		}
	}
}

func TestMkdirAllStaysInside(t *testing.T) {
	for _, c := range []struct{ link, target, path, want string }{
		{"", "", "/a/b/c/d", "/root/a/b/c/d"},
		{"", "", "a//b/./c/", "/root/a/b/c"},
		{"", "", "/", "/root"},
		{"", "", "", "/root"},
		{"", "", "/../../x", "/root/x"},
		{"l", "/a", "/l/c", "/root/a/c"},
		{"l", "../../..", "/l/c", "/root/c"},
		{"l", "/new/place", "/l/c", "/root/new/place/c"},           // dangling
		{"a/l", "../../../new", "/a/l/c", "/root/new/c"},           // dangling, climbing
		{"a/b/l", "../x/y", "/a/b/l", "/root/a/x/y"},               // dangling, relative
		{"l", "/proc/self/root", "/l/c", "/root/proc/self/root/c"}, // no magic
	} {
		r, dir := testRoot(t)
		if c.link != "" {
			if err := os.Symlink(c.target, filepath.Join(dir, "root", c.link)); err != nil {
				t.Fatal(err)
			}
		}
		fd, err := r.MkdirAll(c.path, 0o755)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if got := where(t, fd, dir); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestMkdirAllRefuses(t *testing.T) {
	r, dir := testRoot(t)
	os.WriteFile(dir+"/root/file", nil, 0o644)
	os.Symlink("loop", dir+"/root/loop")
	os.Symlink("two/x", dir+"/root/one")
	os.Symlink("one/x", dir+"/root/two")
	for path, want := range map[string]unix.Errno{"/file/x": unix.ENOTDIR, "/file": unix.ENOTDIR, "/loop/x": unix.ELOOP, "/one/x": unix.ELOOP} {
		if fd, err := r.MkdirAll(path, 0o755); !errors.Is(err, want) {
			t.Errorf("%s: %d, %v; want %v", path, fd, err, want)
		}
	}
}

func TestCreateFile(t *testing.T) {
	r, dir := testRoot(t)
	os.Symlink("../run/resolve/stub.conf", dir+"/root/a/resolv.conf")
	os.Symlink("/../../outside", dir+"/root/a/out")
	os.Symlink("self", dir+"/root/self")
	for path, want := range map[string]string{
		"/a/file": "/root/a/file", "/new/dir/file": "/root/new/dir/file", "/a/resolv.conf": "/root/run/resolve/stub.conf", "/a/out": "/root/outside",
	} {
		fd, err := r.CreateFile(path, 0o644)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if got := where(t, fd, dir); got != want {
			t.Errorf("%s: %s", path, got)
		}
	}
	if _, err := r.CreateFile("/self", 0o644); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
}

func TestReadFile(t *testing.T) {
	r, dir := testRoot(t)
	os.WriteFile(dir+"/root/big", make([]byte, 10000), 0o644)
	os.WriteFile(dir+"/secret", []byte("host"), 0o644)
	os.Symlink(dir+"/secret", dir+"/root/link")
	unix.Mkfifo(dir+"/root/fifo", 0o644)
	if b, err := r.ReadFile("/big", 10000); err != nil || len(b) != 10000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for path, want := range map[string]unix.Errno{"/big": unix.EFBIG, "/link": unix.ENOENT, "/fifo": unix.EINVAL, "/a": unix.EINVAL} {
		if _, err := r.ReadFile(path, 100); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestProcIsBelievedOnlyWhereItIsProc(t *testing.T) {
	p, err := HostProc()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Read("self/stat", 4096); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
	if _, err := p.Read("../etc/passwd", 4096); !errors.Is(err, unix.EXDEV) {
		t.Errorf("out of it: %v", err)
	}
	if b, err := p.Read("version", 4096); err != nil || len(b) == 0 {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := (Proc{unix.AT_FDCWD}).Read("fs.go", 1<<20); !errors.Is(err, unix.EXDEV) {
		t.Errorf("another file system: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	q, err := NewProc()
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if b, err := q.Read("sys/kernel/ostype", 100); err != nil || string(b) != "Linux\n" {
		t.Errorf("%q, %v", b, err)
	}
}
