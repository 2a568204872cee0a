//go:build e2e

package e2e

import (
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// alsoAt has what listens on one engine's loopback be on another's as well.
func alsoAt(t *testing.T, from, to *engine.Engine, addr string) {
	t.Helper()
	var l net.Listener
	if err := to.Inside(func() (err error) { l, err = net.Listen("tcp", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				out, err := dial(from, addr)
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					io.Copy(out, c)
					out.(*net.TCPConn).CloseWrite()
				}()
				io.Copy(c, out)
			}()
		}
	}()
}

// cachedProject has steps whose results cannot be come by twice.
var cachedProject = map[string]string{
	"Dockerfile": `FROM busybox AS base
RUN head -c 8 /dev/urandom | md5sum > /random && mkdir /d && echo gone > /d/gone
FROM base AS tool
COPY in /in
RUN cat /random /in > /out && head -c 8 /dev/urandom | md5sum >> /out
FROM base
RUN rm -r /d/gone && ln -s /random /d/link && chown 5:6 /random && chmod 4711 /random
ENV X=1
RUN true
COPY --from=tool /out /result
WORKDIR /made
`,
	"in": "1\n",
}

// cachedSteps are the plain lines of a build that say so.
func cachedSteps(r engine.Result) int { return strings.Count(r.Err, " CACHED\n") }

