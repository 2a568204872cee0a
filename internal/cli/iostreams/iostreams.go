// Package iostreams is the command line's stdin, stdout and stderr: whether each is a terminal, how large it is,
// and raw mode. Commands write through it only, so that tests can run them without a process.
package iostreams

import (
	"errors"
	"io"
	"os"
	"sync"

	"golang.org/x/term"
)

// Streams are the three streams of one invocation.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer

	in, out, err int // file descriptors, -1 if it is none
}

// System returns the process's own streams.
func System() *Streams {
	return &Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, in: 0, out: 1, err: 2}
}

// Test returns streams that are no terminals.
func Test(in io.Reader, out, err io.Writer) *Streams {
	return &Streams{In: in, Out: out, Err: err, in: -1, out: -1, err: -1}
}

func terminal(fd int) bool { return fd >= 0 && term.IsTerminal(fd) }

// InIsTerminal reports whether stdin is a terminal.
func (s *Streams) InIsTerminal() bool { return terminal(s.in) }

// OutIsTerminal reports whether stdout is a terminal.
func (s *Streams) OutIsTerminal() bool { return terminal(s.out) }

// ErrIsTerminal reports whether stderr is a terminal.
func (s *Streams) ErrIsTerminal() bool { return terminal(s.err) }

// Size returns the height and width of the terminal on stdout, zeros if it is none.
func (s *Streams) Size() (height, width uint) {
	if s.out < 0 {
		return 0, 0
	}
	w, h, err := term.GetSize(s.out)
	if err != nil || w < 0 || h < 0 {
		return 0, 0
	}
	return uint(h), uint(w)
}

// CheckTTY refuses a terminal in the container for a stdin that is none.
func (s *Streams) CheckTTY(attachStdin, tty bool) error {
	if tty && attachStdin && !s.InIsTerminal() {
		return errors.New("the input device is not a TTY")
	}
	return nil
}

// Raw puts the terminal on stdin into raw mode. What it returns puts it back; it may be called more than once.
func (s *Streams) Raw() (restore func(), err error) {
	if !s.InIsTerminal() {
		return func() {}, nil
	}
	old, err := term.MakeRaw(s.in)
	if err != nil {
		return nil, err
	}
	var once sync.Once
	return func() { once.Do(func() { term.Restore(s.in, old) }) }, nil
}

// Secret reads a line from the terminal on stdin without showing it.
func (s *Streams) Secret() (string, error) {
	if !s.InIsTerminal() {
		return "", errors.New("stdin is no terminal")
	}
	b, err := term.ReadPassword(s.in)
	return string(b), err
}
