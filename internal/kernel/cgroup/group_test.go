package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t testing.TB) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func testParentName() string { return "/gantry-test-" + strconv.Itoa(os.Getpid()) }

// testParent is a parent of this test run's own; it is removed with all below it.
func testParent(t testing.TB, h *Host) string {
	t.Helper()
	parent := testParentName()
	t.Cleanup(func() {
		g, err := h.Open("/", path.Base(parent))
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		h.forget(parent)
	})
	return parent
}

func mustCreate(t testing.TB, h *Host, id string, r Resources) *Group {
	t.Helper()
	g, err := h.Create(testParent(t, h), id, r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// start forks cmd into g as a supervisor would.
func start(t testing.TB, g *Group, cmd *exec.Cmd) {
	t.Helper()
	if err := forkInto(g.Join(g.host.Own()), cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func forkInto(j Join, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	home := false
	defer func() {
		if home {
			runtime.UnlockOSThread() // else the thread dies with its goroutine, where it is
		}
	}()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	// While the thread is in the group, the group's device filter holds for it: what it needs is opened before.
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if cmd.Stdin == nil {
		cmd.Stdin = null
	}
	if cmd.Stdout == nil {
		cmd.Stdout = null
	}
	if cmd.Stderr == nil {
		cmd.Stderr = null
	}
	if j.Unified != "" {
		fd, err := unix.Open(j.Unified, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	for _, f := range j.Tasks {
		if err := writeFile(f, "0"); err != nil {
			return err
		}
	}
	err = cmd.Start()
	for _, f := range j.Home {
		if err := writeFile(f, "0"); err != nil {
			return err
		}
	}
	home = true
	if err != nil {
		return err
	}
	if j.PidsMaxFile != "" {
		return writeFile(j.PidsMaxFile, j.PidsMax)
	}
	return nil
}

func TestProcessIsBornInItsGroup(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "born", Resources{Memory: 64 << 20, CPUShares: 512, NanoCPUs: 5e8, PidsLimit: 20, CpusetCpus: "0"})
	for _, w := range g.Warnings {
		t.Log(w)
	}
	cmd := exec.Command("cat", "/proc/self/cgroup")
	var out strings.Builder
	cmd.Stdout = &out
	start(t, g, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if h.unified < 0 && strings.HasPrefix(line, "0::") {
			continue // a kernel that ever had version 2 mounted goes on naming its root
		}
		if !strings.HasSuffix(strings.TrimSpace(line), fmt.Sprintf("/gantry-test-%d/born", os.Getpid())) {
			t.Errorf("outside of the group: %s", line)
		}
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal("second removal: ", err)
	}
	for _, d := range g.Dirs() {
		if exists(d) {
			t.Errorf("%s is left", d)
		}
	}
}
