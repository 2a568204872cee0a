// Package firewall keeps the rules by which packets reach containers and leave them: one nf_tables table for each
// engine, of family inet, written and changed by netlink.
//
// Its rules change with the networks only. What changes is what its sets and maps hold: the bridges of networks, and for each
// published port one element that says to which container it leads. So publishing a port is one message, whatever
// their number, and packets find their way by one look-up.
//
//	chain raw          packets for 127.0.0.0/8 that did not come from this host are dropped: route_localnet, which
//	                   published ports on 127.0.0.1 need, would let neighbours reach the host's own loopback (CVE-2020-8558)
//	chain prerouting   published ports, for packets from outside and from other containers
//	chain divert       (where the relay keeps clients' addresses:) containers' answers to those are marked, and so led back to it
//	chain output       published ports, for the host's own packets
//	chain ports        the look-ups: first by address and port, then by port alone
//	chain forward      chain user first; then who may speak to whom
//	chain user         the user's own rules; Gantry makes it and never touches what is in it
//	chain input        a container of an internal network reaches no address of the host but its gateway
//	chain postrouting  outgoing packets get the host's address; incoming ones keep the client's
//
// An accept here is not the last word: other tools' tables see the packet as well. Where one of their chains drops what is
// forwarded by default (Docker's, ufw's), a marked accept for our bridges is put in front, and taken back at the end. (So it is
// where they use the kernel's tables of before nf_tables: legacy.go.)
// Whoever flushes the rules (`nft flush ruleset`) finds them written again at once.
package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
	"gantry/internal/kernel/netns"
	"gantry/internal/kernel/nft"
	"gantry/internal/kernel/xtables"
)

// UserChain is the name of the chain in Gantry's table that is the user's: what is forwarded to and from containers
// passes it first. `nft add rule inet <table> user ip saddr 203.0.113.0/24 drop` keeps a network away from all of them.
const UserChain = "user"

// Network is what the rules know of a network: its bridge, and what it may.
type Network struct {
	Bridge   string
	Subnets  []netip.Prefix
	Internal bool     // closed: nothing comes in or goes out
	NoICC    bool     // containers do not reach each other, but by published ports and links
	V4, V6   Family   // what is of one family
	Trusted  []string // interfaces from which all of its addresses may be reached directly
}

// Family is what holds for a network's packets of one family.
type Family struct {
	Masquerade bool       // outgoing packets get the host's address
	Source     netip.Addr // and this very one; may be invalid
	Open       bool       // its addresses may be reached from outside directly, on all ports
	Routed     bool       // the same, on published ports only, and by ping
}

// Port is one published port. An unspecified Host address means all of its family.
type Port struct {
	Proto  uint8 // unix.IPPROTO_TCP, …
	Host   netip.AddrPort
	Target netip.AddrPort
	// Direct: nothing leads to the target, but who routes packets to it may: its network is routed. Host is not looked at.
	Direct bool
}

func (p Port) key() portKey {
	if p.Direct {
		return portKey{p.Proto, p.Target, true}
	}
	return portKey{p.Proto, p.Host, false}
}

// Link lets From speak to a port of To, both on one network that keeps its containers apart. Both are IPv4 addresses: as in
// Docker, links know no others.
type Link struct {
	Proto uint8
	From  netip.Addr
	To    netip.AddrPort
}

// Table is one engine's table, and what it is meant to hold. Its methods may be called from any goroutine. After a change of
// networks PassLegacy is to follow.
type Table struct {
	name string
	log  *slog.Logger
	mine string // marks rules in others' chains

	mu    sync.Mutex
	conn  *nft.Conn
	nets  map[string]Network // by bridge
	ports map[portKey]netip.AddrPort
	links map[Link]bool
	mark  uint32 // of diverted packets; 0: none are
	stale bool   // the chain that marks could not be deleted: with the next writing it is emptied

	owned map[string]bool // others' tables that nobody else may change, of which it has been told

	watch *netlink.Conn
	stop  *netlink.Stop
	ended chan struct{}

	host        *netns.Namespace // for what netlink cannot do
	legacy      *os.File         // tells of runs of iptables-legacy; may be nil
	legacyEnded chan struct{}
	passing     sync.Mutex // one runs iptables-legacy; mu may be taken under it, and is not held while it runs
	refused     [2]string  // scripts that iptables-legacy-restore and ip6tables-legacy-restore did not carry out
	forward     func(v6 bool) (*xtables.Chain, error)
}

