package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"golang.org/x/sys/unix"

	"gantry/internal/container"
)

// echo is a process that copies its stdin to both of its outputs: what is written comes back on
// stdout, in upper case on stderr.
type echo struct {
	*io.PipeWriter
	r      *io.PipeReader
	buf    [32 << 10]byte
	again  []byte
	closed chan struct{}
	once   sync.Once
	loud   bool
	mute   atomic.Bool // goes on after the end of its input
}

// Close ends the process's input.
func (e *echo) Close() error {
	if e.mute.Load() {
		return nil
	}
	return e.PipeWriter.Close()
}

func newEcho(loud bool) *echo {
	r, w := io.Pipe()
	return &echo{PipeWriter: w, r: r, closed: make(chan struct{}), loud: loud}
}

type echoOutput struct{ *echo }

func (e echoOutput) Next() (byte, []byte, error) {
	if e.again != nil {
		p := bytes.ToUpper(e.again)
		e.again = nil
		return 2, p, nil
	}
	n, err := e.r.Read(e.buf[:])
	if err != nil {
		return 0, nil, err
	}
	if e.loud {
		e.again = e.buf[:n]
	}
	return 1, e.buf[:n], nil
}

func (e echoOutput) Close() error {
	e.once.Do(func() { close(e.closed) })
	e.PipeWriter.Close()
	return e.r.Close()
}

// attachServer attaches every request to an echo.
func attachServer(t *testing.T, tty bool, echoes chan *echo) string {
	t.Helper()
	s := New(Deps{})
	s.http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, version: maxVersion}
		st, err := s.takeOver(c, !tty)
		if err != nil {
			t.Error(err)
			return
		}
		e := newEcho(!tty)
		echoes <- e
		st.pump(&container.Attachment{Terminal: tty, Stdin: e, Output: echoOutput{e}}, !tty)
	})
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return sock
}

func hijack(t *testing.T, sock, head string) (*net.UnixConn, *bufio.Reader, *http.Response) {
	t.Helper()
	conn, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, head); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(conn)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	return conn.(*net.UnixConn), br, resp
}

const upgrade = "POST /containers/x/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"

func TestHijackUpgrades(t *testing.T) {
	t.Parallel()
	for _, tty := range []bool{false, true} {
		echoes := make(chan *echo, 1)
		conn, br, resp := hijack(t, attachServer(t, tty, echoes), upgrade)
		want := map[bool]string{false: "application/vnd.docker.multiplexed-stream", true: "application/vnd.docker.raw-stream"}[tty]
		if resp.Status != "101 UPGRADED" || resp.Header.Get("Content-Type") != want || resp.Header.Get("Upgrade") != "tcp" || resp.Header.Get("Connection") != "Upgrade" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
		go func() {
			io.WriteString(conn, "hello")
			conn.CloseWrite() // as `echo hello | docker run -i` does: the end must reach the process, the answer us
		}()
		if tty {
			if b, err := io.ReadAll(br); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			continue
		}
		var out, err2 bytes.Buffer
		if _, err := stdcopy.StdCopy(&out, &err2, br); err != nil || out.String() != "hello" || err2.String() != "HELLO" {
			t.Errorf("%q %q %v", out.String(), err2.String(), err)
		}
		<-(<-echoes).closed
	}
}

