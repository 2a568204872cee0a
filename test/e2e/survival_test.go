//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gantry/internal/container"
	"gantry/test/engine"
)

// restart kills the engine as a crash would and starts it again.
func restart(t *testing.T, e *engine.Engine) {
	t.Helper()
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
}

// supervisorPid asks the engine which process holds the containers.
func supervisorPid(t *testing.T, e *engine.Engine) int {
	t.Helper()
	resp, err := e.Client().Get("http://engine/version")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v struct {
		Components []struct {
			Name    string
			Details map[string]string
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Components {
		if c.Name == "supervisor" {
			if pid, err := strconv.Atoi(c.Details["Pid"]); err == nil {
				return pid
			}
		}
	}
	t.Fatalf("GET /version names no supervisor: %+v", v)
	return 0
}

func TestContainersOutliveTheDaemon(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "run", "-d", "--name", "alive", "--network", "none", "busybox", "sh", "-c", "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.01; done")
	okOn(t, e, "run", "-d", "--name", "ends", "--network", "none", "busybox", "sh", "-c", "echo begin; while [ ! -e /go ]; do sleep 0.01; done; echo end; exit 33")
	okOn(t, e, "run", "-d", "--name", "killed", "--network", "none", "busybox", "sleep", "1000")
	pid := okOn(t, e, "inspect", "-f", "{{.State.Pid}}", "alive")
	endsPid := okOn(t, e, "inspect", "-f", "{{.State.Pid}}", "ends")
	killedPid, _ := strconv.Atoi(okOn(t, e, "inspect", "-f", "{{.State.Pid}}", "killed"))

	e.Kill()
	// While nobody is there to see it, one ends by itself and one by a signal.
	if err := os.WriteFile(filepath.Join("/proc", endsPid, "root/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(killedPid, syscall.SIGKILL)
	waitGone(t, endsPid)
	waitGone(t, strconv.Itoa(killedPid))
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}

	if now := okOn(t, e, "inspect", "-f", "{{.State.Pid}} {{.State.Status}}", "alive"); now != pid+" running" {
		t.Errorf("alive: %s, want pid %s running", now, pid)
	}
	if s := okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "ends"); s != "exited 33" {
		t.Errorf("ends: %s", s)
	}
	if s := okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "killed"); s != "exited 137" {
		t.Errorf("killed: %s", s)
	}
	if s := okOn(t, e, "logs", "ends"); s != "begin\nend" {
		t.Errorf("log of ends: %q", s)
	}
	if r := must(t, e.CLI("exec", "alive", "echo", "here")); r.Out != "here\n" {
		t.Error(r)
	}
	okOn(t, e, "stop", "-t", "0", "alive")
	consecutive(t, okOn(t, e, "logs", "alive"), "tick")
}

// waitGone returns when the process has ended: its directory in /proc is gone, or it is a zombie.
func waitGone(t *testing.T, pid string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("process %s does not end", pid)
}

// consecutive checks that the lines "word 0", "word 1", … follow each other without gap or repetition.
func consecutive(t *testing.T, text, word string) int {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, l := range lines {
		if l != fmt.Sprintf("%s %d", word, i) {
			t.Errorf("line %d reads %q after %q", i, l, lines[max(i-1, 0)])
			return i
		}
	}
	return len(lines)
}

