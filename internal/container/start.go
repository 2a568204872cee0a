package container

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"time"

	"gantry/internal/errs"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// Start starts it; errs.NotModified if it runs.
func (s *Service) Start(ctx context.Context, ref string) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error {
		switch c.now.Status {
		case Running, Restarting:
			return errs.NotModified.Errorf("container is already running")
		case Paused:
			return errs.Conflict.Errorf("cannot start a paused container, try unpause instead")
		case Removing, Dead:
			return errs.Conflict.Errorf("container is marked for removal and cannot be started")
		}
		c.manual = false
		c.backoff = 0
		c.now.RestartCount = 0
		return c.start(true)
	})
}

// start starts the process, by a user or by the restart policy. A failure is recorded as Docker does: an exit
// code of 126 to 128, and its text in State.Error.
func (c *container) start(byUser bool) error {
	err := c.launch()
	if err == nil {
		c.s.event(&c.now, "start")
		return nil
	}
	code := 128
	var refused *supervisor.LaunchError
	if errors.As(err, &refused) {
		if refused.Code == 126 || refused.Code == 127 {
			code = refused.Code
		}
		err = startError(refused)
	}
	c.move(StartFailed)
	c.now.ExitCode, c.now.Error = code, err.Error()
	c.publish()
	c.endAttached()
	c.saveBehind(nil)
	c.wake(onStop, WaitResult{Code: code})
	if c.now.HostConfig.AutoRemove {
		c.autoRemove()
	}
	return err
}

// startError puts a refused launch into the words of dockerd with runc, from which the docker CLI and others
// derive exit codes: they look for "executable file not found", "permission denied" and the like.
func startError(e *supervisor.LaunchError) error {
	return refused(e, "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed")
}

func refused(e *supervisor.LaunchError, prefix string) error {
	kind := errs.Internal
	if e.Code == 126 || e.Code == 127 {
		kind = errs.Invalid
	}
	text := e.Message
	if strings.HasPrefix(text, "unable to find user") || strings.HasPrefix(text, "unable to find group") {
		return errs.Invalid.Errorf("%s", text) // dockerd looks these up itself
	}
	if dir, ok := strings.CutSuffix(text, "is a directory"); ok {
		text = dir + "permission denied" // runc's words for it, and what the CLI takes for exit code 126
	}
	if !strings.Contains(text, "unable to start container process") {
		text = "unable to start container process: " + text
	}
	return kind.Errorf("%s: %s: unknown", prefix, text)
}

// launch carries out the steps of a start.
func (c *container) launch() error {
	s := c.s
	res, err := runtime.Resources(c.now.HostConfig)
	if err != nil {
		return err
	}
	if res, _, err = s.Cgroups.Check(res); err != nil {
		return err
	}
	parent := s.cgroupParent(&c.now)
	j, err := begin(s.journals(), intent{Op: opStart, ID: c.id, Parent: parent})
	if err != nil {
		return err
	}
	var (
		plan  = s.input(&c.now)
		l     = &live{Restarts: c.now.RestartCount}
		group *cgroup.Group
	)
	var net *Connection
	defer func() {
		if net != nil {
			net.Done()
		}
	}()
	made := make(chan error, 1) // the cgroup's error, once
	err = j.run([]step{
		// A cgroup of version 1 is ten directories, each made under a lock of the whole machine: network and files are made meanwhile.
		{"cgroup", func() error {
			go func() {
				var err error
				if group, err = s.Cgroups.Create(parent, c.id, res); err == nil {
					plan.Cgroup = joinOf(group, s.Home)
					l.Cgroup = Cgroup{Dirs: group.Dirs(), Join: plan.Cgroup}
					l.Cgroup.Join.PidsMaxFile, l.Cgroup.Join.PidsMax = "", "" // for execs: the limit is in place then
				}
				made <- err
				close(made)
			}()
			return nil
		}, func() {
			<-made
			s.removeCgroup(c.id, parent, l.Cgroup.Dirs)
		}},
		{"network", func() (err error) {
			if net, err = c.join(); net != nil {
				plan.Netns = net.Path
			}
			return err
		}, func() { s.leave(c.id) }},
		{"files", func() (err error) {
			if plan.Overlay, err = s.Layers.Overlay(c.now.Image.ChainID, c.id); err != nil {
				return err
			}
			if err := makeSources(c.now.Mounts); err != nil {
				return err
			}
			if plan.Log, err = logSpec(c.now.HostConfig.LogConfig, c.now.LogPath, logAttrs(c.now.HostConfig.LogConfig, c.now.Config)); err != nil {
				return err
			}
			if plan.Files, err = c.writeFiles(net); err != nil {
				return err
			}
			return <-made
		}, nil}, // what it wrote is part of the container's directory
		{"launch", func() error {
			p, err := c.fork(plan, group)
			if err == nil {
				l.Pid, l.StartTime, l.Started = p.Pid, p.StartTime, p.Started
			}
			return err
		}, func() { s.abandon(c.id) }},
		{"live", func() error { return s.writeLive(c.id, l) }, func() { s.dropLive(c.id) }},
	})
	if err != nil {
		return err
	}
	c.connected(net)
	c.running(l)
	c.saveBehind(nil)
	j.end()
	return nil
}

