// Package solve carries a build's graph out: it does what is not known from before, independent steps at once, equal ones
// once, and keeps what comes of each.
//
// # The life of a step
//
// Its inputs are solved first, all at once. Then it is known by keys: the fast one of its operation and of what its
// inputs are known by, the slow one with the contents of the files that it takes from them instead (paths, modes, owners,
// contents, not times), which holds where another way led to the same files. What the [Cache] has under one of them is
// its result, and nothing is done. Otherwise the step is done, once for all builds that want it now: who comes later joins,
// and hears what was said before; who goes leaves it to the others, and with the last of them it ends.
//
// What it makes is a draft of a layer (package layer), on which the next step stands at once. Its diff ID is computed
// beside the next steps, and drafts become layers many at a time, together with the cache's records of them.
package solve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/executor"
	"gantry/internal/build/graph"
	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Runner runs programs; package executor's is the real one.
type Runner interface {
	Run(ctx context.Context, r *executor.Run) error
}

// Images finds the file systems of images.
type Images interface {
	// Image returns the topmost layer of the image, pulled if need be, and the image's ID. hold is called before anything can collect it.
	Image(ctx context.Context, op *graph.Image, p graph.Platform, access any, hold func(digest.Digest), report func(Status)) (chain, id digest.Digest, err error)
}

// Fetcher brings what lies behind an address.
type Fetcher interface {
	HTTP(ctx context.Context, op *graph.HTTP, secret func(id string) ([]byte, error), report func(Status)) (*source.Archive, error)
	// Git is given the client, for its SSH agent.
	Git(ctx context.Context, op *graph.Git, client Client, report func(Status)) (*source.Archive, error)
}

// Options are what a solver stands on.
type Options struct {
	Cache  *Cache
	Layers *layer.Store
	Runner Runner
	Images Images
	Fetch  Fetcher // nil: no addresses
	Dir    string  // a folder of the data-root: cache mounts lie there
	Log    *slog.Logger
	// Parallel bounds how many steps are done at once; 0: by the number of CPUs.
	Parallel int
}

// Solver solves graphs. Its methods may be called from any goroutine.
type Solver struct {
	Options
	saver  *saver
	slots  chan struct{}
	naming chan struct{}
	mounts mounts

	mu         sync.Mutex
	flights    map[string]*flight
	traces     map[string]*trace        // of steps, by stage and instruction
	traceOrder []string                 // the oldest first
	digests    map[string]digest.Digest // contents of parts of results, by result and part
	work       sync.WaitGroup
}

