package container

import (
	"context"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
	"gantry/internal/state"
)

// container is one container. Its goroutine runs what is sent to inbox, one after the other, and alone
// touches the fields below "owned". Whoever only wants to know reads snap.
type container struct {
	s   *Service
	id  string
	dir string

	inbox chan func()
	done  chan struct{} // closed when nothing is taken from inbox any more
	once  sync.Once

	snap atomic.Pointer[Snapshot]

	mu       sync.Mutex
	waiters  []*waiter
	gone     bool // removed: nobody may wait or attach any more
	attached map[*attachment]struct{}
	execs    []string // of those that run

	// Owned by the goroutine.
	now      Snapshot // becomes the next snap
	manual   bool     // a user stopped it: the restart policy leaves it so
	stop     *stopping
	remove   *removal // asked for while it runs: goes on when it has ended
	restart  bool     // a restart by a user is under way: AutoRemove must not come between
	backoff  time.Duration
	timer    *time.Timer
	timerGen int
	over     bool  // removed: the goroutine ends
	lastLive *live // of a run that ended, still on the exec-root
	left     *live // of a run that ended, whose cgroup is left to the removal that is due
	// behind is what the supervisor is still asked concerning this run or the last. The next launch waits for it, for its
	// process bears the same name.
	behind sync.WaitGroup
}

func (s *Service) newContainer(now Snapshot) *container {
	c := &container{s: s, id: now.ID, dir: filepath.Join(s.Root, now.ID), inbox: make(chan func(), 4), done: make(chan struct{}),
		attached: map[*attachment]struct{}{}, now: now}
	c.now.Dir = c.dir
	if now.HostConfig.LogConfig.Type == "json-file" {
		c.now.LogPath = filepath.Join(c.dir, c.id+"-json.log")
	}
	if len(now.Links) > 0 {
		s.links.Store(true)
	}
	c.publish()
	go c.loop()
	return c
}

func (c *container) loop() {
	for {
		select {
		case f := <-c.inbox:
			f()
			if c.over { // not before f has answered who waits for it
				c.quit()
			}
		case <-c.done:
			return
		}
	}
}

// quit ends the goroutine; what is still asked is answered with "No such container".
func (c *container) quit() { c.once.Do(func() { close(c.done) }) }

// post has f run by the goroutine some time. It must not be called by the goroutine itself.
func (c *container) post(f func()) {
	select {
	case c.inbox <- f:
	case <-c.done:
	}
}

// do has f run by the goroutine and returns its result. f is carried out even when ctx ends meanwhile:
// a start that was begun is not left halfway because a client went away.
func (c *container) do(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case c.inbox <- func() { result <- f() }:
	case <-c.done:
		return errNoSuch(c.id)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-result:
		return err
	case <-c.done:
		// Both may be ready: f may be what ended it.
		select {
		case err := <-result:
			return err
		default:
			return errNoSuch(c.id)
		}
	}
}

func (c *container) get() Snapshot {
	snap := *c.snap.Load()
	c.mu.Lock()
	snap.Execs = slices.Clone(c.execs)
	c.mu.Unlock()
	return snap
}

// publish makes now what readers see.
func (c *container) publish() {
	snap := c.now
	c.snap.Store(&snap)
}

// move takes the status one event further.
func (c *container) move(e Event) error {
	next, err := Next(c.now.Status, e)
	if err == nil {
		c.now.Status = next
	}
	return err
}

// save queues the durable record by queue; what it returns waits until it is on disk.
func (c *container) save(queue func(func(state.Tx) error) func() error) func() error {
	f, err := freeze(newRecord(&c.now, c.manual))
	if err != nil {
		return func() error { return err }
	}
	return queue(func(tx state.Tx) error { return f.update(tx) })
}

// saveBehind is save for what must not keep anyone waiting. then runs in the goroutine once it is on disk.
func (c *container) saveBehind(then func()) { c.saved(c.save(c.s.State.Submit), then) }

// saveLater is saveBehind for what the live facts tell as well: the next daemon does not need it.
func (c *container) saveLater(then func()) { c.saved(c.save(c.s.State.Later), then) }

func (c *container) saved(wait func() error, then func()) {
	c.s.work.Go(func() {
		if err := wait(); err != nil {
			c.s.Log.Error("recording a container's state failed", "container", c.id, "err", err)
			return
		}
		if then != nil {
			c.post(then)
		}
	})
}

// waiter is one Wait.
type waiter struct {
	condition api.WaitCondition
	ch        chan WaitResult
}

