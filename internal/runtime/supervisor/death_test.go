package supervisor_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/memfd"
	"gantry/internal/runtime/supervisor"
)

// writer writes n numbered lines to stdout and stderr, at an uneven pace, some in two pieces, and exits with code.
func writer(args []string) {
	n, _ := strconv.Atoi(args[0])
	code, _ := strconv.Atoi(args[1])
	r := rand.New(rand.NewSource(int64(code)))
	outs := []*os.File{os.Stdout, os.Stderr}
	for i := range n {
		for s, f := range outs {
			line := writerLine(s, i)
			if k := r.Intn(len(line)); r.Intn(3) == 0 && k > 0 {
				f.WriteString(line[:k])
				line = line[k:]
			}
			f.WriteString(line)
		}
		if r.Intn(16) == 0 {
			time.Sleep(time.Duration(r.Intn(1500)) * time.Microsecond)
		}
	}
	os.Exit(code)
}

func writerLine(stream, i int) string {
	return fmt.Sprintf("%d %06d %s\n", stream, i, strings.Repeat("x", i%97))
}

func writerOutput(stream, n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(writerLine(stream, i))
	}
	return b.String()
}

// diff tells where two long texts part.
func diff(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i-40, len(s))):min(len(s), i+60)] }
	return fmt.Sprintf("%d bytes, want %d; at %d: got %q, want %q", len(got), len(want), i, around(got), around(want))
}

const (
	writers      = 50
	writtenLines = 2000
)

// underLoad runs writers, half of them attached (some with a terminal), calls disturb with a function that waits until the writers
// have come to a fraction of their work, and checks that every line came exactly once everywhere.
func underLoad(t *testing.T, h *house, disturb func(until func(part float64))) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]string, writers)
	outs := make([][2]bytes.Buffer, writers)
	errors := make([]error, writers)
	var lines atomic.Int64
	moved := make(chan struct{}, 1)
	var readers sync.WaitGroup
	attached := func(i int) bool { return i%2 == 0 }
	terminal := func(i int) bool { return i%5 == 4 }
	total := 0
	for i := range writers {
		ids[i] = fmt.Sprintf("w%02d", i)
		o := options{paused: true, terminal: terminal(i), none: i%7 == 6}
		h.mustLaunch(ids[i], o, self, "writer", strconv.Itoa(writtenLines), strconv.Itoa(i))
		if attached(i) {
			a := h.mustAttach(ids[i])
			total += 2 * writtenLines
			readers.Add(1)
			go func() {
				defer readers.Done()
				errors[i] = a.Copy(counter{&outs[i][0], &lines, moved}, counter{&outs[i][1], &lines, moved})
			}()
		}
		if err := h.Resume(context.Background(), ids[i]); err != nil {
			t.Fatal(err)
		}
	}
	disturb(func(part float64) {
		for float64(lines.Load()) < part*float64(total) {
			<-moved
		}
	})
	readers.Wait()
	want := [2]string{writerOutput(0, writtenLines), writerOutput(1, writtenLines)}
	for i, id := range ids {
		e := h.wait(id)
		if e.Unknown {
			if kernelTellsExits() {
				t.Errorf("%s: %+v", id, e)
			}
		} else if e.Code != i {
			t.Errorf("%s: %+v, want code %d", id, e, i)
		}
		if err := h.Forget(context.Background(), id); err != nil { // drains what is left
			t.Error(err)
		}
		for s, stream := range []string{"stdout", "stderr"} {
			want := want[s]
			if terminal(i) {
				if s == 1 {
					continue
				}
				var b strings.Builder
				for n := range writtenLines {
					b.WriteString(writerLine(0, n) + writerLine(1, n))
				}
				want = strings.ReplaceAll(b.String(), "\n", "\r\n")
			}
			if attached(i) {
				if got := outs[i][s].String(); errors[i] != nil || got != want {
					t.Errorf("%s attached to %s: %v, %s", id, stream, errors[i], diff(got, want))
				}
			}
			if i%7 != 6 {
				if got := h.logged(id, stream); got != want {
					t.Errorf("%s log of %s: %s", id, stream, diff(got, want))
				}
			}
		}
	}
}

type counter struct {
	w     io.Writer
	lines *atomic.Int64
	moved chan<- struct{}
}

