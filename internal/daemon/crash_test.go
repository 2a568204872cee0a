package daemon

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"gantry/internal/container"
	"gantry/internal/network"
)

// busybox returns an image, as `docker save` writes it, of the host's static busybox.
func busybox(t testing.TB) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("needs busybox-static")
		}
		t.Skip("needs busybox-static")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pack := func(files map[string][]byte, links ...string) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for name, data := range files {
			w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg})
			w.Write(data)
		}
		for _, l := range links {
			w.WriteHeader(&tar.Header{Name: l, Linkname: "busybox", Typeflag: tar.TypeSymlink})
		}
		w.Close()
		return b.Bytes()
	}
	layer := pack(map[string][]byte{"bin/busybox": program}, "bin/sh", "bin/sleep", "bin/cat", "bin/echo")
	sum := sha256.Sum256(layer)
	config, _ := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	manifest := []byte(`[{"Config":"c.json","RepoTags":["busybox:latest"],"Layers":["l.tar"]}]`)
	return pack(map[string][]byte{"manifest.json": manifest, "c.json": config, "l.tar": layer})
}

// stubborn ignores SIGTERM, so that a stop needs SIGKILL.
var stubborn = map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", "trap '' TERM; while true; do sleep 1; done"},
	"HostConfig": map[string]any{"NetworkMode": "none"}}

// request is one of those that the engine is killed by.
type request struct {
	method, path string
	body         any
}

// crashAt runs test for every point, each with a container that is removed when it ends and one that is not.
func crashAt(t *testing.T, points []string, test func(e *testEngine, point string, autoRemove bool)) {
	image := busybox(t)
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", image, nil)
	e.stop()
	for _, point := range points {
		for _, autoRemove := range []bool{false, true} {
			name := point
			if autoRemove {
				name += ",rm"
			}
			t.Run(name, func(t *testing.T) {
				e.t = t
				t.Cleanup(func() { e.cmd.Process.Kill(); e.wait() })
				test(e, point, autoRemove)
			})
		}
	}
}

// dieAt starts an engine that dies at point, of one of the requests or after them, and then the next engine.
func (e *testEngine) dieAt(point string, requests []request) {
	t := e.t
	t.Helper()
	e.start("GANTRY_FAILPOINT=" + point)
	dead := false
	for _, r := range requests {
		code, text := e.call(r.method, r.path, r.body, nil)
		if code == 0 {
			dead = true
			break
		}
		if code >= 300 && code != 304 && code != 404 && code != 409 {
			t.Fatalf("%s: %d %s", r.path, code, text)
		}
	}
	if !dead {
		// Some steps follow the reply.
		select {
		case err := <-e.ended:
			e.ended <- err
		case <-time.After(60 * time.Second):
			t.Fatal("the fail point was not reached")
		}
	}
	if err := e.wait(); !e.crashed(err) {
		t.Fatalf("the engine ended by itself: %v\n%s", err, e.log())
	}
	e.start()
}

// TestCrashAtEveryStep kills the engine after every recorded step of create, start, stop and remove. The next one
// finishes or undoes: the container is whole or its name free, and in the end nothing is left of it.
func TestCrashAtEveryStep(t *testing.T) {
	crashAt(t, append(container.Failpoints(), network.Failpoints()...), containerCrash)
}

func containerCrash(e *testEngine, point string, autoRemove bool) {
	t := e.t
	config := maps.Clone(stubborn)
	config["HostConfig"] = map[string]any{"NetworkMode": "bridge", "AutoRemove": autoRemove,
		"PortBindings": map[string]any{"80/tcp": []any{map[string]any{"HostPort": "18080"}}}}
	e.dieAt(point, []request{
		{"POST", "/containers/create?name=victim", config}, {"POST", "/containers/victim/start", nil},
		{"POST", "/containers/victim/stop?t=0", nil}, {"DELETE", "/containers/victim?force=1", nil},
	})
	var list []struct {
		ID, State string
		Names     []string
	}
	e.must("GET", "/containers/json?all=1", nil, &list)
	if len(list) > 1 {
		t.Fatalf("%d containers", len(list))
	}
	if len(list) == 1 {
		// Whole: it does all that a container does, unless it is on its way out already.
		if list[0].Names[0] != "/victim" {
			t.Errorf("name %v", list[0].Names)
		}
		whole(e, list[0].ID)
	}
	// Free: it can be made anew.
	config["HostConfig"].(map[string]any)["AutoRemove"] = false
	e.must("POST", "/containers/create?name=victim", config, nil)
	e.must("POST", "/containers/victim/start", nil, nil)
	e.must("DELETE", "/containers/victim?force=1", nil, nil)
	e.end()
}

func whole(e *testEngine, id string) {
	t := e.t
	if code, text := e.call("POST", "/containers/"+id+"/start", nil, nil); code != 204 && code != 304 && code != 404 && code != 409 {
		t.Fatalf("start after the crash: %d %s\n%s", code, text, e.log())
	}
	if code, text := e.call("POST", "/containers/"+id+"/stop?t=0", nil, nil); code != 204 && code != 304 && code != 404 && code != 409 {
		t.Fatalf("stop after the crash: %d %s\n%s", code, text, e.log())
	}
	if code, text := e.call("DELETE", "/containers/"+id+"?force=1", nil, nil); code != 204 && code != 404 && code != 409 {
		t.Fatalf("remove after the crash: %d %s\n%s", code, text, e.log())
	}
	if code, _ := e.call("POST", "/containers/"+id+"/wait?condition=removed", nil, nil); code != http.StatusNotFound && code != 200 {
		t.Fatalf("wait for the removal: %d", code)
	}
}
