package layer

import (
	"cmp"
	"context"
	_ "crypto/sha256" // the algorithms of diff IDs
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/state"
)

// bucket holds a record for each layer, by chain ID.
const bucket = "layers"

// record is a layer as the state keeps it.
type record struct {
	Dir     string        `json:"dir"` // below layers/
	DiffID  digest.Digest `json:"diffID"`
	Parent  digest.Digest `json:"parent,omitempty"` // chain ID; empty for the bottom
	Size    int64         `json:"size"`             // bytes of its files
	Created time.Time     `json:"created"`

	// The boot in which the layer was made, until it is known to be on the disk; then empty. See settle.go.
	Boot string `json:"boot,omitempty"`

	// Of a layer that was made here: the form of the archive that Pack rebuilds (0: the archive came from elsewhere,
	// and lies in the content store), and that archive's bytes.
	Pack    int   `json:"pack,omitempty"`
	TarSize int64 `json:"tarSize,omitempty"`
}

// Info describes a layer.
type Info struct {
	ChainID, DiffID, Parent digest.Digest
	Size                    int64 // bytes of its files, as Docker counts them
}

// Store is all layers below one data-root. Its methods may be called from any goroutine.
type Store struct {
	base   string
	state  *state.Store
	limits Limits
	trash  *trash
	boot   string // this boot's ID; empty: unknown, and nothing is put off
	lost   []digest.Digest
	settler

	collecting sync.Mutex
	adopting   sync.Mutex

	mu        sync.Mutex
	next      uint64
	first     uint64 // next when the store was opened: what has a higher number was made since
	layers    map[digest.Digest]record
	unpacking map[digest.Digest]chan struct{} // closed when that unpacking ends
	held      map[digest.Digest]int           // by how many leases and writable layers
	touched   map[digest.Digest]struct{}      // held at any time during the running collection; nil when none runs
	writable  map[string]digest.Digest        // container ID → chain ID
}

// Options are the store's optional settings.
type Options struct {
	Limits Limits
	Boot   string        // names this boot of the machine; empty: the kernel's ID of it
	Settle time.Duration // how long after the last layer was made it is synced; 0: 2 s
}

// Open opens or creates the layers below dataRoot and throws away what never became one.
func Open(dataRoot string, st *state.Store, o Options) (*Store, error) {
	base, err := filepath.Abs(dataRoot)
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	s := &Store{
		base: base, state: st, limits: o.Limits.orDefault(),
		layers: map[digest.Digest]record{}, unpacking: map[digest.Digest]chan struct{}{},
		held: map[digest.Digest]int{}, writable: map[string]digest.Digest{},
	}
	for _, d := range []string{"layers/tmp", "layers/trash", "layers/0", markDir, parkedDir} {
		if err := os.MkdirAll(filepath.Join(base, d), 0o700); err != nil {
			return nil, fmt.Errorf("open layers: %w", err)
		}
	}
	for _, d := range []string{"layers/0", markDir} {
		if err := os.Chmod(filepath.Join(base, d), 0o755); err != nil {
			return nil, fmt.Errorf("open layers: %w", err)
		}
	}
	mark, err := os.OpenFile(filepath.Join(base, markDir, ".dockerenv"), os.O_CREATE|os.O_RDONLY, 0o755)
	if err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	mark.Close()
	if s.trash, err = openTrash(filepath.Join(base, "layers/trash")); err != nil {
		return nil, fmt.Errorf("open layers: %w", err)
	}
	s.boot = o.Boot
	if s.boot == "" {
		s.boot = bootID()
	}
	if err := s.load(); err != nil {
		s.trash.close()
		return nil, fmt.Errorf("open layers: %w", err)
	}
	s.after = cmp.Or(o.Settle, settleAfter)
	s.startSettler()
	return s, nil
}

// markDir is the lower layer on top of all others of a container's root. It holds /.dockerenv, by which programs know
// that they run in a container, so that it is neither in an image nor among what a container has changed. It may
// hold nothing in a subdirectory: that would hide the mode and owner of the image's own. No layer's name has a "_".
const markDir = "layers/_m"

// Close brings to the disk what is not there yet, and waits for the deletion that is under way, if any; the rest of
// those is done after the next Open.
func (s *Store) Close() error {
	err := s.stopSettler()
	s.trash.close()
	return err
}

