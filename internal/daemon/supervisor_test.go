package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gantry/internal/kernel/cgroup"
)

// supervisorPid finds the supervisor by its cgroup.
func (e *testEngine) supervisorPid() int {
	e.t.Helper()
	h, err := cgroup.Detect()
	if err != nil {
		e.t.Fatal(err)
	}
	top, err := h.Open("/", e.parent[1:])
	if err != nil {
		e.t.Fatal(err)
	}
	for _, dir := range top.Dirs() {
		found, _ := filepath.Glob(dir + "/supervisor-*/cgroup.procs")
		for _, f := range found {
			b, _ := os.ReadFile(f)
			for _, p := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(p); err == nil {
					return pid
				}
			}
		}
	}
	return 0
}

// TestSupervisorDies kills the supervisor under running containers: the engine starts another, and no container
// notices.
func TestSupervisorDies(t *testing.T) {
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", busybox(t), nil)
	dir := t.TempDir()
	script := "echo first; while [ ! -e /gate/go ]; do sleep 0.05; done; echo second; exit "
	for i := range 5 {
		e.run(fmt.Sprintf("c%d", i), sh(script+strconv.Itoa(40+i), map[string]any{"Binds": []string{dir + ":/gate"}}))
	}
	old := e.supervisorPid()
	if old == 0 {
		t.Fatal("no supervisor in a cgroup of its own")
	}
	syscall.Kill(old, syscall.SIGKILL)
	waitFor(t, func() bool { p := e.supervisorPid(); return p != 0 && p != old })
	for i := range 5 {
		if s := e.inspect(fmt.Sprintf("c%d", i)).State; !s.Running {
			t.Errorf("c%d did not live through it: %+v", i, s)
		}
	}
	// What needs the supervisor works with the new one.
	e.run("new", sh("exit 9", nil))
	touch(t, dir+"/go")
	for i := range 5 {
		name := fmt.Sprintf("c%d", i)
		e.must("POST", "/containers/"+name+"/wait", nil, nil)
		// Where the kernel tells exit codes to those who are not the parent (6.15 and later) it is exact.
		if s := e.inspect(name).State; s.ExitCode != 40+i && !strings.HasPrefix(s.Error, "exit code unknown") {
			t.Errorf("%s: %+v", name, s)
		}
		if got := e.logs(name, false); got != "first\nsecond\n" {
			t.Errorf("%s: log %q", name, got)
		}
		e.must("DELETE", "/containers/"+name, nil, nil)
	}
	e.must("DELETE", "/containers/new?force=1", nil, nil)
	e.end()
}

// TestBothDie kills engine and supervisor at once: nobody can tell how what ran ended, or hold it. The next engine
// says so, and leaves nothing of it running.
func TestBothDie(t *testing.T) {
	e := newEngine(t)
	e.start()
	e.must("POST", "/images/load", busybox(t), nil)
	e.run("lost", sh("sleep 1000", nil))
	pid := e.inspect("lost").State.Pid
	syscall.Kill(e.supervisorPid(), syscall.SIGKILL)
	e.kill()
	e.start()
	s := e.inspect("lost").State
	if s.Running {
		// Adopted by its pid: then it must be the same process.
		if s.Pid != pid {
			t.Errorf("%+v", s)
		}
	} else if s.ExitCode != 255 || !strings.HasPrefix(s.Error, "exit code unknown") {
		t.Errorf("%+v", s)
	} else if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("it still runs, and nobody holds it: %s", stat)
	}
	e.must("POST", "/containers/lost/start", nil, nil)
	e.must("DELETE", "/containers/lost?force=1", nil, nil)
	e.end()
}
