package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// mounted mounts the container's overlay on a directory of the test.
func mounted(t *testing.T, s *Store, chain digest.Digest, container string) string {
	t.Helper()
	o, err := s.Overlay(chain, container)
	if err != nil {
		t.Fatal(err)
	}
	// Without the mark of containers: it is in no image.
	o.Lower = slices.DeleteFunc(o.Lower, func(d string) bool { return d == markDir })
	abs := func(dirs ...string) string {
		for i, d := range dirs {
			dirs[i] = filepath.Join(o.Base, d)
		}
		return strings.Join(dirs, ":")
	}
	data := "lowerdir=" + abs(slices.Clone(o.Lower)...)
	if container != "" {
		data += ",upperdir=" + abs(o.Upper) + ",workdir=" + abs(o.Work)
	} else {
		data += ":" + t.TempDir() // an overlay of one directory is none
	}
	dir := t.TempDir()
	if err := unix.Mount("overlay", dir, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// portrait lists a tree: everything that an image must keep of it, a line each.
func portrait(t *testing.T, root string) []string {
	t.Helper()
	first := map[inode]string{}
	var all []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		line := fmt.Sprintf("%q mode %o owner %d:%d", name, st.Mode, st.Uid, st.Gid)
		if name != "." {
			line += fmt.Sprintf(" time %d", st.Mtim.Sec)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d sum %x", st.Size, sha256.Sum256(b))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line += " to " + target
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d", st.Rdev)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			key := inode{st.Dev, st.Ino}
			if f, ok := first[key]; ok {
				line += " same as " + f
			} else {
				first[key] = name
			}
		}
		names, err := listXattrs(unix.AT_FDCWD, p[1:])
		if err != nil {
			fd, oerr := unix.Open(filepath.Dir(p), unix.O_PATH, 0)
			if oerr != nil {
				return oerr
			}
			names, err = listXattrs(fd, filepath.Base(p))
			unix.Close(fd)
		}
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, x := range names {
			if carried(x) {
				v := make([]byte, 64<<10)
				n, err := unix.Lgetxattr(p, x, v)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %s=%q", x, v[:n])
			}
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
		}
	}
}

// scramble changes the tree below root at random: everything that a container may do to its files.
func scramble(t *testing.T, r *rand.Rand, root string, steps int) {
	t.Helper()
	var paths []string // of what was there or was made; some are gone by the time they are used
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && p != root {
			paths = append(paths, p)
		}
		return nil
	})
	any := func() string {
		if len(paths) == 0 {
			return root
		}
		return paths[r.IntN(len(paths))]
	}
	dir := func() string {
		for range 10 {
			if p := any(); r.IntN(4) > 0 && strings.Count(p, "/")-strings.Count(root, "/") < 12 {
				if fi, err := os.Lstat(p); err == nil && fi.IsDir() {
					return p
				}
			}
		}
		return root
	}
	names := []string{"a", "b", "file", "Straße", "bad\xff\xfename", "with space", "new\nline", strings.Repeat("long", 60), ".hidden", "x=y", "wh", "日本"}
	fresh := func() string {
		return filepath.Join(dir(), fmt.Sprint(names[r.IntN(len(names))], r.IntN(40)))
	}
	content := func() []byte {
		b := make([]byte, r.IntN(3000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	for range steps {
		p := fresh()
		if fi, err := os.Lstat(p); err == nil && !fi.Mode().IsRegular() {
			continue // nothing is written into FIFOs and devices
		}
		switch r.IntN(16) {
		case 0, 1, 2:
			os.WriteFile(p, content(), os.FileMode(0o600+r.IntN(64)))
		case 3:
			os.Mkdir(p, 0o755)
		case 4:
			os.Symlink("../some/"+filepath.Base(p), p)
		case 5:
			if fi, err := os.Lstat(any()); err == nil && !fi.IsDir() {
				os.Link(any(), p)
			}
			os.Link(any(), p)
		case 6:
			unix.Mknod(p, unix.S_IFIFO|0o640, 0)
		case 7:
			unix.Mknod(p, unix.S_IFCHR|0o620, int(unix.Mkdev(1, 3)))
		case 8:
			unix.Mknod(p, unix.S_IFBLK|0o620, int(unix.Mkdev(7, uint32(r.IntN(500)))))
		case 9:
			if f, err := os.Create(p); err == nil {
				f.WriteAt(content(), int64(r.IntN(5))*100_000)
				f.Truncate(600_000)
				f.Close()
			}
		case 10:
			p = any()
			if _, err := os.Lstat(p); err != nil {
				continue // RemoveAll would open what has taken its parent's place: a FIFO, perhaps
			}
			os.RemoveAll(p)
			if r.IntN(2) == 0 {
				os.Mkdir(p, 0o711) // in the place of what was below: opaque
			}
		case 11:
			os.Rename(any(), p)
		case 12:
			os.Lchown(any(), r.IntN(3_000_000), r.IntN(100))
		case 13:
			q := any()
			if fi, err := os.Lstat(q); err == nil && fi.Mode()&os.ModeSymlink == 0 {
				unix.Chmod(q, uint32(r.IntN(0o10000))|0o400)
			}
		case 14:
			unix.Lsetxattr(any(), fmt.Sprint("user.x", r.IntN(3)), content()[:0:0], 0)
			unix.Lsetxattr(any(), fmt.Sprint("user.y", r.IntN(3)), []byte("v\x00\n="), 0)
			unix.Lsetxattr(any(), "trusted.z", []byte("t"), 0)
			acl := []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\x05\x00\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff")
			unix.Lsetxattr(any(), "system.posix_acl_access", acl, 0)
		case 15:
			tm := []unix.Timespec{{Sec: 1}, {Sec: int64(r.IntN(2_000_000_000)) - 10, Nsec: int64(r.IntN(1e9))}}
			unix.UtimesNanoAt(unix.AT_FDCWD, any(), tm, unix.AT_SYMLINK_NOFOLLOW)
		}
		paths = append(paths, p)
	}
}

// TestSnapshotKeepsEverything: containers change their files at random, layer upon layer; each layer
// unpacked from its archive elsewhere shows what the container showed.
func TestSnapshotKeepsEverything(t *testing.T) {
	a, _ := openStore(t, t.TempDir())
	b, _ := openStore(t, t.TempDir())
	la, lb := a.Lease(), b.Lease()
	r := rand.New(rand.NewPCG(5, 5))
	var chain digest.Digest
	for i := range 6 {
		id := fmt.Sprint("c", i)
		if err := a.CreateWritable(chain, id); err != nil {
			t.Fatal(err)
		}
		root := mounted(t, a, chain, id)
		steps := 400
		if i == 0 {
			steps = 5000
		}
		scramble(t, r, root, steps)
		if i == 3 {
			os.Chmod(root, 0o1750)
			unix.Setxattr(root, "user.root", []byte("1"), 0)
		}
		want := portrait(t, root)
		info, err := a.Snapshot(t.Context(), la, chain, id)
		if err != nil {
			t.Fatal(err)
		}
		same(t, fmt.Sprint("view of the new layer ", i), portrait(t, mounted(t, a, info.ChainID, "")), want)
		if sum := pull(t, a, info.DiffID); digest.FromBytes(sum) != info.DiffID {
			t.Fatal("the archive is another than was hashed")
		}
		got, err := b.Unpack(t.Context(), lb, chain, info.DiffID, func() (io.ReadCloser, error) { return a.OpenTar(t.Context(), info.DiffID) })
		if err != nil {
			t.Fatal(err)
		}
		if got.ChainID != info.ChainID || got.Size != info.Size {
			t.Errorf("unpacked %+v, made %+v", got, info)
		}
		same(t, fmt.Sprint("layer ", i, " unpacked elsewhere"), portrait(t, mounted(t, b, got.ChainID, "")), want)
		// The same changes make the same layer.
		again, err := a.Snapshot(t.Context(), la, chain, id)
		if err != nil || again != info {
			t.Fatalf("%+v, %v; before %+v", again, err, info)
		}
		n, err := a.TarSize(info.DiffID)
		if err != nil || n != int64(len(pull(t, a, info.DiffID))) {
			t.Errorf("size of the archive: %d, %v", n, err)
		}
		chain = info.ChainID
	}
	if left, _ := os.ReadDir(filepath.Join(a.base, "layers/tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func pull(t *testing.T, s *Store, diff digest.Digest) []byte {
	t.Helper()
	rc, err := s.OpenTar(t.Context(), diff)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestSnapshotOfNothingIsNoLayer(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	l := s.Lease()
	data := archive(t, folder("etc", 0o755), file("bin", "x"))
	i, err := s.Unpack(t.Context(), l, "", digest.FromBytes(data), source(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateWritable(i.ChainID, "c"); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, s, i.ChainID, "c")
	// What the engine puts there so that it can mount is not the container's doing.
	for _, f := range []string{".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf"} {
		if err := os.WriteFile(filepath.Join(root, f), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"dev", "proc", "sys"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Snapshot(t.Context(), l, i.ChainID, "c")
	if err != nil || got.DiffID != EmptyDiff || got.ChainID != i.ChainID {
		t.Fatalf("%+v, %v", got, err)
	}
	if c, err := s.Changes(i.ChainID, "c"); err != nil || len(c) != 0 {
		t.Fatalf("%v, %v", c, err)
	}
	var buf bytes.Buffer
	if err := Pack(t.Context(), &buf, mustOpen(t, t.TempDir()), PackOptions{}); err != nil || digest.FromBytes(buf.Bytes()) != EmptyDiff {
		t.Errorf("an empty archive has another digest than it should: %v", err)
	}
}

func mustOpen(t *testing.T, path string) int {
	t.Helper()
	fd, err := openDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestChanges(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	l := s.Lease()
	data := archive(t, folder("etc", 0o755), file("etc/passwd", "x"), file("etc/group", "x"), folder("var", 0o755), folder("var/lib", 0o755), file("var/lib/a", "1"), file("var/lib/b", "1"), folder("home", 0o755), file("home/h", "1"))
	i, err := s.Unpack(t.Context(), l, "", digest.FromBytes(data), source(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CreateWritable(i.ChainID, "c"); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, s, i.ChainID, "c")
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(os.WriteFile(root+"/etc/new", nil, 0o644))
	do(os.Remove(root + "/etc/group"))
	do(os.WriteFile(root+"/etc/passwd", []byte("y"), 0o644))
	do(os.RemoveAll(root + "/var/lib"))
	do(os.MkdirAll(root+"/var/lib/sub", 0o755))
	do(os.Chmod(root+"/home", 0o700))
	do(os.MkdirAll(root+"/opt/x", 0o755))
	do(os.WriteFile(root+"/etc/hosts", nil, 0o755))
	got, err := s.Changes(i.ChainID, "c")
	do(err)
	var text []string
	for _, c := range got {
		text = append(text, string("CAD"[c.Kind])+" "+c.Path)
	}
	want := "C /etc, D /etc/group, A /etc/new, C /etc/passwd, C /home, A /opt, A /opt/x, C /var, C /var/lib, D /var/lib/a, D /var/lib/b, A /var/lib/sub"
	if strings.Join(text, ", ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(text, ", "), want)
	}
}

// TestReservedNamesAreNotPacked: a file named as whiteouts are would be one in the archive, and delete another where that is unpacked.
func TestReservedNamesAreNotPacked(t *testing.T) {
	for _, name := range []string{".wh.etc", "d/.wh.f", "d/.wh.", ".wh..wh..opq"} {
		s, _ := openStore(t, t.TempDir())
		if err := s.CreateWritable("", "c"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(s.base, "containers/c/upper", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Snapshot(t.Context(), s.Lease(), "", "c"); !errs.Invalid.Is(err) || !strings.Contains(err.Error(), `"/`+name+`" cannot be in an image`) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamagedLayerIsNotHandedOut(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	if err := s.CreateWritable("", "c"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.base, "containers/c/upper/f"), []byte("good"), 0o644); err != nil {
		t.Fatal(err)
	}
	i, err := s.Snapshot(t.Context(), s.Lease(), "", "c")
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	dir := s.layers[i.ChainID].Dir
	s.mu.Unlock()
	if err := os.WriteFile(filepath.Join(s.base, "layers", dir, "f"), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	rc, err := s.OpenTar(t.Context(), i.DiffID)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.Copy(io.Discard, rc); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestImportLearnsTheDiffID(t *testing.T) {
	s, _ := openStore(t, t.TempDir())
	data := archive(t, folder("./", 0o750), file("a", "1"))
	i, err := s.Import(t.Context(), s.Lease(), bytes.NewReader(data))
	if err != nil || i.DiffID != digest.FromBytes(data) || i.ChainID != i.DiffID || i.Size != 1 {
		t.Fatalf("%+v, %v", i, err)
	}
	if _, err := s.Import(t.Context(), s.Lease(), strings.NewReader(strings.Repeat("no archive", 200))); err == nil {
		t.Error("nonsense was taken")
	}
}

// TestSnapshotCrash is what the child process of the next test does: it dies at the fail point.
func TestSnapshotCrash(t *testing.T) {
	root := os.Getenv("GANTRY_TEST_SNAPSHOT_ROOT")
	if root == "" {
		t.Skip("only as a child of TestSnapshotIsWholeOrNeverWas")
	}
	s, _ := openStore(t, root)
	if err := s.CreateWritable("", "c"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "containers/c/upper/f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Snapshot(t.Context(), s.Lease(), "", "c"); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotIsWholeOrNeverWas(t *testing.T) {
	needRoot(t)
	for _, point := range []string{"layer-copied", "layer-renamed"} {
		t.Run(point, func(t *testing.T) {
			root := t.TempDir()
			child := exec.Command(os.Args[0], "-test.run=^TestSnapshotCrash$")
			child.Env = append(os.Environ(), "GANTRY_TEST_SNAPSHOT_ROOT="+root, "GANTRY_FAILPOINT="+point)
			out, err := child.CombinedOutput()
			if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child did not die as it should: %v\n%s", err, out)
			}
			s, _ := openStore(t, root)
			if len(s.layers) != 0 {
				t.Errorf("records: %v", s.layers)
			}
			i, err := s.Snapshot(t.Context(), s.Lease(), "", "c")
			if err != nil || i.Size != 1 {
				t.Fatalf("%+v, %v", i, err)
			}
			if left, _ := os.ReadDir(filepath.Join(root, "layers/tmp")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
