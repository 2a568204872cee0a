package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// needRoot skips what makes owners, devices and trusted xattrs: on a laptop, never in CI.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

// entry is one of an archive; body is a regular file's content.
type entry struct {
	tar.Header
	body string
}

var noon = time.Date(2020, 1, 2, 12, 0, 0, 123456789, time.UTC)

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: noon}, body}
}
func folder(name string, mode int64) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, ModTime: noon}, ""}
}
func symlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: noon}, ""}
}
func hardlink(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: noon}, ""}
}
func device(kind byte, name string, major, minor int64) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor, ModTime: noon}, ""}
}
func withXattr(e entry, name, value string) entry {
	e.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return e
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// unpackTo unpacks into dir, which it makes, on top of the lower directories, topmost first.
func unpackTo(t testing.TB, dir string, data io.Reader, limits Limits, lower ...string) (Unpacked, error) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	target := Target{Limits: limits}
	for _, d := range append([]string{dir}, lower...) {
		fd, err := unix.Open(d, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if d == dir {
			target.Root = fd
		} else {
			target.Lower = append(target.Lower, fd)
		}
	}
	return Unpack(context.Background(), data, target)
}

// stack unpacks layers, bottom first, and returns their directories, topmost first.
func stack(t testing.TB, layers ...[]entry) []string {
	t.Helper()
	needRoot(t)
	root := t.TempDir()
	var dirs []string
	for n, l := range layers {
		dir := filepath.Join(root, fmt.Sprint(n))
		if _, err := unpackTo(t, dir, bytes.NewReader(archive(t, l...)), Limits{}, dirs...); err != nil {
			t.Fatalf("layer %d: %v", n, err)
		}
		dirs = append([]string{dir}, dirs...)
	}
	return dirs
}

// describe writes down everything of a tree that a layer keeps, one line a file.
func describe(t testing.TB, root string) []string {
	t.Helper()
	var lines []string
	inodes := map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", data[:min(len(data), 64)])
			line += fmt.Sprint(" ", len(data))
		case unix.S_IFLNK:
			target, _ := os.Readlink(path)
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" dev %d", st.Rdev)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first, ok := inodes[st.Ino]; ok {
				line += " = " + first
			} else {
				inodes[st.Ino] = rel
			}
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Llistxattr(path, buf)
		if err == nil {
			xs := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
			slices.Sort(xs)
			for _, x := range xs {
				if x == "" {
					continue
				}
				v := make([]byte, 1024)
				m, err := unix.Lgetxattr(path, x, v)
				if err != nil {
					return err
				}
				line += fmt.Sprintf(" %s=%q", x, v[:m])
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// randomTree makes a tree with everything that a file system may have.
func randomTree(t testing.TB, root string, r *rand.Rand) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	dirs := []string{root}
	var files []string
	name := func() string {
		switch r.IntN(8) {
		case 0:
			return strings.Repeat("long-name-", 12) + fmt.Sprint(r.IntN(1e6))
		case 1:
			return "not\xff\xfeUTF-8\n" + fmt.Sprint(r.IntN(1e6))
		case 2:
			return "ünï çødé " + fmt.Sprint(r.IntN(1e6))
		}
		return fmt.Sprint("f", r.IntN(1e9))
	}
	for range 60 {
		path := filepath.Join(dirs[r.IntN(len(dirs))], name())
		mode := uint32(r.IntN(0o10000))
		isLink := false
		switch k := r.IntN(10); {
		case k < 2:
			check(os.Mkdir(path, 0o700))
			dirs = append(dirs, path)
		case k < 3:
			check(os.Symlink([]string{"/etc/passwd", "../../..", "x", strings.Repeat("deep/", 40)}[r.IntN(4)], path))
			isLink = true
		case k < 4 && len(files) > 0:
			check(os.Link(files[r.IntN(len(files))], path))
			continue
		case k < 5:
			check(unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(1+r.IntN(300)), uint32(r.IntN(70000))))))
		case k < 6:
			check(unix.Mkfifo(path, 0o600))
		default:
			data := make([]byte, r.IntN(3000))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			if r.IntN(6) == 0 { // holes
				data = append(data, make([]byte, r.IntN(400<<10))...)
				data = append(data, "end"[:r.IntN(4)]...)
			}
			check(os.WriteFile(path, data, 0o600))
			if r.IntN(3) == 0 {
				check(unix.Lsetxattr(path, "user.note", []byte("x\x00y"), 0))
			}
			files = append(files, path)
		}
		check(os.Lchown(path, r.IntN(70000), r.IntN(70000)))
		if !isLink {
			check(unix.Chmod(path, mode))
			if r.IntN(5) == 0 {
				check(unix.Lsetxattr(path, "trusted.note", []byte("t"), 0))
			}
		}
		if r.IntN(6) == 0 && len(files) > 0 && files[len(files)-1] == path {
			// cap_net_raw+ep, version 2
			check(unix.Lsetxattr(path, "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
		}
		ts := []unix.Timespec{{Sec: r.Int64N(2e9)}, {Sec: r.Int64N(2e9), Nsec: r.Int64N(1e9)}}
		check(unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	for _, d := range dirs {
		check(unix.UtimesNanoAt(unix.AT_FDCWD, d, []unix.Timespec{{Sec: 1}, {Sec: r.Int64N(2e9), Nsec: 5}}, 0))
	}
}

// GNU tar is the other party: what it packs comes out as it was.
func TestUnpackIsTheInverseOfTar(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("needs tar")
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := t.TempDir()
			root := filepath.Join(dir, "tree")
			if err := os.Mkdir(root, 0o751); err != nil {
				t.Fatal(err)
			}
			randomTree(t, root, rand.New(rand.NewPCG(seed, 1)))
			args := []string{"--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", root, "-cf", "-", "."}
			if seed%2 == 1 {
				args = append([]string{"--sparse"}, args...)
			}
			packed, err := exec.Command("tar", args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(dir, "out")
			if _, err := unpackTo(t, out, bytes.NewReader(packed), Limits{}); err != nil {
				t.Fatal(err)
			}
			want, got := describe(t, root), describe(t, out)
			for i := range max(len(want), len(got)) {
				if i >= len(want) || i >= len(got) || want[i] != got[i] {
					t.Fatalf("line %d:\nwant %s\n got %s", i, at0(want, i), at0(got, i))
				}
			}
		})
	}
}

func at0(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "nothing"
}

func TestHostileArchives(t *testing.T) {
	needRoot(t)
	deep := strings.Repeat("d/", maxDepth+2) + "f"
	for _, c := range []struct {
		name    string
		entries []entry
		refused bool
		there   []string // after success: paths that exist in the layer
	}{
		{name: "dot dot", entries: []entry{file("../evil", "x")}, refused: true},
		{name: "dot dot inside", entries: []entry{file("a/../../evil", "x")}, refused: true},
		{name: "dot dot that stays", entries: []entry{file("a/../b", "x")}, there: []string{"b"}},
		{name: "absolute", entries: []entry{file("/etc/evil", "x")}, there: []string{"etc/evil"}},
		{name: "link out, then through it", entries: []entry{symlink("out", "../.."), file("out/evil", "x")}, there: []string{"evil"}},
		{name: "absolute link, then through it", entries: []entry{symlink("out", "/"), file("out/evil", "x")}, there: []string{"evil"}},
		{name: "link to canary's folder", entries: []entry{symlink("out", "../canary"), file("out/evil", "x")}, there: []string{"canary/evil"}},
		{name: "magic link", entries: []entry{symlink("out", "/proc/self/cwd"), file("out/evil", "x")}, there: []string{"proc/self/cwd/evil"}},
		{name: "link loop", entries: []entry{symlink("a", "b"), symlink("b", "a"), file("a/evil", "x")}, refused: true},
		{name: "link replaced by file of its name", entries: []entry{symlink("f", "../canary/c"), file("f", "x")}, there: []string{"f"}},
		{name: "folder replaced by link, then through it", entries: []entry{folder("d", 0o755), file("d/f", "x"), symlink("d", "../canary"), file("d/evil", "x")}, there: []string{"canary/evil"}},
		{name: "hard link out", entries: []entry{hardlink("h", "../canary/c")}, refused: true},
		{name: "hard link through a link", entries: []entry{symlink("out", "../canary"), hardlink("h", "out/c")}, refused: true},
		{name: "hard link to nothing", entries: []entry{hardlink("h", "nothing")}, refused: true},
		{name: "hard link to a folder", entries: []entry{folder("d", 0o755), hardlink("h", "d")}, refused: true},
		{name: "hard link to the root", entries: []entry{hardlink("h", ".")}, refused: true},
		{name: "hard link to a link, then through it", entries: []entry{symlink("l", "../canary"), hardlink("h", "l"), file("h/evil", "x")}, there: []string{"canary/evil"}},
		{name: "hard link to itself", entries: []entry{file("f", "x"), hardlink("f", "f")}, there: []string{"f"}},
		{name: "hard link in place of its target's folder", entries: []entry{file("d/f", "x"), hardlink("d", "d/f")}, refused: true},
		{name: "file as parent", entries: []entry{file("f", "x"), file("f/g", "x")}, refused: true},
		{name: "root as a file", entries: []entry{file(".", "x")}, refused: true},
		{name: "root as a link", entries: []entry{symlink(".", "../canary")}, refused: true},
		{name: "whiteout of dot", entries: []entry{file(".wh..", "")}, refused: true},
		{name: "whiteout of dot dot", entries: []entry{file(".wh...", "")}, refused: true},
		{name: "whiteout of nothing", entries: []entry{file(".wh.", "")}, refused: true},
		{name: "whiteout as a folder", entries: []entry{file(".wh.d/f", "")}, refused: true},
		{name: "AUFS metadata", entries: []entry{file(".wh..wh.plnk/1.2", "x"), file("f", "x")}, there: []string{"f"}},
		{name: "bad owner", entries: []entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", Uid: 1<<32 - 1}, ""}}, refused: true},
		{name: "negative owner", entries: []entry{{tar.Header{Typeflag: tar.TypeReg, Name: "f", Gid: -1}, ""}}, refused: true},
		{name: "too deep", entries: []entry{file(deep, "x")}, refused: true},
		{name: "name too long", entries: []entry{file(strings.Repeat("n", 300), "x")}, refused: true},
		{name: "path too long", entries: []entry{file(strings.Repeat("nnnnnnnnn/", 410)+"n", "x")}, refused: true},
		{name: "overlay's own xattr", entries: []entry{withXattr(folder("d", 0o755), "trusted.overlay.redirect", "/canary"), withXattr(file("f", "x"), "trusted.overlay.metacopy", "")}, there: []string{"d", "f"}},
		{name: "device 0/0 with nothing below", entries: []entry{device(tar.TypeChar, "null", 0, 0)}},
		{name: "unknown type", entries: []entry{{tar.Header{Typeflag: 'Z', Name: "f"}, ""}}, refused: true},
		{name: "duplicates", entries: []entry{file("a", "1"), folder("a", 0o755), file("a/b", "2"), symlink("a", "x"), file("a", "3")}, there: []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "canary"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "canary", "c"), []byte("alive"), 0o644); err != nil {
				t.Fatal(err)
			}
			before := describe(t, filepath.Join(dir, "canary"))
			out := filepath.Join(dir, "out")
			_, err := unpackTo(t, out, bytes.NewReader(archive(t, c.entries...)), Limits{})
			if c.refused && !errs.Invalid.Is(err) || !c.refused && err != nil {
				t.Fatalf("got %v", err)
			}
			for _, p := range c.there {
				if _, err := os.Lstat(filepath.Join(out, p)); err != nil {
					t.Error(err)
				}
			}
			if after := describe(t, filepath.Join(dir, "canary")); !slices.Equal(before, after) {
				t.Errorf("outside changed: %q", after)
			}
			if names, _ := os.ReadDir(dir); len(names) != 2 {
				t.Errorf("outside has %v", names)
			}
			for _, line := range describe(t, out) {
				if strings.Contains(line, "overlay") {
					t.Errorf("reserved xattr set: %s", line)
				}
			}
		})
	}
}

