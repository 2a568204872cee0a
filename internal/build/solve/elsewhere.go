package solve

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Kept is a step's result on its way to or from a cache elsewhere.
type Kept struct {
	ID      string
	Keys    []string
	Kind    string
	Name    string
	Parents []string
	Size    int64
	Created time.Time
	Outs    []KeptOut
}

// KeptOut is one output: its layers by their diff IDs, the bottom first.
type KeptOut struct {
	Diffs []digest.Digest
	Empty bool
}

// Importer is a cache elsewhere that a job may use.
type Importer interface {
	// Find returns what the cache has under a key; nil: nothing.
	Find(key string) *Kept
	// Unpack makes layers, the bottom first, and gives them to the lease.
	Unpack(ctx context.Context, l *layer.Lease, diffs []digest.Digest, report func(Status)) error
}

// imported is a step that a cache elsewhere has. Its layers come when somebody needs its files: of the stages that only
// cached steps have copied from they never do.
type imported struct {
	kept *Kept
	keys []string
	refs []*Ref

	mu   sync.Mutex
	done bool
	err  error
}

// elsewhere looks for a step in the caches that the job may use.
func (j *job) elsewhere(v *graph.Vertex, k *keys) *result {
	x := j.Import.Find(k.fast)
	if x == nil && k.slow != "" {
		x = j.Import.Find(k.slow)
	}
	if x == nil || len(x.Outs) != v.Outputs() {
		return nil
	}
	im := &imported{kept: x, keys: slices.Clone(x.Keys)}
	for _, key := range k.all(x.ID) {
		if !slices.Contains(im.keys, key) {
			im.keys = append(im.keys, key)
		}
	}
	for i, o := range x.Outs {
		im.refs = append(im.refs, &Ref{id: outID(x.ID, i), chain: chainOf(o.Diffs), empty: o.Empty, from: im})
	}
	j.tell(Event{Kind: Cached, Vertex: v, State: digest.Digest(x.ID)})
	return &result{im.refs}
}

func chainOf(diffs []digest.Digest) (chain digest.Digest) {
	for _, d := range diffs {
		chain = layer.ChainID(chain, d)
	}
	return chain
}

// have sees to it that the files of file systems are here.
func (j *job) have(ctx context.Context, refs ...*Ref) error {
	for _, r := range refs {
		if r == nil || r.from == nil {
			continue
		}
		if err := j.bring(ctx, r.from); err != nil {
			return err
		}
	}
	return nil
}

func (j *job) bring(ctx context.Context, im *imported) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	if im.done {
		return im.err
	}
	im.done = true
	x := im.kept
	e := &entry{id: x.ID, lease: j.s.Layers.Lease(), saved: make(chan struct{})}
	for i, o := range x.Outs {
		if err := j.Import.Unpack(ctx, j.lease, o.Diffs, func(st Status) { j.tell(Event{Kind: Reported, Status: st}) }); err != nil {
			e.lease.Release()
			im.err = errs.Unavailable.Errorf("bring %q from the cache (without --cache-from it is done here): %w", x.Name, err)
			return im.err
		}
		e.lease.Hold(im.refs[i].chain)
		e.refs = append(e.refs, &Ref{id: im.refs[i].id, chain: im.refs[i].chain, empty: o.Empty})
	}
	now := time.Now().UTC()
	e.rec = record{V: recordVersion, Keys: im.keys, Kind: x.Kind, Name: x.Name, Parents: x.Parents, Created: now, Used: now, Count: 1, Size: x.Size}
	if there := j.s.Cache.find(x.ID); there != nil { // another build brought it meanwhile
		e.lease.Release()
		e = there
	} else {
		j.s.Cache.put(e)
		j.s.saver.add(e)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.used = append(j.used, e)
	for _, r := range im.refs {
		j.entries[r] = e
	}
	return nil
}

// keepImported makes the engine's own what was imported and has all its layers here by now: those of the steps below others.
func (j *job) keepImported() {
	if j.Import == nil || j.ctx.Err() != nil {
		return
	}
	j.mu.Lock()
	var list []*imported
	for _, c := range j.calls {
		if c.res != nil && len(c.res.refs) > 0 && c.res.refs[0].from != nil {
			list = append(list, c.res.refs[0].from)
		}
	}
	j.mu.Unlock()
	for _, im := range list {
		here := !slices.ContainsFunc(im.refs, func(r *Ref) bool {
			if r.chain == "" {
				return false
			}
			_, err := j.s.Layers.Get(r.chain)
			return err != nil
		})
		if here {
			_ = j.bring(j.ctx, im) // nothing needs it now
		}
	}
}

// Kept lists what there is to tell a cache elsewhere: of the steps whose layers the roots have, or of all. The layers of what it lists
// are here, and held, until Release.
func (r *Solved) Kept(ctx context.Context, all bool) ([]Kept, error) {
	j := r.j
	j.mu.Lock()
	var refs []*Ref
	for _, c := range j.calls {
		if c.res != nil {
			refs = append(refs, c.res.refs...)
		}
	}
	j.mu.Unlock()
	if all {
		if err := j.have(ctx, refs...); err != nil {
			return nil, err
		}
	}
	if err := j.save(ctx, refs); err != nil {
		return nil, err
	}
	top := map[digest.Digest]bool{"": true}
	for _, root := range r.Roots {
		if root.tree != nil {
			continue
		}
		list, err := j.s.Layers.Chain(root.Chain())
		if err != nil {
			return nil, err
		}
		for _, info := range list {
			top[info.ChainID] = true
		}
	}
	var list []Kept
	seen := map[*entry]bool{}
	for _, ref := range refs {
		j.mu.Lock()
		e := j.entries[ref]
		j.mu.Unlock()
		if e == nil || seen[e] {
			continue
		}
		seen[e] = true
		k, inRoot, err := j.s.kept(e, top)
		if err != nil {
			return nil, err
		}
		if all || inRoot {
			list = append(list, k)
		}
	}
	slices.SortFunc(list, func(a, b Kept) int { return slices.Compare([]string{a.ID}, []string{b.ID}) })
	return list, nil
}

// kept describes an entry, and tells whether all that it made is among the layers of top.
func (s *Solver) kept(e *entry, top map[digest.Digest]bool) (k Kept, inRoot bool, err error) {
	s.Cache.mu.Lock()
	rec := e.rec
	rec.Keys = slices.Clone(rec.Keys)
	s.Cache.mu.Unlock()
	k = Kept{ID: e.id, Keys: rec.Keys, Kind: rec.Kind, Name: rec.Name, Parents: rec.Parents, Size: rec.Size, Created: rec.Created}
	inRoot = true
	for _, r := range e.refs {
		chain := r.Chain()
		inRoot = inRoot && top[chain]
		list, err := s.Layers.Chain(chain)
		if err != nil {
			return k, false, err
		}
		o := KeptOut{Empty: r.empty}
		for _, info := range slices.Backward(list) {
			o.Diffs = append(o.Diffs, info.DiffID)
		}
		k.Outs = append(k.Outs, o)
	}
	return k, inRoot, nil
}
