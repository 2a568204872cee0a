//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// files writes files below dir.
func files(t *testing.T, dir string, list map[string]string) {
	t.Helper()
	for name, content := range list {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// buildIn runs gantry build in a folder, with a home of its own.
func buildIn(t *testing.T, e *engine.Engine, dir, stdin string, args ...string) engine.Result {
	t.Helper()
	cmd := e.CLI(append([]string{"build"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "HOME="+dir+"-home", "TOKEN=from the environment")
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	return engine.Run(cmd)
}

// TestBuildSession builds with Gantry's own command line: what Docker's classic builder has no way for.
func TestBuildSession(t *testing.T) {
	e := ownEngine(t, "busybox", "debian")
	dir := t.TempDir()
	ok := func(r engine.Result) string {
		t.Helper()
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r.Out
	}
	fails := func(r engine.Result, want string) {
		t.Helper()
		if r.Code != 1 || !strings.Contains(r.Err, want) {
			t.Errorf("want %q and status 1: %v", want, r)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		return ok(engine.Run(e.CLI(append([]string{"run", "--rm", "--network", "none"}, args...)...)))
	}

	// Secrets, arguments, labels, several names, .dockerignore, the image's ID.
	files(t, dir, map[string]string{
		"Dockerfile": `# syntax=docker/dockerfile:1
FROM busybox AS base
ARG WHO=nobody
ENV WHO=$WHO
RUN --mount=type=secret,id=file --mount=type=secret,id=env,env=TOKEN wc -c </run/secrets/file >/sizes; printf %s "$TOKEN" | wc -c >>/sizes
FROM base AS unused
RUN exit 9
FROM base
COPY --chmod=600 . /app/
CMD ["sh", "-c", "echo $WHO; cat /sizes; cd /app; find . -type f | sort; stat -c %a main"]
`,
		"main": "main\n", "keep/this": "1", "skip/that": "2", "skip/but/this": "3", ".dockerignore": "skip\n!skip/but\n.dockerignore\nDockerfile\n*.id\n", "secret": "xyzzy"})
	secrets := []string{"--secret", "id=file,src=secret", "--secret", "id=env,env=TOKEN"}
	r := buildIn(t, e, dir, "", append(secrets, "-t", "built", "-t", "built:v2", "--build-arg", "WHO=me", "--label", "a=b", "--iidfile", "x.id", "--metadata-file", "m.id", ".")...)
	ok(r)
	for _, secret := range []string{"xyzzy", "from the environment"} {
		if strings.Contains(r.Err+r.Out, secret) {
			t.Errorf("a secret was shown: %v", r)
		}
	}
	if got, want := run("built:v2"), "me\n5\n20\n./keep/this\n./main\n./secret\n./skip/but/this\n600\n"; got != want {
		t.Errorf("the image says %q, want %q", got, want)
	}
	id := strings.TrimSpace(ok(engine.Run(e.CLI("inspect", "-f", "{{.Id}} {{.Config.Labels.a}}", "built"))))
	iid, err := os.ReadFile(filepath.Join(dir, "x.id"))
	if err != nil || id != string(iid)+" b" {
		t.Errorf("the ID is %s, --iidfile has %s (%v)", id, iid, err)
	}
	var meta map[string]any
	data, err := os.ReadFile(filepath.Join(dir, "m.id"))
	if err == nil {
		err = json.Unmarshal(data, &meta)
	}
	if err != nil || meta["containerimage.config.digest"] != string(iid) {
		t.Errorf("--metadata-file: %s, %v", data, err)
	}
	// Again: everything is known. After a change, only what it concerns is done.
	r = buildIn(t, e, dir, "", append(secrets, "-t", "built", "--build-arg", "WHO=me", "--label", "a=b", ".")...)
	ok(r)
	if strings.Count(r.Err, "CACHED") != 2 || !strings.Contains(r.Err, "writing image "+string(iid)+"\n") {
		t.Errorf("built again: %v", r)
	}
	if again := strings.TrimSpace(ok(engine.Run(e.CLI("inspect", "-f", "{{.Id}} {{.Config.Labels.a}}", "built")))); again != id {
		t.Errorf("built again, it is another image: %s, was %s", again, id)
	}
	files(t, dir, map[string]string{"main": "changed\n", "skip/that": "changed, and nobody cares"})
	r = buildIn(t, e, dir, "", append(secrets, "-q", "--build-arg", "WHO=me", ".")...)
	if out := ok(r); !strings.HasPrefix(out, "sha256:") || strings.Count(out, "\n") != 1 || r.Err != "" {
		t.Errorf("quiet: %v", r)
	} else if got := run(strings.TrimSpace(out), "cat", "/app/main"); got != "changed\n" {
		t.Errorf("after a change main has %q", got)
	}

	// Why a step is not in the cache.
	files(t, dir, map[string]string{"main": "changed again\n", "keep/new": ""})
	r = buildIn(t, e, dir, "", append(secrets, "--why", "--build-arg", "WHO=me", ".")...)
	if ok(r); !strings.Contains(r.Err, "not cached: file keep/new is new, file main changed\n") {
		t.Errorf("why: %v", r)
	}
	if err := os.Remove(filepath.Join(dir, "keep/new")); err != nil {
		t.Fatal(err)
	}
	r = buildIn(t, e, dir, "", append(secrets, "--why", "--build-arg", "WHO=you", ".")...)
	if ok(r); !strings.Contains(r.Err, "not cached: WHO=you was WHO=me\n") || !strings.Contains(r.Err, "not cached: file keep/new is gone\n") {
		t.Errorf("why: %v", r)
	}

	// What fails says where.
	fails(buildIn(t, e, dir, "", "--target", "unused", "--secret", "id=file,src=secret", "--secret", "id=env,env=TOKEN", "."), "Dockerfile:7")
	fails(buildIn(t, e, dir, "", "--target", "unused", "--secret", "id=file,src=secret", "--secret", "id=env,env=TOKEN", "."), `failed to solve: process "/bin/sh -c exit 9" did not complete successfully: exit code: 9`)
	fails(buildIn(t, e, dir, "", "--target", "nosuch", "."), "target stage \"nosuch\" could not be found")
	fails(buildIn(t, e, dir, "FROM busybox\nRUN --mount=type=secret,id=a,required=true true\n", "-"), "secret a")
	fails(buildIn(t, e, dir, "FRM busybox\n", "-"), "unknown instruction: FRM (did you mean FROM?)")
	fails(buildIn(t, e, dir, "", "nosuch"), `path "nosuch" not found`)
	fails(buildIn(t, e, dir, "", "--platform", "linux/s390x", "."), "linux/s390x is not supported")
	fails(buildIn(t, e, dir, "", "-f", "nosuch", "."), "failed to read dockerfile")

	// A Dockerfile's check, and contexts of other kinds.
	r = buildIn(t, e, dir, "FROM busybox AS Big\nCMD x\n", "--check", "-")
	if r.Code != 1 || !strings.Contains(r.Out, "2 warnings have been found") || !strings.Contains(r.Out, "StageNameCasing") {
		t.Errorf("--check: %v", r)
	}
	ok(buildIn(t, e, dir, "FROM busybox\n", "--check", "-"))
	more := t.TempDir()
	files(t, more, map[string]string{"extra": "from another folder"})
	ok(buildIn(t, e, dir, "FROM base\nCOPY --from=more extra /extra\nCOPY main /main\n", "-f", "-", "-t", "mixed", "--build-context", "more="+more, "--build-context", "base=docker-image://busybox", "."))
	if got := run("mixed", "cat", "/extra", "/main"); got != "from another folderchanged again\n" {
		t.Errorf("contexts: %q", got)
	}
	archive := exec.Command("tar", "cz", "-C", more, "extra", "-C", dir, "main")
	packed, err := archive.Output()
	if err != nil {
		t.Fatal(err)
	}
	fails(buildIn(t, e, dir, string(packed), "-"), "failed to read dockerfile")
	files(t, more, map[string]string{"Dockerfile.x": "FROM busybox\nCOPY extra /\n"})
	if packed, err = exec.Command("tar", "cz", "-C", more, ".").Output(); err != nil {
		t.Fatal(err)
	}
	ok(buildIn(t, e, dir, string(packed), "-t", "packed", "-f", "Dockerfile.x", "-"))
	if got := run("packed", "cat", "/extra"); got != "from another folder" {
		t.Errorf("an archive: %q", got)
	}

	// Where the result goes.
	out := filepath.Join(dir, "x.id.d")
	ok(buildIn(t, e, dir, "FROM scratch\nCOPY main keep /\n", "-f", "-", "-o", out, "."))
	if data, err := os.ReadFile(filepath.Join(out, "this")); err != nil || string(data) != "1" {
		t.Errorf("local: %q, %v", data, err)
	}
	ok(buildIn(t, e, dir, "FROM scratch\nCOPY main /\n", "-f", "-", "-o", "type=tar,dest=x.tar.id", "."))
	if list, err := exec.Command("tar", "tf", filepath.Join(dir, "x.tar.id")).Output(); err != nil || strings.TrimSpace(string(list)) != "main" {
		t.Errorf("tar: %q, %v", list, err)
	}
	ok(buildIn(t, e, dir, "FROM busybox\nCOPY main /\n", "-f", "-", "-t", "archived", "-o", "type=docker,dest=d.tar.id", "."))
	ok(engine.Run(e.CLI("rmi", "-f", "archived")))
	if got := ok(engine.Run(e.CLI("load", "-i", filepath.Join(dir, "d.tar.id")))); !strings.Contains(got, "archived:latest") {
		t.Errorf("docker archive: %q", got)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.id"), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := buildIn(t, e, dir, "FROM scratch\nCOPY main /\n", "-f", "-", "-o", "type=tar,dest=folder.id", "."); r.Code != 1 {
		t.Errorf("an output that cannot be written: %v", r)
	}

	// An SSH agent: RUN talks to it, through the session.
	l, err := net.Listen("unix", filepath.Join(more, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.WriteString(conn, "agent here\n") }()
		}
	}()
	ok(buildIn(t, e, dir, "FROM debian\nRUN --mount=type=ssh perl -MIO::Socket::UNIX -e 'print IO::Socket::UNIX->new($ENV{SSH_AUTH_SOCK})->getline' >/said\n", "-t", "agent", "--ssh", "default="+filepath.Join(more, "agent"), "-"))
	if got := run("agent", "cat", "/said"); got != "agent here\n" {
		t.Errorf("the agent said %q", got)
	}

	// The cache is shown, and goes.
	if out := ok(engine.Run(e.CLI("builder", "du"))); !strings.Contains(out, "Total:") {
		t.Errorf("du: %q", out)
	}
	if out := ok(engine.Run(e.CLI("builder", "prune", "-af"))); !strings.Contains(out, "Total reclaimed space:") {
		t.Errorf("prune: %q", out)
	}
	r = buildIn(t, e, dir, "", append(secrets, "--build-arg", "WHO=me", ".")...)
	if ok(r); strings.Contains(r.Err, "CACHED") {
		t.Errorf("after the prune: %v", r)
	}
}