func TestLimitsHold(t *testing.T) {
	needRoot(t)
	data := archive(t, file("a", "12345678"), file("b", "12345678"))
	for _, l := range []Limits{{Bytes: 15}, {Entries: 1}} {
		if _, err := unpackTo(t, filepath.Join(t.TempDir(), "out"), bytes.NewReader(data), l); !errs.Invalid.Is(err) {
			t.Errorf("%+v: got %v", l, err)
		}
	}
	if _, err := unpackTo(t, filepath.Join(t.TempDir(), "out"), bytes.NewReader(data), Limits{Bytes: 1 << 20, Entries: 2}); err != nil {
		t.Error(err)
	}
	body := bytes.Index(data, []byte("12345678"))
	for _, n := range []int{1, 100, body - 100, body, body + 4} {
		if _, err := unpackTo(t, filepath.Join(t.TempDir(), "out"), bytes.NewReader(data[:n]), Limits{}); !errs.Invalid.Is(err) {
			t.Errorf("cut at %d: got %v", n, err)
		}
	}
}

// inOverlay mounts the layers as a container would see them, in a mount namespace that ends with fn.
func inOverlay(t *testing.T, dirs []string, fn func(root string)) {
	t.Helper()
	upper, work, merged := t.TempDir(), t.TempDir(), t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, and its mounts with it, end with the goroutine
		defer close(done)
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			done <- err
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			done <- err
			return
		}
		opts := "lowerdir=" + strings.Join(dirs, ":") + ",upperdir=" + upper + ",workdir=" + work
		if err := unix.Mount("overlay", merged, "overlay", 0, opts); err != nil {
			done <- fmt.Errorf("mount overlay: %w", err)
			return
		}
		fn(merged)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// list names what a tree shows, with the content of files, the way a program in the container sees it.
