package initproc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gantry/internal/kernel/caps"
	"gantry/internal/kernel/seccomp"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

// field returns a line of /proc/pid/status.
func field(status, name string) string {
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return ""
}

func TestProcess(t *testing.T) {
	c := newContainer(t, "cat", "/proc/self/status")
	status, _ := c.run()
	for name, want := range map[string]string{
		"Umask": "0022", "Uid": "0 0 0 0", "Gid": "0 0 0 0", "Groups": "0 10", "PPid": "0", "NSsid": "1", "Threads": "1",
		"SigBlk": "0000000000000000", "SigIgn": "0000000000000000", "SigCgt": "0000000000000000",
		"CapInh": "0000000000000000", "CapPrm": "00000000a80425fb", "CapEff": "00000000a80425fb", "CapBnd": "00000000a80425fb",
		"CapAmb": "0000000000000000", "NoNewPrivs": "0", "Seccomp": "0",
	} {
		equal(t, name, field(status, name), want)
	}
}

func TestPid1(t *testing.T) {
	out := sh(t, `echo $$; readlink /proc/self/cwd; ls /proc/1/fd; cat /proc/1/comm; :`, nil)
	equal(t, "output", out, "1\n/\n0\n1\n2\nsh\n")
}

// The supervisor's ignored signals must not reach the container: a shell could never trap them again.
func TestSignalsAreDefault(t *testing.T) {
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1}
	ignore(ignored...)
	defer restore(ignored...)
	status, _ := newContainer(t, "cat", "/proc/self/status").run()
	equal(t, "SigIgn", field(status, "SigIgn"), "0000000000000000")
}

func TestFileSystems(t *testing.T) {
	out := sh(t, `cat /proc/self/mountinfo`, nil)
	var got []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		got = append(got, f[4]+" "+f[5]+" "+strings.Join(f[6:], " "))
	}
	// No propagation tags (shared:, master:) anywhere, nothing of the host's, and Docker's flags.
	want := []string{
		"/ rw,relatime - overlay overlay rw,",
		"/proc rw,nosuid,nodev,noexec,relatime - proc proc rw",
		"/dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755",
		"/dev/pts rw,nosuid,noexec,relatime - devpts devpts rw,gid=5,mode=620,ptmxmode=666",
		"/sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs rw",
		"/dev/mqueue rw,nosuid,nodev,noexec,relatime - mqueue mqueue rw",
		"/dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k",
		"/proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw",
		"/proc/fs ro,nosuid,nodev,noexec,relatime - proc proc rw",
		"/proc/irq ro,nosuid,nodev,noexec,relatime - proc proc rw",
		"/proc/sys ro,nosuid,nodev,noexec,relatime - proc proc rw",
	}
	for i, w := range want {
		if i >= len(got) || !strings.HasPrefix(got[i], w) {
			t.Fatalf("mount %d: got\n%s\nwant it to begin\n%s", i, strings.Join(got, "\n"), w)
		}
	}
	for _, m := range got[len(want):] {
		if !strings.Contains(m, "- tmpfs tmpfs") && !strings.HasPrefix(m, "/proc/sysrq-trigger ro") {
			t.Errorf("unexpected mount %s", m)
		}
	}
}

func TestMaskedAndReadOnlyPaths(t *testing.T) {
	out := sh(t, `wc -c < /proc/keys; wc -c < /proc/timer_list; ls /sys/firmware | wc -l
(echo 1 > /proc/sys/kernel/panic) 2>&1; (touch /sys/firmware/x) 2>&1; (touch /sys/x) 2>&1; true`, nil)
	equal(t, "output", out, `0
0
0
sh: can't create /proc/sys/kernel/panic: Read-only file system
touch: /sys/firmware/x: Read-only file system
touch: /sys/x: Read-only file system
`)
}

