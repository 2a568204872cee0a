package api

import (
	"regexp"
	"slices"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/network"
)

// networkService is what answers for networks, or an error where there are none.
func (s *Server) networkService() (*network.Service, error) {
	if s.deps.Networks == nil {
		return nil, errs.NotImplemented.Errorf("this engine may not make networks: run it as root; --network none, host and container:NAME work")
	}
	return s.deps.Networks, nil
}

func (s *Server) networkDrivers() []string {
	if s.deps.Networks == nil {
		return []string{"host", "null"}
	}
	return []string{"bridge", "host", "ipvlan", "macvlan", "null"}
}

// networkList is GET /networks. Who is connected is not told here, but below 1.28.
func (s *Server) networkList(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	match, err := s.networkFilter(c, "dangling", "driver", "id", "label", "name", "scope", "type")
	if err != nil {
		return err
	}
	out := []any{}
	for _, x := range n.List() {
		if !match(&x.Network) {
			continue
		}
		if c.version < v(28) {
			out = append(out, wireInspect(&x))
			continue
		}
		out = append(out, wireNetwork{Network: x.Network, Containers: map[string]wireEndpoint{}})
	}
	return c.reply(200, out)
}

// wireNetwork is a network on the wire: Docker writes addresses that are not there as "".
type wireNetwork struct {
	types.Network
	Containers map[string]wireEndpoint
	Status     *types.Status `json:",omitempty"`
}

type wireEndpoint struct{ Name, EndpointID, MacAddress, IPv4Address, IPv6Address string }

func wireInspect(x *types.Inspect) *wireNetwork {
	w := &wireNetwork{Network: x.Network, Containers: map[string]wireEndpoint{}}
	for id, e := range x.Containers {
		p := wireEndpoint{Name: e.Name, EndpointID: e.EndpointID, MacAddress: e.MacAddress.String()}
		if e.IPv4Address.IsValid() {
			p.IPv4Address = e.IPv4Address.String()
		}
		if e.IPv6Address.IsValid() {
			p.IPv6Address = e.IPv6Address.String()
		}
		w.Containers[id] = p
	}
	return w
}

// networkFilter makes of the request's filters what says whether a network is meant.
func (s *Server) networkFilter(c *call, known ...string) (func(*types.Network) bool, error) {
	f, err := c.filters()
	if err != nil {
		return nil, err
	}
	for k := range f {
		if !slices.Contains(known, k) {
			return nil, errs.Invalid.Errorf("invalid filter '%s'", k)
		}
	}
	var until time.Time
	for _, u := range f["until"] {
		d, derr := time.ParseDuration(u)
		if until, err = time.Parse(time.RFC3339, u); err != nil && derr == nil {
			until = time.Now().Add(-d)
		} else if err != nil {
			if until, err = parseUnix(u); err != nil {
				return nil, errs.Invalid.Errorf("invalid value for filter 'until': %w", err)
			}
		}
	}
	for _, t := range f["type"] {
		if t != "custom" && t != "builtin" {
			return nil, errs.Invalid.Errorf("invalid filter: 'type'='%s'", t)
		}
	}
	for _, d := range f["dangling"] {
		if !slices.Contains([]string{"true", "false", "1", "0"}, d) {
			return nil, errs.Invalid.Errorf("invalid value for filter 'dangling': %q", d)
		}
	}
	some := func(key string, ok func(string) bool) bool {
		return len(f[key]) == 0 || slices.ContainsFunc(f[key], ok)
	}
	return func(x *types.Network) bool {
		builtin := !userDefined(x.Name)
		labelled := func(want string) bool {
			k, val, valued := strings.Cut(want, "=")
			have, ok := x.Labels[k]
			return ok && (!valued || have == val)
		}
		return some("name", func(v string) bool { return matches(v, x.Name) }) &&
			some("id", func(v string) bool { return matches(v, x.ID) }) &&
			some("driver", func(v string) bool { return x.Driver == v }) &&
			some("scope", func(v string) bool { return x.Scope == v }) &&
			some("type", func(v string) bool { return builtin == (v == "builtin") }) &&
			some("dangling", func(v string) bool {
				return (!builtin && !s.deps.Containers.UsesNetwork(x.Name, x.ID)) == (v == "true" || v == "1")
			}) &&
			!slices.ContainsFunc(f["label"], func(v string) bool { return !labelled(v) }) &&
			!slices.ContainsFunc(f["label!"], labelled) &&
			(until.IsZero() || x.Created.Before(until))
	}, nil
}

func (s *Server) networkInspect(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	x, err := n.Get(c.name)
	if err != nil {
		return err
	}
	if scope := c.str("scope"); scope != "" && scope != "local" {
		return errs.NotFound.Errorf("network %s not found", c.name)
	}
	return c.reply(200, wireInspect(&x))
}

func (s *Server) networkCreate(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	var r types.CreateRequest
	if err := c.decode(&r); err != nil {
		return err
	}
	id, warning, err := n.Create(c.r.Context(), &r)
	if err != nil {
		return err
	}
	return c.reply(201, types.CreateResponse{ID: id, Warning: warning})
}

func (s *Server) networkRemove(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	if err := n.Remove(c.r.Context(), c.name); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) networkPrune(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	match, err := s.networkFilter(c, "label", "label!", "until")
	if err != nil {
		return err
	}
	names, err := n.Prune(c.r.Context(), match, func(x *types.Network) bool { return s.deps.Containers.UsesNetwork(x.Name, x.ID) })
	if err != nil {
		return err
	}
	return c.reply(200, types.PruneReport{NetworksDeleted: names})
}

func (s *Server) networkConnect(c *call) error {
	var r types.ConnectRequest
	if _, err := s.networkService(); err != nil {
		return err
	}
	if err := c.decode(&r); err != nil {
		return err
	}
	if err := s.deps.Containers.Connect(c.r.Context(), r.Container, c.name, r.EndpointConfig); err != nil {
		return err
	}
	return c.ok(200)
}

func (s *Server) networkDisconnect(c *call) error {
	var r types.DisconnectRequest
	if _, err := s.networkService(); err != nil {
		return err
	}
	if err := c.decode(&r); err != nil {
		return err
	}
	if err := s.deps.Containers.Disconnect(c.r.Context(), r.Container, c.name, r.Force); err != nil {
		return err
	}
	return c.ok(200)
}

// matches reports whether pattern, a regular expression, is in text.
func matches(pattern, text string) bool {
	ok, err := regexp.MatchString(pattern, text)
	return ok && err == nil
}
