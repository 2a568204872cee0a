package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/memfd"
	"gantry/internal/kernel/message"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor/protocol"
)

// ErrGone says that the supervisor died, or was not there, while a request was under way: whether the request took
// effect is not known. The Keeper brings the supervisor back; asking again later may help.
var ErrGone = errs.Unavailable.Errorf("the supervisor is gone")

// LaunchError is the error of a process that could not be started because init, or the kernel on its behalf, said no.
type LaunchError struct{ spec.Failure }

// Error returns the text for the user, in the words that Docker's users know.
func (e *LaunchError) Error() string { return e.Message }

// Client speaks to one supervisor. Its methods may be called from any goroutine: each call has a connection
// to itself, so that a slow one holds up no other. Most users want a Keeper, which also holds what must survive the supervisor.
type Client struct {
	execRoot string
	version  int // the one to speak: the older of the two sides'

	mu     sync.Mutex
	idle   []*message.Conn
	closed bool
}

const maxIdle = 4 // connections kept for the next calls

// Dial connects to the supervisor that listens in execRoot and checks that it speaks a version known here.
func Dial(execRoot string) (*Client, error) {
	c := &Client{execRoot: execRoot, version: protocol.Version}
	h, err := c.Hello(context.Background())
	if err != nil {
		return nil, err
	}
	if h.Protocol < protocol.Version-1 || h.Protocol > protocol.Version+1 {
		c.Close()
		return nil, fmt.Errorf("supervisor speaks protocol %d, this engine %d", h.Protocol, protocol.Version)
	}
	c.version = min(c.version, h.Protocol)
	return c, nil
}

// Close closes the idle connections. The supervisor and its processes go on.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, conn := range c.idle {
		conn.Close()
	}
	c.idle = nil
}

func (c *Client) get() (conn *message.Conn, reused bool, err error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		conn = c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, true, nil
	}
	c.mu.Unlock()
	conn, err = c.dial()
	return conn, false, err
}

// dial connects.
func (c *Client) dial() (*message.Conn, error) {
	conn, err := message.Dial(c.execRoot, protocol.SocketName)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGone, err)
	}
	return conn, nil
}

func (c *Client) put(conn *message.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= maxIdle {
		conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// call sends a request with fds and returns the reply with the fds of its FdNames, which the caller then owns.
func (c *Client) call(ctx context.Context, req *protocol.Request, fds []int) (*protocol.Reply, map[string]int, error) {
	req.Version = c.version
	body, err := json.Marshal(req)
	if err != nil {
		return nil, nil, err
	}
	for {
		conn, reused, err := c.get()
		if err != nil {
			return nil, nil, err
		}
		stop := context.AfterFunc(ctx, func() { conn.Deadline(time.Unix(1, 0)) })
		if err := conn.Send(body, fds); err != nil {
			conn.Close()
			stop()
			if reused && ctx.Err() == nil {
				continue // an idle connection of a supervisor that died meanwhile: nothing was asked yet
			}
			return nil, nil, gone(ctx, err)
		}
		reply, got, err := receive(conn)
		if !stop() || err != nil {
			conn.Close()
			if err != nil {
				return nil, nil, gone(ctx, err)
			}
		} else {
			c.put(conn)
		}
		named := make(map[string]int, len(got))
		for i, fd := range got {
			if i < len(reply.FdNames) {
				named[reply.FdNames[i]] = fd
			} else {
				unix.Close(fd)
			}
		}
		if reply.Failure != nil {
			closeAll(named)
			return nil, nil, &LaunchError{*reply.Failure}
		}
		if reply.Error != "" {
			closeAll(named)
			return nil, nil, replyError(reply)
		}
		return reply, named, nil
	}
}

// receive reads one reply and the fds that came with it.
func receive(conn *message.Conn) (*protocol.Reply, []int, error) {
	body, fds, err := conn.Receive()
	if err != nil {
		return nil, nil, err
	}
	r := new(protocol.Reply)
	if err := json.Unmarshal(body, r); err != nil {
		message.CloseAll(fds)
		return nil, nil, err
	}
	return r, fds, nil
}

func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", ErrGone, err)
}

func closeAll(fds map[string]int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// replyError turns the reply's error into one of the kind that its code says.
func replyError(r *protocol.Reply) error {
	kind := errs.Internal
	switch r.Code {
	case protocol.CodeNotFound:
		kind = errs.NotFound
	case protocol.CodeConflict:
		kind = errs.Conflict
	case protocol.CodeInvalid:
		kind = errs.Invalid
	}
	return kind.Wrap(errors.New(r.Error))
}

// Hello asks who is there.
func (c *Client) Hello(ctx context.Context) (*Hello, error) {
	h, state, err := c.hello(ctx)
	if err == nil {
		unix.Close(state)
	}
	return h, err
}

// hello returns also the supervisor's state memory, which the caller owns.
func (c *Client) hello(ctx context.Context) (*Hello, int, error) {
	r, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpHello}, nil)
	if err != nil {
		return nil, -1, err
	}
	state, ok := fds[protocol.FdState]
	if r.Hello == nil || !ok {
		closeAll(fds)
		return nil, -1, errors.New("supervisor: a hello without contents")
	}
	return r.Hello, state, nil
}

