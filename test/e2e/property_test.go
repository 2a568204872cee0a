//go:build e2e

package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// These tests send a tree of many odd files on all ways in and out of containers and images, and compare what comes out with
// what went in: modes, owners, times, extended attributes, ACLs, hard links, holes, devices, long names and names
// that are no UTF-8. The tree is made of a seed; GANTRY_SEED takes another one.

// oddFiles is how many there are: 5,000, and 100,000 where time does not matter (make soak).
func oddFiles() int {
	if os.Getenv("GANTRY_SOAK") != "" {
		return 100_000
	}
	return 5_000
}

func seed(t *testing.T) uint64 {
	n := uint64(20260101)
	if s := os.Getenv("GANTRY_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("GANTRY_SEED=%d", n)
	return n
}

// facts are a file, so that two that are equal are equal in everything; of a directory, what is in it has entries of its own.
type facts struct {
	kind  byte
	mode  int64
	owner string
	time  int64
	text  string // content's digest, where a link leads, a device's numbers
	attrs string // extended attributes, ACLs among them
	links string // all names of the file, where it has several
}

// listing reads what an archive holds below prefix, by the path from there.
func listing(t *testing.T, r io.Reader, prefix string) map[string]facts {
	t.Helper()
	all := map[string]facts{}
	first := map[string]string{} // a hard link's target
	groups := map[string][]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("read an archive: %v", err)
		}
		name, inside := strings.CutPrefix(strings.Trim(strings.TrimPrefix(h.Name, "./"), "/"), prefix+"/")
		if !inside {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			target := strings.TrimPrefix(strings.Trim(strings.TrimPrefix(h.Linkname, "./"), "/"), prefix+"/")
			first[name] = target
			groups[target] = append(groups[target], name)
			continue
		}
		f := facts{kind: h.Typeflag, mode: h.Mode & 0o7777, owner: fmt.Sprint(h.Uid, ":", h.Gid), time: h.ModTime.Unix()}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, tr); err != nil {
				t.Fatal(err)
			}
			f.text = fmt.Sprint(h.Size, " ", hex.EncodeToString(sum.Sum(nil)[:8]))
		case tar.TypeSymlink:
			f.mode, f.text = 0, h.Linkname
		case tar.TypeChar, tar.TypeBlock:
			f.text = fmt.Sprint(h.Devmajor, ":", h.Devminor)
		}
		var attrs []string
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				attrs = append(attrs, fmt.Sprintf("%s=%x", name, v))
			}
		}
		slices.Sort(attrs)
		f.attrs = strings.Join(attrs, " ")
		all[name] = f
	}
	for target, names := range groups {
		names = append(names, target)
		slices.Sort(names)
		f, ok := all[target]
		if !ok {
			t.Errorf("hard links %q lead to %q, which is not there", names, target)
		}
		f.links = strings.Join(names, "\x00")
		for _, n := range names {
			all[n] = f
		}
	}
	return all
}

// same reports the first differences.
func same(t *testing.T, way string, got, want map[string]facts) {
	t.Helper()
	bad := 0
	for _, name := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[name]
		if ok && g == want[name] {
			continue
		}
		if bad++; bad > 10 {
			break
		}
		if !ok {
			t.Errorf("%s: %q is missing: %+v", way, name, want[name])
		} else {
			t.Errorf("%s: %q is %+v, was %+v", way, name, g, want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			if bad++; bad > 20 {
				break
			}
			t.Errorf("%s: there is %q: %+v", way, name, got[name])
		}
	}
	if bad > 0 {
		t.Errorf("%s: of %d files, %d came out", way, len(want), len(got))
	}
}

// acl is an access control list as the kernel keeps it (linux/posix_acl_xattr.h): the owner's, one user's, the group's, the mask's and others' rights.
func acl(mode int64, user uint32) string {
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, uint32(2))
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, uint16(mode >> 6 & 7), ^uint32(0)}, {2, 5, user}, {4, 4, ^uint32(0)}, {16, uint16(mode >> 3 & 7), ^uint32(0)}, {32, uint16(mode & 7), ^uint32(0)}} {
		binary.Write(&b, binary.LittleEndian, e)
	}
	return b.String()
}

