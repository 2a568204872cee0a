package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gantry/internal/kernel/cgroup"
	"gantry/internal/kernel/netns"
)

// The test binary is the engine, too: a crash needs a process of its own. With engineEnv set, which names the
// directory of init and supervisor, it runs Main with its arguments.
const engineEnv = "GANTRY_TEST_ENGINE"

var programDir string

func TestMain(m *testing.M) {
	if dir := os.Getenv(engineEnv); dir != "" {
		embedded := map[string][]byte{}
		for _, name := range []string{"init", "supervisor", "relay"} {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				panic(err)
			}
			embedded[name] = data
		}
		os.Exit(Main(os.Args[1:], embedded))
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "gantry-programs-")
	if err != nil {
		panic(err)
	}
	build := exec.Command("go", "build", "-o", dir+"/", "gantry/cmd/init", "gantry/cmd/supervisor", "gantry/cmd/relay")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%v: %s", err, out))
	}
	programDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// testEngine is an engine with roots of its own. It may be started again after its end.
type testEngine struct {
	t      testing.TB
	root   string
	parent string
	cmd    *exec.Cmd
	net    *netns.Namespace // the engine's host network: the bridges it makes are not the host's
	ended  chan error
	http   *http.Client
}

func newEngine(t testing.TB) *testEngine {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	root, err := os.MkdirTemp("", "gantry-engine-")
	if err != nil {
		t.Fatal(err)
	}
	e := &testEngine{t: t, root: root, parent: "/" + filepath.Base(root)}
	if e.net, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.net.Close() })
	e.http = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(root, "s"))
	}}}
	t.Cleanup(e.clean)
	return e
}

func (e *testEngine) start(env ...string) {
	e.t.Helper()
	log, err := os.OpenFile(filepath.Join(e.root, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	ready := e.notified()
	os.Truncate(filepath.Join(e.root, "log"), 0)
	e.cmd = exec.Command("/proc/self/exe", "--data-root", e.root+"/data", "--exec-root", e.root+"/exec", "--pidfile", e.root+"/pid",
		"-H", "unix://"+e.root+"/s", "--cgroup-parent", e.parent, "--config-file", "", "-l", "warn")
	e.cmd.Env = append(append(os.Environ(), engineEnv+"="+programDir, "NOTIFY_SOCKET="+e.root+"/notify"), env...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	if err := e.net.Do(e.cmd.Start); err != nil {
		e.t.Fatal(err)
	}
	e.ended = make(chan error, 1)
	go func() { e.ended <- e.cmd.Wait() }()
	select {
	case <-ready:
	case err := <-e.ended:
		e.ended <- err
		if !e.crashed(err) {
			e.t.Fatalf("the engine ended at its start: %v\n%s", err, e.log())
		}
	}
}

func (e *testEngine) crashed(err error) bool {
	x, ok := err.(*exec.ExitError)
	return ok && x.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// notified returns a channel that is closed when the engine says READY=1, as to systemd.
func (e *testEngine) notified() <-chan struct{} {
	path := e.root + "/notify"
	os.Remove(path)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { l.Close() })
	ready := make(chan struct{})
	go func() {
		defer l.Close()
		b := make([]byte, 100)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			if strings.Contains(string(b[:n]), "READY=1") {
				close(ready)
				return
			}
		}
	}()
	return ready
}

func (e *testEngine) kill() { e.cmd.Process.Kill(); e.wait() }

func (e *testEngine) stop() {
	e.cmd.Process.Signal(syscall.SIGTERM)
	e.wait()
}

func (e *testEngine) wait() error {
	e.t.Helper()
	select {
	case err := <-e.ended:
		e.ended <- err
		return err
	case <-time.After(2 * time.Minute):
		e.cmd.Process.Signal(syscall.SIGQUIT)
		time.Sleep(time.Second)
		e.cmd.Process.Kill()
		e.t.Fatalf("the engine does not end\n%s", e.log())
		return nil
	}
}

func (e *testEngine) log() string {
	b, _ := os.ReadFile(filepath.Join(e.root, "log"))
	return string(b[max(0, len(b)-3000):])
}

// call asks the API; body and into may be nil. It returns the status, 0 when the engine died meanwhile.
func (e *testEngine) call(method, path string, body, into any) (int, string) {
	e.t.Helper()
	var r io.Reader
	if body != nil {
		b, ok := body.([]byte)
		if !ok {
			b, _ = json.Marshal(body)
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequest(method, "http://engine"+path, r)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.http.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(b, into); err != nil {
			e.t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
	}
	return resp.StatusCode, string(b)
}

func (e *testEngine) must(method, path string, body, into any) {
	e.t.Helper()
	if code, text := e.call(method, path, body, into); code >= 300 && code != 304 || code == 0 {
		e.t.Fatalf("%s %s: %d %s\n%s", method, path, code, text, e.log())
	}
}

// clean takes away what the test left, the supervisor too.
func (e *testEngine) clean() {
	if e.cmd != nil {
		e.cmd.Process.Kill()
		e.wait()
	}
	e.reboot()
	if err := os.RemoveAll(e.root); err != nil {
		e.t.Error(err)
	}
}

// reboot ends all processes of the engine, takes its cgroups away, and empties the exec-root.
func (e *testEngine) reboot() {
	h, err := cgroup.Detect()
	if err != nil {
		e.t.Error(err)
		return
	}
	top, err := h.Open("/", e.parent[1:])
	if err != nil {
		e.t.Error(err)
		return
	}
	for _, dir := range top.Dirs() {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				data, _ := os.ReadFile(path)
				for _, p := range strings.Fields(string(data)) {
					var pid int
					if fmt.Sscan(p, &pid); pid > 1 {
						syscall.Kill(pid, syscall.SIGKILL)
					}
				}
			}
			return nil
		})
	}
	if err := top.Remove(); err != nil {
		e.t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(e.root, "exec")); err != nil {
		e.t.Error(err)
	}
}

// end stops the engine, which waits for what follows replies, and looks whether anything is left.
func (e *testEngine) end() {
	e.t.Helper()
	e.stop()
	if l := e.leftovers(); len(l) > 0 {
		e.t.Errorf("left behind:\n%s\n%s", strings.Join(l, "\n"), e.log())
	}
}

// leftovers lists what is there besides an engine that has no containers.
func (e *testEngine) leftovers() (list []string) {
	for _, dir := range []string{"data/containers", "exec/journal", "exec/containers", "exec/exits", "exec/network"} {
		entries, _ := os.ReadDir(filepath.Join(e.root, dir))
		for _, x := range entries {
			list = append(list, dir+"/"+x.Name())
		}
	}
	h, err := cgroup.Detect()
	if err != nil {
		e.t.Fatal(err)
	}
	top, err := h.Open("/", e.parent[1:])
	if err != nil {
		e.t.Fatal(err)
	}
	for _, dir := range top.Dirs() {
		entries, _ := os.ReadDir(dir)
		for _, x := range entries {
			if x.IsDir() && !strings.HasPrefix(x.Name(), "supervisor-") && !strings.HasPrefix(x.Name(), "relay-") {
				list = append(list, filepath.Join(dir, x.Name()))
			}
		}
	}
	links, err := e.net.Links().List()
	if err != nil {
		e.t.Fatal(err)
	}
	for _, l := range links {
		if l.Kind == "veth" {
			list = append(list, "interface "+l.Name)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, e.root) {
			list = append(list, "mount: "+line)
		}
	}
	return list
}
