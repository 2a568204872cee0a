package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"gantry/internal/ids"
	"gantry/internal/runtime/supervisor"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// recover reads what there is (records, journals, live facts, the supervisor's processes) and brings it into one
// picture. After it, every container that runs is owned, and what was cut short is finished or undone.
func (s *Service) recover(ctx context.Context) error {
	journals, err := leftovers(s.journals())
	if err != nil {
		return fmt.Errorf("read journals: %w", err)
	}
	lives, err := s.readLives()
	if err != nil {
		return fmt.Errorf("read live facts: %w", err)
	}
	procs := map[string]supervisor.Process{}
	for _, p := range s.Processes.Processes() {
		procs[p.ID] = p
	}
	// Whoever holds a volume must be known before anything is undone that could remove one.
	records, err := s.readRecords()
	if err != nil {
		return err
	}
	s.keepVolumes(records)
	if err := s.recoverCreates(journals); err != nil {
		return err
	}
	if records, err = s.readRecords(); err != nil {
		return err
	}
	s.keepVolumes(records)
	if err := s.settleParked(records); err != nil {
		return fmt.Errorf("read the trash: %w", err)
	}
	pending := map[string]*left{}
	for _, l := range journals {
		if l.Op == opCreate {
			continue
		}
		r := records[l.ID]
		if l.Op == opRemove || r == nil {
			// From its first step on a removal can only go forward.
			delete(records, l.ID)
			name := l.Name
			if r != nil {
				name = r.Name
			}
			if err := s.erase(intent{Op: opRemove, ID: l.ID, Name: name, Parent: l.Parent, Item: l.Item, Kill: true, Volumes: l.Volumes}, nil, false, func() {}); err != nil {
				return fmt.Errorf("finish the removal of container %s: %w", l.ID, err)
			}
			continue
		}
		pending[l.ID] = l
	}
	for id, r := range records {
		snap, err := r.snapshot()
		if err != nil {
			return err
		}
		c := s.newContainer(snap)
		s.byID[id], s.names[r.Name] = c, id
		c.manual = r.Stopped
	}
	// Only now, for containers may join each other's namespaces.
	var again []*container
	for id, c := range s.byID {
		var p *supervisor.Process
		if q, ok := procs[id]; ok {
			p = &q
		}
		done := make(chan struct{})
		c.post(func() {
			defer close(done)
			if c.reconcile(p, lives[id], pending[id]) {
				again = append(again, c)
			}
		})
		<-done
		delete(lives, id)
	}
	for id := range lives { // of containers that nobody knows
		s.dropLive(id)
	}
	s.sweep(records, procs)
	s.work.Go(s.watch)
	for _, c := range again {
		c.post(func() {
			if c.now.Status.Alive() || c.now.Status == Removing {
				return
			}
			if err := c.start(false); err != nil {
				s.Log.Warn("starting a container by its restart policy failed", "container", c.id, "err", err)
			}
		})
	}
	return nil
}

func (s *Service) readRecords() (map[string]*record, error) {
	records := map[string]*record{}
	err := s.State.View(func(tx state.Tx) error {
		return tx.Each(recordBucket, func(id string, decode func(any) error) error {
			r := new(record)
			if err := decode(r); err != nil {
				return err
			}
			records[id] = r
			return nil
		})
	})
	return records, err
}

// recoverCreates completes a creation whose record had been handed in, and undoes one that had not come so far.
func (s *Service) recoverCreates(journals []*left) error {
	for _, l := range journals {
		if l.Op != opCreate || l.Record == nil {
			continue
		}
		var there bool
		err := s.State.View(func(tx state.Tx) (err error) {
			var old struct{}
			there, err = tx.Get(recordBucket, l.ID, &old)
			return err
		})
		if err != nil {
			return err
		}
		if !there && l.replied() {
			f, err := freeze(l.Record)
			if err != nil {
				return err
			}
			if err := s.State.Update(func(tx state.Tx) error { return f.reserve(tx) }); err != nil {
				return fmt.Errorf("finish the creation of container %s: %w", l.ID, err)
			}
		} else if !there {
			s.leaveVolumes(l.ID, (&Snapshot{Mounts: l.Record.Mounts, MountOptions: l.Record.MountOptions}).volumeNames(true), nil)
			s.removeDir(l.ID)
		}
		l.discard()
	}
	return nil
}

// replied reports whether a creation was far enough that its client may have had the answer before the record was on disk.
func (l *left) replied() bool { return l.aside }

