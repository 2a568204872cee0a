package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/netns"
	"gantry/internal/kernel/nft"
	"gantry/internal/network/portmap"
	"gantry/internal/network/relay"
)

// resolver is where a container's programs find the name server, as they do in Docker.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// resolves reports whether the container is on a network that has names: users' networks do, the predefined do not.
func (j *joined) resolves() bool {
	return slices.ContainsFunc(j.Endpoints, func(e *endpoint) bool { return len(e.Names) > 0 })
}

// sandbox is what the relay knows of j: its places on networks that have names, and whom to ask for other names. A container
// that has no way out has nobody to ask: names must not leave an internal network (CVE-2024-29018). s.mu is held.
func (j *joined) sandbox() relay.Sandbox {
	x := relay.Sandbox{ID: j.ID}
	for _, e := range j.Endpoints {
		if len(e.Names) == 0 {
			continue
		}
		n := relay.Network{ID: e.Network, Name: e.Name, Names: e.Names}
		if e.V4.IsValid() {
			n.V4 = e.V4.Addr()
		}
		if e.V6.IsValid() {
			n.V6 = e.V6.Addr()
		}
		for _, l := range e.Want.Links {
			if name, alias, ok := strings.Cut(l, ":"); ok {
				if n.Links == nil {
					n.Links = map[string]string{}
				}
				n.Links[alias] = strings.TrimPrefix(name, "/")
			}
		}
		x.Networks = append(x.Networks, n)
	}
	if j.gateway() != nil {
		for _, a := range j.Upstream {
			x.Upstream = append(x.Upstream, netip.AddrPortFrom(a, 53))
		}
	}
	return x
}

// relayed are j's published ports as the relay knows them: those of IPv6 addresses, or all, lead to the container; with keep
// those that no rule leads there wear the client's address. s.mu is held.
func (j *joined) relayed(keep bool, fd func(portmap.Binding) int) (list []relay.Port) {
	v4, v6 := j.targets()
	var near []netip.Prefix
	for _, e := range j.Endpoints {
		for _, p := range []netip.Prefix{e.V4, e.V6} {
			if p.IsValid() {
				near = append(near, p.Masked())
			}
		}
	}
	for _, b := range j.Bindings {
		var to netip.AddrPort
		switch {
		case b.Direct:
			continue
		case !b.Host.Addr().Is6() && !b.Relayed:
		case v6.IsValid() && b.Host.Addr().Is6():
			to = netip.AddrPortFrom(v6, b.Container)
		case v4.IsValid():
			to = netip.AddrPortFrom(v4, b.Container)
		}
		n := -1
		if fd != nil {
			if n = fd(b); n < 0 {
				continue // no socket, as of sctp
			}
		}
		p := relay.NewPort(b.Proto, b.Host, to, n)
		if b.Relayed && keep {
			p.Keep, p.Near = true, near
		}
		list = append(list, p)
	}
	return list
}

