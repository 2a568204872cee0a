package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/events"
)

func next(t *testing.T, s *Subscription) api.Message {
	t.Helper()
	m, err := s.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMessagesAreStamped(t *testing.T) {
	t.Parallel()
	b := New()
	s := b.Subscribe(time.Time{}, time.Time{}, nil)
	defer s.Close()
	b.Container("start", "abc", map[string]string{"name": "x"})
	b.Image("tag", "sha256:1", "debian:12", map[string]string{"l": "v"})
	b.Daemon("reload", "id", nil)
	m := next(t, s)
	if m.Type != "container" || m.Action != "start" || m.Actor.ID != "abc" || m.Actor.Attributes["name"] != "x" || m.Scope != "local" {
		t.Errorf("got %+v", m)
	}
	if m.Time == 0 || m.TimeNano/1e9 != m.Time {
		t.Errorf("times %d and %d", m.Time, m.TimeNano)
	}
	n := next(t, s)
	if n.Type != "image" || n.Actor.Attributes["name"] != "debian:12" || n.Actor.Attributes["l"] != "v" || n.TimeNano <= m.TimeNano {
		t.Errorf("got %+v after %+v", n, m)
	}
	if d := next(t, s); d.Type != "daemon" {
		t.Errorf("got %+v", d)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	b := New()
	for i := range 5 {
		b.Publish(api.Message{Type: "container", Action: api.Action(fmt.Sprint(i)), TimeNano: int64(i+1) * 1e9})
	}
	actions := func(since, until time.Time) (out string) {
		s := b.Subscribe(since, until, nil)
		defer s.Close()
		for {
			m, err := s.Next(t.Context())
			if err == io.EOF {
				return out
			}
			if err != nil {
				t.Fatal(err)
			}
			out += string(m.Action)
		}
	}
	at := func(sec int64) time.Time { return time.Unix(sec, 0) }
	for _, c := range []struct {
		since, until time.Time
		want         string
	}{
		{at(2), at(4), "123"},
		{at(5), at(100), "4"},
		{time.Time{}, at(2), "01"},
		{at(6), at(100), ""},
	} {
		if got := actions(c.since, c.until); got != c.want {
			t.Errorf("from %v to %v: %q, want %q", c.since, c.until, got, c.want)
		}
	}

	// Remembered ones come before live ones, once each.
	s := b.Subscribe(at(4), time.Time{}, nil)
	defer s.Close()
	b.Container("live", "x", nil)
	for _, want := range []api.Action{"3", "4", "live"} {
		if m := next(t, s); m.Action != want {
			t.Errorf("got %q, want %q", m.Action, want)
		}
	}
}

func TestOldestAreForgotten(t *testing.T) {
	t.Parallel()
	b := New()
	for i := range Keep + 10 {
		b.Container(fmt.Sprint(i), "x", nil)
	}
	s := b.Subscribe(time.Unix(1, 0), time.Now(), nil)
	for i := range Keep {
		if m := next(t, s); string(m.Action) != fmt.Sprint(i+10) {
			t.Fatalf("message %d is %q", i, m.Action)
		}
	}
	if _, err := s.Next(t.Context()); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

func TestUntilInTheFutureEnds(t *testing.T) {
	t.Parallel()
	b := New()
	s := b.Subscribe(time.Time{}, time.Now().Add(time.Millisecond), nil)
	if _, err := s.Next(t.Context()); err != io.EOF {
		t.Errorf("got %v", err)
	}
	s.Close()
	if n := b.Listeners(); n != 0 {
		t.Errorf("%d listeners left", n)
	}
}

func TestSlowReaderIsCutOffAndDelaysNobody(t *testing.T) {
	t.Parallel()
	b := New()
	slow := b.Subscribe(time.Time{}, time.Time{}, nil)
	quick := b.Subscribe(time.Time{}, time.Time{}, nil)
	defer quick.Close()
	for range queue + 5 { // would deadlock if a publisher waited
		b.Container("x", "y", nil)
		next(t, quick)
	}
	for range queue {
		next(t, slow)
	}
	if _, err := slow.Next(t.Context()); !errors.Is(err, ErrTooSlow) {
		t.Errorf("got %v", err)
	}
	if b.Listeners() != 1 {
		t.Errorf("%d listeners, want 1", b.Listeners())
	}
	slow.Close() // twice is no harm
	slow.Close()
}

func TestCanceledAndClosed(t *testing.T) {
	t.Parallel()
	b := New()
	s := b.Subscribe(time.Time{}, time.Time{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b.Close()
	if _, err := s.Next(t.Context()); err != io.EOF {
		t.Errorf("after Close: %v", err)
	}
	if _, err := b.Subscribe(time.Time{}, time.Time{}, nil).Next(t.Context()); err != io.EOF {
		t.Errorf("subscribed after Close: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	b := New()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				b.Container("a", "b", nil)
			}
		})
		wg.Go(func() {
			for range 50 {
				s := b.Subscribe(time.Unix(1, 0), time.Time{}, nil)
				last := int64(0)
				for !s.Waiting() {
					m, err := s.Next(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					if m.TimeNano <= last {
						t.Errorf("out of order: %d after %d", m.TimeNano, last)
					}
					last = m.TimeNano
				}
				s.Close()
			}
		})
	}
	wg.Wait()
}

func TestFilter(t *testing.T) {
	t.Parallel()
	start := api.Message{Type: "container", Action: "start", Scope: "local", Actor: api.Actor{ID: "abcdef", Attributes: map[string]string{
		"name": "web", "image": "docker.io/library/nginx:1.27", "tier": "front", "env": "",
	}}}
	exec := start
	exec.Action = "exec_start: sh -c true"
	img := api.Message{Type: "image", Action: "tag", Scope: "local", Actor: api.Actor{ID: "sha256:77", Attributes: map[string]string{"name": "debian:12"}}}
	for _, c := range []struct {
		m    *api.Message
		f    Filter
		want bool
	}{
		{&start, nil, true},
		{&start, Filter{"type": {"container"}}, true},
		{&start, Filter{"type": {"image", "container"}}, true},
		{&start, Filter{"type": {"image"}}, false},
		{&start, Filter{"event": {"start"}}, true},
		{&start, Filter{"event": {"sta"}}, false},
		{&exec, Filter{"event": {"exec_start"}}, true},
		{&start, Filter{"event": {"exec_start", "start"}}, true},
		{&start, Filter{"container": {"web"}}, true},
		{&start, Filter{"container": {"abc"}}, true},
		{&start, Filter{"container": {"eb"}}, false},
		{&img, Filter{"container": {"web"}}, false},
		{&start, Filter{"image": {"nginx"}}, true},
		{&start, Filter{"image": {"docker.io/library/nginx:1.27"}}, true},
		{&start, Filter{"image": {"ngin"}}, false},
		{&img, Filter{"image": {"debian"}}, true},
		{&img, Filter{"image": {"sha256:77"}}, true},
		{&start, Filter{"label": {"tier"}}, true},
		{&start, Filter{"label": {"tier=front"}}, true},
		{&start, Filter{"label": {"env="}}, true},
		{&start, Filter{"label": {"tier=front", "nosuch"}}, false},
		{&img, Filter{"label": {"x"}}, false},
		{&start, Filter{"scope": {"local"}}, true},
		{&start, Filter{"scope": {"swarm"}}, false},
		{&start, Filter{"network": {"bridge"}}, false},
		{&start, Filter{"type": {"container"}, "event": {"stop"}}, false},
		{&start, Filter{"nosuch": {"x"}}, true},
		{&start, Filter{"type": {}}, true},
	} {
		if got := c.f.Match(c.m); got != c.want {
			t.Errorf("%v on %s %s: %v", c.f, c.m.Type, c.m.Action, got)
		}
	}
}

func TestRepository(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"debian": "debian", "debian:12": "debian", "debian@sha256:ab": "debian", "docker.io/library/debian:12": "debian",
		"localhost:5000/a/b": "localhost:5000/a/b", "localhost:5000/a/b:c": "localhost:5000/a/b", "": "",
	} {
		if got := repository(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
