package container

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// execKept is how long an ended exec is known at least; twice as long at most. Docker's, too.
const execKept = 5 * time.Minute

// exec is one process added to a running container. It is not kept on disk: it ends with its container, and
// after a crash of the daemon nobody who knew its ID is left.
type exec struct {
	id     string
	c      *container
	config ExecConfig
	keys   []byte

	done chan struct{} // closed when the exit code is known

	mu      sync.Mutex
	started bool
	running bool
	pid     int
	code    *int
	old     bool // seen by one collection
	attach  *attachment
}

func errNoExec(id string) error { return errs.NotFound.Errorf("No such exec instance: %s", id) }

func (s *Service) findExec(id string) (*exec, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if x := s.execs[id]; x != nil {
		return x, nil
	}
	return nil, errNoExec(id)
}

// mayExec refuses an exec in a container that does not run just now.
// name is what its user calls it.
func mayExec(snap *Snapshot, name string) error {
	switch snap.Status {
	case Running:
		return nil
	case Paused:
		return errs.Conflict.Errorf("Container %s is paused, unpause the container before exec", name)
	case Restarting:
		return errs.Conflict.Errorf("Container %s is restarting, wait until the container is running", snap.ID)
	}
	return errNotRunning(snap.ID)
}

// ExecCreate prepares a process inside a running container and returns the exec's ID.
func (s *Service) ExecCreate(ctx context.Context, ref string, cfg ExecConfig) (string, error) {
	if len(cfg.Cmd) == 0 || cfg.Cmd[0] == "" {
		return "", errs.Invalid.Errorf("No exec command specified")
	}
	keys, err := parseDetachKeys(cfg.DetachKeys)
	if err != nil {
		return "", err
	}
	c, err := s.find(ref)
	if err != nil {
		return "", err
	}
	snap := c.get()
	if err := mayExec(&snap, ref); err != nil {
		return "", err
	}
	for _, e := range cfg.Env {
		if e == "" || e[0] == '=' {
			return "", errs.Invalid.Errorf("invalid environment variable: %s", e)
		}
	}
	if w := cfg.WorkingDir; w != "" && w[0] != '/' {
		return "", errs.Invalid.Errorf("the working directory '%s' is invalid, it needs to be an absolute path", w)
	}
	x := &exec{id: ids.New(), c: c, config: cfg, keys: keys, done: make(chan struct{})}
	s.mu.Lock()
	s.execs[x.id] = x
	s.mu.Unlock()
	s.event(&snap, "exec_create: "+strings.Join(cfg.Cmd, " "), "execID", x.id)
	return x.id, nil
}

// ExecStart starts it; the attachment is nil with detach.
func (s *Service) ExecStart(ctx context.Context, id string, detach, tty bool, size *[2]uint) (*Attachment, error) {
	x, err := s.findExec(id)
	if err != nil {
		return nil, err
	}
	snap := x.c.get()
	if err := mayExec(&snap, snap.ID); err != nil {
		return nil, err
	}
	x.mu.Lock()
	switch {
	case x.code != nil:
		err = errs.Conflict.Errorf("Error: Exec command %s has already run", id)
	case x.started:
		err = errs.Conflict.Errorf("Error: Exec command %s is already running", id)
	}
	if err != nil {
		x.mu.Unlock()
		return nil, err
	}
	x.started, x.running = true, true
	if size != nil {
		x.config.ConsoleSize = size // ExecGet reads it
	}
	x.mu.Unlock()
	s.event(&snap, "exec_start: "+strings.Join(x.config.Cmd, " "), "execID", x.id)
	var a *attachment
	if !detach {
		a = newAttachment(x.config.Tty, x.config.AttachStdin, x.config.AttachStdout, x.config.AttachStderr, x.keys)
		a.onDetach = func() { s.event(x.c.snap.Load(), "exec_detach", "execID", x.id) }
		a.waitEnd = x.done
		a.closeStdin = func() { s.closeStdin(x.id) }
		x.attach = a
	}
	if err := x.start(&snap, a); err != nil {
		code := 126
		var no *supervisor.LaunchError
		if errors.As(err, &no) {
			if no.Code == 127 {
				code = 127
			}
			err = execError(no)
		}
		x.over(code)
		if a != nil {
			a.Close()
		}
		return nil, err
	}
	if a == nil {
		return nil, nil
	}
	context.AfterFunc(ctx, func() { a.Close() })
	return a.handle(), nil
}

// execError is startError for execs.
func execError(e *supervisor.LaunchError) error {
	return refused(e, "OCI runtime exec failed: exec failed")
}

