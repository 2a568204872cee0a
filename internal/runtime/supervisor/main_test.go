package supervisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/memfd"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// The test binary is also the init of these tests: one that keeps the handshake of package spec, and nothing else.
func TestMain(m *testing.M) {
	if os.Args[0] == "gantry-init" {
		fakeInit(os.Args[1])
	}
	if len(os.Args) > 1 && os.Args[1] == "writer" {
		writer(os.Args[2:])
	}
	dir, err := os.MkdirTemp("", "gantry-supervisor-test-")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "supervisor")
	build := exec.Command("go", "build", "-o", program, "gantry/cmd/supervisor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the supervisor: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// program is the supervisor, built by TestMain.
var program string

func fakeInit(mode string) {
	say := func(msg string, rights ...int) {
		var oob []byte
		if len(rights) > 0 {
			oob = unix.UnixRights(rights...)
		}
		if err := unix.Sendmsg(spec.FdStatus, []byte(msg), oob, nil, unix.MSG_NOSIGNAL); err != nil {
			os.Exit(99)
		}
	}
	fail := func(stage string, code int, err error) {
		b, _ := json.Marshal(spec.Failure{Stage: stage, Code: code, Message: err.Error()})
		say(string(b))
		os.Exit(98)
	}
	unix.CloseOnExec(spec.FdStatus)
	unix.CloseOnExec(spec.FdPayload)
	var e spec.Exec
	if _, err := unix.GetsockoptInt(spec.FdPayload, unix.SOL_SOCKET, unix.SO_TYPE); err == nil {
		oob := make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(spec.FdPayload, make([]byte, spec.TasksMax), oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil || n == 0 {
			fail("payload", 125, fmt.Errorf("none: %v", err))
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		fds, _ := unix.ParseUnixRights(&msgs[0])
		unix.Dup3(fds[0], spec.FdPayload, unix.O_CLOEXEC)
	}
	payload := os.NewFile(spec.FdPayload, "payload")
	if mode == spec.ModeExec {
		if err := json.NewDecoder(payload).Decode(&e); err != nil {
			fail("payload", 125, err)
		}
	} else {
		var i spec.Init
		if err := json.NewDecoder(payload).Decode(&i); err != nil {
			fail("payload", 125, err)
		}
		e = i.Exec
	}
	if e.Terminal {
		master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != nil {
			fail("pty", 125, err)
		}
		unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0)
		n, _ := unix.IoctlGetInt(master, unix.TIOCGPTN)
		slave, err := unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			fail("pty", 125, err)
		}
		say(spec.StatusPty, master)
		unix.Close(master)
		var ok [16]byte
		if n, err := unix.Read(spec.FdStatus, ok[:]); err != nil || string(ok[:n]) != spec.StatusOK {
			fail("pty", 125, fmt.Errorf("no ok: %v", err))
		}
		unix.Setsid()
		for fd := range 3 {
			unix.Dup3(slave, fd, 0)
		}
		unix.IoctlSetInt(0, unix.TIOCSCTTY, 0)
	}
	path := e.Args[0]
	if path == "/die" {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	if path == "/hang" {
		unix.Pause() // where nothing else goes on, the runtime takes select{} for a deadlock
	}
	if path == "/forge" { // names a process of somebody else's before its own, as a container that traces the child could
		say(spec.StatusPID + e.Args[1])
		path, e.Args = e.Args[2], e.Args[2:]
	}
	say(spec.StatusExec)
	if mode == spec.ModeInit {
		fail("exec", 127, syscall.Exec(path, e.Args, e.Env))
	}
	pid, err := syscall.ForkExec(path, e.Args, &syscall.ProcAttr{Env: e.Env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT}})
	if err != nil {
		fail("exec", 127, err)
	}
	say(fmt.Sprintf("%s%d", spec.StatusPID, pid))
	os.Exit(0)
}

// house is an exec-root with a keeper.
type house struct {
	t    testing.TB
	root string
	opts supervisor.Options
	*supervisor.Keeper

	mu      sync.Mutex
	exits   map[string]supervisor.Exit
	changed *sync.Cond
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
}

func newHouse(t testing.TB) *house {
	needRoot(t)
	root := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string) func() (*os.File, error) {
		return func() (*os.File, error) {
			b, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			return memfd.New("test", b, true)
		}
	}
	level := slog.LevelError
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	h := &house{t: t, root: root, opts: supervisor.Options{ExecRoot: root, Program: open(program), Init: open(self), Build: "one",
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}}
	h.keep()
	t.Cleanup(h.tearDown)
	return h
}

