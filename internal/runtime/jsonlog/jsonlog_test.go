package jsonlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

// The format, byte for byte as dockerd's json-file driver writes it.
func TestAppend(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ log, attrs, want string }{
		{"hello\n", "", `{"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`},
		{"part", "", `{"log":"part","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`},
		{"a\tb\r\n\x1b[0m\x7f", "", `{"log":"a\u0009b\r\n\u001b[0m` + "\x7f" + `","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`},
		{`"\<>&` + "'/", "", `{"log":"\"\\\u003c\u003e\u0026'/","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`},
		{"é\xffx\u2028\u2029😀\xc3", "", `{"log":"é\ufffdx\u2028\u2029😀\ufffd","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}`},
		{"x\n", Attrs(map[string]string{"b": `q"`, "a": "1"}), `{"log":"x\n","stream":"stdout","attrs":{"a":"1","b":"q\""},"time":"2026-01-02T03:04:05.000000006Z"}`},
	} {
		got := string(Append(nil, []byte(c.log), "stdout", c.attrs, at))
		if got != c.want+"\n" {
			t.Errorf("%q:\n got %s\nwant %s", c.log, got, c.want)
		}
		if !json.Valid([]byte(got)) {
			t.Errorf("no JSON: %s", got)
		}
		if c.attrs == "" {
			if rec, _, ok := decodeFast([]byte(got), nil); !ok || string(rec.Text) != strings.ToValidUTF8(c.log, "\ufffd") || !rec.Time.Equal(at) {
				t.Errorf("decoded %q %v %v", rec.Text, rec.Time, ok)
			}
		}
	}
	if Append(nil, []byte("\n"), "stderr", "", at.Truncate(time.Second))[0] != '{' {
		t.Error("no record")
	}
}

// Lines are cut as Docker's copier cuts them, wherever the reads from the pipe ended.
func TestEncodeCuts(t *testing.T) {
	t.Parallel()
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"a\nb\n", []string{"a\n", "b\n"}},
		{"a\nb", []string{"a\n", "b"}},
		{x(MaxLine-1) + "\n", []string{x(MaxLine-1) + "\n"}},
		{x(MaxLine) + "\n", []string{x(MaxLine), "\n"}},
		{x(2*MaxLine+5) + "\nz\n", []string{x(MaxLine), x(MaxLine), x(5) + "\n", "z\n"}},
	} {
		for _, chunk := range []int{1000, 16000, 65536} {
			var got []string
			var times []time.Time
			var pending []byte
			partial := time.Time{}
			feed := func(eof bool, now time.Time) {
				for {
					b := Encode(nil, pending, "stdout", "", now, partial, eof, 1<<20)
					partial = b.Partial
					for _, line := range bytes.SplitAfter(b.Records, []byte("\n")) {
						if len(line) > 0 {
							rec, _, ok := Decode(line, nil)
							if !ok {
								t.Fatalf("%q", line)
							}
							got = append(got, string(rec.Text))
							times = append(times, rec.Time)
						}
					}
					pending = pending[b.Used:]
					if b.Used == 0 {
						return
					}
				}
			}
			now := at
			for rest := c.in; rest != ""; now = now.Add(time.Second) {
				k := min(chunk, len(rest))
				pending = append(pending, rest[:k]...)
				rest = rest[k:]
				feed(false, now)
			}
			feed(true, now)
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("%d bytes in pieces of %d: %d records, want %d", len(c.in), chunk, len(got), len(c.want))
			}
			for i := 1; i < len(times) && i < 3 && len(c.want) == 4; i++ {
				if !times[i].Equal(times[0]) {
					t.Errorf("parts of one line have the times %v", times)
				}
			}
		}
	}
}

type logDir struct {
	t    *testing.T
	path string
	*File
}

func newLog(t *testing.T, maxSize int64, maxFiles int) *logDir {
	path := filepath.Join(t.TempDir(), "c-json.log")
	f, err := Open(path, maxSize, maxFiles)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return &logDir{t, path, f}
}

// add writes line number i, rotating as the supervisor does.
func (l *logDir) add(i int) {
	if l.Room() <= 0 {
		if err := l.Rotate(); err != nil {
			l.t.Error(err)
		}
	}
	stream := []string{"stdout", "stderr"}[i%2]
	if err := l.Write(Append(nil, fmt.Appendf(nil, "line %d\n", i), stream, "", at.Add(time.Duration(i)*time.Second))); err != nil {
		l.t.Error(err)
	}
}

func numbers(t *testing.T, path string, o Options) []int {
	t.Helper()
	r, err := NewReader(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var list []int
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if _, err := fmt.Sscanf(string(rec.Text), "line %d\n", &n); err != nil {
			t.Fatalf("%q", rec.Text)
		}
		list = append(list, n)
	}
}

func want(from, to, step int) (list []int) {
	for i := from; i < to; i += step {
		list = append(list, i)
	}
	return
}

