package build

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
	"gantry/internal/build/session/wire"
	"gantry/internal/cli/command"
)

// display shows what happens. Its methods are called by one goroutine at a time.
type display interface {
	event(wire.Event)
	close()
	warned() int // how many warnings there were
	// report shows, at the end, what failed and what there is to say about the Dockerfile.
	report(file string, dockerfile []byte)
}

func newDisplay(env *command.Env, o *options) (display, error) {
	kind := o.progress
	if o.quiet {
		kind = "quiet"
	}
	if kind == "auto" || kind == "" {
		if kind = "plain"; env.IO.ErrIsTerminal() && os.Getenv("TERM") != "dumb" && os.Getenv("BUILDKIT_PROGRESS") != "plain" {
			kind = "tty"
		}
	}
	b := book{w: env.IO.Err, why: o.why, check: o.check || o.call == "check", at: map[digest.Digest]*step{}, out: env.IO.Out}
	switch kind {
	case "plain":
		return &plain{book: b}, nil
	case "tty":
		if !env.IO.ErrIsTerminal() {
			return nil, errors.New("failed to get console: provided file is not a console")
		}
		return newTerminal(b), nil
	case "rawjson":
		return &raw{book: b, enc: json.NewEncoder(env.IO.Err)}, nil
	case "quiet":
		return &quiet{book: b}, nil
	}
	return nil, fmt.Errorf("invalid progress %q: auto, plain, tty, rawjson and quiet are known", kind)
}

// step is a vertex as it is shown.
type step struct {
	wire.Vertex
	number         int // as people count, from 1, when it is first heard of
	began, ended   time.Time
	cached, failed bool
	why            string
	tail           []string // its last lines
	rest           []byte   // a line that has not ended
	status         map[string]*part
	order          []string
}

// part is how far a part of a step is.
type part struct {
	action         string
	current, total int64
	done           bool
}

// book is what all displays know.
type book struct {
	w, out     io.Writer
	why, check bool
	steps      []*step // in the order in which they began
	at         map[digest.Digest]*step
	warnings   []graph.Warning
	wrong      []graph.Range // lines of the Dockerfile that could not be understood
	total      int           // steps that will be shown
	begun      time.Time
}

func (b *book) warned() int { return len(b.warnings) }

// tailLines is how many lines of a step's output are kept for when it fails.
const tailLines = 40

// take notes an event and returns the step that it is about; nil if it is about none, or none that is shown.
func (b *book) take(e wire.Event) (s *step, fresh bool) {
	if b.begun.IsZero() {
		b.begun = e.Time
	}
	if e.Kind == "planned" {
		for _, v := range e.Vertices {
			if b.at[v.Digest] == nil {
				b.at[v.Digest] = &step{Vertex: v, status: map[string]*part{}}
				if !v.Internal {
					b.total++
				}
			}
		}
		b.warnings = append(b.warnings, e.Warnings...)
		return nil, false
	}
	if e.Kind == wire.Ended {
		b.wrong = e.Source
		return nil, false
	}
	if s = b.at[e.Vertex]; s == nil {
		return nil, false
	}
	if s.number == 0 && (!s.Internal || e.Kind == "failed") {
		b.steps = append(b.steps, s)
		s.number, fresh = len(b.steps), true
	}
	switch e.Kind {
	case "started":
		s.began, s.why = e.Time, e.Why
	case "cached":
		s.cached, s.ended = true, e.Time
	case "completed":
		s.ended = e.Time
	case "failed":
		s.ended, s.failed = e.Time, true
	case "logged":
		s.rest = append(s.rest, e.Data...)
	case "reported":
		if e.Status != nil {
			p := s.status[e.Status.ID]
			if p == nil {
				p = &part{}
				s.status[e.Status.ID] = p
				s.order = append(s.order, e.Status.ID)
			}
			p.action, p.current, p.total, p.done = e.Status.Action, e.Status.Current, e.Status.Total, e.Status.Done
		}
	}
	if s.Internal && s.number == 0 {
		return nil, false
	}
	return s, fresh
}

// maxLine is when a line without an end is shown all the same, in bytes.
const maxLine = 8 << 10

