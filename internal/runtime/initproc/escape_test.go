package initproc_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// The old ways out of containers, tried one after another.

// CVE-2019-5736: the program that starts containers was reachable as /proc/self/exe and could be overwritten.
func TestEscapeOverwriteInit(t *testing.T) {
	prog := program(t)
	path := fmt.Sprintf("/proc/self/fd/%d", prog.Fd())
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// An exec whose program is a link to itself runs init again: it must find nothing to write to.
	c := sleeper(t, func(c *container) {
		os.Symlink("/proc/self/exe", c.dir+"/lower/bin/again")
		os.WriteFile(c.dir+"/lower/bin/shebang", []byte("#!/proc/self/exe\n"), 0o755)
	})
	for _, p := range []string{"again", "shebang"} {
		c.exec(spec.Exec{Args: []string{p}})
	}
	// And with a writable descriptor, which root of the host can open, as the exploit's race did.
	for _, flags := range []int{unix.O_WRONLY, unix.O_WRONLY | unix.O_TRUNC} {
		fd, err := unix.Open(path, flags, 0)
		if err != nil {
			continue
		}
		if n, err := unix.Write(fd, []byte("#!/bin/evil")); err == nil {
			t.Errorf("wrote %d bytes over init", n)
		}
		if err := unix.Ftruncate(fd, 0); err == nil {
			t.Error("truncated init")
		}
		unix.Close(fd)
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("init has changed (%v)", err)
	}
	// The reaper of --init is a memfd that the container can reach: sealed as well.
	out := sh(t, `(echo x > /proc/1/exe) 2>&1; echo; exit 0`, func(c *container) { c.Init.Exec.Reaper = true })
	if !strings.Contains(out, "can't create /proc/1/exe") {
		t.Errorf("writing to the reaper: %q", out)
	}
}

// CVE-2024-21626: a leaked descriptor of a host directory as the working directory.
func TestEscapeWorkingDirectory(t *testing.T) {
	c := sleeper(t, nil)
	for fd := 3; fd < 32; fd++ {
		for _, cwd := range []string{"/proc/self/fd/" + strconv.Itoa(fd), "/proc/thread-self/fd/" + strconv.Itoa(fd), "/proc/1/fd/" + strconv.Itoa(fd)} {
			k := newContainer(t, "sh", "-c", "echo started in $(pwd); cat ../../../etc/hostname ../../../../../../etc/machine-id")
			k.Init.Exec.Cwd = cwd
			if f := k.fails(); f.Stage != "chdir" {
				t.Errorf("cwd %s: %+v", cwd, f)
			}
			r := c.exec(spec.Exec{Args: []string{"pwd"}, Cwd: cwd})
			if r.failure == nil || r.failure.Stage != "chdir" {
				t.Errorf("exec with cwd %s: %+v", cwd, r)
			}
			if fd > 12 {
				break
			}
		}
	}
}

// No descriptor of the host's reaches the container's program.
func TestNoFdsLeak(t *testing.T) {
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// As if the supervisor had forgotten to mark one.
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	for _, reaper := range []bool{false, true} {
		out := sh(t, `ls /proc/1/fd; ls /proc/self/fd`, func(c *container) { c.Init.Exec.Reaper = reaper })
		equal(t, "fds", out, "0\n1\n2\n0\n1\n2\n3\n")
	}
	c := sleeper(t, nil)
	equal(t, "fds of an exec", c.exec(spec.Exec{Args: []string{"ls", "/proc/self/fd"}}).out, "0\n1\n2\n3\n")
}

// CVE-2025-31133: /dev/null replaced by a link, so that masking binds something else.
func TestEscapeMaskByLink(t *testing.T) {
	// The image's own /dev/null is a link to a file of procfs; and with a bound /dev, so is the real one.
	c := newContainer(t, "sh", "-c", "cat /proc/keys | wc -c; cat /proc/timer_list | wc -c")
	os.MkdirAll(c.dir+"/lower/dev", 0o755)
	os.Symlink("/proc/sys/kernel/core_pattern", c.dir+"/lower/dev/null")
	out, _ := c.run()
	equal(t, "masked", out, "0\n0\n")

	c = newContainer(t, "sh", "-c", "stat -c '%t:%T' /proc/keys /proc/timer_list; wc -c < /proc/keys")
	host := c.dir + "/dev"
	os.MkdirAll(host+"/pts", 0o755)
	os.Symlink("/proc/sys/kernel/core_pattern", host+"/null")
	c.Init.Mounts = []spec.Mount{c.Init.Mounts[0], {Type: "bind", Source: host, Target: "/dev", Options: []string{"rbind"}}, c.Init.Mounts[3]}
	out, _ = c.run()
	equal(t, "masked by the host's null", out, "1:3\n1:3\n0\n")
}

