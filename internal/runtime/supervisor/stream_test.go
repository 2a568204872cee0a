package supervisor_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/memfd"
	"gantry/internal/runtime/supervisor"
)

// size of what goes through: 1 GB, with -short less.
func size() int64 {
	if testing.Short() {
		return 64 << 20
	}
	return 1 << 30
}

// A gigabyte goes in by stdin and comes out by stdout unharmed.
func TestGigabyte(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("cat", options{stdin: true, none: true, paused: true}, "/bin/cat")
	a := h.mustAttach("cat")
	h.Resume(context.Background(), "cat")
	in, err := h.Stdin("cat")
	if err != nil {
		t.Fatal(err)
	}
	sent := sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(in, sent), io.LimitReader(rand.New(rand.NewSource(1)), size()))
		in.Close()
		if err == nil {
			err = h.CloseStdin(context.Background(), "cat")
		}
		done <- err
	}()
	got := sha256.New()
	if err := a.Copy(got, io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Error("it was harmed")
	}
}

// A reader that does not read stops the process, and only it; once it reads, or goes away, all goes on.
func TestSlowReader(t *testing.T) {
	h := newHouse(t)
	for _, id := range []string{"reads", "leaves"} {
		h.mustLaunch(id, options{paused: true}, "/bin/sh", "-c", "seq 1 300000; echo end >&2")
		slow, quick := h.mustAttach(id), h.mustAttach(id)
		h.Resume(context.Background(), id)
		lines := make(chan string, 1)
		go func() {
			var out, errs bytes.Buffer
			quick.Copy(&out, &errs)
			lines <- out.String() + errs.String()
		}()
		h.mustLaunch("other-"+id, options{}, "/bin/echo", "not held up")
		h.wait("other-" + id)
		select {
		case <-lines:
			t.Fatal("the process was not held up")
		default:
		}
		var want strings.Builder
		for i := 1; i <= 300000; i++ {
			fmt.Fprintln(&want, i)
		}
		if id == "reads" {
			var out, errs bytes.Buffer
			if err := slow.Copy(&out, &errs); err != nil || out.String() != want.String() || errs.String() != "end\n" {
				t.Errorf("%v, %s", err, diff(out.String(), want.String()))
			}
		} else {
			slow.Close()
		}
		if got, want := <-lines, want.String()+"end\n"; got != want {
			t.Errorf("the quick one: %s", diff(got, want))
		}
		if e := h.wait(id); e.Code != 0 {
			t.Errorf("%+v", e)
		}
		if got := h.logged(id, "stdout"); got != want.String() {
			t.Errorf("log: %s", diff(got, want.String()))
		}
	}
}

// A process that inherited the stream keeps it open after the end of the first; Forget ends it for the readers.
func TestForgetEndsReaders(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("parent", options{stdin: true, paused: true}, "/bin/sh", "-c", "read x; /bin/cat <&0 & echo first; exit 4")
	a := h.mustAttach("parent")
	h.Resume(context.Background(), "parent")
	in, err := h.Stdin("parent") // keeps cat alive
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "go\n")
	if e := h.wait("parent"); e.Code != 4 {
		t.Errorf("%+v", e)
	}
	if err := h.Forget(context.Background(), "parent"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := a.Copy(&out, &out); err != nil || out.String() != "first\n" {
		t.Errorf("%q, %v", &out, err)
	}
	in.Close()
}

// The supervisor stays small, whatever it holds.
func TestMemory(t *testing.T) {
	h := newHouse(t)
	before := pss(t, h.pid())
	const n = 200
	for i := range n {
		h.mustLaunch(fmt.Sprintf("idle%03d", i), options{stdin: true, clone: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, "/bin/sh", "-c", "echo up; exec sleep 1000")
	}
	after := pss(t, h.pid())
	t.Logf("PSS: %d kB without processes, %d kB with %d", before, after, n)
	if after > 10<<10 {
		t.Errorf("PSS %d kB with %d processes, more than 10 MB", after, n)
	}
}

// What the protocol costs, and a launch: the difference between it and a plain fork of the same init is the supervisor's.
func BenchmarkHello(b *testing.B) {
	h := newHouse(b)
	c, err := supervisor.Dial(h.root)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for b.Loop() {
		if _, err := c.Hello(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLaunch(b *testing.B) {
	h := newHouse(b)
	before := cpu(b, h.pid())
	defer func() { b.ReportMetric(float64(cpu(b, h.pid())-before)/1000/float64(b.N), "supervisor-cpu-µs/op") }()
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprintf("b%d", i)
		h.mustLaunch(id, options{stdin: true}, "/bin/true")
		b.StopTimer()
		h.wait(id)
		h.Forget(context.Background(), id)
		b.StartTimer()
	}
}

// cpu is the time that a process's threads have run, in ns.
func cpu(b *testing.B, pid int) (ns int64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range files {
		var n int64
		raw, _ := os.ReadFile(name)
		fmt.Sscan(string(raw), &n)
		ns += n
	}
	return ns
}

func BenchmarkForkOnly(b *testing.B) {
	self, _ := os.Executable()
	for b.Loop() {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		f, err := memfd.New("payload", []byte(`{"exec":{"args":["/bin/true"]}}`), false)
		if err != nil {
			b.Fatal(err)
		}
		pid, err := syscall.ForkExec(self, []string{"gantry-init", "init"}, &syscall.ProcAttr{Env: []string{}, Files: []uintptr{0, 1, 2, f.Fd(), uintptr(pair[1])}})
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
		unix.Close(pair[1])
		var buf [100]byte
		for {
			if n, _ := unix.Read(pair[0], buf[:]); n <= 0 {
				break
			}
		}
		unix.Close(pair[0])
		b.StopTimer()
		unix.Wait4(pid, nil, 0, nil)
		b.StartTimer()
	}
}

func pss(t *testing.T, pid int) (kb int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kb); err == nil {
			return kb
		}
	}
	t.Fatalf("no Pss in %s", b)
	return 0
}
