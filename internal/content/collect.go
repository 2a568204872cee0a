package content

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Collected says what a collection removed.
type Collected struct {
	Blobs int
	Bytes int64
}

// Collect removes every blob that roots does not mark and no lease holds. It runs beside everything else:
// what was leased at any time since it began stays, so that a blob whose lease ends because its reference
// has just been recorded (after roots looked) is safe too.
func (s *Store) Collect(ctx context.Context, roots func(mark func(digest.Digest)) error) (c Collected, err error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()

	s.mu.Lock()
	s.touched = make(map[digest.Digest]struct{}, len(s.held))
	for d := range s.held {
		s.touched[d] = struct{}{}
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.touched = nil
		s.mu.Unlock()
	}()

	var gone []string
	defer func() {
		if len(gone) > 0 {
			go func() { // freeing the blocks of a gigabyte takes a while; after a crash Open does it
				for _, p := range gone {
					os.Remove(p)
				}
			}()
		}
	}()
	marked := map[digest.Digest]struct{}{}
	if err := roots(func(d digest.Digest) { marked[d] = struct{}{} }); err != nil {
		return c, fmt.Errorf("collect blobs: mark: %w", err)
	}
	for _, a := range algorithms {
		dir := filepath.Join(s.root, "blobs", a.String())
		entries, err := os.ReadDir(dir)
		if err != nil {
			return c, fmt.Errorf("collect blobs: %w", err)
		}
		for _, e := range entries {
			if err := ctx.Err(); err != nil {
				return c, err
			}
			d := digest.NewDigestFromEncoded(a, e.Name())
			if _, ok := marked[d]; ok {
				continue
			}
			aside := filepath.Join(s.ingestDir(), Gone+e.Name())
			n, err := s.removeUnleased(d, filepath.Join(dir, e.Name()), aside)
			if err != nil {
				return c, fmt.Errorf("collect blobs: %w", err)
			}
			if n >= 0 {
				gone = append(gone, aside)
				c.Blobs++
				c.Bytes += n
			}
		}
	}
	return c, nil
}

// Gone begins the names, in the folder of what comes, of blobs that are being deleted.
const Gone = "gone-"

// Leased reports whether a lease holds the blob now.
func (s *Store) Leased(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[d] > 0
}

// Algorithms are those of the digests that blobs may have; each has a folder below blobs.
func Algorithms() []digest.Algorithm { return algorithms }

// bigBlob is the size in bytes from which on a blob is only moved aside, to be deleted in the background.
const bigBlob = 16 << 20

// removeUnleased removes one blob, a big one by moving it aside, and returns its size, or -1 if a lease keeps it. The lock makes that one
// step: a Hold either comes first and keeps it, or finds it gone.
func (s *Store) removeUnleased(d digest.Digest, path, aside string) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.touched[d]; ok {
		return -1, nil
	}
	fi, err := os.Lstat(path)
	if err == nil {
		if fi.Size() < bigBlob {
			err = os.Remove(path)
		} else {
			err = os.Rename(path, aside)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	return fi.Size(), nil
}

// Usage returns the number of blobs and their bytes on disk.
func (s *Store) Usage() (c Collected, err error) {
	for _, a := range algorithms {
		entries, err := os.ReadDir(filepath.Join(s.root, "blobs", a.String()))
		if err != nil {
			return c, fmt.Errorf("content usage: %w", err)
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil {
				c.Blobs++
				c.Bytes += fi.Size()
			}
		}
	}
	return c, nil
}
