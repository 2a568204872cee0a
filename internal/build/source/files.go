package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Files reads a Tree by paths, as a file system: links in all but the last name are followed inside it. What is not there
// is fs.ErrNotExist.
type Files struct {
	tree     Tree
	once     sync.Once // of the rest, which a build that the cache knows does not need
	byPath   map[string]*Entry
	children map[string][]string
}

// NewFiles reads t.
func NewFiles(t Tree) *Files { return &Files{tree: t} }

func (f *Files) index() {
	f.once.Do(func() {
		list := f.tree.Entries()
		f.byPath, f.children = make(map[string]*Entry, len(list)), map[string][]string{}
		for i := range list {
			e := &list[i]
			f.byPath[e.Path] = e
			dir, name := split(e.Path)
			f.children[dir] = append(f.children[dir], name)
		}
	})
}

// Tree returns what it reads.
func (f *Files) Tree() Tree { return f.tree }

func split(p string) (dir, name string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return "", p
}

var root = Entry{Node: layer.Node{Mode: layer.TypeDir | 0o755}}

const maxLinks = 40

// Find resolves a path to its entry; the root's has an empty path.
func (f *Files) Find(name string) (*Entry, error) {
	f.index()
	// A path that is in the list has nothing but directories above it.
	if e := f.byPath[strings.TrimPrefix(name, "/")]; e != nil {
		return e, nil
	}
	done, rest := "", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		n := rest[0]
		rest = rest[1:]
		switch n {
		case "", ".":
			continue
		case "..":
			done, _ = split(done)
			continue
		}
		next := path.Join(done, n)
		e := f.byPath[next]
		if e == nil {
			return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrNotExist}
		}
		last := strings.Trim(strings.Join(rest, ""), ".") == ""
		if last && len(rest) == 0 {
			return e, nil
		}
		switch {
		case e.IsLink():
			if links++; links > maxLinks {
				return nil, errs.Invalid.Errorf("%q: too many symbolic links", name)
			}
			if strings.HasPrefix(e.Link, "/") {
				done = ""
			}
			rest = append(strings.Split(e.Link, "/"), rest...)
		case e.IsDir():
			done = next
		default:
			return nil, &fs.PathError{Op: "stat", Path: name, Err: errors.New("not a directory")}
		}
	}
	if done == "" {
		return &root, nil
	}
	return f.byPath[done], nil
}

// Stat describes the path itself.
func (f *Files) Stat(name string) (layer.Node, error) {
	e, err := f.Find(name)
	if err != nil {
		return layer.Node{}, err
	}
	return e.Node, nil
}

// Names lists a directory.
func (f *Files) Names(name string) ([]string, error) {
	e, err := f.Find(name + "/.")
	if err != nil {
		return nil, err
	}
	return slices.Clone(f.children[e.Path]), nil
}

// Open opens a regular file.
func (f *Files) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	e, err := f.Find(name)
	if err != nil {
		return nil, err
	}
	if !e.IsRegular() {
		return nil, errs.Invalid.Errorf("%s is no regular file", name)
	}
	return f.tree.Open(ctx, e)
}
