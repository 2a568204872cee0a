package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/state"
)

// Draft is a layer in the making. Its directory lies where a layer's does, but has no record, so that a crash leaves
// nothing of it: first it is written, by a process whose root is [Draft.Overlay] or by a [Writer]; then [Draft.Finish]
// tidies it, and others may stand on it; [Draft.Name] learns its diff ID, beside them; [Store.Adopt] makes it, with those
// below it, a layer like any other, with one sync and one transaction for as many as there are.
//
// Whoever uses a draft holds it: NewDraft returns it held once, and each one on top holds it, too. The directory of one that
// nobody holds and that was not adopted is thrown away.
type Draft struct {
	s      *Store
	name   string // below layers/
	parent *Draft // nil: it stands on chain
	chain  digest.Digest
	lease  *Lease // of chain, and of what it becomes
	lower  []string
	empty  bool // nothing in it, known after Finish

	naming  sync.Mutex
	named   bool
	diff    digest.Digest
	tarSize int64
	size    int64

	mu      sync.Mutex
	holds   int
	adopted Info // with a DiffID once it is a layer
	kept    bool // its directory is the layer's
}

// NewDraft makes an empty draft on top of another that is finished, or where that is nil, of the layer chain (empty: of nothing).
func (s *Store) NewDraft(parent *Draft, chain digest.Digest) (_ *Draft, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make layer: %w", err)
		}
	}()
	d := &Draft{s: s, parent: parent, chain: chain, lease: s.Lease(), holds: 1}
	if parent != nil {
		d.chain = ""
		d.lower = parent.stack()
		if err := parent.Hold(); err != nil {
			return nil, err
		}
	} else {
		d.lease.Hold(chain)
		s.mu.Lock()
		d.lower, err = s.lower(chain)
		s.mu.Unlock()
	}
	if err == nil && len(d.lower) >= MaxLayers {
		err = errs.Invalid.Errorf("max depth exceeded: an image has at most %d layers", MaxLayers)
	}
	var tmp string
	if err == nil {
		d.name, tmp, err = s.newDir() // for the overlay's work directory
	}
	if err == nil {
		err = makeUpper(filepath.Join(s.base, d.lower[0]), tmp)
		if err == nil {
			err = os.Rename(tmp+"/upper", d.path())
		}
		if err == nil {
			err = os.Mkdir(tmp+"/work", 0o700)
		}
	}
	if err != nil {
		d.Release()
		return nil, err
	}
	return d, nil
}

func (d *Draft) dir() string  { return "layers/" + d.name }
func (d *Draft) path() string { return filepath.Join(d.s.base, d.dir()) }

// stack is the draft with what it stands on, topmost first.
func (d *Draft) stack() []string {
	if d.empty {
		return d.lower
	}
	return append([]string{d.dir()}, d.lower...)
}

// Hold keeps the draft for one more user.
func (d *Draft) Hold() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.holds == 0 {
		return errs.Conflict.Errorf("layer draft %s: released", d.name)
	}
	d.holds++
	return nil
}

// Release ends one hold.
func (d *Draft) Release() {
	d.mu.Lock()
	d.holds--
	last, kept := d.holds == 0, d.kept
	d.mu.Unlock()
	if !last {
		return
	}
	if d.name != "" {
		d.s.trash.throw(filepath.Join(d.s.base, "layers/tmp", d.name))
		if !kept {
			d.s.trash.throw(d.path())
		}
	}
	d.lease.Release()
	if d.parent != nil {
		d.parent.Release()
	}
}

// Overlay names what a process's root is made of that writes the draft. mark adds /.dockerenv.
func (d *Draft) Overlay(mark bool) Overlay {
	o := Overlay{Base: d.s.base, Lower: d.lower, Upper: d.dir(), Work: "layers/tmp/" + d.name + "/work"}
	if mark {
		o.Lower = append([]string{markDir}, d.lower...)
	}
	return o
}

// View names what there is to be read: the draft, once it is finished, on all below it.
func (d *Draft) View() Overlay { return Overlay{Base: d.s.base, Lower: d.stack()} }

// ChainView is View of a layer and those below it, for as long as somebody holds it.
func (s *Store) ChainView(chain digest.Digest) (Overlay, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lower, err := s.lower(chain)
	return Overlay{Base: s.base, Lower: lower}, err
}

// FinishOptions are those of Draft.Finish.
type FinishOptions struct {
	// Stubs are paths on which something was mounted: what was made there for that goes, where it is empty.
	Stubs []string
	// Epoch, where it is not zero, is the latest time that a file may have.
	Epoch time.Time
}

// Finish takes away what is not to be in a layer, in place: marks that hide nothing, sockets, what was made to mount on.
// Nobody may write the draft any more.
func (d *Draft) Finish(ctx context.Context, o FinishOptions) error {
	fds, err := d.open()
	if err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	defer closeAll(fds)
	t := tidier{ctx: ctx, lower: fds[1:], stubs: map[string]bool{}, links: map[inode]bool{}, epoch: o.Epoch}
	for _, p := range o.Stubs {
		for p = strings.Trim(path.Clean("/"+p), "/"); p != "" && p != "."; p = path.Dir(p) {
			t.stubs[p] = true
		}
	}
	if err := t.top(fds[0]); err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	d.size = t.size
	own, err := ownRoot(fds[0], fds[1:])
	if err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	d.empty = !own && empty(fds[0])
	d.s.trash.throw(filepath.Join(d.s.base, "layers/tmp", d.name))
	return nil
}

