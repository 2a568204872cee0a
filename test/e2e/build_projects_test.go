//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"gantry/test/engine"
)

// outside is how programs of a build reach what lies outside the engine's host, which has a loopback and nothing else: a proxy that
// listens there and asks from here.
type outside struct {
	addr  string
	asked atomic.Int64
}

// newOutside serves, until the end of the test, the module proxy that `go env GOPROXY` names at /go, the registry of
// `npm config get registry` at /npm/, and as a proxy of HTTP everything.
func newOutside(t *testing.T, e *engine.Engine) *outside {
	t.Helper()
	l := listen(t, e)
	o := &outside{addr: l.Addr().String()}
	modules, registry := moduleProxy(t), npmRegistry(t)
	forward := func(base *url.URL, under string) http.Handler {
		return &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.Header.Del("Accept-Encoding") // for what is looked into
				if base != nil {
					r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, under)
					r.Out.URL.RawPath = strings.TrimPrefix(r.In.URL.RawPath, under)
					r.SetURL(base)
				}
			},
			ModifyResponse: func(resp *http.Response) error {
				if under != "/npm" || !strings.Contains(resp.Header.Get("Content-Type"), "json") {
					return nil
				}
				// The registry says where it has an archive.
				data, err := io.ReadAll(resp.Body)
				if err != nil {
					return err
				}
				resp.Body.Close()
				data = bytes.ReplaceAll(data, []byte(strings.TrimSuffix(base.String(), "/")+"/"), []byte(o.npm()))
				resp.Body = io.NopCloser(bytes.NewReader(data))
				resp.ContentLength = int64(len(data))
				resp.Header.Set("Content-Length", strconv.Itoa(len(data)))
				return nil
			},
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/go/", forward(modules, "/go"))
	mux.Handle("/npm/", forward(registry, "/npm"))
	all := forward(nil, "")
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.asked.Add(1)
		if r.URL.IsAbs() {
			all.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return o
}

func (o *outside) goProxy() string { return "http://" + o.addr + "/go" }
func (o *outside) npm() string     { return "http://" + o.addr + "/npm/" }
func (o *outside) proxy() string   { return "http://" + o.addr }

// moduleProxy is the first address of GOPROXY.
func moduleProxy(t *testing.T) *url.URL {
	t.Helper()
	out, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatalf("go env GOPROXY: %v", err)
	}
	for _, s := range strings.FieldsFunc(string(out), func(r rune) bool { return r == ',' || r == '|' || r == '\n' }) {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			return u
		}
	}
	t.Fatalf("GOPROXY is %s: this test needs the address of a module proxy", out)
	return nil
}

// npmRegistry is the one that npm is told of here, or, where there is no npm, the one that it asks by itself.
func npmRegistry(t *testing.T) *url.URL {
	t.Helper()
	cmd := exec.Command("npm", "config", "get", "registry")
	if _, err := exec.LookPath("npm"); err != nil {
		cmd = gantry.CLI("run", "--rm", "--network", "none", "node", "npm", "config", "get", "registry")
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	u, err := url.Parse(strings.TrimSpace(string(out)))
	if err != nil || u.Host == "" {
		t.Fatalf("npm's registry is %q", out)
	}
	return u
}

// project copies one of testdata/projects, to be changed.
func project(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(engine.Repo(), "test/e2e/testdata/projects", name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// change replaces text in a project's file.
func change(t *testing.T, name, from, to string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(from)) {
		t.Fatalf("%s has no %q", name, from)
	}
	if err := os.WriteFile(name, bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// load takes images of test/images into the shared engine, where they stay.
func load(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if r := must(t, gantry.CLI("image", "inspect", name)); r.Code != 0 {
			ok(t, "load", "-q", "-i", imagePath(name))
		}
	}
}

// builtFrom builds a project, and returns what the build said.
func builtFrom(t *testing.T, dir string, args ...string) string {
	t.Helper()
	r := buildIn(t, gantry, dir, "", append([]string{"--progress", "plain", "-t", filepath.Base(dir) + "-project"}, append(args, ".")...)...)
	if r.Code != 0 {
		t.Fatal(r)
	}
	t.Cleanup(func() { engine.Run(gantry.CLI("rmi", "-f", filepath.Base(dir)+"-project")) })
	return r.Err
}

// served runs a container and returns how to ask the program in it.
func served(t *testing.T, port string, args ...string) func(path string) string {
	t.Helper()
	id := ok(t, append([]string{"run", "-d"}, args...)...)
	t.Cleanup(func() { ok(t, "rm", "-f", id) })
	addr := ok(t, "inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", id) + ":" + port
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return dial(gantry, addr) }}}
	return func(path string) (text string) {
		t.Helper()
		waitFor(t, func() bool { // until it listens
			resp, err := client.Get("http://" + addr + path)
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			data, err := io.ReadAll(resp.Body)
			text = string(data)
			return err == nil && resp.StatusCode == http.StatusOK
		})
		return text
	}
}