func TestDevices(t *testing.T) {
	out := sh(t, `cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %u:%g' $d; done; for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done
dd if=/dev/zero bs=4 count=1 2>/dev/null | wc -c; echo x > /dev/null; (echo x > /dev/full) 2>&1; stat -c '%a %t:%T %u:%g' /dev/mine; test -p /dev/stdout && echo x > /dev/stdout`, func(c *container) {
		c.Init.Devices = append(c.Init.Devices, spec.Device{Path: "/dev/mine", Host: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o640, UID: 5, GID: 6})
	})
	equal(t, "output", out, `null 1:3 666 0:0
zero 1:5 666 0:0
full 1:7 666 0:0
random 1:8 666 0:0
urandom 1:9 666 0:0
tty 5:0 666 0:0
fd /proc/self/fd
stdin /proc/self/fd/0
stdout /proc/self/fd/1
stderr /proc/self/fd/2
ptmx pts/ptmx
4
sh: write error: No space left on device
640 1:5 5:6
x
`)
}

// A /dev that the user brings stays as it is.
func TestBoundDev(t *testing.T) {
	c := newContainer(t, "ls", "/dev")
	host := filepath.Join(c.dir, "mydev")
	os.Mkdir(host, 0o755)
	write(t, host+"/only", "")
	c.Init.Mounts = append(c.Init.Mounts[:1:1], spec.Mount{Type: "bind", Source: host, Target: "/dev", Options: []string{"rbind"}})
	out, _ := c.run()
	equal(t, "ls", out, "only\n")
}

func TestNames(t *testing.T) {
	out := sh(t, `hostname; cat /proc/sys/kernel/domainname`, func(c *container) { c.Init.Hostname, c.Init.Domainname = "box", "example.org" })
	equal(t, "names", out, "box\nexample.org\n")
}

func TestLoopbackIsUp(t *testing.T) {
	out := sh(t, `cat /sys/class/net/lo/flags; ls /sys/class/net`, nil)
	equal(t, "lo", out, "0x9\nlo\n")
}

func TestUsers(t *testing.T) {
	for _, c := range []struct {
		user   string
		groups []string
		want   string
	}{
		{"", nil, "0 0 0 10 /root"},
		{"root", nil, "0 0 0 10 /root"},
		{"alice", nil, "1000 1001 1001 10 /home/alice"},
		{"1000", nil, "1000 1001 1001 10 /home/alice"},
		{"alice:wheel", nil, "1000 10 10 /home/alice"},
		{"alice:77", nil, "1000 77 77 /home/alice"},
		{"4711", nil, "4711 0 0 /"},
		{"4711:4712", nil, "4711 4712 4712 /"},
		{":wheel", nil, "0 10 10 /root"},
		{"alice", []string{"video", "99", "10"}, "1000 1001 1001 10 44 99 /home/alice"},
	} {
		t.Run(c.user, func(t *testing.T) {
			out := sh(t, `echo $(id -u) $(id -g) $(id -G) $HOME; cat /proc/self/status > /dev/stdout; echo x > /dev/stderr`, func(k *container) { k.Init.Exec.User, k.Init.Exec.Groups = c.user, c.groups })
			first, rest, _ := strings.Cut(out, "\n")
			equal(t, "id", first, c.want)
			wantCaps := "00000000a80425fb"
			if c.want[0] != '0' {
				wantCaps = "0000000000000000"
			}
			equal(t, "effective capabilities", field(rest, "CapEff"), wantCaps)
			equal(t, "bounding set", field(rest, "CapBnd"), "00000000a80425fb")
		})
	}
}