// openResolver makes the sockets of a name server in a namespace, on the ports that another one had there before: the kernel
// remembers for a while which of a client's ports were led where (conntrack), and so would lead the next questions from
// them to where nobody is any more. Until then it waits for that one's end. It sets the ports.
func openResolver(ns *netns.Namespace, ports *[2]uint16, until time.Time) (udp, tcp int, err error) {
	udp, tcp = -1, -1
	err = ns.Do(func() error {
		for i, s := range []struct {
			fd  *int
			typ int
		}{{&udp, unix.SOCK_DGRAM}, {&tcp, unix.SOCK_STREAM}} {
			if *s.fd, err = unix.Socket(unix.AF_INET, s.typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
				return os.NewSyscallError("socket", err)
			}
			if s.typ == unix.SOCK_STREAM { // connections of before may not be over
				unix.SetsockoptInt(*s.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			}
			again := &unix.SockaddrInet4{Addr: resolver.As4(), Port: int(ports[i])}
			err := unix.Bind(*s.fd, again)
			for ; err == unix.EADDRINUSE && time.Now().Before(until); err = unix.Bind(*s.fd, again) {
				time.Sleep(time.Millisecond)
			}
			if err == unix.EADDRINUSE {
				err = unix.Bind(*s.fd, &unix.SockaddrInet4{Addr: resolver.As4()})
			}
			if err != nil {
				return os.NewSyscallError("bind", err)
			}
			a, err := unix.Getsockname(*s.fd)
			if err != nil {
				return os.NewSyscallError("getsockname", err)
			}
			ports[i] = uint16(a.(*unix.SockaddrInet4).Port)
		}
		if err := unix.Listen(tcp, 128); err != nil {
			return os.NewSyscallError("listen", err)
		}
		return lead(ports[0], ports[1])
	})
	if err != nil {
		closeResolver(udp, tcp)
		return -1, -1, fmt.Errorf("open the name server's sockets: %w", err)
	}
	return udp, tcp, nil
}

func closeResolver(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// serve gives the relay j's sockets: those of the name server, when j resolves, and of ports. Names are to be known when
// it returns; for ports nobody waits, what comes to them waits in their queues.
func (s *Service) serve(ctx context.Context, j *joined, ns *netns.Namespace) error {
	if !j.resolves() {
		if ports := j.relayed(s.diverts.Load(), s.ports.Take); len(ports) > 0 {
			s.relay.Give(j.sandbox(), -1, -1, ports)
		}
		return nil
	}
	var dns [2]uint16
	udp, tcp, err := openResolver(ns, &dns, time.Time{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	j.Resolver, j.DNS = true, dns
	err = s.writeJoined(j)
	rec, ports := j.sandbox(), j.relayed(s.diverts.Load(), s.ports.Take)
	s.mu.Unlock()
	wait := s.relay.Give(rec, udp, tcp, ports)
	if err == nil {
		err = wait(ctx)
	}
	return err
}

// served has the relay know of a change of j.
func (s *Service) served(ctx context.Context, j *joined) error {
	s.mu.Lock()
	rec, ports, some := j.sandbox(), j.relayed(s.diverts.Load(), nil), j.Resolver || len(j.Bindings) > 0
	s.mu.Unlock()
	if !some {
		return nil
	}
	return s.relay.Change(rec, ports)(ctx)
}

// unserve has the relay close all that it holds for j. Its sockets would keep the namespace alive; and its names must
// not be answered when others get the addresses.
func (s *Service) unserve(j *joined) {
	if !j.Resolver && len(j.Bindings) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.relay.Drop(j.ID)(ctx); err != nil {
		s.Log.Warn("the relay was not told of a container's end", "container", j.Name, "err", err)
	}
}

// patience is how long the end of a container waits for the relay.
const patience = 10 * time.Second

// serveAgain is serve for a container that was connected by the engine before: what the relay holds for it is kept, what
// is missing is made. path leads to its namespace. A relay that was killed may still have some of it, but not long: until.
func (s *Service) serveAgain(j *joined, path string, until time.Time) error {
	has, held := s.relay.Has(j.ID)
	var first error
	kept := func(b portmap.Binding) bool {
		return slices.ContainsFunc(held, func(p relay.Port) bool { return p.Proto == b.Proto && p.Host == b.Host })
	}
	if err := s.ports.Again(j.Name, j.Bindings, kept, until); err != nil {
		first = fmt.Errorf("another program took a published port, which stays published: %w", err)
	}
	udp, tcp := -1, -1
	if j.Resolver = j.Resolver || j.resolves(); j.Resolver && !has {
		ns, err := netns.Open(path)
		if err == nil {
			dns := j.DNS
			if udp, tcp, err = openResolver(ns, &dns, until); dns != j.DNS {
				err = errors.Join(err, s.note(j, func() { j.DNS = dns }))
			}
			ns.Close()
		}
		if first == nil {
			first = err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := j.relayed(s.diverts.Load(), func(b portmap.Binding) int {
		for _, p := range held {
			if p.Proto == b.Proto && p.Host == b.Host {
				return p.Fd
			}
		}
		return s.ports.Take(b)
	})
	if j.Resolver || len(ports) > 0 {
		s.relay.Adopt(j.sandbox(), udp, tcp, ports)
	}
	return first
}

// lead makes port 53 of the resolver's address lead to the sockets, in the calling thread's namespace.
func lead(udp, tcp uint16) error {
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
		port  uint16
	}{{unix.IPPROTO_UDP, udp}, {unix.IPPROTO_TCP, tcp}} {
		tx.Rule(nft.IPv4, table, chain,
			nft.Payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4, nft.R1), nft.Equal(nft.R1, resolver.AsSlice()),
			nft.Meta(unix.NFT_META_L4PROTO, nft.R1), nft.Equal(nft.R1, []byte{x.proto}),
			nft.Payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2, nft.R1), nft.Equal(nft.R1, []byte{0, 53}),
			nft.Load(nft.R32, resolver.AsSlice()), nft.Load(nft.R32+1, []byte{byte(x.port >> 8), byte(x.port)}),
			nft.DNAT(nft.IPv4, nft.R32, nft.R32+1))
	}
	return conn.Commit(&tx)
}
