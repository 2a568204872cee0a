package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/nft"
	"gantry/internal/kernel/xtables"
)

// Rules are all rules of the host's namespace, everybody's, as they are now.
type Rules struct {
	*nft.Ruleset
	name string
}

// Rules reads them. index are the interfaces' numbers.
func (t *Table) Rules(index map[string]uint32) (*Rules, error) {
	r, err := t.conn.Ruleset()
	if err != nil {
		return nil, fmt.Errorf("read the firewall's rules: %w", err)
	}
	r.Index = index
	return &Rules{r, t.name}, nil
}

// Leads tells where the kernel leads packets for an address of the host and a port, and by which element of a map: one for this very
// address or for all of its family. Where there is none, ok is false.
func (r *Rules) Leads(proto uint8, host netip.AddrPort) (to netip.AddrPort, rule string, ok bool) {
	if host.Addr() == netip.IPv6Loopback() {
		return to, "", false // chain ports returns before
	}
	all := netip.IPv4Unspecified()
	if host.Addr().Is6() {
		all = netip.IPv6Unspecified()
	}
	for _, a := range []netip.Addr{host.Addr(), all} {
		k := portKey{proto: proto, host: netip.AddrPortFrom(a, host.Port())}
		set, e := element(k, netip.AddrPortFrom(all, 0))
		b := r.Ruleset.Leads(nft.Inet, r.name, set, e.Key)
		n := a.BitLen() / 8
		if len(b) < n+2 {
			continue
		}
		addr, _ := netip.AddrFromSlice(b[:n])
		to = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[n:]))
		key := fmt.Sprintf("%s . %d", protoName(proto), host.Port())
		if !a.IsUnspecified() {
			key = a.String() + " . " + key
		}
		return to, fmt.Sprintf("element %s : %s . %d of map inet %s %s", key, to.Addr(), to.Port(), r.name, set), true
	}
	return to, "", false
}

// Elsewhere lists the rules of others that lead a packet somewhere else, or may.
func (r *Rules) Elsewhere(hook uint32, p *nft.Packet) []nft.Place {
	return r.Ruleset.Elsewhere(hook, p, r.name)
}

// Legacy tells what the kernel's older tables say of packets forwarded to a bridge: whether their chain FORWARD refuses what no rule
// of it lets through, and whether ours is one of those. Nothing else is read of them.
func (t *Table) Legacy(v6 bool, bridge string) (refuses, passes bool) {
	t.host.Do(func() error {
		chain, err := xtables.Forward(v6)
		if err != nil || chain == nil {
			return err
		}
		refuses = chain.Drops || chain.Refuses
		passes = slices.Contains(chain.Comments, "to "+bridge+" "+t.mine)
		return nil
	})
	return refuses, passes
}

func protoName(n uint8) string {
	switch n {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	}
	return "sctp"
}
