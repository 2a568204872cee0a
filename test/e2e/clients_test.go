//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// TestPythonSDK runs the same program against both engines: what python3-docker does with Docker it does with Gantry.
func TestPythonSDK(t *testing.T) {
	for _, e := range []*engine.Engine{oracle(t), gantry} {
		cmd := exec.Command("/usr/bin/python3", "testdata/sdk.py", imagePath("busybox"))
		cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Socket)
		if r := must(t, cmd); r.Out != "ok\n" {
			t.Errorf("%s: %v", e.Name, r)
		}
	}
}

// TestCalledAsDocker: through a link named docker it is the same program, and speaks of itself as docker.
func TestCalledAsDocker(t *testing.T) {
	link := filepath.Join(t.TempDir(), "docker")
	if err := os.Symlink(filepath.Join(engine.Repo(), "bin", "gantry"), link); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(link, "run", "--rm", "--network", "none", "busybox", "echo", "hi")
	cmd.Env = gantry.CLI().Env
	if r := must(t, cmd); r.Out != "hi\n" {
		t.Fatal(r)
	}
	cmd = exec.Command(link, "run", "--no-such-flag")
	cmd.Env = gantry.CLI().Env
	if r := must(t, cmd); r.Code != 125 || !strings.Contains(r.Err, "Run 'docker run --help'") {
		t.Fatal(r)
	}
}

// TestNobodyListens: an engine is never started when the user named one.
func TestNobodyListens(t *testing.T) {
	for _, set := range []string{"DOCKER_HOST", "GANTRY_HOST"} {
		cmd := exec.Command(filepath.Join(engine.Repo(), "bin", "gantry"), "ps")
		sock := filepath.Join(t.TempDir(), "nobody.sock")
		cmd.Env = append(os.Environ(), set+"=unix://"+sock)
		r := must(t, cmd)
		if r.Code != 1 || !strings.Contains(r.Err, "Cannot connect to the Docker daemon at unix://"+sock+". Is the docker daemon running?") {
			t.Errorf("%s: %v", set, r)
		}
		if _, err := os.Stat(sock); err == nil {
			t.Errorf("%s: an engine was started", set)
		}
	}
}

// TestHTTP2OnTheSameSocket: h2c with prior knowledge, as BuildKit's clients will speak it.
func TestHTTP2OnTheSameSocket(t *testing.T) {
	c := gantry.Client()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	c.Transport.(*http.Transport).Protocols = &p
	resp, err := c.Get("http://engine/_ping")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.ProtoMajor != 2 || string(b) != "OK" {
		t.Fatalf("%s %q", resp.Proto, b)
	}
}

func TestHelloWorldNeedsNothing(t *testing.T) {
	e := ownEngine(t)
	if out := okOn(t, e, "run", "--rm", "hello-world"); !strings.Contains(out, "Hello from Gantry!") {
		t.Fatal(out)
	}
	if r := must(t, e.StockCLI("run", "--rm", "hello-world")); r.Code != 0 || !strings.Contains(r.Out, "Hello from Gantry!") {
		t.Fatal(r)
	}
}
