package container

import (
	"context"
	"maps"
	"net/netip"
	"strconv"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/resolvconf"
)

// NetworkRequest says how a container is to be connected. Endpoints is by network; First is that of its mode.
type NetworkRequest struct {
	ID, Name, Hostname string
	Endpoints          map[string]*network.EndpointSettings
	First              string
	Ports              network.PortMap // to publish
	Exposed            network.PortSet // published on any ports, with All
	All                bool
	Upstream           []netip.Addr // name servers of the names that no network knows
	Linked             []string     // IDs of containers that it is linked to on the default network
}

// Connection is how a container is connected. Path leads to its network namespace until Done is called.
type Connection struct {
	Path      string
	Done      func()
	Endpoints map[string]*network.EndpointSettings // by the network's name
	Ports     network.PortMap
	Resolver  bool // names are answered at 127.0.0.11
}

// Networks connects containers. The network service answers it; without one there are host, none and container:<id>.
type Networks interface {
	Check(*NetworkRequest) error
	Join(context.Context, *NetworkRequest) (*Connection, error)
	// Leave gives back what a container holds. It may be called twice, and for one that holds nothing.
	Leave(id string)
	// Of tells how a container is connected now; nil when it is not.
	Of(id string) *Connection
}

// Connector changes the connections of containers that run, whose namespace is at path.
type Connector interface {
	Connect(ctx context.Context, r *NetworkRequest, ref string, want *network.EndpointSettings, path string) (*Connection, error)
	Disconnect(ctx context.Context, id, ref, path string) (*Connection, error)
	Rename(id, name string) (*Connection, error) // nil: it is not connected
	Name(ref string) (string, error)             // of the network, in full
	HostGateway() (netip.Addr, error)
}

// Docker's phrases.
const (
	conflictHost = "container cannot be disconnected from host network or connected to host network"
	conflictNone = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
)

// endpoints works out which networks a new container is meant for.
func (s *Service) endpoints(h *api.HostConfig, given *network.NetworkingConfig) (map[string]*network.EndpointSettings, error) {
	mode := h.NetworkMode
	out := map[string]*network.EndpointSettings{}
	if given != nil {
		for name, e := range given.EndpointsConfig {
			if name == "default" {
				name = string(mode)
			}
			out[name] = wanted(e)
		}
	}
	switch {
	case mode.IsContainer():
		if len(out) > 0 {
			return nil, errs.Invalid.Errorf("conflicting options: cannot attach to networks and share the network of a container")
		}
		return nil, nil
	case mode.IsHost(), mode.IsNone():
		for name := range out {
			if name != string(mode) {
				return nil, errs.Invalid.Errorf("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
			}
		}
	}
	for name := range out {
		switch {
		case name == string(mode):
		case name == network.NetworkHost:
			return nil, errs.Invalid.Errorf(conflictHost)
		case name == network.NetworkNone:
			return nil, errs.Invalid.Errorf(conflictNone)
		}
	}
	if len(out) == 0 {
		out[string(mode)] = &network.EndpointSettings{}
	}
	return out, nil
}

// named makes the keys of endpoints the networks' names, where users may have given IDs. A network may be made between
// the container's creation and its start: then it is asked for again. (A "not found" here would be taken for the image's,
// and send clients to pull it.)
func (s *Service) named(endpoints map[string]*network.EndpointSettings) (map[string]*network.EndpointSettings, error) {
	if s.Connector == nil {
		return endpoints, nil
	}
	out := make(map[string]*network.EndpointSettings, len(endpoints))
	for ref, e := range endpoints {
		name, err := s.Connector.Name(ref)
		if errs.NotFound.Is(err) {
			name = ref
		} else if err != nil {
			return nil, err
		}
		out[name] = e
	}
	return out, nil
}

// wanted is what a user asked for in e, without what came of it.
func wanted(e *network.EndpointSettings) *network.EndpointSettings {
	if e == nil {
		return &network.EndpointSettings{}
	}
	c := e.Copy()
	return &network.EndpointSettings{IPAMConfig: c.IPAMConfig, Links: c.Links, Aliases: c.Aliases, DriverOpts: c.DriverOpts, GwPriority: c.GwPriority, MacAddress: c.MacAddress}
}

// request is what the network service is asked to do for a container.
func (snap *Snapshot) request() *NetworkRequest {
	h := snap.HostConfig
	var linked []string
	for _, l := range snap.Links {
		linked = append(linked, l.ID)
	}
	return &NetworkRequest{ID: snap.ID, Name: snap.Name, Hostname: snap.Config.Hostname, Endpoints: snap.Wanted, First: string(h.NetworkMode),
		Ports: h.PortBindings, Exposed: snap.Config.ExposedPorts, All: h.PublishAllPorts, Upstream: upstream(h), Linked: linked}
}

// upstream are the name servers that the container is to use: the user's, or the host's.
func upstream(h *api.HostConfig) []netip.Addr {
	if len(h.DNS) > 0 {
		return h.DNS
	}
	return resolvconf.Host().Servers()
}

// checkNoAddress refuses addresses of one's own where there is no network to have them in.
func checkNoAddress(endpoints map[string]*network.EndpointSettings) error {
	for _, e := range endpoints {
		if e != nil && e.IPAMConfig != nil && (e.IPAMConfig.IPv4Address.IsValid() || e.IPAMConfig.IPv6Address.IsValid()) {
			return errs.Invalid.Errorf("user specified IP address is supported on user defined networks only")
		}
	}
	return nil
}

// private reports whether the container gets a network namespace from the network service.
func (s *Service) private(snap *Snapshot) bool {
	m := snap.HostConfig.NetworkMode
	return s.Networks != nil && !snap.Config.NetworkDisabled && !m.IsHost() && !m.IsNone() && !m.IsContainer()
}

// join connects a container that is about to start.
func (c *container) join() (*Connection, error) {
	if !c.s.private(&c.now) {
		return nil, nil
	}
	n, err := c.s.Networks.Join(c.s.ctx, c.now.request())
	if err != nil {
		return nil, errs.KindOf(err).Errorf("failed to set up container networking: %w", err)
	}
	return n, nil
}

// connected makes known how a container is connected; nil is: not.
func (c *container) connected(n *Connection) {
	c.now.Endpoints, c.now.Ports = nil, nil
	if n != nil {
		c.now.Endpoints, c.now.Ports = n.Endpoints, n.Ports
	}
}

func (s *Service) leave(id string) {
	if s.Networks != nil {
		s.Networks.Leave(id)
	}
}

// Connected is how the container is connected: what is, while it runs, and what is meant to be otherwise.
func (snap *Snapshot) Connected() map[string]*network.EndpointSettings {
	if snap.Endpoints != nil {
		return snap.Endpoints
	}
	if m := snap.HostConfig.NetworkMode; snap.Wanted == nil && !m.IsContainer() {
		// Of a time before networks.
		name := string(m)
		if name == "" || m.IsDefault() {
			name = "none"
		}
		return map[string]*network.EndpointSettings{name: {}}
	}
	return snap.Wanted
}

// Connect connects a container to one more network, at once when it runs and else when it starts.
func (s *Service) Connect(ctx context.Context, ref, net string, want *network.EndpointSettings) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error {
		name, err := c.changeable(net, true)
		if err != nil {
			return err
		}
		if _, there := c.now.Wanted[name]; there {
			return errs.Forbidden.Errorf("endpoint with name %s already exists in network %s", c.now.Name, name)
		}
		r := c.now.request()
		want = wanted(want)
		r.Endpoints = map[string]*network.EndpointSettings{name: want}
		if err := s.Networks.Check(r); err != nil {
			return err
		}
		if l := c.now.live; l != nil {
			n, err := s.Connector.Connect(ctx, c.now.request(), name, want, "/proc/"+strconv.Itoa(l.Pid)+"/ns/net")
			if err != nil {
				return err
			}
			c.rewriteFiles(n)
			c.connected(n)
		}
		c.now.Wanted = maps.Clone(c.now.Wanted)
		c.now.Wanted[name] = want
		c.publish()
		return c.save(c.s.State.Submit)()
	})
}

