package solve

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/layer"
	"gantry/internal/state"
)

// recordBucket holds a record for each step whose result is kept, by its first key.
const recordBucket = "build-cache"

const recordVersion = 1

// record is a step's result as the state keeps it. A secret's content is in none of it: what a step is known by has the names of
// its secrets alone.
type record struct {
	V       int       `json:"v"`
	Outs    []out     `json:"outs"`
	Keys    []string  `json:"keys"` // all by which it is found
	Kind    string    `json:"kind"`
	Name    string    `json:"name"`
	Parents []string  `json:"parents,omitempty"` // records that it was made from
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`
	Count   int       `json:"count"`
	Size    int64     `json:"size"` // bytes of its own layers' files
}

// out is one output: the layers up to Chain, of which the topmost is the step's own unless it is Empty.
type out struct {
	Chain digest.Digest `json:"chain,omitempty"`
	Empty bool          `json:"empty,omitempty"`
}

// entry is a kept result.
type entry struct {
	id    string
	rec   record
	refs  []*Ref // of the outputs
	lease *layer.Lease
	users int // builds under way that use it
	saved chan struct{}
	err   error // why it was not saved, once saved is closed
}

// Cache is what is known of steps done before. It holds their layers, so that no collection takes them.
type Cache struct {
	layers *layer.Store
	state  *state.Store

	mu      sync.Mutex
	entries map[string]*entry
	keys    map[string]*entry
}

// OpenCache reads what is kept. It comes before anything that collects layers.
func OpenCache(st *state.Store, layers *layer.Store) (*Cache, error) {
	c := &Cache{layers: layers, state: st, entries: map[string]*entry{}, keys: map[string]*entry{}}
	var lost []string
	err := st.View(func(tx state.Tx) error {
		return tx.Each(recordBucket, func(id string, decode func(any) error) error {
			e := &entry{id: id, lease: layers.Lease(), saved: make(chan struct{})}
			close(e.saved)
			if err := decode(&e.rec); err != nil || e.rec.V != recordVersion {
				lost = append(lost, id)
				return nil
			}
			for _, o := range e.rec.Outs {
				e.lease.Hold(o.Chain)
				if o.Chain != "" {
					if _, err := layers.Get(o.Chain); err != nil {
						lost = append(lost, id)
						e.lease.Release()
						return nil
					}
				}
				e.refs = append(e.refs, &Ref{chain: o.Chain, id: outID(id, len(e.refs)), empty: o.Empty})
			}
			c.add(e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open build cache: %w", err)
	}
	if len(lost) > 0 {
		st.Later(func(tx state.Tx) error {
			for _, id := range lost {
				if err := tx.Delete(recordBucket, id); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return c, nil
}

// add is called with c.mu held, or before anybody else knows c.
func (c *Cache) add(e *entry) {
	c.entries[e.id] = e
	for _, k := range e.rec.Keys {
		c.keys[k] = e
	}
}

// find returns the entry of a key, in use by one more build, which lets it go by done.
func (c *Cache) find(key string) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.keys[key]
	if e != nil {
		e.users++
	}
	return e
}

// touch notes that the entry was used, and that key leads to it as well.
func (c *Cache) touch(e *entry, key string) {
	c.mu.Lock()
	e.rec.Used = time.Now().UTC()
	e.rec.Count++
	if key != "" && c.keys[key] != e {
		c.keys[key] = e
		if len(e.rec.Keys) < 64 {
			e.rec.Keys = append(e.rec.Keys, key)
		}
	}
	r := e.rec
	r.Keys = slices.Clone(r.Keys)
	c.mu.Unlock()
	select {
	case <-e.saved:
	default:
		return // it is about to be written whole
	}
	c.state.Later(func(tx state.Tx) error {
		c.mu.Lock()
		_, there := c.entries[e.id]
		c.mu.Unlock()
		if !there {
			return nil
		}
		return tx.Put(recordBucket, e.id, r)
	})
}

func (c *Cache) done(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users--
}

// put makes a new result known, in use by the build that made it. It is on disk when it is saved.
func (c *Cache) put(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.users++
	if old := c.entries[e.id]; old != nil {
		for _, k := range old.rec.Keys {
			if c.keys[k] == old {
				delete(c.keys, k)
			}
		}
	}
	c.add(e)
}

// Usage is one record as `builder du` shows it.
type Usage struct {
	ID, Kind, Description string
	Parents               []string
	Size                  int64
	Created, Used         time.Time
	Count                 int
	InUse, Shared         bool
	Mutable               bool
}

// usage lists the records. shared tells whether an image has a layer.
func (c *Cache) usage(shared func(digest.Digest) bool) []Usage {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Usage
	for _, e := range c.entries {
		u := Usage{ID: short(e.id), Kind: e.rec.Kind, Description: e.rec.Name, Size: e.rec.Size, Created: e.rec.Created, Used: e.rec.Used, Count: e.rec.Count, InUse: e.users > 0}
		for _, p := range e.rec.Parents {
			u.Parents = append(u.Parents, short(p))
		}
		for _, o := range e.rec.Outs {
			u.Shared = u.Shared || shared != nil && o.Chain != "" && shared(o.Chain)
		}
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b Usage) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return list
}

// remove takes out the records that drop says, but for those in use. It does not collect layers.
func (c *Cache) remove(ctx context.Context, drop func(id string, r *record) bool) ([]Usage, error) {
	c.mu.Lock()
	var gone []*entry
	for _, id := range slices.Sorted(maps.Keys(c.entries)) {
		e := c.entries[id]
		select {
		case <-e.saved:
		default:
			continue
		}
		if e.users == 0 && drop(short(id), &e.rec) {
			gone = append(gone, e)
			delete(c.entries, id)
			for _, k := range e.rec.Keys {
				if c.keys[k] == e {
					delete(c.keys, k)
				}
			}
		}
	}
	c.mu.Unlock()
	if len(gone) == 0 {
		return nil, ctx.Err()
	}
	var list []Usage
	err := c.state.Update(func(tx state.Tx) error {
		for _, e := range gone {
			if err := tx.Delete(recordBucket, e.id); err != nil {
				return err
			}
		}
		return nil
	})
	for _, e := range gone {
		e.lease.Release()
		for _, r := range e.refs {
			r.release()
		}
		list = append(list, Usage{ID: short(e.id), Kind: e.rec.Kind, Description: e.rec.Name, Size: e.rec.Size, Created: e.rec.Created, Used: e.rec.Used, Count: e.rec.Count})
	}
	return list, err
}

// saver keeps new results on disk: many together, for each round costs a sync.
type saver struct {
	c       *Cache
	mu      sync.Mutex
	pending []*entry
	now     chan struct{} // somebody waits
	quit    chan struct{}
	ended   chan struct{}
}

func newSaver(c *Cache) *saver {
	s := &saver{c: c, now: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	go s.run()
	return s
}

// saveDelay is how long new results may lie before they are put on disk although nobody waits for it.
const saveDelay = 2 * time.Second

func (s *saver) run() {
	defer close(s.ended)
	for {
		select {
		case <-s.now:
		case <-time.After(saveDelay):
		case <-s.quit:
			s.save()
			return
		}
		s.save()
	}
}

func (s *saver) add(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, e)
}

// flush waits until the entry is on disk.
func (s *saver) flush(ctx context.Context, e *entry) error {
	select {
	case <-e.saved:
		return e.err
	default:
	}
	select {
	case s.now <- struct{}{}:
	default:
	}
	select {
	case <-e.saved:
		return e.err
	case <-s.ended:
		return os.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *saver) save() {
	s.mu.Lock()
	list := s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(list) == 0 {
		return
	}
	var drafts []*layer.Draft
	for _, e := range list {
		for _, r := range e.refs {
			if r.draft != nil {
				drafts = append(drafts, r.draft)
			}
		}
	}
	c := s.c
	leases := map[*entry]*layer.Lease{}
	all := c.layers.Lease()
	defer all.Release()
	err := c.layers.Adopt(context.Background(), all, drafts, func(tx state.Tx) error {
		for _, e := range list {
			c.mu.Lock()
			e.rec.Outs = e.rec.Outs[:0:0]
			for _, r := range e.refs {
				o := out{Chain: r.chain, Empty: r.empty}
				if r.draft != nil {
					o.Chain = r.draft.Becomes()
				}
				e.rec.Outs = append(e.rec.Outs, o)
			}
			r := e.rec
			current := c.entries[e.id] == e
			c.mu.Unlock()
			if !current {
				continue // done anew meanwhile, without the cache
			}
			if err := tx.Put(recordBucket, e.id, r); err != nil {
				return err
			}
		}
		return nil
	})
	for _, e := range list {
		if err == nil {
			l := c.layers.Lease()
			for _, o := range e.rec.Outs {
				l.Hold(o.Chain)
			}
			leases[e] = l
		}
	}
	c.mu.Lock()
	for _, e := range list {
		if err != nil {
			e.err = err
			delete(c.entries, e.id)
			for _, k := range e.rec.Keys {
				if c.keys[k] == e {
					delete(c.keys, k)
				}
			}
		} else {
			e.lease.Release()
			e.lease = leases[e]
		}
	}
	c.mu.Unlock()
	for _, e := range list {
		close(e.saved)
	}
}

func (s *saver) close() {
	close(s.quit)
	<-s.ended
}

func short(id string) string {
	if len(id) > 25 {
		return id[:25]
	}
	return id
}