// The same as a race: another container with the same volume swaps the directories below the mount targets while this one starts.
func TestEscapeSwappedTargets(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(dir+"/real", 0o755)
	os.Symlink("/../../../../../../../../../../"+dir+"/outside", dir+"/evil")
	os.MkdirAll(dir+"/outside", 0o755)
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stop.Load() {
			unix.Renameat2(unix.AT_FDCWD, dir+"/real", unix.AT_FDCWD, dir+"/evil", unix.RENAME_EXCHANGE)
		}
	}()
	defer func() { stop.Store(true); <-done }()
	for range 20 {
		c := newContainer(t, "true")
		c.Init.Mounts = append(c.Init.Mounts,
			spec.Mount{Type: "bind", Source: dir, Target: "/vol", Options: []string{"rbind"}},
			spec.Mount{Type: "tmpfs", Target: "/vol/real/made"},
			spec.Mount{Type: "bind", Source: dir + "/outside", Target: "/vol/real/bound"})
		c.start() // it may fail: what counts is where things were made
		c.cmd.Wait()
		if l, _ := os.ReadDir(dir + "/outside"); len(l) > 0 {
			t.Fatalf("%s was made outside of the container", l[0].Name())
		}
	}
}

// Links in the image at every place that is mounted on, made, or written.
func TestEscapeLinkedTargets(t *testing.T) {
	for _, target := range []string{"/x", "/a/b", "/dev/mqueue", "/etc/hosts", "/proc", "/sys", "/dev", "/dev/pts", "/dev/console", "/home/w"} {
		t.Run(target, func(t *testing.T) {
			outside := t.TempDir()
			os.WriteFile(outside+"/file", []byte("host"), 0o644)
			c := newContainer(t, "sh", "-c", "echo x > "+target+"/escaped; true")
			link := filepath.Join(c.dir, "lower", target)
			os.MkdirAll(filepath.Dir(link), 0o755)
			os.Remove(link)
			up := strings.Repeat("../", 12)
			if err := os.Symlink(up+outside, link); err != nil {
				t.Fatal(err)
			}
			c.Init.Exec.Terminal = target == "/dev/console"
			c.Init.Exec.Cwd = "/home/w"
			c.Init.Mounts = append(c.Init.Mounts,
				spec.Mount{Type: "bind", Source: outside + "/file", Target: "/etc/hosts", Options: []string{"bind", "ro"}},
				spec.Mount{Type: "tmpfs", Target: "/x"}, spec.Mount{Type: "tmpfs", Target: "/a/b/c"})
			c.start()
			c.cmd.Wait()
			var names []string
			entries, _ := os.ReadDir(outside)
			for _, e := range entries {
				names = append(names, e.Name())
			}
			if len(names) != 1 {
				t.Errorf("on the host: %v", names)
			}
			switch target {
			case "/proc", "/sys":
				want := map[string]string{"/proc": "proc", "/sys": "sysfs"}[target]
				if c.failure == nil || !strings.HasSuffix(c.failure.Message, `filesystem "`+want+`" must be mounted on ordinary directory`) {
					t.Errorf("%+v", c.failure)
				}
			default:
				if c.failure != nil {
					t.Errorf("%+v", *c.failure)
				}
			}
		})
	}
}

// CVE-2025-52565: /dev/console bound by paths that could be swapped. With a /dev of the user's, in which it is a link.
func TestEscapeConsole(t *testing.T) {
	outside := t.TempDir() + "/file"
	write(t, outside, "host")
	c := newContainer(t, "true")
	host := c.dir + "/dev"
	os.MkdirAll(host+"/pts", 0o755)
	os.Symlink(outside, host+"/console")
	c.Init.Mounts = []spec.Mount{
		c.Init.Mounts[0], {Type: "bind", Source: host, Target: "/dev", Options: []string{"rbind"}}, c.Init.Mounts[2],
	}
	c.Init.Exec.Terminal = true
	equal(t, "failure", c.fails().Message, "mount /dev/console: /dev/console is a symbolic link")

	// A /dev/pts that is not devpts must not be believed.
	c = newContainer(t, "true")
	c.Init.Exec.Terminal = true
	c.Init.Mounts[2] = spec.Mount{Type: "tmpfs", Target: "/dev/pts"}
	c.Init.Devices = append(c.Init.Devices, spec.Device{Path: "/dev/pts/ptmx", Host: "/dev/ptmx", Type: 'c', Major: 5, Minor: 2, Mode: 0o666})
	equal(t, "failure", c.fails().Message, "open /dev/pts/ptmx: no such file or directory") // the kernel looks for devpts itself
	c.Init.Devices[len(c.Init.Devices)-1] = spec.Device{Path: "/dev/pts/ptmx", Host: "/dev/zero", Type: 'c', Major: 1, Minor: 5, Mode: 0o666}
	equal(t, "failure", c.fails().Message, "/dev/pts/ptmx is not the pty multiplexer")
}