func (s *Store) load() error {
	err := s.state.View(func(tx state.Tx) error {
		return tx.Each(bucket, func(key string, decode func(any) error) error {
			var r record
			if err := decode(&r); err != nil {
				return err
			}
			if r.Boot != "" && r.Boot != s.boot {
				s.lost = append(s.lost, digest.Digest(key))
				return nil
			}
			s.layers[digest.Digest(key)] = r
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := s.forgetLost(); err != nil {
		return err
	}
	known := map[string]bool{"0": true, filepath.Base(markDir): true, "tmp": true, "trash": true}
	for _, r := range s.layers {
		known[r.Dir] = true
		if n, err := strconv.ParseUint(r.Dir, 36, 64); err == nil {
			s.next = max(s.next, n)
		}
	}
	s.first = s.next
	for _, sub := range []string{"layers", "layers/tmp"} {
		entries, err := os.ReadDir(filepath.Join(s.base, sub))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if sub == "layers" && known[e.Name()] {
				continue
			}
			if err := s.trash.throw(filepath.Join(s.base, sub, e.Name())); err != nil {
				return err
			}
		}
	}
	return s.loadWritable()
}

// ChainID computes the chain ID of diff on top of parent (empty: none).
func ChainID(parent, diff digest.Digest) digest.Digest {
	if parent == "" {
		return diff
	}
	return digest.FromString(parent.String() + " " + diff.String())
}

// Get describes a layer; errs.NotFound if there is none.
func (s *Store) Get(chain digest.Digest) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.layers[chain]
	if !ok {
		return Info{}, notFound(chain)
	}
	return Info{chain, r.DiffID, r.Parent, r.Size}, nil
}

func notFound(chain digest.Digest) error { return errs.NotFound.Errorf("layer %s: not found", chain) }

// Chain describes the layer and those below it, topmost first. The empty chain has none.
func (s *Store) Chain(chain digest.Digest) ([]Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Info
	for chain != "" {
		r, ok := s.layers[chain]
		if !ok {
			return nil, notFound(chain)
		}
		all = append(all, Info{chain, r.DiffID, r.Parent, r.Size})
		chain = r.Parent
	}
	return all, nil
}

// lower returns the directories of the chain relative to the base, topmost first. It is called with s.mu held.
func (s *Store) lower(chain digest.Digest) ([]string, error) {
	if chain == "" {
		return []string{"layers/0"}, nil
	}
	var dirs []string
	for c := chain; c != ""; {
		r, ok := s.layers[c]
		if !ok {
			return nil, notFound(c)
		}
		dirs = append(dirs, "layers/"+r.Dir)
		c = r.Parent
	}
	return dirs, nil
}

// Source opens a layer's archive: a tar stream, plain or compressed by gzip or zstd.
type Source func() (io.ReadCloser, error)

// Recipe says how a layer is made.
type Recipe struct {
	Parent, Diff digest.Digest // chain ID of what it lies on (empty: nothing); digest of the plain archive
	Open         Source
	// Below, if set, waits until Parent is there: layers of one image are made side by side, and each is
	// recorded after the one below it.
	Below func(context.Context) error
	// Kept promises that whoever has the layer keeps its archive, too. Then making it does not wait for the disk, see
	// Lost.
	Kept bool
	// Hashed says that the archive is plain, and that it was just found to have the digest Diff.
	Hashed bool
}

// Unpack makes the layer diff on top of parent (a chain ID; empty: none): see Make.
func (s *Store) Unpack(ctx context.Context, l *Lease, parent, diff digest.Digest, open Source) (Info, error) {
	return s.Make(ctx, l, Recipe{Parent: parent, Diff: diff, Open: open})
}

// Make makes a layer unless it is there already, and gives it to
// the lease. Those who ask for the same layer at once share one unpacking. The stream's digest is
// checked against the diff ID; a wrong or broken archive is errs.Invalid and leaves nothing.
func (s *Store) Make(ctx context.Context, l *Lease, r Recipe) (Info, error) {
	if err := r.Diff.Validate(); err != nil {
		return Info{}, errs.Invalid.Errorf("diff ID %q: %w", string(r.Diff), err)
	}
	chain := ChainID(r.Parent, r.Diff)
	l.Hold(chain)
	for {
		s.mu.Lock()
		if r, ok := s.layers[chain]; ok {
			s.mu.Unlock()
			return Info{chain, r.DiffID, r.Parent, r.Size}, nil
		}
		other, ok := s.unpacking[chain]
		if !ok {
			mine := make(chan struct{})
			s.unpacking[chain] = mine
			s.mu.Unlock()
			made, err := s.unpack(ctx, chain, r)
			s.mu.Lock()
			delete(s.unpacking, chain)
			if err == nil {
				s.layers[chain] = made
			}
			s.mu.Unlock()
			close(mine)
			if err != nil {
				return Info{}, fmt.Errorf("unpack layer %s: %w", r.Diff, err)
			}
			if made.Boot != "" {
				s.settler.soon()
			}
			return Info{chain, made.DiffID, made.Parent, made.Size}, nil
		}
		s.mu.Unlock()
		select {
		case <-other: // it may have failed for a reason of its own: look again
		case <-ctx.Done():
			return Info{}, ctx.Err()
		}
	}
}

func (s *Store) lowerOf(parent digest.Digest) ([]string, error) {
	if parent == "" {
		return nil, nil
	}
	lower, err := s.lower(parent)
	if err == nil && len(lower) >= MaxLayers {
		err = errs.Invalid.Errorf("max depth exceeded: an image has at most %d layers", MaxLayers)
	}
	return lower, err
}

func (s *Store) unpack(ctx context.Context, chain digest.Digest, p Recipe) (_ record, err error) {
	s.mu.Lock()
	s.next++
	name := strconv.FormatUint(s.next, 36)
	s.mu.Unlock()
	tmp := filepath.Join(s.base, "layers/tmp", name)
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return record{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.trash.throw(tmp))
		}
	}()
	r := record{Dir: name, DiffID: p.Diff, Parent: p.Parent, Created: time.Now().UTC()}
	if p.Kept {
		r.Boot = s.boot
	}
	below := &lowerStack{s: s, ctx: ctx, parent: p.Parent, wait: p.Below}
	defer below.close()
	if r.Size, err = s.fill(ctx, tmp, p, below, r.Boot == ""); err != nil {
		return record{}, err
	}
	if p.Parent != "" { // what lies below is recorded first
		if _, err := below.open(); err != nil {
			return record{}, err
		}
	}
	failpoint.Hit("layer-unpacked")
	final := filepath.Join(s.base, "layers", name)
	if err := os.Rename(tmp, final); err != nil {
		return record{}, err
	}
	tmp = final // what a failure throws away from here on
	// The rename reaches the disk no later than the record: one folder sync, then the transaction.
	if r.Boot == "" {
		if err := syncPath(filepath.Join(s.base, "layers"), unix.Fsync); err != nil {
			return record{}, err
		}
	}
	failpoint.Hit("layer-renamed")
	err = s.state.Update(func(tx state.Tx) error { return tx.Put(bucket, chain.String(), r) })
	return r, err
}

