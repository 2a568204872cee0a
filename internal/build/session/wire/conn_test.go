package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"gantry/internal/errs"
)

// ends returns both ends of a connection.
func ends(t *testing.T, accept func(*Stream)) (opens, accepts *Conn) {
	t.Helper()
	a, b := net.Pipe()
	opens, accepts = NewConn(a, nil), NewConn(b, accept)
	t.Cleanup(opens.Close)
	t.Cleanup(accepts.Close)
	return opens, accepts
}

func echo(s *Stream) {
	defer s.Close()
	if Answer(s, nil) == nil {
		_, _ = io.Copy(struct{ io.Writer }{s}, s)
		_ = s.CloseWrite()
		_, _ = io.Copy(io.Discard, s)
	}
}

// TestStreams: many at once, each much longer than what may be under way, and one that nobody reads, which holds up none.
func TestStreams(t *testing.T) {
	t.Parallel()
	c, _ := ends(t, echo)
	stuck, err := (&Ask{Kind: "echo"}).Open(c)
	if err != nil {
		t.Fatal(err)
	}
	go stuck.Write(make([]byte, 5*window))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := (&Ask{Kind: "echo", Number: i}).Open(c)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			if err := Await(s); err != nil {
				t.Error(err)
				return
			}
			sent := bytes.Repeat([]byte(fmt.Sprintln("stream", i)), 3*window/10)
			wg.Go(func() {
				if _, err := s.Write(sent); err != nil {
					t.Error(err)
				}
				s.CloseWrite()
			})
			if got, err := io.ReadAll(s); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("stream %d: %d of %d bytes, %v", i, len(got), len(sent), err)
			}
		})
	}
	wg.Wait()
	stuck.Close()
	if _, err := stuck.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("writing to what is closed: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.streams) != 0 {
		t.Errorf("%d streams are left", len(c.streams))
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	c, _ := ends(t, func(s *Stream) {
		defer s.Close()
		a, err := ReadAsk(s)
		switch {
		case err != nil:
		case a.Name == "missing":
			err = errs.NotFound.Errorf("no %s here", a.Name)
		default:
			err = errors.New("not for you")
		}
		_ = Answer(s, err)
	})
	ask := func(name string) error {
		s, err := (&Ask{Kind: "secret", Name: name}).Open(c)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		return Await(s)
	}
	if err := ask("missing"); !errs.NotFound.Is(err) || err.Error() != "no missing here" {
		t.Errorf("missing: %v", err)
	}
	if err := ask("x"); !errs.Invalid.Is(err) || err.Error() != "not for you" {
		t.Errorf("withheld: %v", err)
	}
}

// TestEnds: the end of a connection is the end of its streams, whoever ends it.
func TestEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []func(opens, accepts *Conn){func(a, _ *Conn) { a.Close() }, func(_, b *Conn) { b.conn.Close() }} {
		c, d := ends(t, echo)
		s, err := (&Ask{Kind: "echo"}).Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := Await(s); err != nil {
			t.Fatal(err)
		}
		end(c, d)
		if _, err := io.ReadAll(s); err == nil {
			t.Error("a stream of a connection that is gone ended well")
		}
		<-c.Done()
		<-d.Done()
		if _, err := (&Ask{Kind: "echo"}).Open(c); err == nil {
			t.Error("a stream was opened on it")
		}
	}
}

// feed gives bytes to the end that accepts, as one who opens, and returns when it has given up or taken all.
func feed(data []byte) {
	a, b := net.Pipe()
	c := NewConn(b, func(s *Stream) {
		defer s.Close()
		_, _ = io.Copy(io.Discard, s)
	})
	go io.Copy(io.Discard, a)
	_, _ = a.Write(data)
	a.Close()
	c.Close()
}

func frame(kind byte, id uint32, payload string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, id)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(payload))), payload...)
}

// TestHostileFrames: an end that does not keep to the protocol loses the connection.
func TestHostileFrames(t *testing.T) {
	t.Parallel()
	open := frame(frameOpen, 1, "{}")
	for what, bad := range map[string][]byte{
		"a kind that there is not":     append(bytes.Clone(open), frame(9, 1, "")...),
		"a stream out of turn":         frame(frameOpen, 3, "{}"),
		"a stream that was not opened": frame(frameData, 1, "x"),
		"data behind the end":          append(append(bytes.Clone(open), frame(frameEnd, 1, "")...), frame(frameData, 1, "x")...),
		"too much credit":              append(bytes.Clone(open), frame(frameCredit, 1, "\xff\xff\xff\xff")...),
		"a long frame":                 {frameData, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
	} {
		a, b := net.Pipe()
		c := NewConn(b, func(*Stream) {})
		go io.Copy(io.Discard, a)
		_, _ = a.Write(bad)
		<-c.Done()
		c.Close()
		a.Close()
		if c.err == nil || errors.Is(c.err, net.ErrClosed) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
}

func FuzzConn(f *testing.F) {
	f.Add(append(frame(frameOpen, 1, "{}"), frame(frameData, 1, "hello")...))
	f.Add(frame(frameBreak, 1, ""))
	f.Fuzz(func(_ *testing.T, data []byte) { feed(data) })
}
