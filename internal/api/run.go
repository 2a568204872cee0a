package api

import (
	"context"
	"encoding/json"
	"net/url"

	types "github.com/moby/moby/api/types/container"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/runstream"
)

// run is the rest of `run` behind a create, on the create's own connection: see package runstream.
func (s *Server) run(c *call, wishes string, created types.CreateResponse) error {
	q, err := url.ParseQuery(wishes)
	if err != nil {
		return errs.Invalid.Errorf("header %s: %w", runstream.Header, err)
	}
	st, err := s.takeOver(c, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	r := &runner{s: s, st: st, id: created.ID, frames: framer{w: st.out}}
	stop := st.watch(cancel)
	// Nothing is started for a client that is gone.
	if r.tell(runstream.Created, created) == nil {
		r.run(ctx, q)
	}
	if r.input == nil {
		r.input = st.copyIn(&container.Attachment{})
	}
	st.finish(r.input, stop)
	return nil
}

// runner is one run under way.
type runner struct {
	s      *Server
	st     *stream
	id     string
	frames framer
	input  <-chan struct{} // closed when what the client sends is at its end
}

func (r *runner) tell(kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return r.frames.write(kind, b)
}

// run ends early when the client hangs up, with ctx.
func (r *runner) run(ctx context.Context, q url.Values) {
	a, done, err := r.prepare(ctx, q)
	if a != nil {
		defer a.Output.Close() // lets go of a write to a process that does not read
	}
	if err == nil {
		err = r.s.deps.Containers.Start(ctx, r.id)
	}
	out := runstream.Outcome{}
	if err != nil {
		out = runstream.Outcome{Status: status(errs.KindOf(err)), Message: r.s.advise(err).Error()}
	}
	if r.tell(runstream.Started, out) != nil {
		return
	}
	if a != nil && err == nil {
		r.input = r.st.copyIn(a)
		r.st.copyOut(a, &r.frames)
	}
	if done == nil {
		return
	}
	select {
	case res, ok := <-done:
		if ok {
			_ = r.tell(runstream.Ended, waitResponse(res))
		}
	case <-ctx.Done():
	}
}

// prepare joins the streams and registers the wait, before the start.
func (r *runner) prepare(ctx context.Context, q url.Values) (a *container.Attachment, done <-chan container.WaitResult, err error) {
	o := container.AttachOptions{Stream: true, Stdin: q.Get("stdin") == "1", Stdout: q.Get("stdout") == "1", Stderr: q.Get("stderr") == "1", DetachKeys: q.Get("detachKeys")}
	if o.Stdin || o.Stdout || o.Stderr {
		if a, err = r.s.deps.Containers.Attach(ctx, r.id, o); err != nil {
			return nil, nil, err
		}
	}
	if condition := q.Get("wait"); condition != "" {
		done, err = r.s.deps.Containers.Wait(ctx, r.id, types.WaitCondition(condition))
	}
	return a, done, err
}

func waitResponse(res container.WaitResult) types.WaitResponse {
	out := types.WaitResponse{StatusCode: int64(res.Code)}
	if res.Err != nil {
		out.Error = &types.WaitExitError{Message: res.Err.Error()}
	}
	return out
}
