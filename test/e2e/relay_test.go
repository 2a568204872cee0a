//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
	"gantry/test/engine"
)

// componentPid asks the engine for the process of one of its programs; 0 is none.
func componentPid(t *testing.T, e *engine.Engine, name string) int {
	t.Helper()
	var v struct {
		Components []struct {
			Name    string
			Details map[string]string
		}
	}
	if code, text := call(t, e, "GET", "/version", ""); code != 200 || json.Unmarshal([]byte(text), &v) != nil {
		t.Fatal(code, text)
	}
	for _, c := range v.Components {
		if c.Name == name {
			pid, _ := strconv.Atoi(c.Details["Pid"])
			return pid
		}
	}
	return 0
}

// killRelay kills it, and returns its process ID. There is one soon, if there is not one now.
func killRelay(t *testing.T, e *engine.Engine) int {
	t.Helper()
	pid := otherRelay(t, e, 0)
	syscall.Kill(pid, syscall.SIGKILL)
	return pid
}

// otherRelay waits for a relay that is not old.
func otherRelay(t *testing.T, e *engine.Engine, old int) int {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if now := componentPid(t, e, "relay"); now != 0 && now != old {
			return now
		}
	}
	t.Fatal("no relay came")
	return 0
}

// namespaceOf opens the network namespace of a container.
func namespaceOf(t *testing.T, e *engine.Engine, name string) *netns.Namespace {
	t.Helper()
	ns, err := netns.Open("/proc/" + okOn(t, e, "inspect", "-f", "{{.State.Pid}}", name) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// resolve asks the name server of the namespace. There may be no such name: then the list is empty.
func resolve(ns *netns.Namespace, network, name string) (list []string, err error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = ns.Do(func() (err error) {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, "127.0.0.11:53")
			return err
		})
		return c, err
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip4", name+".")
	if e := (*net.DNSError)(nil); errors.As(err, &e) && (e.IsNotFound || e.Err == "server misbehaving") {
		err = nil // no such name, or nobody else to ask
	}
	for _, a := range addrs {
		list = append(list, a.Unmap().String())
	}
	return list, err
}

// TestNamesAndPortsOutliveTheDaemon: what the issue calls the relay's reason. A container's names and published ports are
// there while the daemon is dead, when it is back, and when the relay was killed.
func TestNamesAndPortsOutliveTheDaemon(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "network", "create", "--subnet", "10.83.0.0/24", "n1")
	okOn(t, e, "run", "-d", "--name", "web", "--network", "n1", "--ip", "10.83.0.80", "-p", "8080:80", "-p", "127.0.0.1::80", "busybox", "sh", "-c", "echo page >/index.html; httpd -f -p 80")
	okOn(t, e, "run", "-d", "--name", "client", "--network", "n1", "busybox", "sleep", "1000")
	// It has port 53 for a server of its own.
	okOn(t, e, "run", "-d", "--name", "dnsd", "--network", "n1", "busybox", "nc", "-l", "-p", "53", "-e", "cat")
	client, dnsd := namespaceOf(t, e, "client"), namespaceOf(t, e, "dnsd")
	// A port that nobody chose stays as it is.
	random := ""
	for line := range strings.Lines(okOn(t, e, "port", "web", "80/tcp")) {
		if strings.HasPrefix(line, "127.0.0.1:") {
			random = strings.TrimSpace(line)
		}
	}
	check := func(when string) {
		t.Helper()
		for _, ns := range []*netns.Namespace{client, dnsd} {
			for _, network := range []string{"udp", "tcp"} {
				if got, err := resolve(ns, network, "web"); err != nil || !slices.Equal(got, []string{"10.83.0.80"}) {
					t.Errorf("%s, by %s: web is %v, %v", when, network, got, err)
				}
			}
		}
		for _, addr := range []string{"127.0.0.1:8080", "[::1]:8080", random} {
			var text string
			var err error
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
				if text, err = page(e, addr); err == nil {
					break // the server in it needs a moment to begin
				}
			}
			if text != "page\n" {
				t.Errorf("%s: %s answers %q, %v", when, addr, text, err)
			}
		}
		if err := e.Inside(func() error {
			l, err := net.Listen("tcp", ":8080")
			if err == nil {
				l.Close()
			}
			return err
		}); err == nil {
			t.Errorf("%s: another program could take the port", when)
		}
	}
	key := okOn(t, e, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "web")
	if out, err := exec.Command("nsenter", "--net="+key, "ip", "-br", "addr").CombinedOutput(); err != nil || !strings.Contains(string(out), "10.83.0.80") {
		t.Errorf("in the sandbox %s: %s, %v", key, out, err)
	}
	check("at first")
	for range 2 {
		e.Kill()
		check("without a daemon")
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		check("after its return")
		old := killRelay(t, e)
		check("without a relay")
		otherRelay(t, e, old)
		check("with another relay")
		killRelay(t, e)
		e.Kill()
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		check("after the death of both")
	}
	if got, err := lab.Ask(dnsd, "tcp", "127.0.0.1:53", lab.Silence); err == nil && got != "" {
		t.Errorf("the container's own port 53 answers %q", got)
	}
	okOn(t, e, "rm", "-f", "web", "client", "dnsd")
	okOn(t, e, "network", "rm", "n1")
}