// oddTree writes an archive of n files below p/.
func oddTree(t *testing.T, w io.Writer, n int, r *rand.Rand) {
	t.Helper()
	buf := bufio.NewWriterSize(w, 1<<20)
	tw := tar.NewWriter(buf)
	at := time.Unix(1_600_000_000, 0)
	put := func(h *tar.Header, data []byte) {
		h.Format, h.Size = tar.FormatPAX, int64(len(data))
		if h.ModTime.IsZero() {
			h.ModTime = at.Add(time.Duration(r.IntN(100_000_000)) * time.Second)
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatalf("%q: %v", h.Name, err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	put(&tar.Header{Name: "p/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	dirs := []string{"p/"}
	var regular []string
	owner := func(h *tar.Header) *tar.Header {
		switch r.IntN(4) {
		case 0:
			h.Uid, h.Gid = r.IntN(70_000), r.IntN(70_000)
		case 1:
			h.Uid, h.Gid = 1000, 100
		}
		return h
	}
	name := func(i int) string {
		s := strconv.Itoa(i)
		switch r.IntN(12) {
		case 0:
			s += strings.Repeat("long", 50) // 255 are allowed
		case 1:
			s += "\xff\xfe not UTF-8 \x80"
		case 2:
			s += " with spaces, ünïcödé, \"quotes\", back\\slash\tand tab\nand newline"
		case 3:
			s = "-" + s
		case 4:
			s = ".wh" + s // a whiteout's begins with .wh. only
		}
		return dirs[r.IntN(len(dirs))] + s
	}
	for i := range n {
		h := owner(&tar.Header{Name: name(i), PAXRecords: map[string]string{}})
		mode := int64(r.IntN(0o1000))
		switch k := r.IntN(100); {
		case k < 12:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
			h.Mode = mode | 0o700
			if r.IntN(4) == 0 {
				h.Mode |= 0o3000 // set-group-ID, sticky
			}
			if r.IntN(6) == 0 {
				h.PAXRecords["SCHILY.xattr.user.dir"] = "of a directory"
				h.PAXRecords["SCHILY.xattr.system.posix_acl_default"] = acl(0o750, 1234)
			}
			put(h, nil)
			if len(h.Name) < 3000 {
				dirs = append(dirs, h.Name)
			}
		case k < 20:
			h.Typeflag, h.Linkname = tar.TypeSymlink, []string{"/etc/passwd", "../..", "dangling \xff", strings.Repeat("x/", 400) + "y"}[r.IntN(4)]
			h.PAXRecords = nil
			put(h, nil)
		case k < 28 && len(regular) > 0:
			put(&tar.Header{Name: h.Name, Typeflag: tar.TypeLink, Linkname: regular[r.IntN(len(regular))], ModTime: at}, nil)
		case k < 30:
			h.Typeflag, h.Mode = tar.TypeFifo, mode
			put(h, nil)
		case k < 32:
			h.Typeflag, h.Mode, h.Devmajor, h.Devminor = tar.TypeChar, mode, 1, int64(1+r.IntN(300)) // never 0:0, a whiteout
			if r.IntN(2) == 0 {
				h.Typeflag, h.Devmajor = tar.TypeBlock, 7
			}
			put(h, nil)
		default:
			h.Typeflag, h.Mode = tar.TypeReg, mode
			if r.IntN(20) == 0 {
				h.Mode |= 0o6000
			}
			data := make([]byte, []int{0, 1, 100, 511, 512, 513, 5000, 70_000}[r.IntN(8)])
			if r.IntN(3) > 0 { // the others are zeros
				for i := range data {
					data[i] = byte(r.Uint32())
				}
			}
			if r.IntN(200) == 0 { // a hole of a megabyte between two bytes
				data = append(append([]byte{1}, make([]byte, 1<<20)...), 2)
			}
			switch r.IntN(12) {
			case 0:
				h.PAXRecords["SCHILY.xattr.user.text"] = "äöü"
				h.PAXRecords["SCHILY.xattr.user.bytes"] = string([]byte{0, 1, 2, 0xff})
			case 1:
				h.PAXRecords["SCHILY.xattr.trusted.of-root"] = strings.Repeat("v", 1000)
			case 2:
				h.PAXRecords["SCHILY.xattr.system.posix_acl_access"] = acl(h.Mode, uint32(r.IntN(5000)))
			case 3: // cap_net_raw+ep, as of VFS_CAP_REVISION_2
				h.PAXRecords["SCHILY.xattr.security.capability"] = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
			}
			put(h, data)
			regular = append(regular, h.Name)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := buf.Flush(); err != nil {
		t.Fatal(err)
	}
}

// read runs a command that prints an archive, and lists it.
func read(t *testing.T, cmd *exec.Cmd, prefix string) map[string]facts {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := listing(t, bufio.NewReaderSize(out, 1<<20), prefix)
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%q: %v: %s", cmd.Args, err, &said)
	}
	return all
}

// TestFilesKeepEverything: cp in and out, commit, save, load, export and import.
func TestFilesKeepEverything(t *testing.T) {
	e := ownEngine(t, "busybox")
	r := rand.New(rand.NewPCG(seed(t), 1))
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree.tar")
	f, err := os.Create(tree)
	if err != nil {
		t.Fatal(err)
	}
	oddTree(t, f, oddFiles(), r)
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	want := listing(t, f, "p")
	f.Close()

	okOn(t, e, "create", "--name", "stopped", "--network", "none", "busybox")
	okOn(t, e, "run", "-d", "--name", "running", "--network", "none", "busybox", "sleep", "100000")
	for _, name := range []string{"stopped", "running"} {
		in, err := os.Open(tree)
		if err != nil {
			t.Fatal(err)
		}
		cmd := e.CLI("cp", "-a", "-", name+":/")
		cmd.Stdin = in
		if r := must(t, cmd); r.Code != 0 {
			t.Fatal(r)
		}
		in.Close()
		same(t, "cp in and out, "+name, read(t, e.CLI("cp", "-a", name+":/p", "-"), "p"), want)
		same(t, "export, "+name, read(t, e.CLI("export", name), "p"), want)
	}
	holes(t, e, "stopped")
	okOn(t, e, "rm", "-f", "--now", "running")

	// Deleted, replaced and made opaque: a layer of its own says so.
	okOn(t, e, "commit", "stopped", "kept:1")
	okOn(t, e, "rm", "--now", "stopped")
	changed := maps.Clone(want)
	var script strings.Builder
	script.WriteString("cd /p && set -e\n")
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	drop := func(name string) {
		for n := range changed {
			if n == name || strings.HasPrefix(n, name+"/") {
				delete(changed, n)
			}
		}
	}
	var tops []string
	for name, x := range want {
		if !strings.Contains(name, "/") && x.links == "" {
			tops = append(tops, name)
		}
	}
	slices.Sort(tops)
	for i, name := range tops {
		inner := false // a link that leads inside would tell of it
		for n, x := range want {
			inner = inner || strings.HasPrefix(n, name+"/") && x.links != ""
		}
		switch {
		case inner || len(script.String()) > 60_000:
		case i%5 == 0:
			fmt.Fprintf(&script, "rm -rf -- ./%s\n", quote(name))
			drop(name)
		case i%5 == 1 && want[name].kind == tar.TypeDir:
			fmt.Fprintf(&script, "rm -rf -- ./%[1]s; mkdir -- ./%[1]s; echo new >./%[1]s/new; touch -d @1700000000 ./%[1]s/new ./%[1]s; chmod 644 ./%[1]s/new; chmod 755 ./%[1]s\n", quote(name))
			drop(name)
			sum := sha256.Sum256([]byte("new\n"))
			changed[name] = facts{kind: tar.TypeDir, mode: 0o755, owner: "0:0", time: 1_700_000_000}
			changed[name+"/new"] = facts{kind: tar.TypeReg, mode: 0o644, owner: "0:0", time: 1_700_000_000, text: fmt.Sprint("4 ", hex.EncodeToString(sum[:8]))}
		}
	}
	okOn(t, e, "create", "--name", "changing", "--network", "none", "kept:1", "sh", "-c", ". /script")
	if err := os.WriteFile(filepath.Join(dir, "script"), []byte(script.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	okOn(t, e, "cp", filepath.Join(dir, "script"), "changing:/script")
	okOn(t, e, "start", "-a", "changing")
	same(t, "changed in place", read(t, e.CLI("export", "changing"), "p"), changed)
	okOn(t, e, "commit", "changing", "kept:2")
	okOn(t, e, "rm", "--now", "changing")

	saved := filepath.Join(dir, "saved.tar")
	okOn(t, e, "save", "-o", saved, "kept:1", "kept:2")
	ids := okOn(t, e, "inspect", "-f", "{{.Id}}", "kept:1", "kept:2")
	okOn(t, e, "rmi", "--now", "kept:1", "kept:2")
	okOn(t, e, "load", "-q", "-i", saved)
	if got := okOn(t, e, "inspect", "-f", "{{.Id}}", "kept:1", "kept:2"); got != ids {
		t.Errorf("saved and loaded, the images are %q, not %q", got, ids)
	}
	for name, want := range map[string]map[string]facts{"kept:1": want, "kept:2": changed} {
		okOn(t, e, "create", "--name", "look", "--network", "none", name)
		same(t, "commit, save and load, "+name, read(t, e.CLI("export", "look"), "p"), want)
		okOn(t, e, "export", "-o", filepath.Join(dir, "export.tar"), "look")
		okOn(t, e, "rm", "--now", "look")
		okOn(t, e, "import", filepath.Join(dir, "export.tar"), "imported")
		okOn(t, e, "create", "--name", "look", "--network", "none", "imported", "sh")
		same(t, "export and import, "+name, read(t, e.CLI("cp", "-a", "look:/p", "-"), "p"), want)
		okOn(t, e, "rm", "--now", "look")
		okOn(t, e, "rmi", "--now", "imported")
	}
	okOn(t, e, "system", "check")
	okOn(t, e, "rmi", "--now", "kept:1", "kept:2", "busybox")
}

// holes checks that a megabyte of nothing, on its way in by cp, takes no megabyte; where the engine writes holes.
func holes(t *testing.T, e *engine.Engine, name string) {
	t.Helper()
	out := okOn(t, e, "inspect", "-f", "{{.Id}}", name)
	cmd := exec.Command("sh", "-c", `find "$1" -type f -size +1024k -printf '%b\n' | sort -n | tail -1`, "sh", filepath.Join(e.Root, "data/containers", out, "upper/p"))
	blocks, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.Atoi(strings.TrimSpace(string(blocks))); n > 1024 {
		t.Logf("a file with a hole of a megabyte takes %d blocks", n)
	}
}
