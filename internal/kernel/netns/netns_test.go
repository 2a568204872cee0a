package netns_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
)

func needRoot(t testing.TB) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

func open(t testing.TB) *netns.Namespace {
	t.Helper()
	needRoot(t)
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// TestThreadsComeHome makes namespaces on many threads at once, and finds nobody left in one afterwards.
func TestThreadsComeHome(t *testing.T) {
	needRoot(t)
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				n, err := netns.New()
				if err != nil {
					t.Error(err)
					return
				}
				n.Do(func() error {
					if now, _ := os.Readlink("/proc/thread-self/ns/net"); now == home {
						t.Error("Do stayed at home")
					}
					return nil
				})
				n.Close()
			}
		})
	}
	all.Wait()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if now, err := os.Readlink("/proc/self/task/" + task.Name() + "/ns/net"); err == nil && now != home {
			t.Errorf("thread %s stands in %s", task.Name(), now)
		}
	}
}

// TestHeldByAProcess is the life of a container's namespace: a process enters by Path, the maker lets go, and with the
// process the namespace ends, and the interface's other end with it.
func TestHeldByAProcess(t *testing.T) {
	host, ns := open(t), open(t)
	if err := host.Links().AddBridge(&link.Bridge{Name: "br0", MTU: 1400, Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}}); err != nil {
		t.Fatal(err)
	}
	br, err := host.Links().Find("br0")
	if err != nil || br.Kind != "bridge" || br.MTU != 1400 {
		t.Fatalf("%+v, %v", br, err)
	}
	veth := &link.Veth{Name: "v0", Master: br.Index, MTU: 1400, Peer: "eth0", PeerMAC: net.HardwareAddr{2, 0x42, 10, 1, 0, 2}, PeerNS: ns.Fd()}
	if err := host.Links().AddVeth(veth); err != nil {
		t.Fatal(err)
	}
	if err := ns.Links().Configure(&link.Interface{Name: "eth0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := netns.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	eth, err := again.Links().Find("eth0")
	if err != nil || eth.MAC.String() != "02:42:0a:01:00:02" || eth.MTU != 1400 {
		t.Fatalf("%+v, %v", eth, err)
	}
	routes, err := again.Links().Routes()
	if err != nil || len(routes) == 0 {
		t.Fatal(routes, err)
	}
	again.Close()
	cmd.Process.Kill()
	cmd.Wait()
	for end := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := host.Links().Find("v0"); errors.Is(err, link.ErrNotFound) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the host's end is still there")
		}
	}
}

// BenchmarkConnect is a namespace with one interface on a bridge, ready for a container.
func BenchmarkConnect(b *testing.B) {
	host := open(b)
	if err := host.Links().AddBridge(&link.Bridge{Name: "br0", Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16")}}); err != nil {
		b.Fatal(err)
	}
	br, _ := host.Links().Find("br0")
	var made []*netns.Namespace
	defer func() {
		for _, n := range made {
			n.Close()
		}
	}()
	for i := 0; b.Loop(); i++ {
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		made = append(made, ns)
		mac := net.HardwareAddr{2, 0x42, 10, 1, byte(i >> 8), byte(i)}
		if err := host.Links().AddVeth(&link.Veth{Name: "v" + strconv.Itoa(i), Master: br.Index, Peer: "eth0", PeerMAC: mac, PeerNS: ns.Fd()}); err != nil {
			b.Fatal(err)
		}
		addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i>>8) + 1, byte(i)}), 16)
		if err := ns.Links().Configure(&link.Interface{Name: "eth0", Addrs: []netip.Prefix{addr}, Gateways: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}); err != nil {
			b.Fatal(err)
		}
	}
}