type portKey struct {
	proto  uint8
	host   netip.AddrPort
	direct bool
}

// Open works in the calling thread's network namespace. Nothing is written before the first network comes. What
// another engine of this name left behind is taken over then.
func Open(name string, log *slog.Logger) (*Table, error) {
	conn, err := nft.Dial()
	if err != nil {
		return nil, err
	}
	t := &Table{name: name, log: log, mine: "of " + name, conn: conn, nets: map[string]Network{}, ports: map[portKey]netip.AddrPort{}, forward: xtables.Forward}
	if t.watch, err = nft.Monitor(); err != nil {
		conn.Close()
		return nil, err
	}
	if t.stop, err = netlink.NewStop(); err != nil {
		conn.Close()
		t.watch.Close()
		return nil, err
	}
	if t.host, err = netns.Current(); err != nil {
		conn.Close()
		t.watch.Close()
		t.stop.Close()
		return nil, err
	}
	t.ended = make(chan struct{})
	go t.guard()
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err == nil { // there may be no more of them
		t.legacy, t.legacyEnded = os.NewFile(uintptr(fd), "inotify"), make(chan struct{})
		go t.watchLegacy(fd, t.legacy)
	}
	return t, nil
}

// Name returns the table's name.
func (t *Table) Name() string { return t.name }

// Close leaves the rules in force: containers go on while no engine runs.
func (t *Table) Close() {
	t.stop.Stop()
	<-t.ended
	t.stop.Close()
	t.watch.Close()
	if t.legacy != nil {
		t.legacy.Close()
		<-t.legacyEnded
	}
	t.conn.Close()
	t.host.Close()
}

// Users reports whether the user has put rules of his own into the table.
func (t *Table) Users() bool {
	rules, err := t.conn.Rules(nft.Inet, t.name)
	return err == nil && slices.ContainsFunc(rules, func(r nft.Rule) bool { return r.Chain == UserChain })
}

// Set makes the table hold these networks and ports, and nothing else.
func (t *Table) Set(nets []Network, ports []Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.nets)
	clear(t.ports)
	for _, n := range nets {
		t.nets[n.Bridge] = n
	}
	for _, p := range ports {
		t.ports[p.key()] = p.Target
	}
	return t.write()
}

// AddNetwork lets a network's packets through.
func (t *Table) AddNetwork(n Network) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nets[n.Bridge] = n
	return t.write()
}

// RemoveNetwork forgets a network; with the last one everything of ours goes.
func (t *Table) RemoveNetwork(bridge string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.nets, bridge)
	return t.write()
}

func (l Link) key() []byte {
	key := append(l.From.AsSlice(), l.To.Addr().AsSlice()...)
	key = append(key, l.Proto, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(key, l.To.Port()), 0, 0)
}

// SetLinks makes these the links, and no others.
func (t *Table) SetLinks(list []Link) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	want := map[Link]bool{}
	for _, l := range list {
		want[l] = true
	}
	if maps.Equal(want, t.links) {
		return nil
	}
	var add, remove []nft.Element
	for l := range want {
		if !t.links[l] {
			add = append(add, nft.Element{Key: l.key()})
		}
	}
	for l := range t.links {
		if !want[l] {
			remove = append(remove, nft.Element{Key: l.key()})
		}
	}
	t.links = want
	if len(t.nets) == 0 {
		return nil
	}
	var tx nft.Tx
	tx.Remove(nft.Inet, t.name, "links", remove)
	tx.Add(nft.Inet, t.name, "links", add)
	if t.conn.Commit(&tx) == nil {
		return nil
	}
	return t.write()
}