func (c counter) Write(b []byte) (int, error) {
	c.lines.Add(int64(bytes.Count(b, []byte("\n"))))
	select {
	case c.moved <- struct{}{}:
	default:
	}
	return c.w.Write(b)
}

// kernelTellsExits tells whether the kernel has PIDFD_INFO_EXIT (Linux 6.15).
func kernelTellsExits() bool {
	var u unix.Utsname
	unix.Uname(&u)
	var major, minor int
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 15
}

// pid asks the supervisor for its pid.
func (h *house) pid() int {
	h.t.Helper()
	c, err := supervisor.Dial(h.root)
	if err != nil {
		h.t.Fatal(err)
	}
	defer c.Close()
	hello, err := c.Hello(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return hello.Pid
}

func TestSupervisorKilled(t *testing.T) {
	h := newHouse(t)
	underLoad(t, h, func(until func(float64)) {
		for i := range 8 {
			until(float64(i+1) / 10)
			pid := h.pid()
			unix.Kill(pid, unix.SIGKILL)
			// The next one is there when the keeper answers.
			for end := time.Now().Add(60 * time.Second); ; {
				if c, err := supervisor.Dial(h.root); err == nil {
					hello, err := c.Hello(context.Background())
					c.Close()
					if err == nil && hello.Pid != pid {
						break
					}
				}
				if time.Now().After(end) {
					t.Fatal("no supervisor came back")
				}
				h.Resume(context.Background(), "w00")
			}
		}
	})
}

func TestSupervisorUpgraded(t *testing.T) {
	h := newHouse(t)
	pid := h.pid()
	underLoad(t, h, func(until func(float64)) {
		c, err := supervisor.Dial(h.root)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for i := range 8 {
			until(float64(i+1) / 10)
			program, err := h.opts.Program()
			if err != nil {
				t.Fatal(err)
			}
			init, err := h.opts.Init()
			if err != nil {
				t.Fatal(err)
			}
			if i == 3 { // one that cannot take over changes nothing
				program.Close()
				program, _ = memfd.New("bad", []byte("no program"), true)
				if _, err := c.Upgrade(context.Background(), program, init, "bad"); err == nil {
					t.Error("a bad program took over")
				}
			} else {
				hello, err := c.Upgrade(context.Background(), program, init, "build "+strconv.Itoa(i))
				if err != nil {
					t.Fatal(err)
				}
				if hello.Pid != pid || hello.Build != "build "+strconv.Itoa(i) {
					t.Errorf("%+v, want pid %d and build %d", hello, pid, i)
				}
			}
			program.Close()
			init.Close()
		}
	})
}

// The engine dies (its keeper lets go of everything): another one finds all processes, running and ended, and all output in the logs.
func TestEngineDies(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("cat", options{stdin: true}, "/bin/cat")
	h.mustLaunch("quick", options{stdin: true}, "/bin/sh", "-c", "read x; seq 1 1000; exit 9")
	in, err := h.Stdin("quick")
	if err != nil {
		t.Fatal(err)
	}
	a := h.mustAttach("quick") // not read: it is dropped with the engine, and holds up nobody
	_ = a
	h.Close()
	a.Close()
	io.WriteString(in, "go\n")
	in.Close()
	h.keep()
	if e := h.wait("quick"); e.Code != 9 {
		t.Errorf("%+v", e)
	}
	if got := h.logged("quick", "stdout"); !strings.HasSuffix(got, "\n1000\n") {
		t.Errorf("log ends %q", got[max(0, len(got)-20):])
	}
	b := h.mustAttach("cat")
	in, err = h.Stdin("cat")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "still here\n")
	if f, err := b.Next(); err != nil || string(f.Data) != "still here\n" {
		t.Errorf("%q, %v", f.Data, err)
	}
	in.Close()
}

// Without an engine a supervisor that is killed leaves exits on disk.
func TestExitsAreKept(t *testing.T) {
	h := newHouse(t)
	h.mustLaunch("five", options{}, "/bin/sh", "-c", "exit 5")
	h.wait("five")
	h.Close()
	unix.Kill(h.pid(), unix.SIGKILL)
	h.keep()
	if e := h.wait("five"); e.Code != 5 {
		t.Errorf("%+v", e)
	}
}
