//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// failsOn runs a command that must fail with want in what it says.
func failsOn(t *testing.T, e *engine.Engine, want string, args ...string) {
	t.Helper()
	if r := must(t, e.CLI(args...)); r.Code == 0 || !strings.Contains(r.Err, want) {
		t.Errorf("want a failure that says %q: %v", want, r)
	}
}

func trashed(t *testing.T, e *engine.Engine) []string {
	t.Helper()
	return strings.Split(okOn(t, e, "undo", "--list"), "\n")[1:]
}

// TestUndo: what rm, rmi and the prunes take comes back as it was, with its files, its log and its settings, whichever
// command line removed it; its name and ports are free meanwhile.
func TestUndo(t *testing.T) {
	e := ownEngine(t, "busybox")
	failsOn(t, e, "nothing to undo", "undo")
	okOn(t, e, "run", "-d", "--name", "u1", "--restart", "unless-stopped", "-p", "127.0.0.1:18081:80", "-e", "A=b", "busybox", "sh", "-c", "echo said; echo data >/file; exec sleep 1000")
	for !strings.Contains(okOn(t, e, "logs", "u1"), "said") || must(t, e.CLI("exec", "u1", "test", "-s", "/file")).Code != 0 {
		time.Sleep(time.Millisecond)
	}
	id := okOn(t, e, "inspect", "-f", "{{.Id}}", "u1")
	if r := must(t, e.StockCLI("rm", "-f", "u1")); r.Code != 0 {
		t.Fatal(r)
	}
	failsOn(t, e, "No such container", "start", "u1")
	if list := trashed(t, e); len(list) != 1 || !strings.Contains(list[0], "u1") || !strings.HasPrefix(list[0], "container") {
		t.Errorf("in the trash: %q", list)
	}
	// The name and the port are free.
	okOn(t, e, "run", "-d", "--name", "u1", "-p", "127.0.0.1:18081:80", "busybox", "sleep", "1000")
	failsOn(t, e, "gantry undo --as NAME", "undo")
	if got := okOn(t, e, "undo", "--as", "u2", "u1"); got != "container u2" {
		t.Errorf("undo said %q", got)
	}
	if got := okOn(t, e, "inspect", "-f", "{{.Id}} {{.State.Status}} {{.State.ExitCode}} {{.HostConfig.RestartPolicy.Name}} {{index .Config.Env 0}}", "u2"); got != id+" exited 137 unless-stopped A=b" {
		t.Errorf("what came back: %s", got)
	}
	if got := okOn(t, e, "logs", "u2"); got != "said" {
		t.Errorf("its log: %q", got)
	}
	okOn(t, e, "rm", "-f", "--now", "u1")
	okOn(t, e, "start", "u2")
	if got := okOn(t, e, "exec", "u2", "cat", "/file"); got != "data" {
		t.Errorf("its file: %q", got)
	}
	okOn(t, e, "rm", "-f", "u2")

	// Never in the trash: what was meant to go, by --rm, and what is deleted for good.
	okOn(t, e, "run", "--rm", "--network", "none", "busybox", "true")
	okOn(t, e, "create", "--name", "gone", "--network", "none", "busybox")
	okOn(t, e, "rm", "--now", "gone")
	if list := trashed(t, e); len(list) != 1 || !strings.Contains(list[0], "u2") {
		t.Errorf("in the trash: %q", list)
	}

	// What one call took comes back at once; so does a prune.
	for _, name := range []string{"x", "y", "z"} {
		okOn(t, e, "create", "--name", name+"1", "--network", "none", "busybox")
	}
	okOn(t, e, "rm", "x1", "y1", "z1")
	okOn(t, e, "undo")
	if got := okOn(t, e, "ps", "-a", "--format", "{{.Names}}"); got != "z1\ny1\nx1" {
		t.Errorf("after the undo of a rm: %q", got)
	}
	if r := must(t, e.StockCLI("container", "prune", "-f")); r.Code != 0 {
		t.Fatal(r)
	}
	okOn(t, e, "undo")
	if got := okOn(t, e, "ps", "-aq"); strings.Count(got, "\n") != 2 {
		t.Errorf("after the undo of a prune: %q", got)
	}
	okOn(t, e, "rm", "x1", "y1")
	okOn(t, e, "undo", "x1")
	failsOn(t, e, "No such", "inspect", "y1") // not a name that an id may begin with
	okOn(t, e, "rm", "x1", "z1")

	// An image: names, layers, and what stands on it.
	okOn(t, e, "tag", "busybox", "second:name")
	before := okOn(t, e, "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}")
	okOn(t, e, "rmi", "second:name")
	okOn(t, e, "undo")
	if got := okOn(t, e, "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"); got != before {
		t.Errorf("a name back: %q, was %q", got, before)
	}
	said := okOn(t, e, "rmi", "busybox", "second:name")
	if !strings.Contains(said, "Deleted: sha256:") || okOn(t, e, "images", "-q") != "" {
		t.Errorf("rmi: %s", said)
	}
	restart(t, e) // the trash outlives the engine, and a crash of it
	okOn(t, e, "undo")
	if got := okOn(t, e, "image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"); got != before {
		t.Errorf("an image back: %q, was %q", got, before)
	}
	okOn(t, e, "run", "--rm", "--network", "none", "second:name", "true")
	okOn(t, e, "undo", "u2")
	okOn(t, e, "start", "u2")
	if got := okOn(t, e, "exec", "u2", "cat", "/file"); got != "data" {
		t.Errorf("its file after a crash of the engine: %q", got)
	}
	okOn(t, e, "rm", "-f", "u2")

	// The name leads elsewhere meanwhile.
	okOn(t, e, "rmi", "second:name")
	okOn(t, e, "run", "--name", "changed", "--network", "none", "busybox", "touch", "/x")
	okOn(t, e, "commit", "changed", "second:name")
	failsOn(t, e, "belongs to another image", "undo", "second:name")
	okOn(t, e, "undo", "--as", "third:name", "second:name")
	if a, b := okOn(t, e, "inspect", "-f", "{{.Id}}", "third:name"), okOn(t, e, "inspect", "-f", "{{.Id}}", "busybox"); a != b {
		t.Errorf("brought back under another name: %s, not %s", a, b)
	}
	okOn(t, e, "rm", "changed")
	okOn(t, e, "rmi", "second:name", "third:name", "busybox")
	okOn(t, e, "undo", "--empty")
	if list := trashed(t, e); len(list) != 0 {
		t.Errorf("emptied, there is: %q", list)
	}
	left, _ := filepath.Glob(filepath.Join(e.Root, "data/layers/[1-9a-z]"))
	blobs, _ := filepath.Glob(filepath.Join(e.Root, "data/content/blobs/*/*"))
	if len(left)+len(blobs) > 0 {
		t.Errorf("without images and trash there are layers %q and blobs %q", left, blobs)
	}
}

