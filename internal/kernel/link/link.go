// Package link makes and finds network interfaces, addresses and routes by rtnetlink(7).
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netlink"
)

// Conn speaks to one network namespace, that of the thread which dialled it.
type Conn struct{ *netlink.Conn }

// Dial opens a connection to the calling thread's namespace.
func Dial() (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Conn{c}, nil
}

func info(index int32, flags, change uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	b[0] = unix.AF_UNSPEC
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// genNone keeps the kernel from giving the interface an IPv6 link-local address.
func genNone(b *netlink.Batch) {
	b.Nest(unix.IFLA_AF_SPEC, func() {
		b.Nest(unix.AF_INET6, func() { b.U8(inet6AddrGenMode, genModeNone) })
	})
}

const (
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
	genModeNone      = 1 // IN6_ADDR_GEN_MODE_NONE
)

// Up brings an interface up.
func (c *Conn) Up(name string) error {
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, 0, info(0, unix.IFF_UP, unix.IFF_UP))
	b.String(unix.IFLA_IFNAME, name)
	return c.Do(&b)
}

// Bridge is a bridge to be made.
type Bridge struct {
	Name  string
	MTU   int              // bytes; 0: the kernel's default
	MAC   net.HardwareAddr // set, or it would follow the ports that come and go
	Addrs []netip.Prefix   // the gateways
}

// AddBridge makes a bridge and brings it up with its addresses.
func (c *Conn) AddBridge(br *Bridge) error {
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, info(0, unix.IFF_UP, unix.IFF_UP))
	b.String(unix.IFLA_IFNAME, br.Name)
	if br.MTU > 0 {
		b.U32(unix.IFLA_MTU, uint32(br.MTU))
	}
	if len(br.MAC) == 6 {
		b.Attr(unix.IFLA_ADDRESS, br.MAC)
	}
	b.Nest(unix.IFLA_LINKINFO, func() { b.String(unix.IFLA_INFO_KIND, "bridge") })
	if err := c.Do(&b); err != nil {
		return fmt.Errorf("add bridge %s: %w", br.Name, err)
	}
	l, err := c.Find(br.Name)
	if err == nil {
		err = c.AddGateways(l.Index, br.Addrs)
	}
	if err != nil {
		c.Delete(br.Name)
		return fmt.Errorf("configure bridge %s: %w", br.Name, err)
	}
	return nil
}

// AddGateways gives a bridge of ours its addresses.
func (c *Conn) AddGateways(index int32, addrs []netip.Prefix) error {
	if hasIPv6(addrs) {
		// The address by which the bridge asks for its neighbours. The one that the kernel makes is on probation (DAD) for
		// a second or two, in which forwarded packets would be lost.
		addrs = append([]netip.Prefix{netip.MustParsePrefix("fe80::1/64")}, addrs...)
	}
	return c.AddAddrs(index, addrs)
}

// Veth is a pair of interfaces to be made, one end on a bridge here and the other in another namespace.
type Veth struct {
	Name     string
	Master   int32 // index of the bridge
	MTU      int
	Isolated bool // may speak to the bridge itself, and to no other isolated port
	Hairpin  bool // gets back what it sends to itself, which br_netfilter needs for a published port of its own

	Peer    string
	PeerMAC net.HardwareAddr
	PeerNS  int // a descriptor of the namespace
}

// AddVeth makes the pair with one message: the peer is born in its namespace. Moving it there afterwards would
// wait for two grace periods of RCU, about 14 ms; so it takes half of one. The peer cannot be up at birth.
func (c *Conn) AddVeth(v *Veth) error {
	var b netlink.Batch
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, info(0, unix.IFF_UP, unix.IFF_UP))
	b.String(unix.IFLA_IFNAME, v.Name)
	b.U32(unix.IFLA_MASTER, uint32(v.Master))
	if v.MTU > 0 {
		b.U32(unix.IFLA_MTU, uint32(v.MTU))
	}
	b.Nest(unix.IFLA_LINKINFO, func() {
		b.String(unix.IFLA_INFO_KIND, "veth")
		b.Nest(unix.IFLA_INFO_DATA, func() {
			b.Nest(vethInfoPeer, func() {
				b.Raw(info(0, 0, 0))
				b.String(unix.IFLA_IFNAME, v.Peer)
				b.Attr(unix.IFLA_ADDRESS, v.PeerMAC)
				if v.MTU > 0 {
					b.U32(unix.IFLA_MTU, uint32(v.MTU))
				}
				b.U32(unix.IFLA_NET_NS_FD, uint32(v.PeerNS))
			})
		})
	})
	if v.Isolated || v.Hairpin {
		b.Begin(unix.RTM_NEWLINK, 0, info(0, 0, 0))
		b.String(unix.IFLA_IFNAME, v.Name)
		b.Nest(unix.IFLA_LINKINFO, func() {
			b.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
			b.Nest(unix.IFLA_INFO_SLAVE_DATA, func() {
				if v.Isolated {
					b.U8(brportIsolated, 1)
				}
				if v.Hairpin {
					b.U8(brportHairpin, 1)
				}
			})
		})
	}
	if err := c.Do(&b); err != nil {
		if e := (*netlink.Error)(nil); errors.As(err, &e) && e.Index > 0 {
			c.Delete(v.Name)
		}
		return fmt.Errorf("add veth pair %s, %s: %w", v.Name, v.Peer, err)
	}
	return nil
}

