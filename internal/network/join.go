package network

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/firewall"
	"gantry/internal/network/ipam"
	"gantry/internal/network/portmap"
)

// JoinRequest says how a container is to be connected.
type JoinRequest struct {
	ID, Name, Hostname string
	// Endpoints says by the network's name or ID what is wanted of each; First is the network of the container's mode.
	Endpoints map[string]*api.EndpointSettings
	First     string
	Ports     api.PortMap // to publish
	Exposed   api.PortSet // published on any ports, with All
	All       bool
	Upstream  []netip.Addr // name servers of the names that no network knows
	Linked    []string     // IDs of containers whose ports it may reach on the default network though that keeps containers apart
}

// Joined is how a container is connected.
type Joined struct {
	// Path leads to the container's network namespace until Done is called.
	Path string
	Done func()
	// Endpoints holds what was asked for, by the network's name, and what came of it.
	Endpoints map[string]*api.EndpointSettings
	Ports     api.PortMap
	// Resolver: names are answered at 127.0.0.11.
	Resolver bool
}

// Join makes a network namespace for a container that is about to start, and connects it. On an error nothing is left.
func (s *Service) Join(ctx context.Context, r *JoinRequest) (*Joined, error) {
	s.Leave(r.ID) // what a start before this one left
	// The kernel takes its time to make a namespace: meanwhile, the rest is reserved.
	type made struct {
		ns  *netns.Namespace
		err error
	}
	making := make(chan made, 1)
	go func() {
		ns, err := s.New()
		making <- made{ns, err}
	}()
	j, err := s.lease(r)
	var nets map[string]*network
	if err == nil {
		nets, err = s.reserve(j, r)
	}
	m := <-making
	ns := m.ns
	if err == nil {
		err = m.err
	}
	if err == nil {
		err = s.connect(ctx, j, nets, ns)
	}
	if err != nil {
		if ns != nil {
			ns.Close()
		}
		if j != nil {
			s.Leave(r.ID)
		}
		return nil, err
	}
	out := j.result()
	out.Path, out.Done = ns.Path(), func() { ns.Close() }
	return out, nil
}

// Check refuses what could never be joined, when a container is created.
func (s *Service) Check(r *JoinRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, want := range r.Endpoints {
		n, err := s.find(ref)
		if errs.NotFound.Is(err) {
			continue // it may be made before the container starts
		} else if err != nil {
			return err
		}
		if err := checkEndpoint(n, want); err != nil {
			return err
		}
	}
	_, err := portRequests(r, netip.Addr{}, s.Relayed)
	return err
}

// lease reserves names, addresses and the container's place on its networks, and notes them.
func (s *Service) lease(r *JoinRequest) (*joined, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.joined[r.ID] != nil {
		return nil, errs.Conflict.Errorf("container %s is connected already", r.ID)
	}
	j := &joined{V: joinedVersion, ID: r.ID, Name: r.Name, Upstream: r.Upstream, Linked: r.Linked, Exposed: exposed(r)}
	type wish struct {
		n    *network
		want *api.EndpointSettings
	}
	var wishes []wish
	for ref, want := range r.Endpoints {
		n, err := s.find(ref)
		if err != nil {
			return nil, err
		}
		if want == nil {
			want = &api.EndpointSettings{}
		}
		wishes = append(wishes, wish{n, want})
	}
	// The order of the interfaces: the mode's network first.
	first, _ := s.find(r.First)
	slices.SortFunc(wishes, func(a, b wish) int {
		switch {
		case a.n == first:
			return -1
		case b.n == first:
			return 1
		}
		return cmp.Compare(a.n.Name, b.n.Name)
	})
	for _, w := range wishes {
		e, err := s.endpoint(j, w.n, w.want, r.Hostname)
		if err != nil {
			s.giveBack(j)
			return nil, err
		}
		j.Endpoints = append(j.Endpoints, e)
	}
	if err := s.writeJoined(j); err != nil {
		s.giveBack(j)
		return nil, err
	}
	s.joined[j.ID] = j
	return j, nil
}

