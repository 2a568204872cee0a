package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// containersDir holds a folder for each container; the writable layer is part of it. It lies under the data-root
// because overlayfs wants upper and work on one file system, and because Overlay is relative to it.
const containersDir = "containers"

// checkContainer refuses an ID that is not one name.
func checkContainer(id string) error {
	if id == "" || id == "." || id == ".." || strings.ContainsAny(id, "/:,\\\x00") {
		return errs.Invalid.Errorf("container ID %q cannot name a folder", id)
	}
	return nil
}

func (s *Store) containerDir(id string) string { return filepath.Join(s.base, containersDir, id) }

// CreateWritable makes the container's writable layer on top of chain (empty: on nothing), and from then on keeps chain from
// collection. It does not sync: what a container writes is as durable as its own fsync makes it. A layer left
// by an earlier attempt is replaced.
func (s *Store) CreateWritable(chain digest.Digest, container string) (err error) {
	if err := checkContainer(container); err != nil {
		return err
	}
	s.mu.Lock()
	lower, err := s.lower(chain)
	if err == nil {
		if old, ok := s.writable[container]; ok {
			s.release(old)
		}
		s.writable[container] = chain
		s.hold(chain)
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create writable layer: %w", err), s.RemoveWritable(container))
		}
	}()
	dir := s.containerDir(container)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"upper", "work", "lower"} {
		if err := s.trash.throw(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.Symlink("chain:"+chain.String(), filepath.Join(dir, "lower")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "work"), 0o700); err != nil {
		return err
	}
	return makeUpper(filepath.Join(s.base, lower[0]), dir)
}

// makeUpper makes dir/upper. The overlay's root shows the attributes of its topmost directory, so they are copied.
func makeUpper(top, dir string) error {
	topfd, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: top, Err: err}
	}
	defer unix.Close(topfd)
	dirfd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(dirfd)
	e := &lowerEntry{dirfd: topfd, name: "."}
	if err := unix.Fstat(topfd, &e.st); err != nil {
		return &os.PathError{Op: "stat", Path: top, Err: err}
	}
	if err := unix.Mkdirat(dirfd, "upper", 0o700); err != nil {
		return &os.PathError{Op: "mkdir", Path: dir + "/upper", Err: err}
	}
	return copyAttributes(dirfd, "upper", e)
}

// loadWritable finds the containers' writable layers and what they are on.
func (s *Store) loadWritable() error {
	entries, err := os.ReadDir(filepath.Join(s.base, containersDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(s.containerDir(e.Name()), "lower"))
		if chain, ok := strings.CutPrefix(target, "chain:"); err == nil && ok {
			s.writable[e.Name()] = digest.Digest(chain)
			s.hold(digest.Digest(chain))
		}
	}
	return nil
}

// Overlay names what the container's root is made of: its writable layer on chain. It makes the writable layer if it is
// not there (after a power cut). With an empty container it is a read-only view of chain.
func (s *Store) Overlay(chain digest.Digest, container string) (Overlay, error) {
	if container != "" {
		if err := checkContainer(container); err != nil {
			return Overlay{}, err
		}
		if _, err := os.Lstat(filepath.Join(s.containerDir(container), "upper")); err != nil {
			if err := s.CreateWritable(chain, container); err != nil {
				return Overlay{}, err
			}
		}
	}
	s.mu.Lock()
	lower, err := s.lower(chain)
	s.mu.Unlock()
	if err != nil {
		return Overlay{}, err
	}
	o := Overlay{Base: s.base, Lower: lower}
	if container != "" {
		o.Lower = append([]string{markDir}, lower...)
		o.Upper = containersDir + "/" + container + "/upper"
		o.Work = containersDir + "/" + container + "/work"
	}
	return o, nil
}

// RemoveWritable throws the container's writable layer away; a missing one is no error. The container's other
// files and its folder stay. It returns at once: the deleting is done in the background.
func (s *Store) RemoveWritable(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	var err error
	dir := s.containerDir(container)
	for _, name := range []string{"upper", "work"} {
		err = errors.Join(err, s.trash.throw(filepath.Join(dir, name)))
	}
	if rerr := os.Remove(filepath.Join(dir, "lower")); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	if err != nil {
		return fmt.Errorf("remove writable layer: %w", err)
	}
	s.forget(container)
	return nil
}

// forget lets go of the layers below the container's writable one.
func (s *Store) forget(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if chain, ok := s.writable[container]; ok {
		delete(s.writable, container)
		s.release(chain)
	}
}

// RemoveDir throws the container's whole folder away, writable layer included, with one rename.
func (s *Store) RemoveDir(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	if err := s.trash.throw(s.containerDir(container)); err != nil {
		return fmt.Errorf("remove folder of container %s: %w", container, err)
	}
	return s.RemoveWritable(container)
}

// Size returns the bytes of the files in the container's writable layer, each counted once.
func (s *Store) Size(container string) (int64, error) {
	if err := checkContainer(container); err != nil {
		return 0, err
	}
	return sizeOf(s.containerDir(container))
}

// sizeOf is Size of the container whose folder is dir.
func sizeOf(dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]struct{}{}
	var total int64
	err := filepath.WalkDir(filepath.Join(dir, "upper"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var st unix.Stat_t
			if err = unix.Lstat(path, &st); err == nil {
				key := inode{st.Dev, st.Ino}
				if _, ok := seen[key]; !ok || st.Nlink == 1 {
					if st.Nlink > 1 {
						seen[key] = struct{}{}
					}
					total += st.Size
				}
			}
		}
		if errors.Is(err, fs.ErrNotExist) { // the container goes on working meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("size of writable layer: %w", err)
	}
	return total, nil
}