func same(t *testing.T, what string, got, want []int) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	l := newLog(t, 1000, 100)
	all := Options{Stdout: true, Stderr: true, Tail: -1}
	same(t, "empty", numbers(t, l.path, all), nil)
	for i := range 100 {
		l.add(i)
	}
	if _, err := os.Stat(l.path + ".5"); err != nil {
		t.Fatal("not rotated")
	}
	same(t, "all", numbers(t, l.path, all), want(0, 100, 1))
	o := all
	o.Stdout = false
	same(t, "stderr", numbers(t, l.path, o), want(1, 100, 2))
	for _, n := range []int{0, 1, 2, 9, 10, 11, 12, 13, 14, 40, 99, 100, 101} {
		o = all
		o.Tail = n
		same(t, fmt.Sprint("tail ", n), numbers(t, l.path, o), want(max(0, 100-n), 100, 1))
	}
	o = all
	o.Since, o.Until = at.Add(20*time.Second), at.Add(30*time.Second)
	same(t, "since and until", numbers(t, l.path, o), want(20, 31, 1))

	// A crash's leavings: half a record, then good ones.
	f, _ := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString("{\"log\":\"half\n" + strings.Repeat("y", maxRecord+5) + "\n")
	f.Close()
	l.add(100)
	same(t, "damaged", numbers(t, l.path, all), want(0, 101, 1))
	f, _ = os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	f.WriteString(`{"log":"line 10`)
	f.Close()
	same(t, "cut short", numbers(t, l.path, all), want(0, 101, 1))
	o = all
	o.Tail = 1
	same(t, "cut short, tail", numbers(t, l.path, o), []int{100})
}

func TestFollow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		maxSize  int64
		maxFiles int
	}{{0, 1}, {500, 400}} {
		l := newLog(t, c.maxSize, c.maxFiles)
		l.add(0)
		ended := make(chan struct{})
		got := make(chan int)
		go func() {
			defer close(got)
			r, err := NewReader(l.path, Options{Stdout: true, Stderr: true, Tail: -1, Follow: true, Ended: ended})
			if err != nil {
				t.Error(err)
				return
			}
			defer r.Close()
			for {
				rec, err := r.Next()
				if err != nil {
					if err != io.EOF {
						t.Error(err)
					}
					return
				}
				var n int
				fmt.Sscanf(string(rec.Text), "line %d", &n)
				got <- n
			}
		}()
		if n := <-got; n != 0 {
			t.Fatalf("first is %d", n)
		}
		const total = 2000
		go func() {
			for i := 1; i < total; i++ {
				l.add(i)
			}
			close(ended)
		}()
		next := 1
		for n := range got {
			if n != next {
				t.Fatalf("got %d, want %d", n, next)
			}
			next++
		}
		if next != total {
			t.Errorf("followed to %d of %d", next, total)
		}
	}
}

// One file only, emptied when it is full: who follows goes on, though what he had not read is lost.
func TestFollowTruncation(t *testing.T) {
	t.Parallel()
	l := newLog(t, 300, 1)
	ended := make(chan struct{})
	r, err := NewReader(l.path, Options{Stdout: true, Stderr: true, Tail: -1, Follow: true, Ended: ended})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 50 {
		l.add(i)
		rec, err := r.Next()
		if err != nil || string(rec.Text) != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("%d: %q, %v", i, rec.Text, err)
		}
	}
}

func TestCloseEndsNext(t *testing.T) {
	t.Parallel()
	l := newLog(t, 0, 1)
	r, err := NewReader(l.path, Options{Stdout: true, Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { _, err := r.Next(); done <- err }()
	r.Close()
	if err := <-done; err == nil {
		t.Error("no error")
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"}` + "\n"))
	f.Add([]byte(`{"log":"\ud83d\ude00\ud800","stream":"stderr","attrs":{"a":"b"},"time":"2026-01-02T03:04:05Z"}` + "\n{\"log"))
	f.Add([]byte("\n\n{}\n" + `{"stream":"stdout","log":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Skip()
		}
		for _, n := range []int{-1, 2} {
			r, err := NewReader(path, Options{Stdout: true, Stderr: true, Tail: n})
			if err != nil {
				t.Fatal(err)
			}
			for count := 0; ; count++ {
				if _, err := r.Next(); err != nil {
					break
				}
				if count > bytes.Count(data, []byte("\n"))+1 || n > 0 && count > n+1 {
					t.Fatal("more records than lines")
				}
			}
			r.Close()
		}
		// The fast decoder agrees with encoding/json wherever it says anything.
		for _, line := range bytes.Split(data, []byte("\n")) {
			rec, _, ok := decodeFast(line, nil)
			if !ok {
				continue
			}
			var slow struct {
				Log    string
				Stream string
				Time   time.Time
			}
			if json.Unmarshal(line, &slow) == nil && (slow.Log != string(rec.Text) || slow.Stream != rec.Stream || !slow.Time.Equal(rec.Time)) {
				t.Errorf("%q: %q, encoding/json says %q", line, rec.Text, slow.Log)
			}
		}
	})
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte("a\xff\u2028<\n"))
	f.Fuzz(func(t *testing.T, log []byte) {
		line := Append(nil, log, "stdout", "", at)
		rec, _, ok := decodeFast(line, nil)
		var slow struct{ Log string }
		if err := json.Unmarshal(line, &slow); err != nil || !ok || slow.Log != string(rec.Text) {
			t.Errorf("%q: %v, %q and %q", line, err, slow.Log, rec.Text)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	src := bytes.Repeat([]byte("a line of a log, of about the usual length, with a number 12345\n"), 1000)
	out := make([]byte, 0, 512<<10)
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		Encode(out, src, "stdout", "", at, time.Time{}, false, 1<<20)
	}
}