func TestKillTheDaemonAtEveryStep(t *testing.T) {
	for _, point := range container.Failpoints() {
		t.Run(point, func(t *testing.T) {
			e := ownEngine(t, "busybox")
			okOn(t, e, "run", "-d", "--name", "other", "--network", "none", "busybox", "sleep", "1000")
			if err := e.Stop(); err != nil {
				t.Fatal(err)
			}
			if err := e.Start("GANTRY_FAILPOINT=" + point); err != nil {
				t.Fatal(err)
			}
			// A whole life passes every step; the daemon dies somewhere on the way.
			for _, args := range [][]string{
				{"create", "--name", "victim", "--network", "none", "busybox", "sleep", "1000"},
				{"start", "victim"}, {"stop", "-t", "0", "victim"}, {"start", "victim"}, {"kill", "victim"}, {"rm", "-f", "victim"},
			} {
				engine.Run(e.CLI(args...))
				if e.Ping() != nil {
					break
				}
			}
			select {
			case <-e.Done():
			case <-time.After(time.Minute):
				t.Fatalf("the daemon lived through the fail point %s", point)
			}
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			// Now the name is free or the container is whole, and what was not touched lives on.
			if s := okOn(t, e, "inspect", "-f", "{{.State.Status}}", "other"); s != "running" {
				t.Errorf("the other container is %s", s)
			}
			if r := must(t, e.CLI("inspect", "victim")); r.Code == 0 {
				okOn(t, e, "rm", "-f", "victim")
			}
			okOn(t, e, "run", "-d", "--name", "victim", "--network", "none", "busybox", "sleep", "1000")
			okOn(t, e, "rm", "-f", "victim")
			// ownEngine's cleanup checks for leaks.
		})
	}
}

// writer writes numbered lines in bursts, so that a kill finds some on their way, until told to stop.
const writer = `i=0; while [ ! -e /stop ]; do for burst in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do echo l $i; i=$((i+1)); done; sleep 0.1; done; exit 21`

// TestKillTheSupervisor holds the hardest promise: whatever dies, no container dies with it, and no byte of
// its log is lost or written twice.
func TestKillTheSupervisor(t *testing.T) {
	const n = 50
	e := ownEngine(t, "busybox")
	names, pids := writers(t, e, n)
	var attached []*terminal
	for _, name := range names[:4] {
		cmd := e.CLI("attach", "--no-stdin", "--sig-proxy=false", name)
		tt := onTerminal(t, cmd)
		tt.expect("l ")
		attached = append(attached, tt)
	}
	for range 3 {
		old := supervisorPid(t, e)
		syscall.Kill(old, syscall.SIGKILL)
		waitGone(t, strconv.Itoa(old))
		deadline := time.Now().Add(time.Minute)
		for supervisorPid(t, e) == old {
			if time.Now().After(deadline) {
				t.Fatal("no new supervisor came")
			}
			time.Sleep(10 * time.Millisecond)
		}
		for _, tt := range attached {
			tt.mu.Lock()
			tt.text.Reset()
			tt.mu.Unlock()
			tt.expect("l ") // output goes on
		}
	}
	for _, name := range names {
		if s := okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.State.Pid}}", name); s != "running "+pids[name] {
			t.Errorf("%s: %s, want running %s", name, s, pids[name])
		}
	}
	finish(t, e, names, pids)
}

// TestUpgradeTheSupervisor starts a newer engine over an older one's containers, under load: the supervisor
// becomes the newer program in place. The two builds differ by their debug information.
func TestUpgradeTheSupervisor(t *testing.T) {
	const n = 50
	var builds [2]string
	for i, ldflags := range []string{"-s", "-s -w -X main.build=next"} {
		builds[i] = t.TempDir()
		cmd := exec.Command("go", "build", "-ldflags", ldflags, "-o", builds[i]+"/", "./cmd/gantry", "./cmd/engine", "./cmd/supervisor", "./cmd/relay", "./cmd/init")
		cmd.Dir = engine.Repo()
		if r := must(t, cmd); r.Code != 0 {
			t.Fatal(r)
		}
	}
	e := engine.Gantry(filepath.Join(scratch, "own", "upgrade"))
	e.Program = filepath.Join(builds[0], "gantry")
	if err := boot(e, "busybox"); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	names, pids := writers(t, e, n)
	before := supervisorPid(t, e)
	for i := range 4 {
		e.Kill()
		e.Program = filepath.Join(builds[(i+1)%2], "gantry")
		if err := e.Start(); err != nil {
			t.Fatal(err)
		}
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", before))
		if err != nil || !strings.Contains(link, "memfd:") {
			t.Errorf("the supervisor runs from %q (%v), not from a memfd", link, err)
		}
	}
	if after := supervisorPid(t, e); after != before {
		t.Errorf("the supervisor is process %d, was %d: an upgrade keeps the process", after, before)
	}
	finish(t, e, names, pids)
}

