package session

import (
	"context"
	"crypto/sha256"
	"encoding/gob"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// walk lists a folder: what is wanted of it, without what its .dockerignore keeps out, with the files' digests.
func walk(ctx context.Context, f *Folder, want selection, cache string) ([]source.Entry, error) {
	ignored, err := patterns(f.Exclude)
	if err != nil {
		return nil, errs.Invalid.Errorf("read .dockerignore: %w", err)
	}
	excluded, err := patterns(want.Exclude)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	var included *patternmatcher.PatternMatcher
	if len(want.Include) > 0 {
		if included, err = patterns(want.Include); err != nil {
			return nil, errs.Invalid.Wrap(err)
		}
	}
	names, err := list(ctx, f.Path, []*patternmatcher.PatternMatcher{ignored, excluded}, included)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	entries := follow(names, want.Follow)
	slices.SortFunc(entries, func(a, b source.Entry) int { return source.Compare(a.Path, b.Path) })
	if err := digests(ctx, f.Path, entries, cache); err != nil {
		return nil, err
	}
	return entries, nil
}

func patterns(list []string) (*patternmatcher.PatternMatcher, error) {
	if len(list) == 0 {
		return nil, nil
	}
	return patternmatcher.New(list)
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

// list reads names below root. A directory that is kept out is read nevertheless where an exception may bring back what is in
// it ("!dir/file"); it is listed if something in it is.
func list(ctx context.Context, root string, out []*patternmatcher.PatternMatcher, in *patternmatcher.PatternMatcher) ([]source.Entry, error) {
	var entries []source.Entry
	var read func(dir string, outs []visit, in visit) (int, error)
	read = func(dir string, outs []visit, in visit) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		found, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(dir)))
		if err != nil {
			return 0, err
		}
		kept := 0
		for _, d := range found {
			rel := path.Join(dir, d.Name())
			keep, exceptions := true, false
			next := make([]visit, len(outs))
			for i, v := range outs {
				hit, n, err := v.match(rel)
				if err != nil {
					return 0, fmt.Errorf("match %s: %w", rel, err)
				}
				next[i] = n
				keep = keep && !hit
				exceptions = exceptions || hit && v.m.Exclusions()
			}
			below := in
			if in.m != nil {
				hit, n, err := in.match(rel)
				if err != nil {
					return 0, fmt.Errorf("match %s: %w", rel, err)
				}
				below = n
				keep, exceptions = keep && hit, exceptions || keep && !hit
			}
			if !keep && !(exceptions && d.IsDir()) {
				continue
			}
			e, err := stat(root, rel)
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone since
			} else if err != nil {
				return 0, err
			}
			entries = append(entries, e)
			n := 0
			if e.IsDir() {
				if n, err = read(rel, next, below); err != nil {
					return 0, err
				}
			}
			if !keep && n == 0 {
				entries = entries[:len(entries)-1]
				continue
			}
			kept++
		}
		return kept, nil
	}
	var outs []visit
	for _, m := range out {
		if m != nil {
			outs = append(outs, visit{m: m})
		}
	}
	_, err := read("", outs, visit{m: in})
	return entries, err
}

func stat(root, rel string) (source.Entry, error) {
	full := filepath.Join(root, filepath.FromSlash(rel))
	var st unix.Stat_t
	if err := unix.Lstat(full, &st); err != nil {
		return source.Entry{}, &fs.PathError{Op: "lstat", Path: full, Err: err}
	}
	e := source.Entry{Path: rel}
	e.Mode, e.UID, e.GID, e.Mtime = st.Mode, st.Uid, st.Gid, time.Unix(st.Mtim.Unix())
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Size = st.Size
		if st.Nlink > 1 {
			e.Inode = [2]uint64{st.Dev, st.Ino}
		}
	case unix.S_IFLNK:
		link, err := os.Readlink(full)
		if err != nil {
			return e, err
		}
		e.Link = link
		return e, nil
	case unix.S_IFBLK, unix.S_IFCHR:
		e.Rdev = st.Rdev
	}
	var err error
	e.Xattrs, err = xattrs(full)
	return e, err
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

