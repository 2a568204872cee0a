package container

import (
	"strings"

	"gantry/internal/errs"
)

// defaultDetachKeys is ctrl-p ctrl-q.
var defaultDetachKeys = []byte{16, 17}

// parseDetachKeys turns the form "ctrl-p,ctrl-q" or "a,b,ctrl-@" into the bytes a terminal sends. Empty
// means the default.
func parseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return defaultDetachKeys, nil
	}
	var keys []byte
	for part := range strings.SplitSeq(s, ",") {
		if len(part) == 1 {
			keys = append(keys, part[0])
			continue
		}
		name, ok := strings.CutPrefix(part, "ctrl-")
		if !ok || len(name) != 1 {
			return nil, errs.Invalid.Errorf("Invalid detach keys (%s) provided", s)
		}
		switch c := name[0]; {
		case 'a' <= c && c <= 'z':
			keys = append(keys, c-'a'+1)
		case '@' <= c && c <= '_' && (c < 'A' || c > 'Z'): // @ [ \ ] ^ _
			keys = append(keys, c-'@')
		default:
			return nil, errs.Invalid.Errorf("Invalid detach keys (%s) provided", s)
		}
	}
	return keys, nil
}

// detacher finds the detach keys in what a client types, also when they come in several writes. What
// looks like their beginning is held back until it is known whether it is.
type detacher struct {
	keys []byte
	held int // so many bytes of keys have been seen
}

// filter returns the bytes to hand on, appended to dst, and whether the keys were complete. Bytes after
// the keys are dropped.
func (d *detacher) filter(dst, p []byte) ([]byte, bool) {
	if len(d.keys) == 0 {
		return append(dst, p...), false
	}
	for _, c := range p {
		for d.held > 0 && c != d.keys[d.held] {
			// A mismatch gives up the shortest part of what is held that lets the rest be a beginning again.
			drop := 1
			for drop < d.held && string(d.keys[:d.held-drop]) != string(d.keys[drop:d.held]) {
				drop++
			}
			dst = append(dst, d.keys[:drop]...)
			d.held -= drop
		}
		if c != d.keys[d.held] {
			dst = append(dst, c)
			continue
		}
		if d.held++; d.held == len(d.keys) {
			d.held = 0
			return dst, true
		}
	}
	return dst, false
}

// rest returns what was held back, when no more is to come.
func (d *detacher) rest() []byte {
	held := d.keys[:d.held]
	d.held = 0
	return held
}
