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

// fill writes a file until the disk is full, to the last block.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
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

// TestFullDisk: when the data root is full, every command that needs room says so; what is there stays whole and can be
// used and removed; and when there is room again, all goes on, without a restart and after one.
func TestFullDisk(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "own", "full"))
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
	for round, restarted := range []bool{false, true} {
		fill(t, filepath.Join(disk, "fill"))
		if restarted { // it starts on a full disk, too
			restart(t, e)
			fill(t, filepath.Join(disk, "fill2")) // what it tidied up
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
		} {
			r := must(t, e.CLI(args...))
			if r.Code == 0 || !strings.Contains(r.Err+r.Out, "no space left on device") {
				t.Errorf("round %d: on a full disk: %v", round, r)
			}
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
		os.Remove(filepath.Join(disk, "fill2"))
		// There is room again.
		okOn(t, e, "create", "--name", "spare", "--network", "none", "busybox")
		okOn(t, e, "start", "running")
		if got := okOn(t, e, "run", "--rm", "--network", "none", "made", "cat", "/kept"); got != "kept" {
			t.Errorf("round %d: the image says %q", round, got)
		}
		okOn(t, e, "cp", big, "running:/big")
		okOn(t, e, "exec", "running", "rm", "/big")
		okOn(t, e, "commit", "stopped", "new")
		okOn(t, e, "rmi", "--now", "new")
		okOn(t, e, "system", "check")
		if _, shares := usage(t, e); shares["orphans"] > 0 {
			t.Errorf("round %d: %d bytes belong to nobody", round, shares["orphans"])
		}
	}
	restart(t, e)
	okOn(t, e, "start", "-a", "stopped")
	okOn(t, e, "system", "check")
}

// TestTheTrashGoesFirst: what can be brought back makes room when the disk fills.
func TestTheTrashGoesFirst(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "own", "first"))
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
