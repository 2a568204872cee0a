package registry

import (
	"errors"
	"io"
	"time"
)

// What a Storage's error wraps when nothing can be written, and the reason is not ours.
var (
	ErrFull     = errors.New("the registry's storage is full") // more room mends it
	ErrReadOnly = errors.New("the registry's storage is read-only")
)

// Storage keeps a registry's objects under slash-separated keys. One process writes to it.
//
// Keys are made of checked names only (repository names, tags, digests, our own words), never of raw input.
// A missing object is fs.ErrNotExist.
type Storage interface {
	// Open returns an object's content. A reader that is an *os.File is sent by sendfile(2).
	Open(key string) (io.ReadSeekCloser, Info, error)
	// Stat returns what Open would say about the object, without opening it.
	Stat(key string) (Info, error)
	// Put makes or replaces a small object. It is whole on disk when Put returns, and never half there.
	Put(key string, data []byte) error
	// Delete removes an object; one that is not there is no error.
	Delete(key string) error
	// List calls f for everything directly below a key, in no order. A key below which nothing is has no entries.
	List(key string, f func(Entry) error) error
	// Stage opens the upload id to append to it, and begins it if create is set.
	Stage(id string, create bool) (Stage, error)
	// Stages calls f for every upload that was begun and not ended; Name is its id.
	Stages(f func(Entry) error) error
}

// Stage is an upload on its way. It is not for use by several goroutines at a time.
type Stage interface {
	io.Writer
	io.ReaderAt
	// Size is how many bytes there are.
	Size() int64
	// Truncate takes back what was written after the first n bytes.
	Truncate(n int64) error
	// Sync waits until all of it is on disk.
	Sync() error
	// Commit makes the object key of it, replacing another; the upload has then ended. Sync comes first.
	Commit(key string) error
	// Close lets go of it; it can be opened again.
	Close() error
	// Discard ends it and keeps nothing.
	Discard() error
}

// Info is what is known of an object without reading it.
type Info struct {
	Size int64
	// Time is when the object was last put.
	Time time.Time
}

// Entry is one thing below a key.
type Entry struct {
	Name string
	// Dir says that there is more below it.
	Dir bool
	Info
}
