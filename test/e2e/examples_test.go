//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
	"gantry/test/engine"
)

// lessonImages are what the lessons run, as test/images/make makes them under the names that the lessons use.
var lessonImages = []string{"busybox", "debian", "nginx", "redis", "mysql", "tomcat"}

// Addresses of the engine's host, as the lessons' transcripts have it, and of its neighbour.
const (
	hostIP      = "192.168.111.167"
	neighbourIP = "192.168.111.1"
)

// TestExamples runs every lesson of examples/ with both command lines. A lesson ends with an error when something that it shows
// is wrong; that what its READMEs show is what it does is checked here. A file "needs-gantry" says that a lesson
// shows what the stock command line has not.
func TestExamples(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(engine.Repo(), "examples", "*", "run.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no lessons: %v", err)
	}
	for _, cli := range []string{"gantry", "docker"} {
		t.Run(cli, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, lessonImages...)
			for _, script := range scripts {
				lesson := filepath.Dir(script)
				t.Run(filepath.Base(lesson), func(t *testing.T) {
					if _, err := os.Stat(filepath.Join(lesson, "needs-gantry")); err == nil && cli != "gantry" {
						t.Skip("shows what only gantry has")
					}
					transcript := h.lesson(t, cli, script)
					if cli == "gantry" {
						checkReadmes(t, lesson, transcript)
					}
				})
			}
		})
	}
}

// host is an engine with all images on a machine with a neighbour, for lessons.
type host struct {
	*engine.Engine
	config    string
	neighbour *netns.Namespace
}

// newHost starts it; it has an address of its own and a default route, by the neighbour, as a learner's machine has.
func newHost(t *testing.T, images ...string) host {
	t.Helper()
	root := filepath.Join(scratch, fmt.Sprint("lessons-", nextRoot()))
	if err := os.MkdirAll(root, 0o711); err != nil {
		t.Fatal(err)
	}
	h := host{config: filepath.Join(root, "daemon.json")}
	if err := os.WriteFile(h.config, []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Engine = engine.Gantry(root, "--config-file", h.config)
	if err := boot(h.Engine, images...); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, h.Engine)
	h.wire(t)
	return h
}

// wire connects the engine's host with a neighbour.
func (h *host) wire(t *testing.T) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	var self *netns.Namespace
	check(h.Inside(func() (err error) { self, err = netns.Current(); return err }))
	defer self.Close()
	var err error
	h.neighbour, err = netns.New()
	check(err)
	t.Cleanup(func() { h.neighbour.Close() })
	out := h.neighbour.Links()
	check(out.AddBridge(&link.Bridge{Name: "wire", MTU: 1500, Addrs: []netip.Prefix{netip.MustParsePrefix(neighbourIP + "/24")}}))
	wire, err := out.Find("wire")
	check(err)
	check(out.AddVeth(&link.Veth{Name: "tohost", Master: wire.Index, MTU: 1500, Peer: "lan0",
		PeerMAC: net.HardwareAddr{2, 0, 192, 168, 111, 167}, PeerNS: self.Fd()}))
	check(self.Links().Configure(&link.Interface{Name: "lan0", Addrs: []netip.Prefix{netip.MustParsePrefix(hostIP + "/24")},
		Gateways: []netip.Addr{netip.MustParseAddr(neighbourIP)}}))
}

