//go:build e2e

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gantry/test/engine"
)

// rounds is how often something is killed: 20 times, or as the soak wants it.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("GANTRY_SOAK_ROUNDS")); err == nil {
		return n
	}
	return 20
}

// dockerBeside starts a real dockerd that shares e's loopback.
func dockerBeside(t *testing.T, e *engine.Engine, images ...string) *engine.Engine {
	t.Helper()
	d := engine.DockerBeside(filepath.Join(scratch, fmt.Sprint("d", nextRoot())), e)
	if err := boot(d, images...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// clientProgram builds a client that is a Go module.
func clientProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := made("test/clients/make", name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// registryClient can push busybox's archive under a name, and pull a name; both return the manifest's digest.
type registryClient struct {
	name       string
	push, pull func(t *testing.T, ref string) string
}

var digestIn = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func registryClients(t *testing.T, e, docker *engine.Engine) []registryClient {
	archive := imagePath("busybox")
	crane, regctl := clientProgram(t, "crane"), clientProgram(t, "regctl")
	do := func(t *testing.T, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "HOME="+scratch, "REGCTL_CONFIG="+filepath.Join(scratch, "regctl.json"))
		r := inside(t, e, cmd)
		if r.Code != 0 {
			t.Fatal(r)
		}
		return r.Out
	}
	first := func(t *testing.T, out string) string {
		t.Helper()
		d := digestIn.FindString(out)
		if d == "" {
			t.Fatalf("no digest in %q", out)
		}
		return d
	}
	byDaemon := func(command func(args ...string) *exec.Cmd) (push, pull func(t *testing.T, ref string) string) {
		run := func(t *testing.T, args ...string) string {
			t.Helper()
			r := must(t, command(args...))
			if r.Code != 0 {
				t.Fatal(r)
			}
			return r.Out
		}
		push = func(t *testing.T, ref string) string {
			run(t, "tag", "busybox", ref)
			out := run(t, "push", ref)
			return first(t, out[strings.LastIndex(out, "digest: "):])
		}
		pull = func(t *testing.T, ref string) string {
			engine.Run(command("rmi", ref))
			out := run(t, "pull", ref)
			if got := run(t, "run", "--rm", "--network", "none", ref, "echo", "whole"); got != "whole\n" {
				t.Errorf("%s says %q", ref, got)
			}
			return first(t, out[strings.LastIndex(out, "Digest: "):])
		}
		return push, pull
	}
	// The first TLS host option of regctl is for the registry of a reference.
	host := func(ref string) string {
		h, _, _ := strings.Cut(ref, "/")
		return "reg=" + h + ",tls=disabled"
	}
	ourPush, ourPull := byDaemon(e.CLI)
	theirPush, theirPull := byDaemon(docker.StockCLI)
	return []registryClient{
		{"gantry", ourPush, ourPull},
		{"dockerd", theirPush, theirPull},
		{"skopeo", func(t *testing.T, ref string) string {
			do(t, "skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+ref)
			return first(t, do(t, "skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", "docker://"+ref))
		}, func(t *testing.T, ref string) string {
			dir := t.TempDir()
			do(t, "skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "docker://"+ref, "dir:"+dir)
			data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
		}},
		{"crane", func(t *testing.T, ref string) string {
			return first(t, do(t, crane, "push", "--insecure", archive, ref))
		}, func(t *testing.T, ref string) string {
			layout := filepath.Join(t.TempDir(), "layout")
			do(t, crane, "pull", "--insecure", "--format", "oci", ref, layout)
			data, err := os.ReadFile(filepath.Join(layout, "index.json"))
			if err != nil {
				t.Fatal(err)
			}
			return first(t, string(data))
		}},
		{"regctl", func(t *testing.T, ref string) string {
			do(t, regctl, "--host", host(ref), "image", "import", ref, archive)
			return first(t, do(t, regctl, "--host", host(ref), "image", "digest", ref))
		}, func(t *testing.T, ref string) string {
			local := "ocidir://" + filepath.Join(t.TempDir(), "layout") + ":1"
			do(t, regctl, "--host", host(ref), "image", "copy", ref, local)
			return first(t, do(t, regctl, "image", "digest", local))
		}},
	}
}

// TestWhatOneClientPushesAllOthersPull has five clients push to two registries, and everyone pull from there: the digests are
// the same everywhere, also of what was pulled and pushed on.
func TestWhatOneClientPushesAllOthersPull(t *testing.T) {
	e := ownEngine(t, "busybox")
	docker := dockerBeside(t, e, "busybox")
	clients := registryClients(t, e, docker)
	hosts := []string{debianRegistry(t, e), ourRegistry(t, e)}
	for n, host := range hosts {
		for _, from := range clients {
			t.Run(fmt.Sprintf("%s to %s", from.name, []string{"Debian's", "ours"}[n]), func(t *testing.T) {
				ref := host + "/from/" + from.name + ":1"
				want := from.push(t, ref)
				for _, to := range clients {
					if got := to.pull(t, ref); got != want {
						t.Errorf("%s pushed %s, %s pulled %s", from.name, want, to.name, got)
					}
				}
				on := hosts[1-n] + "/on/" + from.name + ":1"
				okOn(t, e, "tag", ref, on)
				okOn(t, e, "push", "-q", on)
				if got := manifestDigest(t, e, on); got != want {
					t.Errorf("%s pushed %s, pulled and pushed on it is %s", from.name, want, got)
				}
			})
		}
	}
}

// TestCommittedImagesArePushed pushes an image whose layer has no archive yet: it is packed then, to the same bytes each time.
func TestCommittedImagesArePushed(t *testing.T) {
	e := ownEngine(t, "busybox")
	host := ourRegistry(t, e)
	okOn(t, e, "run", "--name", "maker", "--network", "none", "busybox", "sh", "-c", "echo made >/made; rm -r /home; mkdir -p /a/b")
	okOn(t, e, "commit", "maker", host+"/made/one:1")
	digest := regexp.MustCompile(`digest: (sha256:\S+)`)
	push := func(name string) (out, d string) {
		t.Helper()
		out = okOn(t, e, "push", name)
		m := digest.FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("push said %q", out)
		}
		return out, m[1]
	}
	out, first := push(host + "/made/one:1")
	if strings.Count(out, ": Pushed") != 2 || strings.Count(out, ": Preparing") != 2 {
		t.Errorf("the first push said %q", out)
	}
	if out, again := push(host + "/made/one:1"); again != first || strings.Count(out, "Layer already exists") != 2 {
		t.Errorf("the second push: %s and not %s; it said %q", again, first, out)
	}
	okOn(t, e, "tag", host+"/made/one:1", host+"/made/two:1")
	if out, other := push(host + "/made/two:1"); other != first || strings.Count(out, "Mounted from made/one") != 2 {
		t.Errorf("the push to another repository: %s and not %s; it said %q", other, first, out)
	}
	// To a registry that has nothing of it, as the engine that has forgotten all it once sent.
	elsewhere := debianRegistry(t, e)
	okOn(t, e, "tag", host+"/made/one:1", elsewhere+"/made/three:1")
	if _, other := push(elsewhere + "/made/three:1"); other != first {
		t.Errorf("elsewhere it is %s and not %s", other, first)
	}
	okOn(t, e, "rm", "maker")
	okOn(t, e, "rmi", "-f", host+"/made/one:1", host+"/made/two:1", elsewhere+"/made/three:1")
	if got := okOn(t, e, "run", "--rm", "--pull", "always", "-q", "--network", "none", elsewhere+"/made/three:1", "sh", "-c", "cat /made; test -d /a/b && test ! -e /home && echo so"); got != "made\nso" && !strings.HasSuffix(got, "\nmade\nso") {
		t.Errorf("pulled back it says %q", got)
	}
}

// TestKilledPushes kills the engine at random moments of pushes. A tag that the registry has is whole, and a push that was
// killed can be made again.
func TestKilledPushes(t *testing.T) {
	e := ownEngine(t, "debian")
	host := ourRegistry(t, e)
	killed := 0
	for round := range rounds() {
		name := fmt.Sprintf("%s/round%d/debian:1", host, round)
		okOn(t, e, "tag", "debian", name)
		done := make(chan engine.Result, 1)
		go func() { done <- engine.Run(e.CLI("push", "-q", name)) }()
		select {
		case r := <-done:
			if r.Code != 0 {
				t.Error(r)
			}
		case <-time.After(time.Duration(rand.IntN(200)) * time.Millisecond):
			killed++
			e.Kill()
			<-done
			if problem := tagIsWhole(e, host, fmt.Sprintf("round%d/debian", round), "1"); problem != "" {
				t.Errorf("round %d: %s", round, problem)
			}
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			okOn(t, e, "push", "-q", name)
		}
		if problem := tagIsWhole(e, host, fmt.Sprintf("round%d/debian", round), "1"); problem != "" {
			t.Errorf("round %d, pushed: %s", round, problem)
		}
		if d := manifestDigest(t, e, name); d == "" {
			t.Errorf("round %d: no digest", round)
		}
		okOn(t, e, "rmi", "--now", name)
	}
	t.Logf("%d of %d pushes were killed", killed, rounds())
}

// tagIsWhole says what a tag lacks; nothing of one that is not there.
func tagIsWhole(e *engine.Engine, host, repo, tag string) string {
	c := insideClient(e)
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://" + host + "/v2/" + repo + "/manifests/" + tag)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return ""
	}
	type descriptor struct {
		Digest string
		Size   int64
	}
	var m struct {
		Config descriptor
		Layers []descriptor
	}
	if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
		return err.Error()
	}
	for _, d := range append(m.Layers, m.Config) {
		resp, err := c.Get("http://" + host + "/v2/" + repo + "/blobs/" + d.Digest)
		if err != nil {
			return err.Error()
		}
		hash := sha256.New()
		_, err = io.Copy(hash, resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("sha256:%x", hash.Sum(nil)); err != nil || got != d.Digest {
			return fmt.Sprintf("blob %s: %s, %v, content %s", d.Digest, resp.Status, err, got)
		}
	}
	return ""
}

// certificateHost is an address of the engine's network that is not loopback, where plain HTTP would do.
func certificateHost(t *testing.T, e *engine.Engine) string {
	t.Helper()
	const ip = "10.99.0.1"
	if r := inside(t, e, exec.Command("ip", "address", "add", ip+"/32", "dev", "lo")); r.Code != 0 {
		t.Fatal(r)
	}
	var l net.Listener
	if err := e.Inside(func() (err error) {
		l, err = net.Listen("tcp", ip+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestRegistryWithItsOwnCertificate runs a registry that makes its certificate, which the engines of this host trust, and
// only they: with no insecure setting they push, log in and pull.
func TestRegistryWithItsOwnCertificate(t *testing.T) {
	e := ownEngine(t, "busybox")
	docker := dockerBeside(t, e, "busybox")
	addr := certificateHost(t, e)
	data, name := t.TempDir(), addr+"/secure/busybox:1"
	users := filepath.Join(t.TempDir(), "users")
	r := must(t, exec.Command("python3", "-c", "import crypt; print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"))
	if err := os.WriteFile(users, []byte("user:"+r.Out), 0o600); err != nil || r.Code != 0 {
		t.Fatal(err, r)
	}
	const trust = "/etc/docker/certs.d" // both kinds of engines read it
	t.Cleanup(func() { os.RemoveAll(filepath.Join(trust, addr)) })
	_, port, _ := net.SplitHostPort(addr)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{"localhost", "127.0.0.1", "::1", hostname} {
		other := net.JoinHostPort(other, port)
		if _, err := os.Stat(filepath.Join(trust, other)); err != nil {
			t.Cleanup(func() { os.RemoveAll(filepath.Join(trust, other)) })
		}
	}
	startRegistry(t, e, addr, "", func(string) *exec.Cmd {
		return exec.Command(gantry.Program, "registry", "serve", "-l", addr, "-d", data, "--tls", "auto", "--tls-name", "10.99.0.1", "--tls-trust", trust, "--htpasswd", users)
	})
	for _, who := range []struct {
		name    string
		command func(args ...string) *exec.Cmd
	}{{"gantry", e.CLI}, {"the stock command line", e.StockCLI}, {"docker", docker.StockCLI}} {
		for _, args := range [][]string{
			{"login", "-u", "user", "-p", "secret", addr}, {"tag", "busybox", name}, {"push", name}, {"rmi", name}, {"pull", name}, {"logout", addr},
		} {
			if r := must(t, who.command(args...)); r.Code != 0 {
				t.Fatalf("%s: %v", who.name, r)
			}
		}
		if r := must(t, who.command("pull", name)); r.Code == 0 {
			t.Errorf("%s: a pull after the logout succeeded: %v", who.name, r)
		}
	}
	// Who does not have the authority is told what mends it.
	if err := os.RemoveAll(filepath.Join(trust, addr)); err != nil {
		t.Fatal(err)
	}
	r = must(t, e.CLI("pull", name))
	if r.Code != 1 || !strings.Contains(r.Err, "x509: certificate signed by unknown authority") || !strings.Contains(r.Err, "/etc/gantry/certs.d/"+addr) {
		t.Errorf("pull without the authority: %v", r)
	}
	if r := must(t, e.CLI("login", "--insecure", "-u", "user", "-p", "secret", addr)); r.Code != 0 {
		t.Error(r)
	}
	if r := must(t, e.CLI("pull", "--insecure", name)); r.Code != 0 {
		t.Error(r)
	}
}

// TestARegistryThatSpeaksTheOtherScheme: the message names the one line that mends it.
func TestARegistryThatSpeaksTheOtherScheme(t *testing.T) {
	e := ownEngine(t, "busybox")
	addr := certificateHost(t, e)
	startRegistry(t, e, addr, "", func(string) *exec.Cmd {
		return exec.Command(gantry.Program, "registry", "serve", "-l", addr, "-d", t.TempDir())
	})
	r := must(t, e.CLI("pull", addr+"/x"))
	if r.Code != 1 || !strings.Contains(r.Err, "http: server gave HTTP response to HTTPS client") || !strings.Contains(r.Err, `"insecure-registries": ["`+addr+`"]`) {
		t.Error(r)
	}
	okOn(t, e, "tag", "busybox", addr+"/x")
	okOn(t, e, "push", "--insecure", "-q", addr+"/x")
	okOn(t, e, "pull", "--insecure", "-q", addr+"/x")

	// The wrong port, and where the registry is instead.
	const port = "127.0.0.1:5000"
	startRegistry(t, e, port, "", func(string) *exec.Cmd {
		return exec.Command(gantry.Program, "registry", "serve", "-l", port, "-d", t.TempDir())
	})
	r = must(t, e.CLI("pull", "127.0.0.1/x"))
	if r.Code != 1 || !strings.Contains(r.Err, "connection refused\nNothing listens at 127.0.0.1, but at "+port+": write "+port+"/NAME") {
		t.Error(r)
	}
}

// TestRegistrySettingsReload: what daemon.json says of registries counts from the next SIGHUP on: who is insecure, mirrors, and
// proxies.
func TestRegistrySettingsReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "daemon.json")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("{}")
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("rr", nextRoot())), "--config-file", file)
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	addr := certificateHost(t, e)
	startRegistry(t, e, addr, "", func(string) *exec.Cmd {
		return exec.Command(gantry.Program, "registry", "serve", "-l", addr, "-d", t.TempDir())
	})
	okOn(t, e, "tag", "busybox", addr+"/org/x")
	if r := must(t, e.CLI("push", "-q", addr+"/org/x")); r.Code == 0 {
		t.Fatal(r)
	}
	reloaded := func(args ...string) string {
		t.Helper()
		if err := syscall.Kill(e.Pid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			r := must(t, e.CLI(args...))
			if r.Code == 0 {
				return r.Out
			}
			if time.Now().After(end) {
				t.Fatal(r)
			}
		}
	}
	write(`{"insecure-registries": ["` + addr + `"]}`)
	reloaded("push", "-q", addr+"/org/x")

	write(`{"mirrors": {"quay.invalid": "http://` + addr + `"}}`)
	if out := reloaded("pull", "quay.invalid/org/x"); !strings.Contains(out, "(mirror http://"+addr+")") {
		t.Errorf("the progress says %q", out)
	}

	// By a proxy, who alone knows where the host is.
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.Out.URL.Host = addr },
		Transport: &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return dial(e, addr) }},
	}
	l := listen(t, e)
	srv := &http.Server{Handler: proxy}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	write(`{"insecure-registries": ["reg.invalid:80"], "proxies": {"http-proxy": "http://` + l.Addr().String() + `"}}`)
	reloaded("pull", "-q", "reg.invalid:80/org/x")
	if got := okOn(t, e, "info", "-f", "{{.HTTPProxy}}"); got != "http://"+l.Addr().String() {
		t.Errorf("info says the proxy is %q", got)
	}
}