const divert = "divert"

// Divert marks the answers of containers to connections from this host that wear somebody else's address, so that rules
// of routing may lead them back here. 0 ends that.
func (t *Table) Divert(mark uint32) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mark == 0 {
		t.mark = 0
		var tx nft.Tx
		tx.DeleteChain(nft.Inet, t.name, divert)
		err := t.conn.Commit(&tx)
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		t.stale = err != nil
		return err
	}
	if t.mark == mark {
		return nil
	}
	t.mark = mark
	if len(t.nets) == 0 {
		return nil // with the first network; what there is meanwhile is an engine's before
	}
	err := t.write()
	if err != nil {
		t.mark = 0
	}
	return err
}

// Publish leads ports to containers. On an error none of them does.
func (t *Table) Publish(ports []Port) error {
	if len(ports) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var tx nft.Tx
	for _, p := range ports {
		set, e := element(p.key(), p.Target)
		tx.Add(nft.Inet, t.name, set, []nft.Element{e})
	}
	for _, p := range ports {
		t.ports[p.key()] = p.Target
	}
	if err := t.conn.Commit(&tx); err == nil {
		return nil
	}
	// Somebody changed the table: all of it is written anew.
	err := t.write()
	if err != nil {
		for _, p := range ports {
			delete(t.ports, p.key())
		}
	}
	return err
}

// Withdraw ends what Publish began. Ports that lead elsewhere by now, or nowhere, are left alone.
func (t *Table) Withdraw(ports []Port) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var tx nft.Tx
	n := 0
	for _, p := range ports {
		k := p.key()
		if to, ok := t.ports[k]; !ok || to != p.Target {
			continue
		}
		delete(t.ports, k)
		set, e := element(k, p.Target)
		tx.Remove(nft.Inet, t.name, set, []nft.Element{{Key: e.Key}})
		n++
	}
	if n == 0 {
		return nil
	}
	if err := t.conn.Commit(&tx); err == nil {
		return nil
	}
	return t.write()
}

func element(k portKey, to netip.AddrPort) (set string, e nft.Element) {
	set = "port4"
	if k.host.Addr().Is6() {
		set = "port6"
	}
	if k.direct {
		set = "direct" + set[len("port"):]
	} else if !k.host.Addr().IsUnspecified() {
		set = "addr" + set
	}
	if k.direct || !k.host.Addr().IsUnspecified() {
		e.Key = k.host.Addr().AsSlice()
	}
	e.Key = append(e.Key, k.proto, 0, 0, 0)
	e.Key = append(binary.BigEndian.AppendUint16(e.Key, k.host.Port()), 0, 0)
	if !k.direct {
		e.Data = append(binary.BigEndian.AppendUint16(to.Addr().AsSlice(), to.Port()), 0, 0)
	}
	return set, e
}

var (
	port4 = nft.Join(nft.TypeProto, nft.TypeService)
	sets  = []nft.Set{
		{Name: "bridges", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "internal", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "masquerade4", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "masquerade6", KeyType: nft.TypeIfname, KeyLen: 16},
		// Networks that may be reached directly; those in routed4 and routed6 on what is in direct4 and direct6 only, and by ping.
		{Name: "open4", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "open6", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "routed4", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "routed6", KeyType: nft.TypeIfname, KeyLen: 16},
		{Name: "direct4", KeyType: nft.Join(nft.TypeIPv4, nft.TypeProto, nft.TypeService), KeyLen: 12},
		{Name: "direct6", KeyType: nft.Join(nft.TypeIPv6, nft.TypeProto, nft.TypeService), KeyLen: 24},
		// Pairs of a bridge with itself whose containers are kept apart; and who may speak to whom there, and at which port.
		{Name: "apart", KeyType: nft.Join(nft.TypeIfname, nft.TypeIfname), KeyLen: 32},
		{Name: "links", KeyType: nft.Join(nft.TypeIPv4, nft.TypeIPv4, nft.TypeProto, nft.TypeService), KeyLen: 16},
		// Pairs of an interface of the host and a bridge that trusts it.
		{Name: "trusted", KeyType: nft.Join(nft.TypeIfname, nft.TypeIfname), KeyLen: 32},
		// Pairs of a bridge with itself.
		{Name: "icc", KeyType: nft.Join(nft.TypeIfname, nft.TypeIfname), KeyLen: 32},
		{Name: "port4", KeyType: port4, KeyLen: 8, DataType: nft.Join(nft.TypeIPv4, nft.TypeService), DataLen: 8},
		{Name: "addrport4", KeyType: nft.Join(nft.TypeIPv4, nft.TypeProto, nft.TypeService), KeyLen: 12, DataType: nft.Join(nft.TypeIPv4, nft.TypeService), DataLen: 8},
		{Name: "port6", KeyType: port4, KeyLen: 8, DataType: nft.Join(nft.TypeIPv6, nft.TypeService), DataLen: 20},
		{Name: "addrport6", KeyType: nft.Join(nft.TypeIPv6, nft.TypeProto, nft.TypeService), KeyLen: 24, DataType: nft.Join(nft.TypeIPv6, nft.TypeService), DataLen: 20},
	}
)

