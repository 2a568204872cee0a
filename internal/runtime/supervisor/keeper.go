package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/runtime/component"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor/protocol"
)

// Options say where the supervisor lives and what it is.
type Options struct {
	ExecRoot string // an existing directory, 0700
	// Cgroup is where the supervisor is born; zero: beside the engine. Home is then the engine's own tasks files.
	Cgroup  spec.Cgroup
	Program func() (*os.File, error) // the supervisor's program, a sealed memfd (package programs)
	Init    func() (*os.File, error) // init's
	Build   string                   // digest of both; another one running is upgraded. Empty: never
	Log     *slog.Logger
}

// Keeper is the engine's hold on the supervisor: it starts or finds it, keeps duplicates of every process's fds, and
// when the supervisor dies, by whatever, it starts another and gives it all of them. Attachments go on over that without losing
// or repeating a byte; only a Launch that is under way at that moment fails, with ErrGone. All methods may be called from any goroutine.
type Keeper struct {
	opts Options
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	done sync.WaitGroup

	exits chan Exit

	mu        sync.Mutex
	client    *Client
	ready     chan struct{} // closed while client is usable; replaced during recovery
	procs     map[string]*kept
	launching map[string]int // by ID: launches under way
	claims    map[string]chan Exit
	state     int   // the supervisor's state memory, -1 before there was one
	failure   error // why there is no supervisor, while there is none
}

// kept is one process as the keeper knows it.
type kept struct {
	proc     Process
	fds      map[string]int
	paused   bool // launched so, and not resumed by the engine
	ended    bool // its Exit has been seen: the fds are dropped
	attached map[*Attachment]struct{}
	lost     map[*Attachment]struct{} // those that have not come back after the supervisor's death; then the streams are resumed
}

// Keep finds the supervisor of opts.ExecRoot, or starts it, and takes hold of its processes.
func Keep(ctx context.Context, opts Options) (*Keeper, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{opts: opts, exits: make(chan Exit), ready: make(chan struct{}), procs: make(map[string]*kept), launching: make(map[string]int), claims: make(map[string]chan Exit), state: -1}
	k.ctx, k.stop = context.WithCancel(context.Background())
	watch, err := k.connect(ctx)
	if err != nil {
		k.stop()
		return nil, err
	}
	queue := make(chan Exit)
	k.done.Add(2)
	go func() { defer k.done.Done(); k.forward(queue) }()
	go func() { defer k.done.Done(); k.run(watch, queue) }()
	return k, nil
}

// Close lets go: the supervisor and all processes go on. Exits is closed.
func (k *Keeper) Close() {
	k.stop()
	k.done.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.client != nil {
		k.client.Close()
	}
	for id, p := range k.procs {
		closeAll(p.fds)
		delete(k.procs, id)
	}
	if k.state >= 0 {
		unix.Close(k.state)
		k.state = -1
	}
}

// Exits gives every exit that has not been forgotten, those from before Keep first. An exit may come twice (after the supervisor's
// death); one that is not read holds up no other method.
func (k *Keeper) Exits() <-chan Exit { return k.exits }

// Claim has the exit of a process that is about to be launched come through the channel it returns instead of through Exits. Who claims
// forgets the process, too, and gives the claim back afterwards. After a crash nobody claims it any more.
func (k *Keeper) Claim(id string) (exit <-chan Exit, giveBack func()) {
	ch := make(chan Exit, 1)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.claims[id] = ch
	return ch, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.claims, id)
	}
}

func (k *Keeper) claimed(e Exit) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch := k.claims[e.ID]
	if ch == nil {
		return false
	}
	select {
	case ch <- e:
	default: // told again
	}
	return true
}

// forward decouples the supervisor from the reader of Exits.
func (k *Keeper) forward(in <-chan Exit) {
	defer close(k.exits)
	var queue []Exit
	for {
		var out chan Exit
		var first Exit
		if len(queue) > 0 {
			out, first = k.exits, queue[0]
		}
		select {
		case e := <-in:
			queue = append(queue, e)
		case out <- first:
			queue = queue[1:]
		case <-k.ctx.Done():
			return
		}
	}
}