// lines takes what is whole of the step's output; all of it with flush.
func (s *step) lines(flush bool) (out []string) {
	for {
		i := bytes.IndexByte(s.rest, '\n')
		if i < 0 {
			if flush && len(s.rest) > 0 || len(s.rest) > maxLine {
				i = len(s.rest)
			} else {
				break
			}
		}
		line := strings.TrimSuffix(string(s.rest[:i]), "\r")
		if j := strings.LastIndexByte(line, '\r'); j >= 0 { // bars that a program draws over each other
			line = line[j+1:]
		}
		s.rest = s.rest[min(i+1, len(s.rest)):]
		out = append(out, line)
		if s.tail = append(s.tail, line); len(s.tail) > tailLines {
			s.tail = s.tail[1:]
		}
	}
	return out
}

func (s *step) took() string { return seconds(s.ended.Sub(s.began)) }

func seconds(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

func (b *book) report(file string, dockerfile []byte) {
	for _, s := range b.steps {
		if s.failed {
			s.lines(true)
			b.failure(s, file, dockerfile)
		}
	}
	excerpt(b.w, file, dockerfile, b.wrong)
	b.remarks(file, dockerfile)
}

// failure shows the step that failed: its last output, and its lines of the Dockerfile.
func (b *book) failure(s *step, file string, dockerfile []byte) {
	if len(s.tail) > 0 {
		fmt.Fprintf(b.w, "------\n > %s:\n", s.Name)
		for _, l := range s.tail {
			fmt.Fprintln(b.w, l)
		}
		fmt.Fprintln(b.w, "------")
	}
	excerpt(b.w, file, dockerfile, s.Source)
}

// excerpt shows lines of a file with what is around them.
func excerpt(w io.Writer, file string, text []byte, at []graph.Range) {
	if len(at) == 0 || len(text) == 0 {
		return
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	first, last := at[0].Start, at[0].End
	from, to := max(first-2, 1), min(last+2, len(lines))
	if file == "" {
		file = "Dockerfile"
	}
	fmt.Fprintf(w, "%s:%d\n--------------------\n", file, first)
	for n := from; n <= to; n++ {
		mark := "   "
		for _, r := range at {
			if n >= r.Start && n <= r.End {
				mark = ">>>"
			}
		}
		fmt.Fprintf(w, "%4d | %s %s\n", n, mark, strings.TrimSuffix(lines[n-1], "\r"))
	}
	fmt.Fprintln(w, "--------------------")
}

// remarks shows the warnings: each with its lines when only they were asked for, else one line each.
func (b *book) remarks(file string, dockerfile []byte) {
	switch n := len(b.warnings); {
	case b.check && n == 0:
		fmt.Fprintln(b.out, "Check complete, no warnings found.")
		return
	case n == 0:
		return
	case b.check:
		fmt.Fprintf(b.out, "Check complete, %s found!\n", plural(n, "warning has been", "warnings have been"))
	default:
		fmt.Fprintf(b.w, "\n %s found (use --check to see them with their lines):\n", plural(n, "warning", "warnings"))
	}
	for _, w := range b.warnings {
		line := 0
		if len(w.Source) > 0 {
			line = w.Source[0].Start
		}
		if !b.check {
			fmt.Fprintf(b.w, " - %s: %s (line %d)\n", w.Rule, w.Message, line)
			continue
		}
		fmt.Fprintf(b.out, "\nWARNING: %s", w.Rule)
		if w.URL != "" {
			fmt.Fprintf(b.out, " - %s", w.URL)
		}
		fmt.Fprintln(b.out)
		if w.Description != "" {
			fmt.Fprintln(b.out, w.Description)
		}
		if w.Message != w.Description {
			fmt.Fprintln(b.out, w.Message)
		}
		excerpt(b.out, file, dockerfile, w.Source)
	}
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}

// plain is lines, for files and for people who read them.
type plain struct {
	book
	last *step
}

func (p *plain) event(e wire.Event) {
	if e.Kind == "exporting" {
		fmt.Fprintf(p.w, "%s\n", e.Text)
		return
	}
	s, fresh := p.take(e)
	if s == nil {
		return
	}
	if fresh || p.last != s && (e.Kind != "reported" || e.Status != nil && e.Status.Done) {
		if p.last != nil {
			fmt.Fprintln(p.w)
		}
		fmt.Fprintf(p.w, "#%d %s\n", s.number, s.Name)
		p.last = s
	}
	for _, l := range s.lines(!s.ended.IsZero()) {
		fmt.Fprintf(p.w, "#%d %s\n", s.number, strings.TrimRight(fmt.Sprintf("%.3f %s", max(e.Time.Sub(s.began), 0).Seconds(), l), " "))
	}
	switch e.Kind {
	case "started":
		if p.why && e.Why != "" {
			fmt.Fprintf(p.w, "#%d not cached: %s\n", s.number, e.Why)
		}
	case "cached":
		fmt.Fprintf(p.w, "#%d CACHED\n", s.number)
	case "completed":
		fmt.Fprintf(p.w, "#%d DONE %s\n", s.number, s.took())
	case "failed":
		fmt.Fprintf(p.w, "#%d ERROR: %s\n", s.number, e.Error)
	case "reported":
		if e.Status != nil && e.Status.Done {
			fmt.Fprintf(p.w, "#%d %s\n", s.number, strings.TrimSpace(e.Status.ID+" "+e.Status.Action))
		}
	}
}

func (p *plain) close() {}

// quiet shows nothing but what failed.
type quiet struct{ book }

func (q *quiet) event(e wire.Event) {
	if s, _ := q.take(e); s != nil {
		s.lines(!s.ended.IsZero())
	}
}

func (q *quiet) close() {}

// raw gives BuildKit's statuses as JSON, a line each.
type raw struct {
	book
	enc *json.Encoder
}

type rawVertex struct {
	Digest    digest.Digest   `json:"digest"`
	Inputs    []digest.Digest `json:"inputs,omitempty"`
	Name      string          `json:"name"`
	Started   *time.Time      `json:"started,omitempty"`
	Completed *time.Time      `json:"completed,omitempty"`
	Cached    bool            `json:"cached,omitempty"`
	Error     string          `json:"error,omitempty"`
}

type rawStatus struct {
	ID        string        `json:"id"`
	Vertex    digest.Digest `json:"vertex"`
	Name      string        `json:"name,omitempty"`
	Current   int64         `json:"current"`
	Total     int64         `json:"total,omitempty"`
	Timestamp time.Time     `json:"timestamp"`
	Completed *time.Time    `json:"completed,omitempty"`
}

type rawLog struct {
	Vertex    digest.Digest `json:"vertex"`
	Stream    int           `json:"stream"`
	Data      []byte        `json:"data"`
	Timestamp time.Time     `json:"timestamp"`
}

type rawWarning struct {
	Level int             `json:"level"`
	Short []byte          `json:"short"`
	URL   string          `json:"url,omitempty"`
	Range []graph.Range   `json:"range,omitempty"`
	Text  [][]byte        `json:"detail,omitempty"`
	Info  json.RawMessage `json:"sourceInfo,omitempty"`
}

type rawLine struct {
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Statuses []rawStatus  `json:"statuses,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

func (r *raw) event(e wire.Event) {
	s, _ := r.take(e)
	var line rawLine
	switch {
	case e.Kind == "planned":
		for _, w := range e.Warnings {
			line.Warnings = append(line.Warnings, rawWarning{Level: 1, Short: []byte(w.Rule + ": " + w.Message), URL: w.URL, Range: w.Source, Text: [][]byte{[]byte(w.Description)}})
		}
		for _, v := range e.Vertices {
			line.Vertexes = append(line.Vertexes, rawVertex{Digest: v.Digest, Inputs: v.Inputs, Name: v.Name})
		}
	case s == nil:
		return
	case e.Kind == "logged":
		s.lines(false)
		line.Logs = []rawLog{{s.Digest, e.Stream, e.Data, e.Time}}
	case e.Kind == "reported":
		x := rawStatus{ID: e.Status.ID, Vertex: s.Digest, Name: e.Status.Action, Current: e.Status.Current, Total: e.Status.Total, Timestamp: e.Time}
		if e.Status.Done {
			x.Completed = &e.Time
		}
		line.Statuses = []rawStatus{x}
	default:
		v := rawVertex{Digest: s.Digest, Inputs: s.Inputs, Name: s.Name, Cached: s.cached, Error: e.Error}
		if !s.began.IsZero() {
			v.Started = &s.began
		}
		if !s.ended.IsZero() {
			v.Completed = &s.ended
		}
		line.Vertexes = []rawVertex{v}
	}
	_ = r.enc.Encode(line)
}

func (r *raw) close() {}
