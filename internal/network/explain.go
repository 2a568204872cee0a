package network

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/nft"
	"gantry/internal/network/firewall"
	"gantry/internal/network/portmap"
)

// Explanation says who reaches a port of the host, and by which rule. It is read from the kernel's rules as they are, not
// from what they are meant to be.
type Explanation struct {
	Port   uint16
	Proto  string
	Policy string // "forward" or "firewall": what publish-policy says of ports published from now on
	// Published are the containers that have the port; Holders the other programs that wait on it.
	Published []Publication
	Holders   []portmap.Holder
	Ways      []Way
	Notes     []string
}

// Publication is a port of a container that is published on one address of the host.
type Publication struct {
	Container, ID string
	Network       string
	Host          netip.AddrPort
	Target        netip.AddrPort
	// By is what leads packets there: "rule", "relay" (for ::1 alone, where there is a rule for the rest), "rule and relay", or "route":
	// the container's address is reached directly, which is then Host, too.
	By    string
	Rule  string `json:",omitempty"` // the element of the map
	Relay int    `json:",omitempty"` // its process ID
}

// Reached is whether packets arrive.
type Reached string

// Depends: rules decide that ask what is open, such as who sends, or that cannot be read.
const (
	Yes     Reached = "yes"
	No      Reached = "no"
	Depends Reached = "depends"
)

// Way is what becomes of packets from somewhere to an address.
type Way struct {
	From    string // "this host", "containers of NETWORK" or "outside"
	To      []netip.AddrPort
	Reached Reached
	Why     []string
}

// source is where packets come from.
type source struct {
	name  string
	iface string // "" is the host itself
	addr  netip.Addr
	addr6 netip.Addr
	at    *network
}

// explainer gathers what Explain needs to know.
type explainer struct {
	s       *Service
	number  uint8
	rules   *firewall.Rules
	x       *Explanation
	local   map[netip.Addr]string // the host's addresses → interfaces
	bridges map[string]bool
	ifaces  map[netip.AddrPort]string // targets → bridges
	nets    []*network
	older   map[string][2]bool      // what legacy was told
	worn    map[netip.AddrPort]bool // by the host's address: the relay wears the client's, where that can be
}

// Explain says who reaches a port, and by which rule.
func (s *Service) Explain(ctx context.Context, proto string, port uint16) (*Explanation, error) {
	number, ok := portmap.Protocol(proto)
	if !ok || port == 0 {
		return nil, errs.Invalid.Errorf("invalid port specification: \"%d/%s\"", port, proto)
	}
	e := &explainer{s: s, number: number, local: map[netip.Addr]string{}, bridges: map[string]bool{}, ifaces: map[netip.AddrPort]string{}, worn: map[netip.AddrPort]bool{}, older: map[string][2]bool{},
		x: &Explanation{Port: port, Proto: proto, Policy: "forward", Published: []Publication{}, Holders: []portmap.Holder{}, Ways: []Way{}, Notes: []string{}}}
	if s.Relayed {
		e.x.Policy = "firewall"
	}
	index := map[string]uint32{}
	names := map[int32]string{}
	links, err := s.Options.Host.Links().List()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		index[l.Name], names[l.Index] = uint32(l.Index), l.Name
	}
	addrs, err := s.Options.Host.Links().Addrs()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			e.local[a.Prefix.Addr()] = names[a.Index]
		}
	}
	if e.rules, err = s.table.Rules(index); err != nil {
		return nil, err
	}
	if s.relay.Hello() == nil && s.publishes() { // it may just be starting
		ctx, cancel := context.WithTimeout(ctx, patience)
		err := s.relay.Settle(ctx)
		cancel()
		if err != nil {
			e.x.Notes = append(e.x.Notes, "the relay is not there: "+err.Error())
		}
	}
	e.published()
	var own []int // whose sockets are those that keep what is published
	if r := s.relay.Hello(); r != nil && len(e.x.Published) > 0 {
		own = []int{os.Getpid(), r.Pid}
	}
	if e.x.Holders, err = s.ports.Holders(proto, port, own...); err != nil {
		return nil, err
	}
	if e.x.Holders == nil {
		e.x.Holders = []portmap.Holder{}
	}
	if len(e.x.Published) > 0 || len(e.x.Holders) > 0 {
		e.ways()
	}
	s.Options.Host.Do(func() error {
		if b, _ := os.ReadFile("/proc/thread-self/net/ip_tables_names"); len(strings.TrimSpace(string(b))) > 0 {
			e.x.Notes = append(e.x.Notes, "there are rules of legacy iptables ("+strings.Join(strings.Fields(string(b)), ", ")+"), of which only the default of FORWARD is read: see iptables-legacy -S")
		}
		return nil
	})
	return e.x, nil
}