func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*container)
		code   int
		want   string
	}{
		{"not found", func(c *container) { c.Init.Exec.Args = []string{"nosuch"} }, 127, `exec: "nosuch": executable file not found in $PATH`},
		{"no such path", func(c *container) { c.Init.Exec.Args = []string{"/bin/nosuch"} }, 127, `exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory`},
		{"not executable", func(c *container) { c.Init.Exec.Args = []string{"/etc/passwd"} }, 126, `exec: "/etc/passwd": permission denied`},
		{"directory", func(c *container) { c.Init.Exec.Args = []string{"/etc"} }, 126, `exec: "/etc": is a directory`},
		{"below a file", func(c *container) { c.Init.Exec.Args = []string{"/etc/passwd/x"} }, 126, `exec /etc/passwd/x: not a directory`},
		{"bad format", func(c *container) {
			os.WriteFile(c.dir+"/lower/bin/bad", []byte("\x00\x01"), 0o755)
			c.Init.Exec.Args = []string{"bad"}
		}, 126, `exec bad: exec format error`},
		{"no interpreter", func(c *container) {
			os.WriteFile(c.dir+"/lower/bin/script", []byte("#!/bin/none\n"), 0o755)
			c.Init.Exec.Args = []string{"/bin/script"}
		}, 127, `exec /bin/script: no such file or directory (its interpreter is missing)`},
		{"not found, init", func(c *container) { c.Init.Exec.Args, c.Init.Exec.Reaper = []string{"nosuch"}, true }, 127, `exec: "nosuch": executable file not found in $PATH`},
		{"not executable, init", func(c *container) { c.Init.Exec.Args, c.Init.Exec.Reaper = []string{"/etc/passwd"}, true }, 126, `exec: "/etc/passwd": permission denied`},
		{"directory, init", func(c *container) { c.Init.Exec.Args, c.Init.Exec.Reaper = []string{"/etc"}, true }, 126, `exec: "/etc": is a directory`},
		{"user", func(c *container) { c.Init.Exec.User = "bob" }, 125, `unable to find user bob: no matching entries in passwd file`},
		{"group", func(c *container) { c.Init.Exec.User = "root:nogrp" }, 125, `unable to find group nogrp: no matching entries in group file`},
		{"added group", func(c *container) { c.Init.Exec.Groups = []string{"nogrp"} }, 125, `unable to find group nogrp: no matching entries in group file`},
		{"high uid", func(c *container) { c.Init.Exec.User = "2147483648" }, 125, `uids and gids must be in range 0-2147483647`},
		{"cwd is a file", func(c *container) { c.Init.Exec.Cwd = "/etc/passwd" }, 125, `Cannot mkdir: /etc/passwd is not a directory`},
		{"source", func(c *container) {
			c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: "/nosuch", Target: "/x"})
		}, 125, `error mounting "/nosuch" to rootfs at "/x": no such file or directory`},
		{"directory on file", func(c *container) {
			c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: c.dir, Target: "/etc/passwd"})
		}, 125, `error mounting "%s" to rootfs at "/etc/passwd": open /etc/passwd: not a directory`},
		{"tmpfs option", func(c *container) {
			c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "tmpfs", Target: "/x", Options: []string{"size=banana"}})
		}, 125, `error mounting "tmpfs" to rootfs at "/x": option "size=banana" of tmpfs: invalid argument`},
		{"sysctl", func(c *container) { c.Init.Sysctls = map[string]string{"net.no.such": "1"} }, 125, `set sysctl net.no.such: open /proc/sys/net/no/such: no such file or directory`},
		{"rlimit", func(c *container) {
			c.Init.Exec.Rlimits = []spec.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 20, Hard: 10}}
		}, 125, `error setting rlimit type 7: invalid argument`},
		{"overlay", func(c *container) { c.Init.Root.Lower = []string{"nosuch"} }, 125, `mount the overlay on %s/root: no such file or directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newContainer(t, "true")
			c.change(k)
			f := k.fails()
			want := c.want
			if strings.Contains(want, "%s") {
				want = fmt.Sprintf(want, k.dir)
			}
			equal(t, "message", f.Message, want)
			if f.Code != c.code {
				t.Errorf("code %d, want %d", f.Code, c.code)
			}
		})
	}
}

func TestSearchPath(t *testing.T) {
	c := newContainer(t, "tool")
	c.Init.Exec.Env = []string{"PATH=/a:/b:/c:/d"}
	for dir, mode := range map[string]os.FileMode{"a": 0o644, "c": 0o755} {
		os.Mkdir(c.dir+"/lower/"+dir, 0o755)
		os.WriteFile(c.dir+"/lower/"+dir+"/tool", []byte("#!/bin/sh\necho $0\n"), mode)
	}
	os.MkdirAll(c.dir+"/lower/b/tool", 0o755) // a directory of that name
	out, _ := c.run()
	equal(t, "found", out, "/c/tool\n")
}

func TestWorkdir(t *testing.T) {
	out := sh(t, `pwd; stat -c '%a %u:%g' .; test -d /new && echo made`, func(c *container) { c.Init.Exec.Cwd, c.Init.Exec.User = "/new/deep", "alice" })
	equal(t, "workdir", out, "/new/deep\n755 0:0\nmade\n")
	// Read-only roots get theirs too: Docker makes it when the container is created.
	out = sh(t, `pwd; (touch /x) 2>&1; touch /dev/shm/y`, func(c *container) { c.Init.Exec.Cwd, c.Init.Root.ReadOnly = "/new", true })
	equal(t, "read-only", out, "/new\ntouch: /x: Read-only file system\n")
}

func TestEnvironment(t *testing.T) {
	out := sh(t, `echo $HOME $X`, func(c *container) {
		c.Init.Exec.Env = append(c.Init.Exec.Env, "HOME=/elsewhere", "X=a \"b\"\n\t\\ é \u2028")
	})
	equal(t, "env", out, "/elsewhere a \"b\" \\ é \u2028\n")
}

func TestRlimits(t *testing.T) {
	out := sh(t, `cat /proc/self/limits; cat /proc/self/oom_score_adj; umask`, func(c *container) {
		c.Init.Exec.Rlimits = []spec.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 64, Hard: 128}, {Type: unix.RLIMIT_CORE}}
		adj, umask := 500, uint32(0o027)
		c.Init.Exec.OOMScoreAdj, c.Init.Exec.Umask = &adj, &umask
	})
	// Limits under which init could not run itself.
	equal(t, "low", sh(t, `ulimit -n; ulimit -v`, func(c *container) {
		c.Init.Exec.Rlimits = []spec.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 4, Hard: 5}, {Type: unix.RLIMIT_AS, Soft: 16 << 20, Hard: 16 << 20}}
	}), "4\n16384\n")
	for _, want := range []string{"Max open files            64                   128", "Max core file size        0                    0", "\n500\n0027\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q not in\n%s", want, out)
		}
	}
}

func TestConfinement(t *testing.T) {
	filter, err := new(seccomp.Cache).Default(caps.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, nnp := range []bool{false, true} {
		for _, user := range []string{"", "alice"} {
			t.Run(fmt.Sprint(nnp, user), func(t *testing.T) {
				status := sh(t, `cat /proc/self/status`, func(c *container) {
					c.Init.Exec.Seccomp, c.Init.Exec.NoNewPrivileges, c.Init.Exec.User = filter, nnp, user
				})
				equal(t, "Seccomp", field(status, "Seccomp"), "2")
				equal(t, "Seccomp_filters", field(status, "Seccomp_filters"), "1")
				want := "0"
				if nnp {
					want = "1"
				}
				equal(t, "NoNewPrivs", field(status, "NoNewPrivs"), want)
				if user != "" {
					equal(t, "CapPrm", field(status, "CapPrm"), "0000000000000000")
				}
			})
		}
	}
}

// Ambient capabilities reach a user who is not root.
func TestAmbient(t *testing.T) {
	status := sh(t, `cat /proc/self/status`, func(c *container) {
		c.Init.Exec.User = "alice"
		c.Init.Exec.Caps.Inheritable, c.Init.Exec.Caps.Ambient = 1<<unix.CAP_NET_BIND_SERVICE, 1<<unix.CAP_NET_BIND_SERVICE
	})
	equal(t, "CapEff", field(status, "CapEff"), "0000000000000400")
	equal(t, "CapAmb", field(status, "CapAmb"), "0000000000000400")
}

func TestBinds(t *testing.T) {
	c := newContainer(t, "sh", "-c", `cat /rw/f /file; echo new > /rw/g; (echo x > /ro/f) 2>&1; (echo x > /ro/sub/f) 2>&1; (echo x > /top/f) 2>&1; echo x > /top/sub/f; cat /link/f; grep -c ' /ro' /proc/self/mountinfo; grep ' /rw ' /proc/self/mountinfo | grep -c shared`)
	host := c.dir + "/host"
	os.MkdirAll(host+"/sub", 0o755)
	write(t, host+"/f", "content\n")
	if err := unix.Mount("tmpfs", host+"/sub", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(host+"/sub", unix.MNT_DETACH) })
	write(t, host+"/sub/f", "")
	os.Symlink("/target", c.dir+"/lower/link") // absolute, but the container's
	os.Mkdir(c.dir+"/lower/target", 0o755)
	c.Init.Mounts = append(c.Init.Mounts,
		spec.Mount{Type: "bind", Source: host, Target: "/rw", Options: []string{"rbind", "rprivate"}},
		spec.Mount{Type: "bind", Source: host, Target: "/ro", Options: []string{"rbind", "rro", "rprivate"}},
		spec.Mount{Type: "bind", Source: host, Target: "/top", Options: []string{"rbind", "ro"}},
		spec.Mount{Type: "bind", Source: host + "/f", Target: "/file", Options: []string{"bind"}},
		spec.Mount{Type: "bind", Source: host, Target: "/link", Options: []string{"bind"}},
	)
	out, _ := c.run()
	equal(t, "output", out, `content
content
sh: can't create /ro/f: Read-only file system
sh: can't create /ro/sub/f: Read-only file system
sh: can't create /top/f: Read-only file system
content
2
0
`)
	if b, _ := os.ReadFile(host + "/g"); string(b) != "new\n" {
		t.Errorf("nothing arrived on the host: %q", b)
	}
}

// A shared bind shows the container what is mounted on the host later, and a private one does not; and the
// container's own mounts never appear on the host.
func TestPropagation(t *testing.T) {
	for _, c := range []struct {
		propagation, root, want string
	}{{"rshared", "rshared", "new\n"}, {"rslave", "rslave", "new\n"}, {"rprivate", "", ""}} {
		t.Run(c.propagation, func(t *testing.T) {
			k := newContainer(t, "sh", "-c", `read x; ls /m/sub`)
			host := k.dir + "/host"
			os.MkdirAll(host, 0o755)
			if err := unix.Mount("tmpfs", host, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(host, unix.MNT_DETACH) })
			if err := unix.Mount("", host, "", unix.MS_SHARED, ""); err != nil {
				t.Fatal(err)
			}
			os.Mkdir(host+"/sub", 0o755)
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			k.Stdin = r
			k.Init.Root.Propagation = c.root
			k.Init.Mounts = append(k.Init.Mounts, spec.Mount{Type: "bind", Source: host, Target: "/m", Options: []string{"rbind", c.propagation}})
			k.start()
			if k.failure != nil {
				t.Fatal(k.failure.Message)
			}
			if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), k.dir+"/root") {
				t.Errorf("the host sees the container's mounts:\n%s", b)
			}
			if err := unix.Mount("tmpfs", host+"/sub", "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			write(t, host+"/sub/new", "")
			w.Write([]byte("go\n"))
			w.Close()
			k.cmd.Wait()
			k.copied.Wait()
			equal(t, "seen", k.out.String(), c.want)
			unix.Unmount(host+"/sub", unix.MNT_DETACH)
		})
	}
}

func TestTmpfs(t *testing.T) {
	out := sh(t, `grep ' /t ' /proc/self/mountinfo | grep -o 'rw,nosuid.*'; stat -c '%a %u' /t; cat /copied/x /copied/d/y; stat -c '%a %u:%g' /copied/d; readlink /copied/l; touch /copied/new`, func(c *container) {
		os.MkdirAll(c.dir+"/lower/copied/d", 0o755)
		write(t, c.dir+"/lower/copied/x", "1\n")
		write(t, c.dir+"/lower/copied/d/y", "2\n")
		os.Symlink("x", c.dir+"/lower/copied/l")
		os.Chmod(c.dir+"/lower/copied/d", 0o711)
		os.Chown(c.dir+"/lower/copied/d", 3, 4)
		c.Init.Mounts = append(c.Init.Mounts,
			spec.Mount{Type: "tmpfs", Target: "/t", Options: []string{"nosuid", "size=1m", "mode=1777", "uid=5"}},
			spec.Mount{Type: "tmpfs", Target: "/copied", CopyContent: true})
	})
	lines := strings.SplitN(out, "\n", 2)
	if !strings.HasPrefix(lines[0], "rw,nosuid,relatime - tmpfs tmpfs rw,size=1024k") {
		t.Errorf("mount: %s", lines[0])
	}
	equal(t, "rest", lines[1], "1777 5\n1\n2\n711 3:4\nx\n")
}

func TestSysctls(t *testing.T) {
	out := sh(t, `cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_unprivileged_port_start`, func(c *container) {
		c.Init.Sysctls = map[string]string{"kernel.shmmni": "123", "net.ipv4.ip_unprivileged_port_start": "0"}
	})
	equal(t, "sysctls", out, "123\n0\n")
}

func TestTerminal(t *testing.T) {
	c := newContainer(t, "sh", "-c", `tty; readlink /proc/self/fd/0; stty_size=$(stat -c %t /dev/console); echo $stty_size; ls -1 /dev/pts; stat -c '%t:%T %u' /dev/pts/0; echo x > /dev/tty; test -c /dev/console && echo console; (touch /dev/pts/ptmx) && echo ok; exit 3`)
	c.Init.Exec.Terminal = true
	c.Init.Exec.User = "alice"
	c.start()
	if c.failure != nil {
		t.Fatal(c.failure.Message)
	}
	ws, err := unix.IoctlGetWinsize(int(c.pty.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Row != 33 || ws.Col != 77 {
		t.Errorf("window size %v, %v", ws, err)
	}
	c.cmd.Wait()
	c.copied.Wait()
	equal(t, "output", strings.ReplaceAll(c.out.String(), "\r", ""), "/dev/pts/0\n/dev/pts/0\n88\n0\nptmx\n88:0 1000\nx\nconsole\nok\n")
	if code := c.cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

func TestReaper(t *testing.T) {
	out := sh(t, `echo $(cat /proc/1/comm) $(grep -c . /proc/1/task/1/comm); grep Threads /proc/1/status; ls /proc/1/fd | wc -l; grep -E 'Cap(Eff|Prm)' /proc/1/status
(sleep 0.01 & ) ; (sleep 0.01 &); while set -- /proc/[0-9]*; test $# -gt 2; do sleep 0.01; done; echo $#`, func(c *container) { c.Init.Exec.Reaper, c.Init.Exec.User = true, "alice" })
	// PID 1 and the shell are left: the orphans have been reaped.
	equal(t, "reaper", out, "docker-init 1\nThreads:\t1\n3\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n2\n")

	for script, want := range map[string]int{`exit 42`: 42, `kill -9 $$`: 137, `kill -15 $$`: 143} {
		c := newContainer(t, "sh", "-c", script)
		c.Init.Exec.Reaper = true
		if _, code := c.run(); code != want {
			t.Errorf("%s: exit code %d, want %d", script, code, want)
		}
	}
	c := newContainer(t, "sh", "-c", `trap 'echo got; exit 5' USR1; echo ready; while :; do sleep 0.01; done`)
	c.Init.Exec.Reaper = true
	c.start()
	waitFor(t, func() bool { return strings.Contains(c.output(), "ready") })
	c.cmd.Process.Signal(syscall.SIGUSR1)
	c.cmd.Wait()
	c.copied.Wait()
	equal(t, "forwarded", c.out.String(), "ready\ngot\n")
	if code := c.cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d", code)
	}
}

