// Package formatter prints every table of the command line, and what --format makes of the same things: table, json, raw
// text of a Go template, or "table TEMPLATE".
//
// A thing to print is wrapped in a context whose methods are the names a template may use; they are Docker's, and the types'
// names too, for they are in the messages of a template that asks for what is not there.
package formatter

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"

	"gantry/internal/cli/screen"
)

// Format is what --format was given.
type Format string

// IsTable reports whether it prints columns with a header.
func (f Format) IsTable() bool { return f == "" || strings.HasPrefix(string(f), "table") }

// Uses reports whether the template names a field, so that costly ones are asked for only then.
func (f Format) Uses(field string) bool { return strings.Contains(string(f), "."+field) }

// Column is a column of a default table.
type Column struct {
	Header string
	Field  string
}

// Write prints rows. columns are the default table's; headers are the words over each field. A row must be a pointer to a context.
func Write[T any](w io.Writer, f Format, columns []Column, headers map[string]string, rows []T, cell func(row T, field string) string) error {
	if f == "" || f == "table" {
		writeTable(w, columns, rows, cell)
		return nil
	}
	text := strings.TrimSpace(string(f))
	table := f.IsTable()
	if table {
		text = strings.TrimSpace(strings.TrimPrefix(text, "table"))
	}
	if text == "json" {
		text = "{{json .}}"
	}
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := Template("").Parse(text)
	if err != nil {
		return fmt.Errorf("failed to parse template: %w", err)
	}
	// Nothing is printed of a template that fails.
	var body bytes.Buffer
	for _, r := range rows {
		if err := t.Execute(&body, r); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
		body.WriteByte('\n')
	}
	if !table {
		_, err := body.WriteTo(w)
		return err
	}
	tw := screen.NewTabs(w, 10, 1, 3)
	head := bytes.NewBufferString("")
	ht, err := template.New("").Funcs(functions()).Funcs(headerFunctions()).Parse(text)
	if err == nil {
		err = ht.Execute(head, header(headers))
	}
	if err != nil {
		return fmt.Errorf("failed to execute template: %w", err)
	}
	head.WriteTo(tw)
	io.WriteString(tw, "\n")
	body.WriteTo(tw)
	return tw.Flush()
}

func writeTable[T any](w io.Writer, columns []Column, rows []T, cell func(T, string) string) {
	lines := make([][]string, 0, len(rows)+1)
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i] = c.Header
	}
	lines = append(lines, head)
	for _, r := range rows {
		l := make([]string, len(columns))
		for i, c := range columns {
			l[i] = cell(r, c.Field)
		}
		lines = append(lines, l)
	}
	Table(w, lines)
}

// Table prints lines with columns at least ten wide and three apart.
func Table(w io.Writer, lines [][]string) {
	var width []int
	for _, l := range lines {
		for i, c := range l {
			if i == len(width) {
				width = append(width, 10)
			}
			width[i] = max(width[i], screen.Width(c)+3)
		}
	}
	var b bytes.Buffer
	for _, l := range lines {
		for i, c := range l {
			b.WriteString(c)
			if i < len(l)-1 {
				for n := width[i] - screen.Width(c); n > 0; n-- {
					b.WriteByte(' ')
				}
			}
		}
		b.WriteByte('\n')
	}
	b.WriteTo(w)
}

// Template returns an empty template with Docker's functions.
func Template(name string) *template.Template { return template.New(name).Funcs(functions()) }

func functions() template.FuncMap {
	return template.FuncMap{
		"json": func(v any) (string, error) {
			b := &bytes.Buffer{}
			e := json.NewEncoder(b)
			e.SetEscapeHTML(false)
			err := e.Encode(v)
			return strings.TrimSpace(b.String()), err
		},
		"split": strings.Split,
		"join":  strings.Join,
		"title": func(s string) string {
			out, last := []rune(s), ' '
			for i, r := range out {
				if !unicode.IsLetter(last) && !unicode.IsDigit(last) && last != '_' && last != '\'' {
					out[i] = unicode.ToTitle(r)
				}
				last = r
			}
			return string(out)
		},
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return s
			}
			return strings.Repeat(" ", max(before, 0)) + s + strings.Repeat(" ", max(after, 0))
		},
		"truncate": func(s string, n int) string {
			if n < 0 || len(s) < n {
				return s
			}
			r := []rune(s)
			return string(r[:min(n, len(r))])
		},
		"println": func(a ...any) string { return fmt.Sprintln(a...) },
	}
}

// headerFunctions leave a header as it is: {{json .ID}} stands under CONTAINER ID.
func headerFunctions() template.FuncMap {
	same := func(s string) string { return s }
	return template.FuncMap{
		"json": same, "title": same, "lower": same, "upper": same,
		"truncate": func(s string, _ int) string { return s },
		"join":     func(s string, _ string) string { return s },
		"split":    func(s string, _ string) string { return s },
		"println":  same,
		"pad":      func(s string, _, _ int) string { return s },
	}
}

// header is the words over the fields.
type header map[string]string

// Label is the word over {{.Label "com.docker.swarm-mode_x"}}: its last part, in capitals, with blanks.
func (header) Label(name string) string {
	n := strings.Split(name, ".")
	return strings.NewReplacer("-", " ", "_", " ").Replace(n[len(n)-1])
}

// Truncate cuts s to n columns, the last of them an ellipsis.
func Truncate(s string, n int) string {
	if n <= 0 {
		return ""
	}
	if n == 1 {
		r, _ := utf8.DecodeRuneInString(s)
		return string(r)
	}
	r := []rune(s)
	wide := 0
	at := -1
	for i, c := range r {
		wide += screen.RuneWidth(c)
		if wide > n-1 && at < 0 {
			at = i
		}
	}
	if wide <= n || at < 0 {
		return s
	}
	return string(r[:at]) + "…"
}

// marshal makes JSON of a context: every method without arguments that returns one value, by name.
func marshal(v any) ([]byte, error) {
	out := map[string]any{}
	rv := reflect.ValueOf(v)
	for i := range rv.NumMethod() {
		m := rv.Type().Method(i)
		if m.Name == "MarshalJSON" || m.Type.NumIn() != 1 || m.Type.NumOut() != 1 {
			continue
		}
		out[m.Name] = rv.Method(i).Call(nil)[0].Interface()
	}
	return json.Marshal(out)
}
