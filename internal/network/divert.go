package network

import (
	"errors"
	"hash/fnv"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netlink"
)

// With the publish-policy "firewall" the relay stands between clients and containers, and wears the clients' addresses
// towards these. What the containers answer is for those addresses, but must come back to the relay: the firewall marks it
// (firewall.Table.Divert), and a rule of routing leads what is marked to a table in which every address is the host's. Mark
// and table have one number, the engine's own. All this is there while a port is published so; whoever flushes rules of routing
// (`ip rule flush`, some network managers at their start) finds them made again at once.

// divert is that rule. Its priority is before those that VPNs make.
func (s *Service) divert() *link.Divert {
	h := fnv.New32a()
	h.Write([]byte(s.Table))
	return &link.Divert{Mark: 0x67<<24 | h.Sum32()&(1<<24-1), Priority: 90}
}

// relays reports whether a port of j is published for the relay alone.
func (j *joined) relays() bool {
	for _, b := range j.Bindings {
		if b.Relayed {
			return true
		}
	}
	return false
}

// divertFor makes ready for j. Where the kernel cannot do it, the relay wears the host's address.
func (s *Service) divertFor(j *joined) {
	if !j.relays() {
		return
	}
	s.diverting.Lock()
	defer s.diverting.Unlock()
	d := s.divert()
	s.guardDivert(d)
	err := s.Options.Host.Links().AddDivert(d)
	if err == nil {
		err = s.table.Divert(d.Mark)
	}
	if err != nil {
		if !s.failedDivert {
			s.Log.Warn("containers will not see their clients' addresses at ports that are published with the policy \"firewall\"", "err", err)
		}
		s.failedDivert = true
		if !s.diverts.Load() { // else it is there for others, and goes on
			s.undivert()
		}
		return
	}
	s.diverts.Store(true)
}

// undivertWithout takes all of it back when nobody but j needs it, nor anybody else who is leaving at the same time.
func (s *Service) undivertWithout(j *joined) {
	if !j.relays() {
		return
	}
	s.diverting.Lock()
	defer s.diverting.Unlock()
	s.mu.Lock()
	j.leaving = true
	for _, o := range s.joined {
		if !o.leaving && o.relays() {
			s.mu.Unlock()
			return
		}
	}
	s.mu.Unlock()
	s.undivert()
}

func (s *Service) undivert() {
	s.diverts.Store(false)
	s.endGuard()
	if err := s.table.Divert(0); err != nil {
		s.Log.Warn("marking diverted packets goes on", "err", err)
	}
	if err := s.Options.Host.Links().DeleteDivert(s.divert()); err != nil {
		s.Log.Warn("a rule of routing stays", "err", err)
	}
}

// guard is what restores the rule of routing.
type guard struct {
	watch *netlink.Conn
	stop  *netlink.Stop
	ended chan struct{}
}

// guardDivert begins to look after d's rule and table, before they are made. s.diverting is held.
func (s *Service) guardDivert(d *link.Divert) {
	if s.guard != nil {
		return
	}
	g := &guard{ended: make(chan struct{})}
	err := s.Options.Host.Do(func() (err error) {
		g.watch, err = link.MonitorRouting()
		return err
	})
	if err == nil {
		if g.stop, err = netlink.NewStop(); err != nil {
			g.watch.Close()
		}
	}
	if err != nil {
		s.Log.Warn("the rule of routing for diverted connections is not guarded against being flushed", "err", err)
		return
	}
	s.guard = g
	go func() {
		defer close(g.ended)
		for {
			took := false
			err := g.watch.Receive(g.stop, func(m netlink.Message) { took = took || d.Took(m) })
			switch {
			case errors.Is(err, netlink.ErrStopped):
				return
			case errors.Is(err, unix.ENOBUFS):
			case err != nil:
				s.Log.Warn("the rule of routing for diverted connections is no longer guarded against being flushed", "err", err)
				return
			case !took:
				continue
			}
			// What is there stays as it is. (It cannot be our own end that was seen: the guard ends before that.)
			if err := s.Options.Host.Links().AddDivert(d); err != nil {
				s.Log.Error("making the rule of routing for diverted connections again failed", "err", err)
			} else if took {
				s.Log.Info("the rule of routing for diverted connections was changed by another program; it is made again")
			}
		}
	}()
}

// endGuard ends that. s.diverting is held.
func (s *Service) endGuard() {
	g := s.guard
	if g == nil {
		return
	}
	s.guard = nil
	g.stop.Stop()
	<-g.ended
	g.stop.Close()
	g.watch.Close()
}
