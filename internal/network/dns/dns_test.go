package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
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

// serve answers on two sockets as the relay does, and returns a client.
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
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	f := NewForwarder()
	answer := func(m []byte) ([]byte, Question) {
		out, q, forward := Answer(m, names)
		if forward {
			out = f.Ask(false, m, q, nil)
		}
		return out, q
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if out, q := answer(buf[:n]); out != nil {
				udp.WriteTo(Fit(out, buf[:n], q), from)
			}
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for {
					m, err := ReadTCP(c)
					if err != nil {
						return
					}
					out, _ := answer(m)
					if WriteTCP(c, out) != nil {
						return
					}
				}
			}()
		}
	}()
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
	for i := range 240 { // more than a datagram holds
		k["many"] = append(k["many"], netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	r := serve(t, k)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for name, want := range map[string]int{"web.": 3, "WEB.": 3, "v4.": 1, "many.": 240} {
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

// server is a name server of the test's, by UDP and TCP. respond makes the answer to a query; nil is none.
func server(t *testing.T, respond func(m []byte, q Question, tcp bool) []byte) netip.AddrPort {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	for udp == nil { // until there is a number that is free with both
		var err error
		if tcp, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if udp, err = net.ListenPacket("udp4", tcp.Addr().String()); err != nil {
			tcp.Close()
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			q, _ := parse(buf[:n])
			wrong := make([]byte, n)
			copy(wrong, buf[:n])
			wrong[0]++
			wrong[2] |= 0x80
			udp.WriteTo(wrong, from) // somebody guesses
			if out := respond(buf[:n], q, false); out != nil {
				udp.WriteTo(out, from)
			}
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			if m, err := ReadTCP(c); err == nil {
				q, _ := parse(m)
				if out := respond(m, q, true); out != nil {
					WriteTCP(c, out)
				}
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(tcp.Addr().String())
}

func ask(f *Forwarder, tcp bool, m []byte, upstream ...netip.AddrPort) []byte {
	q, err := parse(m)
	if err != nil {
		panic(err)
	}
	return f.Ask(tcp, m, q, upstream)
}

// TestForwarding asks several name servers: one where nobody is, one that fails, one that knows.
func TestForwarding(t *testing.T) {
	t.Parallel()
	var failed, asked atomic.Int32
	gone := netip.MustParseAddrPort("127.0.0.1:1")
	failing := server(t, func(m []byte, q Question, _ bool) []byte {
		failed.Add(1)
		return respond(m, q, servFail)
	})
	good := server(t, func(m []byte, q Question, tcp bool) []byte {
		asked.Add(1)
		if tcp {
			return add(respond(m, q, noError), typeA, []byte{192, 0, 2, 8})
		}
		return add(respond(m, q, noError), typeA, []byte{192, 0, 2, 7})
	})
	f := NewForwarder()
	m := query("Example.test", typeA)
	if out := ask(f, false, m, gone, failing, good); !bytes.Equal(out[:2], m[:2]) || !bytes.HasSuffix(out, []byte{192, 0, 2, 7}) {
		t.Fatalf("%x", out)
	}
	if failed.Load() != 1 {
		t.Error("the second name server was not asked")
	}
	// From the cache, by whatever way and in whatever capitals.
	m2 := query("eXample.test", typeA)
	m2[0]++
	if out := ask(f, true, m2, gone, failing, good); out[0] != m2[0] || !bytes.Contains(out, []byte("eXample")) || !bytes.HasSuffix(out, []byte{192, 0, 2, 7}) || asked.Load() != 1 {
		t.Errorf("%x, asked %d times", out, asked.Load())
	}
	if q, _ := parse(m2); f.Known(m2, q, []netip.AddrPort{gone, failing, good}) == nil {
		t.Error("not known")
	}
	// Of other name servers, or with a cookie, it is another question.
	if out := ask(f, true, m, good); !bytes.HasSuffix(out, []byte{192, 0, 2, 8}) || asked.Load() != 2 {
		t.Errorf("%x, asked %d times", out, asked.Load())
	}
	cookie := append(slices.Clone(m), 0, 0, typeOPT, 16, 0, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8)
	cookie[11] = 1
	ask(f, false, cookie, good)
	ask(f, false, cookie, good)
	if asked.Load() != 4 {
		t.Errorf("asked %d times", asked.Load())
	}
	// When all fail, what they said; when none answers, that.
	if out := ask(f, false, query("b.test", typeA), gone, failing); out[3]&15 != servFail {
		t.Errorf("%x", out)
	}
	if out := ask(f, false, query("b.test", typeA)); out[3]&15 != servFail {
		t.Errorf("%x", out)
	}
	if got := f.order([]netip.AddrPort{gone, good}); got[0] != good {
		t.Error("one that does not answer is asked first again")
	}
}

// soa ends a response with the record that says for how long there is nothing.
func soa(out []byte, ttl, minimum uint32) []byte {
	binary.BigEndian.PutUint16(out[8:], 1)
	out = append(out, 0xc0, headerLen, 0, typeSOA, 0, classIN)
	out = binary.BigEndian.AppendUint32(out, ttl)
	out = append(out, 0, 22, 0, 0)
	out = append(out, make([]byte, 16)...)
	return binary.BigEndian.AppendUint32(out, minimum)
}

func TestCache(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	c := &cache{now: func() time.Time { return now }}
	m := query("a.test", typeA)
	q, _ := parse(m)
	k := key(m, q, "up")
	put := func(out []byte) { c.put(k, out, q) }
	age := func(want time.Duration) {
		t.Helper()
		now = now.Add(want - time.Second)
		if c.get(k, m, q) == nil {
			t.Errorf("forgotten before %v", want)
		}
		now = now.Add(time.Second)
		if c.get(k, m, q) != nil {
			t.Errorf("not forgotten after %v", want)
		}
	}
	put(add(respond(m, q, noError), typeA, []byte{1, 2, 3, 4}))
	now = now.Add(100 * time.Second)
	if out := c.get(k, m, q); binary.BigEndian.Uint32(out[len(out)-10:]) != ttl-100 {
		t.Errorf("%x", out)
	}
	age(ttl*time.Second - 100*time.Second)
	put(soa(respond(m, q, nxDomain), 60, 30))
	age(30 * time.Second)
	put(soa(respond(m, q, noError), 20, 30))
	age(20 * time.Second)
	put(soa(respond(m, q, nxDomain), 1<<20, 1<<20))
	age(maxNegative)
	for what, out := range map[string][]byte{
		"nothing said":  respond(m, q, nxDomain),
		"failed":        respond(m, q, servFail),
		"cut off":       Fit(append(respond(m, q, noError), make([]byte, 600)...), m, q),
		"TTL of 0":      soa(respond(m, q, nxDomain), 0, 30),
		"no whole RR":   append(soa(respond(m, q, nxDomain), 30, 30)[:30], 0),
		"much too long": append(add(respond(m, q, noError), typeA, []byte{1, 2, 3, 4}), make([]byte, maxMessage)...),
	} {
		put(out)
		if c.get(k, m, q) != nil {
			t.Errorf("%s: kept", what)
		}
	}
	for i := range 3 * maxEntries {
		m := query(fmt.Sprintf("%d.%s.test", i, strings.Repeat("x", 60)), typeA)
		q, _ := parse(m)
		c.put(key(m, q, "up"), add(respond(m, q, noError), typeA, bytes.Repeat([]byte{1}, 300)), q)
		if len(c.entries) > maxEntries || c.size > maxCached {
			t.Fatalf("%d entries, %d bytes", len(c.entries), c.size)
		}
	}
	for k := range c.entries {
		c.drop(k)
	}
	if c.size != 0 {
		t.Errorf("%d bytes of nothing", c.size)
	}
}

// TestKeys: what may have another answer has another key. One label with a dot in it is not two labels.
func TestKeys(t *testing.T) {
	t.Parallel()
	wire := func(labels ...string) []byte {
		m := query("", typeA)[:headerLen]
		for _, l := range labels {
			m = append(append(m, byte(len(l))), l...)
		}
		return append(m, 0, 0, typeA, 0, classIN)
	}
	seen := map[string][]string{}
	for _, labels := range [][]string{{"www", "example", "test"}, {"www.example", "test"}, {"www.example.test"}, {`www\.example`, "test"}, {`www\`, "example", "test"}, {`www\\`, "example", "test"}} {
		m := wire(labels...)
		q, err := parse(m)
		if err != nil {
			t.Fatal(labels, err)
		}
		k := key(m, q, "up")
		if seen[k] != nil {
			t.Errorf("%q has the answer of %q", labels, seen[k])
		}
		seen[k] = labels
	}
	if _, q, forward := Answer(wire("a.b"), known{"a.b": nil}); !forward {
		t.Errorf("one label was taken for %q", q.name)
	}
	// 255 bytes are the most (RFC 1035 §2.3.4).
	long := []string{strings.Repeat("a", 63), strings.Repeat("b", 63), strings.Repeat("c", 63), strings.Repeat(".", 61)}
	if _, err := parse(wire(long...)); err != nil {
		t.Error(err)
	}
	long[3] += "d"
	if _, err := parse(wire(long...)); err == nil {
		t.Error("a name of 256 bytes")
	}
	// An answer to more than the question is not for others.
	m := query("a.test", typeA)
	q, _ := parse(m)
	for _, at := range []int{7, 9, 11} {
		more := append(slices.Clone(m), 0, 0, typeA, 0, classIN, 0, 0, 0, 0, 0, 0)
		more[at] = 1
		if key(more, q, "up") != "" {
			t.Errorf("a query with a record in section %d is cached", at/2-3)
		}
	}
}

func TestEDNS(t *testing.T) {
	t.Parallel()
	k := known{}
	for i := range 60 {
		k["web"] = append(k["web"], netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}))
	}
	m := query("web", typeA)
	out, q, _ := Answer(m, k)
	if cut := Fit(out, m, q); cut[2]&0x02 == 0 || len(cut) != q.end {
		t.Errorf("%x", cut)
	}
	m[11] = 1
	m = append(m, 0, 0, typeOPT, 1200>>8, 1200&255, 0, 0, 0, 0, 0, 0)
	out, q, _ = Answer(m, k)
	if whole := Fit(out, m, q); whole[2]&0x02 != 0 || whole[11] != 1 || !bytes.HasSuffix(whole, []byte{0, 0, typeOPT, maxUDP >> 8, maxUDP & 255, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("%x", whole)
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
	f.Add(append(query("web", typeA), 0, 0, typeOPT, 16, 0, 0, 0, 0, 0, 0, 0))
	k := known{"web": {netip.MustParseAddr("10.0.0.1")}}
	fw := NewForwarder()
	f.Fuzz(func(t *testing.T, m []byte) {
		out, q, forward := Answer(m, k)
		if forward {
			out = fw.Ask(false, m, q, nil)
		}
		if out == nil {
			return
		}
		if len(out) < headerLen || out[0] != m[0] || out[1] != m[1] || out[2]&0x80 == 0 {
			t.Fatalf("%x answered %x", m, out)
		}
		if q.end >= headerLen {
			Fit(out, m, q)
		}
	})
}

// FuzzResponse feeds what a name server may send to what keeps it.
func FuzzResponse(f *testing.F) {
	m := query("a.test", typeA)
	q, _ := parse(m)
	f.Add(add(respond(m, q, noError), typeA, []byte{1, 2, 3, 4})[q.end:], byte(noError))
	f.Add(soa(respond(m, q, nxDomain), 60, 30)[q.end:], byte(nxDomain))
	f.Fuzz(func(t *testing.T, rest []byte, code byte) {
		out := append(respond(m, q, code&15), rest...)
		binary.BigEndian.PutUint16(out[6:], 1)
		c := &cache{now: time.Now}
		c.put("k", out, q)
		if got := c.get("k", m, q); got != nil && !answers(got, m, q) {
			t.Fatalf("%x", got)
		}
	})
}