// run passes exits on and brings the supervisor back when the stream of them breaks.
func (k *Keeper) run(watch <-chan Exit, out chan<- Exit) {
	for {
		for e := range watch {
			k.ended(e)
			if k.claimed(e) {
				continue
			}
			select {
			case out <- e:
			case <-k.ctx.Done():
				return
			}
		}
		if k.ctx.Err() != nil {
			return
		}
		k.mu.Lock()
		k.client.Close()
		k.client = nil
		k.ready = make(chan struct{})
		for _, p := range k.procs {
			p.lost = maps.Clone(p.attached)
		}
		k.mu.Unlock()
		k.opts.Log.Warn("the supervisor died; starting another")
		for pause := 10 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
			var err error
			if watch, err = k.connect(k.ctx); err == nil {
				break
			}
			k.opts.Log.Error("start the supervisor", "err", err)
			k.mu.Lock()
			k.failure = err
			k.mu.Unlock()
			select {
			case <-time.After(pause):
			case <-k.ctx.Done():
				return
			}
		}
	}
}

// connect finds or starts a supervisor, hands over what is kept, takes hold of what it has, and watches.
func (k *Keeper) connect(ctx context.Context) (<-chan Exit, error) {
	c, err := Dial(k.opts.ExecRoot)
	if errors.Is(err, ErrGone) {
		until, ok := ctx.Deadline()
		if !ok {
			until = time.Now().Add(30 * time.Second)
		}
		if err = start(&k.opts, until); err == nil {
			c, err = Dial(k.opts.ExecRoot)
		}
	}
	if err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			c.Close()
		}
	}()
	k.upgrade(ctx, c)
	listed, err := c.List(ctx)
	if err != nil {
		return nil, err
	}
	known := make(map[string]*Process, len(listed))
	for i := range listed {
		known[listed[i].ID] = &listed[i]
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// What this one does not know, the one that died held. Of those that have ended it knows the exit at most: their last output
	// may still be in the pipes.
	first := true
	for id, p := range k.procs {
		if old, ok := known[id]; ok && (old.Exit == nil || p.proc.Pid == 0) || len(p.fds) == 0 {
			continue
		}
		if first && k.state >= 0 {
			if err := c.AdoptState(ctx, k.state); errors.Is(err, ErrGone) {
				return nil, err
			} // else it is the very supervisor that was there before, and knows it
		}
		first = false
		if err := c.Adopt(ctx, &p.proc, p.fds); err != nil && !errs.Conflict.Is(err) {
			if errors.Is(err, ErrGone) {
				return nil, err
			}
			k.opts.Log.Error("adopt a process", "id", id, "err", err)
		}
	}
	if _, state, err := c.hello(ctx); err != nil {
		return nil, err
	} else {
		if k.state >= 0 {
			unix.Close(k.state)
		}
		k.state = state
	}
	for id, proc := range known {
		p := k.procs[id]
		if p == nil {
			p = &kept{proc: *proc, ended: proc.Exit != nil}
			if !p.ended {
				if p.fds, err = c.Fds(ctx, id); err != nil && !errs.NotFound.Is(err) && !errs.Conflict.Is(err) {
					return nil, err
				}
			}
			k.procs[id] = p
		}
	}
	watch, err := c.Watch(k.ctx)
	if err != nil {
		return nil, err
	}
	for id, p := range k.procs {
		if len(p.lost) == 0 && !p.paused {
			if err := c.Resume(ctx, id); errors.Is(err, ErrGone) {
				return nil, err
			}
		}
	}
	ok = true
	k.client, k.failure = c, nil
	close(k.ready)
	return watch, nil
}

