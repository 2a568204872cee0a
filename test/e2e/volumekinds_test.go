//go:build e2e

package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVolumesFromElsewhere: a volume whose files are not below the data root says where they are when it is to be copied.
func TestVolumesFromElsewhere(t *testing.T) {
	e := ownEngine(t, "busybox")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	dir := t.TempDir()
	in("volume", "create", "-o", "type=none", "-o", "o=bind", "-o", "device="+dir, "bound")
	in("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory")
	in("volume", "create", "-o", "type=nfs", "-o", "device=:/export", "-o", "o=addr=192.0.2.1", "remote")
	in("volume", "create", "-o", "type=ext4", "-o", "device=/dev/nosuch", "device")
	for name, want := range map[string]string{
		"bound":  "its options bind the folder " + dir + ", where its files are",
		"memory": "a file system of its own (tmpfs from tmpfs)", "remote": "a file system of its own (nfs from :/export)",
		"device": "a file system of its own (ext4 from /dev/nosuch)",
	} {
		for _, args := range [][]string{{"clone", name, "copy"}, {"export", name}, {"snapshot", "create", name}, {"import", name, os.DevNull}} {
			fails(t, e, want, append([]string{"volume"}, args...)...)
		}
		if got := in("system", "df", "-v"); !strings.Contains(got, "\n"+name+" ") {
			t.Errorf("%s is not in\n%s", name, got)
		}
	}
	fails(t, e, "no such volume", "volume", "inspect", "copy")
	in("volume", "create", "-o", "type=nosuchfs", "-o", "device=//192.0.2.1/share", "-o", "o=username=me,password=hush", "secret")
	if r := must(t, e.CLI("run", "--rm", "--network", "none", "-v", "secret:/x", "busybox", "true")); r.Code != 125 || !strings.Contains(r.Err, "data: username=me,password=********: no such device") || strings.Contains(r.Err, "hush") {
		t.Error(r)
	}
	in("volume", "rm", "--now", "secret")
	// Removed and brought back, it leads to the same files.
	in("run", "--rm", "--network", "none", "-v", "bound:/x", "busybox", "touch", "/x/mine")
	in("volume", "rm", "bound", "memory", "remote", "device")
	in("undo")
	equal(t, "brought back", in("run", "--rm", "--network", "none", "-v", "bound:/x", "busybox", "ls", "/x"), "mine")
	in("volume", "rm", "--now", "bound", "memory", "remote", "device")
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Errorf("the folder's files went with the volume: %v", err)
	}
}

