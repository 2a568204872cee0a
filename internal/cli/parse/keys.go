package parse

import (
	"fmt"
	"io"
	"strings"
)

// DefaultDetachKeys is ctrl-p ctrl-q.
var DefaultDetachKeys = []byte{16, 17}

// DetachKeys turns "ctrl-p,ctrl-q" into the bytes a terminal sends. Each key is one character or ctrl- and a letter or
// one of @ [ \ ] ^ _.
func DetachKeys(s string) ([]byte, error) {
	if s == "" {
		return DefaultDetachKeys, nil
	}
	var out []byte
	for key := range strings.SplitSeq(s, ",") {
		if len(key) == 1 {
			out = append(out, key[0])
			continue
		}
		c, ok := strings.CutPrefix(key, "ctrl-")
		if !ok || len(c) != 1 {
			return nil, unknownKey(s, key)
		}
		switch b := c[0]; {
		case b >= 'a' && b <= 'z':
			out = append(out, b-'a'+1)
		case b == '@':
			out = append(out, 0)
		case b >= '[' && b <= '_':
			out = append(out, b-'['+27)
		default:
			return nil, unknownKey(s, key)
		}
	}
	return out, nil
}

func unknownKey(all, key string) error {
	return fmt.Errorf("invalid detach keys (%s): Unknown character: '%s'", all, key)
}

// ErrDetached is what a reader with an escape sequence returns when the user typed it.
var ErrDetached error = detached{}

type detached struct{}

func (detached) Error() string { return "read escape sequence" }

// escape reads until keys come in order. Keys that turn out to be no sequence are passed on.
type escape struct {
	r    io.Reader
	keys []byte
	hit  int    // how many of keys came last, held back
	out  []byte // bytes ready to be given out
	buf  []byte
	err  error
}

// Escape returns a reader of r that ends with ErrDetached when keys come in order.
func Escape(r io.Reader, keys []byte) io.Reader {
	return &escape{r: r, keys: keys, buf: make([]byte, 4096)}
}

func (e *escape) Read(p []byte) (int, error) {
	for {
		if len(e.out) > 0 {
			n := copy(p, e.out)
			e.out = e.out[n:]
			return n, nil
		}
		if e.err != nil {
			return 0, e.err
		}
		n, err := e.r.Read(e.buf)
		e.err = err
		out := make([]byte, 0, n+len(e.keys))
		for _, b := range e.buf[:n] {
			if len(e.keys) == 0 {
				out = append(out, b)
				continue
			}
			if b == e.keys[e.hit] {
				if e.hit++; e.hit == len(e.keys) {
					// What was typed before the sequence still belongs to the container.
					e.err = ErrDetached
					break
				}
				continue
			}
			// A false start: what was held back is input after all, except a suffix of it that begins the sequence anew.
			held := append(append([]byte{}, e.keys[:e.hit]...), b)
			e.hit = 0
			for n := min(len(held), len(e.keys)-1); n > 0; n-- {
				if string(held[len(held)-n:]) == string(e.keys[:n]) {
					e.hit = n
					break
				}
			}
			out = append(out, held[:len(held)-e.hit]...)
		}
		if e.err != nil && e.err != ErrDetached && e.hit > 0 {
			out = append(out, e.keys[:e.hit]...)
			e.hit = 0
		}
		e.out = out
	}
}
