package server

import (
	"os"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/network/dns"
)

// Bounds of what one sandbox, and all of them, may have under way, and how long a connection may be silent.
const (
	maxUnderWay = 100
	maxTogether = 1000 // some 10 kB each
	maxIdle     = 10 * time.Second
)

// resolver is the name server in one sandbox. The server's lock guards it.
type resolver struct {
	srv      *Server
	box      *sandbox
	udp, tcp int
	tokens   [2]uint64
	underWay int
	conns    map[*os.File]struct{} // they would keep the sandbox's namespace alive
}

// resolve serves names on two sockets, nonblocking, which become the resolver's.
func (s *Server) resolve(b *sandbox, udp, tcp int) error {
	r := &resolver{srv: s, box: b, udp: udp, tcp: tcp, conns: make(map[*os.File]struct{})}
	var err error
	if r.tokens[0], err = s.poll.add(udp, unix.EPOLLIN, r.datagrams); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	if r.tokens[1], err = s.poll.add(tcp, unix.EPOLLIN, r.connections); err != nil {
		s.poll.remove(r.tokens[0], udp)
		return os.NewSyscallError("epoll_ctl", err)
	}
	if b.resolver != nil {
		b.resolver.close()
	}
	b.resolver = r
	return nil
}

func (r *resolver) close() {
	r.srv.poll.remove(r.tokens[0], r.udp)
	r.srv.poll.remove(r.tokens[1], r.tcp)
	unix.Close(r.udp)
	unix.Close(r.tcp)
	for c := range r.conns {
		c.Close()
	}
	r.udp, r.tcp = -1, -1
}

// begin counts one more question or connection under way, unless there are too many.
func (r *resolver) begin() bool {
	if r.underWay >= maxUnderWay || r.srv.underWay >= maxTogether {
		return false
	}
	r.underWay++
	r.srv.underWay++
	return true
}

func (r *resolver) end() {
	r.underWay--
	r.srv.underWay--
}

// datagrams answers what is there, a few at a time: others wait as well.
func (r *resolver) datagrams(uint32) {
	buf := r.srv.buf[:]
	for range 16 {
		n, from, err := unix.Recvfrom(r.udp, buf, 0)
		if err == unix.EAGAIN {
			return
		}
		if err != nil || from == nil {
			continue // of an answer before, which nobody took (ECONNREFUSED)
		}
		out, q, forward := dns.Answer(buf[:n], view{r.srv.table, &r.box.rec})
		if forward {
			out = r.srv.forward.Known(buf[:n], q, r.box.rec.Upstream)
		}
		if out != nil {
			unix.Sendto(r.udp, dns.Fit(out, buf[:n], q), 0, from)
			continue
		}
		if !forward || !r.begin() {
			continue // too many: the client asks again
		}
		m, upstream := append([]byte(nil), buf[:n]...), r.box.rec.Upstream
		go func() {
			out := dns.Fit(r.srv.forward.Ask(false, m, q, upstream), m, q)
			r.srv.mu.Lock()
			defer r.srv.mu.Unlock()
			r.end()
			if r.udp >= 0 {
				unix.Sendto(r.udp, out, 0, from)
			}
		}()
	}
}

func (r *resolver) connections(uint32) {
	fd, _, err := unix.Accept4(r.tcp, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		r.srv.outOfFiles(err, r.tokens[1], r.tcp)
		return
	}
	if !r.begin() {
		unix.Close(fd)
		return
	}
	c := os.NewFile(uintptr(fd), "client")
	r.conns[c] = struct{}{}
	go func() {
		r.connection(c)
		r.srv.mu.Lock()
		defer r.srv.mu.Unlock()
		r.end()
		delete(r.conns, c)
		c.Close()
	}()
}

func (r *resolver) connection(c *os.File) {
	for {
		c.SetDeadline(time.Now().Add(maxIdle))
		m, err := dns.ReadTCP(c)
		if err != nil {
			return
		}
		r.srv.mu.Lock()
		out, q, forward := dns.Answer(m, view{r.srv.table, &r.box.rec})
		upstream := r.box.rec.Upstream
		r.srv.mu.Unlock()
		if forward {
			out = r.srv.forward.Ask(true, m, q, upstream)
		}
		if out == nil || dns.WriteTCP(c, out) != nil {
			return
		}
	}
}
