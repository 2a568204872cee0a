package server

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// stream is one relayed connection: a client's, and ours to the container. Bytes go through a pipe for each direction by
// splice(2), so that they never come into this process, and an upgrade finds all that is under way in the pipes. The
// streams' lock guards it.
type stream struct {
	srv       *Server
	client    int
	server    int
	tokens    [2]uint64
	connected bool
	ways      [2]way // to the server, to the client
}

// way is one direction.
type way struct {
	r, w   int
	inside int // bytes in the pipe
	ended  bool
	shut   bool // and the other side knows
}

const (
	pipeSize = 64 << 10
	// maxStreams bounds relayed connections; each is 6 descriptors.
	maxStreams = 10000
	rounds     = 16 // through the pipe before others have their turn
)

// relay leads a client's connection to the target. The streams' lock is held.
func (s *Server) relay(client int, target, worn netip.AddrPort) {
	st := &stream{srv: s, client: client, server: -1}
	for i := range st.ways {
		st.ways[i].r, st.ways[i].w = -1, -1
	}
	if len(s.streams) >= maxStreams || !st.open(target, worn) {
		st.abort()
		return
	}
	s.streams[st] = struct{}{}
}

func (st *stream) open(target, worn netip.AddrPort) bool {
	fd, err := dial(unix.SOCK_STREAM, target, worn)
	if err != nil {
		return false
	}
	st.server = fd
	for _, fd := range []int{st.client, st.server} {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	}
	for i := range st.ways {
		var p [2]int
		if unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
			return false
		}
		st.ways[i].r, st.ways[i].w = p[0], p[1]
	}
	return st.watch()
}

func (st *stream) watch() bool {
	const events = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET
	for i, fd := range []int{st.client, st.server} {
		var err error
		if st.tokens[i], err = st.srv.flow.add(fd, events, st.ready); err != nil {
			return false
		}
	}
	return true
}

func (st *stream) ready(uint32) {
	if !st.connected {
		if n, err := unix.GetsockoptInt(st.server, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || n != 0 {
			st.abort()
			return
		}
		if _, err := unix.Getpeername(st.server); err != nil {
			return
		}
		st.connected = true
	}
	there, ok1 := st.ways[0].pump(st.client, st.server)
	back, ok2 := st.ways[1].pump(st.server, st.client)
	switch {
	case !ok1 || !ok2:
		st.abort()
	case st.ways[0].shut && st.ways[1].shut:
		st.close()
	case there || back:
		st.srv.flow.repeat(st.tokens[0])
	}
}

// pump moves what can be moved. more: it stopped before there was nothing left to do; ok is false when one side is broken.
func (w *way) pump(from, to int) (more, ok bool) {
	const flags = unix.SPLICE_F_NONBLOCK | unix.SPLICE_F_MOVE
	for range rounds {
		moved := false
		if !w.ended && w.inside < pipeSize {
			n, err := unix.Splice(from, nil, w.w, nil, pipeSize, flags)
			switch {
			case err == unix.EAGAIN || err == unix.EINTR:
			case err != nil:
				return false, false
			case n == 0:
				w.ended = true
			default:
				w.inside += int(n)
				moved = true
			}
		}
		if w.inside > 0 {
			n, err := unix.Splice(w.r, nil, to, nil, w.inside, flags)
			switch {
			case err == unix.EAGAIN || err == unix.EINTR:
			case err != nil:
				return false, false
			default:
				w.inside -= int(n)
				moved = true
			}
		}
		if w.ended && w.inside == 0 && !w.shut {
			w.shut = true
			if unix.Shutdown(to, unix.SHUT_WR) != nil {
				return false, false
			}
		}
		if !moved {
			return false, true
		}
	}
	return true, true
}

// abort ends a stream that is broken: the client shall see that, not take it for the end.
func (st *stream) abort() {
	for _, fd := range []int{st.client, st.server} {
		if fd >= 0 {
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
	}
	st.close()
}

func (st *stream) close() {
	delete(st.srv.streams, st)
	for i, fd := range []int{st.client, st.server} {
		if st.tokens[i] != 0 {
			st.srv.flow.remove(st.tokens[i], fd)
		}
	}
	for _, fd := range st.fds() {
		unix.Close(fd)
	}
	st.client, st.server = -1, -1
}

func (st *stream) fds() (list []int) {
	for _, fd := range []int{st.client, st.server, st.ways[0].r, st.ways[0].w, st.ways[1].r, st.ways[1].w} {
		if fd >= 0 {
			list = append(list, fd)
		}
	}
	return list
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
