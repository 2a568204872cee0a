package server

import (
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/jsonlog"
)

const (
	peekSize  = 64 << 10  // bytes of a stream looked at in one piece: a pipe's capacity
	batchSize = 128 << 10 // of encoded records, at most (and one record more)
	quantum   = 16        // pieces, until others have their turn
	// lazyDelay is how long a stream that nobody watches, and that writes little by little, is left alone between two
	// pieces: each costs 20 µs whether it holds one line or a thousand.
	lazyDelay = 2 * time.Millisecond
	lazySize  = 16 << 10
	// hangupDelay is how often a terminal is looked at that all have closed, and that may be opened again.
	hangupDelay = 250 * time.Millisecond
)

var streamNames = [2]string{"stdout", "stderr"}

// stream is stdout or stderr of a process.
type stream struct {
	p     *process
	i     int // 0 stdout, 1 stderr
	fd    int // read end of the pipe
	slot  *slot
	poll  *pollee // of fd, or of the pty's master
	hung  bool    // a pty: all its slaves are closed
	ended bool    // end of file was read, and told to the log
}

func (s *stream) close() {
	if s.poll != nil {
		s.p.srv.poll.remove(s.poll)
		s.poll = nil
	}
	closeFd(&s.fd)
}

type progress int

const (
	waiting progress = iota // for output
	more                    // there may be more at once
	blocked                 // by a slow reader
	little                  // done, and it was not much
	over                    // the stream has ended, and all who asked know
)

// pump moves output until there is none, a reader blocks, or the quantum is used up; then it arranges to be called
// again. The caller holds p.mu.
func (p *process) pump(final bool) {
	if p.paused || p.gone {
		return
	}
	w := p.srv.workspace()
	defer p.srv.release(w)
	state := [2]progress{more, more}
	for i, s := range p.streams {
		if s == nil {
			state[i] = over
		}
	}
	turns := quantum
	if final {
		turns *= 8
	}
	for again := true; again && turns > 0; turns-- {
		again = false
		for i, s := range p.streams {
			if state[i] == more {
				if state[i] = s.step(w); state[i] == little && final {
					state[i] = more
				}
				again = again || state[i] == more
			}
		}
		// A reader takes one frame at a time: the other stream may have been waiting for the end of this one's.
		for i := range p.streams {
			if state[i] == blocked && p.unblocked(i) {
				state[i] = more
				again = true
			}
		}
	}
	for i, s := range p.streams {
		if s == nil || s.poll == nil {
			continue
		}
		switch {
		case state[i] == blocked || state[i] == over:
		case s.hung:
			p.srv.later(s.poll, hangupDelay)
		case state[i] == little && len(p.clients) == 0:
			p.srv.later(s.poll, lazyDelay)
		default:
			p.srv.poll.arm(s.poll, unix.EPOLLIN)
		}
	}
	for _, c := range p.clients {
		c.arm()
	}
	if p.lingering && len(p.clients) == 0 {
		p.close()
	}
}

// unblocked tells whether no reader stands in the way of stream i any more.
func (p *process) unblocked(i int) bool {
	for _, c := range p.clients {
		if c.full || c.frame != 0 && c.frame != i+1 && c.want[i] {
			return false
		}
	}
	return true
}

// step takes one piece through: look, log, deliver, consume.
func (s *stream) step(w *workspace) progress {
	if s.ended {
		return s.finish()
	}
	p, st := s.p, s.slot
	if p.pty >= 0 && st.phase() == idle {
		s.fill()
	}
	length, side := carried(st.Carry)
	n := 0
	if st.phase() == idle {
		limit := peekSize
		var end bool
		n, end = s.peek(w, length, limit)
		if n == 0 && !end {
			return waiting
		}
		if n == 0 && length == 0 {
			s.ended = true
			return s.finish()
		}
		if !s.record(w, length, side, n) {
			return more // the log was rotated
		}
		n = int(st.Next - st.Consumed)
	} else {
		want := int(st.Next - st.Consumed)
		if s.wanted() {
			if n, _ = s.peek(w, length, want); n < want {
				return waiting // cannot be: what was seen stays in the pipe
			}
		}
		n = want
	}
	if !s.deliver(w.in[length : length+n]) {
		return blocked
	}
	s.consume(w, length, n)
	if n == 0 { // that was the last, unfinished line
		s.ended = true
		return s.finish()
	}
	if n < lazySize {
		return little
	}
	return more
}

// fill moves output of the terminal into the stream's pipe, from where on it is like any other's.
func (s *stream) fill() {
	p := s.p
	for {
		n, err := unix.Splice(p.pty, nil, p.ptyIn, nil, peekSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EINVAL: // Linux 5.10.0 to 5.10.x without splice for ttys: a death between the two loses the piece
			n, err = s.fillByHand()
		}
		s.hung = n == 0 && err == nil || err == unix.EIO
		return
	}
}

func (s *stream) fillByHand() (int64, error) {
	var room [4096]byte
	// Only as much as surely fits: the pipe was empty, or will be asked again.
	if queued, err := unix.IoctlGetInt(s.fd, unix.TIOCINQ); err != nil || queued > 0 {
		return -1, err
	}
	n, err := unix.Read(s.p.pty, room[:])
	if n > 0 {
		unix.Write(s.p.ptyIn, room[:n])
	}
	return int64(n), err
}

