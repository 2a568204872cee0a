package registry

import (
	"hash/maphash"
	"sync"
)

// nameLocks are locks by name, each for as long as somebody has it or waits for it. They are exact: with locks shared
// by accident, one who holds two could wait for itself.
type nameLocks struct {
	shards [64]struct {
		sync.Mutex
		held map[string]*nameLock
	}
}

type nameLock struct {
	sync.Mutex
	users int
}

var nameSeed = maphash.MakeSeed()

func (l *nameLocks) lock(name string) (unlock func()) {
	s := &l.shards[maphash.String(nameSeed, name)%uint64(len(l.shards))]
	s.Lock()
	if s.held == nil {
		s.held = map[string]*nameLock{}
	}
	n := s.held[name]
	if n == nil {
		n = &nameLock{}
		s.held[name] = n
	}
	n.users++
	s.Unlock()
	n.Lock()
	return func() {
		n.Unlock()
		s.Lock()
		if n.users--; n.users == 0 {
			delete(s.held, name)
		}
		s.Unlock()
	}
}
