package server

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// worn is the address that a connection for this client is to wear, so that the container sees who asks; an invalid one is
// the host's own. The kernel lets only addresses of the same family be worn, and answers must come back through the host:
// those to the host's own loopback, and to clients that the container reaches directly, would not.
func (p *port) worn(client unix.Sockaddr) netip.AddrPort {
	c := addrPort(client)
	if a := c.Addr(); !p.info.Keep || !a.IsValid() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.Is4() != p.info.Target.Addr().Is4() {
		return netip.AddrPort{}
	}
	for _, n := range p.info.Near {
		if n.Contains(c.Addr()) {
			return netip.AddrPort{}
		}
	}
	return c
}

func addrPort(from unix.Sockaddr) netip.AddrPort {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// dial begins a connection to the target. Where it cannot wear the address (a port of this host's own that is in use, no
// CAP_NET_ADMIN) it wears the host's: better a stranger than nobody.
func dial(typ int, target, worn netip.AddrPort) (fd int, err error) {
	if worn.IsValid() {
		if fd, err = dialAs(typ, target, worn); err == nil {
			return fd, nil
		}
	}
	return dialAs(typ, target, netip.AddrPort{})
}

func dialAs(typ int, target, worn netip.AddrPort) (int, error) {
	family, to := sockaddr(target)
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if worn.IsValid() {
		level, option := unix.IPPROTO_IP, unix.IP_TRANSPARENT
		if family == unix.AF_INET6 {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT
		}
		_, from := sockaddr(worn)
		// A client may ask at several ports from one of its own: only the other ends differ then.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err = unix.SetsockoptInt(fd, level, option, 1); err == nil {
			err = unix.Bind(fd, from)
		}
	}
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