// publishes reports whether any port is published.
func (s *Service) publishes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range s.joined {
		if len(j.Bindings) > 0 {
			return true
		}
	}
	return false
}

// published finds the containers that have the port.
func (e *explainer) published() {
	s := e.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.sorted() {
		if n.Driver == "bridge" {
			e.nets = append(e.nets, n)
			e.bridges[n.BridgeName] = true
		}
	}
	relay := 0
	if r := s.relay.Hello(); r != nil {
		relay = r.Pid
	}
	for _, j := range s.joined {
		for _, b := range j.Bindings {
			g := j.gateway()
			if g == nil {
				break
			}
			if b.Proto != e.x.Proto || b.Host.Port() != e.x.Port && !(b.Direct && b.Container == e.x.Port) {
				continue
			}
			to, v6 := j.targets()
			if b.Host.Addr().Is6() && v6.IsValid() || !to.IsValid() {
				if to = v6; j.way(true) != nil {
					g = j.way(true)
				}
			}
			p := Publication{Container: j.Name, ID: j.ID, Network: g.Name, Host: b.Host, By: "rule"}
			p.Target = netip.AddrPortFrom(to, b.Container)
			switch {
			case b.Direct:
				p.By, p.Host = "route", p.Target
			case b.Relayed, b.Host.Addr().Is6() && to.Is4(), b.Host.Addr() == netip.IPv6Loopback():
				p.By, p.Relay = "relay", relay
				e.worn[b.Host] = b.Relayed
			case b.Host.Addr().Is6():
				p.By, p.Relay = "rule and relay", relay
			}
			if p.By != "relay" && p.By != "route" {
				_, p.Rule, _ = e.rules.Leads(e.number, b.Host)
			}
			if n := s.nets[g.Network]; n != nil {
				e.ifaces[p.Target] = n.BridgeName
			}
			e.x.Published = append(e.x.Published, p)
		}
	}
	slices.SortFunc(e.x.Published, func(a, b Publication) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), a.Host.Compare(b.Host))
	})
}

// maxShown bounds how many addresses and networks are explained.
const maxShown = 32

// ways asks for every sender and every address.
func (e *explainer) ways() {
	var loop, host []netip.Addr
	for a, iface := range e.local {
		switch {
		case e.bridges[iface]:
		case a.IsLoopback():
			loop = append(loop, a)
		default:
			host = append(host, a)
		}
	}
	// An address that the port is published on by name may be one that the others leave out.
	for _, p := range e.x.Published {
		if a := p.Host.Addr(); p.By != "route" && !a.IsUnspecified() && !slices.Contains(loop, a) && !slices.Contains(host, a) {
			if a.IsLoopback() {
				loop = append(loop, a)
			} else {
				host = append(host, a)
			}
		}
	}
	slices.SortFunc(loop, netip.Addr.Compare)
	slices.SortFunc(host, netip.Addr.Compare)
	host = host[:min(len(host), maxShown)]
	for _, a := range append(loop, host...) {
		if a.IsLoopback() && a != netip.IPv6Loopback() && a != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && !e.named(a) {
			continue
		}
		e.add(source{name: "this host", addr: a, addr6: a}, a)
	}
	for i, n := range e.nets {
		if i == maxShown {
			e.x.Notes = append(e.x.Notes, fmt.Sprintf("only the first %d networks are shown", maxShown))
			break
		}
		e.fromNetwork(n, host)
	}
	for _, a := range host {
		iface := e.local[a]
		if iface == "" {
			iface = "?"
		}
		e.add(source{name: "outside", iface: iface}, a)
	}
	for _, p := range e.x.Published {
		for _, n := range e.nets {
			if mode := n.mode(p.Target.Addr().Is6()); n.Name == p.Network && (mode == modeRouted || mode == modeUnprotected) {
				e.put(source{name: "outside"}, p.Target, e.judge(&nft.Packet{In: "?", Out: n.BridgeName, Dst: p.Target, Proto: e.number}, unix.NF_INET_FORWARD),
					"directly, from where there is a route: the network's gateway mode is "+mode)
			}
		}
	}
}

// named: the port is published on this very address.
func (e *explainer) named(a netip.Addr) bool {
	return slices.ContainsFunc(e.x.Published, func(p Publication) bool { return p.Host.Addr() == a }) ||
		slices.ContainsFunc(e.x.Holders, func(h portmap.Holder) bool { return h.Addr.Addr() == a })
}

