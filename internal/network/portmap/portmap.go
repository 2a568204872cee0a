// Package portmap gives out ports of the host and holds them: each published port is reserved by a bound socket, so
// that no other program can take it, and a port that another program has is never published over it. The sockets are made
// here and go to the relay, which outlives the engine.
//
// No packet for an IPv4 address reaches these sockets while the rules of package firewall stand, unless no rule is made for it
// (Request.Relayed). Those for IPv6 listen: what no rule can lead to a container, from ::1 or to one without IPv6, the relay takes there.
package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/netns"
)

// Request asks for one container port to be published.
type Request struct {
	Proto       string     // "tcp", "udp" or "sctp"
	Container   uint16     // port
	Host        netip.Addr // invalid: all addresses of both families
	First, Last uint16     // of the host's ports to choose from; 0: any
	Relayed     bool       // no rule leads packets to the container: the socket gets them
}

// Binding is a published port.
type Binding struct {
	Proto     string         `json:"proto"`
	Container uint16         `json:"container"`
	Host      netip.AddrPort `json:"host"`
	Relayed   bool           `json:"relayed,omitempty"` // as in Request
	// Direct: no port of the host is taken, for the container's address is reached directly. Host says of which family it is. The
	// book knows nothing of such.
	Direct bool `json:"direct,omitempty"`
}

// Book knows which ports are held, and by whom.
type Book struct {
	host *netns.Namespace

	mu    sync.Mutex
	held  map[slot]holding
	count map[number]int // of held, by what they may be in each other's way
}

// number is a port of all addresses of a family.
type number struct {
	proto string
	v4    bool
	port  uint16
}

func (s slot) number() number { return number{s.proto, s.host.Addr().Is4(), s.host.Port()} }

// put and drop change held. b.mu is held.
func (b *Book) put(s slot, h holding) {
	if _, ok := b.held[s]; !ok {
		b.count[s.number()]++
	}
	b.held[s] = h
}

func (b *Book) drop(s slot) {
	if _, ok := b.held[s]; !ok {
		return
	}
	delete(b.held, s)
	if n := s.number(); b.count[n] > 1 {
		b.count[n]--
	} else {
		delete(b.count, n)
	}
}

type slot struct {
	proto string
	host  netip.AddrPort
}

type holding struct {
	fd    int // -1: it was taken, or the kernel has no such sockets
	owner string
}

// New keeps a book of the ports of the host's namespace.
func New(host *netns.Namespace) *Book {
	return &Book{host: host, held: map[slot]holding{}, count: map[number]int{}}
}

// Protocol returns the protocol's number.
func Protocol(name string) (n uint8, ok bool) {
	switch name {
	case "tcp":
		return unix.IPPROTO_TCP, true
	case "udp":
		return unix.IPPROTO_UDP, true
	case "sctp":
		return unix.IPPROTO_SCTP, true
	}
	return 0, false
}

// Reserve finds and holds a host port for every request, for owner, whose addresses are of the families v4 and v6. It
// reserves all or nothing. The errors are Docker's; a second line says who holds the port and which one is free.
func (b *Book) Reserve(owner string, v4, v6 bool, requests []Request) (list []Binding, err error) {
	if len(requests) == 0 {
		return nil, nil
	}
	err = b.host.Do(func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, r := range requests {
			got, err := b.reserve(owner, v4, v6, r)
			if err != nil {
				b.release(list)
				list = nil
				return err
			}
			list = append(list, got...)
		}
		return nil
	})
	return list, err
}

// Take hands over the socket that holds a port: it is the caller's then, and closed before the port is released. It is -1
// where there is none.
func (b *Book) Take(x Binding) (fd int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := slot{x.Proto, x.Host}
	h, ok := b.held[s]
	if !ok {
		return -1
	}
	b.held[s] = holding{-1, h.owner}
	return h.fd
}

// Again takes back, after a restart, what was reserved before. Those that kept says yes to have their sockets elsewhere.
// Until then it waits for those that a process which was killed has not closed yet. A port that somebody took meanwhile
// stays published, for the rules come first; the error says so.
func (b *Book) Again(owner string, list []Binding, kept func(Binding) bool, until time.Time) error {
	return b.host.Do(func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		var first error
		for _, x := range list {
			if x.Direct {
				continue
			}
			if kept(x) {
				b.put(slot{x.Proto, x.Host}, holding{-1, owner})
				continue
			}
			err := b.hold(owner, x)
			for busy := (*Busy)(nil); errors.As(err, &busy) && busy.Owner == "" && time.Now().Before(until); err = b.hold(owner, x) {
				time.Sleep(time.Millisecond)
			}
			if err != nil {
				b.put(slot{x.Proto, x.Host}, holding{-1, owner})
				if first == nil {
					first = err
				}
			}
		}
		return first
	})
}

// Release lets go of the ports.
func (b *Book) Release(list []Binding) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release(list)
}

func (b *Book) release(list []Binding) {
	for _, x := range list {
		s := slot{x.Proto, x.Host}
		if h, ok := b.held[s]; ok {
			if h.fd >= 0 {
				unix.Close(h.fd)
			}
			b.drop(s)
		}
	}
}

// Held returns how many ports are held.
func (b *Book) Held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held)
}

// Close lets go of all sockets; published ports stay published.
func (b *Book) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, h := range b.held {
		if h.fd >= 0 {
			unix.Close(h.fd)
		}
		b.drop(s)
	}
}

// tries bounds the search for a port that is free in both families.
const tries = 64

