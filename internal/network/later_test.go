package network

import (
	"os/exec"
	"strings"
	"testing"

	api "github.com/moby/moby/api/types/network"
)

// TestWhatTheHostHasLater: routes, addresses and an uplink that came after the engine's start count for the next network.
func TestWhatTheHostHasLater(t *testing.T) {
	h := newHost(t)
	run := func(line string) {
		t.Helper()
		if err := h.Lab.Host.Do(func() error { return exec.Command("ip", strings.Fields(line)...).Run() }); err != nil {
			t.Fatalf("ip %s: %v", line, err)
		}
	}
	subnet := func(name string) string {
		t.Helper()
		h.create(t, &api.CreateRequest{Name: name})
		return must1(h.Get(name)).IPAM.Config[0].Subnet.String()
	}
	if got := subnet("n1"); got != "172.18.0.0/16" {
		t.Error(got)
	}
	run("route add 172.19.7.0/24 via 10.99.0.2") // the office's, by VPN
	if got := subnet("n2"); got != "172.20.0.0/16" {
		t.Error(got)
	}
	run("addr add 172.21.0.9/30 dev lo")
	run("route add 172.22.0.0/15 via 10.99.0.2 table 77") // by a rule of policy routing
	run("link set uplink mtu 1340")
	if got := subnet("n3"); got != "172.24.0.0/16" {
		t.Error(got)
	}
	_, ns := h.join(t, &JoinRequest{Name: "a", Endpoints: on("n3"), First: "n3"})
	if l, err := ns.Links().Find("eth0"); err != nil || l.MTU != 1340 {
		t.Errorf("the uplink's MTU is 1340, the container's %d, %v", l.MTU, err)
	}
}