// page fetches index.html by a connection from the engine's network.
func page(e *engine.Engine, addr string) (string, error) {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		err = e.Inside(func() (err error) {
			d := net.Dialer{Timeout: 10 * time.Second}
			c, err = d.DialContext(ctx, network, addr)
			return err
		})
		return c, err
	}}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get("http://" + addr + "/index.html")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// crowd starts and removes containers on a network, and knows at every moment which of their names must be answered.
type crowd struct {
	t *testing.T
	e *engine.Engine
	c *http.Client

	mu   sync.Mutex
	have map[string]string // name → address, of those that are there for sure
	gone map[string]bool   // names of those that are not there for sure
}

// do asks the API until somebody answers: the daemon is killed now and then.
func (w *crowd) do(method, path, body string) (int, string) {
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		req, _ := http.NewRequest(method, "http://engine"+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		resp, err := w.c.Do(req)
		if err == nil {
			var b []byte
			b, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				return resp.StatusCode, string(b)
			}
		}
		if time.Now().After(end) {
			return 0, err.Error()
		}
	}
}

// life is one container's, from its creation to its removal. What the daemon's death cut short is done again.
func (w *crowd) life(name string, ask func(name string) ([]string, error)) {
	w.mu.Lock()
	delete(w.gone, name)
	w.mu.Unlock()
	if code, text := w.do("POST", "/containers/create?name="+name, `{"Image":"busybox","Cmd":["sleep","1000"],"HostConfig":{"NetworkMode":"crowd","PortBindings":{"80/tcp":[{}]}}}`); code != 201 && code != 409 {
		w.t.Errorf("create %s: %d %s", name, code, text)
		return
	}
	if code, text := w.do("POST", "/containers/"+name+"/start", ""); code != 204 && code != 304 {
		w.t.Errorf("start %s: %d %s", name, code, text)
	}
	var x struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	code, text := w.do("GET", "/containers/"+name+"/json", "")
	if err := json.Unmarshal([]byte(text), &x); code != 200 || err != nil {
		w.t.Errorf("inspect %s: %d %s", name, code, text)
	}
	addr := x.NetworkSettings.Networks["crowd"].IPAddress
	w.mu.Lock()
	w.have[name] = addr
	w.mu.Unlock()
	if got, err := ask(name); err != nil || !slices.Equal(got, []string{addr}) {
		w.t.Errorf("%s, started as %s, is %v, %v", name, addr, got, err)
	}
	w.mu.Lock()
	delete(w.have, name)
	w.mu.Unlock()
	if code, text := w.do("DELETE", "/containers/"+name+"?force=1", ""); code != 204 && code != 404 {
		w.t.Errorf("remove %s: %d %s", name, code, text)
	}
	if got, err := ask(name); err != nil || len(got) > 0 {
		w.t.Errorf("%s, removed, is %v, %v", name, got, err)
	}
	w.mu.Lock()
	w.gone[name] = true
	w.mu.Unlock()
}

// watch asks for names, of those that are there and of those that are not, until stop. It returns how often.
func (w *crowd) watch(n int, stop <-chan struct{}, ask func(name string) ([]string, error)) (asked int) {
	for {
		select {
		case <-stop:
			return asked
		default:
		}
		name := "c" + strconv.Itoa(rand.IntN(n))
		w.mu.Lock()
		before, gone := w.have[name], w.gone[name]
		w.mu.Unlock()
		got, err := ask(name)
		w.mu.Lock()
		after, still := w.have[name], w.gone[name]
		w.mu.Unlock()
		switch {
		case err != nil: // nobody is there to answer, for a moment
		case before != "" && before == after && !slices.Equal(got, []string{before}):
			w.t.Errorf("%s, of %s, is %v", name, before, got)
		case gone && still && len(got) > 0:
			w.t.Errorf("%s, which is gone, is %v", name, got)
		}
		asked++
	}
}