// open opens the draft's directory and those below it.
func (d *Draft) open() ([]int, error) { return d.s.openAll(append([]string{d.dir()}, d.lower...)) }

// Empty reports whether there is nothing in the finished draft: no layer comes of it then.
func (d *Draft) Empty() bool { return d.empty }

// Size returns the bytes of the finished draft's files.
func (d *Draft) Size() int64 { return d.size }

// Name packs the finished draft to learn its diff ID. It may be called by several at once, and again.
func (d *Draft) Name(ctx context.Context) (digest.Digest, error) {
	d.naming.Lock()
	defer d.naming.Unlock()
	if d.named {
		return d.diff, nil
	}
	if d.empty {
		d.diff, d.named = EmptyDiff, true
		return d.diff, nil
	}
	top, err := openDir(d.path())
	if err != nil {
		return "", err
	}
	defer unix.Close(top)
	below, err := openDir(filepath.Join(d.s.base, d.lower[0]))
	if err != nil {
		return "", err
	}
	defer unix.Close(below)
	if d.diff, d.tarSize, err = packedDigest(ctx, top, []int{below}); err != nil {
		return "", fmt.Errorf("name layer: %w", err)
	}
	d.named = true
	return d.diff, nil
}

// Info describes the layer that came of an adopted draft; of an empty one, what it stands on.
func (d *Draft) Info() (Info, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.adopted, d.adopted.DiffID != ""
}

