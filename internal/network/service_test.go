package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	api "github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/kernel/link"
	"gantry/internal/kernel/memfd"
	"gantry/internal/kernel/message"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/lab"
	"gantry/internal/network/relay"
	"gantry/internal/runtime/spec"
	"gantry/internal/state"
)

type host struct {
	*lab.Lab
	*Service
	dir   string
	store *state.Store
}

func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{Lab: lab.New(t), dir: t.TempDir()}
	h.open(t)
	t.Cleanup(func() { h.end(t) })
	return h
}

func (h *host) open(t testing.TB) {
	t.Helper()
	var err error
	if h.store, err = state.Open(filepath.Join(h.dir, "state.db")); err != nil {
		t.Fatal(err)
	}
	h.Service, err = Open(context.Background(), Options{Run: filepath.Join(h.dir, "run"), State: h.store, Log: slog.New(slog.DiscardHandler),
		Host: h.Lab.Host, Table: "gantry-test", Bridge: "gantry0", ULA: [5]byte{1, 2, 3, 4, 5}, Relay: relayOf(h.dir)})
	if err != nil {
		t.Fatal(err)
	}
}

// relayOf says where the relay of an exec-root is, and what it is.
func relayOf(dir string) relay.Options {
	return relay.Options{
		Dir:    dir,
		Cgroup: func() (spec.Cgroup, error) { return spec.Cgroup{}, nil },
		Program: func() (*os.File, error) {
			b, err := os.ReadFile(os.Getenv(relayEnv))
			if err != nil {
				return nil, err
			}
			return memfd.New("gantry-relay", b, true)
		},
		Build: func() (string, error) { return os.Getenv("BUILD"), nil },
	}
}

// end ends the relay, too: all containers leave first.
func (h *host) end(t testing.TB) {
	if h.Service == nil {
		h.open(t)
		if err := h.Keep(func(string) int { return 0 }); err != nil {
			t.Error(err)
		}
	}
	h.mu.Lock()
	ids := slices.Collect(maps.Keys(h.joined))
	h.mu.Unlock()
	for _, id := range ids {
		h.Leave(id)
	}
	h.close()
	if c, err := message.Dial(h.dir, "relay.sock"); err == nil {
		c.Close()
		t.Error("the relay goes on with nothing to hold")
	}
	if n := h.diverted(); n > 0 {
		t.Errorf("%d rules of routing are left", n)
	}
	if b, _ := os.ReadFile(filepath.Join(h.dir, "relay.log")); len(b) > 0 {
		t.Errorf("the relay complained:\n%s", b)
	}
}

// diverted counts the host's rules of routing by marks.
func (h *host) diverted() (n int) {
	for _, f := range []string{"-4", "-6"} {
		h.Lab.Host.Do(func() error {
			out, err := exec.Command("ip", f, "rule").Output()
			n += strings.Count(string(out), "fwmark")
			return err
		})
	}
	return n
}

func (h *host) close() {
	if h.Service != nil {
		h.Service.Close()
		h.store.Close()
		h.Service = nil
	}
}

