package container

import (
	"context"
	"os"
	"time"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// Remove deletes it; running, only with force. With volumes, its anonymous volumes go with it, unless another
// container holds them.
func (s *Service) Remove(ctx context.Context, ref string, force, volumes, link bool) error {
	if link {
		return s.removeLink(ctx, ref)
	}
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	if err := c.do(ctx, func() error { return c.beginRemove(ctx, force, volumes, ref, result) }); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginRemove answers on result when the container is gone.
func (c *container) beginRemove(ctx context.Context, force, volumes bool, ref string, result chan error) error {
	if c.remove != nil || c.now.Status == Removing {
		return errs.Conflict.Errorf("removal of container %s is already in progress", ref)
	}
	c.remove = &removal{ctx: ctx, done: []chan error{result}, volumes: volumes}
	switch c.now.Status {
	case Restarting:
		if !force {
			c.remove = nil
			return errRemoveRunning(&c.now)
		}
		c.manual = true
		c.cancelRestart()
	case Running, Paused:
		if !force {
			c.remove = nil
			return errRemoveRunning(&c.now)
		}
		c.manual = true
		// The end comes as an exit; the removal goes on there.
		if err := c.signal(sigKill); err != nil && !errs.Conflict.Is(err) && !errs.NotFound.Is(err) {
			c.remove = nil
			return errs.Internal.Errorf("Could not kill running container %s, cannot remove - %w", c.id, err)
		}
		return nil
	}
	c.finishRemove()
	return nil
}

// autoRemove is the removal that `--rm` asked for.
func (c *container) autoRemove() {
	if c.remove == nil {
		c.remove = &removal{ctx: context.Background()}
	}
	c.finishRemove()
}

// finishRemove takes away a container that does not run. From its first step on it can only go forward.
func (c *container) finishRemove() {
	s := c.s
	left := c.left
	c.left = nil
	was := c.now.Status
	if c.move(RemoveBegun) != nil {
		if left != nil {
			c.keep(left)
		}
		return
	}
	c.timerGen++
	c.publish()
	item, err := c.thrown(c.remove.ctx, was)
	if err != nil {
		s.Log.Warn("a container is removed for good", "container", c.id, "err", err)
	}
	in := intent{Op: opRemove, ID: c.id, Name: c.now.Name, Parent: s.cgroupParent(&c.now), Item: item}
	if c.remove.volumes || c.now.HostConfig.AutoRemove {
		in.Volumes = c.now.volumeNames(true)
	}
	err = s.erase(in, left, c.now.HostConfig.AutoRemove, func() {
		// The name is free: nobody finds the container any more.
		s.mu.Lock()
		delete(s.byID, c.id)
		if s.names[c.now.Name] == c.id {
			delete(s.names, c.now.Name)
		}
		s.mu.Unlock()
		s.dropExecs(c.id)
	})
	done := c.remove.done
	c.remove = nil
	if err != nil {
		c.move(RemoveFailed)
		c.now.Error = err.Error()
		c.publish()
		c.keep(left)
		c.wake(always, WaitResult{Code: c.now.ExitCode, Err: err})
		for _, ch := range done {
			ch <- errs.KindOf(err).Errorf("cannot remove container %q: %w", "/"+c.now.Name, err)
		}
		if len(done) == 0 {
			s.Log.Error("removing a container failed", "container", c.id, "err", err)
		}
		return
	}
	s.event(&c.now, "destroy")
	for _, ch := range done {
		ch <- nil
	}
	c.mu.Lock()
	c.gone = true // under the lock that wake takes: none that comes later is left behind
	c.mu.Unlock()
	c.endAttached()
	c.over = true
	c.wake(always, WaitResult{Code: c.now.ExitCode})
}

// keep does, for a container that is not removed after all, what was left to its removal.
func (c *container) keep(left *live) {
	if left == nil {
		c.saveBehind(nil)
		return
	}
	c.saveEnd(left)
	c.s.removeCgroup(c.id, c.s.cgroupParent(&c.now), left.Cgroup.Dirs)
}

// erase carries out a removal's steps; freed is called when the name is. A crash after the first makes the next
// daemon do them all again. With behind, the durable part follows the return, held by the journal until then; so does, always,
// the removal of the cgroup of a run that has just ended, if left is that run.
func (s *Service) erase(in intent, left *live, behind bool, freed func()) error {
	j, err := begin(s.journals(), in)
	if err != nil {
		return err
	}
	for _, name := range []string{"mark", "kill", "cgroup"} {
		if err := j.record(name); err != nil {
			j.end()
			return err
		}
		switch name {
		case "kill":
			// What runs was killed, and its end recorded, before: here is only what a crash left.
			if in.Kill {
				s.killLeft(in.ID)
			}
		case "cgroup":
			if in.Kill {
				s.removeCgroup(in.ID, in.Parent, nil)
			}
			s.dropLive(in.ID)
		}
		j.did(name)
	}
	if err := j.record("record"); err != nil {
		j.end()
		return err
	}
	record := s.State.Submit
	if behind {
		record = s.State.Later // its sync would take the processor from the client, whose process ends now
	}
	wait := record(func(tx state.Tx) error {
		if in.Item != nil {
			if err := in.Item.Put(tx); err != nil {
				return err
			}
		}
		return erase(tx, in.ID, in.Name)
	})
	if !behind {
		if err := wait(); err != nil {
			j.end()
			return err
		}
	}
	j.did("record")
	parted := s.leaving(in.ID)
	if in.Item != nil { // before the reply: the image may be removed next, and must not be found in use
		s.Trash.Add(in.Item)
		s.park(in.ID)
	}
	s.leaveVolumes(in.ID, in.Volumes, in.Item)
	freed()
	if err := j.record("files"); err != nil {
		s.Log.Warn("removal goes on without its journal", "container", in.ID, "err", err)
	}
	rest := func() {
		defer parted()
		if left != nil {
			s.removeCgroup(in.ID, in.Parent, left.Cgroup.Dirs)
		}
		if in.Item == nil {
			s.removeDir(in.ID)
		}
		j.did("files")
		if err := wait(); err != nil {
			s.Log.Error("the record of a removed container is still there; the next start removes it", "container", in.ID, "err", err)
			return // the journal stays
		}
		// A creation's journal that was set aside must not outlive this one: it would bring the container back.
		os.Remove(j.path + "." + opCreate)
		j.end()
	}
	s.work.Go(rest)
	return nil
}

// killLeft ends a process that a crash of the daemon left in the middle of a removal, waits for its end, and gives back its
// network and mounts: those of a process that still ran when this daemon came were taken for in use.
func (s *Service) killLeft(id string) {
	for range 500 {
		p, ok := s.Processes.Process(id)
		if !ok || p.Exit != nil {
			s.leave(id)
			s.unmounted(id)
			if ok {
				s.forget(id)
			}
			return
		}
		s.Processes.Signal(id, sigKill)
		time.Sleep(10 * time.Millisecond)
	}
	s.Log.Warn("a process does not end", "id", id)
}
