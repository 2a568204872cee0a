package cli_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// command is one of our command line, pointed at the real dockerd.
func (b *bench) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	// A hang ends as a failure of this test, not of all.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(b.ours, "docker"), args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+b.oracle.Socket, "DOCKER_CONFIG="+filepath.Join(b.root, "config"))
	return cmd
}

func (b *bench) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := b.command(t, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// screen is a command on a terminal, and what has come there.
type screen struct {
	t    *testing.T
	cmd  *exec.Cmd
	pty  *os.File
	mu   sync.Mutex
	more *sync.Cond
	text []byte
	over bool
	was  *term.State
}

func onScreen(t *testing.T, cmd *exec.Cmd) *screen {
	t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	if err := pty.Setsize(master, &pty.Winsize{Rows: 31, Cols: 99}); err != nil {
		t.Fatal(err)
	}
	s := &screen{t: t, cmd: cmd, pty: master}
	s.more = sync.NewCond(&s.mu)
	if s.was, err = term.GetState(int(master.Fd())); err != nil { // the master shows the slave's settings
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); master.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.text = append(s.text, buf[:n]...)
			s.over = err != nil
			s.more.Broadcast()
			s.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) write(keys string) {
	s.t.Helper()
	if _, err := s.pty.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// await blocks until text has come, and forgets all up to its end.
func (s *screen) await(text string) {
	s.t.Helper()
	stop := time.AfterFunc(60*time.Second, func() { s.mu.Lock(); s.over = true; s.more.Broadcast(); s.mu.Unlock() })
	defer stop.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if i := bytes.Index(s.text, []byte(text)); i >= 0 {
			s.text = s.text[i+len(text):]
			return
		}
		if s.over {
			s.t.Fatalf("waited for %q; on the screen: %q", text, s.text)
		}
		s.more.Wait()
	}
}

// ends holds the exit code, and that the terminal is as it was.
func (s *screen) ends(code int) {
	s.t.Helper()
	s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit code %d, want %d; on the screen: %q", got, code, s.text)
	}
}

// hides waits for the end of what comes, and holds that text is not in what has come since the last await.
func (s *screen) hides(text string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over {
		s.more.Wait()
	}
	if bytes.Contains(s.text, []byte(text)) {
		s.t.Errorf("on the screen: %q", s.text)
	}
}

func (s *screen) restored() {
	s.t.Helper()
	now, err := term.GetState(int(s.pty.Fd()))
	if err != nil {
		return // the last slave is closed, and with it the settings
	}
	if *now != *s.was {
		s.t.Errorf("the terminal was left changed: %+v, was %+v", *now, *s.was)
	}
}

func TestTerminal(t *testing.T) {
	b := setUp(t)
	b.must(t, "create", "-it", "--network", "none", "--name", "term", "busybox")
	t.Cleanup(func() { b.command(t, "rm", "-f", "term").Run() })

	s := onScreen(t, b.command(t, "start", "-ai", "term"))
	s.await("# ")
	// Halves, so that the echo is not taken for the answer.
	// The size comes behind the start: until then stty prints none, and succeeds.
	s.write("until stty size 2>/dev/null | grep -q .; do sleep 0.05; done; echo si''ze $(stty size)\n")
	s.await("size 31 99")
	pty.Setsize(s.pty, &pty.Winsize{Rows: 40, Cols: 120})
	s.write("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo re''sized\n")
	s.await("resized")
	// ctrl-c is the shell's job's, not ours. It says when it is in the foreground: earlier the shell would have it, and go on.
	s.write("sh -c 'trap \"echo cau\"\"ght; exit\" INT; echo go\"\"ing; while :; do sleep 0.1; done'\n")
	s.await("going")
	s.write("\x03")
	s.await("caught")
	s.await("# ")
	s.write("echo al''ive\n")
	s.await("alive")
	// The first key alone is input, once it is known to be no sequence.
	s.write("echo wai''ting; read -r x; echo go''t \"$x\"\n")
	s.await("waiting")
	s.write("\x10z\n")
	s.await("got \x10z")
	s.write("\x10\x11")
	s.ends(0)
	s.restored()
	s.hides("Error")

	s = onScreen(t, b.command(t, "attach", "--detach-keys", "ctrl-x,y", "term"))
	s.write("echo ag''ain\n")
	s.await("again")
	s.write("\x18y")
	s.await("read escape sequence")
	s.ends(1)
	s.restored()

	// Two at once see the same.
	one, two := onScreen(t, b.command(t, "attach", "term")), onScreen(t, b.command(t, "attach", "term"))
	one.write("echo fir''st\n")
	one.await("first")
	two.write("echo sec''ond\n") // what came before the attach is not shown
	two.await("second")
	one.write("echo bo''th\n")
	one.await("both")
	two.await("both")
	two.write("exit 5\n")
	one.ends(5)
	two.ends(5)
	one.restored()
}

