//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

func TestInputEnds(t *testing.T) {
	for _, client := range []string{"own", "stock"} {
		cmd := gantry.CLI
		if client == "stock" {
			cmd = gantry.StockCLI
		}
		t.Run(client, func(t *testing.T) {
			run := cmd("run", "--rm", "-i", "--network", "none", "busybox", "cat")
			run.Stdin = strings.NewReader("hi\n")
			if r := must(t, run); r.Out != "hi\n" || r.Code != 0 {
				t.Fatal(r)
			}
			id := ok(t, "run", "-d", "--network", "none", "busybox", "sleep", "1000")
			defer ok(t, "rm", "-f", id)
			exec := cmd("exec", "-i", id, "sh", "-c", "wc -c; echo done >&2")
			exec.Stdin = strings.NewReader("12345")
			if r := must(t, exec); r.Out != "5\n" || r.Err != "done\n" {
				t.Fatal(r)
			}
		})
	}
}

func TestAGigabyteGoesThroughUnharmed(t *testing.T) {
	const size = 1 << 30
	cmd := gantry.CLI("run", "--rm", "-i", "--network", "none", "--log-driver", "none", "busybox", "cat")
	in := sha256.New()
	cmd.Stdin = io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), in)
	out := sha256.New()
	counter := &counting{w: out}
	cmd.Stdout = counter
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if counter.n != size || string(in.Sum(nil)) != string(out.Sum(nil)) {
		t.Fatalf("%d bytes came back of %d, or they are not the same", counter.n, size)
	}
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

func TestStreamsStayApart(t *testing.T) {
	r := cli(t, "run", "--rm", "--network", "none", "busybox", "sh", "-c", "for i in 1 2 3; do echo o$i; echo e$i >&2; done")
	if r.Out != "o1\no2\no3\n" || r.Err != "e1\ne2\ne3\n" {
		t.Fatal(r)
	}
	r = cli(t, "run", "--rm", "-a", "stdout", "--network", "none", "busybox", "sh", "-c", "echo o; echo e >&2")
	if r.Out != "o\n" || r.Err != "" {
		t.Fatal(r)
	}
}

func TestSignalsReachTheContainer(t *testing.T) {
	for sig, want := range map[syscall.Signal]string{syscall.SIGTERM: "got TERM", syscall.SIGINT: "got INT", syscall.SIGUSR1: "got USR1"} {
		cmd := gantry.CLI("run", "--rm", "--network", "none", "busybox", "sh", "-c",
			`for s in TERM INT USR1; do trap "echo got $s; exit 4" $s; done; echo ready; while :; do sleep 0.05; done`)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		readUntil(t, lines, "ready")
		cmd.Process.Signal(sig)
		readUntil(t, lines, want)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 4 {
			t.Errorf("%v: exit code %d, want 4", sig, code)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 42"}, 42},
		// The first process of a PID namespace is immune to its own signals, so a second one takes them.
		{[]string{"sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137},
		{[]string{"sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"}, 139},
		{[]string{"nosuchprogram"}, 127},
		{[]string{"/etc/passwd"}, 126},
		{[]string{"/no/such"}, 127},
	} {
		if r := cli(t, append([]string{"run", "--rm", "--network", "none", "busybox"}, c.args...)...); r.Code != c.want {
			t.Errorf("%v ended with %d, want %d: %s", c.args, r.Code, c.want, r.Err)
		}
	}
	if r := cli(t, "run", "--no-such-flag", "busybox"); r.Code != 125 {
		t.Errorf("a wrong flag ended with %d, want 125", r.Code)
	}
	if r := cli(t, "run", "no-such-image-here"); r.Code != 125 {
		t.Errorf("a missing image ended with %d, want 125: %s", r.Code, r.Err)
	}
}

func TestLogsKeepEveryLine(t *testing.T) {
	const n = 20000
	name := "manylines"
	ok(t, "run", "--name", name, "-d", "--network", "none", "busybox", "sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done", n))
	defer ok(t, "rm", "-f", name)
	out := ok(t, "logs", "-f", name)
	lines := strings.Split(out, "\n")
	if len(lines) != n {
		t.Fatalf("%d lines, want %d", len(lines), n)
	}
	for i, l := range lines {
		if l != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d reads %q", i, l)
		}
	}
	if out := ok(t, "logs", "--tail", "3", name); out != fmt.Sprintf("line %d\nline %d\nline %d", n-3, n-2, n-1) {
		t.Fatalf("tail: %q", out)
	}
}