func list(t *testing.T, root string) []string {
	t.Helper()
	var got []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		switch {
		case rel == ".":
		case d.IsDir():
			got = append(got, rel+"/")
		case d.Type() == fs.ModeSymlink:
			target, _ := os.Readlink(path)
			got = append(got, rel+"->"+target)
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			got = append(got, rel+"="+string(data))
		default:
			got = append(got, rel+" "+d.Type().String())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return got
}

func TestStackedLayersShowWhatTheArchivesSay(t *testing.T) {
	needRoot(t)
	base := []entry{
		folder("etc", 0o755), file("etc/a", "1"), file("etc/b", "1"), folder("d", 0o755), file("d/x", "1"), folder("d/sub", 0o755), file("d/sub/y", "1"),
		folder("usr", 0o755), folder("usr/lib", 0o755), file("usr/lib/l", "1"), symlink("lib", "usr/lib"),
	}
	for _, c := range []struct {
		name   string // no commas: it becomes part of a mount option
		layers [][]entry
		want   []string
	}{
		{"whiteout of a file", [][]entry{{file("etc/.wh.a", "")}},
			[]string{"d/", "d/sub/", "d/sub/y=1", "d/x=1", "etc/", "etc/b=1", "lib->usr/lib", "usr/", "usr/lib/", "usr/lib/l=1"}},
		{"whiteout of folders", [][]entry{{file(".wh.d", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"etc/", "etc/a=1", "etc/b=1"}},
		{"whiteout then anew", [][]entry{{file(".wh.d", ""), folder("d", 0o755), file("d/z", "2"), file(".wh.usr", ""), file(".wh.lib", ""), file(".wh.etc", "")}},
			[]string{"d/", "d/z=2"}},
		{"anew then whiteout", [][]entry{{folder("d", 0o755), file("d/z", "2"), file(".wh.d", ""), file(".wh.usr", ""), file(".wh.lib", ""), file(".wh.etc", "")}},
			[]string{"d/", "d/z=2"}},
		{"whiteout then into it without its entry", [][]entry{{file(".wh.d", ""), file("d/z", "2"), file(".wh.usr", ""), file(".wh.lib", ""), file(".wh.etc", "")}},
			[]string{"d/", "d/z=2"}},
		{"whiteout beside its file", [][]entry{{file("etc/a", "2"), file("etc/.wh.a", ""), file(".wh.d", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"etc/", "etc/a=2", "etc/b=1"}},
		{"opaque first", [][]entry{{folder("d", 0o755), file("d/.wh..wh..opq", ""), file("d/n", "2"), file(".wh.etc", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"d/", "d/n=2"}},
		{"opaque last", [][]entry{{folder("d", 0o755), file("d/n", "2"), file("d/sub/m", "2"), file("d/.wh..wh..opq", ""), file(".wh.etc", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"d/", "d/n=2", "d/sub/", "d/sub/m=2"}},
		{"opaque root", [][]entry{{file(".wh..wh..opq", ""), file("n", "2")}}, []string{"n=2"}},
		{"whiteouts of what is not there", [][]entry{{file(".wh.no", ""), folder("new", 0o755), file("new/.wh.x", ""), device(tar.TypeChar, "new/y", 0, 0), file(".wh.etc", ""), file(".wh.usr", ""), file(".wh.lib", ""), file(".wh.d", "")}},
			[]string{"new/"}},
		{"through a lower link", [][]entry{{file("lib/m", "2"), file("lib/.wh.l", ""), file(".wh.etc", ""), file(".wh.d", "")}},
			[]string{"lib->usr/lib", "usr/", "usr/lib/", "usr/lib/m=2"}},
		{"a folder in place of a lower link", [][]entry{{file("lib/m", "2"), folder("lib", 0o755), file("lib/k", "2"), file(".wh.etc", ""), file(".wh.d", "")}},
			[]string{"lib/", "lib/k=2", "usr/", "usr/lib/", "usr/lib/l=1", "usr/lib/m=2"}},
		{"file in place of a folder and back", [][]entry{{file("d", "2")}, {folder("d", 0o755), file("d/n", "3"), file(".wh.etc", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"d/", "d/n=3"}},
		{"hard link to a lower file", [][]entry{{hardlink("etc/h", "etc/a"), file(".wh.d", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"etc/", "etc/a=1", "etc/b=1", "etc/h=1"}},
		{"deleted and hard linked above", [][]entry{{file("etc/.wh.a", ""), file("etc/.wh.b", "")}, {file("etc/c", "3"), hardlink("etc/a", "etc/c"), file(".wh.d", ""), file(".wh.usr", ""), file(".wh.lib", "")}},
			[]string{"etc/", "etc/a=3", "etc/c=3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dirs := stack(t, append([][]entry{base}, c.layers...)...)
			var got []string
			inOverlay(t, dirs, func(root string) { got = list(t, root) })
			if !slices.Equal(got, c.want) {
				t.Errorf("\n got %v\nwant %v", got, c.want)
			}
		})
	}
}

func TestOmittedParentsAreAsBelow(t *testing.T) {
	private := folder("home", 0o700)
	private.Uid, private.Gid = 1000, 1001
	dirs := stack(t, []entry{private, file("home/old", "1"), file("tmp/x", "")}, []entry{file("home/new", "2"), file("other/new", "2")})
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dirs[0], "home"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Mode&0o7777 != 0o700 || st.Uid != 1000 || st.Gid != 1001 || st.Mtim.Sec != noon.Unix() {
		t.Errorf("home: %o %d:%d %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
	}
	if err := unix.Stat(filepath.Join(dirs[0], "other"), &st); err != nil || st.Mode&0o7777 != 0o755 || st.Uid != 0 {
		t.Errorf("other: %o %d, %v", st.Mode, st.Uid, err)
	}
	if _, err := unpackTo(t, filepath.Join(t.TempDir(), "o"), bytes.NewReader(archive(t, hardlink("h", "gone"))), Limits{}, dirs...); !errs.Invalid.Is(err) {
		t.Errorf("got %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	needRoot(f)
	f.Add(archive(f, file("a", "x"), symlink("l", "../.."), file("l/b", "y"), hardlink("h", "a"), file(".wh.etc", ""), file("etc/c", "")))
	f.Add(archive(f, folder("d", 0o755), file("d/.wh..wh..opq", ""), hardlink("e", "etc/passwd"), device(tar.TypeChar, "n", 1, 3)))
	f.Add(archive(f, file("lib/x", "1"), symlink("lib", "/"), file("lib/../y", ""), withXattr(file("f", ""), "user.a", "b")))
	lower := filepath.Join(f.TempDir(), "lower")
	if _, err := unpackTo(f, lower, bytes.NewReader(archive(f, file("etc/passwd", "root"), symlink("lib", "etc"), folder("d", 0o755), file("d/e/f", "1"))), Limits{}); err != nil {
		f.Fatal(err)
	}
	below := describe(f, lower)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		unpackTo(t, filepath.Join(dir, "out"), bytes.NewReader(data), Limits{Bytes: 1 << 20, Entries: 1000}, lower)
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("outside has %v", names)
		}
		if after := describe(t, lower); !slices.Equal(below, after) {
			t.Errorf("the lower layer changed: %q", after)
		}
	})
}
