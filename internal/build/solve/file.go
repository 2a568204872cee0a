package solve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// fileState is what an action left behind.
type fileState struct {
	draft *layer.Draft
	w     *layer.Writer // open while the next action may go on
	ref   *Ref          // finished
}

// file does a File's actions. Those that follow each other write the same draft.
func (j *job) file(ctx context.Context, op *graph.File, ins []*Ref) (outs []*Ref, err error) {
	uses := make([]int, len(op.Actions))
	outputs := 0
	for _, a := range op.Actions {
		for _, n := range referred(&a) {
			if n >= len(ins) {
				uses[n-len(ins)]++
			}
		}
		if a.Output != graph.NoOutput {
			outputs++
		}
	}
	x := filer{j: j, ctx: ctx, ins: ins, states: make([]*fileState, len(op.Actions))}
	defer func() {
		for i, st := range x.states {
			if st == nil || st.draft == nil {
				continue
			}
			if st.w != nil {
				st.w.Close()
			}
			if err != nil || op.Actions[i].Output == graph.NoOutput {
				st.draft.Release()
			}
		}
	}()
	outs = make([]*Ref, outputs)
	for i := range op.Actions {
		a := &op.Actions[i]
		st := &fileState{}
		x.states[i] = st
		prev := (*fileState)(nil)
		if n := a.Input - len(ins); n >= 0 {
			prev = x.states[n]
			if prev.w != nil && uses[n] == 1 && op.Actions[n].Output == graph.NoOutput {
				st.draft, st.w = prev.draft, prev.w
				*prev = fileState{}
			}
		}
		if st.w == nil {
			below, err := x.ref(a.Input)
			if err != nil {
				return nil, err
			}
			if st.draft, err = j.s.newDraft(below); err != nil {
				return nil, err
			}
			if st.w, err = st.draft.Write(ctx); err != nil {
				return nil, err
			}
		}
		if err := x.act(a, st.w); err != nil {
			return nil, err
		}
		if a.Output != graph.NoOutput {
			if outs[a.Output], err = x.finish(st); err != nil {
				return nil, err
			}
		}
	}
	return outs, nil
}

// referred lists the file systems that an action names.
func referred(a *graph.Action) []int {
	list := []int{a.Input}
	if a.Copy != nil {
		list = append(list, a.From)
	}
	return list
}

// newDraft begins a draft on a file system.
func (s *Solver) newDraft(below *Ref) (*layer.Draft, error) {
	if below.tree != nil {
		return nil, errs.NotImplemented.Errorf("a folder cannot be built upon")
	}
	if below.draft != nil {
		return s.Layers.NewDraft(below.draft, "")
	}
	return s.Layers.NewDraft(nil, below.chain)
}

type filer struct {
	j      *job
	ctx    context.Context
	ins    []*Ref
	states []*fileState
}

// ref is the finished file system n.
func (x *filer) ref(n int) (*Ref, error) {
	switch {
	case n == graph.Scratch:
		return &Ref{}, nil
	case n < len(x.ins):
		return x.ins[n], nil
	}
	return x.finish(x.states[n-len(x.ins)])
}

func (x *filer) finish(st *fileState) (*Ref, error) {
	if st.ref != nil {
		return st.ref, nil
	}
	if st.w != nil {
		err := st.w.Close()
		st.w = nil
		if err != nil {
			return nil, err
		}
	}
	if err := st.draft.Finish(x.ctx, x.j.finishing(nil)); err != nil {
		return nil, err
	}
	st.ref = &Ref{draft: st.draft, empty: st.draft.Empty()}
	return st.ref, nil
}

func (j *job) finishing(stubs []string) layer.FinishOptions {
	o := layer.FinishOptions{Stubs: stubs}
	if j.Epoch != nil {
		o.Epoch = *j.Epoch
	}
	return o
}

func (x *filer) act(a *graph.Action, w *layer.Writer) error {
	stamp := func(t *int64) *time.Time {
		if t == nil {
			return nil
		}
		u := time.Unix(*t, 0)
		return &u
	}
	when := func(t *int64) time.Time {
		if u := stamp(t); u != nil {
			return *u
		}
		return time.Now()
	}
	switch {
	case a.Copy != nil:
		from, err := x.ref(a.From)
		if err != nil {
			return err
		}
		f, done, err := x.j.s.read(from)
		if err != nil {
			return err
		}
		defer done()
		c := copier{ctx: x.ctx, w: w, f: f, c: a.Copy}
		if c.owner, err = x.owner(a.Copy.Owner, w, a.Input); err != nil {
			return err
		}
		return c.run()
	case a.MkFile != nil:
		owner, err := x.owner(a.MkFile.Owner, w, a.Input)
		if err != nil {
			return err
		}
		n := layer.Node{Mode: layer.TypeFile | a.MkFile.Mode&0o7777, Size: int64(len(a.MkFile.Data)), Mtime: when(a.MkFile.Timestamp)}
		if owner != nil {
			n.UID, n.GID = owner[0], owner[1]
		}
		if there, ok, err := w.Lookup(a.MkFile.Path, false); err != nil {
			return err
		} else if ok && there.IsDir() {
			return errs.Invalid.Errorf("open %s: is a directory", a.MkFile.Path)
		}
		return w.Put(a.MkFile.Path, &n, bytes.NewReader(a.MkFile.Data))
	case a.MkDir != nil:
		return x.mkdir(a.MkDir, w, a.Input, stamp(a.MkDir.Timestamp))
	case a.Rm != nil:
		return remove(a.Rm, w)
	case a.Symlink != nil:
		owner, err := x.owner(a.Symlink.Owner, w, a.Input)
		if err != nil {
			return err
		}
		n := layer.Node{Mode: layer.TypeLink | 0o777, Link: a.Symlink.Old, Mtime: when(a.Symlink.Timestamp)}
		if owner != nil {
			n.UID, n.GID = owner[0], owner[1]
		}
		if _, ok, err := w.Lookup(a.Symlink.New, false); err != nil {
			return err
		} else if ok {
			return errs.Conflict.Errorf("symlink %s: file exists", a.Symlink.New)
		}
		return w.Put(a.Symlink.New, &n, nil)
	}
	return nil
}