// TestBuildGoService: several stages, modules from a proxy, and caches by which a change needs no network and compiles what changed.
func TestBuildGoService(t *testing.T) {
	load(t, "golang")
	dir, net := project(t, "go"), newOutside(t, gantry)
	args := []string{"--network", "host", "--build-arg", "GOPROXY=" + net.goProxy(), "--build-arg", "VERSION=1.0"}
	said := builtFrom(t, dir, args...)
	if strings.Contains(said, "gofmt") {
		t.Errorf("a stage that nothing needs was built: %s", said)
	}
	if got := served(t, "8080", "go-project")("/x"); !strings.HasPrefix(got, "service 1.0, ") || len(strings.TrimSpace(got)) != len("service 1.0, ")+36 {
		t.Errorf("the service says %q", got)
	}
	builtFrom(t, dir, append(args, "--target", "lint")...)

	before := net.asked.Load()
	change(t, filepath.Join(dir, "main.go"), "service %s", "changed %s")
	if said = builtFrom(t, dir, args...); strings.Count(said, "CACHED") < 3 {
		t.Errorf("after a change of one file: %s", said)
	}
	if got := served(t, "8080", "go-project")("/x"); !strings.HasPrefix(got, "changed 1.0, ") {
		t.Errorf("after the change the service says %q", got)
	}
	change(t, filepath.Join(dir, "go.mod"), "go 1.19", "go 1.18") // the modules are asked for again, and are in the cache mount
	builtFrom(t, dir, args...)
	if asked := net.asked.Load() - before; asked != 0 {
		t.Errorf("the builds after the first asked the module proxy %d times", asked)
	}
}

// TestBuildNodeFrontEnd: packages from npm's registry, whose address is a secret of the build's, and what comes of them on a web server.
func TestBuildNodeFrontEnd(t *testing.T) {
	load(t, "node", "nginx")
	dir, net := project(t, "node"), newOutside(t, gantry)
	npmrc := filepath.Join(t.TempDir(), "npmrc")
	if err := os.WriteFile(npmrc, []byte("registry="+net.npm()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--network", "host", "--secret", "id=npmrc,src=" + npmrc}
	builtFrom(t, dir, args...)
	get := served(t, "80", "node-project")
	if page := get("/"); !strings.Contains(page, "main.js") {
		t.Errorf("the page is %q", page)
	}
	if script := get("/main.js"); !strings.Contains(script, "pressed ") || strings.Contains(script, "import") {
		t.Errorf("the script is %q", script)
	}
	before := net.asked.Load()
	change(t, filepath.Join(dir, "src/main.jsx"), "pressed", "pushed")
	builtFrom(t, dir, args...)
	if script := served(t, "80", "node-project")("/main.js"); !strings.Contains(script, "pushed ") {
		t.Errorf("after the change the script is %q", script)
	}
	if asked := net.asked.Load() - before; asked != 0 {
		t.Errorf("a change of the source asked the registry %d times", asked)
	}
	if history := ok(t, "history", "--no-trunc", "node-project") + ok(t, "image", "inspect", "node-project"); strings.Contains(history, net.addr) {
		t.Errorf("the registry's address, a secret, is in the image: %s", history)
	}
}

// TestBuildPythonApp: packages by apt-get, through a proxy that is in no layer, into cache mounts that are locked.
func TestBuildPythonApp(t *testing.T) {
	dir, net := project(t, "python"), newOutside(t, gantry)
	args := []string{"--network", "host", "--build-arg", "http_proxy=" + net.proxy()}
	builtFrom(t, dir, args...)
	if got := served(t, "5000", "python-project")("/"); got != "<p>Hello, world!</p>" {
		t.Errorf("the application says %q", got)
	}
	before := net.asked.Load()
	change(t, filepath.Join(dir, "templates/hello.html"), "Hello", "Good day")
	builtFrom(t, dir, args...)
	get := served(t, "5000", "--name", "python-app", "python-project")
	if got := get("/"); got != "<p>Good day, world!</p>" {
		t.Errorf("after the change the application says %q", got)
	}
	if asked := net.asked.Load() - before; asked != 0 {
		t.Errorf("a change of a template asked for packages %d times", asked)
	}
	if who := ok(t, "exec", "python-app", "sh", "-c", "id -un; stat -c %U app.py; find /var/lib/apt /var/cache/apt -name '*Packages*' -o -name '*.deb' 2>/dev/null; true"); who != "nobody\nnobody" {
		t.Errorf("in the container: %q", who)
	}
	if config := ok(t, "image", "inspect", "python-project"); strings.Contains(config, net.addr) {
		t.Errorf("the proxy's address is in the image: %s", config)
	}
}

// TestBuildCProgram: sources by a pattern, make, its check, and the program alone on another base.
func TestBuildCProgram(t *testing.T) {
	load(t, "gcc")
	dir := project(t, "c")
	builtFrom(t, dir, "--network", "none")
	if got := ok(t, "run", "--rm", "--network", "none", "c-project"); !strings.HasPrefix(got, "usage: ") {
		t.Errorf("the program says %q", got)
	}
	cmd := gantry.CLI("run", "--rm", "-i", "--network", "none", "c-project", "-")
	cmd.Stdin = strings.NewReader("one two\nthree\n")
	if r := must(t, cmd); r.Out != "2 lines, 3 words, 14 bytes\n" {
		t.Errorf("the program says %v", r)
	}
	change(t, filepath.Join(dir, "count.c"), "n.words++", "n.words--")
	r := buildIn(t, gantry, dir, "", "--network", "none", ".")
	if r.Code != 1 || !strings.Contains(r.Err, `process "/bin/sh -c make -j2 && make check && make install DESTDIR=/out PREFIX=/usr" did not complete successfully: exit code: 2`) || !strings.Contains(r.Err, "Dockerfile:6") {
		t.Errorf("a check that fails: %v", r)
	}
}
