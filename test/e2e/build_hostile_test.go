//go:build e2e

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gantry/test/engine"
)

// TestBuildSecretEchoed: a program may print a secret, and it is shown as what else it prints. It is in no file of the engine's.
func TestBuildSecretEchoed(t *testing.T) {
	e := ownEngine(t, "busybox")
	const secret = "echoed-8230714"
	dir := contextDir(t, map[string]string{"Dockerfile": `FROM busybox
RUN --mount=type=secret,id=s cat /run/secrets/s; echo one > /one
RUN --mount=type=secret,id=s,env=S echo $S; echo two > /two
RUN --mount=type=secret,id=s cat /run/secrets/s >&2; exit 3
`})
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	r := buildIn(t, e, dir, "", "--network", "none", "--secret", "id=s,src="+file, ".")
	if r.Code != 1 || strings.Count(r.Err, secret) < 3 {
		t.Fatal(r)
	}
	if err := e.Stop(); err != nil { // all that it keeps is on disk
		t.Fatal(err)
	}
	err := filepath.WalkDir(e.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(secret)) {
			t.Errorf("the secret is in %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestBuildersRaceOnACacheMount: two builds at once on one cache mount. Locked they come one after the other, private each has its own,
// shared they see each other.
func TestBuildersRaceOnACacheMount(t *testing.T) {
	e := ownEngine(t, "busybox")
	const builders = 2
	race := func(sharing, command string) []engine.Result {
		results := make([]engine.Result, builders)
		var wg sync.WaitGroup
		for i := range results {
			dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nARG WHO\nRUN --mount=type=cache,target=/c,id=" + sharing + ",sharing=" + sharing + " " + command + "\n"})
			wg.Go(func() {
				results[i] = buildIn(t, e, dir, "", "--network", "none", "--build-arg", "WHO="+string(rune('a'+i)), ".")
			})
		}
		wg.Wait()
		for _, r := range results {
			if r.Code != 0 {
				t.Errorf("%s: %v", sharing, r)
			}
		}
		return results
	}
	race("locked", `set -e; [ ! -e /c/busy ]; touch /c/busy; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $WHO >> /c/log; done; rm /c/busy; [ "$(uniq /c/log | wc -l)" = "$(sort -u /c/log | wc -l)" ]`)
	race("private", `set -e; [ ! -e /c/log ] || [ "$(sort -u /c/log | wc -l)" = 1 ]; echo $WHO > /c/log; i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $WHO >> /c/log; done; [ "$(sort -u /c/log)" = $WHO ]`)
	// Each waits until it sees the other, for which both must be there at once.
	race("shared", `touch /c/$WHO; while [ ! -e /c/a ] || [ ! -e /c/b ]; do usleep 10000; done`)
	if out := okOn(t, e, "builder", "du", "--verbose"); strings.Count(out, "exec.cachemount") < 3 {
		t.Errorf("du: %s", out)
	}
	okOn(t, e, "builder", "prune", "-af")
	if out := okOn(t, e, "builder", "du", "--verbose"); strings.Contains(out, "exec.cachemount") {
		t.Errorf("du after the prune: %s", out)
	}
}

// TestHostileFolders: what a folder may have in it that is no file: pipes, sockets, devices, links that lead out. What is copied is what is
// in the folder, and nothing waits for a pipe's other end.
func TestHostileFolders(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("outside-5512"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nCOPY . /ctx\n", "file": "in", "abs": "-> " + outside, "up": "-> ../../../../../../../etc/passwd", "loop": "-> loop", "sub/in": "-> ../file"})
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := buildIn(t, gantry, dir, "", "--network", "none", "-t", "folders", "."); r.Code != 0 {
		t.Fatal(r)
	}
	defer engine.Run(gantry.CLI("rmi", "-f", "folders"))
	tree := treeOf(t, gantry, "folders")
	for name, want := range map[string]string{"ctx/abs": "2 777 0:0 0 " + outside, "ctx/up": "2 777 0:0 0 ../../../../../../../etc/passwd", "ctx/loop": "2 777 0:0 0 loop", "ctx/file": "0 644 0:0 2"} {
		if !strings.HasPrefix(tree[name], want) {
			t.Errorf("%s is %q, want %q", name, tree[name], want)
		}
	}
	for copied, want := range map[string]string{"COPY abs /x": "not found", "COPY up /x": "not found", "COPY loop /x": "too many", "ADD abs /x": "not found"} {
		r := buildIn(t, gantry, dir, "FROM busybox\n"+copied+"\n", "--network", "none", "-f", "-", ".")
		if r.Code != 1 || !strings.Contains(r.Err, want) || strings.Contains(r.Err, "outside-5512") {
			t.Errorf("%s: want %q: %v", copied, want, r)
		}
	}
	if os.Getuid() == 0 {
		if err := syscall.Mknod(filepath.Join(dir, "disk"), syscall.S_IFBLK|0o600, 8<<8); err != nil {
			t.Fatal(err)
		}
		r := buildIn(t, gantry, dir, "", "--network", "none", ".")
		if r.Code != 1 || !strings.Contains(r.Err, `"disk" is a device`) {
			t.Errorf("a device: %v", r)
		}
	}
}

// TestBuildManyLines: a Dockerfile of a hundred thousand lines is read, and what is too much of it is said.
func TestBuildManyLines(t *testing.T) {
	const n = 100_000
	r := buildIn(t, gantry, t.TempDir(), "FROM busybox\n"+strings.Repeat("# nothing\n", n)+"RUN true\nRUN \\\n"+strings.Repeat("# nothing\n\n", 10)+"true\n", "--network", "none", "-")
	if r.Code != 0 {
		t.Error(r)
	}
	r = buildIn(t, gantry, t.TempDir(), "FROM busybox\n"+strings.Repeat("LABEL a=b\n", n)+"NONSENSE\n", "--network", "none", "-")
	if r.Code != 1 || !strings.Contains(r.Err, "NONSENSE") || !strings.Contains(r.Err, "100002") {
		t.Errorf("an error at the end: %.2000v", r)
	}
	r = buildIn(t, gantry, t.TempDir(), "FROM busybox\n"+strings.Repeat("WORKDIR a\n", n), "--network", "none", "-")
	if r.Code != 1 || !strings.Contains(r.Err, "max depth exceeded") && !strings.Contains(r.Err, "too") {
		t.Errorf("as many steps: %.2000v", r)
	}
}