// wake answers the waiters that the predicate names. snap is what they learn from.
func (c *container) wake(which func(api.WaitCondition) bool, r WaitResult) {
	c.mu.Lock()
	var stay []*waiter
	for _, w := range c.waiters {
		if which(w.condition) {
			w.ch <- r // has room for it
		} else {
			stay = append(stay, w)
		}
	}
	c.waiters = stay
	c.mu.Unlock()
}

func onStop(w api.WaitCondition) bool { return w != api.WaitConditionRemoved }
func always(api.WaitCondition) bool   { return true }

// Wait returns a channel that gets one result when condition holds: "not-running", "next-exit" or "removed".
// The wait is registered when Wait returns, so that a Start after it cannot be missed.
func (s *Service) Wait(ctx context.Context, ref string, condition api.WaitCondition) (<-chan WaitResult, error) {
	c, err := s.find(ref)
	if err != nil {
		return nil, err
	}
	switch condition {
	case "":
		condition = api.WaitConditionNotRunning
	case api.WaitConditionNotRunning, api.WaitConditionNextExit, api.WaitConditionRemoved:
	default:
		return nil, errs.Invalid.Errorf("invalid condition: %q", condition)
	}
	w := &waiter{condition, make(chan WaitResult, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	// The status is published before the waiters are woken, both after taking mu once: looking here misses nothing.
	if snap := c.snap.Load(); condition == api.WaitConditionNotRunning && !snap.Status.Alive() {
		w.ch <- WaitResult{Code: snap.ExitCode}
		return w.ch, nil
	}
	if c.gone {
		return nil, errNoSuch(ref)
	}
	c.waiters = append(c.waiters, w)
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if i := slices.Index(c.waiters, w); i >= 0 {
			c.waiters = slices.Delete(c.waiters, i, i+1)
			w.ch <- WaitResult{Err: ctx.Err()}
		}
	})
	return w.ch, nil
}

// stopping is a stop under way.
type stopping struct {
	j     *journal
	until time.Time   // zero: never
	timer *time.Timer // kills
	done  []chan error
	event bool // "stop" is told of at the end
}

// Stop sends signal (empty: the container's own) and, after timeout seconds (nil: the container's own; -1:
// never), SIGKILL; errs.NotModified if it does not run.
func (s *Service) Stop(ctx context.Context, ref, signal string, timeout *int) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.stopAndWait(ctx, signal, timeout, false)
}

