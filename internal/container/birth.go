package container

import (
	"errors"

	"gantry/internal/errs"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/runtime"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// birth is the launch of a container's first process. It begins as soon as there is a cgroup for it, and init gets ready while what
// it needs is still being made; then it is told.
type birth struct {
	c      *container
	launch *spec.Launch
	early  []*attachment // those who came before the process; it is paused until they have joined

	begun bool
	tell  chan *spec.Init // one for init; closed without: the start is given up
	done  chan struct{}   // closed when these are set:
	p     *supervisor.Process
	err   error
}

var errGivenUp = errors.New("the start was given up")

func (c *container) newBirth(l *spec.Launch) *birth {
	return &birth{c: c, launch: l, early: c.takeEarly(), tell: make(chan *spec.Init, 1), done: make(chan struct{})}
}

// begin asks the supervisor for the process, to be born in cg.
func (b *birth) begin(cg spec.Cgroup) {
	b.begun = true
	b.launch.Cgroup = cg
	go func() {
		defer close(b.done)
		b.c.behind.Wait()
		b.p, b.err = b.ask(supervisor.Payload(func() (any, error) {
			if init, ok := <-b.tell; ok {
				return init, nil
			}
			return nil, errGivenUp
		}))
	}()
}

func (b *birth) ask(payload any) (*supervisor.Process, error) {
	return b.c.s.Processes.Launch(b.c.s.ctx, b.launch, payload, len(b.early) > 0)
}

// finish tells init what plan says, and returns when the program runs, with those attached who came before it.
func (b *birth) finish(plan *runtime.Input, group *cgroup.Group) (*supervisor.Process, error) {
	c, s := b.c, b.c.s
	_, init, warnings, err := s.Builder.Build(plan)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		s.Log.Debug(w, "container", c.id)
	}
	b.tell <- init
	<-b.done
	if errors.Is(b.err, supervisor.ErrGone) {
		// It died under the launch. Whether there is a process now is not known: what is in the cgroup goes.
		if err := group.Kill(); err != nil {
			return nil, err
		}
		b.p, b.err = b.ask(init)
	}
	if b.err != nil {
		return nil, b.err
	}
	if len(b.early) > 0 {
		// Whoever asked for the start need not wait for this; who is attached does, and the end of the process.
		c.asking(func() {
			for _, a := range b.early {
				a.join(s.ctx, s.Processes, c.id)
			}
			if err := s.Processes.Resume(s.ctx, c.id); err != nil && !errs.NotFound.Is(err) {
				s.Log.Warn("the output of a new container is held up", "container", c.id, "err", err)
			}
		})
	}
	return b.p, nil
}

// giveUp undoes a birth, in whatever state; it returns when the supervisor has no process that waits.
func (b *birth) giveUp() {
	if b.begun {
		close(b.tell)
		<-b.done
	}
	for _, a := range b.early {
		a.finish(nil)
	}
}
