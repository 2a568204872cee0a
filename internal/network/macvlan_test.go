package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/kernel/link"
	"gantry/internal/network/lab"
)

func TestMacvlan(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "lan", Driver: "macvlan", Options: map[string]string{"parent": "uplink"},
		IPAM: &api.IPAM{Config: []api.IPAMConfig{{Subnet: netip.MustParsePrefix("10.99.0.0/24"), IPRange: netip.MustParsePrefix("10.99.0.64/26"), Gateway: netip.MustParseAddr(lab.OutsideAddr)}}}})
	_, ns := h.join(t, &JoinRequest{Name: "a", Endpoints: on("lan"), First: "lan"})
	lab.Serve(t, ns, "tcp", ":80", "a")
	lab.Answers(t, h.Outside, "tcp", "10.99.0.64:80", "a "+lab.OutsideAddr)
	h.Leave(must1(h.Get("lan")).firstContainer())
	if err := h.Remove(context.Background(), "lan"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Lab.Host.Links().Find("uplink"); err != nil {
		t.Fatalf("the user's interface: %v", err)
	}
}

// TestMacvlanWithoutParent is on an interface of its own that leads nowhere; another network may share it by its name.
func TestMacvlanWithoutParent(t *testing.T) {
	h := newHost(t)
	id := h.create(t, &api.CreateRequest{Name: "alone", Driver: "macvlan"})
	parent := "dm-" + id[:12]
	a, ans := h.join(t, &JoinRequest{Name: "a", Endpoints: on("alone"), First: "alone"})
	b, bns := h.join(t, &JoinRequest{Name: "b", Endpoints: on("alone"), First: "alone"})
	lab.Serve(t, ans, "tcp", ":80", "a")
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	lab.Answers(t, bns, "tcp", a.Endpoints["alone"].IPAddress.String()+":80", "a "+b.Endpoints["alone"].IPAddress.String())
	lab.Answers(t, bns, "tcp", lab.OutsideAddr+":80", "")
	h.create(t, &api.CreateRequest{Name: "second", Driver: "macvlan", Options: map[string]string{"parent": parent}})
	for id := range must1(h.Get("alone")).Containers {
		h.Leave(id)
	}
	there := func() error {
		_, err := h.Lab.Host.Links().Find(parent)
		return err
	}
	if err := errors.Join(h.Remove(context.Background(), "alone"), there()); err != nil {
		t.Fatal(err)
	}
	if err := h.Remove(context.Background(), "second"); err != nil {
		t.Fatal(err)
	}
	if err := there(); !errors.Is(err, link.ErrNotFound) {
		t.Fatalf("the interface below stays: %v", err)
	}
	for parent, text := range map[string]string{"lo": "loopback interface is not a valid macvlan parent link", "nosuch": "invalid subinterface vlan name nosuch, example formatting is eth0.10",
		"uplink.5000": "invalid subinterface vlan name uplink.5000, example formatting is eth0.10", "nosuch.7": "failed to find master interface nosuch on the Docker host"} {
		_, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "x", Driver: "macvlan", Options: map[string]string{"parent": parent}})
		if !errs.Invalid.Is(err) || !strings.HasPrefix(err.Error(), text) {
			t.Errorf("on %s: %v", parent, err)
		}
	}
}

// TestIpvlanOptions is what Docker's options mean for the interface that is made. (kernel/link has the message; kernels that have
// ipvlan need no more.)
func TestIpvlanOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode, flag string
		want       link.Macvlan
		way        string
	}{
		{"", "", link.Macvlan{}, "10.1.0.1"},
		{"l2", "bridge", link.Macvlan{}, "10.1.0.1"},
		{"l2", "private", link.Macvlan{Flags: 1}, "10.1.0.1"},
		{"l3", "vepa", link.Macvlan{Mode: 1, Flags: 2}, "0.0.0.0"},
		{"l3s", "", link.Macvlan{Mode: 2}, "0.0.0.0"},
	} {
		r := record{Driver: "ipvlan", Options: map[string]string{"ipvlan_mode": c.mode, "ipvlan_flag": c.flag, "parent": "eth7"}}
		if err := checkOptions(&r); err != nil {
			t.Error(err)
		}
		n := &network{record: r, mtu: 1500}
		e := &endpoint{Iface: "eth0", V4: netip.MustParsePrefix("10.1.0.2/24"), GW4: netip.MustParseAddr("10.1.0.1")}
		c.want.Name, c.want.Kind, c.want.Parent, c.want.MTU, c.want.NS = "eth0", "ipvlan", 7, 1400, 5
		if got := n.macvlan(e, link.Link{Index: 7, MTU: 1400, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, 5); fmt.Sprint(*got) != fmt.Sprint(c.want) {
			t.Errorf("%s %s: %+v, want %+v", c.mode, c.flag, *got, c.want)
		}
		if w := n.ways([]netip.Addr{e.GW4}); len(w) != 1 || w[0].String() != c.way || n.parentName() != "eth7" {
			t.Errorf("%s: the way out is %v", c.mode, w)
		}
	}
	for option, text := range map[string]string{"ipvlan_mode": "requested ipvlan mode 'odd' is not valid, 'l2' mode is the ipvlan driver default", "ipvlan_flag": "requested ipvlan flag 'odd' is not valid, 'bridge' is the ipvlan driver default"} {
		if err := checkOptions(&record{Driver: "ipvlan", Options: map[string]string{option: "odd"}}); !errs.Invalid.Is(err) || err.Error() != text {
			t.Error(err)
		}
	}
}