// TestBuildCacheElsewhere builds on one engine, sends its cache out in each of its forms, and builds the same on another that has
// nothing: no step is done, and the image is the same.
func TestBuildCacheElsewhere(t *testing.T) {
	a, b := ownEngine(t, "busybox"), ownEngine(t, "busybox")
	addr := ourRegistry(t, a)
	alsoAt(t, a, b, addr)
	debian := debianRegistry(t, a)
	alsoAt(t, a, b, debian)
	dir, folder := contextDir(t, cachedProject), filepath.Join(t.TempDir(), "cache")
	build := func(e *engine.Engine, args ...string) engine.Result {
		t.Helper()
		r := buildIn(t, e, dir, "", append(append([]string{"--progress", "plain", "--network", "none", "-t", "cached"}, args...), ".")...)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r
	}
	imageOf := func(e *engine.Engine) string {
		return okOn(t, e, "image", "inspect", "-f", "{{json .RootFS.Layers}} {{json .Config}}", "cached")
	}
	forget := func(e *engine.Engine) {
		t.Helper()
		okOn(t, e, "rmi", "-f", "cached")
		okOn(t, e, "undo", "--empty")
		okOn(t, e, "builder", "prune", "-af")
	}
	steps := cachedSteps(build(a)) // none
	r := build(a)
	if steps != 0 || cachedSteps(r) == 0 {
		t.Fatalf("the second build of the same: %v", r)
	}
	steps = cachedSteps(r)
	want := imageOf(a)

	for _, c := range []struct{ name, to, from string }{
		{"registry", "type=registry,mode=max,ref=" + addr + "/cache:max", "type=registry,ref=" + addr + "/cache:max"},
		{"Debian's registry, as an index", "type=registry,mode=max,image-manifest=false,ref=" + debian + "/cache", debian + "/cache"},
		{"local", "type=local,mode=max,dest=" + folder, "type=local,src=" + folder},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := build(a, "--cache-to", c.to); cachedSteps(r) != steps || !strings.Contains(r.Err, "exporting cache to ") {
				t.Errorf("with --cache-to: %v", r)
			}
			if r := build(b, "--cache-from", c.from); cachedSteps(r) != steps || !strings.Contains(r.Err, "importing cache from ") || strings.Contains(r.Err, "WARNING") {
				t.Errorf("with --cache-from: %v", r)
			}
			if got := imageOf(b); got != want {
				t.Errorf("of the cache came\n%s, want\n%s", got, want)
			}
			// What came is the engine's own now. (What only the tool's stage has never came: nothing needed its files.)
			if r := build(b, "--target", "base"); cachedSteps(r) != 1 {
				t.Errorf("built again without --cache-from: %v", r)
			}
			build(b, "--cache-from", c.from)
			compareTrees(t, treeOf(t, b, "cached"), treeOf(t, a, "cached"))
			forget(b)
		})
	}

	t.Run("in a folder", func(t *testing.T) {
		data, err := os.ReadFile(filepath.Join(folder, "index.json"))
		if err != nil || !strings.Contains(string(data), `"org.opencontainers.image.ref.name":"latest"`) {
			t.Errorf("index.json: %s, %v", data, err)
		}
		var index struct{ Manifests []struct{ Digest string } }
		if err := json.Unmarshal(data, &index); err != nil {
			t.Fatal(err)
		}
		data, err = os.ReadFile(filepath.Join(folder, "blobs/sha256", strings.TrimPrefix(index.Manifests[0].Digest, "sha256:")))
		if err != nil || !strings.Contains(string(data), "application/vnd.buildkit.cacheconfig.v0") || !strings.Contains(string(data), "tar+gzip") {
			t.Errorf("the cache's manifest: %s, %v", data, err)
		}
	})

	t.Run("inline", func(t *testing.T) {
		name := addr + "/inline:1"
		if r := buildIn(t, a, dir, "", "--progress", "plain", "--network", "none", "--cache-to", "type=inline", "-t", name, "--push", "."); r.Code != 0 || cachedSteps(r) != steps {
			t.Errorf("with --cache-to: %v", r)
		}
		// The stage that the image has no layer of is done anew; what it made before is found by its files only where it is the same.
		r := build(b, "--target", "base", "--cache-from", name)
		if cachedSteps(r) != 1 || strings.Contains(r.Err, "WARNING") {
			t.Errorf("with --cache-from: %v", r)
		}
		forget(b)
		okOn(t, b, "pull", "-q", name) // the classic builder asks images that are here
		if r := must(t, classic(b, "--network", "none", "--target", "base", "--cache-from", name, dir)); r.Code != 0 || strings.Count(r.Out, "Using cache") != 1 {
			t.Errorf("the classic builder: %v", r)
		}
		forget(b)
	})

	t.Run("with a change", func(t *testing.T) {
		if err := os.WriteFile(filepath.Join(dir, "in"), []byte("2\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		r := build(b, "--cache-from", "type=local,src="+folder)
		if n := cachedSteps(r); n == 0 || n >= steps {
			t.Errorf("%d of %d steps were cached: %v", n, steps, r)
		}
		out := okOn(t, b, "run", "--rm", "--network", "none", "cached", "sh", "-c", "cat /result; stat -c '%a %u:%g' /random; cat /d/link; ls /d")
		if !strings.Contains(out, "\n2\n") || !strings.Contains(out, "4711 5:6") || strings.Contains(out, "gone") {
			t.Errorf("in the image: %s", out)
		}
		okOn(t, b, "rmi", "-f", "cached")
	})
}

// TestBuildCacheElsewhereBad: what is wrong with a cache is named. One that cannot be read is no reason not to build; one that cannot be
// written is.
func TestBuildCacheElsewhereBad(t *testing.T) {
	dir, folder := contextDir(t, map[string]string{"Dockerfile": "FROM busybox\nRUN true\n"}), t.TempDir()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--cache-to type=gha", 1, `invalid --cache-to "type=gha": unknown cache exporter: "gha"`},
		{"--cache-from type=s3,ref=x", 1, `unknown cache importer: "s3"`},
		{"--cache-to type=registry", 1, "it needs a reference, ref="},
		{"--cache-to type=registry,ref=UPPER", 1, "invalid reference format"},
		{"--cache-to type=local", 1, "it needs a folder, dest="},
		{"--cache-from type=local,src=" + folder, 1, "has no cache"},
		{"--cache-to type=local,dest=x,mode=some", 1, "min and max are known"},
		{"--cache-to type=local,dest=x,modus=max", 1, `unknown key "modus"`},
		{"--cache-to type=inline,mode=max", 1, "mode=max is for registry and local"},
		{"--cache-to type=inline -o " + folder + "/out", 1, "it needs an image to be in"},
		{"--cache-to type=registry,ref=127.0.0.1:1/x", 1, "export cache to 127.0.0.1:1/x"},
		{"--cache-to type=registry,ref=127.0.0.1:1/x,ignore-error=true", 0, "WARNING: export cache to 127.0.0.1:1/x"},
		{"--cache-from 127.0.0.1:1/x", 0, "WARNING: importing cache from 127.0.0.1:1/x failed"},
	} {
		r := buildIn(t, gantry, dir, "", append(append([]string{"--progress", "plain", "--network", "none"}, strings.Fields(c.args)...), ".")...)
		if r.Code != c.code || !strings.Contains(r.Err, c.want) {
			t.Errorf("%s: want %q and status %d: %v", c.args, c.want, c.code, r)
		}
	}
	for _, bad := range []struct{ index, want string }{
		{"nonsense", "read index.json"},
		{`{"manifests":[]}`, `the OCI layout has no "latest"`},
		{`{"manifests":[{"digest":"sha256:` + strings.Repeat("0", 64) + `"}]}`, "failed"},
	} {
		if err := os.WriteFile(filepath.Join(folder, "index.json"), []byte(bad.index), 0o644); err != nil {
			t.Fatal(err)
		}
		r := buildIn(t, gantry, dir, "", "--progress", "plain", "--network", "none", "--cache-from", "type=local,src="+folder, ".")
		if r.Code != 0 || !strings.Contains(r.Err, "WARNING: importing cache from a folder failed") || !strings.Contains(r.Err, bad.want) {
			t.Errorf("%s: want %q: %v", bad.index, bad.want, r)
		}
	}
}