// endpoint reserves one network's addresses for a container. s.mu is held.
func (s *Service) endpoint(j *joined, n *network, want *api.EndpointSettings, hostname string) (e *endpoint, err error) {
	if err := checkEndpoint(n, want); err != nil {
		return nil, err
	}
	e = &endpoint{ID: ids.New(), Network: n.ID, Name: n.Name, Want: want.Copy(), Iface: j.freeInterface(n.Options[optPrefix])}
	if name := want.DriverOpts[optIface]; name != "" {
		if e.Iface = name; slices.ContainsFunc(j.Endpoints, func(o *endpoint) bool { return o.Iface == name }) {
			return nil, errs.Invalid.Errorf("interface name %s is taken by another network of the container", name)
		}
	}
	if e.Want.IPAMConfig == nil {
		e.Want.IPAMConfig = &api.EndpointIPAMConfig{}
	}
	if n.Driver == "host" || n.Driver == "null" {
		e.Iface = ""
		return e, nil
	}
	e.Link = linkName()
	held := e
	defer func() {
		if err != nil {
			n.give(held)
		}
	}()
	if e.V4, e.GW4, err = n.take(false, want); err != nil {
		return nil, err
	}
	if e.V6, e.GW6, err = n.take(true, want); err != nil {
		return nil, err
	}
	e.MAC = net.HardwareAddr(want.MacAddress)
	if n.Driver == "ipvlan" {
		e.MAC = nil // it has its parent's
	} else if len(e.MAC) == 0 {
		var seed [4]byte
		rand.Read(seed[:])
		e.MAC = ipam.MAC(e.V4.Addr(), seed)
	}
	if !predefined(n.Name) {
		e.Names = append([]string{j.Name}, want.Aliases...)
		if short := ids.Short(j.ID); !slices.Contains(e.Names, short) {
			e.Names = append(e.Names, short)
		}
		if hostname != "" && !slices.Contains(e.Names, hostname) {
			e.Names = append(e.Names, hostname)
		}
	}
	return e, nil
}

// take takes an address of one family, the one asked for or any.
func (n *network) take(v6 bool, want *api.EndpointSettings) (p netip.Prefix, gw netip.Addr, err error) {
	var static netip.Addr
	if c := want.IPAMConfig; c != nil {
		if static = c.IPv4Address; v6 {
			static = c.IPv6Address
		}
	}
	for _, x := range n.subnets {
		if x.Subnet.Addr().Is6() != v6 || static.IsValid() && !x.Subnet.Contains(static) {
			continue
		}
		var a netip.Addr
		if static.IsValid() {
			a, err = static, x.Take(static)
		} else {
			a, err = x.Next()
		}
		if err == nil {
			if n.Internal {
				return netip.PrefixFrom(a, x.Subnet.Bits()), netip.Addr{}, nil
			}
			return netip.PrefixFrom(a, x.Subnet.Bits()), x.Gateway, nil
		}
	}
	return p, gw, err
}

func (n *network) give(e *endpoint) {
	for _, p := range []netip.Prefix{e.V4, e.V6} {
		for _, x := range n.subnets {
			if p.IsValid() && x.Subnet.Contains(p.Addr()) {
				x.Give(p.Addr())
			}
		}
	}
}

// linkName is a random name like Docker's for the host's end.
func linkName() string {
	var b [4]byte
	rand.Read(b[:])
	return "veth" + hex.EncodeToString(b[:])[:7]
}

// reserve makes j's networks ready and reserves its ports.
func (s *Service) reserve(j *joined, r *JoinRequest) (map[string]*network, error) {
	nets, err := s.made(j)
	if err != nil {
		return nil, err
	}
	failpoint.Hit("network.leased")
	gateway := j.gateway()
	if gateway != nil {
		requests, err := portRequests(r, hostBinding(nets[gateway.Network], s.HostIP), s.Relayed)
		if err != nil {
			return nil, err
		}
		if nets[gateway.Network].Driver == "bridge" && len(requests) > 0 {
			bindings, err := s.bind(j, nets, requests)
			if err != nil {
				if busy := (*portmap.Busy)(nil); errors.As(err, &busy) {
					err = errs.Internal.Wrap(err)
				}
				return nil, errs.KindOf(err).Errorf("driver failed programming external connectivity on endpoint %s (%s): %w", r.Name, gateway.ID, err)
			}
			if err := s.note(j, func() { j.Bindings = bindings }); err != nil {
				s.ports.Release(bindings)
				return nil, err
			}
			s.divertFor(j)
		}
	}
	failpoint.Hit("network.reserved")
	return nets, nil
}

