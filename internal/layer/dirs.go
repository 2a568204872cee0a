package layer

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// newDir makes a directory for a layer that is on its way.
func (s *Store) newDir() (name, tmp string, err error) {
	s.mu.Lock()
	s.next++
	name = strconv.FormatUint(s.next, 36)
	s.mu.Unlock()
	tmp = filepath.Join(s.base, "layers/tmp", name)
	return name, tmp, os.Mkdir(tmp, 0o700)
}

// openAll opens directories below the base.
func (s *Store) openAll(dirs []string) (fds []int, err error) {
	for _, d := range dirs {
		fd, err := openDir(filepath.Join(s.base, d))
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func openDir(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// Dirs returns the layers by the names of their directories, and a function that tells of another name below layers/ whether
// it is one in the making (true) or belongs to nobody.
func (s *Store) Dirs() (map[string]digest.Digest, func(name string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := make(map[string]digest.Digest, len(s.layers))
	for c, r := range s.layers {
		dirs[r.Dir] = c
	}
	// Open threw away what it did not know, and numbered what came later from there on.
	first := s.first
	return maps.Clone(dirs), func(name string) bool {
		n, err := strconv.ParseUint(name, 36, 64)
		return err == nil && n > first && name == strconv.FormatUint(n, 36)
	}
}

// CollectOrphans throws away what lies below layers/ and belongs to nobody. It returns the names.
func (s *Store) CollectOrphans() (gone []string, err error) {
	entries, err := os.ReadDir(filepath.Join(s.base, "layers"))
	if err != nil {
		return nil, err
	}
	dirs, made := s.Dirs() // later than the look: what was in it and is no layer now is none
	for _, e := range entries {
		name := e.Name()
		if _, known := dirs[name]; known || made(name) || name == "0" || name == filepath.Base(markDir) || name == "tmp" || name == "trash" {
			continue
		}
		if terr := s.trash.throw(filepath.Join(s.base, "layers", name)); terr != nil {
			err = errors.Join(err, terr)
			continue
		}
		gone = append(gone, name)
	}
	return gone, err
}
