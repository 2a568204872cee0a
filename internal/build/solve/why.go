package solve

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
)

// trace is what a step was made from when it was last done, to tell what differs the next time. Traces are in memory
// only: they help people, nothing depends on them.
type trace struct {
	fields []graph.Field
	ins    []string                 // what the inputs were known by; "" for folders
	files  map[string]digest.Digest // of what it took of folders: by path
}

// Bounds of what is remembered.
const (
	maxTraces     = 500
	maxTraceFiles = 20_000 // names, of one step
	shownChanges  = 3
)

// why compares a step that must be done with the last of its kind, and remembers it.
func (j *job) why(v *graph.Vertex, ins []*Ref) string {
	now := &trace{fields: v.Fields()}
	for _, r := range ins {
		now.ins = append(now.ins, r.id)
	}
	for _, p := range parts(v) {
		if r := ins[p.input]; r.tree != nil {
			now.take(j, r, p.c)
		}
	}
	key := v.Meta.Stage + "\x00" + v.Meta.Command + "\x00" + v.Op.Kind()
	s := j.s
	s.mu.Lock()
	was := s.traces[key]
	if was == nil {
		if len(s.traceOrder) >= maxTraces {
			delete(s.traces, s.traceOrder[0])
			s.traceOrder = s.traceOrder[1:]
		}
		s.traceOrder = append(s.traceOrder, key)
	}
	s.traces[key] = now
	s.mu.Unlock()
	switch {
	case v.Meta.IgnoreCache:
		return "it is to be done again (--no-cache)"
	case was == nil:
		return "no such step was done since the engine started"
	}
	return was.differs(now)
}

// take notes the files that a copy takes of a folder.
func (t *trace) take(j *job, r *Ref, c *graph.Copy) {
	if t.files == nil {
		t.files = map[string]digest.Digest{}
	}
	// An error here comes again where it counts.
	_ = selected(j.ctx, r.tree, c, func(it *item) error {
		if len(t.files) >= maxTraceFiles {
			return nil
		}
		n := &it.node
		d := digest.Digest(fmt.Sprintf("%o %d:%d %s", n.Mode, n.UID, n.GID, n.Link))
		if n.IsRegular() {
			if e, err := r.tree.Find(it.path); err == nil {
				d += e.Digest
			}
		}
		t.files[strings.TrimPrefix(it.path, "/")] = d
		return nil
	})
}

// differs says in a few words what is not as it was.
func (t *trace) differs(now *trace) string {
	var list []string
	for path, d := range now.files {
		switch old, ok := t.files[path]; {
		case !ok:
			list = append(list, "file "+path+" is new")
		case old != d:
			list = append(list, "file "+path+" changed")
		}
	}
	for path := range t.files {
		if _, ok := now.files[path]; !ok {
			list = append(list, "file "+path+" is gone")
		}
	}
	slices.Sort(list)
	old := map[string]string{}
	for _, f := range t.fields {
		old[f.Path] = f.Value
	}
	for _, f := range now.fields {
		if was, ok := old[f.Path]; !ok {
			list = append(list, short60(f.Value)+" is new")
		} else if was != f.Value {
			list = append(list, short60(f.Value)+" was "+short60(was))
		}
		delete(old, f.Path)
	}
	for _, f := range t.fields {
		if was, ok := old[f.Path]; ok {
			list = append(list, short60(was)+" is gone")
		}
	}
	if len(list) == 0 {
		if !slices.Equal(t.ins, now.ins) {
			return "what it builds on was made anew"
		}
		return "its result is not in the cache any more"
	}
	if n := len(list) - shownChanges; n > 0 {
		list = append(list[:shownChanges], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(list, ", ")
}

func short60(s string) string {
	if r := []rune(s); len(r) > 60 {
		return string(r[:57]) + "..."
	}
	return s
}
