package network

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/conntrack"
	"gantry/internal/network/firewall"
)

// A client that sends datagrams from one port all the time goes on being led where its first one was: to a container that is gone,
// and later to whoever gets its address, or to nobody, where no container had the port yet. So the kernel is made to forget such
// flows when a port is published and when it is withdrawn; their next datagram is looked at as if it were the first. (TCP has
// connections that end.)

// forgetFlows does so behind, for those of the ports that are UDP's: it takes the longer the more connections the host has.
func (s *Service) forgetFlows(ports []firewall.Port, withdrawn bool) {
	type key struct {
		port uint16
		host netip.Addr // unspecified: all of its family
	}
	lead := map[key]netip.AddrPort{}
	targets, local := map[netip.AddrPort]bool{}, map[netip.Addr]bool{}
	for _, p := range ports {
		if p.Proto == unix.IPPROTO_UDP && !p.Direct {
			lead[key{p.Host.Port(), p.Host.Addr()}] = p.Target
			targets[p.Target] = true
		}
	}
	if len(lead) == 0 {
		return
	}
	stale := func(f *conntrack.Flow) bool {
		if f.Proto != unix.IPPROTO_UDP {
			return false
		}
		if withdrawn {
			return f.To != f.Target && targets[f.Target]
		}
		all := netip.IPv4Unspecified()
		if f.To.Addr().Is6() {
			all = netip.IPv6Unspecified()
		}
		to, ok := lead[key{f.To.Port(), f.To.Addr()}]
		if !ok && local[f.To.Addr()] { // not what only passes through, to another host's port of the same number
			to, ok = lead[key{f.To.Port(), all}]
		}
		return ok && to != f.Target
	}
	s.work.Go(func() {
		addrs, _ := s.Options.Host.Links().Addrs()
		for _, a := range addrs {
			local[a.Prefix.Addr()] = true
		}
		err := s.Options.Host.Do(func() error {
			for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
				if err := conntrack.Forget(family, stale); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.Log.Warn("datagrams of clients that sent before may go where they went then", "err", err)
		}
	})
}