// LaunchOptions are the rarer wishes about a Launch.
type LaunchOptions struct {
	Paused bool // see Request.Paused
}

// Payload returns what init is told when that is still to be made. It may take its time: init is started meanwhile. With
// its error, which Launch returns, the start is given up.
type Payload func() (any, error)

// Launch starts a process; payload is a spec.Init or spec.Exec, or its JSON as []byte, or a Payload that returns one of them. It returns when the program runs, with the process's fds by name (protocol.FdPid, …), which the
// caller owns. If the program could not be run the error is a *LaunchError. It does not return before payload does.
func (c *Client) Launch(ctx context.Context, l *spec.Launch, payload any, opts LaunchOptions) (*Process, map[string]int, error) {
	source, ok := payload.(Payload)
	if !ok {
		source = func() (any, error) { return payload, nil }
	}
	var fd int
	var given <-chan error
	broken := make(chan struct{}) // closed when nobody is left to launch for
	// In a user namespace init could not write into the host's cgroup files: there the supervisor moves itself, when all of them are there.
	if c.version < 2 || l.Clone&unix.CLONE_NEWUSER != 0 {
		f, err := payloadFile(source)
		if err != nil {
			return nil, nil, err
		}
		defer f.Close()
		fd = int(f.Fd())
		given = nothingAmiss()
	} else {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, nil, os.NewSyscallError("socketpair", err)
		}
		defer unix.Close(pair[1])
		fd = pair[1]
		given = give(pair[0], source, l.Cgroup.Tasks, broken)
		outer := *l
		outer.Cgroup.Tasks, outer.Cgroup.Home = nil, nil
		l = &outer
	}
	r, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpLaunch, Launch: l, Paused: opts.Paused, FdNames: []string{protocol.FdInit}}, []int{fd})
	if err != nil {
		close(broken)
	}
	if unable := <-given; unable != nil {
		closeAll(fds)
		return nil, nil, unable
	}
	if err != nil {
		return nil, nil, err
	}
	if r.Process == nil {
		closeAll(fds)
		return nil, nil, errors.New("supervisor: a launch without a process")
	}
	return r.Process, fds, nil
}

func nothingAmiss() <-chan error {
	c := make(chan error)
	close(c)
	return c
}

// give sends the payload to init by sock, which it closes; what comes is why there was nothing to send. Once the launch is broken
// nothing is sent: an init whose supervisor died would start the program all the same, as nobody's child.
func give(sock int, payload Payload, tasks []string, broken <-chan struct{}) <-chan error {
	given := make(chan error, 1)
	go func() {
		defer close(given)
		defer unix.Close(sock)
		f, err := payloadFile(payload)
		if err != nil {
			given <- err
			return
		}
		defer f.Close()
		select {
		case <-broken:
			return
		default:
		}
		var paths strings.Builder
		for _, t := range tasks {
			paths.WriteString(t + "\n")
		}
		if paths.Len() > spec.TasksMax {
			given <- errors.New("the paths of the cgroups are too long")
			return
		}
		if paths.Len() == 0 {
			paths.WriteString("\n") // SCM_RIGHTS want a byte to travel with
		}
		// Nobody may be there to take it: the launch's own reply says why.
		_ = unix.Sendmsg(sock, []byte(paths.String()), unix.UnixRights(int(f.Fd())), nil, unix.MSG_NOSIGNAL)
	}()
	return given
}

func payloadFile(payload Payload) (*os.File, error) {
	v, err := payload()
	if err != nil {
		return nil, err
	}
	raw, ok := v.([]byte)
	if !ok {
		if raw, err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	return memfd.New("gantry-init-spec", raw, false)
}

// AdoptState gives the state memory of a supervisor that died to this one; it comes before the first Adopt.
func (c *Client) AdoptState(ctx context.Context, state int) error {
	_, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpAdopt, FdNames: []string{protocol.FdState}}, []int{state})
	closeAll(fds)
	return err
}

