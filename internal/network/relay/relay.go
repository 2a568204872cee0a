// Package relay is the engine's side of the small process that holds the sockets which must not close with the engine:
// name servers in containers, relayed ports, and those that keep published ports. The process itself is package server
// below this one; what the two say to each other is package protocol.
//
// The Keeper holds duplicates of all sockets and knows what the relay is to know. So a relay that was killed is followed by
// another that gets all of it, and an engine that starts takes over what the relay of the one before holds.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/message"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/relay/protocol"
	"gantry/internal/runtime/component"
	"gantry/internal/runtime/spec"
)

// What the protocol and the engine name alike.
type (
	Sandbox = protocol.Sandbox
	Network = protocol.Network
	Hello   = protocol.Hello
)

// Port is a published port with its socket.
type Port struct {
	protocol.Port
	Fd int
}

// NewPort makes a Port; an invalid target is none.
func NewPort(proto string, host, target netip.AddrPort, fd int) Port {
	return Port{Port: protocol.Port{Proto: proto, Host: host, Target: target}, Fd: fd}
}

// Options say where the relay lives and what it is. The functions are called when one has to be started.
type Options struct {
	Dir     string                          // an existing directory, 0700: the exec-root
	Host    *netns.Namespace                // where it is born
	Cgroup  func() (spec.Cgroup, error)     // likewise; its Home is the engine's own tasks files
	Program func() (*os.File, error)        // a sealed memfd
	Build   func() (digest string, _ error) // of the program; a relay of another one is upgraded
	Log     *slog.Logger
}

// Keeper is the engine's hold on the relay. A relay is started when there is something to hold. Its methods may be called
// from any goroutine.
type Keeper struct {
	opts Options

	found   map[string]*box // what the relay held at the beginning, until it is claimed
	foundAt int             // its pid

	begin sync.Once
	tasks chan *task
	stop  chan struct{}
	ended chan struct{}
	want  map[string]*box // run's own: what the relay is to hold

	mu    sync.Mutex
	hello *Hello // of the relay that serves now
}

// box is a sandbox with its sockets.
type box struct {
	rec      Sandbox
	udp, tcp int // of the name server; -1: it has none
	ports    []Port
	at       int // the pid of the relay that has these sockets; 0: none
}

// has reports whether p's very socket is among the box's.
func (b *box) has(p Port) bool {
	return slices.ContainsFunc(b.ports, func(o Port) bool { return o.Fd == p.Fd })
}

func (b *box) close() {
	if b.udp >= 0 {
		unix.Close(b.udp)
		unix.Close(b.tcp)
	}
	for _, p := range b.ports {
		unix.Close(p.Fd)
	}
}

// task is one change of want.
type task struct {
	id   string
	box  *box // nil: drop
	fds  bool // the box brings sockets; without, those that are there stay
	done chan error
}

