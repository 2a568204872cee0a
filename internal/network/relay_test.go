package network

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"net"
	"net/netip"
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

	api "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"gantry/internal/ids"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
	"gantry/internal/network/relay"
)

// relayPid waits for a relay that is not old.
func (h *host) relayPid(t testing.TB, old int) int {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if r := h.Relay(); r != nil && r.Pid != old {
			return r.Pid
		}
	}
	t.Fatal("no relay came")
	return 0
}

// process keeps a namespace as a container's would, and returns its pid.
func process(t testing.TB, ns *netns.Namespace) int {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}

// keep tells a new engine who runs.
func (h *host) keep(t testing.TB, pids map[string]int) {
	t.Helper()
	if err := h.Keep(func(id string) int { return pids[id] }); err != nil {
		t.Fatal(err)
	}
}

// echo sends back what it gets on port 7 of ns, until the end of it.
func echo(t testing.TB, ns *netns.Namespace) {
	t.Helper()
	err := ns.Do(func() error {
		l, err := net.Listen("tcp", ":7")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					io.Copy(c, c)
					c.Close()
				}()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func connect(t testing.TB, ns *netns.Namespace, addr string) *net.TCPConn {
	t.Helper()
	var c net.Conn
	err := ns.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 30*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(5 * time.Minute)) // for all that the test does meanwhile
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// TestRelayedPorts: by IPv6 a container is reached that has none, from the host itself and from outside.
func TestRelayedPorts(t *testing.T) {
	h := newHost(t)
	r := &JoinRequest{Name: "web", Endpoints: on("bridge"), First: "bridge",
		Ports: ports("80/tcp", " 8080", "81/udp", " 8081", "7/tcp", "::1 8007", "9/tcp", " 8009", "80/tcp", "127.0.0.1 8082")}
	j, ns := h.join(t, r)
	if p := j.Ports[api.MustParsePort("80/tcp")]; len(p) != 3 || p[0].HostIP.String() != "127.0.0.1" && p[0].HostIP.String() != "0.0.0.0" {
		t.Errorf("%v", p)
	}
	lab.Serve(t, ns, "tcp", ":80", "web")
	lab.Serve(t, ns, "udp", ":81", "udp")
	echo(t, ns)
	all := func() {
		t.Helper()
		lab.Answers(t, h.Lab.Host, "tcp", "127.0.0.1:8080", "web 172.17.0.1")
		lab.Answers(t, h.Lab.Host, "tcp", "[::1]:8080", "web 172.17.0.1")
		lab.Answers(t, h.Lab.Host, "udp", "[::1]:8081", "udp 172.17.0.1")
		lab.Answers(t, h.Lab.Host, "udp", "["+lab.HostAddr6+"]:8081", "udp 172.17.0.1")
		lab.Answers(t, h.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "web 172.17.0.1")
		lab.Answers(t, h.Outside, "udp", "["+lab.HostAddr6+"]:8081", "udp 172.17.0.1")
		lab.Answers(t, h.Outside, "tcp", "["+lab.HostAddr6+"]:8007", "")
	}
	all()
	// All bytes both ways, and the end of each direction by itself.
	sent := make([]byte, 20<<20)
	rand.New(rand.NewSource(1)).Read(sent)
	var clients sync.WaitGroup
	for range 3 {
		clients.Go(func() {
			c := connect(t, h.Lab.Host, "[::1]:8007")
			go func() {
				c.Write(sent)
				c.CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
			}
		})
	}
	clients.Wait()
	// Where nobody listens in the container the connection is broken off, not ended.
	if got, err := lab.Ask(h.Lab.Host, "tcp", "[::1]:8009", 30*time.Second); err == nil {
		t.Errorf("a connection to nobody ended with %q, as if all had been said", got)
	}
	// And all that without an engine.
	h.close()
	all()
	h.open(t)
	h.keep(t, map[string]int{r.ID: process(t, ns)})
	all()
	h.Leave(r.ID)
	lab.Answers(t, h.Lab.Host, "tcp", "[::1]:8080", "")
}

// TestDatagramsFindTheNextContainer: a client that sends from one port all the time reaches the container that has the port now,
// whether it was another one's or nobody's when it began.
func TestDatagramsFindTheNextContainer(t *testing.T) {
	h := newHost(t)
	var c net.PacketConn
	if err := h.Outside.Do(func() (err error) {
		c, err = net.ListenPacket("udp4", lab.OutsideAddr+":4444")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(lab.HostAddr + ":8053"))
	reaches := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			c.WriteTo([]byte("?"), to)
			c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, _, err := c.ReadFrom(buf); err == nil && string(buf[:n]) == want {
				return
			}
		}
		t.Fatalf("what is sent does not reach %q", want)
	}
	for range 3 { // nobody has the port
		c.WriteTo([]byte("?"), to)
	}
	for _, name := range []string{"one", "two"} {
		r := &JoinRequest{Name: name, Endpoints: on("bridge"), First: "bridge", Ports: ports("53/udp", " 8053")}
		_, ns := h.join(t, r)
		lab.Serve(t, ns, "udp", ":53", name)
		reaches(name + " " + lab.OutsideAddr)
		h.Leave(r.ID)
	}
}

// TestPublishPolicy: with the policy "firewall" the host's rules for incoming packets say who reaches a published port.
func TestPublishPolicy(t *testing.T) {
	h := newHost(t)
	join := func(name, port string) (*JoinRequest, *netns.Namespace) {
		r := &JoinRequest{Name: name, Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " "+port, "81/udp", " "+port)}
		_, ns := h.join(t, r)
		lab.Serve(t, ns, "tcp", ":80", name)
		lab.Serve(t, ns, "udp", ":81", name)
		return r, ns
	}
	join("open", "8080")
	h.Relayed = true
	r, ns := join("closed", "8081")
	other, _ := join("sibling", "8082")
	err := h.Check(&JoinRequest{Name: "x", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/sctp", " 8083")})
	if err == nil || !strings.Contains(err.Error(), "publish-policy") {
		t.Errorf("sctp: %v", err)
	}
	reached := func(closed string) {
		t.Helper()
		for _, proto := range []string{"tcp", "udp"} {
			lab.Answers(t, h.Outside, proto, lab.HostAddr+":8080", "open "+lab.OutsideAddr)
			lab.Answers(t, h.Outside, proto, lab.HostAddr+":8081", closed)
			lab.Answers(t, h.Lab.Host, proto, "127.0.0.1:8081", "closed 172.17.0.1")
		}
		lab.Answers(t, ns, "tcp", "172.17.0.1:8082", "sibling 172.17.0.1")
	}
	reached("closed " + lab.OutsideAddr)
	nft := func(args ...string) {
		t.Helper()
		if err := h.Lab.Host.Do(func() error {
			out, err := exec.Command("nft", args...).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("nft %v: %w: %s", args, err, out)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	nft("add table inet mine; add chain inet mine in { type filter hook input priority 0; policy accept; }; add rule inet mine in ip saddr " + lab.OutsideAddr + " drop")
	reached("")
	// It stays so for a container that was started so, whatever the next engine's policy is.
	h.close()
	h.open(t)
	h.keep(t, map[string]int{r.ID: process(t, ns), other.ID: process(t, ns)})
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8081", "")
	lab.Answers(t, h.Lab.Host, "tcp", "127.0.0.1:8081", "closed 172.17.0.1")
	nft("delete table inet mine")
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8081", "closed "+lab.OutsideAddr)
	// Whoever the container would answer past the host is seen with the host's address.
	h.Relayed = true
	h.create(t, &api.CreateRequest{Name: "n2", EnableIPv6: new(true)})
	two := &JoinRequest{Name: "two", Endpoints: on("bridge", "n2"), First: "bridge", Ports: ports("80/tcp", " 8083")}
	_, tns := h.join(t, two)
	lab.Serve(t, tns, "tcp", ":80", "two")
	_, near := h.join(t, &JoinRequest{Name: "near", Endpoints: on("n2"), First: "n2"})
	lab.Answers(t, near, "tcp", lab.HostAddr+":8083", "two 172.17.0.1")
	lab.Answers(t, ns, "tcp", lab.HostAddr+":8083", "two 172.17.0.1")
	six := &JoinRequest{Name: "six", Endpoints: on("n2"), First: "n2", Ports: ports("80/tcp", " 8084", "81/udp", " 8084")}
	_, sns := h.join(t, six)
	lab.Serve(t, sns, "tcp", ":80", "six")
	lab.Serve(t, sns, "udp", ":81", "six")
	for _, proto := range []string{"tcp", "udp"} {
		lab.Answers(t, h.Outside, proto, "["+lab.HostAddr6+"]:8084", "six "+lab.OutsideAddr6)
		lab.Answers(t, h.Outside, proto, lab.HostAddr+":8084", "six "+lab.OutsideAddr)
		lab.Answers(t, h.Lab.Host, proto, "[::1]:8084", "six fd01:203:405::1")
	}
	// Both ends of a connection between two containers of different networks are known.
	lab.Answers(t, ns, "tcp", lab.HostAddr+":8084", "six "+h.Of(r.ID).Endpoints["bridge"].IPAddress.String())
	// Somebody else's flush, and the death of the relay.
	nft("flush ruleset")
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(time.Millisecond) {
		if got, err := lab.Ask(h.Outside, "tcp", lab.HostAddr+":8084", lab.Silence); err == nil && got == "six "+lab.OutsideAddr {
			break
		} else if time.Now().After(end) {
			t.Fatal(got, err)
		}
	}
	// And of the rules of routing, and of their tables.
	table := strconv.Itoa(int(h.divert().Mark))
	routes := func() (n int) {
		for _, f := range []string{"-4", "-6"} {
			h.Lab.Host.Do(func() error {
				out, err := exec.Command("ip", f, "route", "show", "table", table).Output()
				n += strings.Count(string(out), "local default")
				return err
			})
		}
		return n
	}
	for _, how := range []string{"-4 rule del pref 90", "-6 rule del pref 90", "-4 route flush table " + table, "-6 route flush table " + table} {
		if err := h.Lab.Host.Do(func() error { return exec.Command("ip", strings.Fields(how)...).Run() }); err != nil {
			t.Fatal(how, err)
		}
		for end := time.Now().Add(10 * time.Second); h.diverted() != 2 || routes() != 2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("after ip %s: %d rules of routing, %d routes", how, h.diverted(), routes())
			}
		}
	}
	old := h.relayPid(t, 0)
	syscall.Kill(old, syscall.SIGKILL)
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8084", "six "+lab.OutsideAddr)
	// With the last one, marks and routes go.
	if n := h.diverted(); n != 2 {
		t.Errorf("%d rules of routing", n)
	}
	for _, id := range []string{r.ID, other.ID, two.ID} {
		h.Leave(id)
	}
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8084", "six "+lab.OutsideAddr)
	// An engine that finds nobody running any more takes them back as well.
	h.close()
	h.open(t)
	h.keep(t, nil)
	if n := h.diverted(); n != 0 {
		t.Errorf("%d rules of routing are left", n)
	}
}

// TestDivertedUntilTheLast: of containers that leave at the same time one takes the rules of routing back, and none of them before
// the last.
func TestDivertedUntilTheLast(t *testing.T) {
	h := newHost(t)
	h.Relayed = true
	var all []*joined
	for _, port := range []string{"8080", "8081"} {
		r := &JoinRequest{Name: "c" + port, Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " "+port)}
		h.join(t, r)
		all = append(all, h.joined[r.ID])
	}
	before := h.diverted()
	for i, want := range []int{before, 0} {
		h.undivertWithout(all[i]) // both are still there for each other, as in the midst of two Leave
		if n := h.diverted(); n != want || before == 0 {
			t.Errorf("%d rules of routing, not %d", n, want)
		}
	}
}

// TestRelayWithIPv6: a container that has IPv6 is reached directly, but from ::1.
func TestRelayWithIPv6(t *testing.T) {
	h := newHost(t)
	yes := true
	h.create(t, &api.CreateRequest{Name: "six", EnableIPv6: &yes})
	_, ns := h.join(t, &JoinRequest{Name: "web", Endpoints: on("six"), First: "six", Ports: ports("80/tcp", " 8080")})
	lab.Serve(t, ns, "tcp", ":80", "web")
	lab.Answers(t, h.Outside, "tcp", "["+lab.HostAddr6+"]:8080", "web "+lab.OutsideAddr6)
	lab.Answers(t, h.Lab.Host, "tcp", "[::1]:8080", "web fd01:203:405::1")
}

// TestRelayDies kills the relay, and then both it and the engine: names and ports are there again, and meanwhile nobody
// else gets the ports.
func TestRelayDies(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	a := &JoinRequest{Name: "a", Endpoints: on("n1"), First: "n1", Ports: ports("80/tcp", " 8080")}
	_, ns := h.join(t, a)
	b := &JoinRequest{Name: "b", Endpoints: on("bridge"), First: "bridge"}
	_, bns := h.join(t, b)
	lab.Serve(t, ns, "tcp", ":80", "a")
	pids := map[string]int{a.ID: process(t, ns), b.ID: process(t, bns)}
	check := func() {
		t.Helper()
		for _, network := range []string{"udp4", "tcp4"} {
			if got, err := lookup(ns, network, "a."); err != nil || !slices.Equal(got, []string{"172.18.0.2"}) {
				t.Errorf("%s: %v, %v", network, got, err)
			}
		}
		lab.Answers(t, h.Lab.Host, "tcp", "[::1]:8080", "a 172.18.0.1")
		lab.Answers(t, h.Lab.Host, "tcp", "127.0.0.1:8080", "a 172.18.0.1")
		for _, addr := range []string{"[::]:8080", "0.0.0.0:8080"} {
			if err := h.Lab.Host.Do(func() error {
				l, err := net.Listen("tcp", addr)
				if err == nil {
					l.Close()
				}
				return err
			}); err == nil {
				t.Errorf("another program could take %s", addr)
			}
		}
	}
	check()
	dns := h.joined[a.ID].DNS
	for range 5 {
		old := h.relayPid(t, 0)
		syscall.Kill(old, syscall.SIGKILL)
		check() // what comes meanwhile waits in the sockets
		h.relayPid(t, old)
	}
	for i := range 4 {
		old := h.relayPid(t, 0)
		h.close()
		check()
		if i%2 == 1 {
			syscall.Kill(old, syscall.SIGKILL)
		}
		h.open(t)
		h.keep(t, pids)
		h.relayPid(t, map[bool]int{true: old}[i%2 == 1])
		check()
	}
	if got := h.joined[a.ID].DNS; got != dns {
		t.Errorf("the name server's ports are %v, were %v: the kernel would still lead questions there", got, dns)
	}
	// Connected while it runs, a container of the default network knows names, too.
	if _, err := h.Connect(context.Background(), b, "n1", nil, bns.Path()); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(bns, "udp4", "a.n1."); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
	if got, err := lookup(ns, "udp4", "b."); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
	if j := h.Of(b.ID); !j.Resolver {
		t.Error("nobody knows of the name server")
	}
	if _, err := h.Disconnect(context.Background(), b.ID, "n1", bns.Path()); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(ns, "udp4", "b."); err == nil {
		t.Error(got)
	}
}

// TestLinksAreNamesForOne: a link is a name that only one container has for another, also for one that comes later.
func TestLinksAreNamesForOne(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	_, db := h.join(t, &JoinRequest{Name: "db", Endpoints: on("n1"), First: "n1"})
	_, web := h.join(t, &JoinRequest{Name: "web", First: "n1", Endpoints: map[string]*api.EndpointSettings{"n1": {Links: []string{"db:the-DB", "/later:soon", "db"}}}})
	for _, name := range []string{"the-db.", "the-db.n1.", "db."} {
		if got, err := lookup(web, "udp4", name); err != nil || !slices.Equal(got, []string{"172.18.0.2"}) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := lookup(db, "udp4", "the-db."); err == nil {
		t.Errorf("another container knows it, too: %v", got)
	}
	if got, err := lookup(web, "udp4", "soon."); err == nil {
		t.Error(got)
	}
	h.join(t, &JoinRequest{Name: "later", Endpoints: on("n1"), First: "n1"})
	if got, err := lookup(web, "udp4", "soon."); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
}

// TestQuestionsWithoutAnswers: a container that asks for what nobody answers keeps nobody's names from being answered.
func TestQuestionsWithoutAnswers(t *testing.T) {
	h := newHost(t)
	if err := h.Outside.Do(func() error {
		c, err := net.ListenPacket("udp4", lab.OutsideAddr+":53")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.create(t, &api.CreateRequest{Name: "n1"})
	upstream := []netip.Addr{netip.MustParseAddr(lab.OutsideAddr)}
	_, a := h.join(t, &JoinRequest{Name: "a", Endpoints: on("n1"), First: "n1", Upstream: upstream})
	_, b := h.join(t, &JoinRequest{Name: "b", Endpoints: on("n1"), First: "n1", Upstream: upstream})
	if err := a.Do(func() error {
		c, err := net.Dial("udp4", "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer c.Close()
		for i := range 3000 {
			c.Write(append([]byte{byte(i >> 8), byte(i), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 4, byte('a' + i%26), byte('a' + i/26%26), byte('a' + i/676), '-'}, "\x04test\x00\x00\x01\x00\x01"...))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(b, "udp4", "b."); err != nil || len(got) != 1 {
		t.Errorf("b is %v, %v", got, err)
	}
}

// TestRelayUpgraded: the next engine brings another relay, and the one that runs becomes it, with all that goes through it.
func TestRelayUpgraded(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	a := &JoinRequest{Name: "a", Endpoints: on("n1"), First: "n1", Ports: ports("7/tcp", " 8007", "81/udp", " 8081")}
	_, ns := h.join(t, a)
	echo(t, ns)
	lab.Serve(t, ns, "udp", ":81", "udp")
	pids := map[string]int{a.ID: process(t, ns)}
	c := connect(t, h.Lab.Host, "[::1]:8007")
	var sum, back int
	buf := make([]byte, 1<<16)
	for i := range 4 {
		old := h.relayPid(t, 0)
		n, err := c.Write(bytes.Repeat([]byte{byte('a' + i)}, 50_000)) // some of it stays under way
		if err != nil {
			t.Fatal(err)
		}
		sum += n
		h.close()
		os.Setenv("BUILD", fmt.Sprint("build ", i))
		defer os.Setenv("BUILD", "one")
		h.open(t)
		h.keep(t, pids)
		if now := h.relayPid(t, 0); now != old {
			t.Errorf("process %d, was %d: an upgrade keeps the process", now, old)
		}
		if got := h.Relay().Build; got != os.Getenv("BUILD") {
			t.Errorf("it is still %s", got)
		}
		for back < sum-10_000 {
			n, err := c.Read(buf)
			if err != nil {
				t.Fatalf("after %d of %d bytes: %v", back, sum, err)
			}
			back += n
		}
		if got, err := lookup(ns, "udp4", "a."); err != nil || len(got) != 1 {
			t.Error(got, err)
		}
		lab.Answers(t, h.Lab.Host, "udp", "[::1]:8081", "udp 172.18.0.1")
	}
	c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || back+len(rest) != sum {
		t.Errorf("%d of %d bytes, %v", back+len(rest), sum, err)
	}
	// A program that is none changes nothing.
	h.close()
	os.Setenv("BUILD", "broken")
	defer os.Setenv(relayEnv, os.Getenv(relayEnv))
	old := os.Getenv(relayEnv)
	os.Setenv(relayEnv, "/bin/false")
	h.open(t)
	h.keep(t, pids)
	h.relayPid(t, 0)
	if got := h.Relay().Build; got == "broken" {
		t.Error("it says that it is")
	}
	if got, err := lookup(ns, "udp4", "a."); err != nil || len(got) != 1 {
		t.Error(got, err)
	}
	os.Setenv(relayEnv, old)
	os.Setenv("BUILD", "one")
}

// TestRelayIsSmall holds the promise of its size: 200 containers with names, and a published port each.
func TestRelayIsSmall(t *testing.T) {
	l := lab.New(t)
	dir := t.TempDir()
	opts := relayOf(dir)
	opts.Host, opts.Log = l.Host, slog.New(slog.DiscardHandler)
	k, err := relay.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	const n = 200
	var list []string
	for i := range n {
		udp, tcp, err := openResolver(l.Outside, new([2]uint16), time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Listen(fd, 10)
		}
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
		rec := relay.Sandbox{ID: ids.New(), Upstream: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")},
			Networks: []relay.Network{{ID: strings.Repeat("n", 64), Name: "net", V4: addr, Names: []string{"c" + strconv.Itoa(i), "alias", ids.New()[:12]}}}}
		port := relay.NewPort("tcp", netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(8000+i)), netip.AddrPortFrom(addr, 80), fd)
		if err := k.Give(rec, udp, tcp, []relay.Port{port})(context.Background()); err != nil {
			t.Fatal(err)
		}
		list = append(list, rec.ID)
	}
	for i := range 500 {
		if _, err := lookup(l.Outside, "udp4", fmt.Sprintf("c%d.", i%n)); err != nil {
			t.Fatal(err)
		}
	}
	rollup, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(k.Hello().Pid), "smaps_rollup"))
	if err != nil {
		t.Fatal(err)
	}
	var kb int
	for line := range strings.Lines(string(rollup)) {
		fmt.Sscanf(line, "Pss: %d kB", &kb)
	}
	t.Logf("%d kB with %d containers", kb, n)
	if kb == 0 || kb > 8<<10 {
		t.Errorf("the relay takes %d kB", kb)
	}
	for _, id := range list {
		if err := k.Drop(id)(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	k.Close()
}
