package message

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = New(fds[0]); err == nil {
		b, err = New(fds[1])
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessages(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	big := bytes.Repeat([]byte("x"), 1<<20) // more than the socket holds
	sent := make(chan error, 1)
	go func() {
		var all error
		for _, m := range [][]byte{[]byte("one"), {}, big} {
			if err := a.Send(m, []int{int(w.Fd())}); err != nil {
				all = err
			}
		}
		sent <- all
	}()
	for _, want := range [][]byte{[]byte("one"), {}, big} {
		got, fds, err := b.Receive()
		if err != nil || !bytes.Equal(got, want) || len(fds) != 1 {
			t.Fatalf("%d bytes, %v, %v; want %d", len(got), fds, err, len(want))
		}
		unix.Write(fds[0], []byte("!"))
		CloseAll(fds)
		var c [1]byte
		if _, err := io.ReadFull(r, c[:]); err != nil || c[0] != '!' {
			t.Fatal(c, err)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	b.Deadline(time.Unix(1, 0))
	if _, _, err := b.Receive(); err == nil {
		t.Error("received after the deadline")
	}
	b.Deadline(time.Time{})
	a.Close()
	if _, _, err := b.Receive(); err != io.EOF {
		t.Errorf("the end: %v", err)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	if err := a.Send(make([]byte, MaxBody+1), nil); err == nil {
		t.Error("sent")
	}
	a.raw.Write(func(fd uintptr) bool { unix.Write(int(fd), []byte{255, 0, 0, 0, 1}); return true })
	if _, _, err := b.Receive(); err == nil {
		t.Error("received")
	}
}

func TestLongPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/" + strings.Repeat("d", 150)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second replaces the first
		fd, err := Listen(dir, "s")
		if err != nil {
			t.Fatal(err)
		}
		c, err := Dial(dir, "s")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		unix.Close(fd)
	}
	if _, err := Dial(dir, "s"); err == nil {
		t.Error("nobody listens")
	}
	if fi, err := os.Stat(dir + "/s"); err != nil || fi.Mode().Perm() != 0o600 {
		t.Error(fi.Mode(), err)
	}
}

func TestWaitTakesNothing(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	if err := a.Send([]byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if got, _, err := b.Receive(); err != nil || string(got) != "x" {
		t.Fatalf("%q, %v", got, err)
	}
	b.ReadDeadline(time.Unix(1, 0))
	if err := b.Wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	b.ReadDeadline(time.Time{})
	a.Close()
	if err := b.Wait(); err != io.EOF {
		t.Errorf("hung up: %v", err)
	}
}

func TestTrySendDoesNotWait(t *testing.T) {
	t.Parallel()
	a, b := pair(t)
	a.WriteDeadline(time.Unix(1, 0)) // of a Send before; it is none of TrySend's
	if err := a.TrySend([]byte("x"), nil); err != nil {
		t.Error(err)
	}
	if got, _, err := b.Receive(); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := a.TrySend(make([]byte, 8<<20), nil); !errors.Is(err, unix.EAGAIN) { // more than the socket holds
		t.Errorf("nobody reads: %v", err)
	}
}
