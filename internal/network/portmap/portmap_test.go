package portmap

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/network/lab"
)

func TestReserve(t *testing.T) {
	ns := lab.New(t).Host
	b := New(ns)
	defer b.Close()
	reserve := func(v4, v6 bool, r ...Request) ([]Binding, error) { return b.Reserve("web", v4, v6, r) }

	list, err := reserve(true, true, Request{"tcp", 80, netip.Addr{}, 8080, 8080, false}, Request{"udp", 53, netip.MustParseAddr("127.0.0.1"), 8080, 8080, false})
	if err != nil || len(list) != 3 || list[0].Host.String() != "0.0.0.0:8080" || list[1].Host.String() != "[::]:8080" {
		t.Fatal(list, err)
	}
	busy := (*Busy)(nil)
	_, err = reserve(true, false, Request{"tcp", 81, netip.Addr{}, 8081, 8081, false}, Request{"tcp", 80, netip.Addr{}, 8080, 8080, false})
	if !errors.As(err, &busy) || !strings.HasPrefix(err.Error(), "Bind for 0.0.0.0:8080 failed: port is already allocated\n") ||
		!strings.Contains(err.Error(), "container web has it; the next free one is 8082") {
		t.Fatal(err)
	}
	if b.Held() != 3 {
		t.Fatalf("%d ports held after a failure", b.Held())
	}
	if _, err = reserve(true, false, Request{"tcp", 80, netip.MustParseAddr("127.0.0.1"), 8080, 8080, false}); err == nil {
		t.Fatal("an address's port was taken from under all addresses'")
	}
	// A range gives the first that is free.
	ranged, err := reserve(true, false, Request{"tcp", 80, netip.Addr{}, 8080, 8085, false})
	if err != nil || ranged[0].Host.Port() != 8081 {
		t.Fatal(ranged, err)
	}
	// Any port is the same for both families, and another program's stays its own.
	any, err := reserve(true, true, Request{"tcp", 80, netip.Addr{}, 0, 0, false})
	if err != nil || len(any) != 2 || any[0].Host.Port() != any[1].Host.Port() || any[0].Host.Port() < 1024 {
		t.Fatal(any, err)
	}
	if err := ns.Do(func() error {
		if l, err := net.Listen("tcp", any[0].Host.String()); err == nil {
			l.Close()
			t.Error("another program could take a reserved port")
		}
		l, err := net.Listen("tcp4", ":9000")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, err = reserve(true, false, Request{"tcp", 80, netip.Addr{}, 9000, 9000, false})
	if err == nil || !strings.HasPrefix(err.Error(), "failed to bind host port 0.0.0.0:9000/tcp: address already in use\n(pid ") || !strings.Contains(err.Error(), "9001") {
		t.Fatal(err)
	}
	if _, err = reserve(false, true, Request{"tcp", 80, netip.MustParseAddr("127.0.0.1"), 9000, 9000, false}); err == nil {
		t.Fatal("an IPv4 port was published for a container without IPv4")
	}
	six, err := reserve(true, false, Request{"tcp", 80, netip.IPv6Loopback(), 9002, 9002, false})
	if err != nil || len(six) != 1 || six[0].Host.String() != "[::1]:9002" {
		t.Fatal(six, err)
	}
	b.Release(six)
	if _, err = reserve(true, false, Request{"tcp", 80, netip.MustParseAddr("203.0.113.9"), 9000, 9000, false}); err == nil || !strings.Contains(err.Error(), "cannot assign requested address") {
		t.Fatal(err)
	}
	b.Release(list)
	b.Release(list)
	b.Release(ranged)
	b.Release(any)
	if b.Held() != 0 {
		t.Fatalf("%d ports leak", b.Held())
	}
	if err := b.Again("web", list, func(x Binding) bool { return x.Proto == "udp" }, time.Now()); err != nil || b.Held() != 3 {
		t.Fatal(err, b.Held())
	}
	for _, x := range list {
		if fd := b.Take(x); (fd < 0) != (x.Proto == "udp") {
			t.Errorf("%v has socket %d", x, fd)
		} else if fd >= 0 {
			unix.Close(fd)
		}
	}
	b.Release(list)
}

// TestManyPorts: a range of thousands is a matter of moments, for all others wait meanwhile.
func TestManyPorts(t *testing.T) {
	ns := lab.New(t).Host
	b := New(ns)
	defer b.Close()
	var many []Request
	for port := uint16(20000); port < 25000; port++ {
		many = append(many, Request{"udp", port, netip.MustParseAddr("127.0.0.1"), port, port, false})
	}
	list, err := b.Reserve("many", true, false, many)
	if errors.Is(err, unix.EMFILE) {
		t.Skip(err)
	}
	if err != nil || len(list) != len(many) || len(b.count) != len(many) {
		t.Fatal(len(list), err)
	}
	if _, err := b.Reserve("one", true, false, []Request{{"udp", 1, netip.Addr{}, 22222, 22222, false}}); err == nil || !strings.Contains(err.Error(), "container many has it") {
		t.Error(err)
	}
	b.Release(list)
	if len(b.held)+len(b.count) != 0 {
		t.Errorf("%d held, %d counted", len(b.held), len(b.count))
	}
}

func FuzzSocketsOn(f *testing.F) {
	f.Add("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 00000000:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		socketsOn(bufio.NewScanner(strings.NewReader(s)), "tcp", 9000)
	})
}
