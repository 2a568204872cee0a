package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	api "github.com/moby/moby/api/types/network"
	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
	"gantry/internal/ids"
	"gantry/internal/network/firewall"
	"gantry/internal/network/portmap"
)

const joinedVersion = 1

// joined is what one container holds: lease and journal.
type joined struct {
	V         int               `json:"v"`
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Endpoints []*endpoint       `json:"endpoints"`
	Bindings  []portmap.Binding `json:"bindings,omitempty"`
	Upstream  []netip.Addr      `json:"upstream,omitempty"`
	// Resolver: there is a name server in the namespace. Once there, it stays.
	Resolver bool     `json:"resolver,omitempty"`
	Linked   []string `json:"linked,omitempty"`  // as in JoinRequest
	Exposed  []string `json:"exposed,omitempty"` // what links to it open
	// DNS is on which ports, UDP's and TCP's.
	DNS [2]uint16 `json:"dns,omitzero"`

	leaving bool // it needs no diverting any more
}

// endpoint is a container's place on one network.
type endpoint struct {
	ID      string                `json:"id"`
	Network string                `json:"network"` // ID
	Name    string                `json:"name"`    // of the network
	Link    string                `json:"link,omitempty"`
	Iface   string                `json:"interface,omitempty"`
	V4      netip.Prefix          `json:"v4,omitzero"`
	V6      netip.Prefix          `json:"v6,omitzero"`
	GW4     netip.Addr            `json:"gw4,omitzero"`
	GW6     netip.Addr            `json:"gw6,omitzero"`
	MAC     net.HardwareAddr      `json:"mac,omitempty"`
	Names   []string              `json:"names,omitempty"`
	Want    *api.EndpointSettings `json:"want"`
}

func (j *joined) on(network string) *endpoint {
	for _, e := range j.Endpoints {
		if e.Network == network {
			return e
		}
	}
	return nil
}

// freeInterface names the next interface: eth0, eth1, …
func (j *joined) freeInterface(prefix string) string {
	if prefix == "" {
		prefix = "eth"
	}
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		if !slices.ContainsFunc(j.Endpoints, func(e *endpoint) bool { return e.Iface == name }) {
			return name
		}
	}
}

// settings is what inspect shows.
func (e *endpoint) settings() *api.EndpointSettings {
	x := e.Want.Copy()
	x.NetworkID, x.EndpointID = e.Network, e.ID
	x.MacAddress = api.HardwareAddr(e.MAC)
	x.DNSNames = slices.Clone(e.Names)
	if e.V4.IsValid() {
		x.IPAddress, x.IPPrefixLen, x.Gateway = e.V4.Addr(), e.V4.Bits(), e.GW4
	}
	if e.V6.IsValid() {
		x.GlobalIPv6Address, x.GlobalIPv6PrefixLen, x.IPv6Gateway = e.V6.Addr(), e.V6.Bits(), e.GW6
	}
	return x
}

func (j *joined) result() *Joined {
	out := &Joined{Resolver: j.Resolver, Endpoints: map[string]*api.EndpointSettings{}, Ports: api.PortMap{}}
	for _, e := range j.Endpoints {
		out.Endpoints[e.Name] = e.settings()
	}
	for _, b := range j.Bindings {
		p, _ := api.PortFrom(b.Container, api.IPProtocol(b.Proto))
		x := api.PortBinding{HostIP: b.Host.Addr()}
		if !b.Direct {
			x.HostPort = strconv.Itoa(int(b.Host.Port()))
		}
		out.Ports[p] = append(out.Ports[p], x)
	}
	return out
}

func (s *Service) file(id string) string { return filepath.Join(s.Run, id) }

// note changes j and writes it down.
func (s *Service) note(j *joined, change func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	return s.writeJoined(j)
}

func (s *Service) writeJoined(j *joined) error {
	data, err := json.Marshal(j)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.file(j.ID), data, 0o600)
}