// upgrade makes a supervisor of another build exec this engine's. One that cannot goes on as it is: it speaks a
// protocol that this engine knows, or Dial would have refused it.
func (k *Keeper) upgrade(ctx context.Context, c *Client) {
	h, err := c.Hello(ctx)
	if err != nil || k.opts.Build == "" || h.Build == k.opts.Build {
		return
	}
	program, err := k.opts.Program()
	if err == nil {
		defer program.Close()
		var init *os.File
		if init, err = k.opts.Init(); err == nil {
			defer init.Close()
			_, err = c.Upgrade(ctx, program, init, k.opts.Build)
		}
	}
	if err != nil {
		k.opts.Log.Warn("upgrade the supervisor", "err", err, "running", h.Build)
	}
}

// ended drops the fds of a process that has ended, except those through which output may still come.
func (k *Keeper) ended(e Exit) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.procs[e.ID]
	if p == nil {
		if k.launching[e.ID] == 0 {
			return // forgotten already
		}
		p = &kept{proc: Process{ID: e.ID}} // it was quicker than the launch's answer
		k.procs[e.ID] = p
	}
	p.ended = true
	p.proc.Exit = &e
	if fd, ok := p.fds[protocol.FdStdin]; ok {
		unix.Close(fd)
		delete(p.fds, protocol.FdStdin)
	}
}

// Hello asks which supervisor serves now.
func (k *Keeper) Hello(ctx context.Context) (h *Hello, err error) {
	err = k.again(ctx, func(c *Client) error { h, err = c.Hello(ctx); return err })
	return h, err
}

// use returns the supervisor's client, waiting for one while the supervisor is being brought back.
func (k *Keeper) use(ctx context.Context) (*Client, error) {
	for {
		k.mu.Lock()
		c, ready, failure := k.client, k.ready, k.failure
		k.mu.Unlock()
		if c != nil {
			return c, nil
		}
		select {
		case <-ready:
		case <-ctx.Done():
			if failure != nil {
				return nil, fmt.Errorf("%w: %w", ErrGone, failure)
			}
			return nil, ctx.Err()
		case <-k.ctx.Done():
			return nil, ErrGone
		}
	}
}

// again runs an idempotent request until it has met a supervisor that lived through it.
func (k *Keeper) again(ctx context.Context, do func(*Client) error) error {
	for {
		c, err := k.use(ctx)
		if err != nil {
			return err
		}
		if err = do(c); !errors.Is(err, ErrGone) || ctx.Err() != nil {
			return err
		}
		k.await(ctx, c)
	}
}

// await waits until c, whose supervisor seems dead, is no longer the current client; but not long: the
// supervisor may live, and only the connection be lost.
func (k *Keeper) await(ctx context.Context, c *Client) {
	for range 20 {
		k.mu.Lock()
		same := k.client == c
		k.mu.Unlock()
		if !same {
			return
		}
		select { // run notices by its own connection, within microseconds
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return
		case <-k.ctx.Done():
			return
		}
	}
}

// Processes returns what is kept: all processes that have not been forgotten.
func (k *Keeper) Processes() []Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]Process, 0, len(k.procs))
	for _, p := range k.procs {
		list = append(list, p.proc)
	}
	return list
}

// Process returns one process, and whether it is known.
func (k *Keeper) Process(id string) (Process, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.procs[id]; p != nil {
		return p.proc, true
	}
	return Process{}, false
}

// Launch starts a process; payload is as Client.Launch's. It returns when the program runs. If it could not be
// run, the error is a *LaunchError. When ctx ends before that, the process is killed, and Launch still returns what came of it. With paused, no output is read before Resume: Attach between the two sees all of it.
func (k *Keeper) Launch(ctx context.Context, l *spec.Launch, payload any, paused bool) (*Process, error) {
	c, err := k.use(ctx)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.launching[l.ID]++
	k.mu.Unlock()
	// A launch that nobody waits for any more is ended by a kill, not left behind: what came of it must be known.
	stop := context.AfterFunc(ctx, func() { c.Signal(k.ctx, l.ID, int(unix.SIGKILL)) })
	proc, fds, err := c.Launch(context.WithoutCancel(ctx), l, payload, LaunchOptions{Paused: paused})
	stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.launching[l.ID]--; k.launching[l.ID] == 0 {
		delete(k.launching, l.ID)
	}
	if err != nil {
		return nil, err
	}
	p := k.procs[l.ID]
	if p == nil {
		p = &kept{}
		k.procs[l.ID] = p
	}
	exit := p.proc.Exit // it may have ended before this goroutine came here
	p.proc, p.fds, p.paused = *proc, fds, paused
	if exit != nil {
		p.proc.Exit = exit
	}
	return proc, nil
}

