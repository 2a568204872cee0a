package peer

import (
	"io"
	"net"
	"testing"
)

func TestUnread(t *testing.T) {
	t.Parallel()
	s, c := pair(t)
	if Unread(s) {
		t.Error("before anything was sent")
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if !Unread(s) {
		t.Error("sent, and taken for read")
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b[:3]); err != nil {
		t.Fatal(err)
	}
	if !Unread(s) {
		t.Error("half read, and taken for read")
	}
	if _, err := io.ReadFull(c, b[3:]); err != nil {
		t.Fatal(err)
	}
	if Unread(s) {
		t.Error("read, and taken for unread")
	}
	a, b2 := net.Pipe()
	defer a.Close()
	defer b2.Close()
	if Unread(a) {
		t.Error("a pipe")
	}
}
