// Package ipam decides which addresses networks and containers get. It only reckons: who holds what between two runs
// of the engine, others keep.
//
// Subnets come from the default address pools, Docker's unless configured, and keep clear of every route and address
// that the host has now, so that a container network does not hide the office's VPN. Within a subnet addresses
// rotate: one that was given back is given out again as late as can be, for a neighbour may still have it in mind.
package ipam

import (
	"fmt"
	"net/netip"
	"strings"

	"gantry/internal/errs"
)

// Pool is a range of addresses that is cut into subnets of Size bits, as in default-address-pools.
type Pool struct {
	Base netip.Prefix
	Size int
}

// DefaultPools are Docker's.
func DefaultPools() []Pool {
	var p []Pool
	for i := 17; i <= 31; i++ {
		p = append(p, Pool{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i)}), 16), 16})
	}
	return append(p, Pool{netip.MustParsePrefix("192.168.0.0/16"), 20})
}

// ULA returns the pool of a host's own unique local addresses (RFC 4193); id makes it the host's own.
func ULA(id [5]byte) Pool {
	a := [16]byte{0: 0xfd}
	copy(a[1:], id[:])
	return Pool{netip.PrefixFrom(netip.AddrFrom16(a), 48), 64}
}

// Phrases that Docker's users and tools know.
const (
	overlaps  = "Pool overlaps with other one on this address space"
	exhausted = "all predefined address pools have been fully subnetted"
)

// Choose returns the first subnet of the family, of those that the pools hold, which overlaps none of busy.
func Choose(pools []Pool, v6 bool, busy []netip.Prefix) (netip.Prefix, error) {
	for _, p := range pools {
		if p.Base.Addr().Is6() != v6 || p.Size < p.Base.Bits() {
			continue
		}
		for s := netip.PrefixFrom(p.Base.Masked().Addr(), p.Size); s.IsValid() && p.Base.Contains(s.Addr()); {
			o, ok := overlapping(s, busy)
			if !ok {
				return s, nil
			}
			// On behind the larger of the two.
			if o.Bits() > s.Bits() {
				o = s
			}
			next := After(o)
			if !next.IsValid() {
				break
			}
			s = netip.PrefixFrom(next, p.Size)
		}
	}
	return netip.Prefix{}, errs.Forbidden.Errorf(exhausted)
}

// Check refuses a subnet that overlaps one of taken.
func Check(s netip.Prefix, taken []netip.Prefix) error {
	if _, ok := overlapping(s, taken); ok {
		return errs.Forbidden.Errorf(overlaps)
	}
	return nil
}

func overlapping(s netip.Prefix, list []netip.Prefix) (netip.Prefix, bool) {
	var found netip.Prefix
	for _, o := range list {
		// A default route is everywhere, and in nobody's way.
		if o.Bits() > 0 && o.Overlaps(s) && (!found.IsValid() || o.Bits() < found.Bits()) {
			found = o.Masked()
		}
	}
	return found, found.IsValid()
}

// Last returns the last address of p.
func Last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// After returns the first address behind p, or an invalid one.
func After(p netip.Prefix) netip.Addr { return Last(p).Next() }

// Config says what a subnet is to be, as --subnet, --ip-range, --gateway and --aux-address do.
type Config struct {
	Subnet  netip.Prefix
	Range   netip.Prefix // may be invalid: the whole subnet
	Gateway netip.Addr   // may be invalid: the first free one
	Aux     map[string]netip.Addr
	NoGW    bool // no gateway unless it is given
}

// Subnet gives out the addresses of one subnet. It is not safe for use by several goroutines at once.
type Subnet struct {
	Config
	taken map[netip.Addr]struct{}
	next  netip.Addr
}

