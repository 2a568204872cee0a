package api

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// epSysctls is the driver option of an endpoint that sets kernel parameters of its interface, whose name IFNAME stands for.
const epSysctls = "com.docker.network.endpoint.sysctls"

// interfaceSysctls are the container's kernel parameters that name one of its interfaces, which does not exist when the others
// are set, in order; and what they are for any interface.
func (x *containerCreate) interfaceSysctls() (names []string, as map[string]string) {
	as = map[string]string{}
	if !x.HostConfig.NetworkMode.IsPrivate() {
		return nil, as
	}
	for _, k := range slices.Sorted(maps.Keys(x.HostConfig.Sysctls)) {
		if p := strings.SplitN(k, ".", 5); len(p) == 5 && p[0] == "net" && strings.HasPrefix(p[3], "eth") {
			names, as[k] = append(names, k), fmt.Sprintf("net.%s.%s.IFNAME.%s=%s", p[1], p[2], p[4], x.HostConfig.Sysctls[k])
		}
	}
	return names, as
}

// moveSysctls makes of them what newer clients say. Docker does it for eth0 alone: of several networks nobody could say which is eth1.
func (x *containerCreate) moveSysctls() {
	names, as := x.interfaceSysctls()
	if len(names) == 0 {
		return
	}
	network := cmp.Or(string(x.HostConfig.NetworkMode), "default")
	if m := x.NetworkingConfig.EndpointsConfig; len(m) > 0 && m[network] == nil {
		if len(m) > 1 {
			x.fail("unable to find a network for sysctl %s: HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks", names[0])
			return
		}
		for network = range m { // before 1.44 there was no more than one, and it was this
		}
	}
	var list []string
	for _, k := range names {
		if strings.Split(k, ".")[3] != "eth0" {
			x.fail("unable to determine network endpoint for sysctl %s, use driver option '%s' to set per-interface sysctls", k, epSysctls)
			return
		}
		list = append(list, as[k])
	}
	moved := strings.Join(list, ",")
	x.warnings = append(x.warnings, fmt.Sprintf("Migrated sysctl %q to DriverOpts{%q:%q}.", strings.Join(names, ","), epSysctls, moved))
	e := x.endpoint(network)
	if e.DriverOpts == nil {
		e.DriverOpts = map[string]string{}
	}
	if own := e.DriverOpts[epSysctls]; own != "" {
		moved += "," + own // which comes last, and so holds
	}
	e.DriverOpts[epSysctls] = moved
	x.HostConfig.Sysctls = maps.Clone(x.HostConfig.Sysctls)
	for _, k := range names {
		delete(x.HostConfig.Sysctls, k)
	}
}

// checkSysctls refuses what was not moved.
func (x *containerCreate) checkSysctls() {
	if names, _ := x.interfaceSysctls(); len(names) > 0 {
		x.fail("interface specific sysctl setting %q must be supplied using driver option '%s'", names[0], epSysctls)
	}
}