// TestHijackWithoutUpgrade is what docker-py before 2.0 and some scripts do.
func TestHijackWithoutUpgrade(t *testing.T) {
	t.Parallel()
	conn, br, resp := hijack(t, attachServer(t, true, make(chan *echo, 1)), "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/vnd.docker.raw-stream" || resp.ContentLength != -1 {
		t.Errorf("%s %v", resp.Status, resp.Header)
	}
	io.WriteString(conn, "hi")
	conn.CloseWrite()
	if b, err := io.ReadAll(br); string(b) != "hi" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestEarlyInput: bytes that came with the request's head are stdin's first.
func TestEarlyInput(t *testing.T) {
	t.Parallel()
	conn, br, _ := hijack(t, attachServer(t, true, make(chan *echo, 1)), upgrade+"early ")
	io.WriteString(conn, "bird")
	conn.CloseWrite()
	if b, err := io.ReadAll(br); string(b) != "early bird" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestHeaderComesAlone: a client that reads the header through a buffer of its own, and the stream past it (docker-py),
// must not find output in that buffer, however late it comes to read.
func TestHeaderComesAlone(t *testing.T) {
	t.Parallel()
	sock := attachServer(t, true, make(chan *echo, 100))
	head := 0
	for range 20 {
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, upgrade+"out"); err != nil { // the echo has output at once
			t.Fatal(err)
		}
		for head > 0 && unread(t, conn.(*net.UnixConn)) < head+len("out") {
			time.Sleep(time.Millisecond)
		}
		b := make([]byte, 8192)
		n, err := conn.Read(b)
		if err != nil || !strings.HasSuffix(string(b[:n]), "\r\n\r\n") {
			t.Fatalf("%q, %v", b[:n], err)
		}
		head = n
		if n, err := conn.Read(b); string(b[:n]) != "out" || err != nil {
			t.Fatalf("%q, %v", b[:n], err)
		}
		conn.Close()
	}
}

// unread is how many bytes wait to be read from conn.
func unread(t *testing.T, conn *net.UnixConn) (n int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestClientGoesAway: the attachment ends when its client is gone and there is something to tell it.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	echoes := make(chan *echo, 1)
	conn, _, _ := hijack(t, attachServer(t, true, echoes), upgrade)
	e := <-echoes
	conn.Close()
	<-e.closed // stdin ends, so this process does
}

// TestSilentClientGoesAway: with neither input nor output only the kernel can tell.
func TestSilentClientGoesAway(t *testing.T) {
	t.Parallel()
	echoes := make(chan *echo, 1)
	conn, br, _ := hijack(t, attachServer(t, true, echoes), upgrade)
	e := <-echoes
	e.mute.Store(true)
	conn.CloseWrite() // no hang-up: `docker attach --no-stdin` does it at once
	if _, err := e.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if b, err := br.ReadByte(); b != 'x' || err != nil {
		t.Fatal(b, err)
	}
	conn.Close()
	<-e.closed
}

// TestOverBodies attaches where there is nothing to take over: HTTP/2, and a chunked body.
func TestOverBodies(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{true, false} {
		sock := attachServer(t, true, make(chan *echo, 1))
		r, w := io.Pipe()
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://x/containers/x/attach", r)
		resp, err := client(t, sock, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
		b := make([]byte, 5)
		for _, text := range []string{"first", "again"} { // both ways in turn
			io.WriteString(w, text)
			if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != text {
				t.Errorf("h2 %v: %q, %v", h2, b, err)
			}
		}
		w.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q, %v", rest, err)
		}
	}
}

// TestMuchBothWays sends 64 MB through and compares.
func TestMuchBothWays(t *testing.T) {
	t.Parallel()
	conn, br, _ := hijack(t, attachServer(t, true, make(chan *echo, 1)), upgrade)
	sent, got := sha256.New(), sha256.New()
	go func() {
		block := make([]byte, 1<<20)
		rng := rand.NewChaCha8([32]byte{1})
		for range 64 {
			rng.Read(block)
			io.MultiWriter(conn, sent).Write(block)
		}
		conn.CloseWrite()
	}()
	n, err := io.Copy(got, br)
	if n != 64<<20 || err != nil || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func FuzzFramer(f *testing.F) {
	f.Add([]byte("hello"), byte(1))
	f.Add([]byte{}, byte(2))
	f.Add(bytes.Repeat([]byte{0}, 100), byte(1))
	f.Fuzz(func(t *testing.T, p []byte, which byte) {
		which = 1 + which%2
		var framed, out, err2 bytes.Buffer
		fr := framer{w: &framed}
		for range 2 {
			if err := fr.write(which, p); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stdcopy.StdCopy(&out, &err2, &framed); err != nil {
			t.Fatal(err)
		}
		want := string(p) + string(p)
		if got := []string{out.String(), err2.String()}[which-1]; got != want || out.Len()+err2.Len() != len(want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestLargeFramesAreCut(t *testing.T) {
	t.Parallel()
	var framed bytes.Buffer
	fr := framer{w: &framed}
	if err := fr.write(1, make([]byte, maxFrame+1)); err != nil || framed.Len() != maxFrame+1+16 {
		t.Errorf("%d bytes, %v", framed.Len(), err)
	}
}

// logStart has nanoseconds that must be padded.
var logStart = time.Unix(1700000000, 5)

// lines is a log.
type lines []container.LogLine

func (l *lines) Next() (container.LogLine, error) {
	if len(*l) == 0 {
		return container.LogLine{}, io.EOF
	}
	x := (*l)[0]
	*l = (*l)[1:]
	if x.Text == nil {
		return x, errors.New("disk on fire")
	}
	return x, nil
}
func (l *lines) Close() error { return nil }

func TestWriteLog(t *testing.T) {
	t.Parallel()
	at := func(s string) container.LogLine {
		return container.LogLine{Stream: 1, Time: logStart, Text: []byte(s), Attrs: map[string]string{"b": "2", "a": "x y"}}
	}
	for _, x := range []struct {
		format logFormat
		want   string
	}{
		{logFormat{plain: true}, "one\ntwo"},
		{logFormat{plain: true, times: true}, "2023-11-14T22:13:20.000000005Z one\n2023-11-14T22:13:20.000000005Z two"},
		{logFormat{plain: true, times: true, details: true}, "2023-11-14T22:13:20.000000005Z a=x+y,b=2 one\n2023-11-14T22:13:20.000000005Z a=x+y,b=2 two"},
		{logFormat{}, "\x01\x00\x00\x00\x00\x00\x00\x04one\n\x01\x00\x00\x00\x00\x00\x00\x03two"},
	} {
		var b bytes.Buffer
		out := newFlusher(&b, func() {})
		writeLog(&lines{at("one\n"), at("two")}, out, x.format)
		out.end()
		if b.String() != x.want {
			t.Errorf("%+v: %q, want %q", x.format, b.String(), x.want)
		}
	}
	var b bytes.Buffer
	out := newFlusher(&b, func() {})
	writeLog(&lines{at("one\n"), {}}, out, logFormat{})
	out.end()
	if _, err := stdcopy.StdCopy(io.Discard, io.Discard, &b); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("an error in the stream: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	if got := commandLine("sh", []string{"-c", "echo a b", ""}); got != "sh -c 'echo a b' " {
		t.Errorf("%q", got)
	}
}
