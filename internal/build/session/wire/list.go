package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// Entry is a name in a folder.
type Entry struct {
	Path     string // clean and relative, with slashes; any bytes
	Mode     uint32 // st_mode of stat(2)
	UID, GID uint32
	Size     int64 // of a regular file, in bytes
	Rdev     uint64
	Mtime    int64 // nanoseconds since 1970
	Link     string
	Xattrs   map[string]string
	Inode    [2]uint64         // of a file with several names; zero: it has one
	Sum      [sha256.Size]byte // of a regular file's content
}

const (
	typeMask    = 0o170000
	typeDir     = 0o040000
	typeRegular = 0o100000
)

// IsRegular reports whether it is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&typeMask == typeRegular }

// IsDir reports whether it is a directory.
func (e *Entry) IsDir() bool { return e.Mode&typeMask == typeDir }

// Bounds of a list: names, and bytes.
const (
	MaxEntries = 2 << 20
	MaxList    = 512 << 20
)

// listForm begins a list: its form, for an engine of another version.
const listForm = 1

// ErrTooMany says that a folder has more names than a list may have.
var ErrTooMany = errors.New("it has too many names: keep some out by .dockerignore")

// List packs names, which are in order (Compare), into what travels. Equal folders have equal lists.
func List(entries []Entry) ([]byte, error) {
	if len(entries) > MaxEntries {
		return nil, ErrTooMany
	}
	b := make([]byte, 0, 1+len(entries)*96)
	b = append(b, listForm)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for i := range entries {
		e := &entries[i]
		text(e.Path)
		for _, n := range []uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), e.Rdev, e.Inode[0], e.Inode[1], uint64(len(e.Xattrs))} {
			b = binary.AppendUvarint(b, n)
		}
		b = binary.AppendVarint(b, e.Mtime)
		b = binary.AppendVarint(b, e.Size)
		text(e.Link)
		if len(e.Xattrs) > 0 {
			names := make([]string, 0, len(e.Xattrs))
			for name := range e.Xattrs {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				text(name)
				text(e.Xattrs[name])
			}
		}
		if e.IsRegular() {
			b = append(b, e.Sum[:]...)
		}
		if len(b) > MaxList {
			return nil, ErrTooMany
		}
	}
	return b, nil
}

var errTorn = errors.New("it is torn")

// ReadList takes a list apart, and refuses what no honest client sends.
func ReadList(b []byte) ([]Entry, error) {
	if len(b) == 0 || b[0] != listForm {
		return nil, errors.New("it has a form that is not known here")
	}
	r := reader{b: b[1:]}
	entries := make([]Entry, 0, min(len(b)/64, MaxEntries))
	last := ""
	for len(r.b) > 0 {
		var e Entry
		e.Path = r.text()
		e.Mode, e.UID, e.GID = uint32(r.number()), uint32(r.number()), uint32(r.number())
		e.Rdev, e.Inode[0], e.Inode[1] = r.number(), r.number(), r.number()
		xattrs := r.number()
		e.Mtime, e.Size = r.signed(), r.signed()
		e.Link = r.text()
		for ; xattrs > 0 && r.err == nil; xattrs-- {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			name := r.text()
			e.Xattrs[name] = r.text()
		}
		if e.IsRegular() {
			copy(e.Sum[:], r.take(sha256.Size))
		}
		if r.err != nil {
			return nil, r.err
		}
		if err := check(&e, last); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		last = e.Path
		if entries = append(entries, e); len(entries) > MaxEntries {
			return nil, ErrTooMany
		}
	}
	return entries, nil
}

func check(e *Entry, last string) error {
	switch {
	case !fs.ValidPath(e.Path) && (path.Clean(e.Path) != e.Path || strings.HasPrefix(e.Path, "/") || e.Path == ".." || strings.HasPrefix(e.Path, "../")),
		e.Path == "" || e.Path == "." || strings.Contains(e.Path, "\x00"):
		return errors.New("it is no path in a folder")
	case last != "" && Compare(last, e.Path) >= 0:
		return errors.New("it is out of order")
	case e.Size < 0:
		return errors.New("its size is negative")
	}
	return nil
}

// reader takes a list's numbers and strings; after its end all are zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.b)) {
		r.err = errTorn
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	r.take(skip(n))
	return v
}

func (r *reader) signed() int64 {
	v, n := binary.Varint(r.b)
	r.take(skip(n))
	return v
}

// skip is how many bytes a number took; too many where it is none.
func skip(n int) uint64 {
	if n <= 0 {
		return ^uint64(0)
	}
	return uint64(n)
}

func (r *reader) text() string { return string(r.take(r.number())) }

// Compare orders paths name by name: "a/b" comes before "a-b", and right behind "a".
func Compare(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := a[i], b[i]; x != y {
			if x == '/' {
				return -1
			} else if y == '/' {
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
