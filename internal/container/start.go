package container

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
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
	return kind.Wrap(&refusal{fmt.Sprintf("%s: %s: unknown", prefix, text), syscall.Errno(e.Errno)})
}

// refusal keeps the kernel's reason beside the words: a full disk has advice of its own.
type refusal struct {
	text  string
	errno syscall.Errno
}

func (e *refusal) Error() string { return e.text }

func (e *refusal) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
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
	plan := s.input(&c.now)
	attrs, err := logAttrs(&c.now)
	if err != nil {
		return err
	}
	if plan.Log, err = logSpec(c.now.HostConfig.LogConfig, c.now.LogPath, attrs); err != nil {
		return err
	}
	early, err := s.Builder.BuildLaunch(plan)
	if err != nil {
		return err
	}
	j, err := begin(s.journals(), intent{Op: opStart, ID: c.id, Parent: parent})
	if err != nil {
		return err
	}
	var (
		l     = &live{Restarts: c.now.RestartCount}
		group *cgroup.Group
		birth = c.newBirth(early)
	)
	var net *Connection
	var hosts []byte // lines of the hosts file for linked containers
	unmap, letGo := func() {}, func() {}
	defer func() { unmap(); letGo() }()
	defer func() {
		if net != nil {
			net.Done()
		}
	}()
	made := make(chan error, 1) // the cgroup's error, once
	err = j.run([]step{
		// A cgroup of version 1 is ten directories, each made under a lock of the whole machine, and init takes some milliseconds
		// until it is there: both are begun now, while network and files are made.
		{"cgroup", func() error {
			go func() {
				var err error
				group, err = s.Cgroups.CreateFor(parent, c.id, res, func(g *cgroup.Group) { birth.begin(joinOf(g, s.Home)) })
				made <- err
				close(made)
			}()
			return nil
		}, func() {
			<-made
			birth.giveUp()
			s.removeCgroup(c.id, parent, l.Cgroup.Dirs)
		}},
		{"network", func() (err error) {
			others, err := s.linked(&c.now)
			if err != nil {
				return err
			}
			plan.Linked, hosts = linkEnv(c.now.Name, others), linkHosts(others)
			if net, err = c.join(); net != nil {
				plan.Netns = net.Path
			}
			return err
		}, func() { s.leave(c.id) }},
		{"files", func() (err error) {
			if plan.Overlay, err = s.Layers.Overlay(c.now.Image.ChainID, c.id); err != nil {
				return err
			}
			if err := makeSources(&c.now); err != nil {
				return err
			}
			if plan.Sources, letGo, err = s.sources(s.ctx, &c.now); err != nil {
				return err
			}
			if unmap, err = c.mapOwners(plan.Sources); err != nil {
				return err
			}
			if plan.Files, err = c.writeFiles(net, hosts); err != nil {
				return err
			}
			if err := <-made; err != nil {
				return err
			}
			plan.Cgroup = joinOf(group, s.Home)
			l.Cgroup = Cgroup{Dirs: group.Dirs(), Join: plan.Cgroup}
			l.Cgroup.Join.PidsMaxFile, l.Cgroup.Join.PidsMax = "", "" // for execs: the limit is in place then
			return nil
		}, func() { s.unmounted(c.id) }}, // what it wrote is part of the container's directory
		{"launch", func() error {
			p, err := birth.finish(plan, group)
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
	c.relink()
	c.saveLater(nil)
	j.end()
	return nil
}

// input is what the container's processes are built from, but for what each start makes anew.
func (s *Service) input(snap *Snapshot) *runtime.Input {
	return &runtime.Input{ID: snap.ID, Config: snap.Config, HostConfig: snap.HostConfig, Path: snap.Path, Args: snap.Args, Mounts: snap.Mounts,
		Target: filepath.Join(snap.Dir, "rootfs"), Ulimits: s.Defaults.Ulimits, Init: s.Defaults.Init, Of: s.processOf}
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
