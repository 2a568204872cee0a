package network

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/kernel/link"
)

// Driver options of macvlan and ipvlan, as Docker names them.
const (
	optParent      = "parent"
	optMacvlanMode = "macvlan_mode"
	optIpvlanMode  = "ipvlan_mode"
	optIpvlanFlag  = "ipvlan_flag"
)

// What the kernel calls Docker's modes and flags (linux/if_link.h).
var (
	macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "": 4, "bridge": 4, "passthru": 8}
	ipvlanModes  = map[string]uint32{"": 0, "l2": 0, "l3": 1, "l3s": 2}
	ipvlanFlags  = map[string]uint16{"": 0, "bridge": 0, "private": 1, "vepa": 2}
)

func (n *network) isMacvlan() bool { return n.Driver == "macvlan" || n.Driver == "ipvlan" }

// checkMacvlan refuses unknown modes, in Docker's words.
func checkMacvlan(r *record) error {
	o := r.Options
	switch r.Driver {
	case "macvlan":
		if _, ok := macvlanModes[o[optMacvlanMode]]; !ok {
			return errs.Invalid.Errorf("requested macvlan mode '%s' is not valid, 'bridge' mode is the macvlan driver default", o[optMacvlanMode])
		}
	case "ipvlan":
		if _, ok := ipvlanModes[o[optIpvlanMode]]; !ok {
			return errs.Invalid.Errorf("requested ipvlan mode '%s' is not valid, 'l2' mode is the ipvlan driver default", o[optIpvlanMode])
		}
		if _, ok := ipvlanFlags[o[optIpvlanFlag]]; !ok {
			return errs.Invalid.Errorf("requested ipvlan flag '%s' is not valid, 'bridge' is the ipvlan driver default", o[optIpvlanFlag])
		}
	default:
		return nil
	}
	if o[optParent] == "lo" {
		return errs.Invalid.Errorf("loopback interface is not a valid %s parent link", r.Driver)
	}
	return nil
}

// parentName is the interface that the network's are on top of: the user's, or one that leads nowhere, as for Docker.
func (n *network) parentName() string {
	if p := n.Options[optParent]; p != "" {
		return p
	}
	return "dm-" + ids.Short(n.ID)
}

// parent finds that interface, or makes it: one that leads nowhere, or for eth0.7 the virtual network 7 of eth0.
func (s *Service) parent(n *network) (l link.Link, err error) {
	links, name := s.Options.Host.Links(), n.parentName()
	if l, err = links.Find(name); !errors.Is(err, link.ErrNotFound) {
		return l, err
	}
	base, tag, dotted := strings.Cut(name, ".")
	switch {
	case n.Options[optParent] == "" || n.Internal:
		err = links.AddDummy(name)
	case dotted:
		id, perr := strconv.ParseUint(tag, 10, 16)
		if perr != nil || id < 1 || id > 4094 {
			return l, errs.Invalid.Errorf("invalid subinterface vlan name %s, example formatting is eth0.10", name)
		}
		var on link.Link
		if on, err = links.Find(base); err != nil {
			return l, errs.Invalid.Errorf("failed to find master interface %s on the Docker host: %w", base, err)
		}
		err = links.AddVLAN(&link.VLAN{Name: name, Parent: on.Index, ID: uint16(id)})
	default:
		return l, errs.Invalid.Errorf("invalid subinterface vlan name %s, example formatting is eth0.10", name)
	}
	if err != nil {
		return l, err
	}
	return links.Find(name)
}

// forsake deletes the interface that parent made, unless another network is on it. s.mu is held.
func (s *Service) forsake(n *network) {
	if !n.MadeParent {
		return
	}
	for _, o := range s.nets {
		if o != n && o.isMacvlan() && o.parentName() == n.parentName() {
			return
		}
	}
	if err := s.Options.Host.Links().Delete(n.parentName()); err != nil {
		s.Log.Warn("removing a network's parent interface failed", "network", n.Name, "err", err)
	}
}

// macvlan is the interface of an endpoint, to be made on l in the namespace with this descriptor.
func (n *network) macvlan(e *endpoint, l link.Link, ns int) *link.Macvlan {
	n.making.Lock()
	mtu := n.mtu
	n.making.Unlock()
	m := &link.Macvlan{Name: e.Iface, Parent: l.Index, Kind: n.Driver, MTU: min(mtu, l.MTU), MAC: e.MAC, NS: ns}
	if n.Driver == "ipvlan" {
		m.Mode, m.Flags = ipvlanModes[n.Options[optIpvlanMode]], ipvlanFlags[n.Options[optIpvlanFlag]]
	} else {
		m.Mode = macvlanModes[n.Options[optMacvlanMode]]
	}
	return m
}

// ways are the gateways by which a container reaches the world through an endpoint that has these. In ipvlan's l3 modes there are no
// neighbours to ask for one: all goes out by the interface.
func (n *network) ways(gateways []netip.Addr) []netip.Addr {
	if n.Driver != "ipvlan" || ipvlanModes[n.Options[optIpvlanMode]] == 0 {
		return gateways
	}
	var list []netip.Addr
	for _, g := range gateways {
		if g.Is4() {
			list = append(list, netip.IPv4Unspecified())
		} else {
			list = append(list, netip.IPv6Unspecified())
		}
	}
	return list
}
