//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gantry/test/engine"
)

// debianRegistry runs Debian's docker-registry on the engine's loopback, until the end of the test. It returns host:port.
func debianRegistry(t *testing.T, e *engine.Engine) string {
	t.Helper()
	dir := t.TempDir()
	addr := freeAddress(t, e)
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: %q}\n", dir, addr)
	return startRegistry(t, e, addr, config, func(path string) *exec.Cmd { return exec.Command("docker-registry", "serve", path) })
}

// ourRegistry runs `gantry registry serve`, until the end of the test.
func ourRegistry(t *testing.T, e *engine.Engine) string {
	t.Helper()
	addr := freeAddress(t, e)
	dir := t.TempDir()
	return startRegistry(t, e, addr, "", func(string) *exec.Cmd {
		return exec.Command(gantry.Program, "registry", "serve", "-l", addr, "-d", dir)
	})
}

// listen listens on the engine's loopback.
func listen(t *testing.T, e *engine.Engine) (l net.Listener) {
	t.Helper()
	err := e.Inside(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// dial connects to an address on the engine's loopback.
func dial(e *engine.Engine, addr string) (c net.Conn, err error) {
	err = e.Inside(func() (err error) {
		c, err = net.Dial("tcp", addr)
		return err
	})
	return c, err
}

// inside runs a command where the engine's loopback is.
func inside(t *testing.T, e *engine.Engine, cmd *exec.Cmd) (r engine.Result) {
	t.Helper()
	err := e.Inside(func() error {
		r = engine.Run(cmd)
		return r.Failed
	})
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return r
}

func freeAddress(t *testing.T, e *engine.Engine) string {
	t.Helper()
	l := listen(t, e)
	defer l.Close()
	return l.Addr().String()
}

func startRegistry(t *testing.T, e *engine.Engine, addr, config string, command func(path string) *exec.Cmd) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(path)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := e.Inside(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			said := out.String()
			t.Logf("the registry said at the end:\n%s", said[max(0, len(said)-2000):])
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if c, err := dial(e, addr); err == nil {
			c.Close()
			return addr
		}
		if time.Now().After(end) {
			t.Fatalf("the registry does not answer at %s", addr)
		}
	}
}

// manifestDigest asks skopeo, which nobody here has written.
func manifestDigest(t *testing.T, e *engine.Engine, ref string) string {
	t.Helper()
	r := inside(t, e, exec.Command("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+ref))
	if r.Code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.Out)
}

// TestRegistriesInAllPairings pushes and pulls with both command lines and skopeo, by both registries: digests stay.
func TestRegistriesInAllPairings(t *testing.T) {
	e := ownEngine(t, "busybox")
	debian, ours := debianRegistry(t, e), ourRegistry(t, e)
	for _, host := range []string{debian, ours} {
		name := host + "/course/busybox:1"
		okOn(t, e, "tag", "busybox", name)
		out := okOn(t, e, "push", name)
		if !strings.Contains(out, "The push refers to repository ["+host+"/course/busybox]") || !strings.Contains(out, ": Pushed\n") && !strings.Contains(out, ": Mounted from ") {
			t.Errorf("push said %q", out)
		}
		digest := manifestDigest(t, e, name)
		if !strings.Contains(out, "1: digest: "+digest+" size: ") {
			t.Errorf("push said %q, the digest is %s", out, digest)
		}
		okOn(t, e, "rmi", name)
		if r := must(t, e.StockCLI("pull", name)); r.Code != 0 || !strings.Contains(r.Out, "Digest: "+digest) {
			t.Errorf("stock pull: %v", r)
		}
		if got := okOn(t, e, "inspect", "-f", "{{.RepoDigests}}", name); !strings.Contains(got, host+"/course/busybox@"+digest) {
			t.Errorf("repository digests %s", got)
		}
		if r := must(t, e.StockCLI("push", "-a", host+"/course/busybox")); r.Code != 0 || !strings.Contains(r.Out, "Layer already exists") {
			t.Errorf("stock push: %v", r)
		}
		if got := okOn(t, e, "run", "--rm", "--pull", "always", "--network", "none", name, "echo", "hi"); !strings.HasSuffix(got, "hi") {
			t.Errorf("run said %q", got)
		}
		// What skopeo converts and pushes.
		if r := inside(t, e, exec.Command("skopeo", "copy", "-q", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+name, "docker://"+host+"/course/converted:2")); r.Code != 0 {
			t.Fatal(r)
		}
		okOn(t, e, "pull", "-q", host+"/course/converted:2")
		for _, to := range []string{debian, ours} {
			okOn(t, e, "tag", host+"/course/converted:2", to+"/copied/again:3")
			okOn(t, e, "push", "-q", to+"/copied/again:3")
			if a, b := manifestDigest(t, e, host+"/course/converted:2"), manifestDigest(t, e, to+"/copied/again:3"); a != b {
				t.Errorf("%s became %s", a, b)
			}
		}
		r := must(t, e.CLI("pull", host+"/course/busybox:none"))
		if r.Code != 1 || !strings.Contains(r.Err, "manifest for "+host+"/course/busybox:none not found: manifest unknown") {
			t.Errorf("absent tag: %v", r)
		}
	}
}

// slowly forwards to a registry and trickles large replies, so that there is time to kill.
func slowly(t *testing.T, e *engine.Engine, host string) (addr string, bytes *atomic.Int64) {
	t.Helper()
	target, err := url.Parse("http://" + host)
	if err != nil {
		t.Fatal(err)
	}
	bytes = new(atomic.Int64)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport = &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return dial(e, addr) }}
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.ContentLength > 100_000 {
			r.Body = &trickle{r.Body, bytes}
		}
		return nil
	}
	l := listen(t, e)
	srv := &http.Server{Handler: proxy}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String(), bytes
}

