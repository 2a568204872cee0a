package network

import (
	"hash/fnv"

	"gantry/internal/kernel/link"
)

// With the publish-policy "firewall" the relay stands between clients and containers, and wears the clients' addresses
// towards these. What the containers answer is for those addresses, but must come back to the relay: the firewall marks it
// (firewall.Table.Divert), and a rule of routing leads what is marked to a table in which every address is the host's. Mark
// and table have one number, the engine's own. All this is there while a port is published so.

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
	if err := s.table.Divert(0); err != nil {
		s.Log.Warn("marking diverted packets goes on", "err", err)
	}
	if err := s.Options.Host.Links().DeleteDivert(s.divert()); err != nil {
		s.Log.Warn("a rule of routing stays", "err", err)
	}
}