// lowerStack is the layers below one that is being made, opened when they are first needed.
type lowerStack struct {
	s      *Store
	ctx    context.Context
	parent digest.Digest
	wait   func(context.Context) error
	fds    []int
}

// open returns the roots, topmost first.
func (b *lowerStack) open() ([]int, error) {
	if b.fds != nil {
		return b.fds, nil
	}
	if b.wait != nil {
		if err := b.wait(b.ctx); err != nil {
			return nil, err
		}
	}
	b.s.mu.Lock()
	dirs, err := b.s.lowerOf(b.parent)
	b.s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	b.fds, err = b.s.openAll(dirs)
	return b.fds, err
}

func (b *lowerStack) close() {
	closeAll(b.fds)
	b.fds = nil
}

// fill unpacks into dir and, if asked to, syncs it.
func (s *Store) fill(ctx context.Context, dir string, p Recipe, below *lowerStack, sync bool) (int64, error) {
	t := Target{Limits: s.limits}
	var err error
	if t.Root, err = openDir(dir); err != nil {
		return 0, err
	}
	defer unix.Close(t.Root)
	if p.Parent != "" {
		t.Below = below.open
	}
	packed, err := p.Open()
	if err != nil {
		return 0, err
	}
	defer packed.Close()
	plain, form, err := Decompress(packed)
	if err != nil {
		return 0, err
	}
	defer plain.Close()
	var from io.Reader = plain
	var v *verifier
	if !p.Hashed || form != Plain {
		v = verify(plain, p.Diff)
		defer v.close()
		from = v
	}
	done, err := Unpack(ctx, from, t)
	if err != nil {
		return 0, err
	}
	if v != nil {
		if got := v.sum(); got != p.Diff {
			return 0, errs.Invalid.Errorf("layer has diff ID %s, not %s as the image's config says", got, p.Diff)
		}
	}
	if sync {
		if err := unix.Syncfs(t.Root); err != nil {
			return 0, fmt.Errorf("sync: %w", err)
		}
	}
	return done.Size, nil
}

