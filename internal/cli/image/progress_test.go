package image

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestTotal(t *testing.T) {
	t.Parallel()
	clock := time.Unix(0, 0)
	all := newTotal()
	all.now = func() time.Time { return clock }
	if got := all.line(); got != "" {
		t.Errorf("of nothing: %q", got)
	}
	all.note("a", "Downloading", 0, 80e6)
	all.note("b", "Waiting", 0, 0)
	if got := all.line(); got != "Total: 0B of 80MB, 1 layer waits" {
		t.Errorf("at first: %q", got)
	}
	clock = clock.Add(time.Second)
	all.note("a", "Downloading", 20e6, 80e6)
	all.note("b", "Downloading", 10e6, 20e6)
	if got := all.line(); got != "Total: 30MB of 100MB, 30MB/s, 2s left" {
		t.Errorf("in the middle: %q", got)
	}
	all.note("a", "Download complete", 0, 0)
	all.note("b", "Extracting", 3, 20e6)
	if got := all.line(); got != "" {
		t.Errorf("at the end: %q", got)
	}
}

// screen plays what is written on a terminal that knows the few sequences that we use, and returns its lines.
func screen(t *testing.T, written string) []string {
	t.Helper()
	lines := []string{""}
	row, col := 0, 0
	for i := 0; i < len(written); i++ {
		switch c := written[i]; c {
		case '\n':
			if row++; row == len(lines) {
				lines = append(lines, "")
			}
		case '\r':
			col = 0
		case 0x1b:
			end := i + strings.IndexAny(written[i:], "ABK")
			n := 0
			for _, d := range written[i+2 : end] {
				n = n*10 + int(d-'0')
			}
			switch written[end] {
			case 'A':
				row -= n
			case 'B':
				row += n
			case 'K':
				lines[row] = ""
			}
			i = end
		default:
			l := lines[row] + strings.Repeat(" ", max(0, col-len(lines[row])))
			lines[row] = l[:col] + string(c) + l[min(col+1, len(l)):]
			col++
		}
	}
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines
}

const stream = `{"status":"Pulling from x","id":"1"}
{"status":"Pulling fs layer","progressDetail":{},"id":"a"}
{"status":"Pulling fs layer","progressDetail":{},"id":"b"}
{"status":"Downloading","progressDetail":{"current":50,"total":100},"id":"a"}
{"status":"Downloading","progressDetail":{"current":0,"total":100},"id":"b"}
`

const rest = `{"status":"Download complete","progressDetail":{},"id":"a"}
{"status":"Download complete","progressDetail":{},"id":"b"}
{"status":"Pull complete","progressDetail":{},"id":"b"}
{"status":"Digest: sha256:1"}
`

func TestTheTotalStandsBelowTheLayers(t *testing.T) {
	t.Parallel()
	for _, text := range []string{stream, stream + rest} {
		var out bytes.Buffer
		if err := ShowProgress(&out, true, strings.NewReader(text), nil); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(screen(t, out.String()), "\n")
		want := "1: Pulling from x\na: Downloading [=========================>                        ]       50B/100B\nb: Downloading [>                                                 ]        0B/100B\n"
		if text != stream {
			want = "1: Pulling from x\na: Download complete\nb: Pull complete\nDigest: sha256:1\n"
		} else if !strings.Contains(out.String(), "\rTotal: 50B of 200B\r") {
			t.Errorf("no total in %q", out.String())
		}
		if got != want {
			t.Errorf("the screen shows\n%s\nand not\n%s", got, want)
		}
	}
	var out bytes.Buffer
	if err := ShowProgress(&out, false, strings.NewReader(stream+rest), nil); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "Total") || strings.Contains(out.String(), "\x1b") {
		t.Errorf("for a file: %q", out.String())
	}
}