// bind reserves what is requested of the host's ports. Of a family that is routed (option gateway_mode_…) there is nothing to
// reserve: who routes to the container's address comes to the very port.
func (s *Service) bind(j *joined, nets map[string]*network, requests []portmap.Request) (direct []portmap.Binding, err error) {
	v4, v6 := j.targets()
	routed := func(v6 bool) bool {
		e := j.way(v6)
		return e != nil && nets[e.Network].mode(v6) == modeRouted
	}
	routed4, routed6 := v4.IsValid() && routed(false), v6.IsValid() && routed(true)
	var rest []portmap.Request
	add := func(r *portmap.Request, all netip.Addr) {
		b := portmap.Binding{Proto: r.Proto, Container: r.Container, Host: netip.AddrPortFrom(all, 0), Direct: true}
		if !slices.Contains(direct, b) {
			direct = append(direct, b)
		}
	}
	for _, r := range requests {
		any4, any6 := !r.Host.IsValid() || r.Host.Is4(), !r.Host.IsValid() || r.Host.Is6()
		if routed4 && any4 {
			add(&r, netip.IPv4Unspecified())
			any4 = false
		}
		if routed6 && any6 {
			add(&r, netip.IPv6Unspecified())
			any6 = false
		}
		switch {
		case any4 && !any6 && !r.Host.IsValid():
			r.Host = netip.IPv4Unspecified() // the other family has no port of the host's
		case !any4 && (!any6 || !r.Host.IsValid() && !v6.IsValid()):
			continue
		}
		rest = append(rest, r)
	}
	list, err := s.ports.Reserve(j.Name, v4.IsValid() && !routed4, v6.IsValid() && !routed6, rest)
	return append(direct, list...), err
}

// connect makes what j notes.
func (s *Service) connect(ctx context.Context, j *joined, nets map[string]*network, ns *netns.Namespace) error {
	for _, e := range j.Endpoints {
		if err := s.plug(nets[e.Network], e, ns, j.leads(e)); err != nil {
			return err
		}
		failpoint.Hit("network.plugged")
	}
	if err := s.serve(ctx, j, ns); err != nil {
		return err
	}
	ports := j.published()
	if err := s.table.Publish(ports); err != nil {
		return err
	}
	s.forgetFlows(ports, false)
	s.relinkFor(j)
	failpoint.Hit("network.published")
	return nil
}

// Failpoints lists the places where a test may kill the engine while it connects a container (package failpoint).
func Failpoints() []string {
	return []string{"network.leased", "network.reserved", "network.plugged", "network.published"}
}

// made are the networks of j, ready.
func (s *Service) made(j *joined) (map[string]*network, error) {
	nets := map[string]*network{}
	s.mu.Lock()
	for _, e := range j.Endpoints {
		if n := s.nets[e.Network]; n != nil {
			nets[n.ID] = n
		}
	}
	s.mu.Unlock()
	for _, e := range j.Endpoints {
		n := nets[e.Network]
		if n == nil {
			return nil, errs.NotFound.Errorf("network %s not found", e.Name)
		}
		fresh, err := s.ensure(n)
		if err != nil {
			return nil, errs.KindOf(err).Errorf("failed to set up network %s: %w", n.Name, err)
		}
		if fresh {
			s.table.PassLegacy()
		}
	}
	return nets, nil
}

// plug puts an interface into the namespace; the ways out through it are by gateways.
func (s *Service) plug(n *network, e *endpoint, ns *netns.Namespace, gateways []netip.Addr) error {
	links := s.Options.Host.Links()
	switch n.Driver {
	case "host", "null":
		return nil
	case "bridge":
		pair := link.Veth{Name: e.Link, Peer: e.Iface, PeerMAC: e.MAC, PeerNS: ns.Fd()}
		add := func() error {
			n.making.Lock() // another start may be making it again
			pair.Master, pair.MTU, pair.Hairpin = n.index, n.mtu, n.bridged4
			// Where the host's rules see what the bridge passes on they keep containers apart. An isolated port there would also
			// lose what is led to a sibling's published port: br_netfilter does not route that, but bridges it.
			pair.Isolated = !n.flag(optICC, true) && !n.filtered()
			n.making.Unlock()
			return links.AddVeth(&pair)
		}
		err := add()
		if errors.Is(err, link.ErrNotFound) || isGone(err) {
			// Somebody deleted the bridge: it is made again.
			n.making.Lock()
			if n.index == pair.Master { // else somebody else has done it
				n.index = 0
			}
			n.making.Unlock()
			if _, err = s.ensure(n); err == nil {
				err = add()
			}
		}
		if err != nil {
			return err
		}
	case "macvlan", "ipvlan":
		l, err := s.parent(n)
		if err != nil {
			return err
		}
		m := n.macvlan(e, l, ns.Fd())
		if err := links.AddMacvlan(m); err != nil {
			return err
		}
	}
	if err := e.setSysctls(ns); err != nil {
		return err
	}
	inside := &link.Interface{Name: e.Iface, Addrs: e.addresses(), Gateways: n.ways(gateways)}
	err := ns.Links().Configure(inside)
	if e.V6.IsValid() && errors.Is(err, unix.EACCES) { // namespaces may have their switches from the host (net.core.devconf_inherit_init_net)
		if err = switchIPv6On(ns, e.Iface); err == nil {
			err = ns.Links().Configure(inside)
		}
	}
	return err
}

