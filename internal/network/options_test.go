package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
)

func subnets(list ...string) *api.IPAM {
	x := &api.IPAM{}
	for _, s := range list {
		x.Config = append(x.Config, api.IPAMConfig{Subnet: netip.MustParsePrefix(s)})
	}
	return x
}

// routeOutside makes the neighbour route to containers through the host.
func (h *host) routeOutside(t testing.TB) {
	t.Helper()
	if err := h.Outside.Links().SetDefault("wire", []netip.Addr{netip.MustParseAddr(lab.HostAddr), netip.MustParseAddr(lab.HostAddr6)}); err != nil {
		t.Fatal(err)
	}
}

// TestGatewayModes: how containers' own addresses and the world reach each other, for each family by itself.
func TestGatewayModes(t *testing.T) {
	h := newHost(t)
	h.routeOutside(t)
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	for i, c := range []struct {
		v4, v6 string
	}{{"", ""}, {modeRouted, modeNAT}, {modeNAT, modeRouted}, {modeUnprotected, modeUnprotected}, {modeRouted, modeRouted}} {
		t.Run(c.v4+" "+c.v6, func(t *testing.T) {
			name, n4, n6 := "net"+string(rune('a'+i)), "10.60."+string(rune('1'+i))+".", "fd60:"+string(rune('1'+i))+"::"
			opts := map[string]string{}
			if c.v4 != "" {
				opts[optGatewayMode4] = c.v4
			}
			if c.v6 != "" {
				opts[optGatewayMode6] = c.v6
			}
			h.create(t, &api.CreateRequest{Name: name, EnableIPv6: new(true), Options: opts, IPAM: subnets(n4+"0/24", n6+"/64")})
			j, ns := h.join(t, &JoinRequest{Name: "web" + name, Endpoints: on(name), First: name, Ports: ports("80/tcp", " 808"+string(rune('0'+i)))})
			lab.Serve(t, ns, "tcp", ":80", "web")
			lab.Serve(t, ns, "tcp", ":81", "private")
			var host4, host6, direct4, direct6, private4, private6 string
			seen4, seen6 := "outside "+lab.HostAddr, "outside "+lab.HostAddr6
			switch host4 = "web " + lab.OutsideAddr; c.v4 {
			case modeRouted:
				host4, direct4, seen4 = "", "web "+lab.OutsideAddr, "outside "+n4+"2"
			case modeUnprotected:
				direct4, private4 = "web "+lab.OutsideAddr, "private "+lab.OutsideAddr
			}
			switch host6 = "web " + lab.OutsideAddr6; c.v6 {
			case modeRouted:
				host6, direct6, seen6 = "", "web "+lab.OutsideAddr6, "outside "+n6+"2"
			case modeUnprotected:
				direct6, private6 = "web "+lab.OutsideAddr6, "private "+lab.OutsideAddr6
			}
			port := ":808" + string(rune('0'+i))
			lab.Answers(t, h.Outside, "tcp", lab.HostAddr+port, host4)
			lab.Answers(t, h.Outside, "tcp", "["+lab.HostAddr6+"]"+port, host6)
			lab.Answers(t, h.Outside, "tcp", n4+"2:80", direct4)
			lab.Answers(t, h.Outside, "tcp", "["+n6+"2]:80", direct6)
			lab.Answers(t, h.Outside, "tcp", n4+"2:81", private4)
			lab.Answers(t, h.Outside, "tcp", "["+n6+"2]:81", private6)
			lab.Answers(t, ns, "tcp", lab.OutsideAddr+":80", seen4)
			lab.Answers(t, ns, "tcp", "["+lab.OutsideAddr6+"]:80", seen6)
			for _, b := range j.Ports[api.MustParsePort("80/tcp")] {
				routed := b.HostIP.Is4() && c.v4 == modeRouted || b.HostIP.Is6() && c.v6 == modeRouted
				if (b.HostPort == "") != routed {
					t.Errorf("%+v", j.Ports)
				}
			}
			if c.v4 == modeRouted {
				x, err := h.Explain(context.Background(), "tcp", 80)
				if err != nil {
					t.Fatal(err)
				}
				if w := way(t, x, "outside", n4+"2:80"); w.Reached != Yes || !strings.Contains(strings.Join(w.Why, "\n"), "the network's gateway mode is routed") {
					t.Errorf("%+v", w)
				}
			}
		})
	}
}