// write writes the whole table as it is meant to be, in one transaction, or removes it when there are no networks.
func (t *Table) write() error {
	if len(t.nets) == 0 {
		return errors.Join(t.remove(), t.yieldForeign())
	}
	var tx nft.Tx
	const f = nft.Inet
	tx.Table(f, t.name)
	chains := []struct {
		name string
		hook *nft.Hook
	}{
		{UserChain, nil},
		{"ports", nil},
		{"raw", &nft.Hook{Type: "filter", Num: unix.NF_INET_PRE_ROUTING, Priority: -300}},
		{"prerouting", &nft.Hook{Type: "nat", Num: unix.NF_INET_PRE_ROUTING, Priority: -100}},
		{"output", &nft.Hook{Type: "nat", Num: unix.NF_INET_LOCAL_OUT, Priority: -100}},
		{"forward", &nft.Hook{Type: "filter", Num: unix.NF_INET_FORWARD}},
		{"input", &nft.Hook{Type: "filter", Num: unix.NF_INET_LOCAL_IN}},
		{"postrouting", &nft.Hook{Type: "nat", Num: unix.NF_INET_POST_ROUTING, Priority: 100}},
	}
	for _, c := range chains {
		tx.Chain(f, t.name, c.name, c.hook)
		if c.name != UserChain {
			tx.Flush(f, t.name, c.name)
		}
	}
	if t.mark != 0 || t.stale {
		tx.Chain(f, t.name, divert, &nft.Hook{Type: "filter", Num: unix.NF_INET_PRE_ROUTING, Priority: -150})
		tx.Flush(f, t.name, divert)
	}
	for i := range sets {
		tx.Set(f, t.name, &sets[i])
		tx.Empty(f, t.name, sets[i].Name)
	}
	for set, list := range t.elements() {
		tx.Add(f, t.name, set, list)
	}
	t.rules(&tx)
	if err := t.conn.Commit(&tx); err != nil {
		return fmt.Errorf("write nf_tables table %s: %w", t.name, err)
	}
	t.stale = false
	if err := t.passForeign(); err != nil {
		return fmt.Errorf("let forwarded packets through other tools' rules: %w", err)
	}
	return nil
}

// elements is what the sets are meant to hold.
func (t *Table) elements() map[string][]nft.Element {
	m := map[string][]nft.Element{}
	put := func(set string, key []byte) { m[set] = append(m[set], nft.Element{Key: key}) }
	for _, n := range t.nets {
		name := nft.Ifname(n.Bridge)
		pair := append(append([]byte(nil), name...), name...)
		put("bridges", name)
		if n.NoICC {
			put("apart", pair)
		} else {
			put("icc", pair)
		}
		if n.Internal {
			put("internal", name)
			continue
		}
		for _, f := range []struct {
			Family
			name string
		}{{n.V4, "4"}, {n.V6, "6"}} {
			if f.Masquerade && !f.Source.IsValid() {
				put("masquerade"+f.name, name)
			}
			if f.Open {
				put("open"+f.name, name)
			}
			if f.Routed {
				put("routed"+f.name, name)
			}
		}
		for _, iface := range n.Trusted {
			if key := append(nft.Ifname(iface), name...); !slices.ContainsFunc(m["trusted"], func(e nft.Element) bool { return bytes.Equal(e.Key, key) }) {
				put("trusted", key)
			}
		}
	}
	for l := range t.links {
		put("links", l.key())
	}
	for k, to := range t.ports {
		set, e := element(k, to)
		m[set] = append(m[set], e)
	}
	return m
}