// NewSubnet checks c in Docker's words and reserves gateway and auxiliary addresses.
func NewSubnet(c Config) (*Subnet, error) {
	if !c.Subnet.IsValid() || c.Subnet.Bits() == 0 {
		return nil, errs.Invalid.Errorf("invalid subnet %s", c.Subnet)
	}
	if m := c.Subnet.Masked(); m != c.Subnet {
		return nil, errs.Invalid.Errorf("invalid network config:\ninvalid subnet %s: it should be %s", c.Subnet, m)
	}
	if !c.Range.IsValid() {
		c.Range = c.Subnet
	} else if c.Range.Bits() < c.Subnet.Bits() || !c.Subnet.Contains(c.Range.Addr()) {
		return nil, errs.Invalid.Errorf("invalid network config:\ninvalid ip-range %s: parent subnet %s does not contain it", c.Range, c.Subnet)
	}
	c.Range = c.Range.Masked()
	s := &Subnet{Config: c, taken: map[netip.Addr]struct{}{}, next: c.Range.Addr()}
	for name, a := range c.Aux {
		if !c.Subnet.Contains(a) {
			return nil, errs.Invalid.Errorf("invalid network config:\ninvalid auxiliary address %s: parent subnet %s does not contain it", a, c.Subnet)
		}
		if _, twice := s.taken[a]; twice {
			return nil, errs.Forbidden.Errorf("failed to allocate secondary ip address (%s:%s): %s", name, a, inUse)
		}
		s.taken[a] = struct{}{}
	}
	if !s.Gateway.IsValid() && !c.NoGW {
		gw, err := s.Next()
		if err != nil {
			return nil, err
		}
		s.Gateway = gw
	} else if s.Gateway.IsValid() {
		if !c.Subnet.Contains(s.Gateway) {
			return nil, errs.Invalid.Errorf("invalid network config:\ninvalid gateway %s: parent subnet %s does not contain it", s.Gateway, c.Subnet)
		}
		for name, a := range c.Aux {
			if a == s.Gateway {
				return nil, errs.Forbidden.Errorf("failed to allocate secondary ip address (%s:%s): %s", name, a, inUse)
			}
		}
		s.taken[s.Gateway] = struct{}{}
	}
	return s, nil
}

const inUse = "Address already in use"

// usable reports whether a host may have the address: not the subnet's own nor its broadcast, in subnets that have such.
func (s *Subnet) usable(a netip.Addr) bool {
	n := s.Subnet.Addr().BitLen() - s.Subnet.Bits()
	if n <= 1 {
		return true
	}
	if a == s.Subnet.Addr() {
		return false
	}
	return a.Is6() || a != Last(s.Subnet)
}

// Next takes the next free address of the range.
func (s *Subnet) Next() (netip.Addr, error) {
	first := s.Range.Addr()
	a := s.next
	// Every taken address is met at most once, besides two that are nobody's.
	for range len(s.taken) + 3 {
		if !a.IsValid() || !s.Range.Contains(a) {
			a = first
		}
		if _, taken := s.taken[a]; !taken && s.usable(a) {
			s.taken[a] = struct{}{}
			s.next = a.Next()
			return a, nil
		}
		a = a.Next()
	}
	return netip.Addr{}, errs.Forbidden.Errorf("no available IPv%d addresses on this network's address pools: %s", version(first), s.Subnet)
}

func version(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// Take takes this very address.
func (s *Subnet) Take(a netip.Addr) error {
	if !s.Subnet.Contains(a) {
		return errs.Invalid.Errorf("Invalid address %s: It does not belong to any of this network's subnets", a)
	}
	if _, taken := s.taken[a]; taken || !s.usable(a) {
		return errs.Forbidden.Errorf(inUse)
	}
	s.taken[a] = struct{}{}
	return nil
}

// Give gives an address back. Reserved ones and those that nobody has are left alone.
func (s *Subnet) Give(a netip.Addr) {
	if a == s.Gateway {
		return
	}
	for _, aux := range s.Aux {
		if aux == a {
			return
		}
	}
	delete(s.taken, a)
}

// Taken returns how many addresses are taken, reserved ones among them.
func (s *Subnet) Taken() int { return len(s.taken) }

// MAC makes the hardware address that goes with an IPv4 address, as Docker always did: a container that gets its
// address again is not mistaken by its neighbours' ARP caches. For others it is taken from seed.
func MAC(a netip.Addr, seed [4]byte) []byte {
	if a.Is4() {
		seed = a.As4()
	}
	return append([]byte{0x02, 0x42}, seed[:]...)
}

// ParsePool reads one of --default-address-pool: base=10.10.0.0/16,size=24.
func ParsePool(s string) (Pool, error) {
	var p Pool
	for f := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return p, fmt.Errorf("invalid field %q: must be a key=value pair", f)
		}
		switch strings.ToLower(strings.TrimSpace(k)) {
		case "base":
			base, err := netip.ParsePrefix(v)
			if err != nil {
				return p, fmt.Errorf("invalid base prefix %q: %w", v, err)
			}
			p.Base = base.Masked()
		case "size":
			if _, err := fmt.Sscanf(v, "%d", &p.Size); err != nil {
				return p, fmt.Errorf("invalid size value: %s", v)
			}
		default:
			return p, fmt.Errorf("unexpected key '%s' in '%s'", k, f)
		}
	}
	if !p.Base.IsValid() || p.Size < p.Base.Bits() || p.Size > p.Base.Addr().BitLen() {
		return p, fmt.Errorf("invalid default address pool %q: the size must lie between the base's and the address's", s)
	}
	return p, nil
}