// Adopt makes layers of finished drafts and of all those below them, and gives them to the lease. They are recorded when it
// returns, together with what also writes in the same transaction; also may be nil. Their files are synced behind that (see settle.go): a
// power cut in between takes the layers, and not what they were made from. One that comes to the same as a layer that is there already is
// that layer from then on.
func (s *Store) Adopt(ctx context.Context, l *Lease, drafts []*Draft, also func(state.Tx) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("keep layers: %w", err)
		}
	}()
	var order []*Draft
	seen := map[*Draft]bool{}
	var add func(*Draft)
	add = func(d *Draft) {
		if d == nil || seen[d] {
			return
		}
		seen[d] = true
		add(d.parent)
		order = append(order, d)
	}
	for _, d := range drafts {
		add(d)
	}
	for _, d := range order {
		if _, err := d.Name(ctx); err != nil {
			return err
		}
	}
	s.adopting.Lock()
	defer s.adopting.Unlock()
	type fresh struct {
		d     *Draft
		chain digest.Digest
		r     record
	}
	var list []fresh
	infos := map[*Draft]Info{}
	coming := map[digest.Digest]bool{}
	for _, d := range order {
		if info, done := d.Info(); done {
			infos[d] = info
			l.Hold(info.ChainID)
			continue
		}
		parent := d.chain
		if d.parent != nil {
			parent = infos[d.parent].ChainID
		}
		if d.diff == EmptyDiff {
			infos[d] = Info{ChainID: parent, DiffID: EmptyDiff, Parent: parent}
			continue
		}
		chain := ChainID(parent, d.diff)
		l.Hold(chain)
		d.lease.Hold(chain)
		infos[d] = Info{chain, d.diff, parent, d.size}
		s.mu.Lock()
		_, there := s.layers[chain]
		s.mu.Unlock()
		if there || coming[chain] {
			continue
		}
		coming[chain] = true
		list = append(list, fresh{d, chain, record{Dir: d.name, DiffID: d.diff, Parent: parent, Size: d.size, Created: time.Now().UTC(), Pack: packVersion, TarSize: d.tarSize, Boot: s.boot}})
	}
	if len(list) > 0 && s.boot == "" {
		if err := syncPath(filepath.Join(s.base, "layers"), unix.Syncfs); err != nil {
			return err
		}
	}
	failpoint.Hit("layer-drafts-named")
	if len(list) > 0 || also != nil {
		err := s.state.Update(func(tx state.Tx) error {
			for _, f := range list {
				if err := tx.Put(bucket, f.chain.String(), f.r); err != nil {
					return err
				}
			}
			if also != nil {
				return also(tx)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	for _, f := range list { // unpacked by a pull at the same moment: either will do, the other's directory goes at the next start
		s.layers[f.chain] = f.r
	}
	s.mu.Unlock()
	for _, f := range list {
		f.d.mu.Lock()
		f.d.kept = true
		f.d.mu.Unlock()
	}
	if len(list) > 0 && s.boot != "" {
		s.settler.soon()
	}
	for _, d := range order {
		d.mu.Lock()
		d.adopted = infos[d]
		d.mu.Unlock()
	}
	return nil
}

// tidier goes over what was written into an overlay's upper directory; see copier, which does the same with a copy.
type tidier struct {
	ctx   context.Context
	lower []int
	stubs map[string]bool
	links map[inode]bool
	epoch time.Time
	size  int64
}

func (t *tidier) top(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if _, err := t.dir(fd, "", false, 0); err != nil {
		return err
	}
	return t.times(fd, ".", &st)
}

// times puts back the times that the tidying changed, or the latest that is allowed.
func (t *tidier) times(dirfd int, name string, st *unix.Stat_t) error {
	a, m := st.Atim, st.Mtim
	if !t.epoch.IsZero() {
		if time.Unix(m.Unix()).After(t.epoch) {
			m = timespec(t.epoch)
		}
		a = m
	} else if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return unix.UtimesNanoAt(dirfd, name, []unix.Timespec{a, m}, unix.AT_SYMLINK_NOFOLLOW)
}

func (t *tidier) dir(fd int, path string, cut bool, depth int) (only bool, err error) {
	if depth > maxDepth {
		return false, errs.Invalid.Errorf("%q is nested too deep", path)
	}
	names, err := readNames(fd)
	if err != nil {
		return false, err
	}
	only = len(names) > 0
	for _, n := range names {
		if err := t.ctx.Err(); err != nil {
			return false, err
		}
		made, err := t.entry(fd, n, join(path, n), cut, depth)
		if err != nil {
			return false, fmt.Errorf("%q: %w", join(path, n), err)
		}
		only = only && made
	}
	return only, nil
}

func (t *tidier) entry(dirfd int, name, path string, cut bool, depth int) (made bool, err error) {
	e := &lowerEntry{dirfd: dirfd, name: name}
	if err := unix.Fstatat(dirfd, name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	below := &lowerEntry{}
	_, ours := engineMade[path]
	ours = ours || t.stubs[path]
	if !cut && (ours || isWhiteout(&e.st) || e.kind() == unix.S_IFDIR) {
		if below, err = lookupLower(t.lower, path); err != nil {
			return false, err
		}
		defer below.close()
	}
	if isWhiteout(&e.st) {
		if below.kind() == 0 {
			return false, unix.Unlinkat(dirfd, name, 0)
		}
		return false, nil
	}
	made = ours && below.kind() == 0 && (isEngineMade(path, &e.st) || t.stubs[path] && (e.kind() == unix.S_IFDIR || e.kind() == unix.S_IFREG && e.st.Size == 0))
	switch e.kind() {
	case unix.S_IFSOCK:
		return false, unix.Unlinkat(dirfd, name, 0)
	case unix.S_IFDIR:
		return t.directory(e, below, path, cut, made, depth)
	}
	if made {
		return true, unix.Unlinkat(dirfd, name, 0)
	}
	key := inode{e.st.Dev, e.st.Ino}
	if e.st.Nlink > 1 && t.links[key] {
		return false, nil
	}
	t.links[key] = e.st.Nlink > 1
	if e.kind() == unix.S_IFREG || e.kind() == unix.S_IFLNK {
		t.size += e.st.Size
	}
	return false, t.times(dirfd, name, &e.st)
}

func (t *tidier) directory(e, below *lowerEntry, path string, cut, made bool, depth int) (bool, error) {
	fd, err := unix.Openat(e.dirfd, e.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	opaque, err := isOpaque(fd, ".")
	if err != nil {
		return false, err
	}
	hides := below.kind() == unix.S_IFDIR && opaque
	only, err := t.dir(fd, path, cut || opaque || below.kind() != unix.S_IFDIR, depth+1)
	if err != nil {
		return false, err
	}
	if made && (only || empty(fd)) || only && !hides && below.kind() == unix.S_IFDIR && sameAttributes(&e.st, &below.st) {
		return true, unix.Unlinkat(e.dirfd, e.name, unix.AT_REMOVEDIR)
	}
	if opaque && !hides {
		if err := unix.Lremovexattr(at(fd, "."), opaqueXattr); err != nil && !errors.Is(err, unix.ENODATA) {
			return false, err
		}
	}
	return false, t.times(fd, ".", &e.st)
}

// Becomes returns the chain ID that the draft has as a layer, or, if it is empty, that of what it stands on. It is known once all
// have been named.
func (d *Draft) Becomes() digest.Digest {
	if info, done := d.Info(); done {
		return info.ChainID
	}
	below := d.chain
	if d.parent != nil {
		below = d.parent.Becomes()
	}
	d.naming.Lock()
	defer d.naming.Unlock()
	if d.diff == EmptyDiff {
		return below
	}
	return ChainID(below, d.diff)
}

// Move takes the draft's directory out of the store, to a path that does not exist, on the same file system. The draft is
// good for nothing afterwards but Release.
func (d *Draft) Move(to string) error { return os.Rename(d.path(), to) }

// Copy fills the draft with a layer's directory, named as an Overlay names it: what that layer changes, the draft changes too.
func (d *Draft) Copy(ctx context.Context, dir string) error {
	fds, err := d.open()
	if err != nil {
		return err
	}
	defer closeAll(fds)
	from, err := openDir(filepath.Join(d.s.base, dir))
	if err != nil {
		return err
	}
	defer unix.Close(from)
	_, err = copyLayer(ctx, fds[0], from, fds[1:])
	return err
}