// CVE-2025-52881: writes to /proc redirected to other files of procfs or to nowhere. A volume on /proc or
// inside it, and links there, must not change what sysctls and attributes are written to.
func TestEscapeRedirectedProc(t *testing.T) {
	vol := t.TempDir()
	os.MkdirAll(vol+"/sys/net/ipv4", 0o755)
	os.Symlink("/proc/sysrq-trigger", vol+"/sys/net/ipv4/ip_unprivileged_port_start")
	for _, target := range []string{"/proc", "/proc/sys", "/proc/self", "/proc/1", "/proc/sys/net", "/proc/keys", "/proc/../proc/sys"} {
		c := newContainer(t, "true")
		c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: vol, Target: target, Options: []string{"rbind"}})
		c.Init.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "1"}
		f := c.fails()
		if !strings.Contains(f.Message, "cannot be mounted because it is") {
			t.Errorf("%s: %s", target, f.Message)
		}
	}
	// A link to /proc as the target does not help either.
	c := newContainer(t, "true")
	os.Symlink("/proc", c.dir+"/lower/alias")
	c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: vol, Target: "/alias/sys", Options: []string{"rbind"}})
	if f := c.fails(); !strings.Contains(f.Message, "cannot be mounted because it is inside /proc") {
		t.Errorf("by a link: %s", f.Message)
	}
	// Files that lxcfs provides are allowed.
	c = newContainer(t, "cat", "/proc/uptime")
	write(t, vol+"/uptime", "1 2\n")
	c.Init.Mounts = append(c.Init.Mounts, spec.Mount{Type: "bind", Source: vol + "/uptime", Target: "/proc/uptime", Options: []string{"bind"}})
	out, _ := c.run()
	equal(t, "uptime", out, "1 2\n")
}

// The user database is the container's, and hostile: a FIFO or a device must not hold init up, nor a link lead out.
func TestEscapeUserDatabase(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"fifo":   func(p string) error { return unix.Mkfifo(p, 0o644) },
		"device": func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"dir":    func(p string) error { return os.Mkdir(p, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "true")
			p := c.dir + "/lower/etc/passwd"
			os.Remove(p)
			if err := make(p); err != nil {
				t.Fatal(err)
			}
			c.Init.Exec.User = "alice"
			if f := c.fails(); f.Stage != "user" {
				t.Errorf("%+v", f)
			}
		})
	}
	secret := t.TempDir() + "/passwd"
	write(t, secret, "mallory:x:0:0::/:\n")
	c := newContainer(t, "true")
	os.Remove(c.dir + "/lower/etc/passwd")
	os.Symlink(secret, c.dir+"/lower/etc/passwd")
	c.Init.Exec.User = "mallory"
	equal(t, "link", c.fails().Message, "unable to find user mallory: no matching entries in passwd file")
}

// The stream that nobody uses is the container's null device: by the host's its root could change the mode of the
// host's own /dev/null.
func TestEscapeNull(t *testing.T) {
	const same = `test $(stat -L -c %d:%i /proc/self/fd/0) = $(stat -c %d:%i /dev/null) && echo own`
	equal(t, "stdin", sh(t, same, nil), "own\n")
	for _, kind := range []string{"plain", "userns"} {
		c := sleeper(t, func(c *container) {
			if kind == "userns" {
				c.userns()
			}
		})
		equal(t, "stdin of an exec, "+kind, c.exec(spec.Exec{Args: []string{"sh", "-c", same}}).out, "own\n")
		if kind == "userns" {
			continue // a mount: it cannot be removed
		}
		for _, remove := range []string{"rm /dev/null", "ln -s /proc/1/fd/0 /dev/null"} {
			c.exec(spec.Exec{Args: []string{"busybox", "sh", "-c", remove}})
			out := c.exec(spec.Exec{Args: []string{"sh", "-c", "cat; stat -L -c %F /proc/self/fd/0"}}).out
			equal(t, "stdin of an exec without /dev/null after "+remove, out, "fifo\n")
		}
	}
}
