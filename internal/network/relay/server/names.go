package server

import (
	"net/netip"
	"slices"
	"strings"

	"gantry/internal/network/relay/protocol"
)

// table is who has which names and addresses on which network.
type table struct {
	names map[string]map[string][]place // network, name in lower case
	addrs map[netAddr]string            // the name that an address leads back to
}

// place is where a name leads: one sandbox's addresses.
type place struct {
	sandbox string
	v4, v6  netip.Addr
}

type netAddr struct {
	network string
	addr    netip.Addr
}

func newTable() *table {
	return &table{names: make(map[string]map[string][]place), addrs: make(map[netAddr]string)}
}

func (t *table) add(s *protocol.Sandbox) {
	for i := range s.Networks {
		n := &s.Networks[i]
		if len(n.Names) == 0 {
			continue
		}
		names := t.names[n.ID]
		if names == nil {
			names = make(map[string][]place)
			t.names[n.ID] = names
		}
		p := place{s.ID, n.V4, n.V6}
		for _, name := range n.Names {
			if name = strings.ToLower(name); !slices.Contains(names[name], p) {
				names[name] = append(names[name], p)
			}
		}
		for _, a := range []netip.Addr{n.V4, n.V6} {
			if a.IsValid() {
				t.addrs[netAddr{n.ID, a}] = n.Names[0] + "." + n.Name
			}
		}
	}
}

func (t *table) remove(s *protocol.Sandbox) {
	for i := range s.Networks {
		n := &s.Networks[i]
		names := t.names[n.ID]
		for _, name := range n.Names {
			name = strings.ToLower(name)
			if names[name] = slices.DeleteFunc(names[name], func(p place) bool { return p.sandbox == s.ID }); len(names[name]) == 0 {
				delete(names, name)
			}
		}
		if len(names) == 0 {
			delete(t.names, n.ID)
		}
		for _, a := range []netip.Addr{n.V4, n.V6} {
			delete(t.addrs, netAddr{n.ID, a})
		}
	}
}

// view is what one sandbox may know: the names of its own networks. It answers package dns; the server's lock is held.
type view struct {
	t *table
	s *protocol.Sandbox
}

// Lookup returns the addresses of a name, as it is or with a network's name behind it.
func (v view) Lookup(name string) (addrs []netip.Addr, known bool) {
	for i := range v.s.Networks {
		n := &v.s.Networks[i]
		if len(n.Names) == 0 {
			continue
		}
		names := v.t.names[n.ID]
		short, _ := strings.CutSuffix(name, "."+strings.ToLower(n.Name))
		for _, name := range []string{name, short} {
			for alias, to := range n.Links {
				if strings.EqualFold(alias, name) {
					name = strings.ToLower(to)
					break
				}
			}
			for _, p := range names[name] {
				known = true
				for _, a := range []netip.Addr{p.v4, p.v6} {
					if a.IsValid() && !slices.Contains(addrs, a) {
						addrs = append(addrs, a)
					}
				}
			}
		}
		if known {
			return addrs, true
		}
	}
	return nil, false
}

// Reverse returns the name of an address in the sandbox's networks.
func (v view) Reverse(a netip.Addr) string {
	for i := range v.s.Networks {
		if len(v.s.Networks[i].Names) == 0 {
			continue
		}
		if name := v.t.addrs[netAddr{v.s.Networks[i].ID, a}]; name != "" {
			return name
		}
	}
	return ""
}