const (
	brportHairpin  = 4  // IFLA_BRPORT_MODE
	vethInfoPeer   = 1  // VETH_INFO_PEER
	brportIsolated = 33 // IFLA_BRPORT_ISOLATED, Linux 4.18
)

// Macvlan is an interface to be made in another namespace, on top of one of this namespace.
type Macvlan struct {
	Name   string
	Parent int32
	Kind   string // "macvlan" or "ipvlan"
	Mode   uint32 // MACVLAN_MODE_* or IPVLAN_MODE_*
	Flags  uint16 // IPVLAN_F_*
	MTU    int
	MAC    net.HardwareAddr // macvlan only
	NS     int
}

// AddMacvlan makes a macvlan or ipvlan interface in its namespace.
func (c *Conn) AddMacvlan(m *Macvlan) error {
	if err := c.Do(m.request()); err != nil {
		return fmt.Errorf("add %s %s: %w", m.Kind, m.Name, err)
	}
	return nil
}

func (m *Macvlan) request() *netlink.Batch {
	b := &netlink.Batch{}
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, info(0, 0, 0))
	b.String(unix.IFLA_IFNAME, m.Name)
	b.U32(unix.IFLA_LINK, uint32(m.Parent))
	b.U32(unix.IFLA_NET_NS_FD, uint32(m.NS))
	if m.MTU > 0 {
		b.U32(unix.IFLA_MTU, uint32(m.MTU))
	}
	if len(m.MAC) == 6 && m.Kind == "macvlan" {
		b.Attr(unix.IFLA_ADDRESS, m.MAC)
	}
	b.Nest(unix.IFLA_LINKINFO, func() {
		b.String(unix.IFLA_INFO_KIND, m.Kind)
		b.Nest(unix.IFLA_INFO_DATA, func() {
			if m.Kind == "macvlan" {
				b.U32(unix.IFLA_MACVLAN_MODE, m.Mode)
				return
			}
			b.Attr(unix.IFLA_IPVLAN_MODE, binary.NativeEndian.AppendUint16(nil, uint16(m.Mode)))
			if m.Flags != 0 {
				b.Attr(unix.IFLA_IPVLAN_FLAGS, binary.NativeEndian.AppendUint16(nil, m.Flags))
			}
		})
	})
	return b
}

// AddDummy makes an interface that leads nowhere, and brings it up: the parent of a macvlan that has none. Where the kernel has no
// such interfaces it is a bridge without ports, which leads nowhere either.
func (c *Conn) AddDummy(name string) error {
	var err error
	for _, kind := range []string{"dummy", "bridge"} {
		var b netlink.Batch
		b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, info(0, unix.IFF_UP, unix.IFF_UP))
		b.String(unix.IFLA_IFNAME, name)
		b.Nest(unix.IFLA_LINKINFO, func() { b.String(unix.IFLA_INFO_KIND, kind) })
		if err = c.Do(&b); !errors.Is(err, unix.EOPNOTSUPP) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("add dummy %s: %w", name, err)
	}
	return nil
}

// VLAN is an interface to be made for one of the virtual networks (IEEE 802.1Q) that another one carries.
type VLAN struct {
	Name   string
	Parent int32
	ID     uint16 // 1…4094
}

// AddVLAN makes it and brings it up.
func (c *Conn) AddVLAN(v *VLAN) error {
	if err := c.Do(v.request()); err != nil {
		return fmt.Errorf("add VLAN %s: %w", v.Name, err)
	}
	return nil
}

func (v *VLAN) request() *netlink.Batch {
	b := &netlink.Batch{}
	b.Begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, info(0, unix.IFF_UP, unix.IFF_UP))
	b.String(unix.IFLA_IFNAME, v.Name)
	b.U32(unix.IFLA_LINK, uint32(v.Parent))
	b.Nest(unix.IFLA_LINKINFO, func() {
		b.String(unix.IFLA_INFO_KIND, "vlan")
		b.Nest(unix.IFLA_INFO_DATA, func() {
			b.Attr(unix.IFLA_VLAN_ID, binary.NativeEndian.AppendUint16(nil, v.ID))
		})
	})
	return b
}