// input is what the container's processes are built from, but for what each start makes anew.
func (s *Service) input(snap *Snapshot) *runtime.Input {
	return &runtime.Input{ID: snap.ID, Config: snap.Config, HostConfig: snap.HostConfig, Path: snap.Path, Args: snap.Args, Mounts: snap.Mounts,
		Target: filepath.Join(snap.Dir, "rootfs"), Ulimits: s.Defaults.Ulimits, Init: s.Defaults.Init, Of: s.processOf}
}

// fork launches the process with those attached who came before it.
func (c *container) fork(plan *runtime.Input, group *cgroup.Group) (*supervisor.Process, error) {
	s := c.s
	l, init, warnings, err := s.Builder.Build(plan)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		s.Log.Debug(w, "container", c.id)
	}
	c.behind.Wait()
	early := c.takeEarly()
	p, err := s.Processes.Launch(s.ctx, l, init, len(early) > 0)
	if errors.Is(err, supervisor.ErrGone) {
		// It died under the launch. Whether there is a process now is not known: what is in the cgroup goes.
		if err := group.Kill(); err != nil {
			return nil, err
		}
		p, err = s.Processes.Launch(s.ctx, l, init, len(early) > 0)
	}
	if err != nil {
		for _, a := range early {
			a.finish(nil)
		}
		return nil, err
	}
	if len(early) > 0 {
		// Whoever asked for the start need not wait for this; who is attached does, and the end of the process.
		c.asking(func() {
			for _, a := range early {
				a.join(s.ctx, s.Processes, c.id)
			}
			if err := s.Processes.Resume(s.ctx, c.id); err != nil && !errs.NotFound.Is(err) {
				s.Log.Warn("the output of a new container is held up", "container", c.id, "err", err)
			}
		})
	}
	return p, nil
}

// running makes the container one that runs as l says.
func (c *container) running(l *live) {
	c.move(Started)
	c.now.live = l
	c.now.Pid = l.Pid
	c.now.StartedAt = l.Started.UTC()
	c.now.ExitCode, c.now.Error, c.now.OOMKilled = 0, "", false
	c.now.FinishedAt = time.Time{}
	c.publish()
}

// processOf names the first process of another container.
func (s *Service) processOf(id string) (spec.Process, error) {
	c, err := s.find(id)
	if err != nil {
		return spec.Process{}, err
	}
	p, err := c.process()
	if err != nil {
		return p, errs.Conflict.Errorf("cannot join namespace of a non running container: %s", id)
	}
	return p, nil
}

func (s *Service) cgroupParent(snap *Snapshot) string {
	if p := snap.HostConfig.CgroupParent; p != "" {
		return p
	}
	return s.Defaults.CgroupParent
}

// removeCgroup kills what is left of a container and removes its cgroup. dirs may be empty, when they are not known.
func (s *Service) removeCgroup(id, parent string, dirs []string) {
	var g *cgroup.Group
	var err error
	if len(dirs) > 0 {
		g, err = s.Cgroups.OpenDirs(dirs)
	} else {
		g, err = s.Cgroups.Open(parent, id)
	}
	if err == nil {
		if err = g.Kill(); err == nil {
			err = g.Remove()
		}
	}
	if err != nil {
		s.Log.Warn("removing a cgroup failed", "container", id, "err", err)
	}
}

// abandon ends a process whose start is undone, if there is one, and forgets it.
func (s *Service) abandon(id string) {
	if err := s.Processes.Signal(id, sigKill); errs.NotFound.Is(err) {
		return
	}
	// Its exit comes to exited, which finds the container not running, and forgets it.
}

func joinOf(g, home *cgroup.Group) spec.Cgroup { return spec.Cgroup(g.Join(home)) }
