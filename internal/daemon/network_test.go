package daemon

import (
	"testing"
	"time"

	"gantry/internal/network/lab"
)

// listener is a container that answers everybody on port 80 with its name.
func listener(network string, port string) map[string]any {
	c := map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", "trap 'exit 0' TERM; while true; do echo -n it | busybox nc -l -p 80; done"}}
	host := map[string]any{"NetworkMode": network}
	if port != "" {
		host["PortBindings"] = map[string]any{"80/tcp": []any{map[string]any{"HostPort": port}}}
	}
	c["HostConfig"] = host
	return c
}

// answers waits until the address answers, for a program in a container takes a moment to listen.
func (e *testEngine) answers(addr, want string) {
	e.t.Helper()
	var got string
	var err error
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got, err = lab.Ask(e.net, "tcp", addr, lab.Silence); err == nil && got == want {
			return
		}
	}
	e.t.Fatalf("%s answers %q, %v; want %q\n%s", addr, got, err, want, e.log())
}

type netInspect struct {
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress, Gateway, NetworkID string }
		Ports    map[string][]struct{ HostIp, HostPort string }
	}
	HostConfig struct{ NetworkMode string }
}

// TestPublishedPortOutlivesTheEngine: containers stay connected, and published, while no engine runs; the next one
// knows how, gives nothing of it away, and takes it back in the end.
func TestPublishedPortOutlivesTheEngine(t *testing.T) {
	image := busybox(t)
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", image, nil)
	e.must("POST", "/containers/create?name=web", listener("default", "8080"), nil)
	e.must("POST", "/containers/web/start", nil, nil)
	var before, after netInspect
	e.must("GET", "/containers/web/json", nil, &before)
	n := before.NetworkSettings
	if before.HostConfig.NetworkMode != "bridge" || n.Networks["bridge"].IPAddress == "" || len(n.Ports["80/tcp"]) != 2 || n.Ports["80/tcp"][0].HostPort != "8080" {
		t.Fatalf("%+v", before)
	}
	e.answers("127.0.0.1:8080", "it")
	e.cmd.Process.Kill()
	e.wait()
	e.answers("127.0.0.1:8080", "it")
	e.start()
	e.answers("127.0.0.1:8080", "it")
	e.must("GET", "/containers/web/json", nil, &after)
	if after.NetworkSettings.Networks["bridge"] != n.Networks["bridge"] || len(after.NetworkSettings.Ports["80/tcp"]) != 2 {
		t.Fatalf("%+v, and before %+v", after, before)
	}
	e.must("POST", "/containers/create?name=other", listener("bridge", "8080"), nil)
	if code, text := e.call("POST", "/containers/other/start", nil, nil); code != 500 {
		t.Fatalf("a taken port: %d %s", code, text)
	}
	e.must("DELETE", "/containers/web?force=1", nil, nil)
	e.must("POST", "/containers/other/start", nil, nil)
	e.answers("127.0.0.1:8080", "it")
	e.must("DELETE", "/containers/other?force=1", nil, nil)
	e.end()
}

// TestConnectAndDisconnect is a container that is connected to networks before its start and while it runs.
func TestConnectAndDisconnect(t *testing.T) {
	image := busybox(t)
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", image, nil)
	for name, subnet := range map[string]string{"one": "10.71.0.0/24", "two": "10.72.0.0/24"} {
		e.must("POST", "/networks/create", map[string]any{"Name": name, "IPAM": map[string]any{"Config": []any{map[string]any{"Subnet": subnet}}}}, nil)
	}
	e.must("POST", "/containers/create?name=web", listener("one", ""), nil)
	e.must("POST", "/networks/two/connect", map[string]any{"Container": "web", "EndpointConfig": map[string]any{"IPAMConfig": map[string]any{"IPv4Address": "10.72.0.9"}}}, nil)
	e.must("POST", "/containers/web/start", nil, nil)
	e.answers("10.72.0.9:80", "it")
	e.answers("10.71.0.2:80", "it")
	if code, _ := e.call("DELETE", "/networks/two", nil, nil); code != 403 {
		t.Fatalf("a network in use was removed: %d", code)
	}
	e.must("POST", "/networks/two/disconnect", map[string]any{"Container": "web"}, nil)
	e.must("DELETE", "/networks/two", nil, nil)
	e.must("POST", "/networks/bridge/connect", map[string]any{"Container": "web"}, nil)
	var x netInspect
	e.must("GET", "/containers/web/json", nil, &x)
	if len(x.NetworkSettings.Networks) != 2 {
		t.Fatalf("%+v", x)
	}
	e.answers(x.NetworkSettings.Networks["bridge"].IPAddress+":80", "it")
	// What was connected while it ran is so at the next start, by the next engine too.
	e.must("POST", "/containers/web/stop?t=0", nil, nil)
	e.stop()
	e.start()
	e.must("POST", "/containers/web/start", nil, nil)
	e.must("GET", "/containers/web/json", nil, &x)
	if len(x.NetworkSettings.Networks) != 2 {
		t.Fatalf("%+v", x)
	}
	e.answers(x.NetworkSettings.Networks["one"].IPAddress+":80", "it")
	e.must("DELETE", "/containers/web?force=1", nil, nil)
	e.must("DELETE", "/networks/one", nil, nil)
	e.end()
}