func (x *exec) start(snap *Snapshot, a *attachment) error {
	s := x.c.s
	in := s.input(snap)
	if others, err := s.linked(snap); err == nil {
		in.Linked = linkEnv(snap.Name, others)
	}
	in.Cgroup = snap.live.Cgroup.Join
	e := &runtime.Exec{ID: x.id, Args: x.config.Cmd, Env: x.config.Env, User: x.config.User, WorkingDir: x.config.WorkingDir,
		Privileged: x.config.Privileged, Tty: x.config.Tty, OpenStdin: x.config.AttachStdin,
		Of: spec.Process{Pid: snap.Pid, StartTime: snap.live.StartTime}}
	if size := x.config.ConsoleSize; size != nil {
		e.Height, e.Width = uint16(size[0]), uint16(size[1])
	}
	l, inner, _, err := s.Builder.BuildExec(in, e)
	if err != nil {
		return err
	}
	x.c.mu.Lock()
	x.c.execs = append(x.c.execs, x.id)
	x.c.mu.Unlock()
	p, err := s.Processes.Launch(s.ctx, l, inner, a != nil)
	if err != nil {
		return err
	}
	x.mu.Lock()
	x.pid = p.Pid
	x.mu.Unlock()
	if a != nil {
		a.join(s.ctx, s.Processes, x.id)
		if err := s.Processes.Resume(s.ctx, x.id); err != nil && !errs.NotFound.Is(err) {
			return err
		}
	}
	return nil
}

// over notes the end, once, and reports whether this was it.
func (x *exec) over(code int) bool {
	x.mu.Lock()
	first := x.code == nil
	if first {
		x.code, x.running = &code, false
		close(x.done)
	}
	x.mu.Unlock()
	x.c.mu.Lock()
	x.c.execs = slices.DeleteFunc(x.c.execs, func(id string) bool { return id == x.id })
	x.c.mu.Unlock()
	return first
}

// ended takes in the exec's end from the supervisor.
func (x *exec) ended(e supervisor.Exit) {
	s := x.c.s
	if x.over(e.Code) {
		s.event(x.c.snap.Load(), "exec_die", "execID", x.id, "exitCode", strconv.Itoa(e.Code))
	}
	x.mu.Lock()
	a := x.attach
	x.mu.Unlock()
	if a == nil {
		s.forget(x.id)
		return
	}
	// What it left behind may hold its output open; Docker gives that two seconds more. They begin when the client is
	// there to get what was written.
	s.work.Go(func() {
		select {
		case <-a.joined:
		case <-s.ctx.Done():
			return
		}
		select {
		case <-a.left:
		case <-a.drained:
		case <-time.After(2 * time.Second):
		case <-s.ctx.Done():
			return
		}
		s.forget(x.id)
	})
}

// ExecGet returns the exec's state now.
func (s *Service) ExecGet(id string) (ExecSnapshot, error) {
	x, err := s.findExec(id)
	if err != nil {
		return ExecSnapshot{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return ExecSnapshot{ID: x.id, Container: x.c.id, Config: x.config, Running: x.running, ExitCode: x.code, Pid: x.pid, CanRemove: x.old}, nil
}

// ExecResize sets the exec's terminal's size.
func (s *Service) ExecResize(ctx context.Context, id string, height, width uint16) error {
	x, err := s.findExec(id)
	if err != nil {
		return err
	}
	x.mu.Lock()
	running := x.running
	x.mu.Unlock()
	if !running {
		return errs.Conflict.Errorf("exec process is not running")
	}
	return s.Processes.Resize(id, height, width)
}

// Resize sets the terminal's size in characters.
func (s *Service) Resize(ctx context.Context, ref string, height, width uint16) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	snap := c.get()
	if snap.Status != Running && snap.Status != Paused {
		return errNotRunning(snap.ID)
	}
	if err := s.Processes.Resize(c.id, height, width); err != nil {
		if errs.Conflict.Is(err) || errs.NotFound.Is(err) { // no terminal: Docker says nothing either
			return nil
		}
		return err
	}
	s.event(&snap, "resize", "height", strconv.Itoa(int(height)), "width", strconv.Itoa(int(width)))
	return nil
}

// endExecs ends what was added to a container that has ended. Those in its PID namespace are dead already; with
// the host's (--pid host) the cgroup's removal kills them. Their exits come by themselves.
func (c *container) endExecs() {
	c.mu.Lock()
	execs := slices.Clone(c.execs)
	c.mu.Unlock()
	for _, id := range execs {
		if err := c.s.Processes.Signal(id, sigKill); err != nil && !errs.NotFound.Is(err) && !errs.Conflict.Is(err) {
			c.s.Log.Warn("killing an exec failed", "exec", id, "err", err)
		}
	}
}

// dropExecs forgets the execs of a removed container.
func (s *Service) dropExecs(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for eid, x := range s.execs {
		if x.c.id == id {
			x.mu.Lock()
			running := x.running
			x.mu.Unlock()
			if !running {
				delete(s.execs, eid)
			}
		}
	}
}

// collectExecs drops execs some time after their end, for `docker exec` asks for the exit code after it.
func (s *Service) collectExecs() {
	tick := time.NewTicker(execKept)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.collectOnce()
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Service) collectOnce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, x := range s.execs {
		x.mu.Lock()
		switch {
		case x.running:
		case x.old:
			delete(s.execs, id)
		case x.code != nil || !x.c.snap.Load().Status.Alive():
			x.old = true
		}
		x.mu.Unlock()
	}
}
