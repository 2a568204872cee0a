package daemon

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// containerInfo is what inspect tells, as far as the tests look.
type containerInfo struct {
	State struct {
		Status, Error       string
		Running, Restarting bool
		Pid, ExitCode       int
		OOMKilled           bool
		StartedAt           string
		FinishedAt          string
	}
	RestartCount int
	Mounts       []any
}

func (e *testEngine) inspect(name string) (c containerInfo) {
	e.t.Helper()
	e.must("GET", "/containers/"+name+"/json", nil, &c)
	return c
}

// sh returns the request for a container that runs a script.
func sh(script string, host map[string]any) map[string]any {
	h := map[string]any{"NetworkMode": "none"}
	for k, v := range host {
		h[k] = v
	}
	return map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", script}, "HostConfig": h}
}

func (e *testEngine) run(name string, config any) {
	e.t.Helper()
	e.must("POST", "/containers/create?name="+name, config, nil)
	e.must("POST", "/containers/"+name+"/start", nil, nil)
}

// logs returns what name has written so far, with follow until its end.
func (e *testEngine) logs(name string, follow bool) string {
	e.t.Helper()
	resp, err := e.http.Get(fmt.Sprintf("http://engine/containers/%s/logs?stdout=1&stderr=1&follow=%v", name, follow))
	if err != nil {
		e.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		e.t.Fatalf("logs: %d %s", resp.StatusCode, b)
	}
	var out strings.Builder
	r := bufio.NewReader(resp.Body)
	for {
		var h [8]byte
		if _, err := io.ReadFull(r, h[:]); err != nil {
			return out.String()
		}
		if _, err := io.CopyN(&out, r, int64(binary.BigEndian.Uint32(h[4:]))); err != nil {
			return out.String()
		}
	}
}

// TestAdopt kills the engine while containers run, and lets some end meanwhile: the next one knows exactly what
// became of each.
func TestAdopt(t *testing.T) {
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", busybox(t), nil)
	dir := t.TempDir()
	host := map[string]any{"Binds": []string{dir + ":/gate"}}
	wait := "while [ ! -e /gate/%s ]; do sleep 0.05; done; "
	e.run("stays", sh("echo first; "+fmt.Sprintf(wait, "last")+"echo second; exit 3", host))
	e.run("ends", sh("echo first; "+fmt.Sprintf(wait, "go")+"echo second; exit 42", host))
	e.run("killed", sh(fmt.Sprintf(wait, "go")+"kill -9 $$; busybox kill -9 -1", host))
	e.run("again", sh(fmt.Sprintf(wait, "go")+"[ -e /gate/again ] && exec sleep 1000; echo > /gate/again; exit 1", map[string]any{
		"Binds": host["Binds"], "RestartPolicy": map[string]any{"Name": "on-failure"}}))
	before := e.inspect("stays").State
	e.kill()
	touch(t, dir+"/go")
	waitFor(t, func() bool { _, err := os.Stat(dir + "/again"); return err == nil })
	e.start()
	if s := e.inspect("stays").State; !s.Running || s.Pid != before.Pid || s.StartedAt != before.StartedAt {
		t.Errorf("adopted: %+v, before: %+v", s, before)
	}
	e.must("POST", "/containers/ends/wait", nil, nil)
	if s := e.inspect("ends").State; s.Status != "exited" || s.ExitCode != 42 || s.Error != "" {
		t.Errorf("ended meanwhile: %+v", s)
	}
	if got := e.logs("ends", false); got != "first\nsecond\n" {
		t.Errorf("its log: %q", got)
	}
	touch(t, dir+"/last")
	if got := e.logs("stays", true); got != "first\nsecond\n" {
		t.Errorf("log over the crash: %q", got)
	}
	e.must("POST", "/containers/stays/wait", nil, nil)
	if s := e.inspect("stays").State; s.ExitCode != 3 {
		t.Errorf("ended after the adoption: %+v", s)
	}
	for _, n := range []string{"stays", "ends", "killed", "again"} {
		e.must("DELETE", "/containers/"+n+"?force=1", nil, nil)
	}
	e.end()
}

// TestReboot takes the exec-root away, as a reboot does: what ran has an unknown end, says so, and is started again
// where its policy says so.
func TestReboot(t *testing.T) {
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", busybox(t), nil)
	e.run("plain", sh("sleep 1000", nil))
	e.run("always", sh("sleep 1000", map[string]any{"RestartPolicy": map[string]any{"Name": "always"}}))
	e.run("unless", sh("sleep 1000", map[string]any{"RestartPolicy": map[string]any{"Name": "unless-stopped"}}))
	e.run("gone", sh("sleep 1000", map[string]any{"AutoRemove": true}))
	e.must("POST", "/containers/unless/stop?t=0", nil, nil)
	e.stop() // what the engine still had to write is on disk then
	e.reboot()
	e.start()
	if s := e.inspect("plain").State; s.Status != "exited" || s.ExitCode != 255 || !strings.HasPrefix(s.Error, "exit code unknown") {
		t.Errorf("plain: %+v", s)
	}
	waitFor(t, func() bool { return e.inspect("always").State.Running })
	if s := e.inspect("unless").State; s.Status != "exited" {
		t.Errorf("unless-stopped, stopped: %+v", s)
	}
	if code, _ := e.call("GET", "/containers/gone/json", nil, nil); code != http.StatusNotFound {
		t.Errorf("--rm over a reboot: %d", code)
	}
	for _, n := range []string{"plain", "always", "unless"} {
		e.must("DELETE", "/containers/"+n+"?force=1", nil, nil)
	}
	e.end()
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// waitFor looks until ok, for what nobody tells of.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come about")
		}
	}
}
