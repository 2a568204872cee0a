package solve

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
)

// before finds what the failing step was to change, as it was, and has the job's Failed told while it is held.
func (j *job) before(ctx context.Context, err error) {
	var failed *VertexError
	if j.Failed == nil || ctx.Err() != nil || !errors.As(err, &failed) {
		return
	}
	input := graph.Scratch
	switch op := failed.Vertex.Op.(type) {
	case *graph.Exec:
		for _, m := range op.Mounts {
			if m.Dest == "/" {
				input = m.Input
			}
		}
	case *graph.File:
		if len(op.Actions) > 0 {
			input = op.Actions[0].Input
		}
	default:
		return
	}
	chain := digest.Digest("")
	if input >= 0 && input < len(failed.Vertex.Inputs) {
		e := failed.Vertex.Inputs[input]
		j.mu.Lock()
		c := j.calls[e.Vertex]
		j.mu.Unlock()
		if c == nil || c.res == nil || e.Output >= len(c.res.refs) {
			return
		}
		r := c.res.refs[e.Output]
		if r.tree != nil || j.have(ctx, r) != nil || j.save(ctx, []*Ref{r}) != nil {
			return
		}
		chain = r.Chain()
	}
	j.Failed(failed.Vertex, chain)
}
