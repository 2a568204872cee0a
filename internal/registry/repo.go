package registry

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// repository is what the process knows of one repository; everything that must last is in the storage.
type repository struct {
	name string

	// gate lets collection in between pushes. Whoever makes a link or a tag holds it shared, from looking whether
	// what it points to is there until it is written; collection holds it alone, for moments, to delete.
	gate sync.RWMutex

	// manifests counts the manifest links: a repository without one is not listed.
	manifests atomic.Int64

	mu sync.Mutex
	// used is when a client last asked for, or pushed, a blob or manifest (by digest). A push asks for a layer, is
	// told that it is there, and names it in a manifest minutes later: collection leaves alone what was used lately.
	used map[Digest]time.Time
	// released are manifests whose links should say so, but the disk was full.
	released map[Digest]struct{}
}

// use notes that d was asked for or pushed.
func (r *repository) use(now time.Time, ds ...Digest) {
	r.mu.Lock()
	for _, d := range ds {
		r.used[d] = now
	}
	r.mu.Unlock()
}

// release notes that the manifest's link should say "released"; with false, that it is no longer so.
func (r *repository) release(d Digest, released bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if released {
		r.released[d] = struct{}{}
	} else {
		delete(r.released, d)
	}
}

func (r *repository) isReleased(d Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.released[d]
	return ok
}

func (r *repository) usedSince(d Digest, t time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, ok := r.used[d]
	return ok && !u.Before(t)
}

// forget drops notes from before t.
func (r *repository) forget(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, u := range r.used {
		if u.Before(t) {
			delete(r.used, d)
		}
	}
}

// repositories is the list of names, kept in memory: a catalog from the disk would be a walk of the whole tree.
type repositories struct {
	m sync.Map // name → *repository
}

func (rs *repositories) get(name string) *repository {
	if r, ok := rs.m.Load(name); ok {
		return r.(*repository)
	}
	return nil
}

// obtain returns the repository, and begins it if there is none.
func (rs *repositories) obtain(name string) *repository {
	if r := rs.get(name); r != nil {
		return r
	}
	r, _ := rs.m.LoadOrStore(name, &repository{name: name, used: map[Digest]time.Time{}, released: map[Digest]struct{}{}})
	return r.(*repository)
}

// names returns all names with a manifest, sorted.
func (rs *repositories) names() []string {
	var names []string
	rs.m.Range(func(k, v any) bool {
		if v.(*repository).manifests.Load() > 0 {
			names = append(names, k.(string))
		}
		return true
	})
	slices.Sort(names)
	return names
}

func (rs *repositories) all() []*repository {
	var all []*repository
	rs.m.Range(func(_, v any) bool {
		all = append(all, v.(*repository))
		return true
	})
	slices.SortFunc(all, func(a, b *repository) int { return strings.Compare(a.name, b.name) })
	return all
}