// reconcile brings one container in line with what runs. It reports whether its restart policy starts it now.
func (c *container) reconcile(p *supervisor.Process, l *live, j *left) (start bool) {
	s := c.s
	if j != nil && j.Op == opStart && p == nil {
		// The launch had not come about, or nobody holds it any more: undo.
		c.s.leave(c.id)
		c.s.unmounted(c.id)
		if j.reached("cgroup") {
			s.removeCgroup(c.id, j.Parent, nil)
		}
		if l == nil {
			j.discard()
			j = nil
		}
	}
	if l != nil && l.Exit != nil && p == nil {
		// It had ended and been forgotten; the durable record may not have made it.
		c.adopt(l)
		c.manual = c.manual || l.Manual
		c.endRecovered(*l.Exit, l.OOM)
	} else if p != nil {
		if l == nil || l.Pid != p.Pid || l.StartTime != p.StartTime {
			// The daemon died between the launch and the note of it.
			l = s.liveOf(c, p)
			if err := s.writeLive(c.id, l); err != nil {
				s.Log.Error("noting an adopted container failed", "container", c.id, "err", err)
			}
		}
		if c.now.Status == Removing || c.now.Status == Dead {
			c.now.Status = Exited
		}
		c.adopt(l)
		if j != nil && j.Op == opStop {
			c.manual = true
		}
		if p.Exit != nil {
			c.endRecovered(*p.Exit, c.oomKilled())
			s.forget(c.id)
		} else {
			if c.frozen() {
				c.now.Status = Paused
				c.publish()
			}
			c.resumeStop(j)
			c.saveBehind(nil)
		}
	} else if l != nil || c.now.Status == Running || c.now.Status == Paused {
		// It ran, and nobody holds it: the machine was started anew, or the supervisor was lost as well. The record
		// alone may not know yet that it ran.
		e := supervisor.Exit{ID: c.id, Code: 255, Unknown: true, At: time.Now()}
		if l == nil {
			l = &live{Started: c.now.StartedAt}
			if j != nil && j.Op == opStop {
				c.manual = true
			}
		}
		c.adopt(l)
		c.endRecovered(e, false)
	}
	if j != nil && c.stop == nil {
		j.discard()
	}
	switch {
	case c.now.Status == Removing || c.now.Status == Dead:
		// A removal that failed, or that a power cut took the journal of, is tried again.
		c.remove = &removal{ctx: context.Background()}
		if c.now.Status == Removing {
			c.now.Status = Dead
		}
		c.finishRemove()
	case c.now.Status == Restarting:
		// The back-off is over: the daemon was away for longer.
		if c.timer == nil {
			c.armRestart()
		}
	case c.now.Status == Exited && c.now.HostConfig.AutoRemove:
		c.autoRemove()
	case c.now.Status == Exited && !c.now.StartedAt.IsZero():
		return startsAtBoot(&c.now, c.manual)
	}
	return false
}

// startsAtBoot is Docker's rule for when the daemon starts: `always` even after a user's stop.
func startsAtBoot(s *Snapshot, manual bool) bool {
	p := s.HostConfig.RestartPolicy
	return p.IsAlways() || restarts(p, s.ExitCode, s.RestartCount, manual)
}

// adopt makes the container a running one as l says, whatever its record says.
func (c *container) adopt(l *live) {
	c.now.Status = Running
	c.now.live, c.now.Pid, c.now.StartedAt = l, l.Pid, l.Started.UTC()
	if c.s.Networks != nil {
		c.connected(c.s.Networks.Of(c.id))
	}
	c.now.RestartCount = max(c.now.RestartCount, l.Restarts)
	c.now.ExitCode, c.now.Error, c.now.OOMKilled, c.now.FinishedAt = 0, "", false, time.Time{}
	if s := c.s; s.Mounter != nil {
		s.Mounter.Mounted(c.id, c.now.volumeNames(false))
	}
	c.publish()
}

// endRecovered is ended for a container that ended while no daemon looked.
func (c *container) endRecovered(e supervisor.Exit, oom bool) {
	dirs := c.now.live.Cgroup.Dirs
	ran := c.settle(e, oom)
	kept := &live{Started: c.now.StartedAt, Exit: &e, OOM: oom, Manual: c.manual}
	if err := c.s.writeLive(c.id, kept); err != nil {
		c.s.Log.Error("recording the end of a container failed", "container", c.id, "err", err)
	}
	c.s.leave(c.id)
	c.s.unmounted(c.id)
	c.announce(ran)
	c.s.removeCgroup(c.id, c.s.cgroupParent(&c.now), dirs)
	c.saveEnd(kept)
}

// resumeStop goes on with a stop that the last daemon began.
func (c *container) resumeStop(j *left) {
	if j == nil || j.Op != opStop || !j.reached("signal") {
		return
	}
	jn, err := begin(c.s.journals(), j.intent)
	if err != nil {
		c.s.Log.Error("going on with a stop failed", "container", c.id, "err", err)
		return
	}
	jn.record("signal")
	c.stop = &stopping{j: jn, event: true}
	if !j.Until.IsZero() {
		c.killAt(j.Until)
	}
}

// liveOf makes live facts of what the supervisor knows.
func (s *Service) liveOf(c *container, p *supervisor.Process) *live {
	l := &live{Pid: p.Pid, StartTime: p.StartTime, Started: p.Started, Restarts: c.now.RestartCount}
	if g, err := s.Cgroups.Open(s.cgroupParent(&c.now), c.id); err == nil {
		l.Cgroup.Dirs = g.Dirs()
		l.Cgroup.Join = joinOf(g, s.Home)
	}
	return l
}

// sweep throws away what belongs to no container: directories, and processes that the supervisor holds.
func (s *Service) sweep(records map[string]*record, procs map[string]supervisor.Process) {
	entries, err := os.ReadDir(s.Root)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.Log.Warn("looking for leftover directories failed", "err", err)
	}
	for _, e := range entries {
		if ids.Valid(e.Name()) && records[e.Name()] == nil && !s.Trash.Has(trash.Container, e.Name()) {
			s.removeDir(e.Name())
		}
	}
	for id, p := range procs {
		if records[id] != nil || (p.Container != "" && records[p.Container] != nil && p.Exit == nil) {
			continue // an exec goes on to its end, and is forgotten then
		}
		if p.Exit == nil {
			s.Log.Warn("ending a process that belongs to no container", "id", id, "pid", p.Pid)
			s.work.Go(func() { s.killLeft(id) })
		} else {
			s.forget(id)
		}
	}
}