// TestTwoHundredContainers starts and removes them 8 at a time: nothing is left of them, and no name is answered wrongly; the
// same with the daemon killed in between, and then the relay.
func TestTwoHundredContainers(t *testing.T) {
	const n = 200
	e := ownEngine(t, "busybox")
	// Of few addresses: a lease that leaks is missed.
	okOn(t, e, "network", "create", "--subnet", "10.84.0.0/27", "crowd")
	okOn(t, e, "run", "-d", "--name", "watcher", "--network", "crowd", "-p", "80", "busybox", "sleep", "1000")
	watcher := namespaceOf(t, e, "watcher")
	w := &crowd{t: t, e: e, c: e.Client(), have: map[string]string{}, gone: map[string]bool{}}
	ask := func(name string) ([]string, error) { return resolve(watcher, "udp", name) }
	surely := func(name string) (got []string, err error) {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if got, err = ask(name); err == nil {
				break
			}
		}
		return got, err
	}
	before := holdings(t, e)
	for _, round := range []struct {
		name  string
		kills map[int]func()
	}{
		{"nobody dies", nil},
		{"daemon and relay die", map[int]func(){
			60:  func() { restart(t, e) },
			100: func() { killRelay(t, e) },
			140: func() {
				killRelay(t, e)
				restart(t, e)
			},
		}},
	} {
		began := time.Now()
		stop, asked := make(chan struct{}), make(chan int)
		go func() { asked <- w.watch(n, stop, ask) }()
		jobs := make(chan int)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for i := range jobs {
					w.life("c"+strconv.Itoa(i), surely)
				}
			})
		}
		for i := range n {
			if kill := round.kills[i]; kill != nil {
				kill()
			}
			jobs <- i
		}
		close(jobs)
		all.Wait()
		close(stop)
		t.Logf("%s: %d containers in %v, %d questions", round.name, n, time.Since(began).Round(time.Millisecond), <-asked)
		var left string
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if left = differs(before, holdings(t, e)); left == "" {
				break
			}
		}
		if left != "" {
			t.Fatalf("%s: left behind: %s", round.name, left)
		}
		if t.Failed() {
			return
		}
	}
	okOn(t, e, "rm", "-f", "watcher")
	okOn(t, e, "network", "rm", "crowd")
}

// holdings is what there is of networks on the host, in the engine's folders, and in the small programs.
func holdings(t *testing.T, e *engine.Engine) map[string]string {
	t.Helper()
	have := map[string]string{}
	e.Inside(func() error {
		links, _ := exec.Command("ip", "-br", "link").Output()
		have["interfaces"] = fmt.Sprint(strings.Count(string(links), "veth"))
		rules, _ := exec.Command("nft", "list", "ruleset").Output()
		have["elements"] = fmt.Sprint(strings.Count(string(rules), "tcp . "))
		sockets, _ := exec.Command("ss", "-Hlntu").Output()
		have["sockets"] = fmt.Sprint(strings.Count(string(sockets), "\n"))
		return nil
	})
	notes, _ := os.ReadDir(filepath.Join(e.Root, "exec", "network"))
	have["leases"] = fmt.Sprint(len(notes))
	if pid := componentPid(t, e, "relay"); pid != 0 {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); strings.HasPrefix(to, "socket:") {
				have["the relay's sockets"] += "."
			}
		}
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", e.Pid()))
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); strings.HasPrefix(to, "net:") {
			have["namespaces that the engine holds"] += "."
		}
	}
	return have
}

func differs(a, b map[string]string) (text string) {
	for k := range a {
		if a[k] != b[k] {
			text += fmt.Sprintf("%s: %s, were %s; ", k, b[k], a[k])
		}
	}
	return text
}

