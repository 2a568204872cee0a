package network

import (
	"context"
	"net/netip"
	"slices"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/kernel/netns"
)

// Connect connects a running container, whose namespace is at path, to one more network.
func (s *Service) Connect(ctx context.Context, r *JoinRequest, ref string, want *api.EndpointSettings, path string) (*Joined, error) {
	if want == nil {
		want = &api.EndpointSettings{}
	}
	s.mu.Lock()
	j, err := s.joinedFor(r)
	var n *network
	if err == nil {
		n, err = s.find(ref)
	}
	if err == nil && j.on(n.ID) != nil {
		err = errs.Forbidden.Errorf("endpoint with name %s already exists in network %s", r.Name, n.Name)
	}
	var e *endpoint
	if err == nil {
		e, err = s.endpoint(j, n, want, r.Hostname)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	before := j.published()
	j.Endpoints = append(j.Endpoints, e)
	err = s.writeJoined(j)
	s.mu.Unlock()
	if err == nil {
		err = s.plugLive(ctx, j, e, path)
	}
	if after := j.published(); err == nil && !slices.Equal(before, after) { // there is another way out
		if err = s.table.Withdraw(before); err == nil {
			err = s.table.Publish(after)
		}
		s.forgetFlows(after, false)
	}
	if err != nil {
		s.drop(j, e, path)
		return nil, err
	}
	s.relinkFor(j)
	s.event(n, "connect", "container", r.ID)
	return j.result(), nil
}

// Rename gives a container that is connected another name, by which it is found from now on.
func (s *Service) Rename(id, name string) (*Joined, error) {
	s.mu.Lock()
	j := s.joined[id]
	if j == nil {
		s.mu.Unlock()
		return nil, nil
	}
	for _, e := range j.Endpoints {
		e.Names = slices.Clone(e.Names)
		for i, n := range e.Names {
			if n == j.Name {
				e.Names[i] = name
				break
			}
		}
	}
	j.Name = name
	err := s.writeJoined(j)
	out := j.result()
	s.mu.Unlock()
	if err == nil {
		err = s.served(context.Background(), j)
	}
	s.relinkFor(j) // links say whom they mean by name
	return out, err
}

// joinedFor is what a container holds, or the beginning of it. s.mu is held.
func (s *Service) joinedFor(r *JoinRequest) (*joined, error) {
	j := s.joined[r.ID]
	if j == nil {
		j = &joined{V: joinedVersion, ID: r.ID, Name: r.Name, Linked: r.Linked, Exposed: exposed(r)}
		if err := s.writeJoined(j); err != nil {
			return nil, err
		}
		s.joined[r.ID] = j
	}
	return j, nil
}

func (s *Service) plugLive(ctx context.Context, j *joined, e *endpoint, path string) error {
	nets, err := s.made(j)
	if err != nil {
		return err
	}
	ns, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := s.plug(nets[e.Network], e, ns, j.leads(e)); err != nil {
		return err
	}
	if j.resolves() && !j.Resolver {
		if err := s.serve(ctx, j, ns); err != nil {
			return err
		}
	}
	return s.served(ctx, j)
}

// Disconnect takes a container off a network. With path, which leads to its namespace, the way out goes through another
// of its networks from then on.
func (s *Service) Disconnect(ctx context.Context, id, ref, path string) (*Joined, error) {
	s.mu.Lock()
	n, err := s.find(ref)
	j := s.joined[id]
	var e *endpoint
	if err == nil && j != nil {
		e = j.on(n.ID)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, errs.Forbidden.Errorf("container %s is not connected to network %s", id, n.Name)
	}
	if err := s.drop(j, e, path); err != nil {
		return nil, err
	}
	s.event(n, "disconnect", "container", id)
	return j.result(), nil
}

// drop takes one endpoint away from a container that runs.
func (s *Service) drop(j *joined, e *endpoint, path string) error {
	before := j.published()
	if err := s.table.Withdraw(before); err != nil {
		return err
	}
	s.mu.Lock()
	led := [2]bool{j.way(false) == e, j.way(true) == e}
	rest := j.Endpoints[:0:0]
	for _, x := range j.Endpoints {
		if x != e {
			rest = append(rest, x)
		}
	}
	j.Endpoints = rest
	err := s.writeJoined(j)
	s.mu.Unlock()
	// Before somebody else gets its addresses.
	if serr := s.served(context.Background(), j); err == nil {
		err = serr
	}
	s.mu.Lock()
	if n := s.nets[e.Network]; n != nil {
		n.give(e)
	}
	s.mu.Unlock()
	if e.Link != "" {
		// At once: the interface's name inside may be wanted again.
		if derr := s.Options.Host.Links().Delete(e.Link); err == nil {
			err = derr
		}
	}
	ns, oerr := netns.Open(path)
	if oerr == nil {
		defer ns.Close()
		if e.Iface != "" {
			oerr = ns.Links().Delete(e.Iface) // of macvlan and ipvlan there is no other end
		}
		for i, v6 := range []bool{false, true} {
			g := j.way(v6)
			if oerr != nil || !led[i] || g == nil {
				continue
			}
			s.mu.Lock()
			n := s.nets[g.Network]
			s.mu.Unlock()
			if n != nil {
				oerr = ns.Links().SetDefault(g.Iface, n.ways([]netip.Addr{g.gateway(v6)}))
			}
		}
	}
	if err == nil {
		err = oerr
	}
	ports := j.published()
	if perr := s.table.Publish(ports); err == nil {
		err = perr
	}
	s.forgetFlows(ports, false)
	s.mu.Lock()
	n := s.nets[e.Network]
	apart := n != nil && n.Driver == "bridge" && !n.flag(optICC, true)
	s.mu.Unlock()
	if apart {
		s.relink()
	}
	return err
}