// waitFor polls for something that no event tells. It only gives up when something is wrong for good.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 3000 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not happen in 30 s")
}

func TestJoinNamespaces(t *testing.T) {
	first := sleeper(t, func(c *container) { c.Init.Hostname = "first" })
	of := spec.Process{Pid: first.pid, StartTime: startTime(t, first.pid)}
	out := sh(t, `hostname; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; test -e /shm/mark && echo shared`, func(c *container) {
		c.Init.Clone &^= unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
		c.Init.Join = []spec.Join{{Type: "net", Of: of}, {Type: "ipc", Of: of}, {Type: "uts", Of: of}}
		c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: "/dev/shm", Target: "/shm", Options: []string{"rbind"}, Of: &of})
		if r := first.exec(spec.Exec{Args: []string{"touch", "/dev/shm/mark"}}); r.failure != nil || r.code != 0 {
			t.Fatalf("%+v", r)
		}
	})
	want := "first\n"
	for _, n := range []string{"net", "ipc", "uts"} {
		l, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", first.pid, n))
		if err != nil {
			t.Fatal(err)
		}
		want += l + "\n"
	}
	if !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "shared\n") {
		t.Errorf("got %q, want %q and shared", out, want)
	}

	c := newContainer(t, "true")
	of.StartTime++
	c.Init.Join = []spec.Join{{Type: "ipc", Of: of}}
	c.Init.Clone &^= unix.CLONE_NEWIPC
	equal(t, "recycled pid", c.fails().Message, "join the ipc namespace: the container whose namespace is to be joined is no longer running")
}