type trickle struct {
	io.ReadCloser
	n *atomic.Int64
}

func (r *trickle) Read(b []byte) (int, error) {
	time.Sleep(time.Millisecond)
	n, err := r.ReadCloser.Read(b[:min(len(b), 64<<10)])
	r.n.Add(int64(n))
	return n, err
}

// TestKilledPullsGoOn kills the engine at random moments of a pull: in the end the image is whole, and what had come
// was not fetched once more each time.
func TestKilledPullsGoOn(t *testing.T) {
	e := ownEngine(t, "debian")
	host := ourRegistry(t, e)
	okOn(t, e, "tag", "debian", host+"/debian:1")
	okOn(t, e, "push", "-q", host+"/debian:1")
	okOn(t, e, "rmi", "-f", "--now", okOn(t, e, "images", "-q", host+"/debian:1"))
	slow, bytes := slowly(t, e, host)
	name := slow + "/debian:1"
	killed := 0
	for range max(1, rounds()/20) {
		killed += killedPull(t, e, name)
	}
	fi, err := os.Stat(imagePath("debian"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d times killed, %d bytes came, the archive has %d", killed, bytes.Load(), fi.Size())
	if killed == 0 || bytes.Load() == 0 {
		t.Error("nothing was killed in the middle")
	}
	// A killed engine loses at most what was on its way: buffers, not layers.
	if most := fi.Size()*int64(max(1, rounds()/20)) + int64(killed+1)*(8<<20); bytes.Load() > most {
		t.Errorf("%d bytes came for an image of %d", bytes.Load(), fi.Size())
	}
}

// killedPull pulls an image with an engine that is killed up to 20 times meanwhile, runs it, and removes it.
func killedPull(t *testing.T, e *engine.Engine, name string) (killed int) {
	t.Helper()
	for ; killed < 20; killed++ {
		done := make(chan engine.Result, 1)
		go func() { done <- engine.Run(e.CLI("pull", "-q", name)) }()
		select {
		case r := <-done:
			if r.Code != 0 {
				t.Error(r)
			}
		case <-time.After(time.Duration(rand.IntN(250)) * time.Millisecond):
			e.Kill()
			<-done
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		break
	}
	okOn(t, e, "pull", "-q", name)
	if got := okOn(t, e, "run", "--rm", "--network", "none", name, "cat", "/etc/os-release"); !strings.Contains(got, "Debian") {
		t.Errorf("the image says %q", got)
	}
	okOn(t, e, "rmi", "-f", "--now", okOn(t, e, "images", "-q", name))
	return killed
}

// TestKilledCollections kills the engine at random moments of removing an image, whose layers are another's, too: that one
// stays whole, of the other there is everything or nothing, and what is left takes no room.
func TestKilledCollections(t *testing.T) {
	e := ownEngine(t, "busybox")
	host := ourRegistry(t, e)
	kept, gone := host+"/kept:1", host+"/gone:1"
	okOn(t, e, "tag", "busybox", kept)
	okOn(t, e, "run", "--name", "maker", "--network", "none", "busybox", "dd", "if=/dev/urandom", "of=/made", "bs=1M", "count=4")
	okOn(t, e, "commit", "maker", gone)
	okOn(t, e, "rm", "maker")
	okOn(t, e, "push", "-q", kept)
	okOn(t, e, "push", "-q", gone)
	killed := 0
	for round := range rounds() {
		okOn(t, e, "pull", "-q", gone)
		done := make(chan engine.Result, 1)
		go func() { done <- engine.Run(e.CLI("rmi", "-f", "--now", gone)) }()
		select {
		case <-done:
		case <-time.After(time.Duration(rand.IntN(30)) * time.Millisecond):
			killed++
			e.Kill()
			<-done // a command that was slow to begin must not meet the next engine
		}
		e.Kill()
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		okOn(t, e, "system", "check")
		for _, name := range []string{kept, gone} {
			if r := must(t, e.CLI("run", "--rm", "--pull", "never", "--network", "none", name, "ls")); r.Code != 0 && (name == kept || !strings.Contains(r.Err, "No such image")) {
				t.Errorf("round %d: %v", round, r)
			}
		}
	}
	if _, shares := usage(t, e); shares["orphans"] > 0 {
		t.Errorf("%d bytes belong to nothing", shares["orphans"])
	}
	t.Logf("%d of %d removals were killed", killed, rounds())
}

// TestLogin logs in at Debian's registry with a password, which config.json keeps, and out again.
func TestLogin(t *testing.T) {
	dir := t.TempDir()
	r := must(t, exec.Command("python3", "-c", "import crypt; print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"))
	if r.Code != 0 {
		t.Fatal(r)
	}
	users := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(users, []byte("user:"+r.Out), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddress(t, gantry)
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\nauth: {htpasswd: {realm: r, path: %s}}\n", dir, addr, users)
	host := startRegistry(t, gantry, addr, config, func(path string) *exec.Cmd { return exec.Command("docker-registry", "serve", path) })
	name := host + "/private/busybox"
	ok(t, "tag", "busybox", name)
	t.Cleanup(func() { cli(t, "rmi", name); cli(t, "logout", host) })
	if r := cli(t, "push", name); r.Code != 1 || !strings.Contains(r.Err, "no basic auth credentials") {
		t.Errorf("push without a login: %v", r)
	}
	login := func(password string) engine.Result {
		cmd := gantry.CLI("login", "-u", "user", "--password-stdin", host)
		cmd.Stdin = strings.NewReader(password + "\n")
		return must(t, cmd)
	}
	if r := login("wrong"); r.Code != 1 || !strings.Contains(r.Err, "unauthorized: authentication required") {
		t.Errorf("login with a wrong password: %v", r)
	}
	if r := login("secret"); r.Code != 0 || r.Out != "Login Succeeded\n" || !strings.Contains(r.Err, "stored unencrypted") {
		t.Errorf("login: %v", r)
	}
	ok(t, "push", "-q", name)
	if r := must(t, gantry.StockCLI("pull", name)); r.Code != 0 {
		t.Errorf("stock pull with our login: %v", r)
	}
	if r := cli(t, "logout", host); r.Code != 0 || r.Out != "Removing login credentials for "+host+"\n" {
		t.Errorf("logout: %v", r)
	}
	if r := cli(t, "pull", name); r.Code != 1 {
		t.Errorf("pull after the logout: %v", r)
	}
}