// TestIsolatedNetworks have no address of the host's; a merely internal one has.
func TestIsolatedNetworks(t *testing.T) {
	h := newHost(t)
	isolated := map[string]string{optGatewayMode4: modeIsolated, optGatewayMode6: modeIsolated, optName: "br-alone"}
	if _, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "x", Options: isolated}); err == nil || err.Error() != "gateway mode 'isolated' can only be used for an internal network" {
		t.Error(err)
	}
	h.create(t, &api.CreateRequest{Name: "alone", Internal: true, EnableIPv6: new(true), Options: isolated, IPAM: subnets("10.61.0.0/24", "fd61::/64")})
	h.create(t, &api.CreateRequest{Name: "inhibited", Options: map[string]string{optInhibit4: "true", optName: "br-inhibited"}, IPAM: subnets("10.62.0.0/24")})
	a, ans := h.join(t, &JoinRequest{Name: "a", Endpoints: on("alone"), First: "alone"})
	b, bns := h.join(t, &JoinRequest{Name: "b", Endpoints: on("alone"), First: "alone"})
	if e := a.Endpoints["alone"]; e.Gateway.IsValid() || e.IPv6Gateway.IsValid() || e.IPAddress.String() != "10.61.0.1" {
		t.Errorf("%+v", e)
	}
	addrs, err := h.Lab.Host.Links().Addrs()
	if err != nil {
		t.Fatal(err)
	}
	links := map[int32]string{}
	for _, name := range []string{"br-alone", "br-inhibited"} {
		l, err := h.Lab.Host.Links().Find(name)
		if name == "br-inhibited" && err != nil {
			t.Fatal(err)
		}
		links[l.Index] = name
	}
	for _, x := range addrs {
		if name := links[x.Index]; name != "" && (name == "br-alone" || x.Prefix.Addr().Is4()) {
			t.Errorf("%s has %s", name, x.Prefix)
		}
	}
	lab.Serve(t, bns, "tcp", ":80", "b")
	lab.Answers(t, ans, "tcp", b.Endpoints["alone"].IPAddress.String()+":80", "b 10.61.0.1")
	lab.Answers(t, ans, "tcp", "["+b.Endpoints["alone"].GlobalIPv6Address.String()+"]:80", "b "+a.Endpoints["alone"].GlobalIPv6Address.String())
	if n := must1(h.Get("alone")); n.IPAM.Config[0].Gateway.IsValid() {
		t.Errorf("%+v", n.IPAM)
	}
}

