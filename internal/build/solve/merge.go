package solve

import (
	"context"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// merge lays the layers of all inputs over each other.
func (j *job) merge(ctx context.Context, ins []*Ref) ([]*Ref, error) {
	below := ins[0]
	var last *layer.Draft
	for _, in := range ins[1:] {
		for _, l := range j.s.pile(in) {
			d, err := j.s.newDraft(below)
			if err != nil {
				return nil, err
			}
			if last != nil {
				last.Release() // held by d
			}
			last = d
			if err := d.Copy(ctx, l); err != nil {
				d.Release()
				return nil, err
			}
			if err := d.Finish(ctx, j.finishing(nil)); err != nil {
				d.Release()
				return nil, err
			}
			below = &Ref{draft: d, empty: d.Empty()}
		}
	}
	if last == nil {
		return []*Ref{{chain: below.chain, draft: hold(below.draft), empty: true}}, nil
	}
	return []*Ref{below}, nil
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
	if len(upper) < len(lower) {
		return nil, errs.NotImplemented.Errorf("the difference of file systems of which one is not made from the other is not supported")
	}
	for i := range lower {
		if lower[i] != upper[i] {
			return nil, errs.NotImplemented.Errorf("the difference of file systems of which one is not made from the other is not supported")
		}
	}
	below := &Ref{}
	var last *layer.Draft
	for _, l := range upper[len(lower):] {
		d, err := j.s.newDraft(below)
		if err != nil {
			return nil, err
		}
		if last != nil {
			last.Release()
		}
		last = d
		if err := d.Copy(ctx, l); err != nil {
			d.Release()
			return nil, err
		}
		if err := d.Finish(ctx, j.finishing(nil)); err != nil {
			d.Release()
			return nil, err
		}
		below = &Ref{draft: d, empty: d.Empty()}
	}
	return []*Ref{below}, nil
}