// fromNetwork is what containers of a network reach: the host's addresses, and siblings directly.
func (e *explainer) fromNetwork(n *network, host []netip.Addr) {
	from := source{name: "containers of " + n.Name, iface: n.BridgeName, at: n}
	var gateways []netip.Addr
	for _, x := range n.subnets {
		a := x.Subnet.Addr().Next().Next() // stands for all of them
		if a.Is4() {
			from.addr = a
		} else {
			from.addr6 = a
		}
		if x.Gateway.IsValid() && !n.without(a.Is6()) {
			gateways = append(gateways, x.Gateway)
		}
	}
	for _, a := range append(gateways, host...) {
		if a.IsLoopback() || a.Is4() && !from.addr.IsValid() || a.Is6() && !from.addr6.IsValid() {
			continue
		}
		e.add(from, a)
	}
	for _, p := range e.x.Published {
		if p.Network != n.Name {
			continue
		}
		j := nft.Judgement{Passes: true, Sure: true}
		why := "directly: on the same bridge"
		if !n.flag(optICC, true) {
			j, why = nft.Judgement{Sure: true}, "directly: enable_icc=false keeps containers apart"
		}
		n.making.Lock()
		filtered := n.filtered()
		n.making.Unlock()
		if filtered {
			j = e.judge(&nft.Packet{In: n.BridgeName, Out: n.BridgeName, Src: from.of(p.Target.Addr()), Dst: p.Target, Proto: e.number}, unix.NF_INET_FORWARD)
		}
		e.put(from, p.Target, j, why)
	}
}

func (f *source) of(to netip.Addr) netip.Addr {
	if to.Is6() {
		return f.addr6
	}
	return f.addr
}

// add explains one way to an address of the host.
func (e *explainer) add(from source, a netip.Addr) {
	to := netip.AddrPortFrom(a, e.x.Port)
	// By a rule, if the kernel has one: they come before any socket.
	if target, rule, ok := e.rules.Leads(e.number, to); ok && !(a.IsLoopback() && from.iface != "") {
		out := e.ifaces[target]
		if out == "" {
			out = "?"
		}
		why := []string{fmt.Sprintf("led to %s by %s", target, rule)}
		var j nft.Judgement
		first := &nft.Packet{In: from.iface, Src: from.of(a), Dst: to, Proto: e.number, Local: true, LocalHere: e.local[a] == from.iface}
		led := &nft.Packet{In: from.iface, Out: out, Src: from.of(a), Dst: target, Proto: e.number, DNAT: true}
		if from.iface == "" {
			j = e.judge(led, unix.NF_INET_LOCAL_OUT, unix.NF_INET_POST_ROUTING)
		} else {
			j = e.judge(first, unix.NF_INET_PRE_ROUTING).And(e.judge(led, unix.NF_INET_FORWARD, unix.NF_INET_POST_ROUTING))
			switch refuses, passes := e.legacy(target.Addr().Is6(), out); {
			case refuses && passes:
				why = append(why, "let through by our rule in FORWARD of iptables-legacy")
			case refuses && (j.Passes || !j.Sure):
				j.Sure = false
				why = append(why, "unless FORWARD of iptables-legacy refuses it, as it does what no rule there lets through")
			}
		}
		e.put(from, to, e.elsewhere(from, to, j), append(why, e.seen(from, a, target, false))...)
		return
	}
	j, why := e.socket(from, to)
	e.put(from, to, e.elsewhere(from, to, j), why...)
}

// elsewhere adds what rules of other tools make of packets to an address of the host: they may be theirs (another engine's port).
func (e *explainer) elsewhere(from source, to netip.AddrPort, j nft.Judgement) nft.Judgement {
	hook, p := uint32(unix.NF_INET_PRE_ROUTING), &nft.Packet{In: from.iface, Src: from.of(to.Addr()), Dst: to, Proto: e.number, Local: true, LocalHere: e.local[to.Addr()] == from.iface}
	if from.iface == "" {
		hook, p.Out, p.LocalHere = unix.NF_INET_LOCAL_OUT, "lo", false
	}
	if others := e.rules.Elsewhere(hook, p); len(others) > 0 {
		j.Sure, j.Unless = false, append(slices.Clone(j.Unless), others...)
	}
	return j
}

// legacy asks the older tables, once for each family and bridge.
func (e *explainer) legacy(v6 bool, bridge string) (refuses, passes bool) {
	k := fmt.Sprint(v6, bridge)
	if _, asked := e.older[k]; !asked {
		refuses, passes = e.s.table.Legacy(v6, bridge)
		e.older[k] = [2]bool{refuses, passes}
	}
	return e.older[k][0], e.older[k][1]
}