// TestBridgeOptions: each does what it says.
func TestBridgeOptions(t *testing.T) {
	h := newHost(t)
	h.routeOutside(t)
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	second := netip.MustParseAddr("10.99.0.77")
	l, err := h.Lab.Host.Links().Find("uplink")
	if err == nil {
		err = h.Lab.Host.Links().AddAddrs(l.Index, []netip.Prefix{netip.PrefixFrom(second, 24)})
	}
	if err != nil {
		t.Fatal(err)
	}
	join := func(options map[string]string, r *JoinRequest) (*Joined, *netns.Namespace) {
		t.Helper()
		r.Name = "c" + string(rune('a'+len(h.joined)))
		h.create(t, &api.CreateRequest{Name: "n" + r.Name, Options: options, IPAM: subnets("10.63." + string(rune('1'+len(h.joined))) + ".0/24")})
		r.Endpoints, r.First = on("n"+r.Name), "n"+r.Name
		j, ns := h.join(t, r)
		lab.Serve(t, ns, "tcp", ":80", r.Name)
		return j, ns
	}
	ask := func(ns *netns.Namespace, want string) {
		t.Helper()
		lab.Answers(t, ns, "tcp", lab.OutsideAddr+":80", want)
	}
	_, ns := join(map[string]string{optHost4: second.String()}, &JoinRequest{})
	ask(ns, "outside "+second.String())
	_, ns = join(map[string]string{optMasquerade: "false"}, &JoinRequest{})
	ask(ns, "outside 10.63.2.2")
	_, ns = join(map[string]string{optMTU: "1234", optPrefix: "net"}, &JoinRequest{})
	if l, err := ns.Links().Find("net0"); err != nil || l.MTU != 1234 {
		t.Error(l, err)
	}
	j, _ := join(map[string]string{optHostBinding: second.String()}, &JoinRequest{Ports: ports("80/tcp", " 8090")})
	if p := j.Ports[api.MustParsePort("80/tcp")]; len(p) != 1 || p[0].HostIP != second {
		t.Error(j.Ports)
	}
	lab.Answers(t, h.Outside, "tcp", second.String()+":8090", "cd "+lab.OutsideAddr)
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8090", "")
	join(map[string]string{optTrusted: "nosuch:uplink:uplink"}, &JoinRequest{})
	lab.Answers(t, h.Outside, "tcp", "10.63.5.2:80", "ce "+lab.OutsideAddr)
	lab.Answers(t, h.Outside, "tcp", "10.63.4.2:80", "")
	id := h.create(t, &api.CreateRequest{Name: "six", Options: map[string]string{optEnable6: "true", optEnable4: "false"}})
	if n := must1(h.Get(id)); !n.EnableIPv6 || n.EnableIPv4 {
		t.Errorf("%+v", n)
	}
	for key, c := range map[string]struct{ value, text string }{
		optICC:          {"perhaps", `failed to parse com.docker.network.bridge.enable_icc value: perhaps (strconv.ParseBool: parsing "perhaps": invalid syntax)`},
		optInhibit4:     {"x", `failed to parse com.docker.network.bridge.inhibit_ipv4 value: x (strconv.ParseBool: parsing "x": invalid syntax)`},
		optMTU:          {"tiny", `failed to parse com.docker.network.driver.mtu value: tiny (strconv.Atoi: parsing "tiny": invalid syntax)`},
		optHostBinding:  {"here", `failed to parse com.docker.network.bridge.host_binding_ipv4 value: here (nil ip)`},
		optHost4:        {"1.2.3", `failed to parse com.docker.network.host_ipv4 value: 1.2.3 (nil ip)`},
		optHost6:        {"1.2.3.4", ""},
		optGatewayMode4: {"open", `failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: open (unknown gateway mode open)`},
		optGatewayMode6: {"open", `failed to parse com.docker.network.bridge.gateway_mode_ipv6 value: open (unknown gateway mode open)`},
		optEnable6:      {"maybe", `driver-opt "com.docker.network.enable_ipv6" is not a valid bool`},
		optPrefix:       {"a/b", ""},
		optAnnounce:     {"3", ""},
		optDefault:      {"true", ""},
		optName:         {"sixteen-letters-", ""},
		optTrusted:      {"eth0:sixteen-letters-", `failed to parse com.docker.network.bridge.trusted_host_interfaces value: eth0:sixteen-letters- (invalid interface name "sixteen-letters-": it needs 1 to 15 characters, none of them / : % or blank)`},
	} {
		_, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "x", Options: map[string]string{key: c.value}})
		if !errs.Invalid.Is(err) || c.text != "" && err.Error() != c.text {
			t.Errorf("%s=%s: %v", key, c.value, err)
		}
	}
	for _, name := range []string{"br%d", "a/b", "..", "a b"} {
		for _, key := range []string{optName, optTrusted} {
			if _, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "x", Options: map[string]string{key: name}}); !errs.Invalid.Is(err) {
				t.Errorf("%s=%s: %v", key, name, err)
			}
		}
	}
	if _, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "x", Options: map[string]string{optMTU: "-1"}}); err == nil || err.Error() != "invalid MTU number: -1" {
		t.Error(err)
	}
	// What Docker's driver does not know it lets pass.
	h.create(t, &api.CreateRequest{Name: "other", Options: map[string]string{"com.docker.network.bridge.nosuch": "1", "com.example": "x", optAnnounce: "0"}})
}

