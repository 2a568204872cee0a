package solve

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"gantry/internal/build/graph"
	"gantry/internal/layer"
	"gantry/internal/state"
)

// mountBucket holds a record for each cache mount's folder, by its name below Dir/mounts.
const mountBucket = "build-mounts"

// mountRecord is what the state keeps of a cache mount's folder.
type mountRecord struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Used    time.Time `json:"used"`
	Count   int       `json:"count"`
	Size    int64     `json:"size"` // bytes of its files, when it was last used
}

// mounts are the cache mounts' folders.
type mounts struct {
	mu    sync.Mutex
	known map[string]*mountRecord
	users map[string]int
	locks map[string]chan struct{} // of those shared=locked; holds one token while free
}

func (s *Solver) openMounts() error {
	m := &s.mounts
	m.known, m.users, m.locks = map[string]*mountRecord{}, map[string]int{}, map[string]chan struct{}{}
	err := s.Cache.state.View(func(tx state.Tx) error {
		return tx.Each(mountBucket, func(key string, decode func(any) error) error {
			r := new(mountRecord)
			if err := decode(r); err != nil {
				return err
			}
			m.known[key] = r
			return nil
		})
	})
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.mountsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m.known[e.Name()] == nil { // it was not whole, or not wanted any more
			if err := os.RemoveAll(filepath.Join(s.mountsDir(), e.Name())); err != nil {
				return err
			}
		}
	}
	tmp, err := os.ReadDir(s.tmpDir())
	for _, e := range tmp {
		err = errors.Join(err, os.RemoveAll(filepath.Join(s.tmpDir(), e.Name())))
	}
	return err
}

// cache returns the folder of a cache mount for this run, and what ends its use.
func (x *running) cache(m *graph.Mount) (dir string, done func(), err error) {
	s := x.j.s
	h := newHasher()
	h.str("gantry.cache-mount.1")
	h.str(m.ID)
	in := x.input(m.Input)
	if m.Input != graph.Scratch && in.id != "" {
		h.str(in.id)
		h.str(m.Source)
	}
	base := h.sum()[:32]
	unlock := func() {}
	if m.Sharing == graph.CacheLocked {
		if unlock, err = s.mounts.lock(x.ctx, base); err != nil {
			return "", nil, err
		}
	}
	c := &s.mounts
	c.mu.Lock()
	name := base
	if m.Sharing == graph.CachePrivate {
		for n := 1; c.users[name] > 0; n++ {
			name = base + "." + strconv.Itoa(n)
		}
	}
	c.users[name]++
	r := c.known[name]
	if r != nil {
		r.Used = time.Now().UTC()
		r.Count++
	}
	c.mu.Unlock()
	release := func() {
		c.mu.Lock()
		c.users[name]--
		if c.users[name] == 0 {
			delete(c.users, name)
		}
		if r := c.known[name]; r != nil {
			kept := *r
			s.Cache.state.Later(func(tx state.Tx) error { return tx.Put(mountBucket, name, kept) })
		}
		c.mu.Unlock()
		unlock()
	}
	if r == nil {
		if err := s.makeMount(x.ctx, name, m, in); err != nil {
			release()
			return "", nil, err
		}
	}
	// What is mounted is Source of the folder: where a cache begins with a part of an input, it is that part alone.
	return filepath.Join(s.mountsDir(), name), release, nil
}

func (c *mounts) lock(ctx context.Context, name string) (func(), error) {
	c.mu.Lock()
	l := c.locks[name]
	if l == nil {
		l = make(chan struct{}, 1)
		l <- struct{}{}
		c.locks[name] = l
	}
	c.mu.Unlock()
	select {
	case <-l:
		return func() { l <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// makeMount makes the folder, with what it begins with. Of two that come at once one makes it.
func (s *Solver) makeMount(ctx context.Context, name string, m *graph.Mount, in *Ref) error {
	d, err := s.Layers.NewDraft(nil, "")
	if err != nil {
		return err
	}
	defer d.Release()
	w, err := d.Write(ctx)
	if err != nil {
		return err
	}
	if m.Input == graph.Scratch {
		mode := m.Mode
		if mode == 0 {
			mode = 0o755
		}
		err = w.Put(path.Join("/", m.Source), &layer.Node{Mode: layer.TypeDir | mode&0o7777, UID: m.UID, GID: m.GID, Mtime: time.Now()}, nil)
	} else {
		var f files
		var done func()
		if f, done, err = s.read(in); err == nil {
			c := copier{ctx: ctx, w: w, f: f, c: &graph.Copy{Src: path.Join("/", m.Source), Dest: path.Join("/", m.Source), Contents: true, CreateDest: true}}
			err = c.run()
			done()
		}
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	to := filepath.Join(s.mountsDir(), name)
	s.mounts.mu.Lock()
	defer s.mounts.mu.Unlock()
	if s.mounts.known[name] != nil {
		return nil
	}
	if err := d.Move(to); err != nil {
		return err
	}
	now := time.Now().UTC()
	r := &mountRecord{ID: m.ID, Created: now, Used: now, Count: 1}
	kept := *r
	if err := s.Cache.state.Update(func(tx state.Tx) error { return tx.Put(mountBucket, name, kept) }); err != nil {
		return err
	}
	s.mounts.known[name] = r
	return nil
}