// Adopt gives a process, whose supervisor died, to this one. Its streams stay still until Resume.
func (c *Client) Adopt(ctx context.Context, p *Process, fds map[string]int) error {
	req := &protocol.Request{Op: protocol.OpAdopt, Process: p}
	var list []int
	for name, fd := range fds {
		req.FdNames = append(req.FdNames, name)
		list = append(list, fd)
	}
	_, got, err := c.call(ctx, req, list)
	closeAll(got)
	return err
}

// Resume lets the streams of a paused or adopted process flow.
func (c *Client) Resume(ctx context.Context, id string) error {
	_, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpResume, ID: id}, nil)
	closeAll(fds)
	return err
}

// List returns all processes that have not been forgotten, ended ones with their Exit.
func (c *Client) List(ctx context.Context) ([]Process, error) {
	r, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpList}, nil)
	if err != nil {
		return nil, err
	}
	return r.Processes, nil
}

// Signal sends signal number sig to the process. The error is of kind Conflict if it has ended.
func (c *Client) Signal(ctx context.Context, id string, sig int) error {
	_, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpSignal, ID: id, Signal: sig}, nil)
	return err
}

// Resize sets the size of the process's terminal, in characters.
func (c *Client) Resize(ctx context.Context, id string, height, width uint16) error {
	_, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpResize, ID: id, Height: height, Width: width}, nil)
	return err
}

// Fds returns duplicates of the process's fds by name; the caller owns them.
func (c *Client) Fds(ctx context.Context, id string) (map[string]int, error) {
	_, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpFds, ID: id}, nil)
	return fds, err
}

// CloseStdin closes the supervisor's write end of stdin: with no duplicate elsewhere, the process reads end of file.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpCloseIn, ID: id}, nil)
	return err
}

// Forget drops an ended process: what it wrote is in the log, its exit code has been recorded by the caller. Attached
// readers get the rest of the output that is there, then the end, even if a process that inherited the stream still holds it.
func (c *Client) Forget(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpForget, ID: id}, nil)
	return err
}

// Attach asks for the output of a process. The socket carries frames: see Attachment. From nil means from now on; the
// offsets returned are those of the first byte that will come, of stdout and stderr.
func (c *Client) Attach(ctx context.Context, id string, stdout, stderr bool, from []uint64) (socket int, offsets []uint64, err error) {
	r, fds, err := c.call(ctx, &protocol.Request{Op: protocol.OpAttach, ID: id, Stdout: stdout, Stderr: stderr, Offsets: from}, nil)
	if err != nil {
		return -1, nil, err
	}
	socket, ok := fds[protocol.FdSocket]
	if !ok || len(r.Offsets) != 2 {
		closeAll(fds)
		return -1, nil, errors.New("supervisor: an attach without a socket")
	}
	return socket, r.Offsets, nil
}

// Quit ends the supervisor if it holds no running process; the error is of kind Conflict if it does.
func (c *Client) Quit(ctx context.Context) error {
	_, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpQuit}, nil)
	return err
}

// Upgrade makes the supervisor exec a new program, and use a new init from then on. It returns when the new one answers.
// If the new program cannot take over, the old one goes on and the error says why.
func (c *Client) Upgrade(ctx context.Context, program, init *os.File, build string) (*Hello, error) {
	r, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpUpgrade, Build: build, FdNames: []string{protocol.FdProgram, protocol.FdInit}}, []int{int(program.Fd()), int(init.Fd())})
	if err != nil {
		return nil, err
	}
	return r.Hello, nil
}

// Watch returns a channel of exits: first those that have not been forgotten, then each as it happens. It is closed when
// the supervisor dies or ctx ends.
func (c *Client) Watch(ctx context.Context) (<-chan Exit, error) {
	conn, err := c.dial()
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(&protocol.Request{Version: c.version, Op: protocol.OpWatch})
	if err != nil {
		return nil, err
	}
	if err := conn.Send(body, nil); err != nil {
		conn.Close()
		return nil, gone(ctx, err)
	}
	if r, _, err := receive(conn); err != nil || r.Error != "" { // the acknowledgement: from here on no exit is missed
		conn.Close()
		if err == nil {
			err = replyError(r)
		}
		return nil, gone(ctx, err)
	}
	ch := make(chan Exit, 16)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		defer close(ch)
		defer stop()
		defer conn.Close()
		for {
			r, _, err := receive(conn)
			if err != nil {
				return
			}
			if r.Exit == nil {
				continue
			}
			select {
			case ch <- *r.Exit:
			case <-ctx.Done():
				return
			}
		}
	}()
	return ch, nil
}