// load finds the repositories in the storage.
func (rs *repositories) load(st Storage) error {
	var walk func(name string) error
	walk = func(name string) error {
		var below []string
		if err := st.List(strings.TrimSuffix("repos/"+name, "/"), func(e Entry) error {
			if e.Dir {
				below = append(below, e.Name)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, b := range below {
			if !strings.HasPrefix(b, "_") {
				if err := walk(strings.TrimPrefix(name+"/"+b, "/")); err != nil {
					return err
				}
				continue
			}
			r := rs.obtain(name)
			if b != "_manifests" {
				continue
			}
			if err := eachDigest(st, repoKey(name)+"/_manifests", func(Digest, Info) error {
				r.manifests.Add(1)
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}
	return walk("")
}

// eachDigest calls f for every <algorithm>/<hex> below key.
func eachDigest(st Storage, key string, f func(Digest, Info) error) error {
	for _, algo := range []string{"sha256", "sha512"} {
		if err := st.List(key+"/"+algo, func(e Entry) error {
			if d, ok := ParseDigest(algo + ":" + e.Name); ok && !e.Dir {
				return f(d, e.Info)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// blobLocks order, for each blob, making a link to its bytes against collecting them. Many locks by hash of the
// digest: no request waits for another's blob but by rare accident.
type blobLocks struct {
	seed   maphash.Seed
	shards [256]struct {
		sync.Mutex
		// linked is when links to blobs of this shard were made, since the last collection began.
		linked map[Digest]time.Time
	}
}

func newBlobLocks() *blobLocks {
	l := &blobLocks{seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].linked = map[Digest]time.Time{}
	}
	return l
}

func (l *blobLocks) with(d Digest, f func(linked map[Digest]time.Time) error) error {
	s := &l.shards[maphash.String(l.seed, string(d))%uint64(len(l.shards))]
	s.Lock()
	defer s.Unlock()
	return f(s.linked)
}

// forget drops the notes of links made before t.
func (l *blobLocks) forget(t time.Time) {
	for i := range l.shards {
		s := &l.shards[i]
		s.Lock()
		for d, u := range s.linked {
			if u.Before(t) {
				delete(s.linked, d)
			}
		}
		s.Unlock()
	}
}

// link makes blob d part of the repository. ready brings the bytes to their place if they are not there; with none,
// bytes that are not there are fs.ErrNotExist.
func (s *Server) link(r *repository, d Digest, ready func() error) error {
	r.gate.RLock()
	defer r.gate.RUnlock()
	return s.locks.with(d, func(linked map[Digest]time.Time) error {
		now := time.Now()
		linked[d] = now
		r.use(now, d)
		if _, err := s.storage.Stat(blobKey(d)); err != nil {
			if !errors.Is(err, fs.ErrNotExist) || ready == nil {
				return err
			}
			if err := ready(); err != nil {
				return err
			}
		}
		return s.storage.Put(blobLinkKey(r.name, d), nil)
	})
}

// hasBlob reports whether the repository has blob d, and its size.
func (s *Server) hasBlob(repo string, d Digest) (Info, error) {
	if _, err := s.storage.Stat(blobLinkKey(repo, d)); err != nil {
		return Info{}, err
	}
	return s.storage.Stat(blobKey(d))
}

// readSmall reads an object of at most max bytes.
func readSmall(st Storage, key string, max int64) ([]byte, Info, error) {
	f, info, err := st.Open(key)
	if err != nil {
		return nil, Info{}, err
	}
	defer f.Close()
	if info.Size > max {
		return nil, info, fmt.Errorf("read %s: %d bytes, more than %d", key, info.Size, max)
	}
	b := make([]byte, info.Size)
	_, err = io.ReadFull(f, b)
	return b, info, err
}

// tag returns what a tag points to, and when it was last pushed.
func (s *Server) tag(repo, tag string) (Digest, Info, error) {
	b, info, err := readSmall(s.storage, tagKey(repo, tag), 256)
	if err != nil {
		return "", info, err
	}
	d, ok := ParseDigest(strings.TrimSuffix(string(b), "\n"))
	if !ok {
		return "", info, fmt.Errorf("tag %s:%s: not a digest: %q", repo, tag, b)
	}
	return d, info, nil
}

// manifestLink is what a repository's manifest link says.
type manifestLink struct {
	mediaType string
	// released: its last tag was deleted, or it fell to a retention rule, so that no grace is due.
	released bool
	time     time.Time
}

func (s *Server) manifestLink(repo string, d Digest) (manifestLink, error) {
	b, info, err := readSmall(s.storage, manifestKey(repo, d), 1024)
	if err != nil {
		return manifestLink{}, err
	}
	typ, rest, _ := strings.Cut(string(b), "\n")
	return manifestLink{mediaType: typ, released: strings.HasPrefix(rest, "released"), time: info.Time}, nil
}

func (s *Server) putManifestLink(repo string, d Digest, l manifestLink) error {
	text := l.mediaType + "\n"
	if l.released {
		text += "released\n"
	}
	return s.storage.Put(manifestKey(repo, d), []byte(text))
}

// tags calls f for every tag of the repository.
func (s *Server) tags(ctx context.Context, repo string, f func(tag string, info Info) error) error {
	return s.storage.List(repoKey(repo)+"/_tags", func(e Entry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Dir || !validTag(e.Name) {
			return nil
		}
		return f(e.Name, e.Info)
	})
}
