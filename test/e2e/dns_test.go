//go:build e2e

package e2e

import (
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gantry/internal/network/dns"
	"gantry/test/engine"
)

// zone is what a name server knows: how many addresses a name has.
type zone map[string]int

func (z zone) Lookup(name string) (list []netip.Addr, known bool) {
	n, known := z[name]
	for i := range n {
		list = append(list, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}))
	}
	return list, known
}

func (z zone) Reverse(netip.Addr) string { return "" }

// upstream is a name server at 127.0.0.53 of the engine's network, as systemd-resolved's stub is: by UDP and TCP, with short answers by
// UDP. It counts what it was asked.
func upstream(t *testing.T, e *engine.Engine, z zone) *atomic.Int64 {
	t.Helper()
	var asked atomic.Int64
	answer := func(q []byte, udp bool) []byte {
		asked.Add(1)
		out, question, unknown := dns.Answer(q, z)
		switch {
		case unknown: // there is no such name
			end := 12
			for end < len(q)-5 && q[end] != 0 {
				end += 1 + int(q[end])
			}
			out = append([]byte{q[0], q[1], 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end+5]...)
		case udp:
			out = dns.Fit(out, q, question)
		}
		return out
	}
	if err := e.Inside(func() error {
		udp, err := net.ListenPacket("udp4", "127.0.0.53:53")
		if err != nil {
			return err
		}
		tcp, err := net.Listen("tcp4", "127.0.0.53:53")
		if err != nil {
			udp.Close()
			return err
		}
		t.Cleanup(func() { udp.Close(); tcp.Close() })
		go func() {
			buf := make([]byte, 4096)
			for {
				n, from, err := udp.ReadFrom(buf)
				if err != nil {
					return
				}
				udp.WriteTo(answer(buf[:n], true), from)
			}
		}()
		go func() {
			for {
				c, err := tcp.Accept()
				if err != nil {
					return
				}
				if q, err := dns.ReadTCP(c); err == nil {
					dns.WriteTCP(c, answer(q, false))
				}
				c.Close()
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return &asked
}

// TestNamesOfOthers is what programs in a container find of names that no network knows: by search domains, from the second name server
// when the first is not there, by TCP when there is much; and nothing of it from a closed network.
func TestNamesOfOthers(t *testing.T) {
	e := ownEngine(t, "busybox")
	asked := upstream(t, e, zone{"www.corp.lan": 1, "db.corp.lan": 9, "big.example.org": 100})
	okOn(t, e, "network", "create", "--subnet", "10.87.0.0/24", "open")
	okOn(t, e, "network", "create", "--internal", "closed")
	okOn(t, e, "run", "-d", "--name", "db", "--network", "open", "--ip", "10.87.0.9", "busybox", "sleep", "1000")
	// 127.0.0.99 refuses.
	servers := []string{"--dns", "127.0.0.99", "--dns", "127.0.0.53", "--dns-search", "corp.lan"}
	run := func(name, network string, more ...string) {
		okOn(t, e, append(append([]string{"run", "-d", "--name", name, "--network", network}, append(servers, more...)...), "busybox", "sleep", "1000")...)
	}
	run("client", "open")
	run("dots", "open", "--dns-opt", "ndots:1")
	run("shut", "closed")
	// glibc's own resolver, by ping's first line.
	looks := func(container, name, want string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; { // a name server that is slow to answer is given up
			out := engine.Run(e.CLI("exec", container, "ping", "-c1", "-W1", name))
			first, _, _ := strings.Cut(out.Out+out.Err, "\n")
			if strings.Contains(first, want) {
				return
			}
			if time.Now().After(deadline) || !strings.Contains(first, "bad address") {
				t.Errorf("%s looks for %s and finds %q, want %q", container, name, first, want)
				return
			}
		}
	}
	looks("client", "www", "(192.0.2.1)")
	looks("client", "www.corp.lan", "(192.0.2.1)")
	// Without dots (ndots:0) a container's name comes first; with ndots:1 it is looked for in the search domain before.
	looks("client", "db", "(10.87.0.9)")
	looks("dots", "db", "(192.0.2.")
	looks("dots", "db.open", "(10.87.0.9)")
	looks("client", "nosuch", "bad address")
	looks("client", "big.example.org", "(192.0.2.") // glibc asks again by TCP
	if got, err := resolve(namespaceOf(t, e, "client"), "tcp", "big.example.org"); err != nil || len(got) != 100 {
		t.Errorf("of 100 addresses there are %d, %v", len(got), err)
	}
	if out := okOn(t, e, "exec", "client", "nslookup", "10.87.0.9", "127.0.0.11"); !strings.Contains(out, "name = db.open") {
		t.Errorf("10.87.0.9 is %s", out)
	}
	before := asked.Load()
	looks("shut", "www", "bad address")
	looks("shut", "big.example.org", "bad address")
	looks("shut", "shut", "shut (")
	if n := asked.Load() - before; n != 0 {
		t.Errorf("%d questions left a closed network", n)
	}
	okOn(t, e, "rm", "-f", "db", "client", "dots", "shut")
	okOn(t, e, "network", "rm", "open", "closed")
}