func syncPath(path string, sync func(int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := sync(fd); err != nil {
		return &os.PathError{Op: "sync", Path: path, Err: err}
	}
	return nil
}

// Lease protects layers from collection until it is released.
type Lease struct {
	s    *Store
	mu   sync.Mutex
	held map[digest.Digest]struct{}
}

// Lease returns a new lease that holds nothing.
func (s *Store) Lease() *Lease { return &Lease{s: s, held: map[digest.Digest]struct{}{}} }

// Hold adds layers by chain ID, whether they are there yet or not. What is there afterwards stays, with all below it.
func (l *Lease) Hold(chains ...digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for _, c := range chains {
		if _, ok := l.held[c]; !ok && c != "" {
			l.held[c] = struct{}{}
			l.s.hold(c)
		}
	}
}

// Release ends the protection. It may be called twice.
func (l *Lease) Release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	for c := range l.held {
		l.s.release(c)
	}
	clear(l.held)
}

// hold and release are called with s.mu held.
func (s *Store) hold(c digest.Digest) {
	s.held[c]++
	if s.touched != nil {
		s.touched[c] = struct{}{}
	}
}

func (s *Store) release(c digest.Digest) {
	if s.held[c]--; s.held[c] <= 0 {
		delete(s.held, c)
	}
}

// Collect removes every layer that is not at or below one that roots marks, a lease holds or a container
// is on; it returns what it removed, upper before lower. As content.Collect it runs beside everything else.
func (s *Store) Collect(ctx context.Context, roots func(mark func(digest.Digest)) error) ([]Info, error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.mu.Lock()
	s.touched = make(map[digest.Digest]struct{}, len(s.held))
	for c := range s.held {
		s.touched[c] = struct{}{}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.touched = nil
		s.mu.Unlock()
	}()
	var marked []digest.Digest
	if err := roots(func(c digest.Digest) { marked = append(marked, c) }); err != nil {
		return nil, fmt.Errorf("collect layers: mark: %w", err)
	}
	gone, dirs := s.sweep(marked)
	if len(gone) == 0 {
		return nil, nil
	}
	err := s.state.Update(func(tx state.Tx) error {
		for _, g := range gone {
			if err := tx.Delete(bucket, g.ChainID.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("collect layers: %w", err)
	}
	failpoint.Hit("layer-forgotten")
	for _, d := range dirs {
		err = errors.Join(err, s.trash.throw(filepath.Join(s.base, "layers", d)))
	}
	return gone, err
}

// sweep takes the unwanted layers out of the map.
func (s *Store) sweep(marked []digest.Digest) (gone []Info, dirs []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[digest.Digest]struct{}{}
	mark := func(c digest.Digest) {
		for c != "" {
			if _, ok := keep[c]; ok {
				return
			}
			keep[c] = struct{}{}
			c = s.layers[c].Parent
		}
	}
	for _, c := range marked {
		mark(c)
	}
	for c := range s.touched {
		mark(c)
	}
	children := map[digest.Digest]int{}
	for c, r := range s.layers {
		if _, ok := keep[c]; !ok {
			children[r.Parent]++
		}
	}
	var drop func(c digest.Digest)
	drop = func(c digest.Digest) {
		r, ok := s.layers[c]
		if _, kept := keep[c]; !ok || kept || children[c] > 0 {
			return
		}
		delete(s.layers, c)
		gone = append(gone, Info{c, r.DiffID, r.Parent, r.Size})
		dirs = append(dirs, r.Dir)
		children[r.Parent]--
		drop(r.Parent)
	}
	for c := range s.layers {
		drop(c)
	}
	return gone, dirs
}