var registrySessions = []session{
	{"pull", []string{
		"docker pull $REG/course/debian:1",
		"docker pull $REG/course/debian:1",
		"docker pull -q $REG/course/debian:2",
		"docker pull $REG/course/debian",
		"~docker pull -a $REG/course/debian", // the order is the registry's there
		"docker pull -a $REG/course/debian:1",
		"docker pull $REG/course/debian:none",
		"docker pull $REG/course/nothing:1",
		"docker pull $REG/course/debian@sha256:0000000000000000000000000000000000000000000000000000000000000000",
		"docker pull $REG/Course/busybox",
		"docker pull $REG/course/debian:",
		"~docker pull 127.0.0.1:1/course/debian",
		"docker images --format '{{.Repository}}:{{.Tag}}' $REG/course/debian",
		"docker run --rm --network none $REG/course/debian:1 echo hi",
		"docker run --rm --pull always -q --network none $REG/course/debian:none true",
		"~docker rmi $REG/course/debian:1 $REG/course/debian:2 $REG/course/debian:latest",
	}},
	{"push", []string{
		"docker tag busybox $REG/by/$(basename $PWD):1",
		"docker push $REG/by/$(basename $PWD):1",
		"docker push $REG/by/$(basename $PWD):1",
		"docker push -q $REG/by/$(basename $PWD):1",
		"docker push $REG/by/$(basename $PWD):none",
		"docker push $REG/by/$(basename $PWD)",
		"docker push $REG/by/nothing-$(basename $PWD)",
		"docker push -a $REG/by/$(basename $PWD)",
		"docker push -a $REG/by/$(basename $PWD):1",
		"docker push -a $REG/by/nothing-$(basename $PWD)",
		"docker tag busybox $REG/mounted/$(basename $PWD):1",
		"docker push $REG/mounted/$(basename $PWD):1",
		"docker rmi $REG/by/$(basename $PWD):1 $REG/mounted/$(basename $PWD):1",
	}},
	{"login", []string{
		"docker pull $LOCKED/private/busybox:1",
		"docker tag busybox $LOCKED/private/busybox:1",
		"docker push $LOCKED/private/busybox:1",
		"~echo wrong | docker login -u user --password-stdin $LOCKED",
		"echo secret | docker login -u user --password-stdin $LOCKED 2>/dev/null",
		"docker push -q $LOCKED/private/busybox:1",
		"docker pull -q $LOCKED/private/busybox:1",
		"docker pull $LOCKED/private/busybox:none",
		"docker logout $LOCKED",
		"~docker logout $LOCKED",
		"docker pull $LOCKED/private/busybox:1",
		"~docker rmi $LOCKED/private/busybox:1",
	}},
	{"search", []string{
		"~docker search $OURS/busybox",
		"~docker search --limit 1 $OURS/busybox",
		"~docker search --no-trunc --filter stars=0 $OURS/busybox",
		"~docker search --filter is-official=true $OURS/busybox",
		"docker search --format '{{.Name}} {{.StarCount}}' $OURS/busybox",
		"~docker search $OURS/nothing",
		"~docker search --limit 1000 $OURS/busybox",
		"~docker search --filter what=1 $OURS/busybox",
	}},
	{"manifest inspect", []string{
		"nsenter -t $ENGINE -n docker manifest inspect --insecure $REG/course/debian:1",
		"~nsenter -t $ENGINE -n docker manifest inspect --insecure $REG/course/list:1",
		"~nsenter -t $ENGINE -n docker manifest inspect --insecure $REG/course/debian:none",
	}},
	{"info", []string{
		"docker info --format '{{json .RegistryConfig.Mirrors}} {{json .RegistryConfig.InsecureRegistryCIDRs}}'",
		"docker info --format '{{.Driver}} {{index .DriverStatus 0}} {{index .DriverStatus 1}}'",
	}},
}

