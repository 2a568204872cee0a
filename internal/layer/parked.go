package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// parkedDir holds the folders of containers that were removed and may be brought back (package trash). What they stand on is
// not held: the trash says what it needs.
const parkedDir = "trash/containers"

func (s *Store) parked(container string) string { return filepath.Join(s.base, parkedDir, container) }

// Park sets a removed container's folder aside, and lets go of the layers below. It may be called twice.
func (s *Store) Park(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	err := os.Rename(s.containerDir(container), s.parked(container))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set folder of container %s aside: %w", container, err)
	}
	s.forget(container)
	return nil
}

// Unpark is the reverse of Park. It may be called twice, and for a folder that was never set aside.
func (s *Store) Unpark(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	dir := s.containerDir(container)
	err := os.Rename(s.parked(container), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("bring back folder of container %s: %w", container, err)
	}
	target, err := os.Readlink(filepath.Join(dir, "lower"))
	chain, ok := strings.CutPrefix(target, "chain:")
	if err != nil || !ok {
		return fmt.Errorf("bring back folder of container %s: its files are gone: %w", container, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, held := s.writable[container]; !held {
		s.writable[container] = digest.Digest(chain)
		s.hold(digest.Digest(chain))
	}
	return nil
}

// Parked lists the containers whose folders are set aside.
func (s *Store) Parked() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.base, parkedDir))
	if err != nil {
		return nil, err
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list, nil
}

// DiscardParked throws a folder that was set aside away; one that is not there is no error.
func (s *Store) DiscardParked(container string) error {
	if err := checkContainer(container); err != nil {
		return err
	}
	return s.trash.throw(s.parked(container))
}

// ParkedSize returns the bytes of the files in a writable layer that was set aside.
func (s *Store) ParkedSize(container string) (int64, error) {
	if err := checkContainer(container); err != nil {
		return 0, err
	}
	return sizeOf(s.parked(container))
}

// OnlyLeased lists the layers that neither these roots nor containers want, but a lease: what builds keep, or what is
// just being made into an image.
func (s *Store) OnlyLeased(roots func(mark func(digest.Digest))) map[digest.Digest]bool {
	wanted := map[digest.Digest]bool{}
	var marked []digest.Digest
	roots(func(c digest.Digest) { marked = append(marked, c) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.writable {
		marked = append(marked, c)
	}
	for _, c := range marked {
		for c != "" && !wanted[c] {
			wanted[c] = true
			c = s.layers[c].Parent
		}
	}
	leased := map[digest.Digest]bool{}
	for c := range s.held {
		for c != "" && !wanted[c] && !leased[c] {
			leased[c] = true
			c = s.layers[c].Parent
		}
	}
	return leased
}

// Unwanted lists the layers that Collect would remove if these were the only roots.
func (s *Store) Unwanted(roots func(mark func(digest.Digest))) map[digest.Digest]Info {
	keep := map[digest.Digest]struct{}{}
	var marked []digest.Digest
	roots(func(c digest.Digest) { marked = append(marked, c) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.held {
		marked = append(marked, c)
	}
	for _, c := range marked {
		for c != "" {
			if _, ok := keep[c]; ok {
				break
			}
			keep[c] = struct{}{}
			c = s.layers[c].Parent
		}
	}
	gone := map[digest.Digest]Info{}
	for c, r := range s.layers {
		if _, ok := keep[c]; !ok {
			gone[c] = Info{c, r.DiffID, r.Parent, r.Size}
		}
	}
	return gone
}
