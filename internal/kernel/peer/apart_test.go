package peer

import (
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteApart(t *testing.T) {
	t.Parallel()
	s, c := pair(t)
	for _, p := range []string{"header\r\n\r\n", "again"} {
		if err := WriteApart(s, []byte(p)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("one")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write([]byte("two")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		for _, want := range []string{p, "onetwo"} {
			if n, err := c.Read(b); err != nil || string(b[:n]) != want {
				t.Fatalf("read %q, %v, want %q", b[:n], err, want)
			}
		}
	}
}

// TestWriteApartGivesNothingAway: a client that asks for descriptors gets one that it can do nothing with.
func TestWriteApartGivesNothingAway(t *testing.T) {
	t.Parallel()
	s, c := pair(t)
	if err := WriteApart(s, []byte("x")); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 100), make([]byte, 100)
	_, n, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatal(fds, err)
	}
	f := os.NewFile(uintptr(fds[0]), "given")
	defer f.Close()
	if got, err := io.ReadAll(f); err != nil || len(got) != 0 {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("could be written to")
	}
}

func TestWriteApartElsewhere(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		if err := WriteApart(a, []byte("over a pipe")); err != nil {
			t.Error(err)
		}
		a.Close()
	}()
	if got, err := io.ReadAll(b); err != nil || string(got) != "over a pipe" {
		t.Errorf("%q, %v", got, err)
	}
	s, c := pair(t)
	c.Close()
	if err := WriteApart(s, []byte("x")); err == nil {
		t.Error("nobody is there, and it was written")
	}
}
