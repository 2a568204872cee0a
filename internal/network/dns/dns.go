// Package dns answers the questions of one container: names of its networks by itself, all others by asking the host's
// name servers, in turn until one answers.
//
// A container finds it at 127.0.0.11, port 53. Its sockets are bound to other ports there, and a rule in the container's
// namespace leads to them, so that the container may have a name server of its own on port 53.
package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Names is what is known of a container's networks.
type Names interface {
	// Lookup returns the addresses that the name has in the container's networks; known is whether it is a name there.
	Lookup(name string) (addrs []netip.Addr, known bool)
	// Reverse returns the name of an address in them, or "".
	Reverse(netip.Addr) string
	// Upstream are the name servers that other questions go to, asked from the host's namespace; none: they fail.
	Upstream() []netip.Addr
}

// Server answers on one UDP and one TCP socket. Serving ends with Close.
type Server struct {
	names Names
	udp   net.PacketConn
	tcp   net.Listener
	slots chan struct{} // bounds questions under way
	all   sync.WaitGroup
}

// Bounds of what one container may keep under way, and for how long a name server is waited for.
const (
	maxUnderWay = 100
	patience    = 2 * time.Second
	maxIdle     = 10 * time.Second
)

// Serve answers what comes in on the sockets, which become the Server's.
func Serve(udp net.PacketConn, tcp net.Listener, names Names) *Server {
	s := &Server{names: names, udp: udp, tcp: tcp, slots: make(chan struct{}, maxUnderWay)}
	s.all.Go(s.datagrams)
	s.all.Go(s.connections)
	return s
}

// Close closes the sockets. Questions under way may end later, unanswered.
func (s *Server) Close() {
	s.udp.Close()
	s.tcp.Close()
}

func (s *Server) datagrams() {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of an answer before, which nobody took (ECONNREFUSED)
		}
		out, q, forward := s.answer(buf[:n])
		if !forward {
			if out != nil {
				if len(out) > datagram(buf[:n], q) {
					out = truncated(out, q)
				}
				s.udp.WriteTo(out, from)
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
			m := append([]byte(nil), buf[:n]...)
			go func() {
				defer func() { <-s.slots }()
				s.udp.WriteTo(s.ask("udp", m, q), from)
			}()
		default: // too many: the client asks again
		}
	}
}

// datagram returns the largest answer that the client takes by UDP: what its OPT record says (EDNS, RFC 6891), which
// follows the question in a query.
func datagram(m []byte, q question) int {
	const opt = 41
	if q.end >= headerLen && len(m) >= q.end+5 && m[q.end] == 0 && binary.BigEndian.Uint16(m[q.end+1:]) == opt {
		return min(max(plainUDP, int(binary.BigEndian.Uint16(m[q.end+3:]))), 4096)
	}
	return plainUDP
}

func (s *Server) connections() {
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // out of descriptors
			continue
		}
		select {
		case s.slots <- struct{}{}:
			go func() {
				defer func() { <-s.slots }()
				defer c.Close()
				s.connection(c)
			}()
		default:
			c.Close()
		}
	}
}

func (s *Server) connection(c net.Conn) {
	for {
		c.SetDeadline(time.Now().Add(maxIdle))
		m, err := readTCP(c)
		if err != nil {
			return
		}
		out, q, forward := s.answer(m)
		if forward {
			out = s.ask("tcp", m, q)
		}
		if out == nil || writeTCP(c, out) != nil {
			return
		}
	}
}

func readTCP(c net.Conn) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(c, m)
	return m, err
}

func writeTCP(c net.Conn, m []byte) error {
	_, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// answer answers a query from what is known here, or says that it is to be forwarded. out is nil for what deserves none.
func (s *Server) answer(m []byte) (out []byte, q question, forward bool) {
	q, err := parse(m)
	if errors.Is(err, errMessage) {
		return nil, q, false
	}
	if err != nil {
		if m[2]&0x80 != 0 {
			return nil, q, false // a response
		}
		out = append([]byte(nil), m[:headerLen]...)
		out[2], out[3] = 0x80|m[2]&0x79, notImpl
		clear(out[4:])
		return out, q, false
	}
	if q.class != classIN {
		return nil, q, true
	}
	switch q.kind {
	case typeA, typeAAAA, typeANY:
		addrs, known := s.names.Lookup(q.name)
		if !known {
			return nil, q, true
		}
		// Whoever takes the first address takes each in turn.
		rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
		out = respond(m, q, noError)
		for _, a := range addrs {
			switch {
			case a.Is4() && q.kind != typeAAAA:
				out = add(out, typeA, a.AsSlice())
			case a.Is6() && q.kind != typeA:
				out = add(out, typeAAAA, a.AsSlice())
			}
		}
		return out, q, false
	case typePTR:
		if a, ok := reverse(q.name); ok {
			if name := s.names.Reverse(a); name != "" {
				return add(respond(m, q, noError), typePTR, encodeName(name)), q, false
			}
		}
	default:
		// Other types of a name that is known here: there are none.
		if _, known := s.names.Lookup(q.name); known {
			return respond(m, q, noError), q, false
		}
	}
	return nil, q, true
}

// ask puts a query to the name servers, in turn until one answers.
func (s *Server) ask(network string, m []byte, q question) []byte {
	for _, a := range s.names.Upstream() {
		if out, err := exchange(network, netip.AddrPortFrom(a, 53), m, q); err == nil {
			return out
		}
	}
	return respond(m, q, servFail)
}

// exchange asks one name server. What comes back must be an answer to this very question.
func exchange(network string, server netip.AddrPort, m []byte, q question) ([]byte, error) {
	c, err := net.DialTimeout(network, server.String(), patience)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if network == "tcp" {
		if err := writeTCP(c, m); err != nil {
			return nil, err
		}
		out, err := readTCP(c)
		if err == nil && !answers(out, m, q) {
			err = errMessage
		}
		return out, err
	}
	if _, err := c.Write(m); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
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

func answers(out, m []byte, q question) bool {
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
