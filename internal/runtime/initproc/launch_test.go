package initproc_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// needRoot skips on a laptop and fails in CI.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

var build struct {
	sync.Once
	program *os.File // sealed memfd
	rootfs  string
	err     error
}

// program builds cmd/init once and returns it as the supervisor runs it: a sealed memfd.
func program(t testing.TB) *os.File {
	t.Helper()
	needRoot(t)
	build.Do(func() {
		dir, err := os.MkdirTemp("", "gantry-init")
		if err != nil {
			build.err = err
			return
		}
		defer os.RemoveAll(dir)
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/init", "gantry/cmd/init")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w: %s", err, out)
			return
		}
		b, err := os.ReadFile(dir + "/init")
		if err == nil {
			build.program, err = sealed("gantry-init", b)
		}
		build.err = err
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.program
}

func sealed(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(b); err != nil {
		return nil, err
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	return f, err
}

// container is one that a test starts: a busybox root file system under an overlay.
type container struct {
	t     testing.TB
	dir   string
	Init  spec.Init
	Stdin io.Reader
	// Tell, if set, gives init its payload by a socket.
	Tell func(sock int, payload *os.File)

	pid     int
	out     buffer
	pty     *os.File
	failure *spec.Failure
	cmd     *exec.Cmd
	copied  sync.WaitGroup
}

// buffer is a bytes.Buffer that is written while it is read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (c *container) output() string { return c.out.String() }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func ignore(s ...os.Signal)  { signal.Ignore(s...) }
func restore(s ...os.Signal) { signal.Reset(s...) }

const busybox = "/bin/busybox"

// newContainer prepares a container that runs args with the mounts and devices every container has.
func newContainer(t testing.TB, args ...string) *container {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat(busybox); err != nil {
		t.Fatal("the tests need busybox-static: ", err)
	}
	dir := t.TempDir()
	for _, d := range []string{"lower/bin", "lower/etc", "lower/tmp", "lower/root", "lower/proc", "lower/sys", "lower/dev", "upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, busybox, dir+"/lower/bin/busybox")
	for _, applet := range []string{"sh", "cat", "ls", "id", "echo", "env", "pwd", "mount", "stat", "touch", "sleep", "readlink", "hostname", "grep", "true", "kill", "test", "mkdir", "ln", "tty", "head", "ps", "umask", "dd", "wc"} {
		os.Symlink("busybox", dir+"/lower/bin/"+applet)
	}
	write(t, dir+"/lower/etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n")
	write(t, dir+"/lower/etc/group", "root:x:0:\ndaemon:x:1:\nwheel:x:10:root,alice\nalice:x:1001:\nvideo:x:44:\n")
	// Users of the container's may go everywhere, whatever the umask is here.
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o755)
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &container{t: t, dir: dir}
	c.Init = spec.Init{
		Root:  spec.Root{Base: dir, Lower: []string{"lower"}, Upper: "upper", Work: "work", Target: dir + "/root"},
		Clone: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
		Mounts: []spec.Mount{
			{Type: "proc", Target: "/proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Target: "/dev", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Type: "devpts", Target: "/dev/pts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Type: "sysfs", Target: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Type: "mqueue", Target: "/dev/mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
			{Type: "tmpfs", Source: "shm", Target: "/dev/shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		},
		Masked:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware", "/proc/nosuch"},
		ReadOnly: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		Exec: spec.Exec{
			Args: args,
			Env:  []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Cwd:  "/",
			Caps: spec.Caps{Bounding: defaultCaps, Permitted: defaultCaps, Effective: defaultCaps},
		},
	}
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		c.Init.Devices = append(c.Init.Devices, spec.Device{Path: "/dev/" + d.name, Host: "/dev/" + d.name, Type: 'c', Major: d.major, Minor: d.minor, Mode: 0o666})
	}
	return c
}

const defaultCaps = 0xa80425fb // Docker's 14

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(to, b, 0o755), os.Chmod(to, 0o755)); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), 0o644), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// start does what the supervisor does: forks init with its five fds and reads the status socket to its end.
func (c *container) start() {
	c.t.Helper()
	payload, err := json.Marshal(&c.Init)
	if err != nil {
		c.t.Fatal(err)
	}
	c.fork(spec.ModeInit, payload, c.Init.Clone, nil)
	c.t.Cleanup(func() { c.cmd.Process.Kill(); c.cmd.Wait() })
}