// TestLinksOpenPorts: where containers are kept apart a link opens what the other one exposes, to who is linked alone; whether
// bridged packets pass the host's rules or not.
func TestLinksOpenPorts(t *testing.T) {
	for _, filtered := range []string{"0", "1"} {
		t.Run("br_netfilter "+filtered, func(t *testing.T) {
			h := newHost(t)
			if _, err := os.Stat("/proc/sys/net/bridge"); err == nil {
				lab.Sysctl(t, h.Lab.Host, "net/bridge/bridge-nf-call-iptables", filtered)
			} else if filtered == "1" {
				t.Skip("no br_netfilter")
			}
			h.create(t, &api.CreateRequest{Name: "apart", Options: map[string]string{optICC: "false"}})
			expose := api.PortSet{api.MustParsePort("80/tcp"): {}, api.MustParsePort("53/udp"): {}}
			db := &JoinRequest{Name: "db", Endpoints: on("apart"), First: "apart", Exposed: expose, Ports: ports("82/tcp", " 8082")}
			j, dns := h.join(t, db)
			addr := j.Endpoints["apart"].IPAddress.String()
			for _, p := range []string{":80", ":81", ":82"} {
				lab.Serve(t, dns, "tcp", p, "db")
			}
			lab.Serve(t, dns, "udp", ":53", "db")
			app := &JoinRequest{Name: "app", Endpoints: map[string]*api.EndpointSettings{"apart": {Links: []string{"db:database"}}}, First: "apart"}
			aj, ans := h.join(t, app)
			_, other := h.join(t, &JoinRequest{Name: "other", Endpoints: on("apart"), First: "apart"})
			mine := "db " + aj.Endpoints["apart"].IPAddress.String()
			lab.Serve(t, ans, "tcp", ":80", "app")
			linked := func(want string) {
				t.Helper()
				lab.Answers(t, ans, "tcp", addr+":80", want)
				lab.Answers(t, ans, "udp", addr+":53", want)
				lab.Answers(t, ans, "tcp", addr+":82", want)
				lab.Answers(t, ans, "tcp", addr+":81", "")
				lab.Answers(t, other, "tcp", addr+":80", "")
			}
			linked(mine)
			lab.Answers(t, dns, "tcp", aj.Endpoints["apart"].IPAddress.String()+":80", "") // one way only
			// By the published port everybody comes in, siblings too.
			gw := j.Endpoints["apart"].Gateway.String()
			lab.Answers(t, other, "tcp", gw+":8082", "db "+gw)
			if filtered == "1" {
				h.close()
				h.open(t)
				h.keep(t, map[string]int{db.ID: process(t, dns), app.ID: process(t, ans)})
				lab.Answers(t, ans, "tcp", addr+":80", mine)
			}
			// A new name, and nobody of the old one.
			if _, err := h.Rename(db.ID, "renamed"); err != nil {
				t.Fatal(err)
			}
			lab.Answers(t, ans, "tcp", addr+":80", "")
			if _, err := h.Rename(db.ID, "db"); err != nil {
				t.Fatal(err)
			}
			lab.Answers(t, ans, "tcp", addr+":80", mine)
			h.Leave(db.ID)
			h.mu.Lock()
			left := h.links()
			h.mu.Unlock()
			if len(left) > 0 {
				t.Errorf("%v", left)
			}
		})
	}
}

