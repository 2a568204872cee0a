// Package lab builds small networks for tests, of network namespaces that the test makes: a host with an uplink, a
// neighbour outside, and containers. Nothing of the machine's own network is touched, and no packet leaves it.
package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
)

// Addresses of the host's uplink and of the neighbour outside.
const (
	HostAddr     = "10.99.0.1"
	OutsideAddr  = "10.99.0.2"
	HostAddr6    = "fd99::1"
	OutsideAddr6 = "fd99::2"
	MTU          = 1400
)

// Silence is how long nobody has to answer to be taken for unreachable.
const Silence = 300 * time.Millisecond

// Lab is a host and a neighbour on a wire between them.
type Lab struct {
	Host, Outside *netns.Namespace
}

// New makes a lab; it needs root.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	l := &Lab{Namespace(t), Namespace(t)}
	// A bridge without ports is the simplest of masters: the wire's near end hangs on one and is taken off by its address.
	must(t, l.Outside.Links().AddBridge(&link.Bridge{Name: "wire", MTU: MTU, Addrs: both(OutsideAddr, OutsideAddr6)}))
	wire, err := l.Outside.Links().Find("wire")
	must(t, err)
	must(t, l.Outside.Links().AddVeth(&link.Veth{Name: "tohost", Master: wire.Index, MTU: MTU, Peer: "uplink",
		PeerMAC: net.HardwareAddr{2, 0x99, 0, 0, 0, 1}, PeerNS: l.Host.Fd()}))
	must(t, l.Host.Links().Configure(&link.Interface{Name: "uplink", Addrs: both(HostAddr, HostAddr6),
		Gateways: []netip.Addr{netip.MustParseAddr(OutsideAddr), netip.MustParseAddr(OutsideAddr6)}}))
	Sysctl(t, l.Host, "net/ipv4/ip_forward", "1")
	Sysctl(t, l.Host, "net/ipv6/conf/all/forwarding", "1")
	return l
}

func both(v4, v6 string) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(v4 + "/24"), netip.MustParsePrefix(v6 + "/64")}
}

// Namespace makes a namespace for as long as the test runs.
func Namespace(t testing.TB) *netns.Namespace {
	t.Helper()
	n, err := netns.New()
	must(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

// Sysctl writes a file below /proc/sys as seen from ns.
func Sysctl(t testing.TB, ns *netns.Namespace, name, value string) {
	t.Helper()
	must(t, ns.Do(func() error { return os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0o644) }))
}

// Container makes a namespace connected to the host's bridge.
func (l *Lab) Container(t testing.TB, bridge string, isolated bool, gw []netip.Addr, addrs ...netip.Prefix) *netns.Namespace {
	t.Helper()
	ns := Namespace(t)
	br, err := l.Host.Links().Find(bridge)
	must(t, err)
	mac := net.HardwareAddr{2, 0x42}
	for _, b := range addrs[0].Addr().AsSlice()[:4] {
		mac = append(mac, b)
	}
	must(t, l.Host.Links().AddVeth(&link.Veth{Name: fmt.Sprintf("v%x", []byte(mac[2:])), Master: br.Index, Isolated: isolated, Hairpin: true, MTU: MTU, Peer: "eth0", PeerMAC: mac, PeerNS: ns.Fd()}))
	must(t, ns.Links().Configure(&link.Interface{Name: "eth0", Addrs: addrs, Gateways: gw}))
	return ns
}

// Serve answers on addr inside ns, over "tcp" or "udp", with name and the address that the client is seen to have.
func Serve(t testing.TB, ns *netns.Namespace, network, addr, name string) {
	t.Helper()
	must(t, ns.Do(func() error {
		if strings.HasPrefix(network, "udp") {
			c, err := net.ListenPacket(network, addr)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				buf := make([]byte, 2048)
				for {
					_, from, err := c.ReadFrom(buf)
					if err != nil {
						return
					}
					c.WriteTo([]byte(name+" "+host(from)), from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, addr)
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
				io.WriteString(c, name+" "+host(c.RemoteAddr()))
				c.Close()
			}
		}()
		return nil
	}))
}

func host(a net.Addr) string {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return err.Error()
	}
	return p.Addr().Unmap().String()
}

// Ask asks what Serve serves, from inside ns, and returns the answer. It waits for at most wait.
func Ask(ns *netns.Namespace, network, addr string, wait time.Duration) (answer string, err error) {
	derr := ns.Do(func() error {
		d := net.Dialer{Timeout: wait}
		var c net.Conn
		if c, err = d.DialContext(context.Background(), network, addr); err != nil {
			return nil
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		if strings.HasPrefix(network, "udp") {
			c.Write([]byte("?"))
			buf := make([]byte, 2048)
			var n int
			n, err = c.Read(buf)
			answer = string(buf[:n])
			return nil
		}
		var b []byte
		b, err = io.ReadAll(c)
		answer = string(b)
		return nil
	})
	if err == nil {
		err = derr
	}
	return answer, err
}

// Answers fails the test unless Ask gives want; "" means that there must be no answer.
func Answers(t testing.TB, ns *netns.Namespace, network, addr, want string) {
	t.Helper()
	wait := 30 * time.Second
	if want == "" {
		wait = Silence
	}
	got, err := Ask(ns, network, addr, wait)
	switch {
	case want == "" && err == nil:
		t.Errorf("%s %s answered %q; it should not be reached", network, addr, got)
	case want != "" && (err != nil || got != want):
		t.Errorf("%s %s answered %q, %v; want %q", network, addr, got, err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