// TestUndoAfterCrashes kills the engine at every step of a removal and of an undo: afterwards the container is there or
// in the trash, and whole.
func TestUndoAfterCrashes(t *testing.T) {
	e := ownEngine(t, "busybox")
	whole := func(point string) {
		t.Helper()
		list := okOn(t, e, "ps", "-a", "--format", "{{.Names}}")
		inTrash := trashed(t, e)
		if (list == "") == (len(inTrash) == 0) || strings.Contains(list, "\n") || len(inTrash) > 1 {
			t.Fatalf("%s: containers %q, in the trash %q", point, list, inTrash)
		}
		if list == "" {
			okOn(t, e, "undo", "victim")
		}
		if got := okOn(t, e, "start", "-a", "victim"); got != "data" {
			t.Fatalf("%s: it says %q", point, got)
		}
	}
	okOn(t, e, "run", "--name", "victim", "--network", "none", "busybox", "sh", "-c", "cat /file 2>/dev/null || echo data >/file")
	for _, point := range []string{"container.remove.mark", "container.remove.cgroup", "container.remove.record", "container.remove.files", "trash.restore"} {
		e.Stop()
		if err := e.Start("GANTRY_FAILPOINT=" + point); err != nil {
			t.Fatal(err)
		}
		engine.Run(e.CLI("rm", "victim"))
		if point == "trash.restore" {
			engine.Run(e.CLI("undo", "victim"))
		}
		select {
		case <-e.Done():
		case <-time.After(time.Minute):
			t.Fatalf("%s was not reached", point)
		}
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		whole(point)
	}
	okOn(t, e, "rm", "victim")
	e.Stop()
	if err := e.Start("GANTRY_FAILPOINT=trash.forgotten"); err != nil {
		t.Fatal(err)
	}
	engine.Run(e.CLI("undo", "--empty"))
	<-e.Done()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if list := trashed(t, e); len(list) > 0 {
		t.Errorf("forgotten, but in the trash: %q", list)
	}
	if left, _ := os.ReadDir(filepath.Join(e.Root, "data/trash/containers")); len(left) > 0 {
		t.Errorf("of what was forgotten there is %v", left)
	}
}

// TestTrashEnds: what lies in the trash goes by itself after its time, and at once where there is no trash.
func TestTrashEnds(t *testing.T) {
	for _, keep := range []string{"1ms", "0s"} {
		e := engine.Gantry(filepath.Join(scratch, "own", "trash-"+keep), "--trash", keep)
		if err := boot(e, "busybox"); err != nil {
			t.Fatal(err)
		}
		cleanUp(t, e)
		okOn(t, e, "create", "--name", "cc", "--network", "none", "busybox")
		okOn(t, e, "rm", "cc")
		okOn(t, e, "rmi", "busybox")
		deadline := time.Now().Add(time.Minute)
		for {
			blobs, _ := filepath.Glob(filepath.Join(e.Root, "data/content/blobs/*/*"))
			dirs, _ := filepath.Glob(filepath.Join(e.Root, "data/*/containers/*"))
			if len(blobs)+len(dirs)+len(trashed(t, e)) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("kept for %s: there are blobs %q and containers %q", keep, blobs, dirs)
			}
			time.Sleep(time.Millisecond)
		}
		failsOn(t, e, "trash is empty", "undo")
	}
}

// TestProtect: a protected image is kept from rmi, even by force, and from prune.
func TestProtect(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "tag", "busybox", "kept")
	okOn(t, e, "image", "update", "--protect", "kept")
	restart(t, e)
	failsOn(t, e, "is protected", "rmi", "kept")
	failsOn(t, e, "gantry image update --protect=false", "rmi", "-f", "busybox")
	okOn(t, e, "image", "prune", "-af")
	if got := okOn(t, e, "images", "--format", "{{.Repository}}"); got != "busybox\nkept" && got != "kept\nbusybox" {
		t.Errorf("after a prune there is %q", got)
	}
	okOn(t, e, "image", "update", "--protect=false", "kept")
	okOn(t, e, "rmi", "kept", "busybox")
}
