package offer

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"gantry/internal/build/session/wire"
	"gantry/internal/errs"
)

// selection says which part of a folder is wanted; see graph.Local.
type selection struct{ include, exclude, follow []string }

// walk lists a folder: what is wanted of it, without what its .dockerignore keeps out, in order, with the files' digests. A file that
// is as it was when it was last read, by its inode and the time of its last change, which nobody can set, is not read again; save remembers
// what was.
func walk(ctx context.Context, f *Folder, want selection, cache string) (list []wire.Entry, save func(), err error) {
	w := &walker{ctx: ctx, root: f.Path, fresh: map[string]seen{}, slots: make(chan struct{}, max(1, min(runtime.GOMAXPROCS(0), 8)-1))}
	top := &folder{}
	for _, p := range []struct {
		list []string
		out  bool
	}{{f.Exclude, true}, {want.exclude, true}, {want.include, false}} {
		if len(p.list) == 0 {
			continue
		}
		m, err := patternmatcher.New(p.list)
		if err != nil {
			return nil, nil, errs.Invalid.Errorf("read .dockerignore: %w", err)
		}
		if p.out {
			top.out = append(top.out, visit{m: m})
		} else {
			top.in = visit{m: m}
		}
	}
	w.follow(want.follow)
	known := remembered(f.Path, cache)
	w.known = known.files
	w.read(top)
	w.work.Wait()
	if len(want.follow) > 0 && w.strayed {
		// A link is on the way to something that is wanted: it may lead anywhere.
		want.follow = nil
		return walk(ctx, f, want, cache)
	}
	w.digests()
	if ctx.Err() != nil {
		return nil, nil, errs.Canceled.Wrap(ctx.Err())
	}
	if w.err != nil {
		return nil, nil, errs.Invalid.Errorf("read the build's files: %w", w.err)
	}
	list = top.entries(make([]wire.Entry, 0, w.count))
	return list, func() { known.save(len(list), w.fresh) }, nil
}

// visit is a matcher with what it found about the directory that is being read.
type visit struct {
	m      *patternmatcher.PatternMatcher
	parent patternmatcher.MatchInfo
}

func (v visit) match(rel string) (bool, visit, error) {
	if v.m == nil {
		return false, v, nil
	}
	hit, info, err := v.m.MatchesUsingParentResults(rel, v.parent)
	return hit, visit{v.m, info}, err
}

// folder is a directory that is being read.
type folder struct {
	path  string
	out   []visit
	in    visit
	names []name
}

// name is what is in a directory.
type name struct {
	e     wire.Entry
	below *folder // of a directory
	kept  bool    // itself, not only what is in it

	unread bool // a file that is not as it was
}

// entries appends what is in the directory and below. A directory that is kept out is listed if something in it is.
func (d *folder) entries(list []wire.Entry) []wire.Entry {
	for i := range d.names {
		n := &d.names[i]
		at := len(list)
		list = append(list, n.e)
		if n.below == nil {
			continue
		}
		if list = n.below.entries(list); len(list) == at+1 && !n.kept {
			list = list[:at]
		}
	}
	return list
}

// walker reads directories, several at once.
type walker struct {
	ctx   context.Context
	root  string
	known map[string]seen
	paths []string // that alone are wanted; nil: all
	slots chan struct{}
	work  sync.WaitGroup

	mu      sync.Mutex
	err     error
	count   int
	unread  []*name         // files that are not as they were
	fresh   map[string]seen // what was read anew
	strayed bool
}

// follow keeps what the paths lead to, and the directories on the way.
func (w *walker) follow(paths []string) {
	for _, p := range paths {
		p = strings.Trim(path.Clean("/"+p), "/")
		if p == "" {
			w.paths = nil
			return
		}
		w.paths = append(w.paths, p)
	}
}

// wanted reports whether one of the paths leads to the name, or through it.
func (w *walker) wanted(e *wire.Entry) bool {
	if w.paths == nil {
		return true
	}
	for _, p := range w.paths {
		on, below := along(p, e.Path)
		if on && e.Mode&unix.S_IFMT == unix.S_IFLNK {
			w.mu.Lock()
			w.strayed = true
			w.mu.Unlock()
		}
		if below || on && (e.IsDir() || e.Path == p) {
			return true
		}
	}
	return false
}

// along reports whether name lies on the way to what the pattern names, or is that, or below it. A pattern's parts may
// have path.Match's wildcards.
func along(pattern, name string) (on, below bool) {
	for {
		p, ps, pmore := strings.Cut(pattern, "/")
		n, ns, nmore := strings.Cut(name, "/")
		if p == "**" {
			return true, true
		}
		if hit, err := path.Match(p, n); err == nil && !hit && p != n {
			return false, false
		}
		if !pmore || !nmore {
			return pmore || !nmore, nmore || !pmore
		}
		pattern, name = ps, ns
	}
}

func (w *walker) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// read reads a directory, and has what is in it read beside it where there is a slot.
func (w *walker) read(d *folder) {
	if err := w.names(d); err != nil {
		w.fail(err)
		return
	}
	for i := range d.names {
		below := d.names[i].below
		if below == nil || w.ctx.Err() != nil {
			continue
		}
		select {
		case w.slots <- struct{}{}:
			w.work.Go(func() {
				w.read(below)
				<-w.slots
			})
		default:
			w.read(below)
		}
	}
}

