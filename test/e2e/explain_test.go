//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/internal/client"
	"gantry/test/engine"
)

// inHost runs a shell command in the engine's host network.
func inHost(t *testing.T, e *engine.Engine, command string) string {
	t.Helper()
	var out []byte
	err := e.Inside(func() (err error) {
		out, err = exec.Command("sh", "-c", command).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	return string(out)
}

// explanation asks for a port in JSON, and returns the ways by sender and address.
func explanation(t *testing.T, e *engine.Engine, port string) (x client.PortExplanation, ways map[string]string) {
	t.Helper()
	if err := json.Unmarshal([]byte(okOn(t, e, "network", "explain", "--format", "json", port)), &x); err != nil {
		t.Fatal(err)
	}
	ways = map[string]string{}
	for _, w := range x.Ways {
		for _, to := range w.To {
			ways[w.From+" "+to] = w.Reached
		}
	}
	return x, ways
}

func expect(t *testing.T, port string, ways map[string]string, want ...string) {
	t.Helper()
	for _, w := range want {
		key, reached, _ := strings.Cut(w, ": ")
		if ways[key] != reached {
			t.Errorf("port %s, %s: %q, want %q, in %v", port, key, ways[key], reached, ways)
		}
	}
}

func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("no word of %q in\n%s", w, text)
		}
	}
}

