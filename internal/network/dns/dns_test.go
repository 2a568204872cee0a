package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

type known map[string][]netip.Addr

func (k known) Lookup(name string) ([]netip.Addr, bool) {
	a, ok := k[name]
	return slices.Clone(a), ok
}
func (k known) Reverse(a netip.Addr) string {
	for n, list := range k {
		if slices.Contains(list, a) {
			return n + ".net"
		}
	}
	return ""
}
func (k known) Upstream() []netip.Addr { return nil }

func serve(t *testing.T, names Names) *net.Resolver {
	t.Helper()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(udp, tcp, names)
	t.Cleanup(func() { s.Close(); s.all.Wait() })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		to := udp.LocalAddr().String()
		if strings.HasPrefix(network, "tcp") {
			to = tcp.Addr().String()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}}
}

func TestNames(t *testing.T) {
	t.Parallel()
	k := known{"web": {netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("fd00::2")}, "v4": {netip.MustParseAddr("10.0.0.9")}}
	for i := range 120 { // more than a datagram holds
		k["many"] = append(k["many"], netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	r := serve(t, k)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for name, want := range map[string]int{"web.": 3, "WEB.": 3, "v4.": 1, "many.": 120} {
		list, err := r.LookupNetIP(ctx, "ip", name)
		if err != nil || len(list) != want {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	first := map[netip.Addr]bool{}
	for range 50 {
		list, err := r.LookupNetIP(ctx, "ip4", "web.")
		if err != nil {
			t.Fatal(err)
		}
		first[list[0]] = true
	}
	if len(first) != 2 {
		t.Errorf("only %v ever comes first", first)
	}
	for addr, want := range map[string]string{"10.0.0.9": "v4.net.", "fd00::2": "web.net."} {
		if got, err := r.LookupAddr(ctx, addr); err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, %v", addr, got, err)
		}
	}
	if list, err := r.LookupNetIP(ctx, "ip", "nobody."); err == nil {
		t.Error(list)
	}
	// A name that has other records only: there are none, and nobody else is asked.
	if txt, err := r.LookupTXT(ctx, "web."); err == nil {
		t.Error(txt)
	}
}

// TestForwarding asks a name server of the test, behind one that is dead.
func TestForwarding(t *testing.T) {
	t.Parallel()
	upstream, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := upstream.ReadFrom(buf)
			if err != nil {
				return
			}
			q, _ := parse(buf[:n])
			wrong := respond(buf[:n], q, noError)
			wrong[0]++
			upstream.WriteTo(wrong, from) // somebody guesses
			upstream.WriteTo(add(respond(buf[:n], q, noError), typeA, []byte{192, 0, 2, 7}), from)
		}
	}()
	m := query("Example.test", typeA)
	q, err := parse(m)
	if err != nil || q.name != "example.test" {
		t.Fatal(q, err)
	}
	out, err := exchange("udp", netip.MustParseAddrPort(upstream.LocalAddr().String()), m, q)
	if err != nil || out[0] != m[0] || !strings.HasSuffix(string(out), "\xc0\x00\x02\x07") {
		t.Fatal(out, err)
	}
}

func query(name string, kind uint16) []byte {
	m := make([]byte, headerLen)
	m[0], m[1], m[2], m[5] = 0x12, 0x34, 1, 1
	m = append(m, encodeName(name)...)
	m = binary.BigEndian.AppendUint16(m, kind)
	return binary.BigEndian.AppendUint16(m, classIN)
}

func TestReverseNames(t *testing.T) {
	t.Parallel()
	v6 := netip.MustParseAddr("2001:db8::12:3")
	name := ""
	for _, b := range slices.Backward(v6.AsSlice()) {
		name += fmt.Sprintf("%x.%x.", b&15, b>>4)
	}
	for s, want := range map[string]string{"4.3.2.1.in-addr.arpa": "1.2.3.4", name + "ip6.arpa": v6.String(), "3.2.1.in-addr.arpa": "", "x" + name[1:] + "ip6.arpa": "", "a.b": ""} {
		a, ok := reverse(s)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%s: %v %v, want %q", s, a, ok, want)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(query("web", typeA))
	f.Add(query("web", typeANY))
	f.Add(query("1.0.0.10.in-addr.arpa", typePTR))
	f.Add([]byte{0, 1, 0, 0, 0, 1})
	f.Add(append(query("web", typeA)[:headerLen], 0xc0, 0x0c, 0, 1, 0, 1))
	s := &Server{names: known{"web": {netip.MustParseAddr("10.0.0.1")}}}
	f.Fuzz(func(t *testing.T, m []byte) {
		out, q, forward := s.answer(m)
		if forward {
			out = s.ask("udp", m, q)
		}
		if out == nil {
			return
		}
		if len(out) < headerLen || out[0] != m[0] || out[1] != m[1] || out[2]&0x80 == 0 {
			t.Fatalf("%x answered %x", m, out)
		}
	})
}
