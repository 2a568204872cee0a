package registry

import (
	"hash/maphash"
	"sync"
)

// stripes are locks by name: two names share one only by accident.
type stripes [64]sync.Mutex

var stripeSeed = maphash.MakeSeed()

func (s *stripes) lock(name string) (unlock func()) {
	m := &s[maphash.String(stripeSeed, name)%uint64(len(s))]
	m.Lock()
	return m.Unlock
}
