package content

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// Lease protects blobs from collection until it is released. It lives in memory only: after a crash nobody
// works on the blobs any more.
type Lease struct {
	s    *Store
	mu   sync.Mutex
	held map[digest.Digest]struct{} // nil after Release
}

// Lease returns a new lease that holds nothing.
func (s *Store) Lease() *Lease { return &Lease{s: s, held: map[digest.Digest]struct{}{}} }

// Hold adds blobs, whether they are there yet or not. Hold first and look afterwards: what is there then stays.
func (l *Lease) Hold(digests ...digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		panic("content: Hold on a released lease")
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, d := range digests {
		if _, ok := l.held[d]; ok {
			continue
		}
		l.held[d] = struct{}{}
		l.s.held[d]++
		if l.s.touched != nil {
			l.s.touched[d] = struct{}{}
		}
	}
}

// Release ends the protection. It may be called twice.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for d := range l.held {
		if l.s.held[d]--; l.s.held[d] == 0 {
			delete(l.s.held, d)
		}
	}
	l.held = nil
}