// writers starts n containers that write numbered lines, every second one on a terminal.
func writers(t *testing.T, e *engine.Engine, n int) (names []string, pids map[string]string) {
	t.Helper()
	for i := range n {
		names = append(names, fmt.Sprint("c", i))
	}
	each(names, func(i int, name string) {
		args := []string{"run", "-d", "--name", name, "--network", "none"}
		if i%2 == 1 {
			args = append(args, "-t")
		}
		okOn(t, e, append(args, "busybox", "sh", "-c", writer)...)
	})
	pids = map[string]string{}
	for _, name := range names {
		pids[name] = okOn(t, e, "inspect", "-f", "{{.State.Pid}}", name)
	}
	return names, pids
}

// finish lets the containers end by themselves, and checks exit codes and logs.
func finish(t *testing.T, e *engine.Engine, names []string, pids map[string]string) {
	t.Helper()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join("/proc", pids[name], "root/stop"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		if code := okOn(t, e, "wait", name); code != "21" {
			// An exit code that cannot be known must say so; this kernel may be too old to tell.
			if msg := okOn(t, e, "inspect", "-f", "{{.State.Error}}", name); !strings.Contains(msg, "exit code unknown") || kernelKnowsExits() {
				t.Errorf("%s ended with %s (%s), want 21", name, code, msg)
			}
		}
		text := okOn(t, e, "logs", name)
		if i%2 == 1 {
			text = strings.ReplaceAll(text, "\r\n", "\n")
			text = strings.TrimSuffix(text, "\r")
		}
		if got := consecutive(t, text, "l"); got < 10 {
			t.Errorf("%s logged only %d lines", name, got)
		}
	}
}

// kernelKnowsExits reports whether PIDFD_INFO_EXIT exists (Linux 6.15).
func kernelKnowsExits() bool {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	var major, minor int
	fmt.Sscanf(string(b), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 15
}

// each runs fn for all names, a few at a time.
func each(names []string, fn func(i int, name string)) {
	var wg sync.WaitGroup
	gate := make(chan struct{}, 4)
	for i, name := range names {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			fn(i, name)
		})
	}
	wg.Wait()
}

