package initproc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// told makes a Tell that sends text, and the payload if with.
func told(t *testing.T, text string, with bool) func(int, *os.File) {
	return func(sock int, payload *os.File) {
		var oob []byte
		if with {
			oob = unix.UnixRights(int(payload.Fd()))
		}
		if err := unix.Sendmsg(sock, []byte(text), oob, nil, unix.MSG_NOSIGNAL); err != nil {
			t.Error(err)
		}
	}
}

// The payload may come when init is there already, and with it the version 1 cgroups to enter.
func TestPayloadBySocket(t *testing.T) {
	c := newContainer(t, "cat", "/proc/self/cgroup")
	tasks, want := "\n", ""
	if own, err := os.ReadFile("/proc/self/cgroup"); err != nil {
		t.Fatal(err)
	} else if _, rest, v1 := strings.Cut(string(own), ":pids:"); v1 {
		path, _, _ := strings.Cut(rest, "\n")
		name := fmt.Sprintf("gantry-init-test-%d", os.Getpid())
		dir := filepath.Join("/sys/fs/cgroup/pids", path, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for range 1000 { // the kernel lets go of an ended process a moment after the wait
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
			t.Errorf("%s is left", dir)
		})
		if err := os.WriteFile(dir+"/pids.max", []byte("1"), 0); err != nil { // init's other threads are not there
			t.Fatal(err)
		}
		tasks, want = dir+"/tasks\n", ":pids:"+filepath.Join(path, name)+"\n"
	}
	c.Tell = told(t, tasks, true)
	c.start()
	if c.failure != nil {
		t.Fatal(c.failure.Message)
	}
	c.cmd.Wait()
	c.copied.Wait()
	if !strings.Contains(c.output(), want) {
		t.Errorf("it ran in\n%swant %s", c.output(), want)
	}
}

func TestPayloadThatDoesNotCome(t *testing.T) {
	for name, tell := range map[string]func(int, *os.File){
		"the engine has given up the start": func(int, *os.File) {},
		"malformed payload":                 told(t, "\n", false),
		"enter the cgroup by /no/tasks":     told(t, "/no/tasks\n", true),
	} {
		c := newContainer(t, "true")
		c.Tell = tell
		c.start()
		if c.failure == nil || !strings.Contains(c.failure.Message, name) || c.failure.Code != 125 {
			t.Errorf("%s: %+v", name, c.failure)
		}
	}
}

// While init works its runtime's monitor does not displace it; the container's program is scheduled as any other.
func TestMonitorIsABatchThread(t *testing.T) {
	c := newContainer(t, "cat", "/proc/self/stat")
	c.Tell = func(sock int, payload *os.File) {
		defer told(t, "\n", true)(sock, payload)
		task := fmt.Sprintf("/proc/%d/task", c.pid)
		batch := ""
		for deadline := time.Now().Add(time.Minute); batch == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			entries, err := os.ReadDir(task)
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range entries {
				stat, _ := os.ReadFile(filepath.Join(task, e.Name(), "stat"))
				status, _ := os.ReadFile(filepath.Join(task, e.Name(), "status"))
				if policy(string(stat)) == "3" {
					batch = field(string(status), "NSpid")
				}
			}
		}
		if !strings.HasSuffix(batch, " 2") {
			t.Errorf("a batch thread: %q, want the second", batch)
		}
	}
	stat, _ := c.run()
	equal(t, "the container's policy", policy(stat), "0")
}

// policy returns the scheduling policy in a /proc/pid/stat.
func policy(stat string) string {
	_, rest, _ := strings.Cut(stat, ") ")
	fields := strings.Fields(rest)
	if len(fields) < 39 {
		return ""
	}
	return fields[38] // the 41st of all
}
