package supervisor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

func TestExitCodes(t *testing.T) {
	h := newHouse(t)
	for _, c := range []struct {
		id, script string
		code       int
	}{
		{"zero", "exit 0", 0},
		{"seven", "exit 7", 7},
		{"term", "kill -TERM $$", 143},
		{"kill", "kill -KILL $$", 137},
	} {
		h.mustLaunch(c.id, options{}, "/bin/sh", "-c", c.script)
		if e := h.wait(c.id); e.Code != c.code || e.Unknown {
			t.Errorf("%s: %+v, want code %d", c.script, e, c.code)
		}
	}
}

func TestOutputReachesLogAndReader(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("a", options{paused: true}, "/bin/sh", "-c", "echo out; echo err >&2; printf end")
	a := h.mustAttach("a")
	if err := h.Resume(context.Background(), "a"); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if err := a.Copy(&stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	h.wait("a")
	if stdout.String() != "out\nend" || stderr.String() != "err\n" {
		t.Errorf("attached: %q and %q", &stdout, &stderr)
	}
	if got := h.logged("a", "stdout"); got != "out\nend" {
		t.Errorf("logged stdout: %q", got)
	}
	if got := h.logged("a", "stderr"); got != "err\n" {
		t.Errorf("logged stderr: %q", got)
	}
}

func TestStdinEndOfFile(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("cat", options{stdin: true, paused: true}, "/bin/cat")
	a := h.mustAttach("cat")
	in, err := h.Stdin("cat")
	if err != nil {
		t.Fatal(err)
	}
	h.Resume(context.Background(), "cat")
	if _, err := io.WriteString(in, "hi\n"); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := h.CloseStdin(context.Background(), "cat"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := a.Copy(&out, &out); err != nil || out.String() != "hi\n" {
		t.Errorf("cat said %q, %v", &out, err)
	}
	if e := h.wait("cat"); e.Code != 0 {
		t.Errorf("%+v", e)
	}
}

func TestTerminal(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("tty", options{stdin: true, terminal: true, paused: true}, "/bin/sh", "-c", "stty size; read x; stty size; echo got $x")
	a := h.mustAttach("tty")
	h.Resume(context.Background(), "tty")
	// The terminal passes a line and its end on one after the other: they may come apart.
	var size []byte
	for !bytes.HasSuffix(size, []byte("\n")) {
		f, err := a.Next()
		if err != nil {
			t.Fatalf("%q, %v", size, err)
		}
		size = append(size, f.Data...)
	}
	if string(size) != "24 80\r\n" {
		t.Fatalf("%q", size)
	}
	if err := h.Resize("tty", 40, 100); err != nil {
		t.Fatal(err)
	}
	in, err := h.Stdin("tty")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	io.WriteString(in, "yes\n")
	var out bytes.Buffer
	if err := a.Copy(&out, &out); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "yes\r\n40 100\r\ngot yes\r\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	h.wait("tty")
	if got := h.logged("tty", "stdout"); got != "24 80\r\n"+out.String() {
		t.Errorf("logged %q", got)
	}
}

func TestFailures(t *testing.T) {
	h := newHouse(t)
	var le *supervisor.LaunchError
	if _, err := h.launch("a", options{}, "/no/such"); !errors.As(err, &le) || le.Code != 127 {
		t.Errorf("missing program: %v", err)
	}
	if _, err := h.launch("a", options{}, "/die"); !errors.As(err, &le) || le.Stage != "init" {
		t.Errorf("dying init: %v", err)
	}
	h.mustLaunch("a", options{}, "/bin/sleep", "1000")
	if _, err := h.launch("a", options{}, "/bin/true"); !errs.Conflict.Is(err) {
		t.Errorf("the same ID twice: %v", err)
	}
	if err := h.Signal("b", unix.SIGTERM); !errs.NotFound.Is(err) {
		t.Errorf("signal to nobody: %v", err)
	}
	if err := h.Forget(context.Background(), "a"); !errs.Conflict.Is(err) {
		t.Errorf("forget a running one: %v", err)
	}
	if err := h.Signal("a", unix.SIGTERM); err != nil {
		t.Error(err)
	}
	if e := h.wait("a"); e.Code != 143 {
		t.Errorf("%+v", e)
	}
	if err := h.Signal("a", unix.SIGTERM); !errs.Conflict.Is(err) {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestExec(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("c", options{}, "/bin/sleep", "1000")
	h.mustLaunch("e", options{in: "c"}, "/bin/sh", "-c", "echo from exec; exit 3")
	if e := h.wait("e"); e.Code != 3 {
		t.Errorf("%+v", e)
	}
	if got := h.logged("e", "stdout"); got != "from exec\n" {
		t.Errorf("logged %q", got)
	}
}

// Nothing but stdio is inherited.
func TestNoOtherFds(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("other", options{stdin: true}, "/bin/sleep", "1000")
	h.mustLaunch("ls", options{}, "/bin/ls", "/proc/self/fd")
	h.wait("ls")
	if got := h.logged("ls", "stdout"); got != "0\n1\n2\n3\n" { // 3 is ls's own
		t.Errorf("fds:\n%s", got)
	}
}

func TestLongLinesAndRotation(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("long", options{}, "/bin/sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short")
	h.wait("long")
	if got := h.logged("long", "stdout"); got != strings.Repeat("x", 40000)+"\nshort\n" {
		t.Errorf("%d bytes", len(got))
	}
	raw, _ := os.ReadFile(h.logPath("long"))
	if n := bytes.Count(raw, []byte("\n")); n != 4 { // 16384 + 16384 + 7232, and the short one
		t.Errorf("%d records, want 4", n)
	}
	h.mustLaunch("rot", options{maxSize: 4096, maxFiles: 3}, "/bin/sh", "-c", "seq 1 200")
	h.wait("rot")
	got := h.logged("rot", "stdout")
	if !strings.HasSuffix(got, "\n199\n200\n") {
		t.Errorf("rotated log ends %q", got[max(0, len(got)-20):])
	}
	for i, name := range []string{"", ".1", ".2"} {
		st, err := os.Stat(h.logPath("rot") + name)
		if err != nil {
			t.Fatal(err)
		}
		if st.Size() > 4096+200 || i > 0 && st.Size() < 4096 {
			t.Errorf("file %q has %d bytes", name, st.Size())
		}
	}
	if _, err := os.Stat(h.logPath("rot") + ".3"); err == nil {
		t.Error("a fourth file")
	}
}

func TestUserNamespace(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("user", options{clone: unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS}, "/bin/sh", "-c", "echo $$; id -u; cat /proc/self/uid_map; umask")
	h.wait("user")
	if got, want := strings.Fields(h.logged("user", "stdout")), "1 0 0 0 1 1 100001 1000 0022"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// SIGTERM waits until nothing runs.
func TestTerminationWaits(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("cat", options{stdin: true}, "/bin/cat")
	pid := h.pid()
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	in, err := h.Stdin("cat")
	if err != nil {
		t.Fatal(err)
	}
	a := h.mustAttach("cat")
	io.WriteString(in, "alive\n")
	if f, err := a.Next(); err != nil || string(f.Data) != "alive\n" {
		t.Fatalf("%q, %v", f.Data, err)
	}
	in.Close()
	if h.pid() != pid {
		t.Error("another supervisor")
	}
	h.CloseStdin(context.Background(), "cat")
	h.wait("cat")
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, 60000); err != unix.EINTR {
			break
		}
	}
	if poll[0].Revents == 0 {
		t.Error("it does not end")
	}
}

// A container that may trace processes can speak by the status socket of an exec's child. What it names must not become
// the exec's process, to be killed with it.
func TestForgedPid(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("c", options{}, "/bin/sleep", "1000")
	other := h.mustLaunch("other", options{}, "/bin/sleep", "1000")
	bystander := exec.Command("/bin/sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { bystander.Process.Kill(); bystander.Wait() }()
	for i, victim := range []int{bystander.Process.Pid, other.Pid, os.Getpid()} {
		id := "exec" + strconv.Itoa(i)
		p := h.mustLaunch(id, options{in: "c"}, "/forge", strconv.Itoa(victim), "/bin/sh", "-c", "exit 5")
		if p.Pid == victim {
			t.Fatalf("process %d was taken for the exec's", victim)
		}
		if e := h.wait(id); e.Code != 5 || e.Pid != p.Pid || e.StartTime != p.StartTime {
			t.Errorf("%+v, want code 5 of %+v", e, p)
		}
	}
}

// An init that hangs is ended, and holds up neither an upgrade nor another launch of its ID.
func TestLaunchTimeout(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("c", options{}, "/bin/sleep", "1000")
	for _, in := range []string{"", "c"} {
		_, err := h.launch("hung", options{in: in, timeout: 50 * time.Millisecond}, "/hang")
		var failure *supervisor.LaunchError
		if !errors.As(err, &failure) || !strings.Contains(failure.Message, "was not started within 50ms") {
			t.Fatalf("a hung launch: %v", err)
		}
	}
	h.mustLaunch("hung", options{in: "c"}, "/bin/sh", "-c", "exit 3")
	if e := h.wait("hung"); e.Code != 3 {
		t.Errorf("%+v", e)
	}
}

// Init waits while its payload is made; if it cannot be made, nothing is left of the launch, and the ID is free.
func TestALaunchThatIsGivenUp(t *testing.T) {
	h := newHouse(t)
	l := &spec.Launch{ID: "given-up", Log: spec.Log{Driver: "none"}}
	sorry := errors.New("no root file system")
	_, err := h.Launch(context.Background(), l, supervisor.Payload(func() (any, error) {
		for end := time.Now().Add(30 * time.Second); len(h.waiting()) == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Error("init is not started before it is told what for")
				break
			}
		}
		return nil, sorry
	}), false)
	if !errors.Is(err, sorry) {
		t.Fatalf("the launch says: %v", err)
	}
	if pids := h.waiting(); len(pids) != 0 {
		t.Errorf("left behind: %v", pids)
	}
	h.mustLaunch("given-up", options{}, "/bin/true")
	h.wait("given-up")
}

// waiting lists the supervisor's children that have not become programs of their own.
func (h *house) waiting() (pids []string) {
	h.t.Helper()
	hello, err := h.Hello(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range all {
		stat, _ := os.ReadFile(f)
		_, rest, _ := strings.Cut(string(stat), ") ")
		cmd, _ := os.ReadFile(filepath.Dir(f) + "/cmdline")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(hello.Pid) && strings.HasPrefix(string(cmd), "gantry-init\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