func (b *Book) reserve(owner string, v4, v6 bool, r Request) ([]Binding, error) {
	hosts := addresses(r.Host, v4, v6)
	if len(hosts) == 0 {
		return nil, errs.Invalid.Errorf("cannot publish %s on %s: the container has no address of that family", portText(r.Container, r.Proto), r.Host)
	}
	var busy error
	take := func(port uint16) ([]Binding, error) {
		var list []Binding
		for _, a := range hosts {
			x := Binding{Proto: r.Proto, Container: r.Container, Host: netip.AddrPortFrom(a, port), Relayed: r.Relayed}
			if err := b.hold(owner, x); err != nil {
				b.release(list)
				return nil, err
			}
			list = append(list, x)
		}
		return list, nil
	}
	if r.First == 0 {
		for range tries {
			port, err := anyPort(r.Proto, hosts[0])
			if err != nil {
				return nil, err
			}
			list, err := take(port)
			if err == nil {
				return list, nil
			}
			busy = err
		}
		return nil, busy
	}
	for port := int(r.First); port <= int(max(r.First, r.Last)); port++ {
		list, err := take(uint16(port))
		if err == nil {
			return list, nil
		}
		if !errs.Internal.Is(err) || r.Last <= r.First {
			return nil, b.explain(err, r, hosts, uint16(port))
		}
		busy = err
	}
	return nil, b.explain(busy, r, hosts, r.First)
}

// addresses are those to bind for a request, of a container with addresses of the families v4 and v6. Its IPv4 address does
// for IPv6, too: the relay is between.
func addresses(host netip.Addr, v4, v6 bool) (list []netip.Addr) {
	host = host.Unmap()
	if v4 && (!host.IsValid() || host.Is4()) {
		list = append(list, orAll(host, netip.IPv4Unspecified()))
	}
	if host.Is6() && (v4 || v6) || !host.IsValid() && (v6 || v4 && hasIPv6()) {
		list = append(list, orAll(host, netip.IPv6Unspecified()))
	}
	return list
}

// hasIPv6 reports whether anybody could come by IPv6, to the calling thread's namespace.
func hasIPv6() bool {
	fd, err := open("tcp", netip.IPv6Loopback())
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sockaddr(netip.AddrPortFrom(netip.IPv6Loopback(), 0))) == nil
}

func orAll(a, all netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return all
}

// hold binds a socket to the port. An error's kind is Internal when another port may do.
func (b *Book) hold(owner string, x Binding) error {
	s := slot{x.Proto, x.Host}
	if b.count[s.number()] > 0 { // else there is no need to look at all of them, for each of thousands
		for other := range b.held {
			// 0.0.0.0 takes a port for all addresses. Where sockets cannot tell, the book must.
			if other.proto == s.proto && other.host.Port() == s.host.Port() && other.host.Addr().Is4() == s.host.Addr().Is4() &&
				(other.host.Addr() == s.host.Addr() || other.host.Addr().IsUnspecified() || s.host.Addr().IsUnspecified()) {
				return &Busy{b.held[other].owner, fmt.Errorf("Bind for %s failed: port is already allocated", x.Host)}
			}
		}
	}
	fd, err := bind(x.Proto, x.Host, x.Relayed)
	switch {
	case err == nil:
		b.put(s, holding{fd, owner})
		return nil
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT):
		b.put(s, holding{-1, owner}) // sctp on a kernel without it: rules do, sockets don't
		return nil
	case errors.Is(err, unix.EADDRINUSE):
		return &Busy{"", fmt.Errorf("failed to bind host port %s/%s: address already in use", x.Host, x.Proto)}
	}
	return errs.Invalid.Errorf("failed to bind host port %s/%s: %w", x.Host, x.Proto, err)
}

// Busy is a port that somebody has.
type Busy struct {
	Owner string // the container's name, or "" when it is another program
	err   error
}

func (e *Busy) Error() string { return e.err.Error() }

// backlog is of connections that wait for the relay.
const backlog = 1024

func bind(proto string, host netip.AddrPort, relayed bool) (int, error) {
	fd, err := open(proto, host.Addr())
	if err != nil {
		return -1, err
	}
	// Without SO_REUSEADDR nobody else gets the port, even with it.
	listens := proto == "tcp" && (host.Addr().Is6() || relayed)
	if !listens {
		err = unix.Bind(fd, sockaddr(host))
	}
	if listens || errors.Is(err, unix.EADDRINUSE) && proto == "tcp" {
		// Perhaps by connections that have ended only (TIME_WAIT). A listening socket keeps others away, too.
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err = unix.Bind(fd, sockaddr(host)); err == nil {
			err = unix.Listen(fd, backlog)
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func open(proto string, a netip.Addr) (int, error) {
	family, typ, number := unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP
	if a.Is6() {
		family = unix.AF_INET6
	}
	switch proto {
	case "udp":
		typ, number = unix.SOCK_DGRAM, unix.IPPROTO_UDP
	case "sctp":
		number = unix.IPPROTO_SCTP
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, number)
	if err != nil {
		return -1, err
	}
	if a.Is6() {
		unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	return fd, nil
}

func sockaddr(host netip.AddrPort) unix.Sockaddr {
	if host.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(host.Port()), Addr: host.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(host.Port()), Addr: host.Addr().As16()}
}

// anyPort asks the kernel for one of its ephemeral ports.
func anyPort(proto string, a netip.Addr) (uint16, error) {
	fd, err := open(proto, a)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT) {
		fd, err = open("tcp", a)
	}
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))); err != nil {
		return 0, errs.Invalid.Errorf("failed to bind host port for %s/%s: %w", a, proto, err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, errs.Internal.Errorf("the kernel named no port")
}

func portText(port uint16, proto string) string { return fmt.Sprintf("%d/%s", port, proto) }
