package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
)

// nft runs the nft program in the lab's host, which the tests take for the user and for other tools.
func (h *host) nft(t testing.TB, rules string) {
	t.Helper()
	err := h.Lab.Host.Do(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("nft: %w: %s", err, out)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// way finds what an explanation says of a sender and an address.
func way(t testing.TB, x *Explanation, from, to string) Way {
	t.Helper()
	for _, w := range x.Ways {
		for _, a := range w.To {
			if w.From == from && a.String() == to {
				return w
			}
		}
	}
	t.Fatalf("nothing is said of %s to %s: %+v", from, to, x.Ways)
	return Way{}
}

// TestExplain holds what is said of a port against what happens.
func TestExplain(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "closed", Internal: true})
	h.create(t, &api.CreateRequest{Name: "apart", Options: map[string]string{optICC: "false"}})
	web := &JoinRequest{Name: "web", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080", "80/tcp", "127.0.0.1 8081")}
	_, ns := h.join(t, web)
	lab.Serve(t, ns, "tcp", ":80", "web")
	_, sibling := h.join(t, &JoinRequest{Name: "sibling", Endpoints: on("bridge"), First: "bridge"})
	_, closed := h.join(t, &JoinRequest{Name: "shut", Endpoints: on("closed"), First: "closed", Ports: ports("80/tcp", " 8083")})
	_, alone := h.join(t, &JoinRequest{Name: "alone", Endpoints: on("apart"), First: "apart", Ports: ports("80/tcp", " 8082")})
	_, aside := h.join(t, &JoinRequest{Name: "aside", Endpoints: on("apart"), First: "apart"})
	lab.Serve(t, alone, "tcp", ":80", "alone")
	h.Relayed = true
	_, passed := h.join(t, &JoinRequest{Name: "passed", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8084")})
	lab.Serve(t, passed, "tcp", ":80", "passed")
	h.relayPid(t, 0)
	lab.Serve(t, h.Lab.Host, "tcp4", lab.HostAddr+":8085", "host")

	explain := func(port uint16) *Explanation {
		t.Helper()
		x, err := h.Explain(context.Background(), "tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	says := func(port uint16, from string, ns *netns.Namespace, to string, want Reached, why ...string) {
		t.Helper()
		w := way(t, explain(port), from, to)
		all := strings.Join(w.Why, "\n")
		if w.Reached != want {
			t.Errorf("%s to %s is said to be reached: %s, %s", from, to, w.Reached, all)
		}
		for _, y := range why {
			if !strings.Contains(all, y) {
				t.Errorf("%s to %s: no word of %q in\n%s", from, to, y, all)
			}
		}
		if ns == nil {
			return
		}
		wait := 30 * time.Second
		if want == No {
			wait = lab.Silence
		}
		if _, err := lab.Ask(ns, "tcp", to, wait); (err == nil) != (want == Yes) {
			t.Errorf("%s to %s is said to be reached: %s, but %v\n%s", from, to, want, err, all)
		}
	}
	here, bridge, uplink := "this host", "containers of bridge", lab.HostAddr
	says(8080, here, h.Lab.Host, "127.0.0.1:8080", Yes, "led to 172.17.0.2:80 by element tcp . 8080 : 172.17.0.2 . 80 of map inet gantry-test port4", "the container sees 172.17.0.1 as the client")
	says(8080, here, h.Lab.Host, "[::1]:8080", Yes, "the relay (pid ")
	says(8080, "outside", h.Outside, uplink+":8080", Yes, "let through by the rule with handle ", "chain inet gantry-test forward (accept)", "the container sees the client's own address")
	says(8080, "outside", h.Outside, "["+lab.HostAddr6+"]:8080", Yes, "the relay (pid ")
	says(8080, bridge, sibling, "172.17.0.1:8080", Yes)
	says(8080, bridge, sibling, "172.17.0.2:80", Yes, "directly")
	says(8080, "containers of closed", closed, uplink+":8080", No, "refused by", "chain inet gantry-test forward (drop)")
	says(8080, "containers of apart", aside, uplink+":8080", Yes)

	says(8081, here, h.Lab.Host, "127.0.0.1:8081", Yes, "element 127.0.0.1 . tcp . 8081")
	says(8081, "outside", h.Outside, uplink+":8081", No, "nobody listens on this address")
	says(8081, bridge, sibling, "172.17.0.1:8081", No)

	says(8082, "containers of apart", aside, "172.19.0.2:80", No, "enable_icc=false keeps containers apart")
	says(8082, "containers of apart", aside, "172.19.0.1:8082", Yes)

	if x := explain(8083); len(x.Published) > 0 || len(x.Ways) > 0 {
		t.Errorf("a port of an internal network: %+v", x)
	}

	// The host's own rules: they hold for what the relay passes on, and not for what rules lead past them.
	says(8084, "outside", h.Outside, uplink+":8084", Yes)
	h.nft(t, `table inet mine {
		set friends { type ipv4_addr; }
		chain in { type filter hook input priority 0; policy drop; iif "lo" accept; ct state established,related accept; iifname "gantry0" tcp dport { 80, 8080-8084 } accept; }
	}`)
	says(8084, "outside", h.Outside, uplink+":8084", No, "refused by the policy drop of chain inet mine in")
	says(8080, "outside", h.Outside, uplink+":8080", Yes)
	says(8084, here, h.Lab.Host, "127.0.0.1:8084", Yes, "chain inet mine in (accept)")
	says(8084, bridge, sibling, "172.17.0.1:8084", Yes)
	says(8085, "outside", h.Outside, uplink+":8085", No)
	h.nft(t, `add rule inet mine in ip saddr @friends tcp dport 8084 accept comment "friends"; add element inet mine friends { 192.0.2.1 };`)
	says(8084, "outside", nil, uplink+":8084", Depends, `(accept), "friends" decides otherwise`)
	h.nft(t, `add rule inet mine in tcp dport vmap { 8084 : accept, 8085 : drop }; `)
	says(8084, "outside", h.Outside, uplink+":8084", Yes)
	h.nft(t, `delete table inet mine; table ip tool { chain fw { type filter hook forward priority 0; policy drop; ct state established accept; }; }`)
	// Our accept is in front of it.
	says(8080, "outside", h.Outside, uplink+":8080", Yes, `chain ip tool fw (accept), "to gantry0 of gantry-test"`)
	h.nft(t, `table inet last { chain fw { type filter hook forward priority 10; tcp dport 80 reject; }; }`)
	says(8080, "outside", h.Outside, uplink+":8080", No, "chain inet last fw (reject)")
	h.nft(t, `delete table inet last; delete table ip tool; add rule inet gantry-test user ip saddr 10.99.0.0/24 drop`)
	says(8080, "outside", nil, uplink+":8080", Depends, "chain inet gantry-test user (drop) decides otherwise")

	h.nft(t, `delete table inet gantry-test; table ip nat {
		chain DOCKER { iifname "docker0" return; tcp dport 8080 counter dnat to 192.0.2.9:80; tcp dport 8085 redirect to :9; }
		chain PREROUTING { type nat hook prerouting priority -100; fib daddr type local jump DOCKER; }
		chain OUTPUT { type nat hook output priority -100; ip daddr != 127.0.0.0/8 jump DOCKER; }
	}`)
	for end := time.Now().Add(10 * time.Second); way(t, explain(8080), "outside", uplink+":8080").Reached == No && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // ours come back
	}
	says(8080, "outside", nil, uplink+":8080", Depends, "led to 172.17.0.2:80", "chain ip nat DOCKER (dnat) decides otherwise")
	says(8085, "outside", nil, uplink+":8085", Depends, "chain ip nat DOCKER (dnat) decides otherwise")
	says(8085, here, nil, uplink+":8085", Depends, "chain ip nat DOCKER (dnat) decides otherwise")
	says(8084, "outside", h.Outside, uplink+":8084", Yes)
	says(8080, here, h.Lab.Host, "127.0.0.1:8080", Yes)
	says(8080, "outside", h.Outside, "["+lab.HostAddr6+"]:8080", Yes)
	h.nft(t, `delete table ip nat`)

	x := explain(8085)
	if len(x.Holders) != 1 || x.Holders[0].Pid != os.Getpid() || x.Holders[0].Command == "" || x.Holders[0].Addr.String() != uplink+":8085" {
		t.Errorf("%+v", x.Holders)
	}
	says(8085, "outside", h.Outside, uplink+":8085", Yes, x.Holders[0].Who()+" listens on")
	says(8085, here, h.Lab.Host, "127.0.0.1:8085", No)
	if x := explain(9); len(x.Published)+len(x.Holders)+len(x.Ways) > 0 {
		t.Errorf("a port that nobody has: %+v", x)
	}
	if _, err := h.Explain(context.Background(), "tcp", 0); err == nil {
		t.Error("port 0 was explained")
	}
	if names := slices.Collect(func(yield func(string) bool) {
		for _, p := range explain(8080).Published {
			if !yield(p.Container + " " + p.Host.String() + " " + p.By) {
				return
			}
		}
	}); !slices.Equal(names, []string{"web 0.0.0.0:8080 rule", "web [::]:8080 relay"}) {
		t.Error(names)
	}
}
