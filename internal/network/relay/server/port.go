package server

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/network/relay/protocol"
)

// port is a published port. One without a target has a socket that nobody listens at: packets do not come that far, and
// other programs cannot have the port. The server's lock guards it.
type port struct {
	srv   *Server
	info  protocol.Port
	fd    int
	token uint64 // 0: not relayed
	flows map[netip.AddrPort]*flow
}

// flow is a client of a relayed UDP port, with a socket to the target of its own: answers come back to it.
type flow struct {
	fd    int
	token uint64
	last  time.Time
	reply []byte // control message by which answers come from the address that was asked
}

const (
	maxFlows  = 1024
	flowIdle  = 90 * time.Second // docker-proxy's
	portSpare = 16               // connections or datagrams taken in a row
)

// hold takes over the socket of a port, for the sandbox. The server's lock is held.
func (s *Server) hold(b *sandbox, info protocol.Port, fd int) error {
	p := &port{srv: s, info: info, fd: fd}
	if err := p.watch(); err != nil {
		return err
	}
	if i := b.port(info); i >= 0 {
		b.ports[i].close()
		b.ports[i] = p
	} else {
		b.ports = append(b.ports, p)
	}
	return nil
}

// lead sets where a port leads.
func (p *port) lead(info protocol.Port) error {
	p.info.Keep, p.info.Near = info.Keep, info.Near
	if p.info.Target == info.Target {
		return nil
	}
	p.unwatch()
	p.info.Target = info.Target
	return p.watch()
}

func (p *port) watch() (err error) {
	if !p.info.Target.IsValid() {
		return nil
	}
	switch p.info.Proto {
	case "tcp":
		p.token, err = p.srv.poll.add(p.fd, unix.EPOLLIN, p.accept)
	case "udp":
		p.flows = make(map[netip.AddrPort]*flow)
		if p.info.Host.Addr().Is4() {
			unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		} else {
			unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
		p.token, err = p.srv.poll.add(p.fd, unix.EPOLLIN, p.datagrams)
	}
	return err
}

func (p *port) unwatch() {
	if p.token != 0 {
		p.srv.poll.remove(p.token, p.fd)
		p.token = 0
	}
	for from := range p.flows {
		p.end(from)
	}
}

func (p *port) close() {
	p.unwatch()
	unix.Close(p.fd)
	p.fd = -1
}

func (p *port) accept(uint32) {
	for range portSpare {
		fd, from, err := unix.Accept4(p.fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			p.srv.outOfFiles(err, p.token, p.fd)
			return
		}
		p.srv.flowMu.Lock()
		p.srv.relay(fd, p.info.Target, p.worn(from))
		p.srv.flowMu.Unlock()
	}
}

func (p *port) datagrams(uint32) {
	buf, oob := p.srv.buf[:], p.srv.oob[:]
	for range portSpare {
		n, oobn, _, from, err := unix.Recvmsg(p.fd, buf, oob, 0)
		if err == unix.EAGAIN {
			return
		}
		client := addrPort(from)
		if err != nil || !client.IsValid() {
			continue
		}
		f := p.flows[client]
		if f == nil {
			if f = p.begin(client, from, oob[:oobn]); f == nil {
				continue
			}
		}
		f.last = time.Now()
		unix.SendmsgN(f.fd, buf[:n], nil, nil, unix.MSG_NOSIGNAL)
	}
}

// begin makes the flow of a client that has none.
func (p *port) begin(client netip.AddrPort, from unix.Sockaddr, oob []byte) *flow {
	if len(p.flows) >= maxFlows {
		p.expire(time.Now())
		if len(p.flows) >= maxFlows {
			return nil
		}
	}
	fd, err := dial(unix.SOCK_DGRAM, p.info.Target, p.worn(from))
	if err != nil {
		return nil
	}
	f := &flow{fd: fd}
	if msgs, err := unix.ParseSocketControlMessage(oob); err == nil {
		for i := range msgs {
			switch h := &msgs[i].Header; {
			case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO:
				f.reply = append([]byte(nil), oob...)
			case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO:
				clear(msgs[i].Data[:4]) // ipi_ifindex: the answer's way is the routes' to find (ip(7))
				f.reply = append([]byte(nil), oob...)
			}
		}
	}
	if f.token, err = p.srv.poll.add(fd, unix.EPOLLIN, func(uint32) { p.answers(f, from) }); err != nil {
		unix.Close(fd)
		return nil
	}
	p.flows[client] = f
	p.srv.sweepLater()
	return f
}

// answers brings back what the container answers to a client.
func (p *port) answers(f *flow, to unix.Sockaddr) {
	buf := p.srv.buf[:]
	for range portSpare {
		n, _, err := unix.Recvfrom(f.fd, buf, 0)
		if err == unix.EAGAIN {
			return
		}
		if err != nil {
			continue // nobody listens in the container (ECONNREFUSED)
		}
		f.last = time.Now()
		unix.SendmsgN(p.fd, buf[:n], f.reply, to, unix.MSG_NOSIGNAL)
	}
}

// expire ends flows at rest.
func (p *port) expire(now time.Time) {
	for from, f := range p.flows {
		if now.Sub(f.last) >= flowIdle {
			p.end(from)
		}
	}
}

func (p *port) end(from netip.AddrPort) {
	f := p.flows[from]
	p.srv.poll.remove(f.token, f.fd)
	unix.Close(f.fd)
	delete(p.flows, from)
}

// sweepLater has flows at rest ended in a while.
func (s *Server) sweepLater() {
	if s.sweeping {
		return
	}
	s.sweeping = true
	time.AfterFunc(flowIdle, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sweeping = false
		left, now := 0, time.Now()
		for _, b := range s.boxes {
			for _, p := range b.ports {
				p.expire(now)
				left += len(p.flows)
			}
		}
		if left > 0 {
			s.sweepLater()
		}
	})
}
