package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/ipam"
)

// Driver options of one endpoint, as Docker names them.
const (
	optSysctls = "com.docker.network.endpoint.sysctls" // of its interface, for which IFNAME stands
	optIface   = "com.docker.network.endpoint.ifname"  // its interface's name
)

// checkEndpoint holds what is asked of an endpoint against the network.
func checkEndpoint(n *network, want *api.EndpointSettings) error {
	if want == nil {
		return nil
	}
	var list []error
	bad := func(format string, args ...any) { list = append(list, fmt.Errorf(format, args...)) }
	if c := want.IPAMConfig; c != nil {
		if predefined(n.Name) && (c.IPv4Address.IsValid() || c.IPv6Address.IsValid()) {
			bad("user specified IP address is supported on user defined networks only")
		} else {
			for _, a := range []netip.Addr{c.IPv4Address, c.IPv6Address} {
				if a.IsValid() && !slices.ContainsFunc(n.subnets, func(x *ipam.Subnet) bool { return x.Subnet.Contains(a) }) {
					bad("no configured subnet contains IP address %s", a)
				}
			}
		}
		for _, a := range c.LinkLocalIPs {
			if !a.IsValid() || a.IsUnspecified() {
				bad("invalid link-local IP address: %s", a)
			}
		}
	}
	for _, s := range sysctlsOf(want) {
		// The command line makes all letters small.
		p := strings.SplitN(s, ".", 5)
		if len(p) != 5 || p[0] != "net" || !slices.Contains([]string{"ipv4", "ipv6", "mpls"}, p[1]) || p[3] != "IFNAME" && p[3] != "ifname" {
			bad("unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'", s)
		}
	}
	if name, ok := want.DriverOpts[optIface]; ok && !isInterface(name) {
		bad("invalid interface name %q: %s", name, interfaceNames)
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return errs.Invalid.Errorf("invalid endpoint settings:\n%w", list[0])
	}
	return errs.Invalid.Errorf("invalid endpoint settings:\n* %s", strings.ReplaceAll(errors.Join(list...).Error(), "\n", "\n* "))
}

func sysctlsOf(want *api.EndpointSettings) []string {
	if s, ok := want.DriverOpts[optSysctls]; ok {
		return strings.Split(s, ",")
	}
	return nil
}

// setSysctls sets what the endpoint's options ask for. The interface is there, and down.
func (e *endpoint) setSysctls(ns *netns.Namespace) error {
	list := sysctlsOf(e.Want)
	if len(list) == 0 {
		return nil
	}
	return ns.Do(func() error {
		for _, s := range list {
			k, v, ok := strings.Cut(s, "=")
			if !ok {
				return errs.Invalid.Errorf("expected sysctl '%s' to have format name=value", s)
			}
			p := strings.Split(k, ".")
			if len(p) != 5 || slices.ContainsFunc(p, func(x string) bool { return x == "" || strings.Contains(x, "/") }) {
				return errs.Invalid.Errorf("expected sysctl '%s' to have format net.X.Y.IFNAME.Z", s)
			}
			path := filepath.Join("/proc/sys/net", p[1], p[2], e.Iface, p[4])
			if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
				return errs.Invalid.Errorf("%s is not a sysctl file", path)
			}
			have, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(have)) == v {
				continue
			}
			if err := os.WriteFile(path, []byte(v), 0o644); err != nil {
				return errs.Invalid.Errorf("unable to write to '%s': %w", path, err)
			}
		}
		return nil
	})
}

// addresses are those of the endpoint's interface, its own first.
func (e *endpoint) addresses() (list []netip.Prefix) {
	for _, p := range []netip.Prefix{e.V4, e.V6} {
		if p.IsValid() {
			list = append(list, p)
		}
	}
	if c := e.Want.IPAMConfig; c != nil {
		for _, a := range c.LinkLocalIPs {
			bits := 16
			if a = a.Unmap(); a.Is6() {
				bits = 64
			}
			list = append(list, netip.PrefixFrom(a, bits))
		}
	}
	return list
}

// way is the endpoint through which the container reaches the world by one family: of those that have a gateway of it the
// one of the highest priority, then the first by name; nil when there is none.
func (j *joined) way(v6 bool) (best *endpoint) {
	for _, e := range j.Endpoints {
		if !e.gateway(v6).IsValid() {
			continue
		}
		if best == nil || e.Want.GwPriority > best.Want.GwPriority || e.Want.GwPriority == best.Want.GwPriority && e.Name < best.Name {
			best = e
		}
	}
	return best
}

func (e *endpoint) gateway(v6 bool) netip.Addr {
	if v6 {
		return e.GW6
	}
	return e.GW4
}

// gateway is the endpoint whose network publishes the container's ports: its way out by IPv4, or where it has none by IPv6.
func (j *joined) gateway() *endpoint {
	if e := j.way(false); e != nil {
		return e
	}
	return j.way(true)
}

// leads are the gateways that are the container's ways out through e.
func (j *joined) leads(e *endpoint) (list []netip.Addr) {
	for _, v6 := range []bool{false, true} {
		if j.way(v6) == e {
			list = append(list, e.gateway(v6))
		}
	}
	return list
}

// targets are the container's addresses that published ports lead to; an invalid one is: it has none of that family.
func (j *joined) targets() (v4, v6 netip.Addr) {
	if e := j.way(false); e != nil && e.V4.IsValid() {
		v4 = e.V4.Addr()
	}
	if e := j.way(true); e != nil && e.V6.IsValid() {
		v6 = e.V6.Addr()
	}
	return v4, v6
}
