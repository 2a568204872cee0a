//go:build e2e

// Package e2e tests the built binary as its users meet it: through its command line, through the stock
// docker command line and through the API, with real programs inside the containers. A real dockerd,
// started beside it, says what the answer should have been.
package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gantry/test/engine"
)

// scratch is removed at the end; short, for socket paths are limited to 108 bytes.
var scratch string

// gantry is the engine that tests share. A test that kills or restarts the engine starts its own.
var gantry *engine.Engine

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("these tests make namespaces, mounts and cgroups: run them as root")
		return 1
	}
	syscall.Umask(0o022) // containers read, as users of their own, what tests write
	var err error
	if scratch, err = os.MkdirTemp("/var/tmp", "gantry-e2e-"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(scratch)
	if _, err := made("test/images/make", "busybox", "debian", "redis"); err != nil {
		fmt.Println(err)
		return 1
	}
	gantry = engine.Gantry(filepath.Join(scratch, "shared"))
	if err := boot(gantry, "busybox", "debian"); err != nil {
		fmt.Println(err)
		return 1
	}
	code := m.Run()
	if err := end(gantry); err != nil {
		fmt.Println(err)
		return 1
	}
	if oracleEngine != nil {
		if err := oracleEngine.Stop(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return code
}

// boot starts e and loads test images into it.
func boot(e *engine.Engine, images ...string) error {
	if err := e.Start(); err != nil {
		return err
	}
	for _, name := range images {
		if r := engine.Run(e.StockCLI("load", "-q", "-i", imagePath(name))); r.Code != 0 {
			return fmt.Errorf("load %s into %s: %v", name, e.Name, r)
		}
	}
	return nil
}

// end removes all containers, stops e and reports what it left on the host.
func end(e *engine.Engine) error {
	ids := strings.Fields(engine.Run(e.StockCLI("ps", "-aq")).Out)
	if len(ids) > 0 {
		engine.Run(e.StockCLI(append([]string{"rm", "-f", "-v"}, ids...)...))
	}
	engine.Run(e.CLI("undo", "--empty"))
	if err := e.Stop(); err != nil {
		return err
	}
	return leaks(e)
}

// leaks names what a Gantry that has ended without containers still holds: processes, mounts, cgroups.
func leaks(e *engine.Engine) error {
	var found []string
	if b, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, e.Root+"/") {
				found = append(found, "mount: "+strings.TrimSpace(line))
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range processes {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), e.Root+"/") {
			found = append(found, "process: "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	parent := engine.CgroupParent(e.Root)
	for _, pattern := range []string{"/sys/fs/cgroup/*" + parent + "/*", "/sys/fs/cgroup" + parent + "/*"} {
		dirs, _ := filepath.Glob(pattern)
		for _, d := range dirs {
			if fi, err := os.Stat(d); err == nil && fi.IsDir() && len(filepath.Base(d)) == 64 {
				found = append(found, "cgroup: "+d)
			}
		}
	}
	for _, dir := range []string{"containers", "trash/containers"} {
		entries, _ := os.ReadDir(filepath.Join(e.Root, "data", dir))
		for _, d := range entries {
			found = append(found, "container directory: "+dir+"/"+d.Name())
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("%s at %s left behind:\n%s", e.Name, e.Root, strings.Join(found, "\n"))
	}
	return nil
}

func imagePath(name string) string {
	path, err := made("test/images/make", name)
	if err != nil {
		panic(err)
	}
	return path
}

// made returns where a script put what it was told to make, or had made before. On a machine that has nothing yet it fetches
// packages: it gets another try, for a mirror that stumbles says nothing of what is tested.
func made(script string, names ...string) (string, error) {
	for try := 1; ; try++ {
		out, err := exec.Command(filepath.Join(engine.Repo(), script), names...).Output()
		if err == nil {
			return strings.TrimSpace(string(out)), nil
		}
		said := ""
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			said = string(exit.Stderr)
		}
		err = fmt.Errorf("%s %q: %w\n%s", script, names, err, said)
		if try == 3 {
			return "", err
		}
		fmt.Println(err)
		time.Sleep(10 * time.Second)
	}
}

var (
	oracleOnce   sync.Once
	oracleEngine *engine.Engine
	oracleErr    error
)

// oracle returns a real dockerd with the test images, started for the first test that asks.
func oracle(t *testing.T) *engine.Engine {
	t.Helper()
	oracleOnce.Do(func() {
		oracleEngine = engine.Docker(filepath.Join(scratch, "docker"))
		oracleErr = boot(oracleEngine, "busybox", "debian")
	})
	if oracleErr != nil {
		t.Fatalf("the oracle: %v", oracleErr)
	}
	return oracleEngine
}

// ownEngine starts a Gantry for one test, with images, and checks at the end that it leaves nothing.
func ownEngine(t *testing.T, images ...string) *engine.Engine {
	t.Helper()
	e := engine.Gantry(filepath.Join(scratch, "own", fmt.Sprint(len(t.Name()), "-", os.Getpid(), "-", nextRoot())))
	if err := boot(e, images...); err != nil {
		t.Fatal(err)
	}
	cleanUp(t, e)
	return e
}

// cleanUp checks at the end of the test that e, brought back if need be, leaves nothing on the host.
func cleanUp(t *testing.T, e *engine.Engine) {
	t.Cleanup(func() {
		if err := e.Ping(); err != nil {
			if err := e.Start(); err != nil {
				t.Error(err)
				return
			}
		}
		if t.Failed() {
			t.Logf("the engine said:\n%s", e.LogTail())
		}
		if err := end(e); err != nil {
			t.Error(err)
		}
	})
}

var (
	rootMu    sync.Mutex
	rootCount int
)

func nextRoot() int {
	rootMu.Lock()
	defer rootMu.Unlock()
	rootCount++
	return rootCount
}

// cli runs Gantry's command line against the shared engine.
func cli(t *testing.T, args ...string) engine.Result {
	t.Helper()
	return must(t, gantry.CLI(args...))
}

func must(t *testing.T, cmd *exec.Cmd) engine.Result {
	t.Helper()
	r := engine.Run(cmd)
	if r.Failed != nil {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), r.Failed)
	}
	return r
}

// ok is cli for a command that must succeed; it returns what was printed, without the last newline.
func ok(t *testing.T, args ...string) string {
	t.Helper()
	return okOn(t, gantry, args...)
}

func okOn(t *testing.T, e *engine.Engine, args ...string) string {
	t.Helper()
	r := must(t, e.CLI(args...))
	if r.Code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSuffix(r.Out, "\n")
}

// readUntil reads lines from r until one contains want, and returns all of them.
func readUntil(t *testing.T, r *bufio.Reader, want string) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, want) {
			return all.String()
		}
		if err != nil {
			t.Fatalf("the stream ended (%v) before %q came:\n%s", err, want, all.String())
		}
	}
}
