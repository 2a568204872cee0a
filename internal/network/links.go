package network

import (
	"net/netip"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/ids"
	"gantry/internal/network/firewall"
	"gantry/internal/network/portmap"
)

// On a network that keeps its containers apart (enable_icc=false) a link lets a container speak to the one it is linked to, at the
// ports that this one exposes or publishes. Docker has it on the default network alone; here it holds on users' networks, too. The
// bridge itself passes nothing on between them: it answers for every address (proxy_arp_pvlan, RFC 3069), so that what they say comes
// to the host's rules; or those see it by br_netfilter.

// exposed are the ports of a container that links open.
func exposed(r *JoinRequest) (list []string) {
	for p := range r.Exposed {
		list = append(list, p.String())
	}
	for p := range r.Ports {
		if !slices.Contains(list, p.String()) {
			list = append(list, p.String())
		}
	}
	slices.Sort(list)
	return list
}

// linked reports whether e, of j, is linked to the container o on the same network.
func (e *endpoint) linked(j, o *joined) bool {
	if predefined(e.Name) {
		return slices.Contains(j.Linked, o.ID)
	}
	return slices.ContainsFunc(e.Want.Links, func(l string) bool {
		name, _, _ := strings.Cut(l, ":")
		name = strings.TrimPrefix(name, "/")
		return name == o.Name || name == o.ID || len(name) >= 12 && len(name) < len(o.ID) && ids.Short(o.ID) == name[:12] && strings.HasPrefix(o.ID, name)
	})
}

// links are all that there are. s.mu is held.
func (s *Service) links() (list []firewall.Link) {
	for _, n := range s.nets {
		if n.Driver != "bridge" || n.flag(optICC, true) {
			continue
		}
		for _, j := range s.joined {
			e := j.on(n.ID)
			if e == nil || !e.V4.IsValid() || len(j.Linked) == 0 && len(e.Want.Links) == 0 {
				continue
			}
			for _, o := range s.joined {
				if to := o.on(n.ID); to != nil && o != j && to.V4.IsValid() && e.linked(j, o) {
					list = append(list, linksTo(e, to, o.Exposed)...)
				}
			}
		}
	}
	return list
}

func linksTo(from, to *endpoint, ports []string) (list []firewall.Link) {
	for _, p := range ports {
		port, err := api.ParsePort(p)
		if err != nil {
			continue
		}
		if proto, ok := portmap.Protocol(string(port.Proto())); ok {
			list = append(list, firewall.Link{Proto: proto, From: from.V4.Addr(), To: netip.AddrPortFrom(to.V4.Addr(), port.Num())})
		}
	}
	return list
}

// relink brings the firewall in line with who is linked to whom.
func (s *Service) relink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Under the lock, lest an older list come after a newer.
	if err := s.table.SetLinks(s.links()); err != nil {
		s.Log.Error("opening the ports of links failed", "err", err)
	}
}

// keptApart reports whether j is on a network on which links open ports. s.mu is held.
func (s *Service) keptApart(j *joined) bool {
	return slices.ContainsFunc(j.Endpoints, func(e *endpoint) bool {
		n := s.nets[e.Network]
		return n != nil && n.Driver == "bridge" && !n.flag(optICC, true)
	})
}

// relinkFor is relink, if it may be about j.
func (s *Service) relinkFor(j *joined) {
	s.mu.Lock()
	apart := s.keptApart(j)
	s.mu.Unlock()
	if apart {
		s.relink()
	}
}
