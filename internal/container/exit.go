package container

import (
	"context"
	"strconv"
	"time"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

// Docker's back-off between restarts by the policy: it doubles, and begins anew after a run of some length.
const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Minute
	longRun      = 10 * time.Second
)

// nextBackoff returns how long to wait before the next restart, when the container ran for ran and the wait before
// was last (0: none).
func nextBackoff(last, ran time.Duration) time.Duration {
	if last == 0 || ran >= longRun {
		return firstBackoff
	}
	return min(2*last, maxBackoff)
}

// restarts reports whether the policy starts again a container that ended with code after count restarts.
func restarts(p api.RestartPolicy, code, count int, manual bool) bool {
	switch {
	case p.IsAlways(), p.IsUnlessStopped():
		return !manual
	case p.IsOnFailure():
		return !manual && code != 0 && (p.MaximumRetryCount == 0 || count < p.MaximumRetryCount)
	}
	return false
}

// ended takes in the end of the container's first process. It may be told twice, by the supervisor's successor.
func (c *container) ended(e supervisor.Exit) {
	s, l := c.s, c.now.live
	if (c.now.Status != Running && c.now.Status != Paused) || l == nil {
		s.forget(c.id) // of a start that was undone, or told again
		return
	}
	if !l.endedBy(&e) {
		return // of the run before this one, told again: the supervisor names runs of a container alike
	}
	c.behind.Wait() // who came before the start gets all of the output, however short the run was
	ran := c.settle(e, c.oomKilled())
	// First to the exec-root: a crash repeats what follows, and who is told of the end now must not find it undone.
	kept := *l
	kept.Exit, kept.OOM, kept.Manual = &e, c.now.OOMKilled, c.manual
	err := s.writeLive(c.id, &kept)
	s.leave(c.id) // first: who hears of the end may want the port
	s.unmounted(c.id)
	c.announce(ran)
	if err != nil {
		s.Log.Error("recording the end of a container failed", "container", c.id, "err", err)
	} else {
		c.asking(func() { s.forget(c.id) })
	}
	if c.goes() && c.now.HostConfig.PidMode == "" {
		// The removal's client waits: the cgroup, in which nothing lives (all of a PID namespace is dead when its first
		// process is), follows the reply; and a record that is deleted next need not tell of the end.
		c.left = &kept
	} else {
		c.saveEnd(&kept)
		s.removeCgroup(c.id, s.cgroupParent(&c.now), l.Cgroup.Dirs)
	}
	c.after()
}

// endedBy reports whether the exit is this run's. Times alone do not tell: the clock may have been set back since the
// start, and a container whose end was not believed would be running for ever.
func (l *live) endedBy(e *supervisor.Exit) bool {
	if e.StartTime != 0 && l.StartTime != 0 {
		return e.Pid == l.Pid && e.StartTime == l.StartTime
	}
	return !e.At.Before(l.Started)
}

// asking has f run beside the container's goroutine; see behind.
func (c *container) asking(f func()) {
	c.behind.Add(1)
	c.s.work.Go(func() {
		defer c.behind.Done()
		f()
	})
}

// goes reports whether the end that was settled is followed by the removal.
func (c *container) goes() bool {
	return c.remove != nil || c.now.Status != Restarting && c.now.HostConfig.AutoRemove && !c.restart
}

// saveEnd puts the record on disk behind, and drops the live facts then, unless there are newer ones.
func (c *container) saveEnd(of *live) {
	c.lastLive = of
	c.saveLater(func() {
		if c.lastLive == of {
			c.s.dropLive(c.id)
			c.lastLive = nil
		}
	})
}

// settle works out what the end makes of the container; nobody sees it yet. It returns how long the process ran.
func (c *container) settle(e supervisor.Exit, oom bool) time.Duration {
	ran := e.At.Sub(c.now.StartedAt)
	c.now.ExitCode, c.now.FinishedAt, c.now.OOMKilled = e.Code, e.At.UTC(), oom
	if e.Unknown {
		c.now.ExitCode = 255
		c.now.Error = "exit code unknown: both the engine and the supervisor that held the process were gone when it ended"
	}
	c.now.Pid, c.now.live = 0, nil
	c.connected(nil)
	event := Ended
	if !c.restart && c.remove == nil && restarts(c.now.HostConfig.RestartPolicy, c.now.ExitCode, c.now.RestartCount, c.manual) {
		event = EndedAgain
		c.backoff = nextBackoff(c.backoff, ran)
		c.now.RestartCount++
	}
	c.move(event)
	return ran
}

// announce makes the end known: status, waiters, events.
func (c *container) announce(ran time.Duration) {
	c.publish()
	if c.now.OOMKilled {
		c.s.event(&c.now, "oom")
	}
	c.s.event(&c.now, "die", "exitCode", strconv.Itoa(c.now.ExitCode), "execDuration", strconv.Itoa(max(0, int(ran.Seconds()))))
	c.wake(onStop, WaitResult{Code: c.now.ExitCode})
	c.endStop(nil)
	c.endAttached()
	c.endExecs()
}

// after goes on with what the end sets off: a restart, or the removal.
func (c *container) after() {
	switch {
	case c.goes():
		c.autoRemove()
	case c.now.Status == Restarting:
		c.armRestart()
	}
}

// armRestart starts the container again when the back-off is over.
func (c *container) armRestart() {
	c.timerGen++
	gen := c.timerGen
	c.timer = time.AfterFunc(c.backoff, func() {
		c.post(func() {
			if gen != c.timerGen || c.now.Status != Restarting {
				return
			}
			if err := c.start(false); err != nil {
				c.s.Log.Warn("restarting a container by its policy failed", "container", c.id, "err", err)
			}
		})
	})
}

// cancelRestart gives up the restart that was due.
func (c *container) cancelRestart() {
	c.timerGen++
	if c.timer != nil {
		c.timer.Stop()
	}
	c.move(Canceled)
	c.publish()
	c.saveBehind(nil)
	c.wake(onStop, WaitResult{Code: c.now.ExitCode})
}

// oomKilled asks the cgroup, which must not be removed yet.
func (c *container) oomKilled() bool {
	g, err := c.s.Cgroups.OpenDirs(c.now.live.Cgroup.Dirs)
	if err != nil {
		return false
	}
	n, err := g.OOMKills()
	return err == nil && n > 0
}

// removal is a forced removal that waits for the end.
type removal struct {
	ctx     context.Context // says whether it is for good (package trash)
	done    []chan error
	volumes bool // anonymous ones go too
}

// errRemoveRunning is how a removal of what runs is refused.
func errRemoveRunning(snap *Snapshot) error {
	how := "Stop the container before attempting removal or force remove"
	if snap.Status == Paused {
		how = "Unpause and then stop the container before attempting removal or force remove"
	}
	return errs.Conflict.Errorf("You cannot remove a %s container %s. %s", snap.Status, snap.ID, how)
}
