// Package events carries what happens in the engine to whoever listens: GET /events, and later the
// dashboard.
//
// A service publishes; the Bus stamps the message, keeps it among the last Keep ones (for `events --since`)
// and hands it to every subscription whose filter lets it pass. A publisher never waits: each subscription
// has a queue of its own, and one that does not keep up is cut off with ErrTooSlow rather than slowing
// the engine or losing messages without a word.
package events

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
)

// Keep is how many messages are remembered. Docker keeps 256; a busy host fills that in seconds.
const Keep = 1024

// queue is how many messages a subscription may lag behind.
const queue = 1024

// ErrTooSlow ends a subscription whose reader did not keep up.
var ErrTooSlow = errors.New("event stream cut off: the reader is too slow")

// Bus is the one place that all messages pass. The zero value is not usable; New makes one.
type Bus struct {
	mu     sync.Mutex
	past   [Keep]api.Message
	next   int // index of the slot that the next message takes
	filled bool
	last   int64 // TimeNano of the newest message
	subs   map[*Subscription]struct{}
	closed bool
}

// New returns an empty bus.
func New() *Bus { return &Bus{subs: make(map[*Subscription]struct{})} }

// Publish stamps m with the time (unless it has one) and the scope "local" (likewise), and hands it on.
// The attributes must not be changed afterwards.
func (b *Bus) Publish(m api.Message) {
	if m.Scope == "" {
		m.Scope = "local"
	}
	if m.Actor.Attributes == nil {
		m.Actor.Attributes = map[string]string{} // clients range over it; Docker never sends null
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.TimeNano == 0 {
		// Taken under the lock and never twice the same: a reader that resumes with --since the last
		// time it saw must neither miss nor reorder.
		m.TimeNano = max(time.Now().UnixNano(), b.last+1)
	}
	m.Time = m.TimeNano / int64(time.Second)
	b.last = max(b.last, m.TimeNano)
	b.past[b.next] = m
	if b.next++; b.next == Keep {
		b.next, b.filled = 0, true
	}
	for s := range b.subs {
		if !s.filter.Match(&m) {
			continue
		}
		select {
		case s.live <- m:
		default:
			s.end(ErrTooSlow)
		}
	}
}

// Container publishes what happened to a container. attrs should hold "name", "image" and its labels.
func (b *Bus) Container(action, id string, attrs map[string]string) {
	b.publish(api.ContainerEventType, action, id, attrs)
}

// Image publishes what happened to an image. name is what Docker says in the attribute "name", a reference or an
// ID; the labels become attributes too.
func (b *Bus) Image(action string, id digest.Digest, name string, labels map[string]string) {
	attrs := make(map[string]string, len(labels)+1)
	maps.Copy(attrs, labels)
	attrs["name"] = name
	b.publish(api.ImageEventType, action, id.String(), attrs)
}

// Network publishes what happened to a network. attrs should hold "name" and "type".
func (b *Bus) Network(action, id string, attrs map[string]string) {
	b.publish(api.NetworkEventType, action, id, attrs)
}

// Volume publishes what happened to a volume. attrs should hold "driver".
func (b *Bus) Volume(action, name string, attrs map[string]string) {
	b.publish(api.VolumeEventType, action, name, attrs)
}

// Daemon publishes what happened to the engine.
func (b *Bus) Daemon(action, id string, attrs map[string]string) {
	b.publish(api.DaemonEventType, action, id, attrs)
}

func (b *Bus) publish(t api.Type, action, id string, attrs map[string]string) {
	b.Publish(api.Message{Type: t, Action: api.Action(action), Actor: api.Actor{ID: id, Attributes: attrs}})
}

// Subscribe returns a subscription to what passes filter. With since or until set, remembered messages in
// [since, until] come first; what is published afterwards follows without gap or repetition. With until in
// the past there are only remembered ones; with until in the future the subscription ends then.
// The caller must Close it.
func (b *Bus) Subscribe(since, until time.Time, filter Filter) *Subscription {
	s := &Subscription{bus: b, filter: filter, until: until, live: make(chan api.Message, queue)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !since.IsZero() || !until.IsZero() {
		s.backlog = b.remembered(since, until, filter)
	}
	if b.closed || !until.IsZero() && !until.After(time.Now()) {
		close(s.live)
		s.err = io.EOF
		return s
	}
	b.subs[s] = struct{}{}
	return s
}

// Close ends all subscriptions with io.EOF, and those to come after what is remembered.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for s := range b.subs {
		s.end(io.EOF)
	}
}

// Listeners returns the number of subscriptions now, for /info.
func (b *Bus) Listeners() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs)
}

// remembered returns kept messages in [since, until], oldest first. b.mu is held.
func (b *Bus) remembered(since, until time.Time, filter Filter) []api.Message {
	from, to := int64(0), int64(1<<63-1)
	if !since.IsZero() {
		from = since.UnixNano()
	}
	if !until.IsZero() {
		to = until.UnixNano()
	}
	var out []api.Message
	start, n := 0, b.next
	if b.filled {
		start, n = b.next, Keep
	}
	for i := range n {
		m := &b.past[(start+i)%Keep]
		if m.TimeNano >= from && m.TimeNano <= to && filter.Match(m) {
			out = append(out, *m)
		}
	}
	return out
}

// Subscription hands out messages to one reader.
type Subscription struct {
	bus     *Bus
	filter  Filter
	until   time.Time
	backlog []api.Message
	live    chan api.Message
	err     error // why live is closed; guarded by bus.mu until live is closed
}

// Next waits for the next message. It returns io.EOF at the subscription's end, ErrTooSlow when the reader
// has been cut off (after what was queued until then), or ctx's error.
func (s *Subscription) Next(ctx context.Context) (api.Message, error) {
	if len(s.backlog) > 0 {
		m := s.backlog[0]
		s.backlog = s.backlog[1:]
		return m, nil
	}
	// What is already queued comes before the deadline: an event inside [since, until] is never dropped.
	select {
	case m, ok := <-s.live:
		return s.got(m, ok)
	default:
	}
	var timeout <-chan time.Time
	if !s.until.IsZero() {
		t := time.NewTimer(time.Until(s.until))
		defer t.Stop()
		timeout = t.C
	}
	select {
	case m, ok := <-s.live:
		return s.got(m, ok)
	case <-timeout:
		return api.Message{}, io.EOF
	case <-ctx.Done():
		return api.Message{}, ctx.Err()
	}
}

// Waiting reports whether Next would have to wait; a writer flushes then.
func (s *Subscription) Waiting() bool { return len(s.backlog) == 0 && len(s.live) == 0 }

func (s *Subscription) got(m api.Message, ok bool) (api.Message, error) {
	if !ok {
		return api.Message{}, s.err
	}
	if !s.until.IsZero() && m.TimeNano > s.until.UnixNano() {
		return api.Message{}, io.EOF
	}
	return m, nil
}

// Close ends the subscription. It may be called twice.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	s.end(io.EOF)
}

// end closes the live queue once. s.bus.mu is held.
func (s *Subscription) end(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	delete(s.bus.subs, s)
	close(s.live)
}