func (x *filer) mkdir(m *graph.MkDir, w *layer.Writer, input int, mtime *time.Time) error {
	owner, err := x.owner(m.Owner, w, input)
	if err != nil {
		return err
	}
	var uid, gid uint32
	if owner != nil {
		uid, gid = owner[0], owner[1]
	}
	if !m.Parents {
		up := path.Dir(path.Clean("/" + m.Path))
		if there, ok, err := w.Lookup(up, true); err != nil {
			return err
		} else if !ok || !there.IsDir() {
			return errs.NotFound.Errorf("mkdir %s: no such file or directory", m.Path)
		}
	}
	return w.MkdirAll(m.Path, m.Mode, uid, gid, mtime)
}

func remove(r *graph.Rm, w *layer.Writer) error {
	names := []string{path.Clean("/" + r.Path)}
	if r.Wildcard && strings.ContainsAny(r.Path, `*?[\`) {
		var err error
		if names, err = resolve(written{w}, &graph.Copy{Src: r.Path, Wildcard: true, EmptyWildcard: true}); err != nil {
			return err
		}
	}
	found := false
	for _, n := range names {
		ok, err := w.Remove(n)
		if err != nil {
			return err
		}
		found = found || ok
	}
	if !found && !r.AllowNotFound {
		return errs.NotFound.Errorf("remove %s: no such file or directory", r.Path)
	}
	return nil
}

// written looks at what a Writer has made, for wildcards.
type written struct{ *layer.Writer }

func (w written) Stat(name string) (layer.Node, error) {
	n, ok, err := w.Lookup(name, false)
	if err == nil && !ok {
		err = &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
	}
	return n, err
}

// owner looks an owner up; nil is nil.
func (x *filer) owner(o *graph.Owner, w *layer.Writer, input int) (*[2]uint32, error) {
	if o == nil {
		return nil, nil
	}
	var out [2]uint32
	group := uint32(0)
	if u := o.User; u != nil {
		out[0], group = u.ID, u.ID
		if u.Name != "" {
			uid, gid, ok, err := x.account(u, w, input, "/etc/passwd")
			if err != nil {
				return nil, err
			}
			if !ok && u.Required {
				return nil, errs.Invalid.Errorf("unable to convert uid/gid chown string to host mapping: can't find uid for user %s: no such user: %s", u.Name, u.Name)
			}
			out[0], group = uid, gid
		}
	}
	out[1] = group
	if g := o.Group; g != nil {
		out[1] = g.ID
		if g.Name != "" {
			gid, _, ok, err := x.account(g, w, input, "/etc/group")
			if err != nil {
				return nil, err
			}
			if !ok && g.Required {
				return nil, errs.Invalid.Errorf("unable to convert uid/gid chown string to host mapping: can't find gid for group %s: no such group: %s", g.Name, g.Name)
			}
			out[1] = gid
		}
	}
	return &out, nil
}

// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
const maxAccounts = 8 << 20

// account finds a name in /etc/passwd or /etc/group (passwd(5), group(5)): its number, and for a user the primary group's.
func (x *filer) account(p *graph.Principal, w *layer.Writer, input int, file string) (id, gid uint32, ok bool, err error) {
	var data []byte
	if p.Input == input {
		data, err = w.ReadFile(file, maxAccounts)
	} else {
		var r *Ref
		if r, err = x.ref(p.Input); err != nil {
			return 0, 0, false, err
		}
		data, err = x.j.s.readFile(x.ctx, r, file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, false, nil
	}
	if err != nil {
		return 0, 0, false, err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 && file == "/etc/passwd" || len(f) < 3 || f[0] != p.Name {
			continue
		}
		n, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		if file == "/etc/passwd" {
			g, err := strconv.ParseUint(f[3], 10, 32)
			if err != nil {
				continue
			}
			return uint32(n), uint32(g), true, nil
		}
		return uint32(n), 0, true, nil
	}
	return 0, 0, false, nil
}

// readFile reads a small file, links followed.
func (s *Solver) readFile(ctx context.Context, r *Ref, name string) ([]byte, error) {
	f, done, err := s.read(r)
	if err != nil {
		return nil, err
	}
	defer done()
	at, _, err := followed(f, name)
	if err != nil {
		return nil, err
	}
	in, err := f.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return readAll(in, maxAccounts)
}

func (written) Open(context.Context, string) (io.ReadCloser, error) { return nil, fs.ErrInvalid }
