package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netns"
	"gantry/internal/kernel/nft"
	"gantry/internal/network/dns"
)

// resolver is where a container's programs find the name server, as they do in Docker.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// resolves reports whether the container is on a network that has names: users' networks do, the predefined do not.
func (j *joined) resolves() bool {
	return slices.ContainsFunc(j.Endpoints, func(e *endpoint) bool { return len(e.Names) > 0 })
}

// names is what one container may know. It answers the name server, from any goroutine.
type names struct {
	s  *Service
	id string
}

// Lookup returns the addresses of a name, as it is or with a network's name behind it.
func (x names) Lookup(name string) (addrs []netip.Addr, known bool) {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	me := x.s.joined[x.id]
	if me == nil {
		return nil, false
	}
	for _, mine := range me.Endpoints {
		if len(mine.Names) == 0 {
			continue
		}
		short, _ := strings.CutSuffix(name, "."+strings.ToLower(mine.Name))
		for _, j := range x.s.joined {
			e := j.on(mine.Network)
			if e == nil || !slices.ContainsFunc(e.Names, func(n string) bool { return strings.EqualFold(n, short) || strings.EqualFold(n, name) }) {
				continue
			}
			known = true
			for _, p := range []netip.Prefix{e.V4, e.V6} {
				if p.IsValid() && !slices.Contains(addrs, p.Addr()) {
					addrs = append(addrs, p.Addr())
				}
			}
		}
		if known {
			return addrs, true
		}
	}
	return nil, false
}

// Reverse returns the name of an address in the container's networks.
func (x names) Reverse(a netip.Addr) string {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	me := x.s.joined[x.id]
	if me == nil {
		return ""
	}
	for _, mine := range me.Endpoints {
		for _, j := range x.s.joined {
			if e := j.on(mine.Network); e != nil && len(e.Names) > 0 && (e.V4.IsValid() && e.V4.Addr() == a || e.V6.IsValid() && e.V6.Addr() == a) {
				return e.Names[0] + "." + e.Name
			}
		}
	}
	return ""
}

// Upstream are the name servers that the container was given; of one that has no way out, none: names must not leave
// an internal network (CVE-2024-29018).
func (x names) Upstream() []netip.Addr {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if me := x.s.joined[x.id]; me != nil && me.gateway() != nil {
		return me.Upstream
	}
	return nil
}

// serveNames starts the name server of a container in its namespace.
func (s *Service) serveNames(j *joined, ns *netns.Namespace) error {
	var udp net.PacketConn
	var tcp net.Listener
	err := ns.Do(func() (err error) {
		if udp, err = net.ListenPacket("udp4", netip.AddrPortFrom(resolver, 0).String()); err != nil {
			return err
		}
		if tcp, err = net.Listen("tcp4", netip.AddrPortFrom(resolver, 0).String()); err != nil {
			udp.Close()
			return err
		}
		if err = lead(udp.LocalAddr(), tcp.Addr()); err != nil {
			udp.Close()
			tcp.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("start the name server: %w", err)
	}
	server := dns.Serve(udp, tcp, names{s, j.ID})
	s.mu.Lock()
	old := s.servers[j.ID]
	s.servers[j.ID] = server
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	return nil
}

// endNames ends it. Its sockets would keep the namespace alive.
func (s *Service) endNames(id string) {
	s.mu.Lock()
	server := s.servers[id]
	delete(s.servers, id)
	s.mu.Unlock()
	if server != nil {
		server.Close()
	}
}

// lead makes port 53 of the resolver's address lead to the sockets, in the calling thread's namespace.
func lead(udp, tcp net.Addr) error {
	const table, chain = "gantry-dns", "output"
	conn, err := nft.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	var tx nft.Tx
	tx.Table(nft.IPv4, table)
	tx.Chain(nft.IPv4, table, chain, &nft.Hook{Type: "nat", Num: unix.NF_INET_LOCAL_OUT, Priority: -100})
	tx.Flush(nft.IPv4, table, chain)
	for _, x := range []struct {
		proto byte
		to    net.Addr
	}{{unix.IPPROTO_UDP, udp}, {unix.IPPROTO_TCP, tcp}} {
		port := netip.MustParseAddrPort(x.to.String()).Port()
		tx.Rule(nft.IPv4, table, chain,
			nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, nft.R1), nft.Equal(nft.R1, resolver.AsSlice()),
			nft.Meta(unix.NFT_META_L4PROTO, nft.R1), nft.Equal(nft.R1, []byte{x.proto}),
			nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, nft.R1), nft.Equal(nft.R1, []byte{0, 53}),
			nft.Load(nft.R32, resolver.AsSlice()), nft.Load(nft.R32+1, []byte{byte(port >> 8), byte(port)}),
			nft.DNAT(nft.IPv4, nft.R32, nft.R32+1))
	}
	return conn.Commit(&tx)
}