// names looks at all names in a directory.
func (w *walker) names(d *folder) error {
	full := filepath.Join(w.root, filepath.FromSlash(d.path))
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if d.path != "" { // the folder itself may be a link
		flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Open(full, flags, 0)
	if errors.Is(err, unix.ENOENT) && d.path != "" {
		return nil // gone since
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: full, Err: err}
	}
	defer unix.Close(fd)
	names, err := list(fd)
	if err != nil {
		return &fs.PathError{Op: "read directory", Path: full, Err: err}
	}
	slices.Sort(names)
	d.names = make([]name, 0, len(names)) // never more: unread points into it
	fresh := map[string]seen{}
	for _, n := range names {
		if err := w.name(fd, d, n, fresh); err != nil {
			return err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count += len(d.names)
	for i := range d.names {
		if d.names[i].unread {
			w.unread = append(w.unread, &d.names[i])
		}
	}
	maps.Copy(w.fresh, fresh)
	return nil
}

func list(fd int) (names []string, err error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// name looks at one name in a directory. A directory that is kept out is read nevertheless where an exception may bring back what is
// in it ("!dir/file").
func (w *walker) name(fd int, d *folder, base string, fresh map[string]seen) error {
	rel := path.Join(d.path, base)
	keep, exceptions := true, false
	var out []visit
	for _, v := range d.out {
		hit, next, err := v.match(rel)
		if err != nil {
			return err
		}
		out = append(out, next)
		keep = keep && !hit
		exceptions = exceptions || hit && v.m.Exclusions()
	}
	below := d.in
	if d.in.m != nil {
		hit, next, err := d.in.match(rel)
		if err != nil {
			return err
		}
		below = next
		keep, exceptions = keep && hit, exceptions || keep && !hit
	}
	if !keep && !exceptions {
		return nil
	}
	var st unix.Stat_t
	for {
		err := unix.Fstatat(fd, base, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			return nil // gone since
		} else if err == unix.EINTR {
			continue
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: filepath.Join(w.root, rel), Err: err}
		}
		break
	}
	// Owners are root's: who has a file here says nothing there.
	e := wire.Entry{Path: rel, Mode: st.Mode, Mtime: st.Mtim.Nano()}
	if !keep && !e.IsDir() || !w.wanted(&e) {
		return nil
	}
	n := name{kept: keep}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.below = &folder{path: rel, out: out, in: below}
		fallthrough
	case unix.S_IFREG:
		s, ok := w.known[rel]
		if now := lookedAt(&st); !ok || s.look != now {
			s = seen{look: now}
			var err error
			if s.xattrs, err = xattrs(filepath.Join(w.root, filepath.FromSlash(rel))); err != nil {
				return err
			}
			if n.unread = e.IsRegular(); !n.unread {
				fresh[rel] = s
			}
		}
		e.Xattrs = s.xattrs
		if e.IsRegular() {
			e.Size, e.Sum = st.Size, s.sum
			if st.Nlink > 1 {
				e.Inode = [2]uint64{st.Dev, st.Ino}
			}
		}
	case unix.S_IFLNK:
		link := make([]byte, 4096+1)
		size, err := unix.Readlinkat(fd, base, link)
		if err == unix.ENOENT {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: "readlink", Path: filepath.Join(w.root, rel), Err: err}
		}
		e.Link = string(link[:size])
	case unix.S_IFBLK, unix.S_IFCHR:
		e.Rdev = st.Rdev
	}
	n.e = e
	d.names = append(d.names, n)
	return nil
}

// digests reads the files that are not as they were.
func (w *walker) digests() {
	work := make(chan *name)
	for range min(runtime.GOMAXPROCS(0), 8, len(w.unread)) {
		w.work.Go(func() {
			buf := make([]byte, 128<<10)
			for n := range work {
				if err := w.digest(&n.e, buf); err != nil {
					w.fail(err)
				}
			}
		})
	}
	for _, n := range w.unread {
		if w.ctx.Err() != nil {
			break
		}
		work <- n
	}
	close(work)
	w.work.Wait()
}

func (w *walker) digest(e *wire.Entry, buf []byte) error {
	full := filepath.Join(w.root, filepath.FromSlash(e.Path))
	fd, err := unix.Open(full, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: full, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: full, Err: err}
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, descriptor(fd), buf); err != nil {
		return &fs.PathError{Op: "read", Path: full, Err: err}
	}
	s := seen{look: lookedAt(&st), xattrs: e.Xattrs}
	h.Sum(s.sum[:0])
	e.Size, e.Sum = st.Size, s.sum
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fresh[e.Path] = s
	return nil
}

// descriptor reads a file, without what os.File has beside that.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(int(d), p)
		if err == unix.EINTR {
			continue
		}
		if n == 0 && err == nil {
			return 0, io.EOF
		}
		return max(n, 0), err
	}
}

// xattrs reads the extended attributes that images keep: capabilities of programs, and users' own.
func xattrs(full string) (map[string]string, error) {
	var buf [4096]byte
	n, err := unix.Llistxattr(full, buf[:])
	if err != nil || n == 0 {
		return nil, nil //nolint:nilerr // a file system without, or more names than anyone needs
	}
	var out map[string]string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(full, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		} else if err != nil {
			return nil, &fs.PathError{Op: "read attribute " + name, Path: full, Err: err}
		}
		if out == nil {
			out = map[string]string{}
		}
		out[name] = string(value[:n])
	}
	return out, nil
}
