// Package source has the forms in which files come into a build: a folder as its client describes it, an archive
// that a client sends, a file or a repository behind an address.
package source

import (
	"context"
	"io"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build/session/wire"
	"gantry/internal/layer"
)

// Entry is a name in a folder: what it is, and what a file contains, by its digest.
type Entry struct {
	Path string // clean and relative, with slashes; the folder itself has no entry
	layer.Node
	Digest digest.Digest // of a regular file's content
}

// Tree is a folder whose names and digests are known; contents come when they are asked for. So a step whose files are as
// the cache has them needs none of them. It may be used by several goroutines.
type Tree interface {
	// Entries lists all names in the order of their bytes' paths compared name by name, so that a directory comes before
	// what is in it. The list is not to be changed.
	Entries() []Entry
	// Digest names the tree with all that is in it: equal ones have equal contents. Empty: it is not known.
	Digest() digest.Digest
	// Want tells which files will be opened soon, so that they can come together. It returns when Open need not wait for
	// each of them.
	Want(ctx context.Context, files []*Entry) error
	// Open gives the content of a regular file. A content that is not of the entry's digest is an error, at its end.
	Open(ctx context.Context, file *Entry) (io.ReadCloser, error)
}

// Compare orders paths name by name: "a/b" comes before "a-b", and right behind "a".
func Compare(a, b string) int { return wire.Compare(a, b) }
