//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// usage asks the engine what takes how much of its data root.
func usage(t *testing.T, e *engine.Engine) (all int64, shares map[string]int64) {
	t.Helper()
	resp, err := e.Client().Get("http://engine/gantry/disk")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var u struct {
		Bytes  int64
		Shares []struct {
			Kind  string
			Bytes int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&u); err != nil {
		t.Fatal(err)
	}
	shares = map[string]int64{}
	sum := int64(0)
	for _, s := range u.Shares {
		shares[s.Kind] = s.Bytes
		sum += s.Bytes
	}
	if sum != u.Bytes {
		t.Errorf("the shares come to %d, not %d", sum, u.Bytes)
	}
	return u.Bytes, shares
}

// TestDiskIsAccounted: what `system df` tells is what du(1) finds, and each part is named: images, containers, logs, the
// trash, what came in part, and what belongs to nobody, which a check finds and deletes.
func TestDiskIsAccounted(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	data := filepath.Join(e.Root, "data")
	okOn(t, e, "run", "--name", "big", "--network", "none", "busybox", "sh", "-c", "dd if=/dev/urandom of=/file bs=1M count=5 2>/dev/null; i=0; while [ $i -lt 2000 ]; do echo a line of the log, number $i; i=$((i+1)); done")
	okOn(t, e, "run", "--name", "goes", "--network", "none", "busybox", "dd", "if=/dev/urandom", "of=/file", "bs=1M", "count=3")
	okOn(t, e, "rm", "goes")
	orphan := func(dir string) {
		if err := os.MkdirAll(filepath.Join(data, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(data, dir, "f"), make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	orphan("layers/0x")
	orphan("containers/" + strings.Repeat("ab", 32))
	orphan("trash/containers/" + strings.Repeat("cd", 32))
	if err := os.WriteFile(filepath.Join(data, "content/partial/sha256-"+strings.Repeat("0", 64)), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	compare := func() map[string]int64 {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; { // what is deleted behind replies may lie between the two
			all, shares := usage(t, e)
			out, err := exec.Command("du", "-sx", "-B1", data).Output()
			if err != nil {
				if time.Now().Before(deadline) {
					continue // something went while du(1) looked
				}
				t.Fatal(err)
			}
			du, _ := strconv.ParseInt(strings.Fields(string(out))[0], 10, 64)
			if diff := max(all-du, du-all); diff*100 <= du {
				return shares
			}
			if time.Now().After(deadline) {
				t.Fatalf("the engine counts %d bytes, du %d", all, du)
			}
		}
	}
	shares := compare()
	for kind, least := range map[string]int64{"images": 80 << 20, "containers": 5 << 20, "logs": 100_000, "trash": 3 << 20, "partial": 2 << 20, "orphans": 3 << 20, "state": 1 << 20} {
		if n := shares[kind]; n < least || n > 3*least && kind != "images" {
			t.Errorf("%s: %d bytes, want some more than %d", kind, n, least)
		}
	}
	if n := shares["other"]; n != 0 {
		t.Errorf("%d bytes are unknown: %s", n, okOn(t, e, "system", "df", "-v"))
	}
	for _, name := range []string{"Trash", "Logs", "Partial downloads", "Orphans", "State", "All of it"} {
		if got := okOn(t, e, "system", "df"); !strings.Contains(got, "\n"+name) {
			t.Errorf("system df does not name %s:\n%s", name, got)
		}
	}
	if got := okOn(t, e, "system", "df", "-v"); !strings.Contains(got, "layer 0x") || !strings.Contains(got, "container abababababab") {
		t.Errorf("system df -v does not name the orphans:\n%s", got)
	}
	if r := must(t, e.CLI("system", "check")); r.Code != 1 || strings.Count(r.Out, "belongs to nobody") != 3 {
		t.Error(r)
	}
	okOn(t, e, "system", "check", "--repair")
	okOn(t, e, "system", "check")
	if shares := compare(); shares["orphans"] != 0 {
		t.Errorf("orphans that were deleted take %d bytes", shares["orphans"])
	}
	okOn(t, e, "start", "-a", "big")
}

// TestCheck damages blobs and layers, and has them found and mended, or told how to be got back.
func TestCheck(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	okOn(t, e, "run", "--name", "changed", "--network", "none", "debian", "sh", "-c", "echo mine >/mine; rm /etc/debian_version")
	okOn(t, e, "commit", "changed", "made")
	okOn(t, e, "rm", "--now", "changed")
	data := filepath.Join(e.Root, "data")
	check := func(code int, want []string, args ...string) {
		t.Helper()
		r := must(t, e.CLI(append([]string{"system", "check"}, args...)...))
		if r.Code != code {
			t.Error(r)
		}
		for _, w := range want {
			if !strings.Contains(r.Out, w) {
				t.Errorf("no %q in %v", w, r)
			}
		}
	}
	check(0, []string{"3 images checked"})

	// A layer that came as an archive: a file changed, one gone, one too many, a mode.
	find := func(name string) string {
		t.Helper()
		found, _ := filepath.Glob(filepath.Join(data, "layers/*/"+name))
		if len(found) != 1 {
			t.Fatalf("%s: %q", name, found)
		}
		return found[0]
	}
	if err := os.WriteFile(find("usr/lib/os-release"), []byte("wrong"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(1, []string{"damaged on disk", "--repair"})
	okOn(t, e, "run", "-d", "--name", "runs", "--network", "none", "debian", "sleep", "1000")
	check(1, []string{"stop container runs"}, "--repair")
	okOn(t, e, "rm", "-f", "--now", "runs")
	check(0, []string{"unpacked again"}, "--repair")
	check(0, nil)
	if got := okOn(t, e, "run", "--rm", "--network", "none", "made", "sh", "-c", "head -c6 /usr/lib/os-release; cat /mine; ls /etc/debian_version 2>/dev/null || echo none"); got != "PRETTYmine\nnone" {
		t.Errorf("mended: %q", got)
	}
	for _, spoil := range []func(string) error{os.Remove, func(p string) error { return os.Chmod(p, 0o600) }, func(p string) error { return os.WriteFile(p+"x", nil, 0o644) }} {
		if err := spoil(find("usr/lib/os-release")); err != nil {
			t.Fatal(err)
		}
		check(1, []string{"damaged on disk"})
		check(0, []string{"unpacked again"}, "--repair")
	}
	restart(t, e)
	check(0, nil)

	// A layer that was made here: nobody has its archive.
	if err := os.WriteFile(find("mine"), []byte("wrong\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	check(1, []string{"lost", "made"}, "--repair")
	okOn(t, e, "rmi", "--now", "made")
	check(0, nil)

	// A blob: dropped, and brought again by the next load.
	blobs, _ := filepath.Glob(filepath.Join(data, "content/blobs/sha256/*"))
	largest, size := "", int64(0)
	for _, b := range blobs {
		if fi, err := os.Stat(b); err == nil && fi.Size() > size {
			largest, size = b, fi.Size()
		}
	}
	f, err := os.OpenFile(largest, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("spoilt"), size/2)
	f.Close()
	check(1, []string{"not what its digest says", "load or pull again: debian"})
	check(0, []string{"dropped"}, "--repair")
	check(1, []string{"it is missing", "debian"})
	okOn(t, e, "load", "-q", "-i", imagePath("debian"))
	check(0, nil)
	okOn(t, e, "rmi", "debian", "busybox")
}

// TestImagesShareTheirBase: twenty images on one base cost the base once.
func TestImagesShareTheirBase(t *testing.T) {
	e := ownEngine(t, "debian")
	before, _ := usage(t, e)
	okOn(t, e, "create", "--name", "base", "--network", "none", "debian", "true")
	var names []string
	for i := range 20 {
		name := "image" + strconv.Itoa(i)
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		okOn(t, e, "cp", file, "base:/own")
		okOn(t, e, "commit", "base", name)
		names = append(names, name)
	}
	after, _ := usage(t, e)
	if grown := after - before; grown > 4<<20 { // the base has over 80 MiB
		t.Errorf("20 images of a few bytes on it take %d bytes", grown)
	}
	for i, name := range names {
		if got := okOn(t, e, "run", "--rm", "--network", "none", name, "cat", "/own"); got != name {
			t.Errorf("image %d says %q", i, got)
		}
	}
	okOn(t, e, "system", "check")
	okOn(t, e, "rm", "base")
	okOn(t, e, append([]string{"rmi"}, names...)...)
	okOn(t, e, "image", "prune", "-af") // the base has several names
	okOn(t, e, "undo", "--empty")
	if _, shares := usage(t, e); shares["images"] > 1<<20 {
		t.Errorf("without images they take %d bytes", shares["images"])
	}
}
