//go:build e2e

package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// TestEndpointOptions is what Debian's docker does not know yet: per-interface kernel parameters, priorities of gateways.
func TestEndpointOptions(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "network", "create", "na")
	okOn(t, e, "network", "create", "nb")
	const option = "driver-opt=com.docker.network.endpoint.sysctls="
	out := okOn(t, e, "run", "--rm", "--network", "name=na,\""+option+"net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.accept_local=1\"", "--network", "name=nb,gw-priority=1,driver-opt=com.docker.network.endpoint.ifname=back",
		"busybox", "sh", "-c", "cat /proc/sys/net/ipv4/conf/eth0/log_martians /proc/sys/net/ipv4/conf/eth0/accept_local /proc/sys/net/ipv4/conf/back/accept_local; ip route | grep default | grep -o 'dev.*'")
	if strings.Join(strings.Fields(out), " ") != "1 1 0 dev back" {
		t.Error(out)
	}
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"run", "--rm", "--network", "name=na," + option + "net.ipv4.conf.eth0.forwarding=1", "busybox", "true"},
			"invalid endpoint settings:\nunrecognised network interface sysctl 'net.ipv4.conf.eth0.forwarding=1'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"},
		{[]string{"run", "--rm", "--network", "name=na," + option + "net.ipv4.conf.IFNAME.nosuch=1", "busybox", "true"}, "/proc/sys/net/ipv4/conf/eth0/nosuch is not a sysctl file"},
		{[]string{"run", "--rm", "--sysctl", "net.ipv4.conf.eth0.forwarding=1", "busybox", "true"},
			"interface specific sysctl setting \"net.ipv4.conf.eth0.forwarding\" must be supplied using driver option 'com.docker.network.endpoint.sysctls'"},
		{[]string{"network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv6=isolated", "nx"}, "gateway mode 'isolated' can only be used for an internal network"},
		{[]string{"network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=open", "nx"},
			"failed to parse com.docker.network.bridge.gateway_mode_ipv4 value: open (unknown gateway mode open)"},
	} {
		if r := must(t, e.CLI(c.args...)); r.Code == 0 || !strings.Contains(r.Err, c.text) {
			t.Errorf("%v, want %q", r, c.text)
		}
	}
	// What older clients say of eth0 is moved, and they are told.
	r := must(t, e.StockCLI("run", "--rm", "--sysctl", "net.ipv4.conf.eth0.log_martians=1", "busybox", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians"))
	if r.Out != "1\n" || !strings.Contains(r.Err, `Migrated sysctl "net.ipv4.conf.eth0.log_martians" to DriverOpts{"com.docker.network.endpoint.sysctls":"net.ipv4.conf.IFNAME.log_martians=1"}.`) {
		t.Error(r)
	}
	if r := must(t, e.StockCLI("run", "--rm", "--sysctl", "net.ipv4.conf.eth1.log_martians=1", "busybox", "true")); r.Code != 125 || !strings.Contains(r.Err, "unable to determine network endpoint for sysctl net.ipv4.conf.eth1.log_martians, use driver option 'com.docker.network.endpoint.sysctls' to set per-interface sysctls") {
		t.Error(r)
	}
	// A routed network takes no port of the host.
	okOn(t, e, "network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=routed", "--subnet", "10.85.0.0/24", "nr")
	okOn(t, e, "run", "-d", "--name", "routed", "--network", "nr", "-p", "8080:80", "busybox", "httpd", "-f", "-p", "80")
	if out := okOn(t, e, "inspect", "routed", "-f", "{{json .NetworkSettings.Ports}}"); out != `{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":""}]}` {
		t.Error(out)
	}
	contains(t, okOn(t, e, "network", "explain", "80"), "80/tcp is published on 10.85.0.2:80 by container routed", "by route", "outside -> 10.85.0.2:80: yes")
	contains(t, okOn(t, e, "network", "explain", "8080"), "nobody has it")
	okOn(t, e, "rm", "-f", "routed")
}

// TestLinksWithoutICC: on a default network that keeps its containers apart (--icc=false) links open what is exposed, as in Docker.
func TestLinksWithoutICC(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "noicc"), "--icc=false", "--ip", "127.0.0.1")
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	okOn(t, e, "run", "-d", "--name", "db", "--expose", "80", "busybox", "sh", "-c", "httpd -p 81; httpd -f -p 80")
	okOn(t, e, "run", "-d", "--name", "app", "--link", "db:database", "busybox", "sleep", "1000")
	okOn(t, e, "run", "-d", "--name", "other", "-p", "8080:80", "busybox", "sleep", "1000")
	ip := okOn(t, e, "inspect", "db", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}")
	for _, c := range []struct {
		from, port string
		reached    bool
	}{{"app", "80", true}, {"app", "81", false}, {"other", "80", false}} {
		ask := func() engine.Result {
			return must(t, e.CLI("exec", c.from, "sh", "-c", "echo | nc -w 2 "+ip+" "+c.port))
		}
		if c.reached { // as soon as it listens
			waitFor(t, func() bool { return ask().Code == 0 })
		} else if r := ask(); r.Code == 0 {
			t.Errorf("from %s: %v", c.from, r)
		}
	}
	if out := okOn(t, e, "port", "other"); out != "80/tcp -> 127.0.0.1:8080" {
		t.Error(out)
	}
	if out := okOn(t, e, "network", "inspect", "bridge", "-f", `{{index .Options "com.docker.network.bridge.enable_icc"}} {{index .Options "com.docker.network.bridge.host_binding_ipv4"}}`); out != "false 127.0.0.1" {
		t.Error(out)
	}
}