// keep makes a keeper, as an engine that starts does.
func (h *house) keep() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	k, err := supervisor.Keep(ctx, h.opts)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Keeper = k
	h.exits = make(map[string]supervisor.Exit)
	h.changed = sync.NewCond(&h.mu)
	go func() {
		for e := range k.Exits() {
			h.mu.Lock()
			h.exits[e.ID] = e
			h.changed.Broadcast()
			h.mu.Unlock()
		}
	}()
}

func (h *house) tearDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for _, p := range h.Processes() {
		if p.Exit == nil {
			h.Signal(p.ID, unix.SIGKILL)
			h.wait(p.ID)
		}
		if err := h.Forget(ctx, p.ID); err != nil {
			h.t.Errorf("forget %s: %v", p.ID, err)
		}
	}
	if err := h.Quit(ctx); err != nil {
		h.t.Errorf("quit: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(h.root, "supervisor.log")); len(b) > 0 {
		h.t.Errorf("the supervisor complained:\n%s", b)
	}
}

// wait waits for the exit of a process.
func (h *house) wait(id string) supervisor.Exit {
	h.t.Helper()
	timer := time.AfterFunc(60*time.Second, func() { h.mu.Lock(); h.changed.Broadcast(); h.mu.Unlock() })
	defer timer.Stop()
	end := time.Now().Add(60 * time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		if e, ok := h.exits[id]; ok {
			return e
		}
		if time.Now().After(end) {
			h.t.Fatalf("process %s does not end", id)
		}
		h.changed.Wait()
	}
}

type options struct {
	terminal, stdin, paused, none bool
	maxSize                       int64
	maxFiles                      int
	clone                         uintptr
	in                            string // container, for an exec
	timeout                       time.Duration
}

func (h *house) logPath(id string) string { return filepath.Join(h.root, id+"-json.log") }

func (h *house) launch(id string, o options, args ...string) (*supervisor.Process, error) {
	l := &spec.Launch{ID: id, Clone: o.clone, Stdio: spec.Stdio{Terminal: o.terminal, OpenStdin: o.stdin, Height: 24, Width: 80},
		Log: spec.Log{Driver: "json-file", Path: h.logPath(id), MaxSize: o.maxSize, MaxFiles: o.maxFiles}}
	if o.none {
		l.Log = spec.Log{Driver: "none"}
	}
	if o.clone&unix.CLONE_NEWUSER != 0 {
		l.UIDMaps = []spec.IDMap{{Container: 0, Host: 0, Size: 1}, {Container: 1, Host: 100001, Size: 1000}}
		l.GIDMaps = l.UIDMaps
	}
	l.Timeout = int64(o.timeout)
	e := spec.Exec{Args: args, Env: []string{"PATH=/usr/bin:/bin"}, Terminal: o.terminal}
	var payload any = spec.Init{Exec: e}
	if o.in != "" {
		p, _ := h.Process(o.in)
		l.Container, l.Pid, l.StartTime = o.in, p.Pid, p.StartTime
		payload = e
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return h.Launch(ctx, l, payload, o.paused)
}

func (h *house) mustLaunch(id string, o options, args ...string) *supervisor.Process {
	h.t.Helper()
	p, err := h.launch(id, o, args...)
	if err != nil {
		h.t.Fatalf("launch %v: %v", args, err)
	}
	return p
}

func (h *house) mustAttach(id string) *supervisor.Attachment {
	h.t.Helper()
	a, err := h.Attach(context.Background(), id, true, true)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(a.Close)
	return a
}

// logged returns what the log says that a stream was, over all rotated files.
func (h *house) logged(id, stream string) string {
	h.t.Helper()
	var b strings.Builder
	files := []string{h.logPath(id)}
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s.%d", h.logPath(id), i)
		if _, err := os.Stat(name); err != nil {
			break
		}
		files = append([]string{name}, files...)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, line := range bytes.SplitAfter(raw, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			var rec struct{ Log, Stream, Time string }
			if err := json.Unmarshal(line, &rec); err != nil {
				h.t.Fatalf("%s: %v in %q", name, err, line)
			}
			if rec.Stream == stream {
				b.WriteString(rec.Log)
			}
		}
	}
	return b.String()
}