// hostBinding is where ports of the network are published when nothing else is said.
func hostBinding(n *network, daemon netip.Addr) netip.Addr {
	if a, err := netip.ParseAddr(n.Options[optHostBinding]); err == nil && !a.IsUnspecified() {
		return a
	}
	return daemon
}

// maxPorts bounds what one container may publish.
const maxPorts = 1 << 16

// portRequests turns Docker's port map into requests. byDefault is where ports are bound that name no address.
func portRequests(r *JoinRequest, byDefault netip.Addr, relayed bool) (list []portmap.Request, err error) {
	ports := make([]api.Port, 0, len(r.Ports))
	for p := range r.Ports {
		ports = append(ports, p)
	}
	if r.All {
		for p := range r.Exposed {
			if len(r.Ports[p]) == 0 && !slices.Contains(ports, p) {
				ports = append(ports, p)
			}
		}
	}
	slices.SortFunc(ports, func(a, b api.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
	})
	for _, p := range ports {
		if _, ok := portmap.Protocol(string(p.Proto())); !ok || p.Num() == 0 {
			return nil, errs.Invalid.Errorf("invalid port specification: %q", p.String())
		}
		if relayed && p.Proto() == api.SCTP {
			return nil, errs.Invalid.Errorf("cannot publish %s: the relay passes on TCP and UDP, and the engine's publish-policy \"firewall\" leaves no other way (\"forward\" does)", p)
		}
		bindings := r.Ports[p]
		if len(bindings) == 0 {
			if _, exposed := r.Exposed[p]; !exposed || !r.All {
				continue
			}
			bindings = []api.PortBinding{{}}
		}
		for _, b := range bindings {
			x := portmap.Request{Proto: string(p.Proto()), Container: p.Num(), Host: b.HostIP.Unmap(), Relayed: relayed}
			if !x.Host.IsValid() {
				x.Host = byDefault
			}
			if x.First, x.Last, err = hostPort(b.HostPort); err != nil {
				return nil, err
			}
			if list = append(list, x); len(list) > maxPorts {
				return nil, errs.Invalid.Errorf("too many ports to publish: at most %d", maxPorts)
			}
		}
	}
	// Ports that are named come before those that may be any.
	slices.SortStableFunc(list, func(a, b portmap.Request) int { return cmp.Compare(width(a), width(b)) })
	return list, nil
}

func width(r portmap.Request) int {
	if r.First == 0 {
		return 1 << 16
	}
	return int(r.Last) - int(r.First)
}

// hostPort reads "", "8080" and "8080-8090".
func hostPort(s string) (first, last uint16, err error) {
	if s == "" || s == "0" {
		return 0, 0, nil
	}
	a, b, ranged := strings.Cut(s, "-")
	lo, err1 := strconv.ParseUint(a, 10, 16)
	hi, err2 := lo, error(nil)
	if ranged {
		hi, err2 = strconv.ParseUint(b, 10, 16)
	}
	if err1 != nil || err2 != nil || hi < lo || lo == 0 {
		return 0, 0, errs.Invalid.Errorf("invalid port specification: %q", s)
	}
	return uint16(lo), uint16(hi), nil
}

// published are the elements of the firewall's maps for j.
func (j *joined) published() (list []firewall.Port) {
	v4, v6 := j.targets()
	for _, b := range j.Bindings {
		to := v4
		if b.Host.Addr().Is6() {
			to = v6
		}
		if proto, ok := portmap.Protocol(b.Proto); ok && to.IsValid() && (b.Direct || !b.Relayed) {
			list = append(list, firewall.Port{Proto: proto, Host: b.Host, Target: netip.AddrPortFrom(to, b.Container), Direct: b.Direct})
		}
	}
	return list
}