// Disconnect takes a container off a network. With force, one that does not know of it is no error's cause but the network's.
func (s *Service) Disconnect(ctx context.Context, ref, net string, force bool) error {
	c, err := s.find(ref)
	if err != nil {
		return err
	}
	return c.do(ctx, func() error {
		name, err := c.changeable(net, false)
		if err != nil {
			return err
		}
		if _, there := c.now.Wanted[name]; !there {
			return errs.Forbidden.Errorf("container %s is not connected to network %s", c.id, name)
		}
		if l := c.now.live; l != nil {
			n, err := s.Connector.Disconnect(ctx, c.id, name, "/proc/"+strconv.Itoa(l.Pid)+"/ns/net")
			if err != nil {
				return err
			}
			c.rewriteFiles(n)
			c.connected(n)
		}
		c.now.Wanted = maps.Clone(c.now.Wanted)
		delete(c.now.Wanted, name)
		c.publish()
		return c.save(c.s.State.Submit)()
	})
}

// changeable resolves a network that a container is to be connected to, or taken off.
func (c *container) changeable(net string, on bool) (string, error) {
	if c.s.Networks == nil {
		return "", errs.NotImplemented.Errorf("there are no networks here")
	}
	m := c.now.HostConfig.NetworkMode
	name, err := c.s.Connector.Name(net)
	switch {
	case err != nil:
		return "", err
	case c.now.Status == Removing || c.now.Status == Dead:
		return "", errs.Forbidden.Errorf("container %s is marked for removal and cannot be connected or disconnected to the network", c.id)
	case on && (m.IsHost() || name == "host"), m.IsHost() && name == "host":
		return "", errs.Forbidden.Errorf(conflictHost)
	case m.IsContainer():
		return "", errs.Forbidden.Errorf("container sharing network namespace with another container or host cannot be connected to any other network")
	case on && (m.IsNone() || name == "none"):
		return "", errs.Forbidden.Errorf(conflictNone)
	}
	return name, nil
}

// UsesNetwork reports whether any container, running or not, is meant for the network.
func (s *Service) UsesNetwork(name, id string) bool {
	for _, x := range s.all() {
		for ref := range x.Wanted {
			if ref == name || ref == id {
				return true
			}
		}
	}
	return false
}
