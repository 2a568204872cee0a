package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ChangeKind says what happened to a path; the numbers are the API's.
type ChangeKind uint8

const (
	Modified ChangeKind = iota
	Added
	Deleted
)

// Change is one path of a writable layer that is not as below.
type Change struct {
	Path string // from the root, with a leading slash
	Kind ChangeKind
}

// Changes lists what the container changed on top of chain, a directory before what is in it. It reads both sides
// beside a running container.
func (s *Store) Changes(chain digest.Digest, container string) ([]Change, error) {
	upper, lower, err := s.openStack(chain, container)
	if err != nil {
		return nil, fmt.Errorf("compare layers: %w", err)
	}
	defer closeAll(append(lower, upper))
	c := comparer{lower: lower}
	if _, err := c.dir(upper, "", false, false); err != nil {
		return nil, fmt.Errorf("compare layers: %w", err)
	}
	return c.found, nil
}

// openStack opens the container's upper directory and the layers below it, topmost first.
func (s *Store) openStack(chain digest.Digest, container string) (upper int, lower []int, err error) {
	if err := checkContainer(container); err != nil {
		return -1, nil, err
	}
	s.mu.Lock()
	dirs, err := s.lower(chain)
	s.mu.Unlock()
	if err != nil {
		return -1, nil, err
	}
	if upper, err = openDir(filepath.Join(s.containerDir(container), "upper")); err != nil {
		return -1, nil, err
	}
	if lower, err = s.openAll(dirs); err != nil {
		unix.Close(upper)
		return -1, nil, err
	}
	return upper, lower, nil
}

type comparer struct {
	lower []int
	found []Change
}

func (c *comparer) add(path string, k ChangeKind) {
	c.found = append(c.found, Change{"/" + path, k})
}

// dir compares what is in the directory fd. cut says that the lower layers have no directory at path, hides that they
// have one of which nothing shows through. only reports that there was nothing in it but what the engine made.
func (c *comparer) dir(fd int, path string, cut, hides bool) (only bool, err error) {
	names, err := readNames(fd)
	if err != nil {
		return false, gone(err)
	}
	only = len(names) > 0 && !hides
	own := len(names)
	if hides {
		below, err := c.namesBelow(path)
		if err != nil {
			return false, err
		}
		for _, n := range below {
			if !slices.Contains(names[:own], n) {
				names = append(names, n)
			}
		}
	}
	mine := map[string]bool{}
	for _, n := range names[:own] {
		mine[n] = true
	}
	slices.Sort(names)
	for _, n := range names {
		if !mine[n] {
			c.add(join(path, n), Deleted)
			continue
		}
		made, err := c.entry(fd, n, join(path, n), cut, hides)
		if err != nil {
			return false, err
		}
		only = only && made
	}
	return only, nil
}

// namesBelow lists what the lower layers together show in the directory at path.
func (c *comparer) namesBelow(path string) ([]string, error) {
	seen := map[string]bool{}
	var all []string
	for _, root := range c.lower {
		fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
		if err != nil {
			continue // not in this layer, or not as a directory
		}
		names, err := readNames(fd)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if seen[n] {
				continue
			}
			seen[n] = true
			e, err := lookupLower(c.lower, strings.TrimPrefix(join(path, n), "./"))
			if err != nil {
				return nil, err
			}
			e.close()
			if e.kind() != 0 {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// gone forgives that something vanished: the container goes on working.
func gone(err error) error {
	if err == unix.ENOENT || os.IsNotExist(err) {
		return nil
	}
	return err
}

func (c *comparer) entry(dirfd int, name, path string, cut, hides bool) (made bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, gone(err)
	}
	below := &lowerEntry{}
	if !cut {
		if below, err = lookupLower(c.lower, path); err != nil {
			return false, err
		}
		defer below.close()
	}
	if isWhiteout(&st) {
		if below.kind() != 0 {
			c.add(path, Deleted)
		}
		return false, nil
	}
	made = below.kind() == 0 && isEngineMade(path, &st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		switch {
		case made:
		case below.kind() == 0:
			c.add(path, Added)
		default:
			c.add(path, Modified)
		}
		return made, nil
	}
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, gone(err)
	}
	defer unix.Close(fd)
	opaque, err := isOpaque(fd, ".")
	if err != nil {
		return false, err
	}
	at := len(c.found)
	switch {
	case below.kind() == 0:
		c.add(path, Added)
	case below.kind() != unix.S_IFDIR || !sameAttributes(&st, &below.st):
		c.add(path, Modified)
	}
	listed := len(c.found) > at
	cut = below.kind() != unix.S_IFDIR
	only, err := c.dir(fd, path, cut, !cut && (opaque || hides))
	if err != nil {
		return false, err
	}
	switch {
	case made && len(c.found) == at+1 && (only || empty(fd)):
		c.found = c.found[:at]
		return true, nil
	case only && listed && below.kind() == unix.S_IFDIR && len(c.found) == at+1 && sameAttributes(&st, &below.st):
		c.found = c.found[:at] // copied up only for what the engine put into it
		return true, nil
	case !listed && len(c.found) > at: // as Docker does: where something changed below
		c.found = slices.Insert(c.found, at, Change{"/" + path, Modified})
	}
	return false, nil
}

func empty(fd int) bool {
	names, err := readNames(fd)
	return err == nil && len(names) == 0
}

// sameAttributes is Docker's test for a directory that is as below: its size and times say little.
func sameAttributes(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid
}
