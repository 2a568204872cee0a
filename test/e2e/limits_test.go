//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

func TestMemoryLimitKills(t *testing.T) {
	name := "hog"
	r := cli(t, "run", "--name", name, "--network", "none", "-m", "32m", "--memory-swap", "32m", "debian", "sh", "-c", "head -c 256m /dev/zero | tail -n 1 | wc -c")
	defer ok(t, "rm", "-f", name)
	// The shell lives on after its child was killed; what counts is that the kill was seen.
	if got := ok(t, "inspect", "-f", "{{.State.OOMKilled}}", name); got != "true" {
		t.Fatalf("OOMKilled is %s: %v", got, r)
	}
	name2 := "hog2"
	r = cli(t, "run", "--name", name2, "--network", "none", "-m", "32m", "--memory-swap", "32m", "debian", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1")
	defer ok(t, "rm", "-f", name2)
	if got := ok(t, "inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", name2); got != "true 137" || r.Code != 137 {
		t.Fatalf("OOMKilled and exit code are %s: %v", got, r)
	}
}

func TestPidsLimitStopsAForkBomb(t *testing.T) {
	name := "bomb"
	// BusyBox's shell ends when it cannot fork; its children, and the first process, stay.
	ok(t, "run", "-d", "--name", name, "--network", "none", "--pids-limit", "50", "busybox", "sh", "-c",
		"sh -c 'while :; do sleep 1000 & done' 2>/dev/null; exec sleep 1000")
	defer ok(t, "rm", "-f", name)
	id := ok(t, "inspect", "-f", "{{.Id}}", name)
	most := 0
	deadline := time.Now().Add(time.Minute)
	for most < 45 && time.Now().Before(deadline) {
		n := pids(t, gantry, id)
		if n > 51 { // the kernel counts a fork, and then refuses it
			t.Fatalf("%d processes with a limit of 50", n)
		}
		most = max(most, n)
	}
	if most < 45 {
		t.Fatalf("only %d processes came up", most)
	}
	// The host and the engine are untouched.
	ok(t, "run", "--rm", "--network", "none", "busybox", "true")
}

// cgroupFile reads a file of a container's cgroup, in whichever hierarchy has it.
func cgroupFile(t *testing.T, e *engine.Engine, id, file string) string {
	t.Helper()
	parent := engine.CgroupParent(e.Root)
	for _, pattern := range []string{"/sys/fs/cgroup/*" + parent, "/sys/fs/cgroup" + parent} {
		found, _ := filepath.Glob(filepath.Join(pattern, id, file))
		for _, f := range found {
			if b, err := os.ReadFile(f); err == nil {
				return strings.TrimSpace(string(b))
			}
		}
	}
	t.Fatalf("no cgroup of %s has %s", id, file)
	return ""
}

func pids(t *testing.T, e *engine.Engine, id string) int {
	t.Helper()
	n, err := strconv.Atoi(cgroupFile(t, e, id, "pids.current"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// cpuTime returns the CPU time that a container has used.
func cpuTime(t *testing.T, e *engine.Engine, id string) time.Duration {
	t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		var usec int64
		fmt.Sscanf(cgroupFile(t, e, id, "cpu.stat"), "usage_usec %d", &usec)
		return time.Duration(usec) * time.Microsecond
	}
	n, _ := strconv.ParseInt(cgroupFile(t, e, id, "cpuacct.usage"), 10, 64)
	return time.Duration(n)
}

func TestCPUQuotaHolds(t *testing.T) {
	name := "burn"
	ok(t, "run", "-d", "--name", name, "--network", "none", "--cpus", "0.5", "busybox", "sh", "-c", "while :; do :; done & while :; do :; done")
	defer ok(t, "rm", "-f", name)
	id := ok(t, "inspect", "-f", "{{.Id}}", name)
	began := time.Now() // before the first look and after the last: a pause in between only makes the wall longer
	from := cpuTime(t, gantry, id)
	time.Sleep(5 * time.Second) // the length of the measurement
	used := cpuTime(t, gantry, id) - from
	wall := time.Since(began)
	if limit := time.Duration(1.1 * 0.5 * float64(wall)); used > limit {
		t.Fatalf("used %v of CPU in %v, more than 1.1 times the quota", used, wall)
	}
}

// TestTwoHundredIdleContainers holds the engine's own memory down.
func TestTwoHundredIdleContainers(t *testing.T) {
	const n = 200
	e := ownEngine(t, "busybox")
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("idle", i))
	}
	each(names, func(_ int, name string) {
		okOn(t, e, "run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "100000")
	})
	if got := len(strings.Fields(okOn(t, e, "ps", "-q"))); got != n {
		t.Fatalf("%d run, want %d", got, n)
	}
	supervisor, daemon := pss(t, supervisorPid(t, e)), pss(t, e.Pid())
	t.Logf("with %d idle containers: supervisor %.1f MB, daemon %.1f MB (PSS)", n, float64(supervisor)/1e6, float64(daemon)/1e6)
	if supervisor >= 10e6 {
		t.Errorf("the supervisor holds %d bytes, 10 MB or more", supervisor)
	}
	if daemon >= 60e6 {
		t.Errorf("the daemon holds %d bytes, 60 MB or more", daemon)
	}
}

// pss returns a process's proportional set size in bytes.
func pss(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
			return kb * 1024
		}
	}
	t.Fatal("smaps_rollup has no Pss")
	return 0
}
