package solve

import (
	"context"
	"slices"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// merge lays the layers of all inputs over each other.
func (j *job) merge(ctx context.Context, ins []*Ref) ([]*Ref, error) {
	var dirs []string
	for _, in := range ins[1:] {
		dirs = append(dirs, j.s.pile(in)...)
	}
	bottom := ins[0]
	top, err := j.stack(ctx, bottom, dirs)
	if err != nil {
		return nil, err
	}
	if top == bottom {
		top = &Ref{chain: bottom.chain, draft: hold(bottom.draft), empty: true}
	}
	return []*Ref{top}, nil
}

// stack copies directories of layers on top of below, each to a layer of its own. Of none it returns below itself.
func (j *job) stack(ctx context.Context, below *Ref, dirs []string) (*Ref, error) {
	var last *layer.Draft
	for _, dir := range dirs {
		d, err := j.s.newDraft(below)
		if last != nil {
			last.Release() // held by d
		}
		if err != nil {
			return nil, err
		}
		last = d
		if err = d.Copy(ctx, dir); err == nil {
			err = d.Finish(ctx, j.finishing(nil))
		}
		if err != nil {
			d.Release()
			return nil, err
		}
		below = &Ref{draft: d, empty: d.Empty()}
	}
	return below, nil
}

func hold(d *layer.Draft) *layer.Draft {
	if d == nil || d.Hold() != nil {
		return nil
	}
	return d
}

// pile lists the directories of a file system's layers, the bottom first.
func (s *Solver) pile(r *Ref) []string {
	o, err := s.overlay(r)
	if err != nil {
		return nil
	}
	var list []string
	for i := len(o.Lower) - 1; i >= 0; i-- {
		if o.Lower[i] != "layers/0" {
			list = append(list, o.Lower[i])
		}
	}
	return list
}

// diff is what upper has on top of lower.
func (j *job) diff(ctx context.Context, op *graph.Diff, ins []*Ref) ([]*Ref, error) {
	at := func(n int) *Ref {
		if n == graph.Scratch {
			return &Ref{}
		}
		return ins[n]
	}
	lower, upper := j.s.pile(at(op.Lower)), j.s.pile(at(op.Upper))
	if len(upper) < len(lower) || !slices.Equal(lower, upper[:len(lower)]) {
		return nil, errs.NotImplemented.Errorf("the difference of file systems of which one is not made from the other is not supported")
	}
	top, err := j.stack(ctx, &Ref{}, upper[len(lower):])
	if err != nil {
		return nil, err
	}
	return []*Ref{top}, nil
}