// peek copies up to limit bytes of the pipe to w.in[at:] without consuming them. End of file is when there are
// none and nobody holds the other end; or for a terminal, when its process has ended and all have closed it.
func (s *stream) peek(w *workspace, at, limit int) (n int, end bool) {
	for {
		got, err := unix.Tee(s.fd, w.pipe[1], limit, unix.SPLICE_F_NONBLOCK)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return 0, s.p.lingering || s.p.pty >= 0 && s.hung && s.p.info.Exit != nil
		}
		if err != nil || got == 0 {
			return 0, true
		}
		for n < int(got) {
			k, err := unix.Read(w.pipe[0], w.in[at+n:at+int(got)])
			if err == unix.EINTR {
				continue
			}
			if k <= 0 {
				break // cannot be
			}
			n += k
		}
		return n, false
	}
}

// record writes the records of the n bytes at w.in[length:], behind the unfinished line, to the log, and prepares the slot
// for their consumption; n may turn out smaller then. With n 0 it is the end of the stream.
// False: the log had to be rotated first, nothing else was done.
func (s *stream) record(w *workspace, length, side, n int) bool {
	p, st := s.p, s.slot
	st.Next = st.Consumed + uint64(n)
	st.NextPartial, st.NextCarry = st.Partial, st.Carry
	if n > 0 {
		st.First = w.in[length]
		st.Marker = ^st.First
	}
	if p.log == nil {
		st.NextCarry = 0
		st.setPhase(logged)
		return true
	}
	if err := p.log.Ensure(); err != nil {
		p.srv.complain("open log", err) // and again by each write
	}
	if p.log.Room() <= 0 {
		if err := p.log.Rotate(); err != nil {
			p.srv.complain("rotate log", err)
		}
	}
	copy(w.in[:length], p.srv.state.carry(p.slot, s.i, side))
	var partial time.Time
	if st.Partial != 0 {
		partial = time.Unix(0, st.Partial)
	}
	src := w.in[:length+n]
	limit := int(min(p.log.Room(), batchSize))
	if limit <= 0 {
		limit = 1 // it could not be rotated: grow
	}
	b := jsonlog.Encode(w.out, src, streamNames[s.i], p.attrs, time.Now(), partial, n == 0, limit)
	w.out = b.Records[:0]
	st.NextPartial = 0
	if !b.Partial.IsZero() {
		st.NextPartial = b.Partial.UnixNano()
	}
	rest := src[b.Used:]
	if len(rest) >= carrySize || len(b.Records) >= limit {
		// It stopped at a record's end: what is behind that stays in the pipe. (A record uses up the unfinished line.)
		st.Next = st.Consumed + uint64(b.Used-length)
		rest = nil
	}
	st.NextCarry = 0
	if len(rest) > 0 {
		other := 1 - side
		copy(p.srv.state.carry(p.slot, s.i, other), rest)
		st.NextCarry = uint32(len(rest)) | uint32(other)<<31
		st.Used = 2
	}
	if len(b.Records) > 0 {
		ino, size := p.log.Position()
		st.LogInode, st.LogSize = ino, uint64(size)
		st.setPhase(logging)
		if err := p.log.Write(b.Records); err != nil {
			p.srv.complain("write log", err) // as Docker does: the output is lost, the process goes on
		}
	}
	st.setPhase(logged)
	return true
}

// wanted tells whether a reader has not got all of the piece.
func (s *stream) wanted() bool {
	for _, c := range s.p.clients {
		if c.want[s.i] && c.next[s.i] < s.slot.Next {
			return true
		}
	}
	return false
}

// deliver gives the piece to the readers that want it; false if one is not ready for it.
func (s *stream) deliver(data []byte) bool {
	ok := true
	for _, c := range append([]*client(nil), s.p.clients...) {
		if c.want[s.i] && !c.send(s.i, s.slot.Consumed, data) {
			ok = false
		}
	}
	return ok
}

// consume takes the piece of n bytes, delivered now, out of the pipe; see slot for the order.
func (s *stream) consume(w *workspace, length, n int) {
	st := s.slot
	if n > 0 {
		marker := s.p.srv.state.marker(s.p.slot, s.i)
		iov := [][]byte{marker, w.in[length+1 : length+n]}
		if n == 1 {
			iov = iov[:1]
		}
		for done := 0; done < n; {
			k, err := unix.Readv(s.fd, iov)
			if err == unix.EINTR {
				continue
			}
			if k <= 0 {
				break // cannot be
			}
			if done += k; done < n {
				iov = [][]byte{w.in[length+done : length+n]}
			}
		}
	}
	st.commit()
}

// recover brings the slot of an adopted stream to phase idle or logged, whatever its supervisor was killed in.
func (s *stream) recover() {
	st := s.slot
	switch st.phase() {
	case logging:
		if s.p.log != nil {
			err := s.p.log.Ensure()
			if err == nil {
				err = s.p.log.Rewind(st.LogInode, int64(st.LogSize))
			}
			if err != nil {
				s.p.srv.complain("rewind log", err)
			}
		}
		st.setPhase(idle)
	case logged:
		if st.Next == st.Consumed || st.Marker == st.First {
			st.commit()
		}
	}
}

// finish tells the readers the end of the stream.
func (s *stream) finish() progress {
	ok := true
	for _, c := range append([]*client(nil), s.p.clients...) {
		if c.want[s.i] && !c.end(s.i, s.slot.Consumed) {
			ok = false
		}
	}
	if s.poll != nil {
		s.p.srv.poll.remove(s.poll)
		s.poll = nil
	}
	if !ok {
		return blocked
	}
	return over
}

// offset is what a reader that comes now gets first.
func (s *stream) offset() uint64 {
	if s.slot.phase() == logged {
		return s.slot.Next
	}
	return s.slot.Consumed
}