// linkSessions are links, on the default network and on others, and containers that are connected while they run.
var linkSessions = []session{
	{"links on the default network", []string{
		"docker run -d --name db -h dbhost --expose 5432 --expose 6000-6003 --expose 53/udp -e PASSWORD=secret busybox sleep 1000 | wc -c",
		"docker run -d --name my-cache busybox sleep 1000 | wc -c",
		"docker run -d --name web --link db:the-db --link my-cache busybox sleep 1000 | wc -c",
		"docker exec web grep -v -e ip6 -e localhost /etc/hosts | sed -n '1,2p' | cut -f2 | sort; docker exec web ping -c1 -W5 the-db | head -1 | cut -d' ' -f2; docker exec web ping -c1 -W5 dbhost | head -1 | cut -d' ' -f2",
		"docker exec web env | grep -E '^(THE_DB|MY_CACHE)' | sort",
		"docker run --rm --link db:d busybox env | grep -E '^D_' | grep -v D_NAME | sort",
		"docker run --rm --link db:d -e D_NAME=mine busybox env | grep ^D_NAME",
		"docker inspect web -f '{{json .HostConfig.Links}}' | tr ',' '\\n' | tr -d '[]' | sort", "docker inspect db -f '{{json .HostConfig.Links}}'",
		"docker ps --no-trunc --filter name=db --format '{{.Names}}'; docker ps --filter name=db --format '{{.Names}}'",
		"docker inspect web/the-db -f '{{.Name}}'", "docker inspect web/nosuch -f '{{.Name}}'",
		// An address that has changed is known; the one of a link that is gone is not.
		"docker stop -t 0 db my-cache; docker start my-cache db; docker exec web ping -c1 -W5 the-db | head -1 | cut -d' ' -f2; docker exec web grep -c the-db /etc/hosts",
		"docker stop -t 0 web db; docker start web; docker start db web",
		"docker rm --link web/the-db; docker exec web grep -c the-db /etc/hosts; docker inspect web -f '{{len .HostConfig.Links}}'; docker ps -q | wc -l", "docker rm --link web", "docker rm --link web/nosuch",
		"docker rename my-cache cache2; docker inspect web -f '{{json .HostConfig.Links}}'",
		"docker rename cache2 my-cache; docker rm -f my-cache; docker stop -t 0 web; docker start web; docker inspect web -f '{{json .HostConfig.Links}}'", "!docker rm --link web/my-cache; docker start web; docker inspect web -f '{{json .HostConfig.Links}}'",
		"docker create --link nosuch busybox true", "docker create --link nosuch:x busybox true", "docker create --link '' busybox true", "docker create --link a:b:c busybox true",
		"docker create --network host --link db busybox true", "docker create --network container:db --link db busybox true",
		"docker create --name onhost --network host busybox true | wc -c; docker create --link onhost busybox true",
		"docker create --name alone --network none busybox sleep 1000 | wc -c; docker start alone; docker run --rm --link alone busybox true 2>&1 | grep -o 'Cannot link.*network'",
		"docker rm -f db web onhost alone; docker ps -aq | wc -l", "docker rm -f $(docker ps -aq)",
	}},
	{"links in a network", []string{
		"docker network create nl >/dev/null; docker run -d --name db --network nl -e A=b busybox sleep 1000 | wc -c",
		"docker run -d --name web --network nl --link db:the-db --link later:soon busybox sleep 1000 | wc -c",
		"docker exec web ping -c1 -W5 the-db | head -1 | cut -d' ' -f2; docker exec web env | grep -c THE_DB; docker exec web grep -cw db /etc/hosts",
		"docker run -d --name later --network nl busybox sleep 1000 | wc -c; docker exec web ping -c1 -W5 soon | head -1 | cut -d' ' -f2",
		"docker inspect web -f '{{json .HostConfig.Links}} {{json .NetworkSettings.Networks.nl.Links}}'",
		"docker network create nm >/dev/null; docker network connect --link db:other nm web; docker network connect nm db; docker exec web ping -c1 -W5 other | head -1 | cut -d' ' -f2",
		"docker rm -f db web later; docker network rm nl nm",
	}},
	{"connected while it runs", []string{
		"docker network create --subnet 10.85.0.0/24 nc >/dev/null; docker run -d --name there --network nc --ip 10.85.0.50 busybox sleep 1000 | wc -c",
		"docker run -d --name late -h latehost busybox sleep 1000 | wc -c; docker exec late grep -c 127.0.0.11 /etc/resolv.conf",
		"docker network connect --ip 10.85.0.60 --alias joined nc late; docker exec late ping -c1 -W5 there | head -1; docker exec there ping -c1 -W5 joined | head -1; docker exec there ping -c1 -W5 late.nc | head -1",
		"docker exec late grep -v '^#' /etc/resolv.conf; docker exec late grep 10.85 /etc/hosts; docker exec there nslookup 10.85.0.60 127.0.0.11 | grep -o 'name = late.nc'",
		"docker network disconnect nc late; docker exec late grep -c 10.85 /etc/hosts",
		"docker inspect there -f '{{len .NetworkSettings.SandboxID}} {{if .NetworkSettings.SandboxKey}}key{{end}}'",
		"docker inspect late -f '{{json .NetworkSettings.Ports}}'; docker stop -t 0 late; docker inspect late -f '{{.NetworkSettings.Gateway}}'",
		"docker rm -f there late; docker network rm nc",
	}},
}

// TestLinksDifferential holds links, and names of containers that are connected late, against a real dockerd.
func TestLinksDifferential(t *testing.T) {
	docker := engine.DockerWithNetworks(filepath.Join(scratch, "dl"))
	if err := boot(docker, "busybox"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := docker.Stop(); err != nil {
			t.Error(err)
		}
	})
	shellDifferential(t, linkSessions, ownEngine(t, "busybox"), docker, networkMask)
}
