package solve

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/source"
	"gantry/internal/kernel/fs"
	"gantry/internal/kernel/view"
	"gantry/internal/layer"
)

// Ref is a file system: layers, of which the topmost may still be a draft, or a folder that came from outside.
type Ref struct {
	id    string // what it is known by; equal for equal steps. Empty for a folder, which is known by what is taken of it
	chain digest.Digest
	draft *layer.Draft
	empty bool // the step that made it changed nothing
	tree  *source.Files
	from  *imported // a cache elsewhere has it: see job.have

	once sync.Once // of the release of draft
}

func (r *Ref) release() {
	if r.draft != nil {
		r.once.Do(r.draft.Release)
	}
}

// ID is what the file system is known by; "" for a folder.
func (r *Ref) ID() string { return r.id }

// Tree is the folder that it is, or nil.
func (r *Ref) Tree() source.Tree {
	if r.tree == nil {
		return nil
	}
	return r.tree.Tree()
}

// Chain is the topmost layer, once all are saved.
func (r *Ref) Chain() digest.Digest {
	if r.draft != nil {
		return r.draft.Becomes()
	}
	return r.chain
}

func outID(id string, n int) string {
	if n == 0 {
		return id
	}
	return id + "." + strconv.Itoa(n)
}

// overlay names the layers, to be read.
func (s *Solver) overlay(r *Ref) (layer.Overlay, error) {
	if r.draft != nil {
		return r.draft.View(), nil
	}
	return s.Layers.ChainView(r.chain)
}

// read opens a file system to be read.
func (s *Solver) read(r *Ref) (files, func(), error) {
	if r.tree != nil {
		return r.tree, func() {}, nil
	}
	o, err := s.overlay(r)
	if err != nil {
		return nil, nil, err
	}
	var root fs.Root
	if len(o.Lower) == 1 {
		root, err = fs.OpenRoot(filepath.Join(o.Base, o.Lower[0]))
	} else {
		root, err = view.Mount(view.Overlay{Base: o.Base, Lower: o.Lower, Target: s.viewDir()}, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	return mounted{layer.NewReader(root)}, root.Close, nil
}

func (s *Solver) viewDir() string { return filepath.Join(s.Dir, "view") }

// View opens a finished file system, to be packed or looked at. Closing it ends that.
func (s *Solver) View(r *Ref) (fs.Root, error) {
	o, err := s.overlay(r)
	if err != nil {
		return fs.Root{}, err
	}
	if len(o.Lower) == 1 {
		return fs.OpenRoot(filepath.Join(o.Base, o.Lower[0]))
	}
	return view.Mount(view.Overlay{Base: o.Base, Lower: o.Lower, Target: s.viewDir()}, nil)
}

type mounted struct{ *layer.Reader }

func (m mounted) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return m.Reader.Open(name)
}

func (s *Solver) makeDirs() error {
	for _, d := range []string{s.viewDir(), s.mountsDir(), s.tmpDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (s *Solver) mountsDir() string { return filepath.Join(s.Dir, "mounts") }
func (s *Solver) tmpDir() string    { return filepath.Join(s.Dir, "tmp") }

// TempDir is a folder that is emptied when the solver opens.
func (s *Solver) TempDir() string { return s.tmpDir() }