func registryMask(s string) string {
	for _, m := range []struct{ re, to string }{
		{`sha256:[0-9a-f]{64}`, "<digest>"}, {`\b[0-9a-f]{12}\b`, "<id>"}, {`size: \d+`, "size: <n>"}, {`(by|mounted)/(nothing-)?(docker|stock|own)\b`, "$1/$2<who>"}, {`"::1/128",`, ""},
		{`127\.0\.0\.1:\d+`, "<host>"}, {`(?m)^<id>: (Waiting|Verifying Checksum|Preparing)\n`, ""},
		{`(?m)^(the (registry|repository)|you may not push) .*\n`, ""}, // what Docker does not say
	} {
		s = regexp.MustCompile(m.re).ReplaceAllString(s, m.to)
	}
	return s
}

// TestRegistriesDifferential holds what talks to registries against a real dockerd beside the engine.
func TestRegistriesDifferential(t *testing.T) {
	// Without a trash: what one session has removed the next one pulls anew.
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("rd", nextRoot())), "--trash", "0s")
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	docker := dockerBeside(t, e, "busybox")
	crane := clientProgram(t, "crane")
	debian, ours := debianRegistry(t, e), ourRegistry(t, e)
	dir := t.TempDir()
	r := must(t, exec.Command("python3", "-c", "import crypt; print(crypt.crypt('secret', crypt.mksalt(crypt.METHOD_BLOWFISH, rounds=16)))"))
	users := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(users, []byte("user:"+r.Out), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := freeAddress(t, e)
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %q}\nauth: {htpasswd: {realm: r, path: %s}}\n", dir, addr, users)
	locked := startRegistry(t, e, addr, config, func(path string) *exec.Cmd { return exec.Command("docker-registry", "serve", path) })
	for _, args := range [][]string{
		{"skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "docker-archive:" + imagePath("debian"), "docker://" + debian + "/course/debian:1"},
		{"skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "docker-archive:" + imagePath("busybox"), "docker://" + ours + "/course/busybox:1"},
		{crane, "tag", "--insecure", debian + "/course/debian:1", "2"},
		{crane, "tag", "--insecure", debian + "/course/debian:1", "latest"},
		{crane, "index", "append", "--insecure", "-m", debian + "/course/debian:1", "-t", debian + "/course/list:1", "--docker-empty-base"},
	} {
		if r := inside(t, e, exec.Command(args[0], args[1:]...)); r.Code != 0 {
			t.Fatal(r)
		}
	}
	t.Setenv("REG", debian)
	t.Setenv("OURS", ours)
	t.Setenv("LOCKED", locked)
	shellDifferential(t, registrySessions, e, docker, registryMask)
}

// insideClient speaks to what listens on the engine's loopback.
func insideClient(e *engine.Engine) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(_ context.Context, _, addr string) (net.Conn, error) { return dial(e, addr) }}}
}