// seen says which address the container takes for the client's.
func (e *explainer) seen(from source, a netip.Addr, target netip.AddrPort, relayed bool) string {
	bridge := ""
	for addr, iface := range e.local {
		if iface == e.ifaces[target] && addr.Is4() == target.Addr().Is4() {
			bridge = addr.String()
		}
	}
	if relayed || a.IsLoopback() || from.iface != "" && from.iface == e.ifaces[target] {
		return sees + bridge + " as the client"
	}
	return sees + "the client's own address"
}

const sees = "the container sees "

// socket explains a way that ends at a socket of the host: the relay's, or another program's.
func (e *explainer) socket(from source, to netip.AddrPort) (nft.Judgement, []string) {
	j := e.arrives(from, to)
	for _, p := range e.x.Published {
		if h := p.Host.Addr(); h.Is4() != to.Addr().Is4() || h != to.Addr() && !h.IsUnspecified() {
			continue
		}
		switch {
		case p.By == "rule" && p.Rule == "" || p.By == "rule and relay" && to.Addr() != netip.IPv6Loopback():
			return nft.Judgement{Sure: true}, []string{"the rule that leads it to the container is missing: see nft list table inet " + e.s.Table}
		case p.Relay == 0:
			return nft.Judgement{Sure: true}, []string{"the relay does not run"}
		}
		j = j.And(e.judge(&nft.Packet{Out: e.ifaces[p.Target], Dst: p.Target, Proto: e.number}, unix.NF_INET_LOCAL_OUT, unix.NF_INET_POST_ROUTING))
		worn := e.s.diverts.Load() && e.worn[p.Host] && from.iface != "" && to.Addr().Is4() == p.Target.Addr().Is4()
		return j, []string{fmt.Sprintf("the relay (pid %d) listens and passes it on to %s", p.Relay, p.Target), e.seen(from, to.Addr(), p.Target, !worn)}
	}
	for _, h := range e.x.Holders {
		a := h.Addr.Addr()
		if a.Unmap() != to.Addr() && !(a.IsUnspecified() && (a.Is6() || to.Addr().Is4())) {
			continue
		}
		return j, []string{fmt.Sprintf("%s listens on %s", h.Who(), h.Addr)}
	}
	return nft.Judgement{Sure: true}, []string{"nobody listens on this address"}
}

// arrives asks the rules on the way to a socket of the host.
func (e *explainer) arrives(from source, to netip.AddrPort) nft.Judgement {
	p := nft.Packet{In: from.iface, Src: from.of(to.Addr()), Dst: to, Proto: e.number, Local: true, LocalHere: e.local[to.Addr()] == from.iface}
	if from.iface == "" {
		out := p
		out.Out = "lo"
		p.In, p.LocalHere = "lo", to.Addr().IsLoopback()
		return e.judge(&out, unix.NF_INET_LOCAL_OUT).And(e.judge(&p, unix.NF_INET_LOCAL_IN))
	}
	return e.judge(&p, unix.NF_INET_PRE_ROUTING, unix.NF_INET_LOCAL_IN)
}

func (e *explainer) judge(p *nft.Packet, hooks ...uint32) nft.Judgement {
	j := nft.Judgement{Passes: true, Sure: true}
	for _, h := range hooks {
		j = j.And(e.rules.Judge(h, p))
	}
	return j
}

// put adds a way, to one of the same sender and reasons if there is such.
func (e *explainer) put(from source, to netip.AddrPort, j nft.Judgement, why ...string) {
	w := Way{From: from.name, To: []netip.AddrPort{to}, Reached: No}
	switch {
	case !j.Sure:
		w.Reached = Depends
	case j.Passes:
		w.Reached = Yes
	}
	for _, y := range why {
		if w.Reached != No || !strings.HasPrefix(y, sees) {
			w.Why = append(w.Why, y)
		}
	}
	for _, p := range j.By {
		if strings.HasPrefix(p.Verdict, "accept") {
			w.Why = append(w.Why, "let through by "+p.String())
		} else {
			w.Why = append(w.Why, "refused by "+p.String())
		}
	}
	for _, p := range j.Unless {
		w.Why = append(w.Why, "unless "+p.String()+" decides otherwise")
	}
	for i := range e.x.Ways {
		if o := &e.x.Ways[i]; o.From == w.From && o.Reached == w.Reached && slices.Equal(o.Why, w.Why) {
			if !slices.Contains(o.To, to) { // a port of several of the host's addresses leads to one of the container's
				o.To = append(o.To, to)
			}
			return
		}
	}
	e.x.Ways = append(e.x.Ways, w)
}
