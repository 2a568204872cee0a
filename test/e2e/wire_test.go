//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"

	"gantry/test/engine"
)

// TestEveryVersionOfTheAPI leads the stock command line through a life in the words of each version at which something
// changed for it.
func TestEveryVersionOfTheAPI(t *testing.T) {
	for _, version := range []string{"1.24", "1.25", "1.29", "1.30", "1.34", "1.35", "1.40", "1.41"} {
		t.Run(version, func(t *testing.T) {
			docker := func(stdin string, args ...string) engine.Result {
				t.Helper()
				cmd := gantry.StockCLI(args...)
				cmd.Env = append(cmd.Env, "DOCKER_API_VERSION="+version)
				cmd.Stdin = strings.NewReader(stdin)
				return must(t, cmd)
			}
			name := "speaks-" + version
			if r := docker("hi\n", "run", "-i", "--rm", "--network", "none", "busybox", "cat"); r.Out != "hi\n" || r.Code != 0 {
				t.Error(r)
			}
			if r := docker("", "run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"); r.Code != 0 {
				t.Fatal(r)
			}
			for _, step := range []struct {
				args []string
				want string
			}{
				{[]string{"exec", name, "echo", "in"}, "in\n"},
				{[]string{"ps", "--filter", "name=" + name, "--format", "{{.Names}} {{.Image}}"}, name + " busybox\n"},
				{[]string{"inspect", "-f", "{{.State.Status}} {{.NetworkSettings.IPAddress}}", name}, "running \n"},
				{[]string{"image", "inspect", "-f", "{{.Os}} {{gt .VirtualSize 0}}", "busybox"}, "linux true\n"},
				{[]string{"stop", "-t", "0", name}, name + "\n"},
				{[]string{"wait", name}, "137\n"},
				{[]string{"rm", name}, name + "\n"},
			} {
				if r := docker("", step.args...); r.Out != step.want {
					t.Errorf("%q: %v, want %q", step.args, r, step.want)
				}
			}
		})
	}
}

// TestWaitIsRegisteredBeforeTheStart: the header of a wait's answer comes before the end it waits for, so that nobody who
// starts after it can miss that end.
func TestWaitIsRegisteredBeforeTheStart(t *testing.T) {
	id := ok(t, "create", "--network", "none", "busybox", "sh", "-c", "exit 42")
	defer ok(t, "rm", "-f", id)
	c := gantry.Client()
	defer c.CloseIdleConnections()
	resp, err := c.Post("http://engine/containers/"+id+"/wait?condition=next-exit", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	ok(t, "start", id)
	var got struct{ StatusCode int }
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil || got.StatusCode != 42 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestExecWithoutUpgrade is how the first SDKs hijacked, and how HTTP/2 clients must.
func TestExecWithoutUpgrade(t *testing.T) {
	id := ok(t, "run", "-d", "--network", "none", "busybox", "sleep", "1000")
	defer ok(t, "rm", "-f", id)
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		c := gantry.Client()
		defer c.CloseIdleConnections()
		if proto == "HTTP/2.0" {
			p := new(http.Protocols)
			p.SetUnencryptedHTTP2(true)
			c.Transport.(*http.Transport).Protocols = p
		}
		post := func(path, body string) *http.Response {
			t.Helper()
			resp, err := c.Post("http://engine"+path, "application/json", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		resp := post("/containers/"+id+"/exec", `{"AttachStdout":true,"AttachStderr":true,"Cmd":["sh","-c","echo out; echo err >&2; exit 9"]}`)
		var created struct{ Id string }
		err := json.NewDecoder(resp.Body).Decode(&created)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		resp = post("/exec/"+created.Id+"/start", `{}`)
		var out, errOut bytes.Buffer
		_, err = stdcopy.StdCopy(&out, &errOut, resp.Body)
		resp.Body.Close()
		if resp.Proto != proto || err != nil || out.String() != "out\n" || errOut.String() != "err\n" {
			t.Errorf("%s: %q %q %v", resp.Proto, out.String(), errOut.String(), err)
		}
		if code := ok(t, "exec", id, "echo", "still"); code != "still" {
			t.Error(code)
		}
		resp, err = c.Get("http://engine/exec/" + created.Id + "/json")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if !strings.Contains(string(b), `"ExitCode":9`) || !strings.Contains(string(b), `"Running":false`) {
			t.Errorf("%s", b)
		}
	}
}

// TestHangUpsLeaveNothing attaches to a silent container and goes away, many times over, without a word and
// without closing first: the engine holds nothing for those who are gone.
func TestHangUpsLeaveNothing(t *testing.T) {
	e := ownEngine(t, "busybox")
	id := okOn(t, e, "run", "-d", "--network", "none", "busybox", "sleep", "1000")
	held := func() (fds, goroutines int) {
		t.Helper()
		_, body := call(t, e, "GET", "/info", "")
		var info struct{ NFd, NGoroutines int }
		if err := json.Unmarshal([]byte(body), &info); err != nil {
			t.Fatal(err)
		}
		return info.NFd, info.NGoroutines
	}
	visit := func() {
		t.Helper()
		conn, err := net.Dial("unix", e.Socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /containers/%s/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", id)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
	}
	visit() // what is made once is made
	fds, goroutines := held()
	for range 50 {
		visit()
	}
	for deadline := time.Now().Add(time.Minute); ; {
		f, g := held()
		if f <= fds+5 && g <= goroutines+5 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors became %d, %d goroutines %d", fds, f, goroutines, g)
		}
	}
}

// TestEventsTellOfALife follows the stream, and asks for the same again afterwards.
func TestEventsTellOfALife(t *testing.T) {
	begin := time.Now()
	c := gantry.Client()
	defer c.CloseIdleConnections()
	resp, err := c.Get(`http://engine/events?filters={"label":["wire=events"]}`)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if r := must(t, gantry.StockCLI("run", "--rm", "--label", "wire=events", "--name", "wire-events", "--network", "none", "busybox", "sh", "-c", "exit 3")); r.Code != 3 {
		t.Fatal(r)
	}
	type message struct {
		Type, Action string
		Actor        struct{ Attributes map[string]string }
	}
	var live []string
	for d := json.NewDecoder(resp.Body); ; {
		var m message
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if m.Type != "container" || m.Actor.Attributes["name"] != "wire-events" || m.Actor.Attributes["image"] != "busybox" {
			t.Errorf("%+v", m)
		}
		if m.Action == "die" && m.Actor.Attributes["exitCode"] != "3" {
			t.Errorf("%+v", m)
		}
		live = append(live, m.Action)
		if m.Action == "destroy" {
			break
		}
	}
	if got := strings.Join(live, " "); got != "create attach start die destroy" {
		t.Errorf("events: %s", got)
	}
	end := time.Now()
	_, body := call(t, gantry, "GET", fmt.Sprintf(`/events?since=%d.%09d&until=%d.%09d&filters={"label":{"wire=events":true}}`,
		begin.Unix(), begin.Nanosecond(), end.Unix(), end.Nanosecond()), "")
	var again []string
	for d := json.NewDecoder(strings.NewReader(body)); d.More(); {
		var m struct{ Action, Status, From string }
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		if m.Status != m.Action || m.From != "busybox" { // 1.41 has the fields of before 1.22
			t.Errorf("%+v", m)
		}
		again = append(again, m.Action)
	}
	if strings.Join(again, " ") != strings.Join(live, " ") {
		t.Errorf("live %q, remembered %q", live, again)
	}
}