// Delete deletes an interface, and with it a pair's other end. One that is not there is no error.
func (c *Conn) Delete(name string) error {
	var b netlink.Batch
	b.Begin(unix.RTM_DELLINK, 0, info(0, 0, 0))
	b.String(unix.IFLA_IFNAME, name)
	if err := c.Do(&b); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete interface %s: %w", name, err)
	}
	return nil
}

// Interface is the inside of a container's connection to a network.
type Interface struct {
	Name     string
	Addrs    []netip.Prefix
	Gateways []netip.Addr // of default routes; may be empty
}

// Configure gives an interface of this namespace its addresses, brings it up and adds the default routes, all in
// one message round.
func (c *Conn) Configure(i *Interface) error {
	l, err := c.Find(i.Name)
	if err != nil {
		return err
	}
	bare := !hasIPv6(i.Addrs)
	err = c.configure(i, l.Index, bare)
	if bare && errors.Is(err, unix.EAFNOSUPPORT) {
		// The host has no IPv6, or the MTU is too small for it: what it would do need not be kept from happening.
		err = c.configure(i, l.Index, false)
	}
	if err != nil {
		return fmt.Errorf("configure interface %s: %w", i.Name, err)
	}
	return nil
}

func (c *Conn) configure(i *Interface, index int32, bare bool) error {
	var b netlink.Batch
	if bare {
		b.Begin(unix.RTM_NEWLINK, 0, info(index, 0, 0))
		genNone(&b)
	}
	for _, a := range i.Addrs {
		addAddr(&b, index, a)
	}
	b.Begin(unix.RTM_NEWLINK, 0, info(index, unix.IFF_UP, unix.IFF_UP))
	for _, g := range i.Gateways {
		addRoute(&b, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, index, g)
	}
	return c.Do(&b)
}

func hasIPv6(addrs []netip.Prefix) bool {
	for _, a := range addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addAddr(b *netlink.Batch, index int32, p netip.Prefix) {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1] = family(p.Addr()), byte(p.Bits())
	if p.Addr().Is6() {
		h[2] = unix.IFA_F_NODAD // the lease is ours alone: nobody else can have it
	}
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, h)
	b.Attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	b.Attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
	if p.Addr().Is4() && p.Bits() < 31 {
		b.Attr(unix.IFA_BROADCAST, broadcast(p))
	}
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	v := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	return binary.BigEndian.AppendUint32(nil, v)
}