func (c *container) fork(mode string, payload []byte, flags uintptr, target *os.File) {
	t := c.t
	t.Helper()
	prog := program(t)
	mem, err := sealed("payload", payload)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "status"), os.NewFile(uintptr(pair[1]), "status")
	defer ours.Close()
	source, sock := mem, -1
	if c.Tell != nil {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		sock, source = pair[0], os.NewFile(uintptr(pair[1]), "socket")
		defer source.Close()
	}
	cmd := &exec.Cmd{
		Path:       fmt.Sprintf("/proc/self/fd/%d", prog.Fd()),
		Args:       []string{"gantry-init", mode},
		Env:        []string{},
		ExtraFiles: []*os.File{source, theirs},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: flags,
		},
	}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		cmd.SysProcAttr.GidMappings = cmd.SysProcAttr.UidMappings
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: 0}
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
	}
	if target != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, target)
	}
	cmd.Stdin = c.Stdin
	if !strings.Contains(string(payload), `"terminal":true`) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = w, w
		defer w.Close()
		c.copied.Add(1)
		go func() { io.Copy(&c.out, r); r.Close(); c.copied.Done() }()
	}
	c.cmd = cmd
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	c.pid = cmd.Process.Pid
	if c.Tell != nil {
		c.Tell(sock, mem)
		unix.Close(sock)
	}
	executed := false
	for {
		buf, oob := make([]byte, spec.StatusMax), make([]byte, 64)
		n, oobn, _, _, err := unix.Recvmsg(int(ours.Fd()), buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		switch msg := string(buf[:n]); {
		case msg == spec.StatusExec:
			executed = true
		case msg == spec.StatusPty:
			m, err := unix.ParseSocketControlMessage(oob[:oobn])
			if err != nil {
				t.Fatal(err)
			}
			fds, err := unix.ParseUnixRights(&m[0])
			if err != nil {
				t.Fatal(err)
			}
			c.pty = os.NewFile(uintptr(fds[0]), "pty")
			unix.IoctlSetWinsize(fds[0], unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77})
			unix.Write(int(ours.Fd()), []byte(spec.StatusOK))
			c.copied.Add(1)
			go func() { io.Copy(&c.out, c.pty); c.copied.Done() }()
		case strings.HasPrefix(msg, spec.StatusPID):
			if c.pid, err = strconv.Atoi(msg[len(spec.StatusPID):]); err != nil {
				t.Fatal(err)
			}
		default:
			c.failure = new(spec.Failure)
			if err := json.Unmarshal(buf[:n], c.failure); err != nil {
				t.Fatalf("%v in %q", err, msg)
			}
		}
	}
	if !executed && c.failure == nil {
		c.failure = &spec.Failure{Stage: "init", Message: "init died"}
	}
}

// run starts it and returns its output and exit code; a failure to start is the test's.
func (c *container) run() (string, int) {
	c.t.Helper()
	c.start()
	if c.failure != nil {
		c.t.Fatalf("failed to start: %+v", *c.failure)
	}
	err := c.cmd.Wait()
	c.copied.Wait()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		c.t.Fatal(err)
	}
	ws := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return c.out.String(), 128 + int(ws.Signal())
	}
	return c.out.String(), ws.ExitStatus()
}

// fails starts it and returns the failure that it must have.
func (c *container) fails() spec.Failure {
	c.t.Helper()
	c.start()
	if c.failure == nil {
		c.t.Fatal("it started, but was to fail")
	}
	return *c.failure
}

// sh returns the output of a shell script run in a default container, changed by change.
func sh(t *testing.T, script string, change func(*container)) string {
	t.Helper()
	c := newContainer(t, "sh", "-c", script)
	if change != nil {
		change(c)
	}
	out, code := c.run()
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	return out
}

// execed is a process that joined a container.
type execed struct {
	out     string
	code    int
	failure *spec.Failure
}

// exec does what the supervisor does for an exec (mode exec) or a container in another's PID namespace (join),
// and waits for the end.
func (c *container) exec(e spec.Exec) execed {
	c.t.Helper()
	if e.Env == nil {
		e.Env = c.Init.Exec.Env
	}
	if e.Caps == (spec.Caps{}) {
		e.Caps = c.Init.Exec.Caps
	}
	payload, err := json.Marshal(&e)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.enter(spec.ModeExec, payload)
}

func (c *container) enter(mode string, payload []byte) execed {
	t := c.t
	t.Helper()
	fd, err := unix.PidfdOpen(c.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	target := os.NewFile(uintptr(fd), "pidfd")
	defer target.Close()
	x := &container{t: t, Stdin: c.Stdin}
	x.fork(mode, payload, 0, target)
	x.cmd.Wait()
	r := execed{failure: x.failure}
	if x.pid != x.cmd.Process.Pid {
		var ws unix.WaitStatus
		for {
			if _, err = unix.Wait4(x.pid, &ws, 0, nil); err != unix.EINTR {
				break
			}
		}
		if err != nil {
			t.Fatalf("wait for %d: %v", x.pid, err)
		}
		if r.code = ws.ExitStatus(); ws.Signaled() {
			r.code = 128 + int(ws.Signal())
		}
	} else if x.failure == nil {
		t.Fatal("no pid was reported")
	}
	x.copied.Wait()
	r.out = x.out.String()
	return r
}

// startTime is field 22 of /proc/pid/stat.
func startTime(t testing.TB, pid int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	n, err := strconv.ParseUint(f[22-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// sleeper starts a container that does nothing until the test ends.
func sleeper(t testing.TB, change func(*container)) *container {
	t.Helper()
	c := newContainer(t, "sleep", "1000")
	if change != nil {
		change(c)
	}
	c.start()
	if c.failure != nil {
		t.Fatalf("failed to start: %+v", *c.failure)
	}
	return c
}
