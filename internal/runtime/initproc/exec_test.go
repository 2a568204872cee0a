package initproc_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"gantry/internal/kernel/caps"
	"gantry/internal/kernel/seccomp"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	filter, err := new(seccomp.Cache).Default(caps.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"plain", "userns"} {
		t.Run(kind, func(t *testing.T) {
			c := sleeper(t, func(c *container) {
				c.Init.Hostname = "box"
				if kind == "userns" {
					c.userns()
				}
			})
			ok := func(e spec.Exec) string {
				t.Helper()
				r := c.exec(e)
				if r.failure != nil {
					t.Fatalf("%+v", *r.failure)
				}
				if r.code != 0 {
					t.Errorf("exit code %d", r.code)
				}
				return r.out
			}
			var want strings.Builder
			for _, n := range []string{"mnt", "uts", "ipc", "net", "pid", "cgroup", "user"} {
				l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.pid, n))
				if err != nil {
					t.Fatal(err)
				}
				want.WriteString(l + "\n")
			}
			equal(t, "namespaces", ok(spec.Exec{Args: []string{"sh", "-c", "for n in mnt uts ipc net pid cgroup user; do readlink /proc/self/ns/$n; done"}}), want.String())
			equal(t, "inside", ok(spec.Exec{Args: []string{"sh", "-c", "hostname; pwd; ls /proc/self/fd | wc -l; cat /proc/1/cmdline; echo; set -- /proc/[0-9]*; echo $#; echo $HOME"}, Cwd: "/tmp"}),
				"box\n/tmp\n4\nsleep\x001000\x00\n2\n/root\n")

			status := ok(spec.Exec{Args: []string{"cat", "/proc/self/status"}, Seccomp: filter, User: "alice:wheel", Groups: []string{"video"}})
			for name, want := range map[string]string{
				"Uid": "1000 1000 1000 1000", "Gid": "10 10 10 10", "Groups": "10 44", "PPid": "0", "Threads": "1", "Seccomp": "2", "Umask": "0022",
				"SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "00000000a80425fb",
			} {
				equal(t, name, field(status, name), want)
			}
			status = ok(spec.Exec{Args: []string{"cat", "/proc/self/status"}, Seccomp: filter, NoNewPrivileges: true})
			equal(t, "CapEff", field(status, "CapEff"), "00000000a80425fb")
			equal(t, "NoNewPrivs", field(status, "NoNewPrivs"), "1")
			equal(t, "Seccomp", field(status, "Seccomp"), "2")

			for _, f := range []struct {
				e    spec.Exec
				code int
				want string
			}{
				{spec.Exec{Args: []string{"nosuch"}}, 127, `exec: "nosuch": executable file not found in $PATH`},
				{spec.Exec{Args: []string{"/etc/passwd"}}, 126, `exec: "/etc/passwd": permission denied`},
				{spec.Exec{Args: []string{"true"}, User: "bob"}, 125, `unable to find user bob: no matching entries in passwd file`},
				{spec.Exec{Args: []string{"true"}, Cwd: "/nosuch"}, 126, `chdir to cwd ("/nosuch") set in config.json failed: no such file or directory`},
			} {
				r := c.exec(f.e)
				if r.failure == nil {
					t.Errorf("%v: no failure", f.e.Args)
					continue
				}
				equal(t, "message", r.failure.Message, f.want)
				if r.failure.Code != f.code {
					t.Errorf("%s: code %d, want %d", f.want, r.failure.Code, f.code)
				}
			}
			for script, want := range map[string]int{"exit 42": 42, "kill -9 $$": 137} {
				if r := c.exec(spec.Exec{Args: []string{"sh", "-c", script}}); r.code != want {
					t.Errorf("%s: exit code %d, want %d", script, r.code, want)
				}
			}
			out := ok(spec.Exec{Args: []string{"sh", "-c", "tty; echo x > /dev/tty; ls -l $(tty) | grep -c alice"}, Terminal: true, User: "alice"})
			equal(t, "terminal", strings.ReplaceAll(out, "\r", ""), "/dev/pts/0\nx\n1\n")
		})
	}
}

func TestExecInDeadContainer(t *testing.T) {
	c := newContainer(t, "true")
	c.start()
	fd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	target := os.NewFile(uintptr(fd), "pidfd")
	defer target.Close()
	c.cmd.Wait()
	x := &container{t: t}
	x.fork(spec.ModeExec, marshal(t, &spec.Exec{Args: []string{"true"}}), 0, target)
	x.cmd.Wait()
	if x.failure == nil || x.failure.Message != "the container is not running" {
		t.Errorf("%+v", x.failure)
	}
}
