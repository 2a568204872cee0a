//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// TestPythonSDKBuilds runs the same program of builds against both engines.
func TestPythonSDKBuilds(t *testing.T) {
	for _, e := range []*engine.Engine{oracle(t), gantry} {
		cmd := exec.Command("/usr/bin/python3", "testdata/sdk_build.py")
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Socket)
		if r := must(t, cmd); r.Out != "ok\n" {
			t.Errorf("%s: %v", e.Name, r)
		}
	}
}

// TestDockerComposeBuilds: Debian's docker-compose builds its services as it does with Docker: arguments, a stage, labels, another
// Dockerfile, images to take the cache from.
func TestDockerComposeBuilds(t *testing.T) {
	for _, e := range []*engine.Engine{oracle(t), gantry} {
		dir := contextDir(t, map[string]string{
			"docker-compose.yml": `version: "3.8"
services:
  one:
    image: composed:one
    build:
      context: app
      dockerfile: deep/Dockerfile.one
      args: {WHO: compose}
      target: used
      labels: {made.by: compose}
      network: none
      shm_size: 32m
      cache_from: [busybox]
  two:
    build: two
    network_mode: none
`,
			"app/deep/Dockerfile.one": "FROM busybox AS used\nARG WHO\nRUN echo $WHO > /who\nCOPY file /file\nCMD cat /who /file\nFROM busybox\nRUN exit 1\n",
			"app/file":                "of the app\n",
			"two/Dockerfile":          "FROM busybox\nCMD echo two\n",
		})
		compose := func(args ...string) engine.Result {
			cmd := exec.Command("docker-compose", append([]string{"--no-ansi", "-p", "built"}, args...)...)
			cmd.Dir, cmd.Env = dir, append(e.StockCLI().Env, "COMPOSE_HTTP_TIMEOUT=300", "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0")
			return must(t, cmd)
		}
		r := compose("build")
		if r.Code != 0 || strings.Count(r.Out, "Successfully tagged") != 2 {
			t.Errorf("%s: %v", e.Name, r)
			continue
		}
		if got := must(t, e.StockCLI("run", "--rm", "--network", "none", "composed:one")); got.Out != "compose\nof the app\n" {
			t.Errorf("%s: %v", e.Name, got)
		}
		if got := must(t, e.StockCLI("image", "inspect", "-f", `{{index .Config.Labels "made.by"}}`, "composed:one")); got.Out != "compose\n" {
			t.Errorf("%s: %v", e.Name, got)
		}
		if r := compose("build", "--no-cache", "--build-arg", "WHO=you", "one"); r.Code != 0 || strings.Contains(r.Out, "Using cache") {
			t.Errorf("%s: %v", e.Name, r)
		}
		must(t, e.StockCLI("rmi", "-f", "composed:one", "built_two"))
	}
}

// TestBuildFlags holds flags that no other test does, as they act on what is built.
func TestBuildFlags(t *testing.T) {
	e := ownEngine(t, "busybox")
	addr := ourRegistry(t, e)
	dir := contextDir(t, map[string]string{"Dockerfile": `FROM busybox AS one
RUN head -c 8 /dev/urandom | md5sum > /one
FROM one AS two
RUN head -c 8 /dev/urandom | md5sum > /two
FROM busybox AS look
RUN ulimit -n > /look; df -m /dev/shm | tail -n 1 | awk '{print $2}' >> /look; grep -w db /etc/hosts >> /look; cat /proc/self/cgroup > /cgroup
FROM two
`})
	build := func(args ...string) engine.Result {
		t.Helper()
		r := buildIn(t, e, dir, "", append(append([]string{"--network", "none"}, args...), ".")...)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r
	}
	cat := func(image, file string) string {
		t.Helper()
		return okOn(t, e, "run", "--rm", "--network", "none", image, "cat", file)
	}

	build("-t", "flags:a")
	build("-t", "flags:b", "--no-cache-filter", "two")
	build("-t", "flags:c", "--no-cache-filter", "one")
	if cat("flags:a", "/one") != cat("flags:b", "/one") || cat("flags:a", "/two") == cat("flags:b", "/two") || cat("flags:a", "/one") == cat("flags:c", "/one") {
		t.Error("--no-cache-filter does another stage anew than the one that it names")
	}

	build("-t", "flags:look", "--target", "look", "--ulimit", "nofile=123:456", "--shm-size", "48m", "--add-host", "db=10.1.2.3", "--cgroup-parent", "/"+filepath.Base(engine.CgroupParent(e.Root))+"/asked-for")
	if got := strings.Fields(cat("flags:look", "/look")); len(got) != 4 || got[0] != "123" || got[1] != "48" || got[2] != "10.1.2.3" || got[3] != "db" {
		t.Errorf("--ulimit, --shm-size and --add-host: %q", got)
	}

	r := build("--progress", "rawjson")
	for line := range strings.Lines(r.Err) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("--progress rawjson has a line %q: %v", line, err)
		}
	}
	alias := must(t, e.CLI("buildx", "build", "-q", "--network", "none", "--load", "--provenance=false", dir))
	if alias.Code != 0 || !strings.HasPrefix(alias.Out, "sha256:") {
		t.Errorf("buildx build: %v", alias)
	}
	if plain := must(t, e.CLI("builder", "build", "-q", "--network", "none", dir)); plain.Out != alias.Out {
		t.Errorf("builder build: %v, buildx build: %v", plain, alias)
	}
	for _, args := range [][]string{{"buildx", "du"}, {"builder", "du", "--verbose"}} {
		if r := must(t, e.CLI(args...)); r.Code != 0 || !strings.Contains(r.Out, "Total:") {
			t.Errorf("%v", r)
		}
	}

	// Where it goes.
	build("-o", "type=image,name=flags:image")
	build("-o", "type=oci,dest=oci.tar", "-t", "flags:oci")
	data, err := os.ReadFile(filepath.Join(dir, "oci.tar"))
	if err != nil {
		t.Fatal(err)
	}
	tree := archiveTree(t, bytes.NewReader(data))
	if tree["index.json"] == "" || tree["oci-layout"] == "" {
		t.Errorf("type=oci: %v", tree)
	}
	if r := must(t, exec.Command("skopeo", "inspect", "oci-archive:"+filepath.Join(dir, "oci.tar"))); r.Code != 0 {
		t.Errorf("skopeo reads it: %v", r)
	}
	os.Remove(filepath.Join(dir, "oci.tar"))
	build("-o", "type=registry,name="+addr+"/flags:pushed")
	if manifestDigest(t, e, addr+"/flags:pushed") == "" {
		t.Error("type=registry pushed nothing")
	}
	build("-t", addr+"/flags:too", "-o", "type=image,push=true")
	if manifestDigest(t, e, addr+"/flags:too") == "" {
		t.Error("push=true pushed nothing")
	}
	cmd := e.CLI("build", "-q", "--network", "none", "-o", "-", dir)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if h, err := tar.NewReader(&out).Next(); err != nil || h.Name == "" {
		t.Errorf("-o -: %v", err)
	}
	// --pull asks the registry, which here cannot be reached.
	if r := buildIn(t, e, dir, "", "--network", "none", "--pull", "."); r.Code != 1 || !strings.Contains(r.Err, "busybox") {
		t.Errorf("--pull: %v", r)
	}
}
