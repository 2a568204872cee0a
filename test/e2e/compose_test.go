//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// TestDockerCompose: Debian's docker-compose brings a web server and a cache up, with two networks, shows, scales and stops
// them, and takes all of it down.
func TestDockerCompose(t *testing.T) {
	t.Parallel()
	h := newHost(t, "nginx", "redis")
	project := filepath.Join(t.TempDir(), "shop")
	if err := os.CopyFS(project, os.DirFS("testdata/compose")); err != nil {
		t.Fatal(err)
	}
	compose := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("docker-compose", append([]string{"--no-ansi"}, args...)...)
		cmd.Dir, cmd.Env = project, append(h.CLI().Env, "COMPOSE_HTTP_TIMEOUT=300")
		r := inside(t, h.Engine, cmd)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r.Out
	}
	has := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("%q is not in:\n%s", w, out)
			}
		}
	}
	get := func() (out string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			r := inside(t, h.Engine, exec.Command("curl", "-s", "-S", "http://"+hostIP+":8080/"))
			if r.Code == 0 {
				return r.Out
			}
			if time.Now().After(deadline) {
				t.Fatal(r)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}

	// redis answers soon after its container runs
	redis := func(command, want string) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			out := compose("exec", "-T", "cache", "sh", "-c", "redis-cli "+command+" 2>&1 || true")
			if strings.Contains(out, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s", command, out)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}

	compose("up", "-d")
	has(get(), "hello from a compose file")
	has(compose("ps"), "shop_web_1", "shop_cache_1", "Up", "0.0.0.0:8080->80/tcp")
	has(compose("exec", "-T", "web", "sh", "-c", "echo $WHO; getent hosts cache"), "web\n", "172.29.5.")
	has(compose("exec", "-T", "cache", "getent", "hosts", "www"), "172.29.5.")
	redis("set k v", "OK")
	has(compose("run", "--rm", "-T", "--no-deps", "web", "sh", "-c", "echo once; getent hosts cache"), "once\n", "172.29.5.")
	has(compose("logs", "cache"), "Ready to accept connections")
	has(compose("logs", "web"), "web_1")
	has(compose("top"), "redis-server", "nginx: master process")

	compose("up", "-d", "--scale", "cache=2") // web is left as it is
	if n := len(strings.Fields(compose("ps", "-q", "cache"))); n != 2 {
		t.Errorf("%d caches", n)
	}
	compose("up", "-d", "--scale", "cache=1")
	compose("pause", "web")
	compose("unpause", "web")
	compose("stop", "-t", "60")
	has(compose("ps"), "Exit 0")
	compose("start")
	has(get(), "hello from a compose file")
	redis("get k", "v\n")

	// A changed file makes the changed service's container anew, on the same port.
	file := filepath.Join(project, "docker-compose.yml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), "WHO: web", "WHO: me", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	compose("up", "-d")
	has(compose("exec", "-T", "web", "sh", "-c", "echo $WHO"), "me\n")
	compose("restart", "-t", "5", "web")
	has(get(), "hello from a compose file")
	compose("down")
	if v := must(t, h.StockCLI("volume", "ls", "-q")); v.Out != "shop_data\n" {
		t.Errorf("down without -v leaves volumes: %v", v)
	}
	compose("up", "-d")
	redis("get k", "v\n")
	compose("down", "-v")
	for _, noun := range []string{"ps -aq", "network ls -q -f type=custom", "volume ls -q"} {
		if left := must(t, h.StockCLI(strings.Fields(noun)...)); left.Out != "" {
			t.Errorf("down leaves behind: %v", left)
		}
	}
	h.neighbour.Do(func() error {
		if r := engine.Run(exec.Command("curl", "-s", "--max-time", "5", "http://"+hostIP+":8080/")); r.Code == 0 {
			t.Error("the port is still published")
		}
		return nil
	})
}

// TestPythonNetworks: networks and ports through python3-docker.
func TestPythonNetworks(t *testing.T) {
	t.Parallel()
	h := newHost(t, "busybox", "nginx")
	html, err := filepath.Abs("testdata/compose/html")
	if err != nil {
		t.Fatal(err)
	}
	// A bind mount's source must be where an engine of root's can see it, and others in the container, too.
	dir := filepath.Join(h.Root, "html")
	if err := os.CopyFS(dir, os.DirFS(html)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "testdata/sdk_networks.py", dir)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+h.Socket)
	if r := inside(t, h.Engine, cmd); r.Out != "ok\n" {
		t.Error(r)
	}
}