// follow keeps what the paths lead to, and the directories on the way. Where a symbolic link is on the way everything is
// kept: it may lead anywhere.
func follow(all []source.Entry, paths []string) []source.Entry {
	if len(paths) == 0 {
		return all
	}
	var kept []source.Entry
	for i := range all {
		e := &all[i]
		wanted := false
		for _, p := range paths {
			p = strings.Trim(path.Clean("/"+p), "/")
			switch on, below := along(p, e.Path); {
			case p == "":
				return all
			case on && e.IsLink():
				return all
			case below || on && (e.IsDir() || e.Path == p):
				wanted = true
			}
		}
		if wanted {
			kept = append(kept, *e)
		}
	}
	return kept
}

// along reports whether name lies on the way to what the pattern names, or is that, or below it. A pattern's parts may
// have path.Match's wildcards.
func along(pattern, name string) (on, below bool) {
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	for i := range min(len(ps), len(ns)) {
		if ps[i] == "**" {
			return true, true
		}
		if hit, err := path.Match(ps[i], ns[i]); err == nil && !hit && ps[i] != ns[i] {
			return false, false
		}
	}
	return len(ns) <= len(ps), len(ns) >= len(ps)
}

// digests reads the files. Those that are as they were when they were last read, by their inode and the time of its last
// change, which nobody can set, are not read again.
func digests(ctx context.Context, root string, entries []source.Entry, cache string) error {
	known, save := remembered(root, cache)
	fresh := make(map[string]seen, len(entries))
	var mu sync.Mutex
	work := make(chan *source.Entry)
	failed := make(chan error, 1)
	var done sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 8) {
		done.Go(func() {
			buf := make([]byte, 128<<10)
			for e := range work {
				s, err := digestOf(filepath.Join(root, filepath.FromSlash(e.Path)), e, known[e.Path], buf)
				if err != nil {
					select {
					case failed <- errs.Invalid.Errorf("read the build's files: %w", err):
					default:
					}
					continue
				}
				mu.Lock()
				fresh[e.Path] = s
				mu.Unlock()
			}
		})
	}
	for i := range entries {
		if entries[i].IsRegular() && ctx.Err() == nil {
			work <- &entries[i]
		}
	}
	close(work)
	done.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	if ctx.Err() != nil {
		return errs.Canceled.Wrap(ctx.Err())
	}
	for p, s := range known {
		if _, ok := fresh[p]; !ok {
			fresh[p] = s // of another selection of the same folder
		}
	}
	save(fresh)
	return nil
}

// seen is what a file was like when its content was read.
type seen struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime int64
	Sum          [sha256.Size]byte
}

func digestOf(full string, e *source.Entry, was seen, buf []byte) (seen, error) {
	fd, err := unix.Open(full, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return seen{}, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	file := os.NewFile(uintptr(fd), full)
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return seen{}, &fs.PathError{Op: "stat", Path: full, Err: err}
	}
	now := seen{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Sum: was.Sum}
	e.Size = st.Size
	if was != now || was == (seen{}) {
		h := sha256.New()
		if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{file}, buf); err != nil {
			return seen{}, err
		}
		h.Sum(now.Sum[:0])
	}
	e.Digest = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(now.Sum[:]))
	return now, nil
}

// settled is how old a change must be to be believed: file systems keep time in ticks, so that a file may be written twice
// within one and look the same.
const settled = 50 * time.Millisecond

// remembered reads what is known of a folder's files, and returns what writes it. Any trouble with it means to know
// nothing.
func remembered(root, cache string) (map[string]seen, func(map[string]seen)) {
	abs, err := filepath.Abs(root)
	if cache == "" || err != nil {
		return nil, func(map[string]seen) {}
	}
	name := filepath.Join(cache, digest.FromString(abs).Encoded()[:32])
	known := map[string]seen{}
	if file, err := os.Open(name); err == nil {
		if gob.NewDecoder(file).Decode(&known) != nil {
			known = map[string]seen{}
		}
		file.Close()
	}
	began := time.Now()
	return known, func(fresh map[string]seen) {
		for p, s := range fresh {
			if time.Unix(0, s.Ctime).After(began.Add(-settled)) {
				delete(fresh, p)
			}
		}
		var b strings.Builder
		if gob.NewEncoder(&b).Encode(fresh) == nil && os.MkdirAll(cache, 0o700) == nil {
			_ = atomicfile.Write(name, []byte(b.String()), 0o600)
		}
	}
}