// rules writes the rules, and returns how many.
func (t *Table) rules(tx *nft.Tx) (count int) {
	add := func(chain string, e ...nft.Expr) {
		count++
		tx.Rule(nft.Inet, t.name, chain, e...)
	}
	const (
		net      = unix.NFT_PAYLOAD_NETWORK_HEADER
		trans    = unix.NFT_PAYLOAD_TRANSPORT_HEADER
		iifname  = unix.NFT_META_IIFNAME
		oifname  = unix.NFT_META_OIFNAME
		dnat     = 1 << 5 // IPS_DST_NAT
		inState  = 1<<1 | 1<<2
		r1, r2   = nft.R1, nft.R32 + 4 // two registers of 16 bytes, side by side
		v4d, v4s = 16, 12              // offsets of addresses in the header
		v6d, v6s = 24, 8
	)
	ipv4 := nft.Equal(r1, []byte{unix.NFPROTO_IPV4})
	ipv6 := nft.Equal(r1, []byte{unix.NFPROTO_IPV6})
	proto := nft.Meta(unix.NFT_META_NFPROTO, r1)
	from := func(set string) []nft.Expr { return []nft.Expr{nft.Meta(iifname, r1), nft.In(set, r1)} }
	to := func(set string) []nft.Expr { return []nft.Expr{nft.Meta(oifname, r1), nft.In(set, r1)} }
	pair := func(set string) []nft.Expr {
		return []nft.Expr{nft.Meta(iifname, r1), nft.Meta(oifname, r2), nft.In(set, r1)}
	}
	dnatted := []nft.Expr{nft.Ct(unix.NFT_CT_STATUS, r1), nft.Mask(r1, nft.Number(dnat)), nft.NotEqual(r1, nft.Number(0))}
	loopback := func(offset uint32) []nft.Expr {
		return []nft.Expr{proto, ipv4, nft.Payload(net, offset, 1, r1), nft.Equal(r1, []byte{127})}
	}
	local := []nft.Expr{nft.AddrType(false, r1), nft.Equal(r1, nft.Number(unix.RTN_LOCAL))}
	seq := func(parts ...[]nft.Expr) (all []nft.Expr) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	then := func(e nft.Expr) []nft.Expr { return []nft.Expr{e} }

	source := func(p netip.Prefix) []nft.Expr {
		fam, offset := ipv4, uint32(v4s)
		if p.Addr().Is6() {
			fam, offset = ipv6, v6s
		}
		mask := make([]byte, p.Addr().BitLen()/8)
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		return []nft.Expr{proto, fam, nft.Payload(net, offset, uint32(len(mask)), r1), nft.Mask(r1, mask), nft.Equal(r1, p.Masked().Addr().AsSlice())}
	}

	add("raw", seq([]nft.Expr{nft.Meta(iifname, r1), nft.NotEqual(r1, nft.Ifname("lo"))}, loopback(v4d), then(nft.Drop()))...)

	if t.mark != 0 {
		// Only answers, and only to connections of this host's own: a container must not come to sockets of other programs so.
		add(divert, seq(from("bridges"), []nft.Expr{nft.Ct(unix.NFT_CT_DIRECTION, r1), nft.Equal(r1, []byte{1}),
			nft.Transparent(r1), nft.Equal(r1, []byte{1}), nft.Load(r1, nft.Number(t.mark)), nft.SetMark(r1)})...)
	}

	add("prerouting", seq(local, then(nft.Jump("ports")))...)
	add("output", seq(local, then(nft.Jump("ports")))...)

	// A key is built of joined registers of 4 bytes. A look-up that finds nothing goes on with the next rule.
	key := func(at uint32) []nft.Expr {
		return []nft.Expr{nft.Meta(unix.NFT_META_L4PROTO, at), nft.Payload(trans, 2, 2, at+1)}
	}
	const k = nft.R32
	add("ports", seq([]nft.Expr{proto, ipv4, nft.Payload(net, v4d, 4, k)}, key(k+1), []nft.Expr{nft.Map("addrport4", k, k), nft.DNAT(nft.IPv4, k, k+1)})...)
	add("ports", seq([]nft.Expr{proto, ipv4}, key(k), []nft.Expr{nft.Map("port4", k, k), nft.DNAT(nft.IPv4, k, k+1)})...)
	// ::1 cannot be routed to another interface: the kernel has no route_localnet for IPv6.
	loop6 := netip.IPv6Loopback().As16()
	add("ports", proto, ipv6, nft.Payload(net, v6d, 16, r1), nft.Equal(r1, loop6[:]), nft.Return())
	add("ports", seq([]nft.Expr{proto, ipv6, nft.Payload(net, v6d, 16, k)}, key(k+4), []nft.Expr{nft.Map("addrport6", k, k), nft.DNAT(nft.IPv6, k, k+4)})...)
	add("ports", seq([]nft.Expr{proto, ipv6}, key(k), []nft.Expr{nft.Map("port6", k, k), nft.DNAT(nft.IPv6, k, k+4)})...)

	add("forward", seq(from("bridges"), then(nft.Jump(UserChain)))...)
	add("forward", seq([]nft.Expr{nft.Meta(iifname, r1), nft.NotIn("bridges", r1)}, to("bridges"), then(nft.Jump(UserChain)))...)
	add("forward", nft.Ct(unix.NFT_CT_STATE, r1), nft.Mask(r1, nft.Number(inState)), nft.NotEqual(r1, nft.Number(0)), nft.Accept())
	add("forward", seq(pair("icc"), then(nft.Accept()))...)
	add("forward", seq([]nft.Expr{proto, ipv4}, pair("apart"), []nft.Expr{nft.Payload(net, v4s, 4, k), nft.Payload(net, v4d, 4, k+1)}, key(k+2), []nft.Expr{nft.In("links", k), nft.Accept()})...)
	add("forward", seq(from("internal"), then(nft.Drop()))...)
	add("forward", seq(to("internal"), then(nft.Drop()))...)
	add("forward", seq(to("bridges"), dnatted, then(nft.Accept()))...)
	add("forward", seq(pair("trusted"), then(nft.Accept()))...)
	for _, f := range []struct {
		name         string
		is           nft.Expr
		dst, n, ping uint32
	}{{"4", ipv4, v4d, 4, unix.IPPROTO_ICMP}, {"6", ipv6, v6d, 16, unix.IPPROTO_ICMPV6}} {
		add("forward", seq([]nft.Expr{proto, f.is}, to("open"+f.name), then(nft.Accept()))...)
		add("forward", seq([]nft.Expr{proto, f.is}, to("routed"+f.name), []nft.Expr{nft.Meta(unix.NFT_META_L4PROTO, r1), nft.Equal(r1, []byte{byte(f.ping)}), nft.Accept()})...)
		add("forward", seq([]nft.Expr{proto, f.is, nft.Payload(net, f.dst, f.n, k)}, key(k+f.n/4), []nft.Expr{nft.In("direct"+f.name, k), nft.Accept()})...)
	}
	add("forward", seq(to("bridges"), then(nft.Drop()))...)

	add("input", seq(from("internal"), local, []nft.Expr{nft.AddrType(true, r1), nft.NotEqual(r1, nft.Number(unix.RTN_LOCAL)), nft.Drop()})...)

	add("postrouting", seq(to("bridges"), loopback(v4s), then(nft.Masquerade()))...)
	// A container that speaks to its sibling's published port, or to its own, would be answered directly, by an address it does
	// not know. (By subnet: with br_netfilter such packets have no incoming interface here.)
	for _, n := range t.nets {
		for _, p := range n.Subnets {
			add("postrouting", seq([]nft.Expr{nft.Meta(oifname, r1), nft.Equal(r1, nft.Ifname(n.Bridge))}, source(p), dnatted, then(nft.Masquerade()))...)
		}
	}
	outside := []nft.Expr{nft.Meta(oifname, r1), nft.NotIn("bridges", r1)}
	for _, n := range t.nets {
		for _, f := range []struct {
			Family
			is     nft.Expr
			family uint32
		}{{n.V4, ipv4, nft.IPv4}, {n.V6, ipv6, nft.IPv6}} {
			if f.Source.IsValid() && f.Masquerade && !n.Internal {
				add("postrouting", seq([]nft.Expr{proto, f.is, nft.Meta(iifname, r1), nft.Equal(r1, nft.Ifname(n.Bridge))}, outside,
					[]nft.Expr{nft.Load(r1, f.Source.AsSlice()), nft.SNAT(f.family, r1)})...)
			}
		}
	}
	add("postrouting", seq([]nft.Expr{proto, ipv4}, from("masquerade4"), outside, then(nft.Masquerade()))...)
	add("postrouting", seq([]nft.Expr{proto, ipv6}, from("masquerade6"), outside, then(nft.Masquerade()))...)
	return count
}