// Open finds the relay of opts.Dir, if there is one, and takes hold of what it holds.
func Open(opts Options) (*Keeper, error) {
	k := &Keeper{opts: opts, found: make(map[string]*box), want: make(map[string]*box),
		tasks: make(chan *task), stop: make(chan struct{}), ended: make(chan struct{})}
	c, err := dial(opts.Dir)
	if errors.Is(err, errGone) {
		return k, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.close()
	k.foundAt = c.hello.Pid
	list, err := c.list()
	for i := range list {
		var b *box
		if b, err = c.take(&list[i]); err != nil {
			break
		}
		k.found[b.rec.ID] = b
	}
	if err != nil && !errors.Is(err, errGone) {
		return nil, err
	}
	return k, nil
}

// Has tells what the relay of the engine before holds for a sandbox: whether a name server, and which ports' sockets. What is
// not claimed by Adopt is closed.
func (k *Keeper) Has(id string) (resolver bool, ports []Port) {
	b := k.found[id]
	if b == nil {
		return false, nil
	}
	return b.udp >= 0, b.ports
}

// Adopt claims what Has told of, and adds to it what is missing: udp and tcp, or -1, and ports. It comes before any Set or Drop.
func (k *Keeper) Adopt(rec Sandbox, udp, tcp int, ports []Port) {
	b := &box{rec: rec, udp: udp, tcp: tcp, ports: ports}
	if udp < 0 && !slices.ContainsFunc(ports, func(p Port) bool { return k.found[rec.ID] == nil || !k.found[rec.ID].has(p) }) {
		b.at = k.foundAt
	}
	if old := k.found[rec.ID]; old != nil {
		delete(k.found, rec.ID)
		if b.udp < 0 {
			b.udp, b.tcp, old.udp, old.tcp = old.udp, old.tcp, -1, -1
		}
		old.ports = slices.DeleteFunc(old.ports, func(o Port) bool { return b.has(o) })
		old.close()
	}
	k.want[rec.ID] = b
}

// Begin brings the relay in line with what was adopted, behind. Set and Drop do it, too.
func (k *Keeper) Begin() {
	k.begin.Do(func() {
		for id, b := range k.found {
			b.close()
			delete(k.found, id)
		}
		go k.run()
	})
}

// Give has sockets held for a sandbox, besides those that are: udp and tcp are its name server's, or -1; those and the
// ports' become the Keeper's. What it returns waits until the relay has them.
func (k *Keeper) Give(rec Sandbox, udp, tcp int, ports []Port) (wait func(context.Context) error) {
	return k.do(&task{id: rec.ID, box: &box{rec: rec, udp: udp, tcp: tcp, ports: ports}, fds: true})
}

// Change changes what the relay knows of a sandbox, and where its ports lead. One that is not held is left alone.
func (k *Keeper) Change(rec Sandbox, ports []Port) (wait func(context.Context) error) {
	return k.do(&task{id: rec.ID, box: &box{rec: rec, udp: -1, tcp: -1, ports: ports}})
}

// Drop closes all that is held for a sandbox.
func (k *Keeper) Drop(id string) (wait func(context.Context) error) {
	return k.do(&task{id: id})
}

// Settle waits until all that was asked before is done, and a relay serves if one is needed.
func (k *Keeper) Settle(ctx context.Context) error { return k.Drop("")(ctx) }

// do hands a task to run, in the order of the calls.
func (k *Keeper) do(t *task) func(context.Context) error {
	k.Begin()
	t.done = make(chan error, 1)
	select {
	case k.tasks <- t:
	case <-k.ended:
		t.done <- errGone
		if t.box != nil {
			t.box.close()
		}
	}
	return func(ctx context.Context) error {
		select {
		case err := <-t.done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run keeps the relay in line with want.
func (k *Keeper) run() {
	defer close(k.ended)
	var c *client
	var gone <-chan answer     // of c
	var retry <-chan time.Time // while there is none, and should be
	pause := 10 * time.Millisecond
	bring := func() error {
		var err error
		if c, err = k.connect(); err == nil {
			gone, retry, pause = c.replies, nil, 10*time.Millisecond
			return nil
		}
		k.opts.Log.Error("names and relayed ports of containers are not served", "err", err)
		c, gone = nil, nil
		retry, pause = time.After(pause), min(2*pause, 5*time.Second)
		return err
	}
	lost := func() {
		k.said(nil)
		if c != nil {
			c.close()
		}
		c, gone = nil, nil
	}
	defer lost()
	// One that is there may hold what nobody wants.
	if len(k.want) > 0 || k.there() {
		bring()
	}
	for {
		select {
		case t := <-k.tasks:
			k.apply(t)
			if c == nil && len(k.want) == 0 {
				t.done <- nil
				continue
			}
			var err error
			if c == nil {
				err = bring()
			} else if err = k.tell(c, t); err == nil && t.box != nil && k.want[t.id] == t.box {
				t.box.at = c.hello.Pid
			} else if errors.Is(err, errGone) {
				lost()
				k.opts.Log.Warn("the relay died; starting another")
				err = bring()
			}
			t.done <- err
		case a := <-gone:
			message.CloseAll(a.fds) // an answer that came too late, if any
			lost()
			if len(k.want) == 0 {
				continue
			}
			k.opts.Log.Warn("the relay died; starting another")
			bring()
		case <-retry:
			bring()
		case <-k.stop:
			if c != nil && len(k.want) == 0 {
				k.quit(c)
			}
			return
		}
	}
}

func (k *Keeper) there() bool {
	c, err := dial(k.opts.Dir)
	if err == nil {
		c.close()
	}
	return err == nil
}

// apply makes a task's change of want.
func (k *Keeper) apply(t *task) {
	old := k.want[t.id]
	switch {
	case t.box == nil:
		delete(k.want, t.id)
		if old != nil {
			old.close()
		}
	case old == nil && t.fds:
		k.want[t.id] = t.box // which the relay is told of, or gets with all others
	case t.fds:
		if old.rec = t.box.rec; t.box.udp >= 0 {
			(&box{udp: old.udp, tcp: old.tcp}).close()
			old.udp, old.tcp = t.box.udp, t.box.tcp
		}
		old.ports = append(old.ports, t.box.ports...)
	case old != nil:
		old.rec = t.box.rec
		for _, p := range t.box.ports {
			for i := range old.ports {
				if o := &old.ports[i]; o.Proto == p.Proto && o.Host == p.Host {
					o.Target, o.Keep, o.Near = p.Target, p.Keep, p.Near
				}
			}
		}
	}
}

// tell tells the relay of a task.
func (k *Keeper) tell(c *client, t *task) error {
	b := k.want[t.id]
	if b == nil {
		_, _, err := c.call(&protocol.Request{Op: protocol.OpDrop, ID: t.id}, nil)
		return err
	}
	if t.fds {
		// The rest it has.
		return c.put(&box{rec: b.rec, udp: t.box.udp, tcp: t.box.tcp, ports: t.box.ports}, true)
	}
	return c.put(b, false)
}

// connect finds or starts a relay and gives it all that is wanted, and nothing else.
func (k *Keeper) connect() (*client, error) {
	c, err := dial(k.opts.Dir)
	if errors.Is(err, errGone) {
		if err = start(&k.opts, time.Now().Add(deadline)); err == nil {
			c, err = dial(k.opts.Dir)
		}
	}
	if err == nil {
		c, err = k.upgrade(c)
	}
	if err != nil {
		return nil, err
	}
	list, err := c.list()
	for i := range list {
		if err == nil && k.want[list[i].ID] == nil {
			_, _, err = c.call(&protocol.Request{Op: protocol.OpDrop, ID: list[i].ID}, nil)
		}
	}
	// First all that is to be known, then where it is asked for: a name that has not come yet would be denied.
	for _, b := range k.want {
		if err == nil {
			err = c.know(b)
		}
	}
	for _, b := range k.want {
		if err == nil {
			// What it has already it must not get again: answers of relayed ports that are under way would be lost.
			if err = c.put(b, b.at != c.hello.Pid); err == nil {
				b.at = c.hello.Pid
			}
		}
	}
	if err != nil {
		c.close()
		return nil, err
	}
	k.said(&c.hello)
	return c, nil
}

// upgrade makes a relay of another build exec this engine's, and connects to that. One that cannot goes on as it is: it
// speaks a protocol that this engine knows.
func (k *Keeper) upgrade(c *client) (*client, error) {
	build, err := k.opts.Build()
	if err != nil || c.hello.Build == build {
		return c, nil
	}
	program, err := k.opts.Program()
	if err != nil {
		return c, nil
	}
	defer program.Close()
	_, _, err = c.call(&protocol.Request{Op: protocol.OpUpgrade, Build: build, FdNames: []string{protocol.FdProgram}}, []int{int(program.Fd())})
	if !errors.Is(err, errGone) {
		k.opts.Log.Warn("upgrade the relay", "err", err, "running", c.hello.Build)
		return c, nil
	}
	c.close() // with the program that answered here
	next, err := dial(k.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("after an upgrade: %w", err)
	}
	return next, nil
}

func (k *Keeper) said(h *Hello) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hello = h
}

// Hello tells which relay serves; nil is none.
func (k *Keeper) Hello() *Hello {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hello
}

// quit ends the relay, and waits for its end: whoever waits for this process's shall find none of its files busy.
func (k *Keeper) quit(c *client) {
	pidfd, err := unix.PidfdOpen(c.hello.Pid, 0)
	if err != nil {
		pidfd = -1
	}
	if _, _, err := c.call(&protocol.Request{Op: protocol.OpQuit}, nil); err != nil {
		k.opts.Log.Debug("the relay goes on", "why", err)
	} else if pidfd >= 0 {
		component.Ended(pidfd)
	}
	if pidfd >= 0 {
		unix.Close(pidfd)
	}
}

// Close lets go: the relay goes on with what it holds. One that holds nothing ends.
func (k *Keeper) Close() {
	k.Begin()
	close(k.stop)
	<-k.ended
	for _, b := range k.want {
		b.close()
	}
}