func TestJoinPID(t *testing.T) {
	first := sleeper(t, nil)
	c := newContainer(t, "sh", "-c", `cat /proc/1/cmdline; echo; hostname; test $$ != 1 && echo not 1; set -- /proc/[0-9]*; echo $#; exit 9`)
	c.Init.Clone &^= unix.CLONE_NEWPID
	c.Init.Hostname = "second"
	r := first.enter(spec.ModeJoin, marshal(t, &c.Init))
	if r.failure != nil {
		t.Fatal(r.failure.Message)
	}
	// In there: the sleeper and the shell. Nothing of init.
	equal(t, "output", r.out, "sleep\x001000\x00\nsecond\nnot 1\n2\n")
	if r.code != 9 {
		t.Errorf("exit code %d", r.code)
	}
}

func TestUserNamespace(t *testing.T) {
	c := newContainer(t, "sh", "-c", `id -u; cat /proc/self/uid_map; touch /made; echo x > /dev/null; stat -c %u /made; hostname; (echo x > /proc/sys/kernel/panic) 2>&1; grep CapEff /proc/self/status; id -G; mount -t tmpfs x /tmp 2>&1 | head -1; ls /sys/class/net`)
	c.userns()
	out, code := c.run()
	equal(t, "output", out, `0
         0     100000      65536
0
box
sh: can't create /proc/sys/kernel/panic: Read-only file system
CapEff:	00000000a80425fb
0 10
mount: permission denied (are you root?)
lo
`)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	if st, err := os.Stat(c.dir + "/upper/made"); err != nil || st.Sys().(*syscall.Stat_t).Uid != 100000 {
		t.Errorf("on the host: %v, %v", st, err)
	}
}

// userns puts the container into a user namespace, with a file system that belongs to its root.
func (c *container) userns() {
	c.Init.Clone |= unix.CLONE_NEWUSER
	c.Init.User = true
	c.Init.Hostname = "box"
	for _, d := range []string{"", "upper", "work", "root", "lower"} {
		filepath.WalkDir(filepath.Join(c.dir, d), func(p string, _ os.DirEntry, err error) error {
			os.Lchown(p, 100000, 100000)
			return err
		})
	}
	// t.TempDir's parent is 0700 and root's, and so closed to the container's root.
	for p := c.dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		os.Chmod(p, 0o755)
	}
}