func (h *host) join(t testing.TB, r *JoinRequest) (*Joined, *netns.Namespace) {
	t.Helper()
	if r.ID == "" {
		r.ID = ids.New()
	}
	j, err := h.Join(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Open(j.Path)
	if err != nil {
		t.Fatal(err)
	}
	j.Done()
	t.Cleanup(func() { ns.Close() })
	return j, ns
}

func on(names ...string) map[string]*api.EndpointSettings {
	m := map[string]*api.EndpointSettings{}
	for _, n := range names {
		m[n] = nil
	}
	return m
}

func ports(p ...string) api.PortMap {
	m := api.PortMap{}
	for i := 0; i < len(p); i += 2 {
		ip, port, _ := strings.Cut(p[i+1], " ")
		b := api.PortBinding{HostPort: port}
		if ip != "" {
			b.HostIP = netip.MustParseAddr(ip)
		}
		m[api.MustParsePort(p[i])] = append(m[api.MustParsePort(p[i])], b)
	}
	return m
}

func (h *host) create(t testing.TB, r *api.CreateRequest) string {
	t.Helper()
	id, _, err := h.Create(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestDefaultBridge(t *testing.T) {
	h := newHost(t)
	j, ns := h.join(t, &JoinRequest{Name: "web", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080", "81/tcp", "127.0.0.1 ")})
	e := j.Endpoints["bridge"]
	if e.IPAddress.String() != "172.17.0.2" || e.Gateway.String() != "172.17.0.1" || e.IPPrefixLen != 16 || e.MacAddress.String() != "02:42:ac:11:00:02" {
		t.Fatalf("%+v", e)
	}
	eth, err := ns.Links().Find("eth0")
	if err != nil || eth.MTU != lab.MTU {
		t.Fatalf("the uplink's MTU is %d, the container's %d, %v", lab.MTU, eth.MTU, err)
	}
	lab.Serve(t, ns, "tcp", ":80", "web")
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "web "+lab.OutsideAddr)
	lab.Answers(t, h.Lab.Host, "tcp", "127.0.0.1:8080", "web 172.17.0.1")
	lab.Answers(t, ns, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	lab.Answers(t, ns, "tcp", lab.HostAddr+":8080", "web 172.17.0.1")
	if p := j.Ports[api.MustParsePort("81/tcp")]; len(p) != 1 || p[0].HostIP.String() != "127.0.0.1" || p[0].HostPort == "" {
		t.Fatal(j.Ports)
	}
	_, err = h.Join(context.Background(), &JoinRequest{ID: ids.New(), Name: "web2", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080")})
	if err == nil || !strings.Contains(err.Error(), "driver failed programming external connectivity on endpoint web2 (") ||
		!strings.Contains(err.Error(), "): Bind for 0.0.0.0:8080 failed: port is already allocated\n(container web has it; the next free one is 8081)") {
		t.Fatal(err)
	}
	got, err := h.Get("bridge")
	if err != nil || len(got.Containers) != 1 {
		t.Fatal(got, err)
	}
	if _, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "bridge"}); err == nil || err.Error() != "operation is not permitted on predefined bridge network " {
		t.Fatal(err)
	}
}

func TestUserNetworks(t *testing.T) {
	h := newHost(t)
	yes := true
	id := h.create(t, &api.CreateRequest{Name: "back", EnableIPv6: &yes, Options: map[string]string{optMTU: "1300"}, Labels: map[string]string{"a": "b"},
		IPAM: &api.IPAM{Config: []api.IPAMConfig{{Subnet: netip.MustParsePrefix("10.77.0.0/24"), IPRange: netip.MustParsePrefix("10.77.0.128/25"), Gateway: netip.MustParseAddr("10.77.0.254")}}}})
	h.create(t, &api.CreateRequest{Name: "closed", Internal: true})
	for _, c := range []struct {
		r    api.CreateRequest
		kind errs.Kind
		text string
	}{
		{api.CreateRequest{Name: "back"}, errs.Conflict, "network with name back already exists"},
		{api.CreateRequest{Name: "x", IPAM: &api.IPAM{Config: []api.IPAMConfig{{Subnet: netip.MustParsePrefix("10.77.0.0/16")}}}}, errs.Forbidden, "Pool overlaps with other one on this address space"},
		{api.CreateRequest{Name: "x", Driver: "nothere"}, errs.NotFound, `plugin "nothere" not found`},
		{api.CreateRequest{Name: "x", Options: map[string]string{optICC: "maybe"}}, errs.Invalid, ""},
		{api.CreateRequest{Name: "x/y"}, errs.Invalid, ""},
		{api.CreateRequest{Name: "x", IPAM: &api.IPAM{Config: []api.IPAMConfig{{Subnet: netip.MustParsePrefix("10.78.0.0/24"), Gateway: netip.MustParseAddr("10.79.0.1")}}}}, errs.Invalid, ""},
	} {
		if _, _, err := h.Create(context.Background(), &c.r); errs.KindOf(err) != c.kind || err == nil || c.text != "" && err.Error() != c.text {
			t.Errorf("%+v: %v (%v)", c.r, err, errs.KindOf(err))
		}
	}
	fixed := &api.EndpointSettings{IPAMConfig: &api.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.77.0.9")}, Aliases: []string{"db"}, MacAddress: api.HardwareAddr{2, 1, 1, 1, 1, 1}}
	a, ans := h.join(t, &JoinRequest{Name: "a", Endpoints: map[string]*api.EndpointSettings{"back": fixed, "closed": nil}, First: "back"})
	_, bns := h.join(t, &JoinRequest{Name: "b", Endpoints: on(id[:12]), First: id[:12]})
	if e := a.Endpoints["back"]; e.IPAddress.String() != "10.77.0.9" || e.MacAddress.String() != "02:01:01:01:01:01" || e.GlobalIPv6Address.String() != "fd01:203:405::2" || fmt.Sprint(e.DNSNames[:2]) != "[a db]" {
		t.Fatalf("%+v", e)
	}
	if l, _ := ans.Links().Find("eth0"); l.MTU != 1300 {
		t.Fatal(l)
	}
	if _, err := ans.Links().Find("eth1"); err != nil {
		t.Fatal(err)
	}
	lab.Serve(t, ans, "tcp", ":80", "a")
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	lab.Answers(t, bns, "tcp", "10.77.0.9:80", "a 10.77.0.128")
	lab.Answers(t, bns, "tcp", "[fd01:203:405::2]:80", "a fd01:203:405::3")
	lab.Answers(t, bns, "tcp", "["+lab.OutsideAddr6+"]:80", "outside "+lab.HostAddr6)
	if _, err := h.Join(context.Background(), &JoinRequest{ID: ids.New(), Name: "c", Endpoints: map[string]*api.EndpointSettings{"back": fixed}}); err == nil || err.Error() != "Address already in use" {
		t.Fatal(err)
	}
	if err := h.Remove(context.Background(), "back"); !errs.Forbidden.Is(err) || !strings.Contains(err.Error(), "has active endpoints") {
		t.Fatal(err)
	}
	for id := range must1(h.Get("back")).Containers {
		h.Leave(id)
		h.Leave(id)
	}
	if err := h.Remove(context.Background(), "back"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Get("back"); !errs.NotFound.Is(err) || err.Error() != "network back not found" {
		t.Fatal(err)
	}
	if _, err := h.Lab.Host.Links().Find("br-" + id[:12]); !errors.Is(err, link.ErrNotFound) {
		t.Fatal(err)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestConnectLive(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	h.create(t, &api.CreateRequest{Name: "n2"})
	r := &JoinRequest{Name: "a", Endpoints: on("n2"), First: "n2", Ports: ports("80/tcp", " 8080")}
	_, ns := h.join(t, r)
	_, other := h.join(t, &JoinRequest{Name: "b", Endpoints: on("n1"), First: "n1"})
	lab.Serve(t, ns, "tcp", ":80", "a")
	lab.Serve(t, other, "tcp", ":80", "b")
	lab.Serve(t, h.Outside, "tcp", ":80", "outside")
	b := h.Of(must1(h.Get("n1")).firstContainer()).Endpoints["n1"].IPAddress.String()
	lab.Answers(t, ns, "tcp", b+":80", "")
	j, err := h.Connect(context.Background(), r, "n1", nil, ns.Path())
	if err != nil || j.Endpoints["n1"] == nil {
		t.Fatal(j, err)
	}
	lab.Answers(t, ns, "tcp", b+":80", "b "+j.Endpoints["n1"].IPAddress.String())
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	lab.Answers(t, ns, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	if _, err := h.Connect(context.Background(), r, "n1", nil, ns.Path()); !errs.Forbidden.Is(err) {
		t.Fatal(err)
	}
	if _, err := h.Disconnect(context.Background(), r.ID, "n1", ns.Path()); err != nil {
		t.Fatal(err)
	}
	lab.Answers(t, ns, "tcp", b+":80", "")
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	lab.Answers(t, ns, "tcp", lab.OutsideAddr+":80", "outside "+lab.HostAddr)
	if _, err := h.Disconnect(context.Background(), r.ID, "n1", ns.Path()); err == nil || err.Error() != "container "+r.ID+" is not connected to network n1" {
		t.Fatal(err)
	}
}

type inspected api.Inspect

func (h *host) Get(ref string) (inspected, error) {
	x, err := h.Service.Get(ref)
	return inspected(x), err
}

func (x inspected) firstContainer() string {
	for id := range x.Containers {
		return id
	}
	return ""
}

// leaks lists what is left of containers.
func (h *host) leaks() (list []string) {
	links, _ := h.Lab.Host.Links().List()
	for _, l := range links {
		if l.Kind == "veth" && l.Name != "uplink" {
			list = append(list, "interface "+l.Name)
		}
	}
	files, _ := os.ReadDir(h.Run)
	for _, f := range files {
		list = append(list, "note "+f.Name())
	}
	h.mu.Lock()
	for _, n := range h.nets {
		for _, s := range n.subnets {
			if s.Taken() > 1 {
				list = append(list, fmt.Sprintf("%d addresses of %s", s.Taken()-1, n.Name))
			}
		}
	}
	h.mu.Unlock()
	if n := h.Service.ports.Held(); n > 0 {
		list = append(list, fmt.Sprintf("%d ports", n))
	}
	var rules []byte
	h.Lab.Host.Do(func() error { rules, _ = exec.Command("nft", "list", "ruleset").CombinedOutput(); return nil })
	if strings.Contains(string(rules), "elements = { tcp . ") {
		list = append(list, "an element: "+string(rules))
	}
	return list
}

func (h *host) clean(t *testing.T) {
	t.Helper()
	h.work.Wait()
	var left []string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if left = h.leaks(); len(left) == 0 {
			return
		}
	}
	t.Fatalf("left behind: %v", left)
}

func TestNothingLeaks(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	// What the test looks for must be there to be found.
	one := &JoinRequest{Name: "one", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " ")}
	h.join(t, one)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft")
	} else if l := h.leaks(); len(l) != 5 {
		t.Fatalf("a container in use holds five kinds of things, not %v", l)
	}
	h.Leave(one.ID)
	jobs := make(chan int)
	var all sync.WaitGroup
	var mu sync.Mutex
	have := map[netip.Addr]bool{}
	for range 8 {
		all.Go(func() {
			for i := range jobs {
				r := &JoinRequest{ID: ids.New(), Name: "c" + strconv.Itoa(i), Endpoints: on("bridge", "n1"), First: "bridge", Ports: ports("80/tcp", " ", "81/udp", " ")}
				j, err := h.Join(context.Background(), r)
				if err != nil {
					t.Error(err)
					continue
				}
				mu.Lock()
				for _, e := range j.Endpoints {
					if have[e.IPAddress] {
						t.Errorf("%v was given twice", e.IPAddress)
					}
					have[e.IPAddress] = true
				}
				mu.Unlock()
				j.Done()
				mu.Lock()
				for _, e := range j.Endpoints {
					delete(have, e.IPAddress)
				}
				mu.Unlock()
				h.Leave(r.ID)
			}
		})
	}
	for i := range 200 {
		jobs <- i
	}
	close(jobs)
	all.Wait()
	h.clean(t)
}

// relayEnv names the relay's program.
const relayEnv = "GANTRY_TEST_RELAY"

// crashEnv makes the test binary an engine that joins containers until the fail point kills it.
const crashEnv = "GANTRY_TEST_NETWORK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		crash(dir)
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	dir := must1(os.MkdirTemp("", "gantry-network-test-"))
	os.Setenv(relayEnv, filepath.Join(dir, "relay"))
	os.Setenv("BUILD", "one")
	build := exec.Command("go", "build", "-o", os.Getenv(relayEnv), "gantry/cmd/relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func crash(dir string) {
	store := must1(state.Open(filepath.Join(dir, "state.db")))
	s := must1(Open(context.Background(), Options{Run: filepath.Join(dir, "run"), State: store, Log: slog.New(slog.DiscardHandler),
		Host: must1(netns.Current()), Table: "gantry-test", Bridge: "gantry0", Relay: relayOf(dir)}))
	s.Keep(func(string) int { return 0 })
	if os.Getenv("ID") == "" {
		id, _, err := s.Create(context.Background(), &api.CreateRequest{Name: "half", Options: map[string]string{optName: "half0"}})
		if err == nil {
			s.Remove(context.Background(), id)
		}
		return
	}
	must1(s.Join(context.Background(), &JoinRequest{ID: os.Getenv("ID"), Name: "a", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080")}))
	fmt.Println("joined")
	select {}
}

// killed runs an engine that ends by kill -9 at point, with a container of that id or none, and starts the next one.
func (h *host) killed(t *testing.T, point, id string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashEnv+"="+h.dir, "ID="+id, "GANTRY_FAILPOINT="+point)
	if err := h.Lab.Host.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("%s: %v", point, err)
	}
	h.open(t)
	if err := h.Keep(func(string) int { return 0 }); err != nil {
		t.Fatal(err)
	}
}

func TestKilledAtEveryStep(t *testing.T) {
	h := newHost(t)
	h.close()
	for _, point := range Failpoints() {
		h.killed(t, point, ids.New())
		h.clean(t)
		h.close()
	}
}

// TestKilledWhileNetworksAreMade: wherever the engine is killed that makes a network or removes it, the next one can remove it, and
// nothing of it is left.
func TestKilledWhileNetworksAreMade(t *testing.T) {
	h := newHost(t)
	h.close()
	for _, point := range []string{"network.recorded", "network.made", "network.unmade"} {
		h.killed(t, point, "")
		h.Remove(context.Background(), "half") // or it is not there
		if l, err := h.Lab.Host.Links().Find("half0"); err == nil {
			t.Errorf("%s: its bridge is left: %+v", point, l)
			h.Lab.Host.Links().Delete("half0")
		}
		if n := len(h.List()); n != 3 {
			t.Errorf("%s: %d networks", point, n)
		}
		h.close()
	}
	h.open(t)
	// One that cannot be made leaves nothing either.
	if err := h.Lab.Host.Links().AddBridge(&link.Bridge{Name: "br0"}); err != nil {
		t.Fatal(err)
	}
	l, err := h.Lab.Host.Links().Find("br0")
	if err != nil {
		t.Fatal(err)
	}
	ns := lab.Namespace(t)
	if err := h.Lab.Host.Links().AddVeth(&link.Veth{Name: "half0", Master: l.Index, Peer: "eth0", PeerMAC: net.HardwareAddr{2, 0x42, 1, 1, 1, 1}, PeerNS: ns.Fd()}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Create(context.Background(), &api.CreateRequest{Name: "half", Options: map[string]string{optName: "half0"}}); !errs.Conflict.Is(err) {
		t.Error(err)
	}
	if _, err := h.Lab.Host.Links().Find("half0"); err != nil {
		t.Error("another's interface was deleted:", err)
	}
	if n := len(h.List()); n != 3 {
		t.Errorf("%d networks", n)
	}
}

// TestBridgeDeletedMeanwhile: containers start while somebody deletes their network's bridge, more than once.
func TestBridgeDeletedMeanwhile(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n", Options: map[string]string{optName: "n0"}})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for k := range 5 {
				r := &JoinRequest{ID: ids.New(), Name: fmt.Sprintf("c%d-%d", i, k), Endpoints: on("n"), First: "n"}
				for {
					j, err := h.Join(context.Background(), r)
					if err != nil { // the bridge may have gone twice
						continue
					}
					j.Done()
					break
				}
				if i == 0 {
					h.Lab.Host.Links().Delete("n0")
				}
				h.Leave(r.ID)
			}
		})
	}
	all.Wait()
	h.clean(t)
}

// TestEngineReplaced: connections and published ports work while no engine runs, and the next one knows of them.
func TestEngineReplaced(t *testing.T) {
	h := newHost(t)
	r := &JoinRequest{Name: "a", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080")}
	j, ns := h.join(t, r)
	lab.Serve(t, ns, "tcp", ":80", "a")
	h.close()
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	if err := os.WriteFile(filepath.Join(h.dir, "run", ".tmp-"+ids.New()+"-1"), nil, 0o600); err != nil { // it died while it wrote a note
		t.Fatal(err)
	}
	h.open(t)
	if err := h.Keep(func(id string) int {
		if id == r.ID {
			return os.Getpid()
		}
		return 0
	}); err != nil {
		t.Fatal(err)
	}
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "a "+lab.OutsideAddr)
	if now := h.Of(r.ID); now == nil || now.Endpoints["bridge"].IPAddress != j.Endpoints["bridge"].IPAddress {
		t.Fatal(now)
	}
	second := &JoinRequest{Name: "b", Endpoints: on("bridge"), First: "bridge"}
	b, _ := h.join(t, second)
	if b.Endpoints["bridge"].IPAddress == j.Endpoints["bridge"].IPAddress {
		t.Fatal("the address was given again")
	}
	if _, err := h.Join(context.Background(), &JoinRequest{ID: ids.New(), Name: "c", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080")}); err == nil {
		t.Fatal("the port was given again")
	}
	h.Leave(r.ID)
	lab.Answers(t, h.Outside, "tcp", lab.HostAddr+":8080", "")
	h.Leave(second.ID)
	h.clean(t)
}

// lookup asks the name server that a container finds at 127.0.0.11.
func lookup(ns *netns.Namespace, network, name string) (list []string, err error) {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, proto, _ string) (c net.Conn, err error) {
		err = ns.Do(func() (err error) {
			d := net.Dialer{Timeout: 5 * time.Second}
			c, err = d.DialContext(ctx, network, "127.0.0.11:53")
			return err
		})
		return c, err
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip", name)
	for _, a := range addrs {
		list = append(list, a.Unmap().String())
	}
	slices.Sort(list)
	return list, err
}

func TestContainersFindEachOtherByName(t *testing.T) {
	h := newHost(t)
	h.create(t, &api.CreateRequest{Name: "n1"})
	h.create(t, &api.CreateRequest{Name: "n2"})
	alias := func(names ...string) map[string]*api.EndpointSettings {
		return map[string]*api.EndpointSettings{"n1": {Aliases: names}}
	}
	db := &JoinRequest{Name: "db", Hostname: "dbhost", Endpoints: alias("data"), First: "n1"}
	a, ns := h.join(t, db)
	b, _ := h.join(t, &JoinRequest{Name: "db2", Endpoints: alias("data"), First: "n1"})
	_, elsewhere := h.join(t, &JoinRequest{Name: "other", Endpoints: on("n2"), First: "n2"})
	ipA, ipB := a.Endpoints["n1"].IPAddress.String(), b.Endpoints["n1"].IPAddress.String()
	both := []string{ipA, ipB}
	slices.Sort(both)
	if !a.Resolver {
		t.Fatal("no name server")
	}
	// A name server of the container's own, on all its addresses, is not in the way.
	lab.Serve(t, ns, "udp4", ":53", "own")
	lab.Serve(t, ns, "tcp4", ":53", "own")
	for _, network := range []string{"udp4", "tcp4"} {
		for name, want := range map[string][]string{"db.": {ipA}, "DB2.": {ipB}, "db2.n1.": {ipB}, "dbhost.": {ipA}, ids.Short(db.ID) + ".": {ipA}, "data.": both} {
			if got, err := lookup(ns, network, name); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s by %s: %v, %v; want %v", name, network, got, err, want)
			}
		}
	}
	if got, err := lookup(elsewhere, "udp4", "db."); err == nil {
		t.Errorf("a name is known on another network: %v", got)
	}
	if _, err := h.Rename(db.ID, "db3"); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(ns, "udp4", "db3."); err != nil || !slices.Equal(got, []string{ipA}) {
		t.Error(got, err)
	}
	if got, err := lookup(ns, "udp4", "db."); err == nil {
		t.Errorf("the old name is %v", got)
	}
	// Whoever joins later is known, whoever leaves is not.
	h.Leave(db.ID)
	if got, err := lookup(elsewhere, "udp4", "db."); err == nil {
		t.Error(got)
	}
	r := &JoinRequest{Name: "other2", Endpoints: on("n2"), First: "n2"}
	_, ns2 := h.join(t, r)
	if _, err := h.Connect(context.Background(), r, "n1", nil, ns2.Path()); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(ns2, "udp4", "data."); err != nil || !slices.Equal(got, []string{ipB}) {
		t.Error(got, err)
	}
	// The next engine takes over those that run.
	sleep := exec.Command("sleep", "100")
	if err := ns2.Do(sleep.Start); err != nil {
		t.Fatal(err)
	}
	defer func() { sleep.Process.Kill(); sleep.Wait() }()
	h.close()
	if got, err := lookup(ns2, "udp4", "other2."); err != nil || len(got) != 1 {
		t.Errorf("while no engine runs: %v, %v", got, err)
	}
	h.open(t)
	if err := h.Keep(func(id string) int {
		if id == r.ID {
			return sleep.Process.Pid
		}
		return 0
	}); err != nil {
		t.Fatal(err)
	}
	if got, err := lookup(ns2, "udp4", "other2."); err != nil || len(got) != 1 && len(got) != 2 {
		t.Error(got, err)
	}
}

func BenchmarkJoinLeave(b *testing.B) {
	h := newHost(b)
	r := &JoinRequest{ID: ids.New(), Name: "a", Endpoints: on("bridge"), First: "bridge", Ports: ports("80/tcp", " 8080")}
	var join, leave time.Duration
	least := time.Hour
	for b.Loop() {
		t0 := time.Now()
		j, err := h.Join(context.Background(), r)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		h.Leave(r.ID)
		leave += time.Since(t1)
		join += t1.Sub(t0)
		least = min(least, t1.Sub(t0))
		j.Done()
		h.work.Wait()
	}
	b.ReportMetric(float64(join.Microseconds())/float64(b.N), "µs/join")
	b.ReportMetric(float64(least.Microseconds()), "µs/join(min)")
	b.ReportMetric(float64(leave.Microseconds())/float64(b.N), "µs/leave")
}

func FuzzHostPort(f *testing.F) {
	for _, s := range []string{"", "80", "80-90", "90-80", "0-1", "65536", "-", "8080-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		lo, hi, err := hostPort(s)
		if err == nil && hi < lo {
			t.Fatalf("%q: %d-%d", s, lo, hi)
		}
	})
}
