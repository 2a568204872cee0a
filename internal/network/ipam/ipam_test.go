package ipam

import (
	"net/netip"
	"testing"

	"gantry/internal/errs"
)

func prefixes(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestChooseKeepsClearOfTheHost(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		busy []netip.Prefix
		want string
	}{
		{nil, "172.17.0.0/16"},
		{prefixes("0.0.0.0/0", "172.17.3.0/24"), "172.18.0.0/16"},
		{prefixes("172.16.0.0/12"), "192.168.0.0/20"},
		{prefixes("172.16.0.0/12", "192.168.1.5/32", "192.168.16.0/21"), "192.168.32.0/20"},
	} {
		got, err := Choose(DefaultPools(), false, c.busy)
		if err != nil || got.String() != c.want {
			t.Errorf("beside %v: %v, %v, want %s", c.busy, got, err, c.want)
		}
	}
	if _, err := Choose(DefaultPools(), false, prefixes("172.16.0.0/12", "192.168.0.0/16")); err == nil || err.Error() != exhausted {
		t.Errorf("of nothing: %v", err)
	}
	// A /64 of a /48 that a large neighbour half fills is found without counting through.
	ula := ULA([5]byte{1, 2, 3, 4, 5})
	if got, err := Choose([]Pool{ula}, true, prefixes("fd01:203:405::/49")); err != nil || got.String() != "fd01:203:405:8000::/64" {
		t.Errorf("ULA: %v, %v", got, err)
	}
	// The pool at the end of all addresses ends.
	if _, err := Choose([]Pool{{netip.MustParsePrefix("255.255.255.0/24"), 25}}, false, prefixes("255.255.255.0/24")); err == nil {
		t.Error("found something behind the last address")
	}
	if err := Check(netip.MustParsePrefix("10.1.0.0/24"), prefixes("10.0.0.0/8")); err == nil || err.Error() != "Pool overlaps with other one on this address space" {
		t.Errorf("overlap: %v", err)
	}
}

func TestSubnetGivesOutAddresses(t *testing.T) {
	t.Parallel()
	s, err := NewSubnet(Config{Subnet: netip.MustParsePrefix("10.1.2.0/29"), Aux: map[string]netip.Addr{"a": netip.MustParseAddr("10.1.2.3")}})
	if err != nil || s.Gateway.String() != "10.1.2.1" {
		t.Fatal(err, s)
	}
	var got []string
	for range 4 {
		a, err := s.Next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	if want := "[10.1.2.2 10.1.2.4 10.1.2.5 10.1.2.6]"; sprint(got) != want {
		t.Fatalf("%v, want %s", got, want)
	}
	if _, err := s.Next(); err == nil || err.Error() != "no available IPv4 addresses on this network's address pools: 10.1.2.0/29" {
		t.Fatal(err)
	}
	s.Give(netip.MustParseAddr("10.1.2.5"))
	s.Give(netip.MustParseAddr("10.1.2.2"))
	s.Give(netip.MustParseAddr("10.1.2.1")) // the gateway's stays
	s.Give(netip.MustParseAddr("10.1.2.3"))
	if a, _ := s.Next(); a.String() != "10.1.2.2" {
		t.Fatalf("after the last comes the first: %v", a)
	}
	if err := s.Take(netip.MustParseAddr("10.1.2.2")); err == nil || err.Error() != "Address already in use" || errs.KindOf(err) != errs.Forbidden {
		t.Fatal(err)
	}
	if err := s.Take(netip.MustParseAddr("10.1.2.7")); err == nil {
		t.Fatal("gave out the broadcast address")
	}
	if err := s.Take(netip.MustParseAddr("10.1.3.2")); !errs.Invalid.Is(err) {
		t.Fatal(err)
	}
	if err := s.Take(netip.MustParseAddr("10.1.2.5")); err != nil {
		t.Fatal(err)
	}
}

func sprint(s []string) string {
	out := "["
	for i, x := range s {
		if i > 0 {
			out += " "
		}
		out += x
	}
	return out + "]"
}

func TestAddressesRotate(t *testing.T) {
	t.Parallel()
	s, _ := NewSubnet(Config{Subnet: netip.MustParsePrefix("172.17.0.0/16")})
	a, _ := s.Next()
	s.Give(a)
	b, _ := s.Next()
	if a == b {
		t.Fatalf("%v was given out again at once", a)
	}
}

func TestSubnetOfRangeAndIPv6(t *testing.T) {
	t.Parallel()
	s, err := NewSubnet(Config{Subnet: netip.MustParsePrefix("fd00:1::/64"), Range: netip.MustParsePrefix("fd00:1::100/120"), Gateway: netip.MustParseAddr("fd00:1::1")})
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := s.Next(); a.String() != "fd00:1::100" {
		t.Fatal(a)
	}
	gw := netip.MustParseAddr("10.0.0.9")
	if _, err := NewSubnet(Config{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: gw, Aux: map[string]netip.Addr{"x": gw}}); !errs.Forbidden.Is(err) ||
		err.Error() != "failed to allocate secondary ip address (x:10.0.0.9): Address already in use" {
		t.Error(err)
	}
	for _, c := range []Config{
		{Subnet: netip.MustParsePrefix("10.0.0.1/24")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.1.0/28")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")},
		{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Aux: map[string]netip.Addr{"x": netip.MustParseAddr("10.0.1.1")}},
		{},
	} {
		if _, err := NewSubnet(c); !errs.Invalid.Is(err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzParsePool(f *testing.F) {
	for _, s := range []string{"base=10.10.0.0/16,size=24", "base=fd00::/8,size=64", "size=3", "base=,size=", "base=1.2.3.4/33,size=-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePool(s)
		if err != nil {
			return
		}
		if got, err := Choose([]Pool{p}, p.Base.Addr().Is6(), nil); err == nil && !p.Base.Contains(got.Addr()) {
			t.Fatalf("%v is not of %v", got, p)
		}
	})
}
