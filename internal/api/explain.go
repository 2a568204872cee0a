package api

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	types "github.com/moby/moby/api/types/network"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/network"
)

// portExplain is GET /gantry/ports/{name}?proto=: who reaches a port of the host, and by which rule. It changes nothing.
func (s *Server) portExplain(c *call) error {
	n, err := s.networkService()
	if err != nil {
		return err
	}
	proto := c.str("proto")
	if proto == "" {
		proto = "tcp"
	}
	port, err := strconv.ParseUint(c.name, 10, 16)
	if err != nil {
		return errs.Invalid.Errorf("invalid port specification: %q", c.name+"/"+proto)
	}
	x, err := n.Explain(c.r.Context(), proto, uint16(port))
	if err != nil {
		return err
	}
	if err := s.wanting(x); err != nil {
		return err
	}
	return c.reply(200, x)
}

// wanting adds why containers that are to have the port have it not, and whose processes hold it.
func (s *Server) wanting(x *network.Explanation) error {
	list, err := s.deps.Containers.List(container.ListOptions{All: true})
	if err != nil {
		return err
	}
	for i := range list {
		snap := &list[i]
		for k := range x.Holders {
			if h := &x.Holders[k]; h.Container == snap.ID {
				h.Container = snap.Name
			}
		}
		if !wants(snap.HostConfig.PortBindings, x.Proto, int(x.Port)) || slices.ContainsFunc(x.Published, func(p network.Publication) bool { return p.ID == snap.ID }) {
			continue
		}
		m := snap.HostConfig.NetworkMode
		why := "it is on no network that leads out: no port of an internal network is published"
		switch {
		case m.IsHost():
			why = "it is in the host's network, where nothing is published: its programs listen themselves"
		case m.IsNone():
			why = "it has no network"
		case !snap.Status.Alive():
			why = "it does not run"
		}
		x.Notes = append(x.Notes, fmt.Sprintf("container %s is to publish it, but %s", snap.Name, why))
	}
	return nil
}

// wants reports whether a map of ports names one of the host's.
func wants(m types.PortMap, proto string, port int) bool {
	for p, bindings := range m {
		if string(p.Proto()) != proto {
			continue
		}
		for _, b := range bindings {
			lo, hi, ranged := strings.Cut(b.HostPort, "-")
			from, err := strconv.Atoi(lo)
			to := from
			if ranged && err == nil {
				to, err = strconv.Atoi(hi)
			}
			if err == nil && from <= port && port <= to {
				return true
			}
		}
	}
	return false
}