// TestMountsInMounts: what is mounted below a bound folder, before and after; --mount's bind-recursive and propagation.
func TestMountsInMounts(t *testing.T) {
	e := ownEngine(t, "busybox")
	dir := t.TempDir()
	mount := func(args ...string) {
		t.Helper()
		if r := must(t, exec.Command("mount", args...)); r.Code != 0 {
			t.Fatal(r)
		}
	}
	sub, late := filepath.Join(dir, "sub"), filepath.Join(dir, "late")
	mount("-t", "tmpfs", "outer", dir)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mount("--make-shared", dir)
	if err := errors.Join(os.Mkdir(sub, 0o755), os.Mkdir(late, 0o755)); err != nil {
		t.Fatal(err)
	}
	mount("-t", "tmpfs", "inner", sub)
	if err := os.WriteFile(filepath.Join(sub, "deep"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ options, want string }{
		{"", "deep wrote wrote"},
		{",bind-recursive=disabled", "- wrote wrote"},
		{",readonly", "deep - -"},
		{",readonly,bind-recursive=writable", "deep - wrote"},
		{",readonly,bind-recursive=readonly,bind-propagation=rprivate", "deep - -"},
	} {
		got := okOn(t, e, "run", "--rm", "--network", "none", "--mount", "type=bind,src="+dir+",dst=/d"+c.options, "busybox", "sh", "-c",
			"a=$(ls /d/sub); { touch /d/x; } 2>/dev/null && b=wrote; { touch /d/sub/x && rm /d/sub/x; } 2>/dev/null && c=wrote; echo ${a:--} ${b:--} ${c:--}")
		equal(t, "bound with "+c.options, got, c.want)
		os.Remove(filepath.Join(sub, "x"))
	}
	for _, mode := range []string{"private", "rslave", "rshared"} {
		okOn(t, e, "run", "-d", "--name", mode, "--network", "none", "--cap-add", "SYS_ADMIN", "-v", dir+":/d:"+mode, "busybox", "sleep", "1000")
	}
	mount("-t", "tmpfs", "late", late)
	if err := os.WriteFile(filepath.Join(late, "came"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]string{"private": "", "rslave": "came", "rshared": "came"} {
		equal(t, mode+": what is mounted outside", okOn(t, e, "exec", mode, "ls", "/d/late"), want)
		okOn(t, e, "exec", mode, "mkdir", "-p", "/d/from-"+mode)
		okOn(t, e, "exec", "--privileged", mode, "mount", "-t", "tmpfs", "inside", "/d/from-"+mode)
		okOn(t, e, "exec", mode, "touch", "/d/from-"+mode+"/file")
		_, err := os.Stat(filepath.Join(dir, "from-"+mode, "file"))
		if seen := err == nil; seen != (mode == "rshared") {
			t.Errorf("%s: what is mounted inside is seen outside: %v", mode, seen)
		}
	}
	okOn(t, e, "rm", "-f", "private", "rslave", "rshared")
	for _, p := range []string{"from-rshared", "late", "sub"} {
		if err := unix.Unmount(filepath.Join(dir, p), unix.MNT_DETACH); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	okOn(t, e, "undo", "--empty")
}

// TestProtectedFromEverything: no command takes what is protected; each that was asked for it by name says what would let it go.
func TestProtectedFromEverything(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	in("volume", "create", "--protect", "data")
	in("volume", "create", "loose")
	in("create", "--name", "holder", "--network", "none", "-v", "/anon", "busybox", "true")
	anon := in("inspect", "-f", "{{(index .Mounts 0).Name}}", "holder")
	in("volume", "update", "--protect", anon)
	in("tag", "busybox", "other:tag")
	in("image", "update", "--protect", "busybox")
	id := in("inspect", "-f", "{{.Id}}", "busybox")
	way := "`gantry image update --protect=false "
	for _, ref := range []string{"busybox", "other:tag", id, strings.TrimPrefix(id, "sha256:")[:12]} {
		for _, force := range []bool{false, true} {
			args := []string{"rmi", ref}
			if force {
				args = []string{"rmi", "-f", ref}
			}
			fails(t, e, way, args...)
			if r := must(t, e.StockCLI(args...)); r.Code != 1 || !strings.Contains(r.Err, "is protected") {
				t.Error(r)
			}
		}
	}
	for _, args := range [][]string{{"volume", "rm", "data"}, {"volume", "rm", "-f", "data"}, {"volume", "rm", "--now", "data"}} {
		fails(t, e, "volume data is protected: `gantry volume update --protect=false data` lets it go", args...)
	}
	// Its name goes to another image: it stays, without one.
	in("run", "--name", "changed", "--network", "none", "busybox", "touch", "/x")
	in("commit", "changed", "busybox")
	in("rmi", "-f", "nosuch")
	in("rm", "changed")
	in("rm", "-v", "holder")
	in("image", "prune", "-f")
	in("image", "prune", "-af")
	in("volume", "prune", "-f")
	in("volume", "prune", "-af")
	in("system", "prune", "-af", "--volumes")
	in("container", "prune", "-f")
	if r := must(t, e.StockCLI("system", "prune", "-af", "--volumes")); r.Code != 0 {
		t.Error(r)
	}
	equal(t, "images that are left", in("images", "--no-trunc", "--format", "{{.ID}}"), id)
	want := []string{"data", anon}
	if anon < "data" {
		want = []string{anon, "data"}
	}
	equal(t, "volumes that are left", in("volume", "ls", "-q"), strings.Join(want, "\n"))
	in("undo", "--empty")
	equal(t, "it still runs", in("run", "--rm", "--network", "none", id, "echo", "runs"), "runs")
	restart(t, e)
	fails(t, e, "is protected", "rmi", id)
	fails(t, e, "is protected", "volume", "rm", anon)
	in("volume", "update", "--protect=false", "data")
	in("volume", "update", "--protect=false", anon)
	in("volume", "prune", "-af")
	equal(t, "let go", in("volume", "ls", "-q"), "")
	in("image", "update", "--protect=false", id)
	in("image", "prune", "-af")
	equal(t, "let go", in("images", "-q"), "")
}

// TestUndoTakesAlong: a container comes back with the volumes that went with it, under another name where its own is taken; what a prune
// of everything took comes back as one.
func TestUndoTakesAlong(t *testing.T) {
	e := ownEngine(t, "busybox")
	in := func(args ...string) string { t.Helper(); return okOn(t, e, args...) }
	in("run", "--name", "db", "--network", "none", "-v", "/anon", "-v", "named:/named", "busybox", "sh", "-c", "cat /anon/x /named/y 2>/dev/null; echo anonymous >/anon/x; echo named >/named/y")
	in("rm", "-v", "db")
	equal(t, "volumes without it", in("volume", "ls", "-q"), "named")
	if list := trashed(t, e); len(list) != 2 || !strings.Contains(strings.Join(list, "\n"), "container") || !strings.Contains(strings.Join(list, "\n"), "volume") {
		t.Errorf("undo --list: %q", list)
	}
	in("create", "--name", "db", "--network", "none", "busybox", "true")
	fails(t, e, "`gantry undo --as NAME ", "undo", "db")
	equal(t, "what it left in the trash", in("volume", "ls", "-q"), "named")
	if got := in("undo", "--as", "db2", "db"); !strings.Contains(got, "container db2") || !strings.Contains(got, "volume ") {
		t.Errorf("undo said %q", got)
	}
	equal(t, "its files", in("start", "-a", "db2"), "anonymous\nnamed")
	in("rm", "db")

	in("network", "create", "lonely")
	in("volume", "create", "empty")
	in("system", "prune", "-af", "--volumes")
	equal(t, "after a prune", in("ps", "-aq")+in("images", "-q"), "")
	in("undo")
	equal(t, "its files, brought back once more", in("start", "-a", "db2"), "anonymous\nnamed")
	in("rm", "-v", "db2")
	in("volume", "rm", "named")
	in("volume", "prune", "-af")
	in("undo", "named") // one of them, by its name
	equal(t, "a named volume", in("run", "--rm", "--network", "none", "-v", "named:/n", "busybox", "cat", "/n/y"), "named")
	in("volume", "rm", "--now", "named")
	in("undo", "--empty")
	fails(t, e, "trash is empty", "undo")
}