// Resume lets the output of a paused process flow.
func (k *Keeper) Resume(ctx context.Context, id string) error {
	k.mu.Lock()
	if p := k.procs[id]; p != nil {
		p.paused = false
		if len(p.lost) > 0 {
			k.mu.Unlock()
			return nil // when its readers are back
		}
	}
	k.mu.Unlock()
	return k.again(ctx, func(c *Client) error { return c.Resume(ctx, id) })
}

func noProcess(id string) error { return errs.NotFound.Errorf("no process %s", id) }

// fd returns a duplicate of one of the process's fds.
func (k *Keeper) fd(id string, names ...string) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.procs[id]
	if p == nil {
		return -1, noProcess(id)
	}
	for _, name := range names {
		if fd, ok := p.fds[name]; ok {
			return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		}
	}
	return -1, errs.Conflict.Errorf("process %s has no %s", id, names[0])
}

// Signal sends a signal through the pidfd; it needs no supervisor. The error is of kind Conflict if the process has ended.
func (k *Keeper) Signal(id string, sig unix.Signal) error {
	fd, err := k.fd(id, protocol.FdPid)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if err == unix.ESRCH {
		return errs.Conflict.Errorf("process %s has ended", id)
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

// Resize sets the size of the process's terminal, in characters; it needs no supervisor.
func (k *Keeper) Resize(id string, height, width uint16) error {
	fd, err := k.fd(id, protocol.FdPty)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return os.NewSyscallError("ioctl TIOCSWINSZ", unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: height, Col: width}))
}

// Stdin returns a file to write the process's stdin (or terminal) with. It is the caller's to close; the process
// reads end of file only after CloseStdin and when all files returned here are closed.
func (k *Keeper) Stdin(id string) (*os.File, error) {
	fd, err := k.fd(id, protocol.FdStdin, protocol.FdPty)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "stdin"), nil // nonblocking, so the runtime's poller takes it
}

// CloseStdin lets the process read end of file. On a terminal it does nothing.
func (k *Keeper) CloseStdin(ctx context.Context, id string) error {
	k.mu.Lock()
	if p := k.procs[id]; p != nil {
		if fd, ok := p.fds[protocol.FdStdin]; ok {
			unix.Close(fd)
			delete(p.fds, protocol.FdStdin)
		}
	}
	k.mu.Unlock()
	return k.again(ctx, func(c *Client) error { return c.CloseStdin(ctx, id) })
}

// Forget drops an ended process, see Client.Forget; one that is not known is no error.
func (k *Keeper) Forget(ctx context.Context, id string) error {
	err := k.again(ctx, func(c *Client) error { return c.Forget(ctx, id) })
	if err != nil && !errs.NotFound.Is(err) {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.procs[id]; p != nil {
		closeAll(p.fds)
		delete(k.procs, id)
	}
	return nil
}

// Quit ends the supervisor, if it holds no running process, and closes the keeper.
func (k *Keeper) Quit(ctx context.Context) error {
	c, err := k.use(ctx)
	if err != nil {
		return err
	}
	k.stop() // first, so that run does not start another
	k.done.Wait()
	pidfd := -1
	if h, err := c.Hello(ctx); err == nil {
		pidfd, _ = unix.PidfdOpen(h.Pid, 0)
	}
	if err = c.Quit(ctx); err == nil && pidfd >= 0 {
		// Its answer comes before its end. Whoever waits for this process's shall find none of that one's files and mounts busy.
		component.Ended(pidfd)
	}
	if pidfd >= 0 {
		unix.Close(pidfd)
	}
	k.Close()
	return err
}
