package dns

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"
)

// Bounds of the cache: of all containers together, and of how long an answer is believed whatever it says itself.
const (
	maxEntries  = 1000
	maxCached   = 512 << 10 // bytes
	maxMessage  = 4096
	maxPositive = time.Hour
	maxNegative = 5 * time.Minute
)

// cache holds what name servers answered, for as long as they said that it holds.
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[string]*cached
	size    int
}

type cached struct {
	msg    []byte
	ttls   []int
	stored time.Time
	until  time.Time
}

// key is what two queries have in common that may have one answer; "" for one whose answer is for it alone.
func key(m []byte, q Question, upstream string) string {
	o := optOf(m, q)
	if o.options {
		return ""
	}
	// Records that are not looked at may ask for something else, too.
	others := binary.BigEndian.Uint16(m[6:]) | binary.BigEndian.Uint16(m[8:])
	if more := binary.BigEndian.Uint16(m[10:]); others != 0 || more > 1 || (more == 1) != o.present {
		return ""
	}
	var flags [4]byte
	flags[0], flags[1] = m[2]&0x01, m[3]&0x30 // RD, AD, CD
	if o.present {
		flags[2] = 1
	}
	if o.dnssec {
		flags[3] = 1
	}
	var b strings.Builder
	b.Grow(len(upstream) + len(q.name) + 10)
	b.Write(flags[:])
	b.Write(m[q.end-4 : q.end]) // type and class
	b.WriteString(upstream)
	b.WriteByte(' ')
	b.WriteString(q.name)
	return b.String()
}

// get returns an answer to query m, made its own, or nil.
func (c *cache) get(k string, m []byte, q Question) []byte {
	if k == "" {
		return nil
	}
	c.mu.Lock()
	e := c.entries[k]
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	now := c.now()
	if !now.Before(e.until) {
		c.mu.Lock()
		c.drop(k)
		c.mu.Unlock()
		return nil
	}
	out := append([]byte(nil), e.msg...)
	copy(out[:2], m[:2])
	copy(out[headerLen:q.end], m[headerLen:q.end]) // capitals as they were asked
	age := uint32(now.Sub(e.stored) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(out[at:])
		binary.BigEndian.PutUint32(out[at:], ttl-min(ttl, age))
	}
	return out
}

// put keeps an answer, if it may be kept.
func (c *cache) put(k string, out []byte, q Question) {
	if k == "" || len(out) > maxMessage || out[2]&0x02 != 0 {
		return // or cut off
	}
	r, err := scan(out, q)
	if err != nil {
		return
	}
	var hold time.Duration
	switch code := out[3] & 15; {
	case code == noError && r.answers > 0 && len(r.ttls) > 0:
		hold = min(time.Duration(r.least)*time.Second, maxPositive)
	case code == noError || code == nxDomain:
		hold = min(time.Duration(r.negative)*time.Second, maxNegative)
	}
	if hold <= 0 {
		return
	}
	now := c.now()
	e := &cached{append([]byte(nil), out...), r.ttls, now, now.Add(hold)}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(k)
	if c.entries == nil {
		c.entries = make(map[string]*cached)
	}
	c.entries[k] = e
	c.size += len(k) + len(e.msg)
	for old := range c.entries { // any: which one hardly matters
		if len(c.entries) <= maxEntries && c.size <= maxCached {
			break
		}
		if old != k {
			c.drop(old)
		}
	}
}

// drop forgets an entry. c.mu is held.
func (c *cache) drop(k string) {
	if e := c.entries[k]; e != nil {
		c.size -= len(k) + len(e.msg)
		delete(c.entries, k)
	}
}
