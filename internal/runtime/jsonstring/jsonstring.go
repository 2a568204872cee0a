// Package jsonstring reads the escapes in JSON strings, for the two rooms that decode JSON by hand: init, for which encoding/json is
// too large, and the reader of logs, for which it is too slow.
package jsonstring

import (
	"strconv"
	"unicode/utf8"
)

// Unescape appends to dst what the escape that begins src, behind its backslash, stands for, and returns what follows it. Half
// of a surrogate pair becomes U+FFFD, as with encoding/json.
func Unescape(dst, src []byte) (_, rest []byte, ok bool) {
	if len(src) == 0 {
		return dst, nil, false
	}
	c, rest := src[0], src[1:]
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r, ok := hex4(rest)
		if !ok {
			return dst, nil, false
		}
		rest = rest[4:]
		if r >= 0xD800 && r < 0xDC00 && len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
			if low, ok := hex4(rest[2:]); ok && low >= 0xDC00 && low < 0xE000 {
				r = (r-0xD800)<<10 | (low - 0xDC00) + 0x10000
				rest = rest[6:]
			}
		}
		return utf8.AppendRune(dst, r), rest, true
	default:
		return dst, nil, false
	}
	return append(dst, c), rest, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}