// lesson runs a lesson's script with a command line and returns what it printed.
func (h host) lesson(t *testing.T, cli, script string) string {
	t.Helper()
	bin := t.TempDir()
	program := map[string]string{"gantry": h.Program, "docker": "/usr/bin/docker"}[cli]
	if err := os.Symlink(program, filepath.Join(bin, cli)); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(t.TempDir(), "lesson")
	cmd := exec.Command(script)
	cmd.Dir = filepath.Dir(script)
	cmd.Env = append(h.CLI().Env, "DOCKER="+cli, "DATA="+data, "HOST_IP="+hostIP, "PATH="+bin+":"+os.Getenv("PATH"),
		"DAEMON_JSON="+h.config, "PIDFILE="+filepath.Join(h.Root, "pid"))
	cmd.Env = append(cmd.Env, "DEBS="+debs(t))
	r := inside(t, h.Engine, cmd)
	if r.Code != 0 {
		t.Fatal(r)
	}
	for _, noun := range []string{"container ls -aq", "network ls -q -f type=custom", "volume ls -q"} {
		if left := must(t, h.StockCLI(strings.Fields(noun)...)); left.Code == 0 && left.Out != "" {
			t.Errorf("the lesson leaves behind: %v", left)
		}
	}
	return strings.ReplaceAll(r.Out, data, "/tmp/lesson")
}

// checkReadmes finds every command that a lesson's READMEs show in what its script did; "…" stands for anything.
func checkReadmes(t *testing.T, lesson, transcript string) {
	t.Helper()
	var all [][]string
	for _, name := range []string{"README.md", "README.zh-CN.md"} {
		b, err := os.ReadFile(filepath.Join(lesson, name))
		if err != nil {
			t.Error(err)
			continue
		}
		var shown []string
		for line := range strings.Lines(string(b)) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "$ ") {
				continue
			}
			shown = append(shown, line)
			pattern := strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*")
			if !regexp.MustCompile("(?m)^" + pattern + "$").MatchString(transcript) {
				t.Errorf("%s shows what the script does not do: %s", name, line)
			}
		}
		all = append(all, shown)
	}
	if len(all) == 2 && !slices.Equal(all[0], all[1]) {
		t.Errorf("the two READMEs show different commands:\n%s\n\n%s", strings.Join(all[0], "\n"), strings.Join(all[1], "\n"))
	}
}

// TestPortsFromOutside: a neighbour reaches every form of -p that is for it, and none that is not; nginx sees who asks.
func TestPortsFromOutside(t *testing.T) {
	t.Parallel()
	h := newHost(t, "nginx")
	for _, form := range []struct {
		flag string
		addr string // where the neighbour finds it; empty: nowhere, or at the port that the engine chose
	}{
		{"8081:80", hostIP + ":8081"},
		{hostIP + ":8082:80", hostIP + ":8082"},
		{"8090-8092:80", ""},
		{hostIP + "::80", ""},
		{"80", ""},
		{"127.0.0.1:8083:80", "-"},
	} {
		okOn(t, h.Engine, "run", "-d", "--name", "web", "-p", form.flag, "nginx")
		addr := form.addr
		if addr == "" {
			_, port, _ := net.SplitHostPort(strings.Fields(okOn(t, h.Engine, "port", "web", "80"))[0])
			addr = net.JoinHostPort(hostIP, port)
		}
		get := func(url string) (r engine.Result) {
			if err := h.neighbour.Do(func() error {
				r = engine.Run(exec.Command("curl", "-s", "-S", "--max-time", "20", "--retry", "100", "--retry-connrefused", "--retry-delay", "1", url))
				return r.Failed
			}); err != nil {
				t.Fatal(err)
			}
			return r
		}
		if addr == "-" {
			if err := h.neighbour.Do(func() error {
				_, err := net.DialTimeout("tcp", hostIP+":8083", 5*time.Second)
				return err
			}); err == nil {
				t.Errorf("-p %s: the neighbour gets in", form.flag)
			}
		} else {
			if r := get("http://" + addr); !strings.Contains(r.Out, "Welcome to nginx!") {
				t.Errorf("-p %s: %v", form.flag, r)
			}
			// nginx logs a request after it has answered it.
			for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
				log := okOn(t, h.Engine, "logs", "web")
				if strings.Contains(log, neighbourIP+" - - ") {
					break
				}
				if time.Now().After(end) {
					t.Errorf("-p %s: nginx has not seen who asks:\n%s", form.flag, log)
					break
				}
			}
		}
		okOn(t, h.Engine, "rm", "-f", "web")
	}
}
