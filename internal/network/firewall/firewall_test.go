package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
	"gantry/internal/kernel/nft"
	"gantry/internal/kernel/xtables"
	"gantry/internal/network/lab"
)

type scene struct {
	*lab.Lab
	table      *Table
	a, b, c, d *netns.Namespace // a and b on br0; c on br1, where nobody speaks to siblings; d on br2, internal
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func port(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func addrs(s ...string) (l []netip.Addr) {
	for _, x := range s {
		l = append(l, netip.MustParseAddr(x))
	}
	return l
}

// filtered makes bridged packets pass the rules as well, as hosts with Docker or Kubernetes have it; or not.
func (s *scene) filtered(t *testing.T, on string) {
	t.Helper()
	if _, err := os.Stat("/proc/sys/net/bridge"); err != nil {
		if on == "1" {
			t.Skip("no br_netfilter")
		}
		return
	}
	lab.Sysctl(t, s.Host, "net/bridge/bridge-nf-call-iptables", on)
	lab.Sysctl(t, s.Host, "net/bridge/bridge-nf-call-ip6tables", on)
}

func newScene(t *testing.T) *scene {
	s := &scene{Lab: lab.New(t)}
	err := s.Host.Do(func() (err error) {
		s.table, err = Open("gantry-test", slog.New(slog.DiscardHandler))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.table.Close)
	for _, br := range []link.Bridge{
		{Name: "br0", MTU: lab.MTU, Addrs: []netip.Prefix{prefix("10.50.0.1/24"), prefix("fd50::1/64")}},
		{Name: "br1", MTU: lab.MTU, Addrs: []netip.Prefix{prefix("10.51.0.1/24")}},
		{Name: "br2", MTU: lab.MTU, Addrs: []netip.Prefix{prefix("10.52.0.1/24")}},
	} {
		if err := s.Host.Links().AddBridge(&br); err != nil {
			t.Fatal(err)
		}
		lab.Sysctl(t, s.Host, "net/ipv4/conf/"+br.Name+"/route_localnet", "1")
	}
	gw0, gw1 := addrs("10.50.0.1", "fd50::1"), addrs("10.51.0.1")
	s.a = s.Container(t, "br0", false, gw0, prefix("10.50.0.2/24"), prefix("fd50::2/64"))
	s.b = s.Container(t, "br0", false, gw0, prefix("10.50.0.3/24"), prefix("fd50::3/64"))
	s.c = s.Container(t, "br1", true, gw1, prefix("10.51.0.2/24"))
	s.d = s.Container(t, "br2", false, addrs("10.52.0.1"), prefix("10.52.0.2/24"))
	err = s.table.Set([]Network{
		{Bridge: "br0", Subnets: []netip.Prefix{prefix("10.50.0.0/24"), prefix("fd50::/64")}, V4: masquerade, V6: masquerade},
		{Bridge: "br1", Subnets: []netip.Prefix{prefix("10.51.0.0/24")}, V4: masquerade, NoICC: true}, {Bridge: "br2", Internal: true, V4: masquerade, V6: masquerade},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var masquerade = Family{Masquerade: true}

func tcp(host, target string) Port {
	return Port{Proto: unix.IPPROTO_TCP, Host: port(host), Target: port(target)}
}

// nft runs the nft program in the lab's host; the tests take it for the user and for other tools.
func (s *scene) nft(t *testing.T, args ...string) string {
	t.Helper()
	var out []byte
	err := s.Host.Do(func() (err error) {
		out, err = exec.Command("nft", args...).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("nft %v: %v: %s", args, err, out)
	}
	return string(out)
}

func needNft(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	}
}

func TestPublishedPorts(t *testing.T) {
	s := newScene(t)
	err := s.table.Publish([]Port{
		tcp("0.0.0.0:8080", "10.50.0.2:80"), tcp("[::]:8080", "[fd50::2]:80"),
		tcp("127.0.0.1:8081", "10.50.0.2:80"),
		tcp(lab.HostAddr+":8082", "10.51.0.2:80"),
		{Proto: unix.IPPROTO_UDP, Host: port("0.0.0.0:8080"), Target: port("10.50.0.3:53")},
	})
	if err != nil {
		t.Fatal(err)
	}
	lab.Serve(t, s.a, "tcp", ":80", "a")
	lab.Serve(t, s.c, "tcp", ":80", "c")
	lab.Serve(t, s.b, "udp4", ":53", "b")
	t.Run("from outside, with the client's address", func(t *testing.T) {
		lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
		lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8082", "c "+lab.OutsideAddr)
		lab.Answers(t, s.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "a "+lab.OutsideAddr6)
		lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8081", "")
	})
	t.Run("from the host", func(t *testing.T) {
		lab.Answers(t, s.Host, "tcp", "127.0.0.1:8080", "a 10.50.0.1")
		lab.Answers(t, s.Host, "tcp", "127.0.0.1:8081", "a 10.50.0.1")
		lab.Answers(t, s.Host, "tcp", lab.HostAddr+":8080", "a "+lab.HostAddr)
		lab.Answers(t, s.Host, "tcp", "["+lab.HostAddr6+"]:8080", "a "+lab.HostAddr6)
		lab.Answers(t, s.Host, "tcp", lab.HostAddr+":8081", "")
	})
	for _, on := range []string{"0", "1"} {
		t.Run("from siblings and from the container itself, br_netfilter "+on, func(t *testing.T) {
			s.filtered(t, on)
			lab.Answers(t, s.b, "tcp", lab.HostAddr+":8080", "a 10.50.0.1")
			lab.Answers(t, s.a, "tcp", "10.50.0.1:8080", "a 10.50.0.1")
			lab.Answers(t, s.c, "tcp", lab.HostAddr+":8080", "a 10.51.0.2")
			lab.Answers(t, s.b, "tcp", "["+lab.HostAddr6+"]:8080", "a fd50::1")
		})
	}
	t.Run("udp", func(t *testing.T) {
		lab.Answers(t, s.Host, "udp", "127.0.0.1:8080", "b 10.50.0.1")
	})
	if err := s.table.Withdraw([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80"), tcp("0.0.0.0:9999", "10.50.0.2:80")}); err != nil {
		t.Fatal(err)
	}
	lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "")
	lab.Answers(t, s.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "a "+lab.OutsideAddr6)
}

func TestWhoReachesWhom(t *testing.T) {
	s := newScene(t)
	lab.Serve(t, s.Outside, "tcp", ":80", "outside")
	lab.Serve(t, s.a, "tcp", ":80", "a")
	lab.Serve(t, s.c, "tcp", ":80", "c")
	lab.Serve(t, s.Host, "tcp", ":80", "host")
	// Outgoing packets wear the host's address.
	lab.Answers(t, s.a, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	lab.Answers(t, s.a, "tcp", "["+lab.OutsideAddr6+"]:80", "outside "+lab.HostAddr6)
	lab.Answers(t, s.b, "tcp", "10.50.0.2:80", "a 10.50.0.3")
	lab.Answers(t, s.c, "tcp", "10.50.0.2:80", "")
	// What is not published is not reached by who routes to it.
	must(t, s.Outside.Links().SetDefault("wire", addrs(lab.HostAddr)))
	lab.Answers(t, s.Outside, "tcp", "10.50.0.2:80", "")
	// Without icc siblings are apart, on the bridge and through the host.
	e := s.Container(t, "br1", true, addrs("10.51.0.1"), prefix("10.51.0.3/24"))
	for _, on := range []string{"0", "1"} {
		s.filtered(t, on)
		lab.Answers(t, e, "tcp", "10.51.0.2:80", "")
	}
	lab.Answers(t, e, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	// An internal network is closed, even to one who sets up a route.
	lab.Serve(t, s.d, "tcp", ":80", "d")
	lab.Answers(t, s.d, "tcp", lab.OutsideAddr+":80", "")
	lab.Answers(t, s.d, "tcp", lab.HostAddr+":80", "")
	lab.Answers(t, s.d, "tcp", "10.52.0.1:80", "host 10.52.0.2")
	lab.Answers(t, s.Host, "tcp", "10.52.0.2:80", "d 10.52.0.1")
	lab.Answers(t, s.Outside, "tcp", "10.52.0.2:80", "")
}

// TestLoopbackStaysTheHostsOwn is CVE-2020-8558: route_localnet makes the kernel take packets for 127.0.0.1 from
// the wire.
func TestLoopbackStaysTheHostsOwn(t *testing.T) {
	s := newScene(t)
	lab.Sysctl(t, s.Host, "net/ipv4/conf/all/route_localnet", "1")
	lab.Sysctl(t, s.Outside, "net/ipv4/conf/all/route_localnet", "1")
	lab.Serve(t, s.Host, "tcp", "127.0.0.1:80", "host")
	must(t, s.table.Publish([]Port{tcp("127.0.0.1:8081", "10.50.0.2:80")}))
	lab.Serve(t, s.a, "tcp", ":80", "a")
	lab.Answers(t, s.Host, "tcp", "127.0.0.1:80", "host 127.0.0.1")
	attack := func() string {
		out, _ := lab.Ask(s.Outside, "tcp", "127.0.0.1:80", lab.Silence)
		return out
	}
	// The neighbour takes 127.0.0.1 off its own loopback and sends it over the wire.
	must(t, s.Outside.Do(func() error {
		for _, c := range []string{"ip addr del 127.0.0.1/8 dev lo", "ip route add 127.0.0.1/32 via " + lab.HostAddr + " dev wire src " + lab.OutsideAddr,
			"ip route del table local 127.0.0.0/8 dev lo"} {
			if out, err := exec.Command("sh", "-c", c).CombinedOutput(); err != nil && !strings.Contains(string(out), "No such") {
				t.Logf("%s: %v: %s", c, err, out)
			}
		}
		return nil
	}))
	if got := attack(); got != "" {
		t.Errorf("the host's loopback answered the neighbour: %q", got)
	}
	lab.Answers(t, s.Outside, "tcp", "127.0.0.1:8081", "")
	// The test is one only if the attack works without our rule.
	needNft(t)
	s.nft(t, "flush", "chain", "inet", "gantry-test", "raw")
	s.table.Close()
	s.nft(t, "flush", "ruleset")
	if got := attack(); got != "host "+lab.OutsideAddr {
		t.Errorf("the attack does not work here even without the rule: %q", got)
	}
	s.reopen(t)
}

func (s *scene) reopen(t *testing.T) {
	must(t, s.Host.Do(func() (err error) {
		s.table, err = Open("gantry-test", slog.New(slog.DiscardHandler))
		return err
	}))
	t.Cleanup(s.table.Close)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits for what another goroutine does; it is bounded.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come about", what)
		}
	}
}

func TestFlushedRulesRepairThemselves(t *testing.T) {
	needNft(t)
	s := newScene(t)
	must(t, s.table.Publish([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80")}))
	lab.Serve(t, s.a, "tcp", ":80", "a")
	for _, how := range [][]string{
		{"flush", "ruleset"}, {"delete", "table", "inet", "gantry-test"}, {"flush", "chain", "inet", "gantry-test", "forward"},
		{"flush", "map", "inet", "gantry-test", "port4"}, {"flush", "table", "inet", "gantry-test"},
	} {
		s.nft(t, how...)
		eventually(t, "repair after "+strings.Join(how, " "), func() bool {
			s.table.mu.Lock()
			defer s.table.mu.Unlock()
			return s.table.whole()
		})
		lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	}
}

func TestUserChainIsTheUsers(t *testing.T) {
	needNft(t)
	s := newScene(t)
	must(t, s.table.Publish([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80")}))
	lab.Serve(t, s.a, "tcp", ":80", "a")
	s.nft(t, "add", "rule", "inet", "gantry-test", UserChain, "ip", "saddr", lab.OutsideAddr, "drop")
	lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "")
	// A change of networks, and the next engine, leave it alone.
	must(t, s.table.AddNetwork(Network{Bridge: "br9"}))
	s.table.Close()
	s.reopen(t)
	must(t, s.table.Set([]Network{{Bridge: "br0", Subnets: []netip.Prefix{prefix("10.50.0.0/24")}, V4: masquerade, V6: masquerade}}, []Port{tcp("0.0.0.0:8080", "10.50.0.2:80")}))
	lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "")
	lab.Answers(t, s.b, "tcp", lab.HostAddr+":8080", "a 10.50.0.1")
}

// TestBesideOthersThatDrop is the host with Docker's or ufw's chains: iptables-nft's table, policy drop.
func TestBesideOthersThatDrop(t *testing.T) {
	needNft(t)
	s := newScene(t)
	must(t, s.table.Publish([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80"), tcp("[::]:8080", "[fd50::2]:80")}))
	lab.Serve(t, s.a, "tcp", ":80", "a")
	drop := func() {
		s.nft(t, "add", "table", "ip", "filter")
		s.nft(t, "add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }")
		// As firewalld writes it: the policy lets pass, the last rule does not.
		s.nft(t, "add", "table", "inet", "firewalld")
		s.nft(t, "add", "chain", "inet", "firewalld", "filter_FORWARD", "{ type filter hook forward priority 10; policy accept; }")
		s.nft(t, "add", "rule", "inet", "firewalld", "filter_FORWARD", "ct", "state", "{ established, related }", "accept")
		s.nft(t, "add", "rule", "inet", "firewalld", "filter_FORWARD", "ct", "state", "invalid", "drop")
		s.nft(t, "add", "rule", "inet", "firewalld", "filter_FORWARD", "reject", "with", "icmpx", "admin-prohibited")
		// Not one that refuses some packets only, or comes to an end.
		s.nft(t, "add", "table", "inet", "mine")
		s.nft(t, "add", "chain", "inet", "mine", "some", "{ type filter hook forward priority 20; policy accept; }")
		s.nft(t, "add", "rule", "inet", "mine", "some", "ip", "saddr", "203.0.113.0/24", "drop")
		s.nft(t, "add", "chain", "inet", "mine", "passes", "{ type filter hook forward priority 21; policy accept; }")
		s.nft(t, "add", "rule", "inet", "mine", "passes", "counter", "accept")
	}
	passed := func() bool {
		return strings.Count(s.nft(t, "list", "ruleset"), "of gantry-test") == 3*2*2
	}
	drop() // after ours
	eventually(t, "an accept in the others' chains", passed)
	lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	lab.Answers(t, s.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "a "+lab.OutsideAddr6)
	s.nft(t, "flush", "chain", "ip", "filter", "FORWARD")
	eventually(t, "the accept's return", passed)
	s.nft(t, "flush", "ruleset")
	drop()
	eventually(t, "the return of all", passed)
	lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	for _, br := range []string{"br0", "br1", "br2"} {
		must(t, s.table.RemoveNetwork(br))
	}
	if left := s.nft(t, "list", "ruleset"); strings.Contains(left, "gantry") || strings.Contains(left, "br0") {
		t.Errorf("something of ours is left:\n%s", left)
	}
}

// TestBesideAnOwner: a table that is its owner's alone gets no accept of ours, but the others do, and networks are made.
func TestBesideAnOwner(t *testing.T) {
	needNft(t)
	s := newScene(t)
	s.nft(t, "add", "table", "ip", "filter")
	s.nft(t, "add", "chain", "ip", "filter", "FORWARD", "{ type filter hook forward priority 0; policy drop; }")
	owner := exec.Command("nft", "-i")
	in, err := owner.StdinPipe()
	must(t, err)
	must(t, s.Host.Do(owner.Start))
	defer owner.Wait()
	defer in.Close()
	fmt.Fprintln(in, "add table inet theirs { flags owner; }")
	fmt.Fprintln(in, "add chain inet theirs fw { type filter hook forward priority 10; policy drop; }")
	eventually(t, "the owner's chain", func() bool { return strings.Contains(s.nft(t, "list", "ruleset"), "chain fw") })
	must(t, s.table.AddNetwork(Network{Bridge: "br9"}))
	if out := s.nft(t, "list", "table", "ip", "filter"); !strings.Contains(out, "from br9 of gantry-test") || !strings.Contains(out, "to br0 of gantry-test") {
		t.Error(out)
	}
	must(t, s.table.RemoveNetwork("br9"))
	if out := s.nft(t, "list", "ruleset"); strings.Contains(out, "br9") || !strings.Contains(out, "flags owner") {
		t.Error(out)
	}
}

// TestBesideLegacyThatDrops is the host with Docker's or ufw's chains written by iptables-legacy.
func TestBesideLegacyThatDrops(t *testing.T) {
	s := newScene(t)
	run := func(program string, args ...string) (out string) {
		t.Helper()
		if !strings.HasSuffix(program, "-save") { // which takes no lock
			args = append([]string{"-w", "60"}, args...) // ours may be at work, and those of other tests, in other namespaces
		}
		must(t, s.Host.Do(func() error {
			b, err := exec.Command(program, args...).CombinedOutput()
			if out = string(b); err != nil {
				err = fmt.Errorf("%s %v: %w: %s", program, args, err, out)
			}
			return err
		}))
		return out
	}
	if _, err := exec.LookPath("iptables-legacy"); err != nil {
		t.Skip("needs iptables-legacy")
	}
	if err := s.Host.Do(exec.Command("iptables-legacy", "-w", "60", "-S").Run); err != nil {
		t.Skip("this kernel has no legacy tables; TestLegacyCommand holds what would be run")
	}
	must(t, s.table.Publish([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80"), tcp("[::]:8080", "[fd50::2]:80")}))
	lab.Serve(t, s.a, "tcp", ":80", "a")
	lab.Serve(t, s.Outside, "tcp", ":80", "outside")
	works := func() {
		t.Helper()
		lab.Answers(t, s.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
		lab.Answers(t, s.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "a "+lab.OutsideAddr6)
		lab.Answers(t, s.a, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	}
	both := []string{"iptables-legacy", "ip6tables-legacy"}
	accepts := func(n int) func() bool {
		return func() bool {
			for _, program := range both {
				if strings.Count(run(program, "-S"), "of gantry-test") != n {
					return false
				}
			}
			return true
		}
	}
	each := func(args ...string) {
		for _, program := range both {
			run(program, args...)
		}
	}
	// Who drops nothing is left alone.
	works()
	if !accepts(0)() {
		t.Fatal("accepts where nothing is dropped")
	}
	// What comes after our networks is seen, too.
	each("-P", "FORWARD", "DROP")
	eventually(t, "an accept in the legacy tables", accepts(6))
	works()
	each("-F")
	eventually(t, "the accept's return", accepts(6))
	works()
	must(t, s.table.AddNetwork(Network{Bridge: "br9"}))
	s.table.PassLegacy()
	if !accepts(8)() {
		t.Error(run(both[0], "-S"))
	}
	must(t, s.table.RemoveNetwork("br9"))
	s.table.PassLegacy()
	if !accepts(6)() {
		t.Error(run(both[0], "-S"))
	}
	// It is taken back when it is not needed any more, and at the end.
	each("-P", "FORWARD", "ACCEPT")
	eventually(t, "the accept's end", accepts(0))
	each("-A", "FORWARD", "-j", "REJECT")
	eventually(t, "an accept before the reject", accepts(6))
	works()
	for _, br := range []string{"br0", "br1", "br2"} {
		must(t, s.table.RemoveNetwork(br))
	}
	s.table.PassLegacy()
	for _, program := range both {
		if left := run(program + "-save"); strings.Contains(left, "gantry") || strings.Contains(left, "br0") || !strings.Contains(left, "REJECT") {
			t.Errorf("something of ours is left, or something of others is not:\n%s", left)
		}
	}
}

// TestLegacyCommand is what iptables-legacy-restore gets to read.
func TestLegacyCommand(t *testing.T) {
	t.Parallel()
	table := &Table{mine: "of gantry", nets: map[string]Network{"gantry0": {}, "br+": {}, "br \"x": {}}}
	for _, c := range []struct {
		chain xtables.Chain
		want  string
	}{
		{xtables.Chain{}, ""},
		{xtables.Chain{Drops: true}, `*filter
-I FORWARD -i gantry0 -m comment --comment "from gantry0 of gantry" -j ACCEPT
-I FORWARD -o gantry0 -m comment --comment "to gantry0 of gantry" -j ACCEPT
COMMIT
`},
		{xtables.Chain{Refuses: true, Comments: []string{"to gantry0 of gantry", "to gantry0 of gantry", "from gantry0 of gantry-2", "from old1 of gantry", "from a;b of gantry"}}, `*filter
-D FORWARD -o gantry0 -m comment --comment "to gantry0 of gantry" -j ACCEPT
-D FORWARD -i old1 -m comment --comment "from old1 of gantry" -j ACCEPT
-I FORWARD -i gantry0 -m comment --comment "from gantry0 of gantry" -j ACCEPT
COMMIT
`},
		{xtables.Chain{Drops: true, Comments: []string{"to gantry0 of gantry", "from gantry0 of gantry"}}, ""},
	} {
		if got := table.legacyScript(&c.chain); got != c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.chain, got, c.want)
		}
	}
}

// TestLegacySlow: while iptables-legacy waits for others, ports are published, networks made and taken away; and the last word is about
// the networks that there are then.
func TestLegacySlow(t *testing.T) {
	s := newScene(t)
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	must(t, unix.Mkfifo(dir+"/go", 0o600))
	must(t, os.WriteFile(dir+"/iptables-legacy-restore", []byte("#!/bin/sh\ncat >>"+dir+"/asked\ncat "+dir+"/go\n"), 0o755))
	s.table.passing.Lock() // watchLegacy of this machine's other runs
	s.table.forward = func(v6 bool) (*xtables.Chain, error) {
		if v6 {
			return nil, nil
		}
		return &xtables.Chain{Drops: true}, nil
	}
	s.table.passing.Unlock()
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		s.table.PassLegacy()
	}()
	asked := func() string {
		b, _ := os.ReadFile(dir + "/asked")
		return string(b)
	}
	eventually(t, "a run", func() bool { return strings.Contains(asked(), "COMMIT") })
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(s.table.Publish([]Port{tcp("0.0.0.0:8080", "10.50.0.2:80")}), s.table.AddNetwork(Network{Bridge: "br9"}), s.table.RemoveNetwork("br0"))
	}()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(20 * time.Second):
		t.Error("publishing waits for iptables-legacy")
	}
	again := make(chan struct{})
	go func() {
		defer close(again)
		s.table.PassLegacy()
	}()
	for range 2 {
		f, err := os.OpenFile(dir+"/go", os.O_WRONLY, 0)
		must(t, err)
		must(t, f.Close())
		if passed != nil {
			<-passed
			passed = nil
		}
	}
	<-again
	if first, last, _ := strings.Cut(asked(), "COMMIT"); !strings.Contains(first, "br0 ") || strings.Contains(first, "br9 ") || strings.Contains(last, "br0 ") || !strings.Contains(last, "br9 ") {
		t.Errorf("asked %q", asked())
	}
}

// TestMarksEnd: where the chain that marks diverted packets could not be deleted, the next writing empties it.
func TestMarksEnd(t *testing.T) {
	needNft(t)
	s := newScene(t)
	must(t, s.table.Divert(7))
	marks := func() bool { return strings.Contains(s.nft(t, "list", "ruleset"), "meta mark set") }
	if !marks() {
		t.Fatal("nothing is marked")
	}
	s.table.stop.Stop() // the guard looks at the connection, too
	<-s.table.ended
	conn := s.table.conn
	closed, err := nft.Dial()
	must(t, err)
	must(t, closed.Close())
	s.table.conn = closed
	if err := s.table.Divert(0); err == nil || !marks() {
		t.Fatal("the chain went", err)
	}
	s.table.conn = conn
	must(t, s.table.AddNetwork(Network{Bridge: "br9"}))
	if marks() || !s.table.whole() {
		t.Errorf("packets are still marked:\n%s", s.nft(t, "list", "ruleset"))
	}
	// Begun anew, and ended.
	must(t, s.table.Divert(7))
	if !marks() {
		t.Error("nothing is marked")
	}
	must(t, s.table.Divert(0))
	if out := s.nft(t, "list", "ruleset"); strings.Contains(out, "chain divert") {
		t.Error(out)
	}
}

// TestLegacyRefused: what iptables-legacy-restore does not carry out is not asked of it again and again.
func TestLegacyRefused(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	must(t, os.WriteFile(dir+"/iptables-legacy-restore", []byte("#!/bin/sh\ncat >>"+dir+"/asked\nexit $(cat "+dir+"/code)\n"), 0o755))
	asked := func() string {
		b, err := os.ReadFile(dir + "/asked")
		must(t, err)
		return string(b)
	}
	code := func(s string) { must(t, os.WriteFile(dir+"/code", []byte(s), 0o600)) }
	table := &Table{}
	run := func(script string, fails bool) {
		t.Helper()
		if err := table.runLegacy(false, script); (err != nil) != fails {
			t.Errorf("%q: %v", script, err)
		}
	}
	code("4") // somebody holds the lock
	run("a", true)
	run("a", true)
	code("1")
	run("a", true)
	run("a", false)
	run("b", true)
	run("b", false)
	run("", false)
	run("b", true)
	code("0")
	run("b", false)
	run("c", false)
	if got := asked(); got != "aaabbc" {
		t.Errorf("asked %q", got)
	}
}

func BenchmarkPublish(b *testing.B) {
	l := lab.New(b)
	var table *Table
	if err := l.Host.Do(func() (err error) {
		table, err = Open("gantry-test", slog.New(slog.DiscardHandler))
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer table.Close()
	if err := table.AddNetwork(Network{Bridge: "br0"}); err != nil {
		b.Fatal(err)
	}
	p := []Port{tcp("0.0.0.0:8080", "10.50.0.2:80")}
	for b.Loop() {
		if err := table.Publish(p); err != nil {
			b.Fatal(err)
		}
		table.Withdraw(p)
	}
}
