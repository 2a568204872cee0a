package solve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/patternmatcher"

	"gantry/internal/build/graph"
	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// files is a file system to copy from: a finished step's, an image's, or a folder of the client's. Links in all but the last name
// are followed inside it.
type files interface {
	Stat(name string) (layer.Node, error)
	Names(name string) ([]string, error)
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// NotFoundError says that what is to be copied is not there.
type NotFoundError struct {
	Path string
	// Context: it is missing in a folder of the client's.
	Context bool
	// Wildcard: no name matches it.
	Wildcard bool
}

// Error has BuildKit's phrase.
func (e *NotFoundError) Error() string {
	return fmt.Sprintf("failed to calculate checksum of ref: %q: not found", e.Path)
}

// item is one file or directory of a copy's selection.
type item struct {
	match string // the name that was asked for, or that matched
	rel   string // below the match; "" is itself
	path  string // in the file system
	node  layer.Node
}

// selected calls visit for all that c selects, a directory before what is in it, names in order.
func selected(ctx context.Context, f files, c *graph.Copy, visit func(*item) error) error {
	matches, err := resolve(f, c)
	if err != nil {
		return err
	}
	w := walker{ctx: ctx, f: f, visit: visit}
	if len(c.Include) > 0 {
		if w.include, err = patternmatcher.New(c.Include); err != nil {
			return errs.Invalid.Errorf("invalid includepatterns: %w", err)
		}
	}
	if len(c.Exclude) > 0 {
		if w.exclude, err = patternmatcher.New(c.Exclude); err != nil {
			return errs.Invalid.Errorf("invalid excludepatterns: %w", err)
		}
	}
	if w.include != nil {
		for _, r := range c.Required {
			if _, err := f.Stat(path.Join(c.Src, r)); err != nil {
				return notFound(f, r, err)
			}
		}
	}
	for _, m := range matches {
		at := m
		node, err := f.Stat(at)
		if err != nil {
			return notFound(f, m, err)
		}
		if c.FollowLinks && node.IsLink() {
			if at, node, err = followed(f, at); err != nil {
				return notFound(f, m, err)
			}
		}
		if err := w.walk(&item{match: m, path: at, node: node}); err != nil {
			return err
		}
	}
	return nil
}

func notFound(f files, name string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, tree := f.(*source.Files)
	return errs.NotFound.Wrap(&NotFoundError{Path: name, Context: tree})
}

// followed follows the link at name to its end.
func followed(f files, name string) (string, layer.Node, error) {
	for range 40 {
		n, err := f.Stat(name)
		if err != nil || !n.IsLink() {
			return name, n, err
		}
		if path.IsAbs(n.Link) {
			name = path.Clean(n.Link)
		} else {
			// The directory may itself be reached through links, whose ".." is elsewhere: the file system follows those.
			name = path.Dir(name) + "/" + n.Link
		}
	}
	return "", layer.Node{}, errs.Invalid.Errorf("%q: too many symbolic links", name)
}

// resolve finds the names that c.Src stands for.
func resolve(f files, c *graph.Copy) ([]string, error) {
	src := path.Clean("/" + c.Src)
	if !c.Wildcard || !strings.ContainsAny(src, `*?[\`) {
		return []string{src}, nil
	}
	matches := []string{"/"}
	for part := range strings.SplitSeq(strings.TrimPrefix(src, "/"), "/") {
		var next []string
		for _, m := range matches {
			if !strings.ContainsAny(part, `*?[\`) {
				p := path.Join(m, part)
				if _, err := f.Stat(p); err == nil {
					next = append(next, p)
				} else if !errors.Is(err, fs.ErrNotExist) {
					return nil, err
				}
				continue
			}
			names, err := f.Names(m)
			if err != nil {
				continue // a file, or a link that leads nowhere: nothing is in it
			}
			slices.Sort(names)
			for _, n := range names {
				ok, err := path.Match(part, n)
				if err != nil {
					return nil, errs.Invalid.Errorf("%q: %w", c.Src, err)
				}
				if ok {
					next = append(next, path.Join(m, n))
				}
			}
		}
		matches = next
	}
	if len(matches) == 0 && !c.EmptyWildcard {
		_, tree := f.(*source.Files)
		return nil, errs.NotFound.Wrap(&NotFoundError{Path: src, Context: tree, Wildcard: true})
	}
	return matches, nil
}

type walker struct {
	ctx              context.Context
	f                files
	include, exclude *patternmatcher.PatternMatcher
	visit            func(*item) error
	pending          []*item // directories that come along only if something in them does
}

func (w *walker) walk(it *item) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if strings.Count(it.rel, "/") > 512 {
		return errs.Invalid.Errorf("%q is nested too deep", it.path)
	}
	in := true
	if it.rel != "" {
		if w.include != nil {
			ok, err := w.include.MatchesOrParentMatches(it.rel)
			if err != nil {
				return err
			}
			in = ok
		}
		if in && w.exclude != nil {
			out, err := w.exclude.MatchesOrParentMatches(it.rel)
			if err != nil {
				return err
			}
			if out && (!it.node.IsDir() || !w.exclude.Exclusions()) {
				return nil
			}
			in = !out
		}
	} else if w.include != nil {
		in = !it.node.IsDir()
		if in { // Src is a file: the patterns are about its name
			ok, err := w.include.MatchesOrParentMatches(path.Base(it.path))
			if err != nil || !ok {
				return err
			}
		}
	}
	if !it.node.IsDir() {
		if !in {
			return nil
		}
		return w.emit(it)
	}
	if in {
		if err := w.emit(it); err != nil {
			return err
		}
	} else {
		w.pending = append(w.pending, it)
		defer func() {
			if n := len(w.pending); n > 0 && w.pending[n-1] == it {
				w.pending = w.pending[:n-1]
			}
		}()
	}
	names, err := w.f.Names(it.path)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		child := &item{match: it.match, rel: path.Join(it.rel, n), path: path.Join(it.path, n)}
		if child.node, err = w.f.Stat(child.path); err != nil {
			return err
		}
		if err := w.walk(child); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) emit(it *item) error {
	for _, p := range w.pending {
		if err := w.visit(p); err != nil {
			return err
		}
	}
	w.pending = nil
	return w.visit(it)
}

// copier carries out one Copy.
type copier struct {
	ctx   context.Context
	w     *layer.Writer
	f     files
	c     *graph.Copy
	owner *[2]uint32
	links map[[2]uint64]string
	fresh map[string]bool // directories that were not there before

	beside *beside // where most files come from
}

func (x *copier) run() (err error) {
	c := x.c
	x.links, x.fresh = map[[2]uint64]string{}, map[string]bool{}
	if t, ok := x.f.(*source.Files); ok {
		if err := want(x.ctx, t, c); err != nil {
			return err
		}
		x.beside = &beside{x: x}
		defer func() { err = errors.Join(err, x.beside.wait()) }()
	}
	dest := path.Clean("/" + c.Dest)
	intoDir := strings.HasSuffix(c.Dest, "/") || strings.HasSuffix(c.Dest, "/.")
	target := ""
	return selected(x.ctx, x.f, c, func(it *item) error {
		if it.rel == "" {
			if x.beside != nil { // this match may come over what the last one left
				if err := x.beside.wait(); err != nil {
					return err
				}
			}
			if c.Unpack && it.node.IsRegular() {
				done, err := x.unpack(it, dest)
				if done || err != nil {
					return err
				}
			}
			var err error
			if target, err = x.target(it, dest, intoDir); err != nil {
				return err
			}
			if it.node.IsDir() && c.Contents {
				return nil
			}
		}
		return x.put(it, path.Join(target, it.rel))
	})
}

// want tells a folder which of its files will be opened.
func want(ctx context.Context, t *source.Files, c *graph.Copy) error {
	var list []*source.Entry
	err := selected(ctx, t, c, func(it *item) error {
		if it.node.IsRegular() {
			e, err := t.Find(it.path)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return nil
	})
	if err != nil || len(list) == 0 {
		return err
	}
	return t.Tree().Want(ctx, list)
}

func (x *copier) ids() (uint32, uint32) {
	if x.owner != nil {
		return x.owner[0], x.owner[1]
	}
	return 0, 0
}

func (x *copier) mkdir(dir string) error {
	uid, gid := x.ids()
	return x.w.MkdirAll(dir, 0o755, uid, gid, x.time())
}

func (x *copier) time() *time.Time {
	if x.c.Timestamp == nil {
		return nil
	}
	t := time.Unix(*x.c.Timestamp, 0)
	return &t
}

// target works out where a match goes, and makes the directories on the way.
func (x *copier) target(it *item, dest string, intoDir bool) (string, error) {
	there, ok, err := x.w.Lookup(dest, true)
	if err != nil {
		return "", err
	}
	isDir := ok && there.IsDir()
	target := dest
	switch {
	case it.node.IsDir() && x.c.Contents:
		if ok && !isDir {
			if !x.c.Replace {
				return "", errs.Invalid.Errorf("cannot copy to non-directory: %s", dest)
			}
			if _, err := x.w.Remove(dest); err != nil {
				return "", err
			}
		}
		if x.c.CreateDest || path.Dir(dest) == "/" {
			if !isDir {
				x.fresh[dest] = true
			}
			return dest, x.mkdir(dest)
		}
	case isDir, intoDir, it.node.IsDir() && ok:
		target = path.Join(dest, path.Base(it.match))
	}
	up := path.Dir(target)
	if x.c.CreateDest || it.node.IsDir() && x.c.Contents {
		return target, x.mkdir(up)
	}
	if there, ok, err := x.w.Lookup(up, true); err != nil {
		return "", err
	} else if !ok || !there.IsDir() {
		return "", errs.NotFound.Errorf("mkdir %s: no such file or directory", up)
	}
	return target, nil
}

// put makes one file or directory.
func (x *copier) put(it *item, target string) error {
	n := it.node
	if it.node.Mode&0o170000 == 0o020000 || it.node.Mode&0o170000 == 0o060000 {
		// A device of an image is part of it; one of a folder was refused when it came.
		n.Size = 0
	}
	if it.node.Mode&0o170000 == 0o140000 {
		return nil // a socket is nothing without who listens
	}
	if x.owner != nil {
		n.UID, n.GID = x.owner[0], x.owner[1]
	}
	if x.c.Mode != "" && !n.IsLink() {
		perm, err := chmod(x.c.Mode, n.Mode)
		if err != nil {
			return err
		}
		n.Mode = n.Mode&^0o7777 | perm
	}
	if t := x.time(); t != nil {
		n.Mtime = *t
	}
	dir := path.Dir(target)
	if !x.fresh[dir] {
		there, ok, err := x.w.Lookup(target, false)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			x.fresh[target] = n.IsDir()
		case there.IsDir() && !n.IsDir():
			if !x.c.Replace {
				return errs.Invalid.Errorf("cannot replace to directory %s with file", target)
			}
			if _, err := x.w.Remove(target); err != nil {
				return err
			}
		case !there.IsDir() && n.IsDir():
			if there.IsLink() { // to a directory: what is copied goes there, as with Docker
				if to, ok, err := x.w.Lookup(target, true); err != nil {
					return err
				} else if ok && to.IsDir() {
					return nil
				}
			}
			if !x.c.Replace {
				return errs.Invalid.Errorf("cannot copy to non-directory: %s", target)
			}
			if _, err := x.w.Remove(target); err != nil {
				return err
			}
		}
	} else if n.IsDir() {
		x.fresh[target] = true
	}
	if n.Inode != [2]uint64{} && !n.IsDir() {
		if first, ok := x.links[n.Inode]; ok {
			return x.w.Link(first, target)
		}
		x.links[n.Inode] = target
	}
	if !n.IsRegular() {
		return x.w.Put(target, &n, nil)
	}
	if x.beside != nil && x.fresh[dir] && n.Inode == [2]uint64{} {
		return x.beside.put(target, it.path, &n)
	}
	return x.file(x.w, target, it.path, &n)
}

func (x *copier) file(w *layer.Writer, target, from string, n *layer.Node) error {
	r, err := x.f.Open(x.ctx, from)
	if err != nil {
		return err
	}
	defer r.Close()
	return w.Put(target, n, r)
}

// unpack unpacks an archive into dest; it reports false if it is none.
func (x *copier) unpack(it *item, dest string) (bool, error) {
	r, err := x.f.Open(x.ctx, it.path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	plain, ok, err := source.Untar(r)
	if err != nil || !ok {
		return false, err
	}
	defer plain.Close()
	if err := x.mkdir(dest); err != nil {
		return false, err
	}
	return true, x.w.Untar(plain, dest, nil)
}

// chmod applies a mode as chmod(1) has it, octal or symbolic, to that of a file.
func chmod(how string, mode uint32) (uint32, error) {
	bad := errs.Invalid.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", how)
	if how[0] >= '0' && how[0] <= '9' {
		n, err := strconv.ParseUint(how, 8, 32)
		if err != nil || n > 0o7777 {
			return 0, bad
		}
		return uint32(n), nil
	}
	perm := mode & 0o7777
	for clause := range strings.SplitSeq(how, ",") {
		i := strings.IndexAny(clause, "+-=")
		if i < 0 {
			return 0, bad
		}
		var who uint32
		for _, ch := range clause[:i] {
			switch ch {
			case 'u':
				who |= 0o4700
			case 'g':
				who |= 0o2070
			case 'o':
				who |= 0o1007
			case 'a':
				who |= 0o7777
			default:
				return 0, bad
			}
		}
		if i == 0 {
			who = 0o7777
		}
		for rest := clause[i:]; rest != ""; {
			op := rest[0]
			rest = rest[1:]
			end := strings.IndexAny(rest, "+-=")
			if end < 0 {
				end = len(rest)
			}
			var bits uint32
			for _, ch := range rest[:end] {
				switch ch {
				case 'r':
					bits |= 0o444
				case 'w':
					bits |= 0o222
				case 'x':
					bits |= 0o111
				case 'X':
					if mode&0o170000 == layer.TypeDir || perm&0o111 != 0 {
						bits |= 0o111
					}
				case 's':
					bits |= 0o6000
				case 't':
					bits |= 0o1000
				case 'u':
					bits |= perm >> 6 & 7 * 0o111
				case 'g':
					bits |= perm >> 3 & 7 * 0o111
				case 'o':
					bits |= perm & 7 * 0o111
				default:
					return 0, bad
				}
			}
			bits &= who
			switch op {
			case '+':
				perm |= bits
			case '-':
				perm &^= bits
			case '=':
				perm = perm&^(who&0o777|who&0o7000&bits) | bits
			}
			rest = rest[end:]
		}
	}
	return perm, nil
}
