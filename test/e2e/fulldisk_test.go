//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gantry/test/engine"
)

// smallDisk mounts a file system of so many MiB for e's data root.
func smallDisk(t *testing.T, e *engine.Engine, mib int) string {
	t.Helper()
	dir := filepath.Join(scratch, "disk", filepath.Base(e.Root)) // not below e.Root: the engine left no mount there
	file, mnt := dir+"/file", dir+"/mnt"
	for _, d := range []string{mnt, e.Root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"truncate", "-s", fmt.Sprint(mib, "M"), file}, {"mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", file}, {"mount", "-o", "loop", file, mnt}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			if os.Getenv("CI") == "" && args[0] == "mount" {
				t.Skipf("%v: %s", err, out)
			}
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mnt).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
		os.RemoveAll(dir)
	})
	if err := os.Symlink(mnt, filepath.Join(e.Root, "data")); err != nil {
		t.Fatal(err)
	}
	return mnt
}

// fill makes a file longer until the disk is full, to the last block. What was deleted before and is being freed behind the replies
// may make room again.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 1; {
		_, err := f.Write(make([]byte, size))
		if errors.Is(err, syscall.ENOSPC) {
			size /= 4
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// saysFull checks that a command that needed room says so as the user needs it: what happened, where, and what makes room.
func saysFull(t *testing.T, e *engine.Engine, what string, r engine.Result) {
	t.Helper()
	said := r.Err + r.Out
	want := 1
	if len(r.Args) > 1 && r.Args[1] == "run" {
		want = 125
	}
	if r.Code != want || !strings.Contains(said, "no space left on device") {
		t.Errorf("%s: exit code %d, want %d, for a full disk: %v", what, r.Code, want, r)
	} else if !strings.Contains(said, "the data root "+filepath.Join(e.Root, "data")+" has ") || strings.Count(said, "`gantry system df`") != 1 {
		t.Errorf("%s: it does not say which disk, and what helps: %v", what, r)
	}
}

// used is how many bytes of the file system of path are taken.
func used(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// settled waits until what was deleted is gone: files are freed behind the replies. idle is what was taken when all was, at last, as it is
// now; what has come to stay since is a little.
func settled(t *testing.T, e *engine.Engine, disk string, idle *int64) {
	t.Helper()
	for _, dir := range []string{"layers/trash", "volumes/.removed"} {
		waitFor(t, func() bool {
			entries, _ := os.ReadDir(filepath.Join(e.Root, "data", dir))
			return len(entries) == 0
		})
	}
	for deadline := time.Now().Add(10 * time.Second); *idle > 0 && used(t, disk) > *idle+1<<20 && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
	}
	*idle = used(t, disk)
}

// buildContext makes a folder with a Dockerfile and a file beside it.
func buildContext(t *testing.T, dockerfile string, file []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644), os.WriteFile(filepath.Join(dir, "file"), file, 0o644)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestDiskFills: each command that fills the disk while it works says so, takes back all that it wrote, and does the same with success
// when there is room.
func TestDiskFills(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("fills", nextRoot())), "--trash", "0s")
	disk := smallDisk(t, e, 96)
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	dir := t.TempDir()
	noise := make([]byte, 8<<20) // zeros would be written as holes
	rand.NewChaCha8([32]byte{1}).Read(noise)
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, noise, 0o644); err != nil {
		t.Fatal(err)
	}
	copying := buildContext(t, "FROM busybox\nCOPY file /file\n", noise)
	running := buildContext(t, "FROM busybox\nRUN dd if=/dev/urandom of=/file bs=1M count=8\n", nil)
	registry := ourRegistry(t, e)
	okOn(t, e, "create", "--name", "has", "--network", "none", "busybox", "true")
	okOn(t, e, "cp", big, "has:/etc/big")
	okOn(t, e, "commit", "-c", "LABEL other=1", "has", "other")
	okOn(t, e, "save", "-o", dir+"/other.tar", "other")
	okOn(t, e, "tag", "other", registry+"/other")
	okOn(t, e, "push", "-q", registry+"/other")
	okOn(t, e, "export", "-o", dir+"/files.tar", "has")
	okOn(t, e, "rmi", "other", registry+"/other")
	okOn(t, e, "cp", filepath.Join(copying, "Dockerfile"), "has:/etc/small")
	okOn(t, e, "export", "-o", dir+"/flat.tar", "has")
	okOn(t, e, "import", dir+"/flat.tar", "flat") // in one layer, which is no other's
	okOn(t, e, "run", "-d", "--name", "running", "--network", "none", "busybox", "sleep", "1000")
	okOn(t, e, "run", "--rm", "--network", "none", "-v", "data:/data", "-v", big+":/big:ro", "busybox", "cp", "/big", "/data/big")
	okOn(t, e, "volume", "snapshot", "create", "data", "old")
	if err := os.WriteFile(dir+"/volume.tar", []byte(must(t, e.CLI("volume", "export", "data")).Out), 0o644); err != nil {
		t.Fatal(err)
	}

	cases := []struct {
		name string
		args []string
		undo []string
		own  bool // the program in the container says it, in its words
	}{
		{name: "pull", args: []string{"pull", "-q", registry + "/other"}, undo: []string{"rmi", registry + "/other"}},
		{name: "load", args: []string{"load", "-q", "-i", dir + "/other.tar"}, undo: []string{"rmi", "other"}},
		{name: "import", args: []string{"import", dir + "/files.tar", "new"}, undo: []string{"rmi", "new"}},
		{name: "commit", args: []string{"commit", "has", "new"}, undo: []string{"rmi", "new"}},
		{name: "cp into a stopped one", args: []string{"cp", big, "has:/other"}, undo: []string{"rm", "has"}},
		{name: "cp into a running one", args: []string{"cp", big, "running:/other"}, undo: []string{"exec", "running", "rm", "/other"}},
		{name: "copy-up", args: []string{"run", "--name", "new", "--network", "none", "-v", "fresh:/etc", "flat", "true"}, undo: []string{"volume", "rm", "fresh"}},
		{name: "volume clone", args: []string{"volume", "clone", "data", "fresh"}, undo: []string{"volume", "rm", "fresh"}},
		{name: "volume snapshot create", args: []string{"volume", "snapshot", "create", "data", "new"}, undo: []string{"volume", "snapshot", "rm", "data", "new"}},
		{name: "volume snapshot restore", args: []string{"volume", "snapshot", "restore", "data", "old"}},
		{name: "volume import", args: []string{"volume", "import", "fresh", dir + "/volume.tar"}, undo: []string{"volume", "rm", "fresh"}},
		{name: "COPY", args: []string{"build", "-q", "-t", "new", copying}, undo: []string{"rmi", "new"}},
		{name: "RUN", args: []string{"build", "-q", "-t", "new", running}, undo: []string{"rmi", "new"}, own: true},
		{name: "exec", args: []string{"exec", "running", "dd", "if=/dev/urandom", "of=/file", "bs=1M", "count=8"}, undo: []string{"exec", "running", "rm", "/file"}, own: true},
	}
	ballast := filepath.Join(disk, "ballast")
	full := func(free int64) {
		t.Helper()
		fill(t, ballast)
		if fi, err := os.Stat(ballast); err != nil || os.Truncate(ballast, fi.Size()-free) != nil {
			t.Fatalf("cannot leave %d bytes: %v", free, err)
		}
	}
	var idle int64
	for _, c := range cases {
		settled(t, e, disk, &idle)
		full(4 << 20)
		before := used(t, disk)
		r := must(t, e.CLI(c.args...))
		if c.own {
			if r.Code == 0 || !strings.Contains(r.Err+r.Out, "No space left on device") {
				t.Errorf("%s: %v", c.name, r)
			}
			if c.name == "exec" {
				okOn(t, e, c.undo...)
			}
		} else {
			saysFull(t, e, c.name, r)
		}
		if c.name == "copy-up" {
			failsOn(t, e, "No such", "inspect", "new")
			if r := must(t, e.CLI("volume", "rm", "fresh")); r.Code != 0 && !strings.Contains(r.Err, "no such volume") { // Docker, too, keeps the empty one
				t.Error(r)
			}
		}
		// What it wrote is deleted behind the reply.
		slack := int64(1 << 20) // a log's, a record's
		for deadline := time.Now().Add(time.Minute); used(t, disk) > before+slack; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s: %d bytes more are taken than before:\n%s", c.name, used(t, disk)-before, okOn(t, e, "system", "df", "-v"))
				break
			}
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		okOn(t, e, c.args...)
		if c.name == "copy-up" {
			okOn(t, e, "rm", "new")
		}
		if c.undo != nil {
			okOn(t, e, c.undo...)
		}
		okOn(t, e, "builder", "prune", "-af")
	}
	okOn(t, e, "system", "check")
	if _, shares := usage(t, e); shares["orphans"] > 0 || shares["partial"] > 4096 { // the folder itself
		t.Errorf("%d bytes belong to nobody, %d came in part", shares["orphans"], shares["partial"])
	}
	// What cp was to replace is there until there is room for the new.
	okOn(t, e, "exec", "running", "sh", "-c", "echo old >/other")
	settled(t, e, disk, &idle)
	full(4 << 20)
	other := filepath.Join(dir, "other")
	if err := os.Link(big, other); err != nil {
		t.Fatal(err)
	}
	saysFull(t, e, "cp over a file", must(t, e.CLI("cp", other, "running:/")))
	if got := okOn(t, e, "exec", "running", "sh", "-c", "cat /other; ls -A / | grep gantry; rm /other"); got != "old" {
		t.Errorf("cp that failed left %q", got)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if got := okOn(t, e, "exec", "running", "ls", "/"); strings.Contains(got, "file") || strings.Contains(got, "other") {
		t.Errorf("in the container there is %q", got)
	}
}

