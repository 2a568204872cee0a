// Package disk tells what takes how much of the data root, so that nothing is left over that nobody accounts for.
//
// It walks the whole tree once and counts what du(1) counts: blocks, those of a file with many links once, directories
// too, one file system only. Whose they are is said by Parts: a room names its directory and tells of each entry
// what it belongs to. What no room knows is an orphan.
package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// Kind is what disk is taken by.
type Kind string

// The kinds, in the order in which they are told.
const (
	Images     Kind = "images"
	Containers Kind = "containers" // their writable layers
	Volumes    Kind = "volumes"
	BuildCache Kind = "build cache"
	Logs       Kind = "logs"
	Trash      Kind = "trash"   // what was removed, and can be brought back or is being deleted
	Partial    Kind = "partial" // what is coming, or came only in part
	State      Kind = "state"
	Orphans    Kind = "orphans" // what belongs to nobody, and will be deleted
	Other      Kind = "other"   // what Gantry knows nothing about, and leaves alone
)

var kinds = []Kind{Images, Containers, Volumes, BuildCache, Logs, Trash, Partial, State, Orphans, Other}

// Owner is what an entry belongs to. An empty Name is none of its own.
type Owner struct {
	Kind Kind
	Name string
}

// Part is a directory below the root, and whose its entries are.
type Part struct {
	Dir string // empty: the root itself
	// Of tells of an entry of Dir, and of an entry of such an entry ("ID/hostname"); false: it belongs to what is around it.
	Of func(name string) (Owner, bool)
}

// Thing is one owner with what it takes.
type Thing struct {
	Kind  Kind
	Name  string
	Path  string // below the root: the first place where it has something
	Bytes int64
}

// Share is what one kind takes.
type Share struct {
	Kind   Kind
	Things int // that have a name
	Bytes  int64
}

// Usage is what takes how much.
type Usage struct {
	Bytes  int64 // of everything, as du -s -B1 says
	Shares []Share
	Things []Thing // of each kind the largest first
}

// Of returns the share of a kind.
func (u *Usage) Of(k Kind) Share {
	for _, s := range u.Shares {
		if s.Kind == k {
			return s
		}
	}
	return Share{Kind: k}
}

type inode struct{ dev, ino uint64 }

type walker struct {
	ctx    context.Context
	dev    uint64
	parts  map[string]func(string) (Owner, bool)
	links  map[inode]struct{}
	things map[Owner]*Thing
	bytes  map[Kind]int64
	total  int64
}

// Measure walks root. What comes and goes meanwhile is counted or not.
func Measure(ctx context.Context, root string, parts []Part) (*Usage, error) {
	w := &walker{ctx: ctx, parts: map[string]func(string) (Owner, bool){}, links: map[inode]struct{}{}, things: map[Owner]*Thing{}, bytes: map[Kind]int64{}}
	for _, p := range parts {
		w.parts[p.Dir] = p.Of
	}
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", root, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("measure %s: %w", root, err)
	}
	w.dev = uint64(st.Dev)
	w.count(Owner{State, ""}, "", &st)
	if err := w.walk(fd, "", Owner{State, ""}, nil, ""); err != nil {
		return nil, fmt.Errorf("measure %s: %w", root, err)
	}
	u := &Usage{Bytes: w.total}
	for _, k := range kinds {
		s := Share{Kind: k, Bytes: w.bytes[k]}
		for _, t := range w.things {
			if t.Kind == k {
				s.Things++
			}
		}
		u.Shares = append(u.Shares, s)
	}
	for _, t := range w.things {
		u.Things = append(u.Things, *t)
	}
	slices.SortFunc(u.Things, func(a, b Thing) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Name, b.Name))
	})
	return u, nil
}

func (w *walker) count(o Owner, at string, st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino}
		if _, again := w.links[key]; again {
			return
		}
		w.links[key] = struct{}{}
	}
	n := st.Blocks * 512
	w.total += n
	w.bytes[o.Kind] += n
	if o.Name == "" {
		return
	}
	t := w.things[o]
	if t == nil {
		t = &Thing{Kind: o.Kind, Name: o.Name, Path: at}
		w.things[o] = t
	}
	t.Bytes += n
}

// walk counts what is in the directory fd, at below the root. of is asked about it under the name under, while that has at
// most two elements.
func (w *walker) walk(fd int, at string, o Owner, of func(string) (Owner, bool), under string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	mine := w.parts[at]
	inPart := at == "" || mine != nil || of != nil || w.leads(at)
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return ignoreGone(err)
		}
		if n == 0 {
			return nil
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				if ignoreGone(err) != nil {
					return fmt.Errorf("%s/%s: %w", at, name, err)
				}
				continue
			}
			if uint64(st.Dev) != w.dev {
				continue
			}
			owner, sub, subUnder, below := o, (func(string) (Owner, bool))(nil), "", at
			if inPart {
				below = path.Join(at, name)
				switch {
				case mine != nil:
					if x, ok := mine(name); ok {
						owner = x
					}
					sub, subUnder = mine, name
				case of != nil:
					if x, ok := of(under + "/" + name); ok {
						owner = x
					}
				}
			}
			w.count(owner, below, &st)
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				continue
			}
			child, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				if ignoreGone(err) != nil {
					return fmt.Errorf("%s/%s: %w", at, name, err)
				}
				continue
			}
			if !inPart {
				below = "\x00" // deep inside of something: no part is there
			}
			err = w.walk(child, below, owner, sub, subUnder)
			unix.Close(child)
			if err != nil {
				return err
			}
		}
	}
}

// leads reports whether a part lies below at.
func (w *walker) leads(at string) bool {
	for dir := range w.parts {
		if len(dir) > len(at) && dir[:len(at)] == at && dir[len(at)] == '/' {
			return true
		}
	}
	return false
}

// ignoreGone drops the errors of what went while it was looked at.
func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	return err
}
