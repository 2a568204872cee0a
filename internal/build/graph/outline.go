package graph

import (
	"fmt"
	"io"
	"strings"
)

// Outline writes g for people: a paragraph for each vertex, which names its inputs by number and lists its fields.
//
//	2 exec ← 1  [2/2] RUN make  (line 3)
//	  Args[0] = "/bin/sh"
func (g *Graph) Outline(w io.Writer) error {
	number := map[*Vertex]int{}
	for i, v := range g.Vertices {
		number[v] = i + 1
		var b strings.Builder
		fmt.Fprintf(&b, "%d %s", i+1, v.Op.Kind())
		for j, in := range v.Inputs {
			b.WriteString([]string{", ", " ← "}[b2i(j == 0)])
			fmt.Fprintf(&b, "%d", number[in.Vertex])
			if in.Output != 0 {
				fmt.Fprintf(&b, ".%d", in.Output)
			}
		}
		if v.Meta.Name != "" {
			fmt.Fprintf(&b, "  %s", strings.ReplaceAll(v.Meta.Name, "\n", "\\n"))
		}
		if s := Lines(v.Meta.Source); s != "" {
			fmt.Fprintf(&b, "  (%s)", s)
		}
		if v.Meta.IgnoreCache {
			b.WriteString("  no cache")
		}
		b.WriteByte('\n')
		fields := v.Fields()
		for i := 0; i < len(fields); i++ {
			f := fields[i]
			fmt.Fprintf(&b, "  %s = ", strings.TrimPrefix(f.Path, v.Op.Kind()+"."))
			// A list of plain values stands on one line.
			item := func(n int) bool {
				return i+n < len(fields) && fields[i+n].Path == fmt.Sprintf("%s[%d]", f.Path, n-1)
			}
			if !item(1) {
				fmt.Fprintf(&b, "%q\n", f.Value)
				continue
			}
			var list []string
			for n := 1; item(n); n++ {
				list = append(list, fields[i+n].Value)
			}
			fmt.Fprintf(&b, "%q\n", list)
			i += len(list)
		}
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// Lines tells ranges as "line 3" or "lines 3-5, 7"; "" without any.
func Lines(ranges []Range) string {
	if len(ranges) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("line")
	if len(ranges) > 1 || ranges[0].Start != ranges[0].End {
		b.WriteByte('s')
	}
	for i, r := range ranges {
		b.WriteString([]string{", ", " "}[b2i(i == 0)])
		fmt.Fprint(&b, r.Start)
		if r.End != r.Start {
			fmt.Fprintf(&b, "-%d", r.End)
		}
	}
	return b.String()
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
