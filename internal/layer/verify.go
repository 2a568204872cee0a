package layer

import (
	"io"

	"github.com/opencontainers/go-digest"
)

// verifier hands on what it reads and computes its digest beside, in a goroutine: hashing then costs the
// one who unpacks one copy instead of its whole time.
type verifier struct {
	r        io.Reader
	digester digest.Digester
	full     chan []byte
	free     chan []byte
	cur      []byte
	done     chan struct{}
	closed   bool
}

const verifyChunk = 256 << 10

func verify(r io.Reader, expected digest.Digest) *verifier {
	v := &verifier{
		r: r, digester: expected.Algorithm().Digester(),
		full: make(chan []byte, 4), free: make(chan []byte, 6), done: make(chan struct{}),
	}
	for range cap(v.free) {
		v.free <- make([]byte, 0, verifyChunk)
	}
	h := v.digester.Hash()
	go func() {
		defer close(v.done)
		for b := range v.full {
			h.Write(b)
			v.free <- b[:0]
		}
	}()
	return v
}

// Read gathers what it read until a chunk is full: the tar reader's reads are small.
func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		if v.cur == nil {
			v.cur = <-v.free
		}
		m := min(len(rest), cap(v.cur)-len(v.cur))
		v.cur = append(v.cur, rest[:m]...)
		rest = rest[m:]
		if len(v.cur) == cap(v.cur) {
			v.full <- v.cur
			v.cur = nil
		}
	}
	return n, err
}

// sum ends the verification and returns the digest of all that was read.
func (v *verifier) sum() digest.Digest {
	v.close()
	return v.digester.Digest()
}

func (v *verifier) close() {
	if v.closed {
		return
	}
	v.closed = true
	if len(v.cur) > 0 {
		v.full <- v.cur
	}
	close(v.full)
	<-v.done
}
