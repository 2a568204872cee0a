package peer

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pair returns the two ends of a connected unix socket.
func pair(t *testing.T) (server, client *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s.(*net.UnixConn), c.(*net.UnixConn)
}

func TestWholeAndHalfClose(t *testing.T) {
	t.Parallel()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	half, halfClient := pair(t)
	whole, wholeClient := pair(t)
	halfGone, wholeGone := make(chan struct{}), make(chan struct{})
	if _, err := w.Watch(half, func() { close(halfGone) }); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Watch(whole, func() { close(wholeGone) }); err != nil {
		t.Fatal(err)
	}
	// Bytes and a half-close are no hang-up, though they wake a reader.
	if _, err := halfClient.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	halfClient.CloseWrite()
	if b, err := io.ReadAll(half); string(b) != "x" || err != nil {
		t.Fatalf("%q, %v", b, err)
	}
	wholeClient.Close()
	<-wholeGone
	select {
	case <-halfGone:
		t.Error("a half-closed connection counted as hung up")
	default:
	}
	halfClient.Close()
	<-halfGone
}

func TestGoneBeforeWatched(t *testing.T) {
	t.Parallel()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s, c := pair(t)
	c.Close()
	gone := make(chan struct{})
	if _, err := w.Watch(s, func() { close(gone) }); err != nil {
		t.Fatal(err)
	}
	<-gone
}

func TestStopAndClose(t *testing.T) {
	t.Parallel()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	s, c := pair(t)
	stop, err := w.Watch(s, func() { t.Error("called after stop") })
	if err != nil {
		t.Fatal(err)
	}
	stop()
	stop()
	c.Close()
	s.SetReadDeadline(time.Now().Add(time.Minute))
	io.ReadAll(s) // the hang-up has arrived
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Watch(s, nil); err == nil {
		t.Error("watched by a closed watcher")
	}
}

func TestMany(t *testing.T) {
	t.Parallel()
	w, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	const n = 100
	gone := make(chan int, n)
	var clients [n]*net.UnixConn
	for i := range n {
		s, c := pair(t)
		clients[i] = c
		if _, err := w.Watch(s, func() { gone <- i }); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := os.ReadDir("/proc/self/task")
	for _, c := range clients {
		c.Close()
	}
	seen := map[int]bool{}
	for range n {
		seen[<-gone] = true
	}
	if len(seen) != n {
		t.Errorf("%d of %d", len(seen), n)
	}
	if after, _ := os.ReadDir("/proc/self/task"); len(after) > len(before)+20 {
		t.Errorf("%d threads became %d", len(before), len(after))
	}
}
