package layer

import (
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
)

// aside hashes what is written to it in a goroutine of its own: hashing then costs the one who packs or unpacks one copy
// instead of its whole time.
type aside struct {
	hash   hash.Hash
	n      int64 // bytes written
	full   chan []byte
	free   chan []byte
	cur    []byte
	done   chan struct{}
	closed bool
}

const asideChunk = 256 << 10

func hashAside(h hash.Hash) *aside {
	a := &aside{hash: h, full: make(chan []byte, 4), free: make(chan []byte, 6), done: make(chan struct{})}
	for range cap(a.free) {
		a.free <- make([]byte, 0, asideChunk)
	}
	go func() {
		defer close(a.done)
		for b := range a.full {
			a.hash.Write(b)
			a.free <- b[:0]
		}
	}()
	return a
}

// Write gathers until a chunk is full: a tar reader's reads are small, and so are a tar writer's writes.
func (a *aside) Write(p []byte) (int, error) {
	a.n += int64(len(p))
	for rest := p; len(rest) > 0; {
		if a.cur == nil {
			a.cur = <-a.free
		}
		m := min(len(rest), cap(a.cur)-len(a.cur))
		a.cur = append(a.cur, rest[:m]...)
		rest = rest[m:]
		if len(a.cur) == cap(a.cur) {
			a.full <- a.cur
			a.cur = nil
		}
	}
	return len(p), nil
}

// close returns when all is hashed. It may be called twice.
func (a *aside) close() {
	if a.closed {
		return
	}
	a.closed = true
	if len(a.cur) > 0 {
		a.full <- a.cur
	}
	close(a.full)
	<-a.done
}

// verifier hands on what it reads and computes its digest aside.
type verifier struct {
	io.Reader
	aside     *aside
	algorithm digest.Algorithm
}

func verify(r io.Reader, expected digest.Digest) *verifier {
	a := hashAside(expected.Algorithm().Hash())
	return &verifier{io.TeeReader(r, a), a, expected.Algorithm()}
}

// sum ends the verification and returns the digest of all that was read.
func (v *verifier) sum() digest.Digest {
	v.close()
	return digest.NewDigest(v.algorithm, v.aside.hash)
}

func (v *verifier) close() { v.aside.close() }
