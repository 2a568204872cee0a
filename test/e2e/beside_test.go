//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
	"gantry/test/engine"
)

// answer is what a container does that says who it is to everybody who connects to its ports 80 and 81.
func answer(who string) string {
	return fmt.Sprintf(`echo -n %s >/who; busybox nc -ll -p 81 -e cat /who & exec busybox nc -ll -p 80 -e cat /who`, who)
}

// TestBesideDocker: a real dockerd, with its bridge and its rules, and ours on one host. Ports that either publishes are
// reached from everywhere, whoever's rules are taken away or made again; and ours leaves nothing behind.
func TestBesideDocker(t *testing.T) {
	// What dockerd calls iptables writes into nf_tables or into the kernel's older tables.
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) {
			b := newBeside(t, backend)
			b.docker("run", "-d", "--name", "theirs", "--stop-signal", "KILL", "-p", "9090:80", "busybox", "sh", "-c", answer("theirs"))
			before := b.global()
			e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint("b", nextRoot()))).Within(b.Host)
			if err := boot(e, "busybox"); err != nil {
				t.Fatal(err)
			}
			cleanUp(t, e)
			okOn(t, e, "network", "create", "--subnet", "10.86.0.0/24", "back")
			okOn(t, e, "run", "-d", "--name", "ours", "-p", "8080:80", "busybox", "sh", "-c", answer("ours"))
			okOn(t, e, "run", "-d", "--name", "ours2", "--network", "back", "-p", "8081:80", "busybox", "sh", "-c", answer("ours2"))
			ours, ours2 := namespaceOf(t, e, "ours"), namespaceOf(t, e, "ours2")
			table := ""
			for _, line := range strings.Split(b.run("nft", "list", "tables"), "\n") {
				if strings.Contains(line, "gantry") {
					table = strings.TrimPrefix(line, "table ")
				}
			}
			check := func(when string, docker bool) {
				t.Helper()
				ask := func(from string, ns *netns.Namespace, addr, want string) {
					t.Helper()
					var got string
					var err error
					for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
						if got, err = lab.Ask(ns, "tcp", addr, 2*time.Second); err == nil && got == want {
							return
						}
					}
					t.Errorf("%s: from %s %s answers %q, %v; want %q", when, from, addr, got, err, want)
				}
				published := map[string]string{"8080": "ours", "8081": "ours2"}
				from := map[string]*netns.Namespace{"the host": b.Host, "outside": b.Outside, "ours": ours, "ours2": ours2}
				if docker {
					published["9090"] = "theirs"
					from["theirs"] = b.container("theirs")
				}
				for who, ns := range from {
					for port, want := range published {
						ask(who, ns, lab.HostAddr+":"+port, want)
						if ns == b.Host {
							ask(who, ns, "127.0.0.1:"+port, want)
						}
					}
					if ns != b.Host && ns != b.Outside {
						ask(who, ns, lab.OutsideAddr+":80", "outside "+lab.HostAddr)
					}
				}
				if t.Failed() {
					t.FailNow()
				}
			}
			check("at first", true)
			b.run("sh", "-c", "nft flush table "+table)
			check("after a flush of our table", true)
			b.run("sh", "-c", "nft delete table "+table)
			check("without our table", true)
			b.restartDocker()
			b.docker("start", "theirs")
			check("after dockerd's restart", true)
			b.stopDocker()
			b.forgetDocker()
			check("without dockerd and its rules", false)
			lab.Sysctl(t, b.Host, "net/ipv4/ip_forward", "0")
			b.startDocker()
			b.docker("start", "theirs")
			check("after the return of both", true)
			e.Kill()
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			check("after our own restart", true)

			okOn(t, e, "rm", "-f", "ours", "ours2")
			okOn(t, e, "network", "rm", "back")
			if err := e.Stop(); err != nil {
				t.Fatal(err)
			}
			for what, left := range b.all() {
				for line := range strings.Lines(left) {
					if strings.Contains(line, "gantry") || strings.Contains(line, "br-") || strings.Contains(line, "10.86.") {
						t.Errorf("left in %s: %s", what, line)
					}
				}
			}
			after := b.global()
			for name, v := range before {
				if after[name] != v {
					t.Errorf("%s was %q and is %q", name, v, after[name])
				}
			}
			if got, err := lab.Ask(b.Outside, "tcp", lab.HostAddr+":9090", 10*time.Second); err != nil || got != "theirs" {
				t.Errorf("theirs, when ours is gone: %q, %v", got, err)
			}
		})
	}
}

