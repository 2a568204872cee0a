package fork

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/spec"
)

// The child is born in the cgroup, the forking thread comes home, and the limit does not count it.
func TestStart(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	name := fmt.Sprintf("gantry-fork-test-%d", os.Getpid())
	var cg spec.Cgroup
	var dir, line string
	if own := ownCgroup(t, "pids"); own != "" { // version 1
		root := filepath.Join("/sys/fs/cgroup/pids", own)
		dir = filepath.Join(root, name)
		cg = spec.Cgroup{Tasks: []string{dir + "/tasks"}, Home: []string{root + "/tasks"}, PidsMaxFile: dir + "/pids.max", PidsMax: "1"}
		line = ":pids:" + filepath.Join(own, name)
	} else {
		root := "/sys/fs/cgroup"
		dir = filepath.Join(root, name)
		cg = spec.Cgroup{Unified: dir}
		line = "0::/" + name
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 1000 { // the kernel lets go of an ended process a moment after the wait
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Errorf("%s is left", dir)
	}()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := Start(program(t, "/bin/cat", 64), []string{"cat", "/proc/self/cgroup"},
		&syscall.ProcAttr{Env: []string{}, Files: []uintptr{0, w.Fd(), 2}, Sys: &syscall.SysProcAttr{}}, &cg)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(r)
	var status unix.WaitStatus
	unix.Wait4(pid, &status, 0, nil)
	if !strings.Contains(string(out), line+"\n") {
		t.Errorf("the child stood in\n%s, want %s", out, line)
	}
	if b, err := os.ReadFile(dir + "/tasks"); err == nil && len(b) > 0 {
		t.Errorf("left in the cgroup: %s", b)
	}
}

// program opens a file as fd number at.
func program(t *testing.T, path string, at int) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Dup3(int(f.Fd()), at, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(at) })
	return at
}

// ForkExec moves its own pipe, and those of Files that are in its way, to the numbers behind the highest of Files. That is where the
// program may be, if all numbers below are taken for a moment.
func TestStartWithTheProgramBehindTheHighestFile(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	const highest = 2000 // beyond whatever the test has open
	if err := unix.Dup3(int(null.Fd()), highest, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(highest)
	for behind := 1; behind <= 3; behind++ {
		pid, err := Start(program(t, "/bin/true", highest+behind), []string{"true"},
			&syscall.ProcAttr{Env: []string{}, Files: []uintptr{1, 0, highest}, Sys: &syscall.SysProcAttr{}}, &spec.Cgroup{})
		if err != nil {
			t.Fatalf("%d behind it: %v", behind, err)
		}
		var status unix.WaitStatus
		if _, err := unix.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
			t.Errorf("%d behind it: %v, %v", behind, status, err)
		}
	}
}

func ownCgroup(t *testing.T, controller string) string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.SplitN(l, ":", 3); len(f) == 3 && f[1] == controller {
			return f[2]
		}
	}
	return ""
}