func TestRunOnTerminal(t *testing.T) {
	b := setUp(t)
	s := onScreen(t, b.command(t, "run", "--rm", "-it", "--network", "none", "busybox", "sh", "-c", "until stty size 2>/dev/null | grep .; do sleep 0.05; done; read x; echo got $x; exit 3"))
	s.await("31 99")
	s.write("hello\n")
	s.await("got hello")
	s.ends(3)
	s.restored()
	if out := b.must(t, "ps", "-aq", "--filter", "ancestor=busybox", "--filter", "name=nothing"); out != "" {
		t.Error(out)
	}
	// Keys of config.json.
	if err := os.MkdirAll(filepath.Join(b.root, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(b.root, "config", "config.json")
	if err := os.WriteFile(conf, []byte(`{"detachKeys":"ctrl-e,e"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(conf)
	s = onScreen(t, b.command(t, "run", "-it", "--name", "keys", "--network", "none", "busybox"))
	defer b.command(t, "rm", "-f", "keys").Run()
	s.await("# ")
	s.write("\x05e")
	s.ends(0)
	s = onScreen(t, b.command(t, "exec", "-it", "keys", "sh", "-c", "until stty size 2>/dev/null | grep .; do sleep 0.05; done; read x; exit 4"))
	s.await("31 99")
	s.write("\n")
	s.ends(4)
	s.restored()
}

func TestSignals(t *testing.T) {
	b := setUp(t)
	out, w := io.Pipe()
	cmd := b.command(t, "run", "--rm", "--network", "none", "busybox", "sh", "-c", `trap "echo int" INT; trap "exit 9" USR1; echo ready; while :; do sleep 0.05; done`)
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func(out io.Reader) { // its own: the variable is used again below
		buf := make([]byte, 100)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			lines <- string(buf[:n])
		}
	}(out)
	if l := <-lines; l != "ready\n" {
		t.Fatal(l)
	}
	cmd.Process.Signal(syscall.SIGINT)
	if l := <-lines; l != "int\n" {
		t.Fatal(l)
	}
	cmd.Process.Signal(syscall.SIGUSR1)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != 9 {
		t.Error(cmd.ProcessState)
	}
	w.Close()

	// Without the proxy ctrl-c ends the command, and the container goes on.
	b.must(t, "run", "-d", "--name", "sig", "--network", "none", "busybox", "sh", "-c", "while :; do echo x; sleep 0.05; done")
	defer b.command(t, "rm", "-f", "sig").Run()
	out, w = io.Pipe()
	cmd = b.command(t, "attach", "--no-stdin", "--sig-proxy=false", "sig")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	cmd.Process.Signal(syscall.SIGINT)
	cmd.Wait()
	w.Close()
	if s := b.must(t, "inspect", "-f", "{{.State.Running}}", "sig"); s != "true" {
		t.Error(s)
	}
}

// TestThrough sends much through stdin and stdout; nothing is lost, and the end arrives.
func TestThrough(t *testing.T) {
	b := setUp(t)
	const size = 64 << 20
	for _, args := range [][]string{{"run", "--rm", "-i", "--network", "none", "busybox", "cat"}, {"exec", "-i", "through", "cat"}} {
		if args[0] == "exec" {
			b.must(t, "run", "-d", "--name", "through", "--network", "none", "busybox", "sleep", "1000")
			defer b.command(t, "rm", "-f", "through").Run()
		}
		in, out := sha256.New(), sha256.New()
		cmd := b.command(t, args...)
		cmd.Stdin = io.TeeReader(io.LimitReader(&noise{1}, size), in)
		cmd.Stdout = out
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil || !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
			t.Errorf("%s: %v, %s", args[0], err, errs.String())
		}
	}
}

// noise is bytes without a pattern.
type noise struct{ x uint64 }

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		n.x ^= n.x << 13
		n.x ^= n.x >> 7
		n.x ^= n.x << 17
		p[i] = byte(n.x)
	}
	return len(p), nil
}