// readJoined takes in what the last engine's containers hold: addresses at once, for nobody else may get them.
func (s *Service) readJoined() error {
	if err := atomicfile.Sweep(s.Run); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.Run)
	if err != nil {
		return err
	}
	for _, f := range entries {
		if !ids.Valid(f.Name()) {
			continue
		}
		data, err := os.ReadFile(s.file(f.Name()))
		if err != nil {
			return err
		}
		j := new(joined)
		if err := json.Unmarshal(data, j); err != nil || j.ID != f.Name() {
			s.Log.Warn("a note of what a container holds is broken; it is dropped", "file", f.Name(), "err", err)
			os.Remove(s.file(f.Name()))
			continue
		}
		for _, e := range j.Endpoints {
			n := s.nets[e.Network]
			if n == nil {
				continue
			}
			for _, p := range []netip.Prefix{e.V4, e.V6} {
				for _, x := range n.subnets {
					if p.IsValid() && x.Subnet.Contains(p.Addr()) {
						x.Take(p.Addr())
					}
				}
			}
		}
		s.joined[j.ID] = j
	}
	return nil
}

// Keep is told, once after Open, which containers run: pid is 0 for those that do not. What others hold is given back; theirs is put in force again,
// where a flush or a crash took it.
func (s *Service) Keep(pid func(id string) int) error {
	s.mu.Lock()
	s.kept = true
	var over []string
	var rules []firewall.Network
	var ports []firewall.Port
	var held []*joined
	used := map[string]bool{}
	for id, j := range s.joined {
		if pid(id) == 0 {
			over = append(over, id)
			continue
		}
		held = append(held, j)
		ports = append(ports, j.published()...)
		for _, e := range j.Endpoints {
			used[e.Network] = true
		}
	}
	links := map[string]bool{}
	if list, err := s.Options.Host.Links().List(); err == nil {
		for _, l := range list {
			links[l.Name] = true
		}
	}
	for id, n := range s.nets {
		if n.Driver == "bridge" && (used[id] || links[n.BridgeName]) {
			rules = append(rules, n.rules())
		}
	}
	s.mu.Unlock()
	var err error
	if len(rules) > 0 {
		s.relink()
		err = s.table.Set(rules, ports)
		s.work.Go(s.table.PassLegacy)
	}
	until := time.Now().Add(2 * time.Second)
	for _, j := range held {
		s.divertFor(j) // after the rules: what the kernel cannot do is seen here, and leaves them as they are
		if err := s.serveAgain(j, fmt.Sprintf("/proc/%d/ns/net", pid(j.ID)), until); err != nil {
			s.Log.Warn("not all that a container had is there again", "container", j.Name, "err", err)
		}
	}
	s.relay.Begin()
	for _, id := range over {
		s.Leave(id)
	}
	return err
}

// Of tells how a container is connected now; nil when it is not.
func (s *Service) Of(id string) *Joined {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.joined[id]; j != nil {
		return j.result()
	}
	return nil
}

// Leave gives back all that a container holds. It may be called twice, and for one that holds nothing. The interfaces
// go behind, with their namespace: deleting one takes 11 ms.
func (s *Service) Leave(id string) {
	s.mu.Lock()
	j := s.joined[id]
	s.mu.Unlock()
	if j == nil {
		return
	}
	ports := j.published()
	if err := s.table.Withdraw(ports); err != nil {
		s.Log.Error("withdrawing published ports failed", "container", j.Name, "err", err)
	}
	s.forgetFlows(ports, true)
	s.unserve(j)
	s.undivertWithout(j)
	s.ports.Release(j.Bindings)
	var links []string
	for _, e := range j.Endpoints {
		if e.Link != "" {
			links = append(links, e.Link)
		}
	}
	s.mu.Lock()
	if s.joined[id] != j {
		s.mu.Unlock()
		return
	}
	apart := s.keptApart(j)
	s.giveBack(j)
	delete(s.joined, id)
	if err := os.Remove(s.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Log.Warn("deleting the note of what a container held failed", "err", err)
	}
	s.mu.Unlock()
	if apart {
		s.relink()
	}
	s.unplugLater(links)
}

// giveBack returns addresses. s.mu is held.
func (s *Service) giveBack(j *joined) {
	for _, e := range j.Endpoints {
		if n := s.nets[e.Network]; n != nil {
			n.give(e)
		}
	}
}

// unplugLater deletes the host's ends. Those whose namespace has gone already are not there any more; those of one that
// others are still in (--network container:) are.
func (s *Service) unplugLater(links []string) {
	if len(links) == 0 {
		return
	}
	s.work.Go(func() {
		for _, l := range links {
			if err := s.Options.Host.Links().Delete(l); err != nil {
				s.Log.Warn("deleting an interface failed", "err", err)
			}
		}
	})
}

func isGone(err error) bool { return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) }
