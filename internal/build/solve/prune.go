package solve

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/state"
)

// ReadFile reads a small file of a folder, links followed. What is not there is fs.ErrNotExist.
func ReadFile(ctx context.Context, t source.Tree, name string, limit int64) ([]byte, error) {
	f := source.NewFiles(t)
	at, _, err := followed(f, name)
	if err != nil {
		return nil, err
	}
	e, err := f.Find(at)
	if err != nil {
		return nil, err
	}
	if err := t.Want(ctx, []*source.Entry{e}); err != nil {
		return nil, err
	}
	in, err := f.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return readAll(in, limit)
}

// PruneOptions select what Prune removes.
type PruneOptions struct {
	All     bool
	Keep    int64 // bytes of the newest that may stay
	Filters map[string][]string
	Shared  func(digest.Digest) bool // whether an image has the layer
}

// Usage lists what is kept, cache mounts too.
func (s *Solver) Usage(shared func(digest.Digest) bool) []Usage {
	return append(s.Cache.usage(shared), s.mountUsage()...)
}

func (s *Solver) mountUsage() (list []Usage) {
	m := &s.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.known {
		list = append(list, Usage{ID: short(name), Kind: "exec.cachemount", Description: "cached mount " + r.ID, Size: treeSize(filepath.Join(s.mountsDir(), name)),
			Created: r.Created, Used: r.Used, Count: r.Count, InUse: m.users[name] > 0, Mutable: true})
	}
	return list
}

func treeSize(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				n += fi.Size()
			}
		}
		return nil
	})
	return n
}

// Prune removes what nobody uses now and the filters select.
func (s *Solver) Prune(ctx context.Context, o PruneOptions) ([]Usage, error) {
	match, err := filter(o.Filters)
	if err != nil {
		return nil, err
	}
	var drop []Usage
	var kept int64
	list := s.Usage(o.Shared)
	slices.SortStableFunc(list, func(a, b Usage) int { return b.Used.Compare(a.Used) })
	for _, u := range list {
		if u.InUse || !match(u) || u.Shared && !o.All {
			continue
		}
		if o.Keep > 0 && kept+u.Size <= o.Keep {
			kept += u.Size
			continue
		}
		drop = append(drop, u)
	}
	return s.drop(ctx, drop)
}

// Bound removes what has not been used for age, and the least used beyond keep bytes.
func (s *Solver) Bound(ctx context.Context, keep int64, age time.Duration) ([]Usage, error) {
	var drop []Usage
	var kept int64
	list := s.Usage(nil)
	slices.SortStableFunc(list, func(a, b Usage) int { return b.Used.Compare(a.Used) })
	for _, u := range list {
		kept += u.Size
		if !u.InUse && (kept > keep || time.Since(u.Used) > age) {
			drop = append(drop, u)
		}
	}
	if len(drop) == 0 {
		return nil, nil
	}
	return s.drop(ctx, drop)
}

func (s *Solver) drop(ctx context.Context, list []Usage) ([]Usage, error) {
	wanted := map[string]bool{}
	for _, u := range list {
		wanted[u.ID] = true
	}
	gone, err := s.Cache.remove(ctx, func(id string, _ *record) bool { return wanted[id] })
	if err != nil {
		return gone, err
	}
	m := &s.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.known {
		if !wanted[short(name)] || m.users[name] > 0 {
			continue
		}
		u := Usage{ID: short(name), Kind: "exec.cachemount", Description: "cached mount " + m.known[name].ID, Created: m.known[name].Created}
		for _, x := range list {
			if x.ID == u.ID {
				u.Size = x.Size
			}
		}
		delete(m.known, name)
		aside := filepath.Join(s.tmpDir(), name)
		if err := os.Rename(filepath.Join(s.mountsDir(), name), aside); err != nil {
			return gone, err
		}
		if err := s.Cache.state.Update(func(tx state.Tx) error { return tx.Delete(mountBucket, name) }); err != nil {
			return gone, err
		}
		s.work.Go(func() { os.RemoveAll(aside) })
		gone = append(gone, u)
	}
	return gone, nil
}

// filter makes a test of Docker's filters.
func filter(f map[string][]string) (func(Usage) bool, error) {
	var before time.Time
	for key, values := range f {
		switch key {
		case "until", "unused-for":
			for _, v := range values {
				d, err := time.ParseDuration(v)
				if err != nil {
					if n, nerr := strconv.ParseInt(v, 10, 64); nerr == nil {
						before = time.Unix(n, 0)
						continue
					}
					t, terr := time.Parse(time.RFC3339, v)
					if terr != nil {
						return nil, errs.Invalid.Errorf("%q filter expects a duration (e.g., '24h')", key)
					}
					before = t
					continue
				}
				before = time.Now().Add(-d)
			}
		case "id", "parent", "type", "description", "inuse", "mutable", "immutable", "shared", "private",
			"label", "label!": // of other kinds, by `system prune`; Docker takes no notice either
		default:
			return nil, errs.Invalid.Errorf("invalid filter '%s'", key)
		}
	}
	has := func(key, value string) bool { return len(f[key]) == 0 || slices.Contains(f[key], value) }
	flag := func(key string, value bool) bool {
		v, ok := f[key]
		if !ok {
			return true
		}
		return slices.ContainsFunc(v, func(x string) bool { return x == "" || x == "1" || x == "true" }) == value
	}
	return func(u Usage) bool {
		return (before.IsZero() || u.Used.Before(before)) && has("id", u.ID) && has("type", u.Kind) && has("description", u.Description) &&
			(len(f["parent"]) == 0 || slices.ContainsFunc(u.Parents, func(p string) bool { return slices.Contains(f["parent"], p) })) &&
			flag("inuse", u.InUse) && flag("shared", u.Shared) && flag("private", !u.Shared) && flag("mutable", u.Mutable) && flag("immutable", !u.Mutable)
	}, nil
}
