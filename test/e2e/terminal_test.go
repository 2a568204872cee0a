//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// terminal is a command that runs on a terminal, and what has appeared there so far.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File
	mu   sync.Mutex
	text strings.Builder
	news chan struct{} // gets a value when text grows, and is closed at the end of output
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	tt := &terminal{t: t, cmd: cmd, pty: f, news: make(chan struct{}, 1)}
	t.Cleanup(func() { cmd.Process.Kill(); f.Close() })
	go func() {
		defer close(tt.news)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			tt.mu.Lock()
			tt.text.Write(buf[:n])
			tt.mu.Unlock()
			if err != nil {
				return
			}
			select {
			case tt.news <- struct{}{}:
			default:
			}
		}
	}()
	return tt
}

func (tt *terminal) seen() string {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.text.String()
}

// expect waits until want has appeared, and forgets what came up to its end.
func (tt *terminal) expect(want string) {
	tt.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		tt.mu.Lock()
		text := tt.text.String()
		if _, rest, found := strings.Cut(text, want); found {
			tt.text.Reset()
			tt.text.WriteString(rest)
			tt.mu.Unlock()
			return
		}
		tt.mu.Unlock()
		select {
		case _, open := <-tt.news:
			if !open && !strings.Contains(tt.seen(), want) {
				tt.t.Fatalf("the terminal closed before %q came; it shows:\n%s", want, tt.seen())
			}
		case <-deadline:
			tt.t.Fatalf("%q did not come; the terminal shows:\n%s", want, tt.seen())
		}
	}
}

func (tt *terminal) send(s string) {
	tt.t.Helper()
	if _, err := tt.pty.WriteString(s); err != nil {
		tt.t.Fatal(err)
	}
}

// code waits for the end of the command.
func (tt *terminal) code() int {
	for range tt.news { // until the output ends
	}
	tt.cmd.Wait()
	return tt.cmd.ProcessState.ExitCode()
}

func TestRunOnATerminal(t *testing.T) {
	tt := onTerminal(t, gantry.CLI("run", "--rm", "-it", "--network", "none", "debian", "bash"))
	tt.send("tty; stty size; echo $((40+2))\n")
	tt.expect("/dev/pts/0")
	tt.expect("30 100")
	tt.expect("42")
	pty.Setsize(tt.pty, &pty.Winsize{Rows: 41, Cols: 77})
	tt.send("until [ \"$(stty size)\" = '41 77' ]; do :; done; echo resized''!\n")
	tt.expect("resized!")
	// Ctrl-c goes to the foreground job, not to the client. The job says when it is there.
	tt.send("sh -c 'trap \"echo cau\"\"ght; exit\" INT; echo wai\"\"ting; while :; do sleep 0.1; done'\n")
	tt.expect("waiting")
	tt.send("\x03")
	tt.expect("caught")
	tt.expect("# ") // the prompt is back: what is typed earlier may be flushed with the interrupt
	tt.send("echo after''wards; exit 5\n")
	tt.expect("afterwards")
	if code := tt.code(); code != 5 {
		t.Fatalf("exit code %d, want 5", code)
	}
}

func TestDetachAndAttachAgain(t *testing.T) {
	name := "detach"
	tt := onTerminal(t, gantry.CLI("run", "-it", "--name", name, "--network", "none", "busybox", "sh"))
	defer ok(t, "rm", "-f", name)
	tt.send("echo fir''st\n")
	tt.expect("first")
	tt.send("\x10\x11") // ctrl-p ctrl-q
	if code := tt.code(); code != 0 {
		t.Fatalf("detaching ended with %d", code)
	}
	if s := ok(t, "inspect", "-f", "{{.State.Status}}", name); s != "running" {
		t.Fatalf("after detaching it is %s", s)
	}
	one := onTerminal(t, gantry.CLI("attach", name))
	two := onTerminal(t, gantry.CLI("attach", "--detach-keys", "ctrl-x,x", name))
	// Both see what either types. An attached client shows nothing until something is printed, so type until it does.
	one.send("echo sec''ond\n")
	one.expect("second")
	two.send("echo thi''rd\n")
	two.expect("third")
	one.expect("third")
	two.send("\x18x")
	two.expect("read escape sequence")
	if r := must(t, gantry.CLI("exec", name, "sh", "-c", "echo beside; exit 9")); r.Out != "beside\n" || r.Code != 9 {
		t.Fatal(r)
	}
	one.send("exit 3\n")
	if code := one.code(); code != 3 {
		t.Fatalf("exit code %d, want 3", code)
	}
}

func TestExecOnATerminal(t *testing.T) {
	id := ok(t, "run", "-d", "--network", "none", "debian", "sleep", "1000")
	defer ok(t, "rm", "-f", id)
	tt := onTerminal(t, gantry.CLI("exec", "-it", id, "bash"))
	tt.send("tty; stty size; ps 2>/dev/null; echo PID=$$\n")
	tt.expect("/dev/pts/")
	tt.expect("30 100")
	tt.expect("PID=")
	tt.send("exit 6\n")
	if code := tt.code(); code != 6 {
		t.Fatalf("exit code %d, want 6", code)
	}
	if s := ok(t, "inspect", "-f", "{{.State.Status}}", id); s != "running" {
		t.Fatalf("after the exec it is %s", s)
	}
}

func TestInputThatIsNoTerminalIsRefused(t *testing.T) {
	cmd := gantry.CLI("run", "--rm", "-it", "--network", "none", "busybox", "true")
	cmd.Stdin = strings.NewReader("")
	r := must(t, cmd)
	if r.Code == 0 || !strings.Contains(r.Err, "the input device is not a TTY") {
		t.Fatal(r)
	}
}

func TestOutputOfATerminalThroughAPipe(t *testing.T) {
	out := must(t, exec.Command("sh", "-c", fmt.Sprintf("DOCKER_HOST=unix://%s %s run --rm -t --network none debian echo hi | cat", gantry.Socket, gantry.CLI().Path)))
	if out.Out != "hi\r\n" {
		t.Fatal(out)
	}
}