func (c *container) stopAndWait(ctx context.Context, signal string, timeout *int, restart bool) error {
	var sig supervisor.Signal
	if signal != "" {
		var err error
		if sig, err = ParseSignal(signal); err != nil {
			return err
		}
	}
	result := make(chan error, 1)
	if err := c.do(ctx, func() error {
		if restart {
			c.restart = true
		}
		return c.beginStop(sig, timeout, result)
	}); err != nil {
		return err
	}
	// Like Docker's, a stop goes on when its client leaves.
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stopSignal is what `docker stop` sends.
func stopSignal(c *api.Config) supervisor.Signal {
	if sig, err := ParseSignal(c.StopSignal); err == nil {
		return sig
	}
	return sigTerm
}

// defaultStopTimeout is Docker's, in seconds.
const defaultStopTimeout = 10

// beginStop answers on result when the container has ended.
func (c *container) beginStop(sig supervisor.Signal, timeout *int, result chan error) error {
	switch c.now.Status {
	case Running, Paused:
	case Restarting:
		c.manual = true
		c.cancelRestart()
		c.s.event(&c.now, "stop")
		result <- nil
		return nil
	default:
		return errs.NotModified.Errorf("container is already stopped")
	}
	if sig == 0 {
		sig = stopSignal(c.now.Config)
	}
	seconds := defaultStopTimeout
	if t := c.now.Config.StopTimeout; t != nil {
		seconds = *t
	}
	if timeout != nil {
		seconds = *timeout
	}
	var until time.Time
	if seconds >= 0 {
		until = time.Now().Add(time.Duration(seconds) * time.Second)
	}
	c.manual = true
	if c.stop == nil {
		j, err := begin(c.s.journals(), intent{Op: opStop, ID: c.id, Signal: int(sig), Until: until})
		if err != nil {
			return err
		}
		c.stop = &stopping{j: j}
		if err := j.record("signal"); err != nil {
			j.end()
			c.stop = nil
			return err
		}
	}
	c.stop.event = true
	c.stop.done = append(c.stop.done, result)
	if err := c.signal(sig); err != nil && !errs.Conflict.Is(err) && !errs.NotFound.Is(err) {
		// It cannot be told; what follows, SIGKILL, may still reach it.
		c.s.Log.Warn("stop signal was not delivered", "container", c.id, "signal", int(sig), "err", err)
	}
	c.stop.j.did("signal")
	// A second stop with less patience hurries the first.
	if !until.IsZero() && (c.stop.until.IsZero() || until.Before(c.stop.until)) {
		c.killAt(until)
	}
	return nil
}

// killAt arms the SIGKILL of the stop under way.
func (c *container) killAt(until time.Time) {
	st := c.stop
	st.until = until
	if st.timer != nil {
		st.timer.Stop()
	}
	st.timer = time.AfterFunc(time.Until(until), func() {
		c.post(func() {
			if c.stop != st || (c.now.Status != Running && c.now.Status != Paused) {
				return
			}
			st.j.record("kill")
			if err := c.signal(sigKill); err != nil && !errs.Conflict.Is(err) && !errs.NotFound.Is(err) {
				c.s.Log.Warn("SIGKILL was not delivered", "container", c.id, "err", err)
			}
			st.j.did("kill")
		})
	})
}

// endStop answers those who wait for the stop, when the container has ended.
func (c *container) endStop(err error) {
	st := c.stop
	if st == nil {
		return
	}
	c.stop = nil
	if st.timer != nil {
		st.timer.Stop()
	}
	st.j.record("ended")
	st.j.did("ended")
	st.j.end()
	if st.event && err == nil {
		c.s.event(&c.now, "stop")
	}
	for _, ch := range st.done {
		ch <- err
	}
}

// signal sends sig to the first process and tells of it.
func (c *container) signal(sig supervisor.Signal) error {
	if err := c.s.Processes.Signal(c.id, sig); err != nil {
		return err
	}
	c.s.event(&c.now, "kill", "signal", strconv.Itoa(int(sig)))
	if c.now.Status == Paused { // frozen, it would not even die (cgroup v1): as in Docker, a signal lets it run on
		return c.thaw()
	}
	return nil
}

// Kill sends a signal, by name or number; empty is SIGKILL. errs.Conflict if it does not run.
func (s *Service) Kill(ctx context.Context, ref, signal string) error {
	sig := sigKill
	if signal != "" {
		var err error
		if sig, err = ParseSignal(signal); err != nil {
			return err
		}
	}
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	var ended <-chan WaitResult
	if sig == sigKill {
		// Docker's kill returns when the container has ended, so that `kill` and then `rm` works.
		if ended, err = s.Wait(ctx, c.id, api.WaitConditionNextExit); err != nil {
			return err
		}
	}
	restarting := false
	err = c.do(ctx, func() error {
		switch c.now.Status {
		case Running, Paused:
		case Restarting:
			restarting = true
			if final(sig, c.now.Config) {
				c.manual = true
				c.cancelRestart()
			}
			return nil
		default:
			return errs.Conflict.Errorf("Cannot kill container: %s: Container %s is not running", ref, c.id)
		}
		if final(sig, c.now.Config) {
			c.manual = true
		}
		if err := c.signal(sig); err != nil && !errs.Conflict.Is(err) && !errs.NotFound.Is(err) {
			return errs.KindOf(err).Errorf("Cannot kill container: %s: %w", ref, err)
		}
		return nil
	})
	if err != nil || ended == nil || restarting {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(10 * time.Second):
		return errs.Internal.Errorf("tried to kill container, but did not receive an exit event")
	}
}

// final reports whether who sends sig wants the container to end, so that the restart policy must leave
// it alone: SIGKILL, or what `docker stop` would send.
func final(sig supervisor.Signal, c *api.Config) bool {
	return sig == sigKill || sig == stopSignal(c)
}

// Restart is Stop, if it runs, and Start.
func (s *Service) Restart(ctx context.Context, ref, signal string, timeout *int) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	wrap := func(err error) error {
		return errs.KindOf(err).Errorf("Cannot restart container %s: %w", ref, err)
	}
	defer c.post(func() { c.restart = false })
	if err := c.stopAndWait(ctx, signal, timeout, true); err != nil && !errs.NotModified.Is(err) {
		return wrap(err)
	}
	if err := s.Start(ctx, c.id); err != nil && !errs.NotModified.Is(err) {
		return wrap(err)
	}
	c.s.event(c.snap.Load(), "restart")
	return nil
}

// process names the container's first process.
func (c *container) process() (spec.Process, error) {
	l := c.snap.Load()
	if l.Status != Running && l.Status != Paused {
		return spec.Process{}, errNotRunning(c.id)
	}
	return spec.Process{Pid: l.Pid, StartTime: l.live.StartTime}, nil
}

func errNotRunning(id string) error { return errs.Conflict.Errorf("Container %s is not running", id) }