// Open returns a solver on the cache.
func Open(o Options) (*Solver, error) {
	if o.Parallel <= 0 {
		o.Parallel = max(4, runtime.NumCPU())
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Solver{Options: o, slots: make(chan struct{}, o.Parallel), naming: make(chan struct{}, max(1, runtime.NumCPU()-1)),
		flights: map[string]*flight{}, digests: map[string]digest.Digest{}, traces: map[string]*trace{}, saver: newSaver(o.Cache)}
	if err := s.makeDirs(); err != nil {
		return nil, err
	}
	if err := s.openMounts(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close saves what is not saved yet. No build may be under way.
func (s *Solver) Close() {
	s.work.Wait()
	s.saver.close()
}

// Job is one graph to be solved.
type Job struct {
	Graph   *graph.Graph
	Roots   []graph.Edge
	Client  Client
	Sink    Sink // may be nil
	Access  any  // for Images
	Epoch   *time.Time
	ShmSize int64
	// Allow lists what the graph may ask for beyond a plain run: "network.host", "security.insecure".
	Allow []string
	// Import is what there is of caches elsewhere; may be nil.
	Import Importer
	// Failed, if it is not nil, is told the step that failed and the topmost layer of what it was to change, as it was.
	Failed func(v *graph.Vertex, before digest.Digest)
	// Strict has a wildcard that matches nothing fail, as with Docker's classic builder.
	Strict bool
}

// Solved is a graph's result. It holds what it names until Release.
type Solved struct {
	Roots []*Ref
	// Empty tells of a vertex whether it changed nothing.
	Empty func(*graph.Vertex) bool
	j     *job
}

// Save waits until the roots' layers are on disk.
func (r *Solved) Save(ctx context.Context) error { return r.j.save(ctx, r.Roots) }

// Hold gives the roots' layers to the lease as well.
func (r *Solved) Hold(l *layer.Lease) {
	for _, x := range r.Roots {
		if x.tree == nil {
			l.Hold(x.Chain())
		}
	}
}

// Release lets everything go.
func (r *Solved) Release() { r.j.end() }

// VertexError says which vertex failed.
type VertexError struct {
	Vertex *graph.Vertex
	Err    error
}

func (e *VertexError) Error() string { return e.Err.Error() }
func (e *VertexError) Unwrap() error { return e.Err }

// job is a Job under way.
type job struct {
	*Job
	s     *Solver
	ctx   context.Context
	stop  context.CancelCauseFunc
	lease *layer.Lease
	start time.Time

	sink sync.Mutex

	mu      sync.Mutex
	calls   map[*graph.Vertex]*call
	used    []*entry
	held    []*Ref // drafts that are nobody else's
	closers []io.Closer
	entries map[*Ref]*entry
	work    sync.WaitGroup
}

// call is one vertex of one job.
type call struct {
	done chan struct{}
	res  *result
	err  error
}

// result is what a vertex made.
type result struct{ refs []*Ref }

// Solve does what the roots need. The caller releases the result.
func (s *Solver) Solve(ctx context.Context, x *Job) (*Solved, error) {
	j := &job{Job: x, s: s, lease: s.Layers.Lease(), start: time.Now(), calls: map[*graph.Vertex]*call{}, entries: map[*Ref]*entry{}}
	j.ctx, j.stop = context.WithCancelCause(ctx)
	roots := make([]*Ref, len(x.Roots))
	errors := make([]error, len(x.Roots))
	var wg sync.WaitGroup
	for i, e := range x.Roots {
		wg.Go(func() {
			roots[i], errors[i] = j.edge(e)
			if errors[i] != nil {
				j.stop(errors[i])
			}
		})
	}
	wg.Wait()
	for i, r := range roots {
		if errors[i] == nil {
			errors[i] = j.have(j.ctx, r)
		}
	}
	j.keepImported()
	j.work.Wait() // what another root's failure canceled is over
	for _, err := range errors {
		if err != nil {
			if cause := context.Cause(j.ctx); cause != nil && ctx.Err() == nil {
				err = cause
			}
			j.before(ctx, err)
			j.end()
			return nil, err
		}
	}
	empty := func(v *graph.Vertex) bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		c := j.calls[v]
		return c != nil && c.res != nil && len(c.res.refs) > 0 && c.res.refs[0].empty
	}
	return &Solved{Roots: roots, Empty: empty, j: j}, nil
}

func (j *job) end() {
	j.stop(context.Canceled)
	j.work.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.used {
		j.s.Cache.done(e)
	}
	for _, r := range j.held {
		r.release()
	}
	for _, c := range j.closers {
		c.Close()
	}
	j.used, j.held, j.closers = nil, nil, nil
	j.lease.Release()
}

func (j *job) save(ctx context.Context, refs []*Ref) error {
	j.mu.Lock()
	var list []*entry
	for _, r := range refs {
		if e := j.entries[r]; e != nil {
			list = append(list, e)
		}
	}
	j.mu.Unlock()
	for _, e := range list {
		if err := j.s.saver.flush(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) tell(e Event) {
	if j.Sink == nil {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.sink.Lock()
	defer j.sink.Unlock()
	j.Sink.Event(e)
}

// edge solves the vertex and returns one of its outputs.
func (j *job) edge(e graph.Edge) (*Ref, error) {
	if e.IsScratch() {
		return &Ref{id: "scratch"}, nil
	}
	res, err := j.vertex(e.Vertex)
	if err != nil {
		return nil, err
	}
	return res.refs[e.Output], nil
}

// vertex solves a vertex, once.
func (j *job) vertex(v *graph.Vertex) (*result, error) {
	j.mu.Lock()
	c := j.calls[v]
	if c == nil {
		c = &call{done: make(chan struct{})}
		j.calls[v] = c
		j.work.Go(func() {
			defer close(c.done)
			res, err := j.solve(v)
			var known *VertexError
			if err != nil && !errors.As(err, &known) && j.ctx.Err() == nil {
				j.tell(Event{Kind: Failed, Vertex: v, Err: err})
				err = &VertexError{v, err}
			}
			j.mu.Lock()
			c.res, c.err = res, err
			j.mu.Unlock()
			if err != nil {
				j.stop(err)
			}
		})
	}
	j.mu.Unlock()
	select {
	case <-c.done:
		return c.res, c.err
	case <-j.ctx.Done():
		<-c.done // nothing of it goes on when the job's end is told
		if c.err != nil {
			return nil, c.err
		}
		return nil, context.Cause(j.ctx)
	}
}

func (j *job) solve(v *graph.Vertex) (*result, error) {
	switch op := v.Op.(type) {
	case *graph.Image:
		return j.image(v, op)
	case *graph.Local:
		return j.folder(v, func(report func(Status)) (source.Tree, error) { return j.Client.Folder(j.ctx, op) })
	case *graph.HTTP:
		return j.fetched(v, func(secret func(string) ([]byte, error)) (*source.Archive, error) {
			return j.s.Fetch.HTTP(j.ctx, op, secret, j.reporter(v))
		})
	case *graph.Git:
		return j.fetched(v, func(func(string) ([]byte, error)) (*source.Archive, error) {
			return j.s.Fetch.Git(j.ctx, op, j.Client, j.reporter(v))
		})
	case *graph.Exec, *graph.File, *graph.Merge, *graph.Diff:
		return j.step(v)
	}
	return nil, errs.NotImplemented.Errorf("a build's %s is not supported", v.Op.Kind())
}

func (j *job) reporter(v *graph.Vertex) func(Status) {
	return func(st Status) { j.tell(Event{Kind: Reported, Vertex: v, Status: st}) }
}

func (j *job) image(v *graph.Vertex, op *graph.Image) (*result, error) {
	j.tell(Event{Kind: Started, Vertex: v})
	chain, id, err := j.s.Images.Image(j.ctx, op, v.Platform, j.Access, func(c digest.Digest) { j.lease.Hold(c) }, j.reporter(v))
	if err != nil {
		return nil, err
	}
	j.lease.Hold(chain)
	if op.Layers > 0 && chain != "" {
		list, err := j.s.Layers.Chain(chain)
		if err != nil {
			return nil, err
		}
		if op.Layers < len(list) {
			chain = list[len(list)-op.Layers].ChainID
		}
	}
	r := &Ref{id: "image:" + chain.String(), chain: chain}
	j.tell(Event{Kind: Completed, Vertex: v, State: digest.Digest(r.id), Text: id.String()})
	return &result{[]*Ref{r}}, nil
}

func (j *job) folder(v *graph.Vertex, get func(func(Status)) (source.Tree, error)) (*result, error) {
	j.tell(Event{Kind: Started, Vertex: v})
	t, err := get(j.reporter(v))
	if err != nil {
		return nil, err
	}
	j.tell(Event{Kind: Completed, Vertex: v})
	return &result{[]*Ref{{tree: source.NewFiles(t)}}}, nil
}

// fetched is folder for what lies behind an address; it is let go when the job ends.
func (j *job) fetched(v *graph.Vertex, get func(secret func(string) ([]byte, error)) (*source.Archive, error)) (*result, error) {
	if j.s.Fetch == nil {
		return nil, errs.NotImplemented.Errorf("this engine fetches nothing")
	}
	return j.folder(v, func(func(Status)) (source.Tree, error) {
		a, err := get(func(id string) ([]byte, error) { return j.Client.Secret(j.ctx, id) })
		if err != nil {
			return nil, err
		}
		j.mu.Lock()
		j.closers = append(j.closers, a)
		j.mu.Unlock()
		return a, nil
	})
}

// inputs solves what v is made from, all at once.
func (j *job) inputs(v *graph.Vertex) ([]*Ref, error) {
	refs := make([]*Ref, len(v.Inputs))
	errors := make([]error, len(v.Inputs))
	if len(v.Inputs) == 1 {
		refs[0], errors[0] = j.edge(v.Inputs[0])
		return refs, errors[0]
	}
	var wg sync.WaitGroup
	for i, e := range v.Inputs {
		wg.Go(func() { refs[i], errors[i] = j.edge(e) })
	}
	wg.Wait()
	for _, err := range errors {
		if err != nil {
			return nil, err
		}
	}
	return refs, nil
}

// step does what has a result worth keeping.
func (j *job) step(v *graph.Vertex) (*result, error) {
	ins, err := j.inputs(v)
	if err != nil {
		return nil, err
	}
	k, err := j.keys(v, ins)
	if err != nil {
		return nil, err
	}
	if !v.Meta.IgnoreCache {
		e := j.s.Cache.find(k.fast)
		if e == nil {
			if err := k.look(); err != nil {
				return nil, err
			}
			if k.slow != "" {
				if e = j.s.Cache.find(k.slow); e != nil {
					j.s.Cache.touch(e, k.fast)
				}
			}
		} else {
			j.s.Cache.touch(e, "")
		}
		if e != nil {
			j.tell(Event{Kind: Cached, Vertex: v, State: digest.Digest(e.id)})
			return j.use(e), nil
		}
		if j.Import != nil {
			if r := j.elsewhere(v, k); r != nil {
				return r, nil
			}
		}
	} else if err := k.look(); err != nil {
		return nil, err
	}
	e, err := j.share(v, k, ins)
	if err != nil {
		return nil, err
	}
	return j.use(e), nil
}

// use makes an entry's file systems the job's, for which it was counted already.
func (j *job) use(e *entry) *result {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = append(j.used, e)
	for i, r := range e.refs {
		j.entries[r] = e
		if r.chain != "" {
			j.lease.Hold(r.chain)
		}
		_ = i
	}
	return &result{e.refs}
}

// flight is a step that is being done, for all who want it.
type flight struct {
	done   chan struct{}
	cancel context.CancelFunc
	owner  *job
	e      *entry
	err    error

	mu      sync.Mutex
	wanted  int
	joined  map[*job]*graph.Vertex
	said    []Event // for who comes later
	saidLen int
}

// maxSaid bounds what a flight keeps of a program's output for who comes later, in bytes.
const maxSaid = 1 << 20

func (f *flight) tell(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := e
	kept.Data = slices.Clone(e.Data)
	if f.saidLen += len(e.Data) + 64; f.saidLen < maxSaid {
		f.said = append(f.said, kept)
	}
	for j, v := range f.joined {
		e.Vertex = v
		j.tell(e)
	}
}

// share does the step, or joins who is at it. The entry is in use by this job.
func (j *job) share(v *graph.Vertex, k *keys, ins []*Ref) (*entry, error) {
	id := k.id(v.Meta.IgnoreCache)
	for {
		if err := j.ctx.Err(); err != nil {
			return nil, context.Cause(j.ctx)
		}
		j.s.mu.Lock()
		f := j.s.flights[id]
		if f == nil && !v.Meta.IgnoreCache {
			// It may have been done between the look and now.
			if e := j.s.Cache.find(k.main()); e != nil {
				j.s.mu.Unlock()
				j.tell(Event{Kind: Cached, Vertex: v, State: digest.Digest(e.id)})
				return e, nil
			}
		}
		if f == nil {
			f = &flight{done: make(chan struct{}), owner: j, joined: map[*job]*graph.Vertex{}}
			var ctx context.Context
			ctx, f.cancel = context.WithCancel(context.WithoutCancel(j.ctx))
			j.s.flights[id] = f
			j.s.work.Go(func() { j.fly(ctx, f, id, v, k, ins) })
		}
		f.mu.Lock()
		f.wanted++
		for _, e := range f.said {
			e.Vertex = v
			j.tell(e)
		}
		f.joined[j] = v
		f.mu.Unlock()
		j.s.mu.Unlock()

		var err error
		select {
		case <-f.done:
		case <-j.ctx.Done():
			err = context.Cause(j.ctx)
		}
		f.mu.Lock()
		f.wanted--
		delete(f.joined, j)
		last := f.wanted == 0
		f.mu.Unlock()
		if err != nil {
			if last || f.owner == j {
				// The owner's client gives secrets and files: without it the others begin anew.
				f.cancel()
				<-f.done
			}
			return nil, err
		}
		if f.err == nil {
			return f.e, j.s.Cache.take(f.e)
		}
		if f.owner != j && f.owner.ctx.Err() != nil && j.ctx.Err() == nil {
			continue
		}
		return nil, f.err
	}
}

// fly does the step.
func (j *job) fly(ctx context.Context, f *flight, id string, v *graph.Vertex, k *keys, ins []*Ref) {
	defer f.cancel()
	refs, err := j.perform(ctx, f, v, k, ins)
	var e *entry
	if err == nil {
		e = &entry{id: id, refs: refs, lease: j.s.Layers.Lease(), saved: make(chan struct{})}
		now := time.Now().UTC()
		e.rec = record{V: recordVersion, Keys: k.all(id), Kind: kindOf(v), Name: v.Meta.Name, Created: now, Used: now, Count: 1}
		for _, in := range ins {
			if in.id != "" && len(e.rec.Parents) < 64 {
				e.rec.Parents = append(e.rec.Parents, in.id)
			}
		}
		for i, r := range refs {
			r.id = outID(id, i)
			if r.draft != nil {
				e.rec.Size += r.draft.Size()
			}
		}
		j.s.Cache.put(e)
		j.s.saver.add(e)
		j.s.name(refs)
		f.tell(Event{Kind: Completed, State: digest.Digest(id)})
	}
	j.s.mu.Lock()
	delete(j.s.flights, id)
	j.s.mu.Unlock()
	f.e, f.err = e, err
	close(f.done)
	if e != nil {
		j.s.Cache.done(e) // those who wait have taken it, or take it while nothing is pruned: see take
	}
}

// take counts one more build as using the entry, that was just made.
func (c *Cache) take(e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range e.refs {
		if r.draft != nil {
			if err := r.draft.Hold(); err != nil {
				return fmt.Errorf("the result was pruned before it was used: %w", err)
			}
			r.draft.Release()
		}
	}
	e.users++
	return nil
}

// name computes diff IDs in the background.
func (s *Solver) name(refs []*Ref) {
	for _, r := range refs {
		if r.draft == nil || r.draft.Hold() != nil {
			continue
		}
		s.work.Go(func() {
			defer r.draft.Release()
			s.naming <- struct{}{}
			defer func() { <-s.naming }()
			if _, err := r.draft.Name(context.Background()); err != nil {
				s.Log.Warn("naming the layer of a build's step failed", "err", err)
			}
		})
	}
}

func kindOf(v *graph.Vertex) string {
	if v.Op.Kind() == "exec" {
		return "exec"
	}
	return "regular"
}

// perform does the operation itself, when there is a slot.
func (j *job) perform(ctx context.Context, f *flight, v *graph.Vertex, k *keys, ins []*Ref) (refs []*Ref, err error) {
	select {
	case j.s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-j.s.slots }()
	if err := j.have(ctx, ins...); err != nil {
		return nil, err
	}
	f.tell(Event{Kind: Started, Why: j.why(v, ins)})
	switch op := v.Op.(type) {
	case *graph.Exec:
		refs, err = j.exec(ctx, f, v, op, ins)
	case *graph.File:
		refs, err = j.file(ctx, op, ins)
	case *graph.Merge:
		refs, err = j.merge(ctx, ins)
	case *graph.Diff:
		refs, err = j.diff(ctx, op, ins)
	}
	if err != nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	return refs, err
}