// beside is a host with a real dockerd on it.
type beside struct {
	*lab.Lab
	t      *testing.T
	d      *engine.Engine
	env    string
	legacy bool
}

func newBeside(t *testing.T, backend string) *beside {
	b := &beside{Lab: lab.New(t), t: t, legacy: backend == "legacy"}
	lab.Serve(t, b.Outside, "tcp", ":80", "outside")
	bin := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, tool := range []string{"", "-save", "-restore"} {
			if err := os.Symlink("/usr/sbin/"+name+"-"+backend+tool, filepath.Join(bin, name+tool)); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.env = "PATH=" + bin + ":" + os.Getenv("PATH")
	b.d = engine.DockerWithNetworks(filepath.Join(scratch, fmt.Sprint("d", nextRoot()))).Within(b.Host)
	lab.Sysctl(t, b.Host, "net/ipv4/ip_forward", "0")
	b.startDocker()
	t.Cleanup(func() {
		b.docker("rm", "-f", "theirs")
		if err := b.d.Stop(); err != nil {
			t.Error(err)
		}
	})
	b.docker("load", "-q", "-i", imagePath("busybox"))
	return b
}

func (b *beside) docker(args ...string) string {
	b.t.Helper()
	r := must(b.t, b.d.StockCLI(args...))
	if r.Code != 0 {
		b.t.Fatal(r)
	}
	return strings.TrimSpace(r.Out)
}

func (b *beside) container(name string) *netns.Namespace {
	b.t.Helper()
	ns, err := netns.Open("/proc/" + b.docker("inspect", "-f", "{{.State.Pid}}", name) + "/ns/net")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ns.Close() })
	return ns
}

// run runs a program of the host's.
func (b *beside) run(name string, args ...string) (out string) {
	b.t.Helper()
	if err := b.Host.Do(func() error {
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), b.env)
		o, err := cmd.CombinedOutput()
		out = string(o)
		return err
	}); err != nil {
		b.t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return out
}

func (b *beside) startDocker() {
	b.t.Helper()
	if err := b.d.Start(b.env); err != nil {
		b.t.Fatal(err)
	}
	if !strings.Contains(b.run("sh", "-c", "iptables -S FORWARD"), "-P FORWARD DROP") {
		b.t.Fatal("this dockerd does not drop what is forwarded")
	}
}

func (b *beside) stopDocker() {
	b.t.Helper()
	if err := b.d.Stop(); err != nil {
		b.t.Fatal(err)
	}
}

func (b *beside) restartDocker() {
	b.stopDocker()
	b.startDocker()
}

// forgetDocker takes all its rules away, as a firewall's restart does.
func (b *beside) forgetDocker() {
	b.run("sh", "-ec", `for t in filter nat; do iptables -t $t -F; iptables -t $t -X; done; iptables -P FORWARD ACCEPT; ip6tables -F; ip6tables -X; ip6tables -P FORWARD ACCEPT`)
}

// all is what the host shows of networks.
func (b *beside) all() map[string]string {
	return map[string]string{
		"nf_tables": b.run("nft", "list", "ruleset"), "iptables-legacy": b.run("iptables-legacy-save"), "ip6tables-legacy": b.run("ip6tables-legacy-save"),
		"routes": b.run("ip", "route", "show", "table", "all"), "IPv6 routes": b.run("ip", "-6", "route", "show", "table", "all"),
		"ip rules": b.run("ip", "rule"), "IPv6 rules": b.run("ip", "-6", "rule"), "interfaces": b.run("ip", "addr"),
	}
}

// global are the sysctls of the host that are of no interface which comes and goes.
func (b *beside) global() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(b.run("sh", "-c", `cd /proc/sys/net; grep -rs . ipv4/ip_forward ipv4/conf ipv6/conf bridge || true`)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if f := strings.Split(name, "/"); len(f) < 4 || f[2] == "all" || f[2] == "default" || f[2] == "uplink" || f[2] == "lo" || f[2] == "docker0" {
			m[name] = value
		}
	}
	return m
}