// TestEndpoints: kernel parameters and names of interfaces, link-local addresses, and by which network the way out goes.
func TestEndpoints(t *testing.T) {
	h := newHost(t)
	for _, n := range []string{"n1", "n2", "n3"} {
		h.create(t, &api.CreateRequest{Name: n, EnableIPv6: new(n == "n3")})
	}
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	value := func(ns *netns.Namespace, name string) (v string) {
		ns.Do(func() error {
			b, err := os.ReadFile("/proc/sys/net/" + name)
			v = strings.TrimSpace(string(b))
			return err
		})
		return v
	}
	sysctls := map[string]string{optSysctls: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.ifname.forwarding=0"}
	r := &JoinRequest{Name: "a", Endpoints: map[string]*api.EndpointSettings{
		"n1": {DriverOpts: sysctls, IPAMConfig: &api.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.7.7"), netip.MustParseAddr("fe80::7")}}},
		"n2": {DriverOpts: map[string]string{optIface: "back0"}}}, First: "n1", Ports: ports("80/tcp", " 8080")}
	_, ns := h.join(t, r)
	lab.Serve(t, ns, "tcp", ":80", "a")
	if value(ns, "ipv4/conf/eth0/log_martians") != "1" || value(ns, "ipv4/conf/back0/log_martians") != "0" || value(ns, "ipv4/conf/eth0/forwarding") != "0" {
		t.Error("kernel parameters")
	}
	addrs, err := ns.Links().Addrs()
	if err != nil {
		t.Fatal(err)
	}
	var all string
	for _, a := range addrs {
		all += a.Prefix.String() + " "
	}
	if !strings.Contains(all, "169.254.7.7/16 ") || !strings.Contains(all, "fe80::7/64 ") {
		t.Error(all)
	}
	lead := func(iface string, v6 string) {
		t.Helper()
		got := map[bool]string{}
		routes, err := ns.Links().Routes()
		if err != nil {
			t.Fatal(err)
		}
		links, _ := ns.Links().List()
		for _, rt := range routes {
			for _, l := range links {
				if rt.Dst.Bits() == 0 && l.Index == rt.Index {
					got[rt.Dst.Addr().Is6()] += l.Name
				}
			}
		}
		if got[false] != iface || got[true] != v6 {
			t.Errorf("the ways out are %v, want %s and %q", got, iface, v6)
		}
	}
	lead("eth0", "") // n1 is first by name
	connect := func(net string, e *api.EndpointSettings) {
		t.Helper()
		if _, err := h.Connect(context.Background(), r, net, e, ns.Path()); err != nil {
			t.Fatal(err)
		}
		lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	}
	connect("n3", nil)
	lead("eth0", "eth1") // IPv6 goes where there is any
	disconnect := func(net string) {
		t.Helper()
		if _, err := h.Disconnect(context.Background(), r.ID, net, ns.Path()); err != nil {
			t.Fatal(err)
		}
	}
	disconnect("n3")
	connect("n3", &api.EndpointSettings{GwPriority: 1, DriverOpts: sysctls})
	lead("eth1", "eth1")
	if value(ns, "ipv4/conf/eth1/log_martians") != "1" {
		t.Error("kernel parameters of a network that is connected live")
	}
	disconnect("n3")
	lead("eth0", "")
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	h.Leave(r.ID)
	r.Endpoints["n2"].GwPriority = 5
	var j *Joined
	j, ns = h.join(t, &JoinRequest{Name: "b", Endpoints: r.Endpoints, First: "n1"})
	lead("back0", "")
	if j.Endpoints["n2"].GwPriority != 5 {
		t.Errorf("%+v", j.Endpoints["n2"])
	}

	const unknown = "unrecognised network interface sysctl '%s'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
	for bad, text := range map[string]string{
		"net.ipv4.conf.eth0.log_martians=1":     "invalid endpoint settings:\n" + strings.Replace(unknown, "%s", "net.ipv4.conf.eth0.log_martians=1", 1),
		"net.core.conf.IFNAME.x=1":              "invalid endpoint settings:\n" + strings.Replace(unknown, "%s", "net.core.conf.IFNAME.x=1", 1),
		"a,b":                                   "invalid endpoint settings:\n* " + strings.Replace(unknown, "%s", "a", 1) + "\n* " + strings.Replace(unknown, "%s", "b", 1),
		"net.ipv4.conf.IFNAME.nosuch=1":         "/proc/sys/net/ipv4/conf/eth0/nosuch is not a sysctl file",
		"net.ipv4.conf.IFNAME.log_martians":     "expected sysctl 'net.ipv4.conf.IFNAME.log_martians' to have format name=value",
		"net.ipv4.conf.IFNAME.a.b=1":            "expected sysctl 'net.ipv4.conf.IFNAME.a.b=1' to have format net.X.Y.IFNAME.Z",
		"net.ipv4.conf.IFNAME./../../../x=1":    "",
		"net.ipv4.conf.IFNAME.accept_local=yes": "",
	} {
		x := &JoinRequest{ID: strings.Repeat("a", 64), Name: "x", Endpoints: map[string]*api.EndpointSettings{"n1": {DriverOpts: map[string]string{optSysctls: bad}}}, First: "n1"}
		if _, err := h.Join(context.Background(), x); !errs.Invalid.Is(err) || text != "" && err.Error() != text {
			t.Errorf("%s: %v", bad, err)
		}
		if strings.HasPrefix(text, "invalid endpoint") && h.Check(x) == nil {
			t.Errorf("%s passes Check", bad)
		}
	}
	x := &JoinRequest{Name: "x", Endpoints: map[string]*api.EndpointSettings{"n1": {IPAMConfig: &api.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.IPv4Unspecified()}}}}, First: "n1"}
	if err := h.Check(x); err == nil || err.Error() != "invalid endpoint settings:\ninvalid link-local IP address: 0.0.0.0" {
		t.Error(err)
	}
}

