// Package jsonlog reads and writes container logs in the format of Docker's json-file driver.
//
// A record is one line of JSON:
//
//	{"log":"…","stream":"stdout","attrs":{…},"time":"2026-01-02T03:04:05.000000006Z"}
//
// "log" is one line of output with its "\n"; a piece of a line longer than 16 KiB, or of one that the process
// never finished, has none. Bytes that are not UTF-8 are written as \ufffd. When the newest file, Path, has reached its
// greatest size, it becomes Path.1, that one Path.2, and so on.
//
// The supervisor writes (Encode, File), the engine reads (Reader); a reader takes files that a crash
// cut short, and foreign ones.
package jsonlog

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"
)

// MaxLine is the longest piece of a line, in bytes, that one record holds.
const MaxLine = 16 << 10

const hexDigits = "0123456789abcdef"

// plain tells the bytes that stand for themselves inside a JSON string, as Docker writes it.
var plain = func() (t [256]bool) {
	for c := 0x20; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return
}()

// Append appends one record to dst. Attrs is the JSON of the record's attributes, or empty.
func Append(dst, log []byte, stream, attrs string, at time.Time) []byte {
	dst = append(dst, `{"log":"`...)
	dst = appendEscaped(dst, log)
	return appendTail(dst, stream, attrs, at)
}

// appendTail appends what follows the text.
func appendTail(dst []byte, stream, attrs string, at time.Time) []byte {
	dst = append(dst, `","stream":"`...)
	dst = append(dst, stream...)
	dst = append(dst, '"')
	if attrs != "" {
		dst = append(dst, `,"attrs":`...)
		dst = append(dst, attrs...)
	}
	dst = append(dst, `,"time":"`...)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, "\"}\n"...)
}

func appendEscaped(dst, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			switch c {
			case '"', '\\':
				dst = append(dst, '\\', c)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			default: // control characters, and <, >, & for the sake of those who paste logs into HTML
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&0xf])
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\ufffd`...)
			i++
			start = i
		case r == '\u2028' || r == '\u2029': // line ends in JavaScript
			dst = append(dst, s[start:i]...)
			dst = append(dst, `\u202`...)
			dst = append(dst, hexDigits[r&0xf])
			i += size
			start = i
		default:
			i += size
		}
	}
	return append(dst, s[start:]...)
}

// Attrs returns the JSON of attributes for Append: an object with sorted keys, or "" for none.
func Attrs(m map[string]string) string {
	if len(m) == 0 {
		return ""
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	dst := []byte{'{'}
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = appendEscaped(dst, []byte(k))
		dst = append(dst, `":"`...)
		dst = appendEscaped(dst, []byte(m[k]))
		dst = append(dst, '"')
	}
	return string(append(dst, '}'))
}

// Batch is what Encode made of a piece of output.
type Batch struct {
	Records []byte // encoded; aliases dst
	Used    int    // bytes of src that are in Records
	// Partial is when the line that goes on behind Used began, if its beginning is in a record
	// already: the records of one line bear one time. Zero at a line's start.
	Partial time.Time
}

// Encode makes records of src, the output of a stream behind the last record: whole lines, and pieces of MaxLine bytes of a line
// that is longer. The rest, less than MaxLine bytes, waits for more, or is taken too at eof. It stops early behind the record
// with which Records is at least limit bytes long.
func Encode(dst, src []byte, stream, attrs string, now, partial time.Time, eof bool, limit int) Batch {
	b := Batch{Records: dst[:0], Partial: partial}
	// All lines that begin here have one time, and so one tail.
	var room [128]byte
	tail := appendTail(room[:0], stream, attrs, now)
	for b.Used < len(src) && len(b.Records) < limit {
		rest := src[b.Used:]
		end := bytes.IndexByte(rest[:min(len(rest), MaxLine)], '\n')
		if end >= 0 {
			if b.Partial.IsZero() {
				b.Records = append(b.Records, `{"log":"`...)
				b.Records = appendEscaped(b.Records, rest[:end+1])
				b.Records = append(b.Records, tail...)
			} else {
				b.Records = Append(b.Records, rest[:end+1], stream, attrs, b.Partial)
				b.Partial = time.Time{}
			}
			b.Used += end + 1
			continue
		}
		if len(rest) < MaxLine && !eof {
			break
		}
		if b.Partial.IsZero() {
			b.Partial = now
		}
		n := min(len(rest), MaxLine)
		b.Records = Append(b.Records, rest[:n], stream, attrs, b.Partial)
		b.Used += n
	}
	return b
}