// TestFullDisk: when the data root is full, every command that needs room says so; what is there stays whole and can be
// used and removed; and when there is room again, all goes on, without a restart and after one.
func TestFullDisk(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("full", nextRoot())))
	disk := smallDisk(t, e, 96)
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	dir := t.TempDir()
	okOn(t, e, "run", "--name", "stopped", "--network", "none", "busybox", "sh", "-c", "echo kept >/kept")
	okOn(t, e, "run", "-d", "--name", "running", "--network", "none", "busybox", "sleep", "1000")
	okOn(t, e, "commit", "stopped", "made")
	okOn(t, e, "create", "--name", "spare", "--network", "none", "busybox")
	okOn(t, e, "export", "-o", dir+"/files.tar", "stopped")
	big := filepath.Join(dir, "big")
	noise := make([]byte, 8<<20) // zeros would be written as holes
	rand.NewChaCha8([32]byte{}).Read(noise)
	if err := os.WriteFile(big, noise, 0o644); err != nil {
		t.Fatal(err)
	}
	registry := ourRegistry(t, e)
	okOn(t, e, "commit", "-c", "LABEL other=1", "stopped", registry+"/other")
	okOn(t, e, "push", "-q", registry+"/other")
	okOn(t, e, "rmi", "--now", registry+"/other")
	context := buildContext(t, "FROM busybox\nRUN echo 1 >/one\nCOPY file /file\n", noise[:1<<20])
	okOn(t, e, "run", "--rm", "--network", "none", "-v", "data:/data", "busybox", "sh", "-c", "echo kept >/data/kept")
	if err := os.WriteFile(dir+"/volume.tar", []byte(must(t, e.CLI("volume", "export", "data")).Out), 0o644); err != nil {
		t.Fatal(err)
	}
	for round, restarted := range []bool{false, true} {
		fill(t, filepath.Join(disk, "fill"))
		if restarted { // it starts on a full disk, too
			restart(t, e)
		}
		for _, args := range [][]string{
			{"create", "--network", "none", "--name", "new", "busybox"},
			{"run", "--network", "none", "--rm", "busybox", "true"},
			{"run", "-d", "--network", "none", "--name", "new", "busybox", "sleep", "1000"},
			{"commit", "stopped", "new"},
			{"cp", big, "stopped:/big"},
			{"cp", big, "running:/big"},
			{"import", dir + "/files.tar", "new"},
			{"load", "-q", "-i", imagePath("debian")},
			{"pull", "-q", registry + "/other"},
			{"build", "-q", "-t", "new", context},
			{"volume", "clone", "data", "new"},
			{"volume", "snapshot", "create", "data"},
			{"volume", "import", "new", dir + "/volume.tar"},
			{"run", "--rm", "--network", "none", "-v", "fresh:/etc", "busybox", "true"},
		} {
			fill(t, filepath.Join(disk, "fill"))
			saysFull(t, e, fmt.Sprintf("round %d: %q", round, args), must(t, e.CLI(args...)))
		}
		fill(t, filepath.Join(disk, "fill"))
		if r := must(t, e.StockCLI("run", "--rm", "--network", "none", "busybox", "true")); r.Code != 125 || !strings.Contains(r.Err, "no space left on device") {
			t.Errorf("the stock command line: %v", r)
		}
		fill(t, filepath.Join(disk, "fill"))
		if r := must(t, e.CLI("exec", "running", "sh", "-c", "echo more >/etc/more")); r.Code != 1 || !strings.Contains(r.Err, "No space left on device") {
			t.Errorf("round %d: exec: %v", round, r)
		}
		// A program that talks is not held up by a log that has no room; who is attached hears all of it.
		if r := must(t, e.CLI("exec", "running", "sh", "-c", "for i in 1 2 3; do head -c 300000 /dev/zero | tr '\\0' x >/proc/1/fd/1; done; echo through")); r.Out != "through\n" {
			t.Errorf("round %d: a program that writes to a full log: %v", round, r)
		}
		if r := must(t, e.CLI("logs", "--tail", "1", "running")); r.Code != 0 {
			t.Errorf("round %d: %v", round, r)
		}
		if err := e.Ping(); err != nil {
			t.Fatalf("round %d: the engine is gone: %v\n%s", round, err, e.LogTail())
		}
		// What needs no room goes on.
		if got := okOn(t, e, "ps", "-a", "--format", "{{.Names}}"); !strings.Contains(got, "stopped") || strings.Contains(got, "new") {
			t.Errorf("round %d: containers: %q", round, got)
		}
		if got := okOn(t, e, "images", "--format", "{{.Repository}}"); strings.Contains(got, "new") || strings.Contains(got, "debian") || !strings.Contains(got, "made") {
			t.Errorf("round %d: images: %q", round, got)
		}
		okOn(t, e, "exec", "running", "true")
		okOn(t, e, "stop", "-t", "0", "running")
		if got := okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "running"); got != "exited 137" {
			t.Errorf("round %d: stopped on a full disk: %s", round, got)
		}
		okOn(t, e, "rm", "spare")
		if err := os.Remove(filepath.Join(disk, "fill")); err != nil {
			t.Fatal(err)
		}
		// There is room again.
		okOn(t, e, "create", "--name", "spare", "--network", "none", "busybox")
		okOn(t, e, "start", "running")
		said := fmt.Sprint("there is room in round ", round)
		okOn(t, e, "exec", "running", "sh", "-c", "echo "+said+" >/proc/1/fd/1")
		for deadline := time.Now().Add(time.Minute); !strings.Contains(okOn(t, e, "logs", "--tail", "1", "running"), said); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: the log goes on no more", round)
			}
		}
		if got := okOn(t, e, "run", "--rm", "--network", "none", "made", "cat", "/kept"); got != "kept" {
			t.Errorf("round %d: the image says %q", round, got)
		}
		okOn(t, e, "cp", big, "running:/big")
		okOn(t, e, "exec", "running", "rm", "/big")
		okOn(t, e, "commit", "stopped", "new")
		okOn(t, e, "rmi", "--now", "new")
		if got := okOn(t, e, "run", "--rm", "--network", "none", "-v", "data:/data", "busybox", "cat", "/data/kept"); got != "kept" {
			t.Errorf("round %d: the volume says %q", round, got)
		}
		if got := okOn(t, e, "volume", "ls", "-q"); strings.Contains(got, "new") {
			t.Errorf("round %d: volumes: %q", round, got)
		}
		okOn(t, e, "system", "check")
		if _, shares := usage(t, e); shares["orphans"] > 0 {
			t.Errorf("round %d: %d bytes belong to nobody", round, shares["orphans"])
		}
	}
	restart(t, e)
	okOn(t, e, "start", "-a", "stopped")
	okOn(t, e, "system", "check")
	if _, shares := usage(t, e); shares["orphans"] > 0 {
		t.Errorf("%d bytes belong to nobody", shares["orphans"])
	}
	okOn(t, e, "volume", "prune", "-af")
}

// TestTheTrashGoesFirst: what can be brought back makes room when the disk fills.
func TestTheTrashGoesFirst(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("first", nextRoot())))
	smallDisk(t, e, 96)
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	for i := range 20 { // 120 MiB in all, on less than 96
		name := fmt.Sprint("big", i)
		okOn(t, e, "run", "--name", name, "--network", "none", "busybox", "dd", "if=/dev/urandom", "of=/file", "bs=1M", "count=6")
		okOn(t, e, "rm", name)
	}
	if list := trashed(t, e); len(list) == 0 || !strings.Contains(list[0], "big19") {
		t.Errorf("the last is not in the trash: %q", list)
	}
}
