// Package screen knows how much room text takes on a terminal. Bytes do not say it, nor does the number of characters: those of
// Chinese, Japanese and Korean are two columns wide, and so is most emoji. Docker counts characters, so that what stands after a
// Chinese word in its tables is out of line; for anything else the two agree.
package screen

import (
	"bytes"
	"io"
	"strings"
	"text/tabwriter"
)

// Width returns how many columns s takes.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += RuneWidth(r)
	}
	return n
}

// RuneWidth is 2 for the wide characters of East Asia and emoji, else 1.
func RuneWidth(r rune) int {
	switch {
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf && r != 0x303f, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Cut returns s if it fits into width columns, else its beginning and end, which fit.
func Cut(s string, width int, end string) string {
	room := width - Width(end)
	used, at := 0, -1
	for i, r := range s {
		w := RuneWidth(r)
		if at < 0 && used+w > room {
			at = i
		}
		if used += w; used > width {
			return s[:at] + end
		}
	}
	return s
}

// filler stands beside a wide character while a tabwriter counts; it is not a character, and never comes out.
const filler = "\uffff"

// Tabs is a tabwriter that knows wide characters. No character may be split between two writes.
type Tabs struct{ in *tabwriter.Writer }

// NewTabs returns one that writes to w; the numbers are those of tabwriter.NewWriter.
func NewTabs(w io.Writer, minwidth, tabwidth, padding int) *Tabs {
	return &Tabs{tabwriter.NewWriter(unfilled{w}, minwidth, tabwidth, padding, ' ', 0)}
}

func (t *Tabs) Write(p []byte) (int, error) {
	var b strings.Builder
	for _, r := range string(p) {
		b.WriteRune(r)
		if RuneWidth(r) == 2 {
			b.WriteString(filler)
		}
	}
	if _, err := io.WriteString(t.in, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what waits for the end of its columns.
func (t *Tabs) Flush() error { return t.in.Flush() }

type unfilled struct{ w io.Writer }

func (u unfilled) Write(p []byte) (int, error) {
	if _, err := u.w.Write(bytes.ReplaceAll(p, []byte(filler), nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}