func TestRedisSurvivesTheDaemon(t *testing.T) {
	e := ownEngine(t, "redis")
	dir := t.TempDir()
	conf := filepath.Join(dir, "redis.conf")
	sock := "/data/redis.sock"
	if err := os.WriteFile(conf, []byte("port 0\nunixsocket "+sock+"\nunixsocketperm 777\nsave \"\"\nmaxmemory 64mb\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(data, 0o777)
	okOn(t, e, "run", "-d", "--name", "redis", "--network", "host", "-v", conf+":/etc/redis/my.conf:ro", "-v", data+":/data", "redis", "redis-server", "/etc/redis/my.conf")
	client := func(args ...string) (string, error) {
		out, err := exec.Command("redis-cli", append([]string{"-s", filepath.Join(data, "redis.sock")}, args...)...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	deadline := time.Now().Add(time.Minute)
	for {
		if out, err := client("ping"); err == nil && out == "PONG" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis does not answer; its log:\n%s", okOn(t, e, "logs", "redis"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if out, _ := client("config", "get", "maxmemory"); !strings.Contains(out, "67108864") {
		t.Errorf("the bound config file is not read: %q", out)
	}
	// A client counts on while the daemon is killed and comes back.
	stop := make(chan struct{})
	failed := make(chan error, 1)
	count := make(chan int, 1)
	go func() {
		n := 0
		defer func() { count <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			out, err := client("incr", "n")
			if err != nil || out != strconv.Itoa(n+1) {
				failed <- fmt.Errorf("after %d: %q %v", n, out, err)
				return
			}
			n++
		}
	}()
	for range 3 {
		restart(t, e)
	}
	close(stop)
	n := <-count
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	if out := okOn(t, e, "exec", "redis", "redis-cli", "-s", sock, "get", "n"); out != strconv.Itoa(n) {
		t.Fatalf("redis has n=%s, want %d", out, n)
	}
	if s := okOn(t, e, "inspect", "-f", "{{.State.Status}}", "redis"); s != "running" {
		t.Fatal(s)
	}
	okOn(t, e, "stop", "-t", "60", "redis")
	if s := okOn(t, e, "inspect", "-f", "{{.State.ExitCode}}", "redis"); s != "0" {
		t.Errorf("redis ended with %s", s)
	}
}

func TestRestartPolicies(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "run", "-d", "--name", "failing", "--restart", "on-failure:2", "--network", "none", "busybox", "sh", "-c", "echo try; exit 3")
	okOn(t, e, "run", "-d", "--name", "always", "--restart", "always", "--network", "none", "busybox", "sh", "-c", "echo up; sleep 1000")
	began := strconv.FormatInt(time.Now().Unix(), 10) // it may be slow to ask: then it is told what has been
	events := e.CLI("events", "--since", began, "--filter", "event=die", "--format", "{{.Actor.Attributes.name}}")
	out, err := events.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { events.Process.Kill(); events.Wait() }()
	deadline := time.Now().Add(time.Minute)
	for okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}", "failing") != "exited 2 3" {
		if time.Now().After(deadline) {
			t.Fatal(okOn(t, e, "inspect", "-f", "{{json .State}} {{.RestartCount}}", "failing"))
		}
		time.Sleep(20 * time.Millisecond)
	}
	if got := okOn(t, e, "logs", "failing"); got != "try\ntry\ntry" {
		t.Errorf("log %q", got)
	}
	// Killed from outside, it comes back; stopped by its user, it stays stopped, also over a restart of the daemon.
	pid, _ := strconv.Atoi(okOn(t, e, "inspect", "-f", "{{.State.Pid}}", "always"))
	syscall.Kill(pid, syscall.SIGKILL)
	readUntil(t, bufio.NewReader(out), "always")
	for {
		s := strings.Fields(okOn(t, e, "inspect", "-f", "{{.State.Status}} {{.State.Pid}}", "always"))
		if s[0] == "running" && s[1] != strconv.Itoa(pid) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(s)
		}
		time.Sleep(20 * time.Millisecond)
	}
	okOn(t, e, "stop", "-t", "0", "always")
	if s := okOn(t, e, "inspect", "-f", "{{.State.Status}}", "always"); s != "exited" {
		t.Errorf("stopped, it is %s", s)
	}
}

func TestEnginesLiveSideBySide(t *testing.T) {
	a, b := ownEngine(t, "busybox"), ownEngine(t, "busybox")
	docker := oracle(t)
	for _, e := range []*engine.Engine{a, b} {
		okOn(t, e, "run", "-d", "--name", "same", "--network", "none", "busybox", "sleep", "1000")
	}
	r := must(t, docker.StockCLI("run", "-d", "--name", "same", "--network", "none", "busybox", "sleep", "1000"))
	if r.Code != 0 {
		t.Fatal(r)
	}
	defer must(t, docker.StockCLI("rm", "-f", "same"))
	okOn(t, a, "rm", "-f", "same")
	for _, e := range []*engine.Engine{b, docker} {
		r := must(t, e.StockCLI("ps", "--format", "{{.Names}}"))
		if !slices.Contains(strings.Fields(r.Out), "same") {
			t.Errorf("%s lost its container: %v", e.Name, r)
		}
	}
}