func (t *Table) remove() error {
	var tx nft.Tx
	tx.DeleteTable(nft.Inet, t.name)
	if err := t.conn.Commit(&tx); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete nf_tables table %s: %w", t.name, err)
	}
	return nil
}

// whole reports whether the table holds as many rules and elements as it is meant to.
func (t *Table) whole() bool {
	if len(t.nets) == 0 {
		return true
	}
	rules, err := t.conn.Rules(nft.Inet, t.name)
	if err != nil {
		return false
	}
	n := 0
	for _, r := range rules {
		if r.Chain != UserChain {
			n++
		}
	}
	if n != t.rules(new(nft.Tx)) {
		return false
	}
	held := t.elements()
	for i := range sets {
		keys, err := t.conn.Elements(nft.Inet, t.name, sets[i].Name)
		if err != nil || !sameKeys(keys, held[sets[i].Name]) {
			return false
		}
	}
	return true
}

func sameKeys(keys [][]byte, want []nft.Element) bool {
	if len(keys) != len(want) {
		return false
	}
	have := make(map[string]bool, len(keys))
	for _, k := range keys {
		have[string(bytes.TrimRight(k, "\x00"))] = true
	}
	for _, e := range want {
		if !have[string(bytes.TrimRight(e.Key, "\x00"))] {
			return false
		}
	}
	return true
}

// guard writes the rules again when somebody has taken them away.
func (t *Table) guard() {
	defer close(t.ended)
	for {
		suspect := false
		err := t.watch.Receive(t.stop, func(m netlink.Message) {
			if m.Port != t.conn.Port() && nft.Took(m) {
				suspect = true
			}
		})
		if errors.Is(err, netlink.ErrStopped) {
			return
		}
		if errors.Is(err, unix.ENOBUFS) {
			suspect = true
		} else if err != nil {
			t.log.Warn("the firewall is no longer guarded against being flushed", "err", err)
			return
		}
		if suspect {
			t.mu.Lock()
			if len(t.nets) > 0 {
				t.repair()
			}
			t.mu.Unlock()
		}
	}
}

func (t *Table) repair() {
	if !t.whole() {
		t.log.Info("firewall rules were changed by another program; writing them again", "table", t.name)
		if err := t.write(); err != nil {
			t.log.Error("writing the firewall rules again failed", "err", err)
		}
		return
	}
	if err := t.passForeign(); err != nil {
		t.log.Error("letting forwarded packets through other tools' rules failed", "err", err)
	}
}