func addRoute(b *netlink.Batch, flags uint16, index int32, gateway netip.Addr) {
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[4], h[5], h[6], h[7] = family(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	if gateway.IsUnspecified() {
		h[6] = unix.RT_SCOPE_LINK
	}
	b.Begin(unix.RTM_NEWROUTE, flags, h)
	b.U32(unix.RTA_OIF, uint32(index))
	if !gateway.IsUnspecified() { // else whoever is there is reached directly
		b.Attr(unix.RTA_GATEWAY, gateway.AsSlice())
	}
}

// AddAddrs adds addresses to the interface index.
func (c *Conn) AddAddrs(index int32, addrs []netip.Prefix) error {
	var b netlink.Batch
	for _, a := range addrs {
		addAddr(&b, index, a)
	}
	return c.Do(&b)
}

// SetDefault makes the gateways the ways out through the interface, instead of those there were.
func (c *Conn) SetDefault(name string, gateways []netip.Addr) error {
	l, err := c.Find(name)
	if err != nil {
		return err
	}
	var b netlink.Batch
	for _, g := range gateways {
		addRoute(&b, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, l.Index, g)
	}
	if err := c.Do(&b); err != nil {
		return fmt.Errorf("set default route through %s: %w", name, err)
	}
	return nil
}

// Link is an interface that is there.
type Link struct {
	Index  int32
	Name   string
	Kind   string // "bridge", "veth", … or "" of hardware
	MTU    int
	MAC    net.HardwareAddr
	Flags  uint32
	Master int32
}

// ErrNotFound: there is no such interface.
var ErrNotFound = errors.New("no such network interface")

// Find returns the interface of that name, or ErrNotFound.
func (c *Conn) Find(name string) (l Link, err error) {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, 0, info(0, 0, 0))
	b.String(unix.IFLA_IFNAME, name)
	err = c.Get(&b, func(m netlink.Message) { l, _ = parseLink(m) })
	if errors.Is(err, unix.ENODEV) || err == nil && l.Name != name {
		return l, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if err != nil {
		return l, fmt.Errorf("find interface %s: %w", name, err)
	}
	return l, nil
}

// List returns all interfaces.
func (c *Conn) List() (list []Link, err error) {
	var b netlink.Batch
	b.Begin(unix.RTM_GETLINK, 0, info(0, 0, 0))
	err = c.Dump(&b, func() { list = nil }, func(m netlink.Message) {
		if l, ok := parseLink(m); ok {
			list = append(list, l)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return list, nil
}

func parseLink(m netlink.Message) (l Link, ok bool) {
	if m.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return l, false
	}
	l.Index, l.Flags = int32(binary.NativeEndian.Uint32(m.Data[4:])), binary.NativeEndian.Uint32(m.Data[8:])
	netlink.Attrs(m.Data[unix.SizeofIfInfomsg:], func(typ uint16, data []byte) {
		switch {
		case typ == unix.IFLA_IFNAME:
			l.Name = netlink.Text(data)
		case typ == unix.IFLA_MTU && len(data) == 4:
			l.MTU = int(binary.NativeEndian.Uint32(data))
		case typ == unix.IFLA_MASTER && len(data) == 4:
			l.Master = int32(binary.NativeEndian.Uint32(data))
		case typ == unix.IFLA_ADDRESS:
			l.MAC = append(net.HardwareAddr(nil), data...)
		case typ == unix.IFLA_LINKINFO:
			netlink.Attrs(data, func(typ uint16, data []byte) {
				if typ == unix.IFLA_INFO_KIND {
					l.Kind = netlink.Text(data)
				}
			})
		}
	})
	return l, true
}

// Route is a route of the main table.
type Route struct {
	Dst     netip.Prefix // 0.0.0.0/0 or ::/0: the default route
	Gateway netip.Addr
	Index   int32
	Metric  uint32
}

// Routes returns the unicast routes of all tables but the local one, both families.
func (c *Conn) Routes() (list []Route, err error) {
	var b netlink.Batch
	b.Begin(unix.RTM_GETROUTE, 0, make([]byte, unix.SizeofRtMsg))
	err = c.Dump(&b, func() { list = nil }, func(m netlink.Message) {
		if m.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
			return
		}
		fam, bits, table, kind := m.Data[0], int(m.Data[1]), m.Data[4], m.Data[7]
		if table == unix.RT_TABLE_LOCAL || kind != unix.RTN_UNICAST {
			return
		}
		r := Route{}
		dst := netip.IPv4Unspecified()
		if fam == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
		netlink.Attrs(m.Data[unix.SizeofRtMsg:], func(typ uint16, data []byte) {
			switch {
			case typ == unix.RTA_DST:
				if a, ok := netip.AddrFromSlice(data); ok {
					dst = a
				}
			case typ == unix.RTA_GATEWAY:
				r.Gateway, _ = netip.AddrFromSlice(data)
			case typ == unix.RTA_OIF && len(data) == 4:
				r.Index = int32(binary.NativeEndian.Uint32(data))
			case typ == unix.RTA_PRIORITY && len(data) == 4:
				r.Metric = binary.NativeEndian.Uint32(data)
			}
		})
		r.Dst = netip.PrefixFrom(dst, bits)
		list = append(list, r)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return list, nil
}

// Addr is an address of an interface.
type Addr struct {
	Prefix netip.Prefix
	Index  int32
}

// Addrs returns all addresses, both families.
func (c *Conn) Addrs() (list []Addr, err error) {
	var b netlink.Batch
	b.Begin(unix.RTM_GETADDR, 0, make([]byte, unix.SizeofIfAddrmsg))
	err = c.Dump(&b, func() { list = nil }, func(m netlink.Message) {
		if m.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			return
		}
		bits, index := int(m.Data[1]), int32(binary.NativeEndian.Uint32(m.Data[4:]))
		var local, addr netip.Addr
		netlink.Attrs(m.Data[unix.SizeofIfAddrmsg:], func(typ uint16, data []byte) {
			switch typ {
			case unix.IFA_LOCAL:
				local, _ = netip.AddrFromSlice(data)
			case unix.IFA_ADDRESS:
				addr, _ = netip.AddrFromSlice(data)
			}
		})
		if !local.IsValid() {
			local = addr
		}
		if local.IsValid() {
			list = append(list, Addr{netip.PrefixFrom(local, bits), index})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	return list, nil
}

// UplinkMTU returns the MTU of the interface of the best default route, or 1500 where there is none.
func (c *Conn) UplinkMTU() int {
	const usual = 1500
	routes, err := c.Routes()
	if err != nil {
		return usual
	}
	var best *Route
	for i, r := range routes {
		if r.Dst.Bits() == 0 && (best == nil || r.Metric < best.Metric || r.Metric == best.Metric && r.Dst.Addr().Is4()) {
			best = &routes[i]
		}
	}
	if best == nil {
		return usual
	}
	links, err := c.List()
	if err != nil {
		return usual
	}
	for _, l := range links {
		if l.Index == best.Index && l.MTU > 0 {
			return l.MTU
		}
	}
	return usual
}
