package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long a name server is waited for. Clients ask again after 5 s (resolv.conf(5)).
	patience = 2 * time.Second
	// penance is how long one that did not answer is asked last.
	penance = 10 * time.Second
)

// Forwarder puts questions to name servers, from the namespace that its process is in. Its methods may be called from any goroutine.
type Forwarder struct {
	cache cache

	mu   sync.Mutex
	down map[netip.AddrPort]time.Time // those that did not answer, until when
}

// NewForwarder returns a Forwarder that remembers nothing yet.
func NewForwarder() *Forwarder {
	return &Forwarder{cache: cache{now: time.Now}, down: make(map[netip.AddrPort]time.Time)}
}

// Known returns an answer that is still held, or nil.
func (f *Forwarder) Known(m []byte, q Question, upstream []netip.AddrPort) []byte {
	return f.cache.get(key(m, q, name(upstream)), m, q)
}

// Ask puts a query to the name servers, in turn until one answers. An answer that says that its server failed is given
// only when none has a better one.
func (f *Forwarder) Ask(tcp bool, m []byte, q Question, upstream []netip.AddrPort) []byte {
	k := key(m, q, name(upstream))
	if out := f.cache.get(k, m, q); out != nil {
		return out
	}
	// Of our own choosing: who cannot see it must not guess it, and what one container gets others get from the cache.
	sent := append([]byte(nil), m...)
	binary.BigEndian.PutUint16(sent, uint16(rand.Uint32()))
	var poor []byte
	for _, server := range f.order(upstream) {
		out, err := exchange(tcp, server, sent, q)
		if err != nil {
			f.mark(server, true)
			continue
		}
		f.mark(server, false)
		copy(out[:2], m[:2])
		switch out[3] & 15 {
		case servFail, notImpl, refused:
			if poor == nil {
				poor = out
			}
			continue
		}
		f.cache.put(k, out, q)
		return out
	}
	if poor != nil {
		return poor
	}
	return addOPT(respond(m, q, servFail), m, q)
}

// name is what a list of name servers is called in the cache's keys.
func name(upstream []netip.AddrPort) string {
	var b []byte
	for _, u := range upstream {
		b = append(u.AppendTo(b), ',')
	}
	return string(b)
}

// order puts those that did not answer lately last.
func (f *Forwarder) order(upstream []netip.AddrPort) []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.down) == 0 {
		return upstream
	}
	now := time.Now()
	var good, bad []netip.AddrPort
	for _, u := range upstream {
		if until, ok := f.down[u]; ok && now.Before(until) {
			bad = append(bad, u)
		} else {
			good = append(good, u)
		}
	}
	return append(good, bad...)
}

func (f *Forwarder) mark(server netip.AddrPort, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !down {
		delete(f.down, server)
		return
	}
	if len(f.down) > 100 {
		clear(f.down)
	}
	f.down[server] = time.Now().Add(penance)
}

// exchange asks one name server. What comes back must be an answer to this very question.
func exchange(tcp bool, server netip.AddrPort, m []byte, q Question) ([]byte, error) {
	c, err := dial(tcp, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if tcp {
		if err := WriteTCP(c, m); err != nil {
			return nil, err
		}
		out, err := ReadTCP(c)
		if err == nil && !answers(out, m, q) {
			err = errMessage
		}
		return out, err
	}
	if _, err := c.Write(m); err != nil {
		return nil, err
	}
	buf := make([]byte, maxUDP)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:n], m, q) {
			return buf[:n], nil
		}
	}
}

// dial connects to a server; what it returns fails when patience ends.
func dial(tcp bool, server netip.AddrPort) (*os.File, error) {
	family, typ := unix.AF_INET, unix.SOCK_DGRAM
	var to unix.Sockaddr
	if a := server.Addr().Unmap(); a.Is4() {
		to = &unix.SockaddrInet4{Port: int(server.Port()), Addr: a.As4()}
	} else {
		family = unix.AF_INET6
		to = &unix.SockaddrInet6{Port: int(server.Port()), Addr: a.As16(), ZoneId: zone(a.Zone())}
	}
	if tcp {
		typ = unix.SOCK_STREAM
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, to)
	if err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	f := os.NewFile(uintptr(fd), "name server")
	f.SetDeadline(time.Now().Add(patience))
	if err == nil {
		return f, nil
	}
	raw, err := f.SyscallConn()
	if err == nil {
		var cerr error
		err = raw.Write(func(fd uintptr) bool {
			var n int
			if n, cerr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); cerr == nil && n != 0 {
				cerr = unix.Errno(n)
			}
			if cerr == nil {
				_, e := unix.Getpeername(int(fd))
				return e == nil // or wait until it is connected, or is not going to be
			}
			return true
		})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// zone is the number of an interface that a link-local address names.
func zone(name string) (n uint32) {
	if name == "" {
		return 0
	}
	for _, c := range name {
		if c < '0' || c > '9' {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0
			}
			defer unix.Close(fd)
			r, err := unix.NewIfreq(name)
			if err != nil || unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r) != nil {
				return 0
			}
			return r.Uint32()
		}
		n = n*10 + uint32(c-'0')
	}
	return n
}

// ReadTCP reads one message of a connection.
func ReadTCP(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, m)
	return m, err
}

// WriteTCP writes one.
func WriteTCP(c io.Writer, m []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// answers reports whether out answers query m. Capitals may be changed on the way.
func answers(out, m []byte, q Question) bool {
	if len(out) < q.end || out[0] != m[0] || out[1] != m[1] || out[2]&0x80 == 0 {
		return false
	}
	for i := headerLen; i < q.end; i++ {
		if lower(out[i]) != lower(m[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