// TestExplainPorts: who reaches a port, and by which rule. (Whether what is said is true the network service's own tests try out.)
func TestExplainPorts(t *testing.T) {
	e := ownEngine(t, "busybox")
	inHost(t, e, "ip link add uplink type bridge; ip addr add 10.99.0.1/24 dev uplink; ip link set uplink up")
	okOn(t, e, "network", "create", "--internal", "closed")
	okOn(t, e, "run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "busybox", "httpd", "-f", "-p", "80")
	okOn(t, e, "run", "-d", "--name", "shut", "--network", "closed", "-p", "8082:80", "busybox", "sleep", "1000")
	okOn(t, e, "run", "-d", "--name", "hosted", "--network", "host", "busybox", "httpd", "-f", "-p", "8083")
	waitFor(t, func() bool { return strings.Contains(okOn(t, e, "network", "explain", "8083"), "is held by") }) // it listens
	okOn(t, e, "create", "--name", "asleep", "-p", "8085-8086:80-81", "busybox")
	var l net.Listener
	if err := e.Inside(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:8084")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, ways := explanation(t, e, "8080")
	expect(t, "8080", ways, "this host 127.0.0.1:8080: yes", "this host [::1]:8080: yes", "this host 10.99.0.1:8080: yes", "outside 10.99.0.1:8080: yes",
		"containers of bridge 172.17.0.1:8080: yes", "containers of bridge 172.17.0.2:80: yes", "containers of closed 10.99.0.1:8080: no")
	contains(t, okOn(t, e, "network", "explain", "8080/tcp"), "8080/tcp is published on 0.0.0.0:8080 by container web (network bridge), which has it at 172.17.0.2:80; by rule",
		"publish-policy: forward", "outside -> 10.99.0.1:8080: yes", "led to 172.17.0.2:80 by element tcp . 8080 : 172.17.0.2 . 80 of map inet gantry", "the container sees the client's own address",
		"let through by the rule with handle ", " forward (accept)", "this host -> [::1]:8080: yes", "the relay (pid ", "containers of closed")
	_, ways = explanation(t, e, "8081")
	expect(t, "8081", ways, "this host 127.0.0.1:8081: yes", "this host 10.99.0.1:8081: no", "outside 10.99.0.1:8081: no", "containers of bridge 172.17.0.1:8081: no")

	// Another tool's rules, before and behind our accept.
	inHost(t, e, "nft 'add table ip tool; add chain ip tool fw { type filter hook forward priority 0; policy drop; }; add table inet last; add chain inet last fw { type filter hook forward priority 5; }'")
	_, ways = explanation(t, e, "8080")
	expect(t, "8080 beside another tool", ways, "outside 10.99.0.1:8080: yes")
	inHost(t, e, "nft add rule inet last fw tcp dport 80 ip saddr 192.0.2.1 drop")
	_, ways = explanation(t, e, "8080")
	expect(t, "8080", ways, "outside 10.99.0.1:8080: depends")
	inHost(t, e, "nft add rule inet last fw tcp dport 80 reject")
	_, ways = explanation(t, e, "8080")
	expect(t, "8080", ways, "outside 10.99.0.1:8080: no", "this host 127.0.0.1:8080: yes")
	contains(t, okOn(t, e, "network", "explain", "8080"), "chain inet last fw (reject)")
	inHost(t, e, "nft 'delete table ip tool; delete table inet last'")

	x, _ := explanation(t, e, "8082")
	if len(x.Published)+len(x.Holders)+len(x.Ways) > 0 {
		t.Errorf("a port of an internal network: %+v", x)
	}
	contains(t, okOn(t, e, "network", "explain", "8082"), "8082/tcp: nobody has it", "container shut is to publish it, but it is on no network that leads out")
	contains(t, okOn(t, e, "network", "explain", "8086"), "8086/tcp: nobody has it", "container asleep is to publish it, but it does not run")
	contains(t, okOn(t, e, "network", "explain", "8083"), "8083/tcp is held by pid ", "(httpd) of container hosted", "outside -> 10.99.0.1:8083")
	contains(t, okOn(t, e, "network", "explain", "8084"), fmt.Sprintf("8084/tcp is held by pid %d (", os.Getpid()), "this host -> 127.0.0.1:8084: yes", "nobody listens on this address")
	if out := okOn(t, e, "network", "explain", "9999/udp"); out != "9999/udp: nobody has it" {
		t.Error(out)
	}
	for _, bad := range []string{"0", "70000", "x", "80/xyz"} {
		if r := must(t, e.CLI("network", "explain", bad)); r.Code != 1 || !strings.Contains(r.Err, "invalid port specification") {
			t.Error(r)
		}
	}
}

// TestExplainFirewallPolicy: with the policy "firewall" the host's rules for what comes in decide.
func TestExplainFirewallPolicy(t *testing.T) {
	e := engine.Gantry(filepath.Join(scratch, "explain"), "--publish-policy", "firewall")
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	inHost(t, e, "ip link add uplink type bridge; ip addr add 10.99.0.1/24 dev uplink; ip link set uplink up")
	okOn(t, e, "run", "-d", "--name", "web", "-p", "8080:80", "busybox", "httpd", "-f", "-p", "80")
	_, ways := explanation(t, e, "8080")
	expect(t, "8080", ways, "this host 127.0.0.1:8080: yes", "outside 10.99.0.1:8080: yes")
	inHost(t, e, "nft 'add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; add rule inet fw in iif lo accept; add rule inet fw in ct state established accept'")
	_, ways = explanation(t, e, "8080")
	expect(t, "8080 without an accept", ways, "this host 127.0.0.1:8080: yes", "outside 10.99.0.1:8080: no", "containers of bridge 172.17.0.1:8080: no")
	contains(t, okOn(t, e, "network", "explain", "8080"), "publish-policy: firewall", "; by relay (pid ", "refused by the policy drop of chain inet fw in")
	inHost(t, e, "nft add rule inet fw in tcp dport 8080 accept")
	if out := okOn(t, e, "network", "explain", "8080"); strings.Count(out, "172.17.0.2:80: yes") != 1 || !strings.Contains(out, "the container sees the client's own address") {
		t.Error(out)
	}
	_, ways = explanation(t, e, "8080")
	expect(t, "8080 with an accept", ways, "outside 10.99.0.1:8080: yes", "containers of bridge 172.17.0.1:8080: yes")
	contains(t, okOn(t, e, "network", "explain", "8080"), "of chain inet fw in (accept)")
}
