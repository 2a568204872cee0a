package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gantry/internal/errs"
	"gantry/internal/network/firewall"
)

// Driver options, as Docker names them. What its bridge driver does not know it lets pass, and so does this.
const (
	optDefault      = "com.docker.network.bridge.default_bridge"
	optName         = "com.docker.network.bridge.name"
	optICC          = "com.docker.network.bridge.enable_icc"
	optMasquerade   = "com.docker.network.bridge.enable_ip_masquerade"
	optHostBinding  = "com.docker.network.bridge.host_binding_ipv4"
	optGatewayMode4 = "com.docker.network.bridge.gateway_mode_ipv4"
	optGatewayMode6 = "com.docker.network.bridge.gateway_mode_ipv6"
	optTrusted      = "com.docker.network.bridge.trusted_host_interfaces"
	optInhibit4     = "com.docker.network.bridge.inhibit_ipv4"
	optHost4        = "com.docker.network.host_ipv4"
	optHost6        = "com.docker.network.host_ipv6"
	optEnable4      = "com.docker.network.enable_ipv4"
	optEnable6      = "com.docker.network.enable_ipv6"
	optMTU          = "com.docker.network.driver.mtu"
	optPrefix       = "com.docker.network.container_iface_prefix"
	optAnnounce     = "com.docker.network.advertise_addr_nmsgs"
)

// Gateway modes: how a network's addresses of one family and the world reach each other.
const (
	modeNAT         = "nat"             // out with the host's address, in by published ports
	modeUnprotected = "nat-unprotected" // and by the containers' addresses, to whoever routes there, on all ports
	modeRouted      = "routed"          // out with the container's address, in by that, on published ports
	modeIsolated    = "isolated"        // of internal networks: the host has no address there
)

// mode returns the gateway mode of a family.
func (r *record) mode(v6 bool) string {
	m := r.Options[optGatewayMode4]
	if v6 {
		m = r.Options[optGatewayMode6]
	}
	if m == "" {
		return modeNAT
	}
	return m
}

// without: the host has no address of the family on the network.
func (r *record) without(v6 bool) bool {
	inhibited, _ := strconv.ParseBool(r.Options[optInhibit4])
	return r.mode(v6) == modeIsolated || inhibited && !v6
}

// checkOptions refuses what no driver could do, in Docker's words where it does.
func checkOptions(r *record) error {
	bad := func(key string, why any) error {
		return errs.Invalid.Errorf("failed to parse %s value: %v (%v)", key, r.Options[key], why)
	}
	for key, v := range r.Options {
		var err error
		switch key {
		case optICC, optMasquerade, optDefault, optInhibit4:
			_, err = strconv.ParseBool(v)
		case optGatewayMode4, optGatewayMode6:
			if !slices.Contains([]string{modeNAT, modeUnprotected, modeRouted, modeIsolated}, v) {
				err = fmt.Errorf("unknown gateway mode %s", v)
			}
		case optMTU:
			var n int
			if n, err = strconv.Atoi(v); err == nil && (n < 0 || n > 65535) {
				return errs.Invalid.Errorf("invalid MTU number: %d", n)
			}
		case optHostBinding, optHost4, optHost6:
			var a netip.Addr
			if a, err = netip.ParseAddr(v); err != nil {
				err = fmt.Errorf("nil ip")
			} else if key == optHost4 && !a.Is4() || key == optHost6 && !a.Is6() {
				err = fmt.Errorf("it is of the other family")
			}
		case optEnable4, optEnable6:
			if _, err := strconv.ParseBool(v); err != nil {
				return errs.Invalid.Errorf("driver-opt %q is not a valid bool", key)
			}
		case optPrefix:
			if v == "" || len(v) > 12 || v == "lo" || strings.ContainsAny(v, "/: \t\n\v\f\r%.") {
				err = fmt.Errorf("it needs 1 to 12 characters, none of them / : %% . or blank")
			}
		case optAnnounce:
			if n, aerr := strconv.Atoi(v); aerr != nil || n != 0 {
				err = fmt.Errorf("addresses are not announced here: a container's hardware address follows from its IP address, so neighbours are not misled")
			}
		case optName:
			if v != "" && !isInterface(v) { // "" is: none is wished for
				return errs.Invalid.Errorf("failed to use bridge name %s: %s", v, interfaceNames)
			}
		case optTrusted:
			for _, name := range trusted(v) {
				if !isInterface(name) {
					err = fmt.Errorf("invalid interface name %q: %s", name, interfaceNames)
				}
			}
		}
		if err != nil {
			return bad(key, err)
		}
	}
	if d, _ := strconv.ParseBool(r.Options[optDefault]); d && r.Name != Bridge {
		return errs.Invalid.Errorf("option %s is that of the default network, which is there already", optDefault)
	}
	if (r.mode(false) == modeIsolated || r.mode(true) == modeIsolated) && !r.Internal {
		return errs.Internal.Errorf("gateway mode 'isolated' can only be used for an internal network")
	}
	return checkMacvlan(r)
}

// interfaceNames is what the kernel takes for an interface's name; in one with % it would put a number of its own.
const interfaceNames = "it needs 1 to 15 characters, none of them / : % or blank"

func isInterface(name string) bool {
	return name != "" && len(name) <= 15 && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r%\x00")
}

// trusted are the interfaces in an option's value, as Docker divides it.
func trusted(v string) []string {
	return strings.FieldsFunc(v, func(r rune) bool { return r == ':' })
}

func (n *network) flag(option string, missing bool) bool {
	v, err := strconv.ParseBool(n.Options[option])
	if err != nil {
		return missing
	}
	return v
}

// rules is what the firewall is told of the network.
func (n *network) rules() firewall.Network {
	f := firewall.Network{Bridge: n.BridgeName, Internal: n.Internal, NoICC: !n.flag(optICC, true), V4: n.family(false), V6: n.family(true),
		Trusted: trusted(n.Options[optTrusted])}
	for _, x := range n.subnets {
		f.Subnets = append(f.Subnets, x.Subnet)
	}
	return f
}

func (n *network) family(v6 bool) firewall.Family {
	mode := n.mode(v6)
	f := firewall.Family{Masquerade: n.flag(optMasquerade, true) && mode != modeRouted, Open: mode == modeUnprotected, Routed: mode == modeRouted}
	source := n.Options[optHost4]
	if v6 {
		source = n.Options[optHost6]
	}
	f.Source, _ = netip.ParseAddr(source)
	return f
}