// TestIPv6SwitchedOff: where new interfaces have no IPv6, those of a network with IPv6 have it nevertheless; others are as they were.
func TestIPv6SwitchedOff(t *testing.T) {
	h := newHost(t)
	lab.Sysctl(t, h.Lab.Host, "net/ipv6/conf/default/disable_ipv6", "1")
	off := func() error {
		ns, err := netns.New()
		if err == nil {
			err = ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644) })
			h.New = func() (*netns.Namespace, error) { return ns, nil }
		}
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h.create(t, &api.CreateRequest{Name: "six", EnableIPv6: new(true), IPAM: subnets("10.64.0.0/24", "fd64::/64")})
	must(off())
	_, web := h.join(t, &JoinRequest{Name: "web", Endpoints: on("six"), First: "six", Ports: ports("80/tcp", " 8080")})
	lab.Serve(t, web, "tcp", ":80", "web")
	must(off())
	_, other := h.join(t, &JoinRequest{Name: "other", Endpoints: on("six"), First: "six"})
	lab.Answers(t, other, "tcp", "[fd64::2]:80", "web fd64::3")
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "web "+lab.OutsideAddr)
	must(off())
	_, four := h.join(t, &JoinRequest{Name: "four", Endpoints: on("bridge"), First: "bridge"})
	must(four.Do(func() error {
		if isOn("net/ipv6/conf/eth0/disable_ipv6") {
			return nil
		}
		return errors.New("an interface of a network without IPv6 has it")
	}))
	// The bridge is made again.
	h.close()
	h.open(t)
	h.keep(t, nil)
	must(off())
	h.join(t, &JoinRequest{Name: "again", Endpoints: on("six"), First: "six"})
}
