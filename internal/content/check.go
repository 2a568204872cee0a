package content

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// All lists the blobs that are here.
func (s *Store) All() (list []digest.Digest, err error) {
	for _, a := range algorithms {
		entries, err := os.ReadDir(filepath.Join(s.root, "blobs", a.String()))
		if err != nil {
			return nil, fmt.Errorf("list blobs: %w", err)
		}
		for _, e := range entries {
			if d := digest.NewDigestFromEncoded(a, e.Name()); d.Validate() == nil {
				list = append(list, d)
			}
		}
	}
	return list, nil
}

// Check reads a whole blob and reports whether it is what its digest says, and its bytes.
func (s *Store) Check(ctx context.Context, d digest.Digest) (whole bool, size int64, err error) {
	f, err := s.Open(d)
	if err != nil {
		return false, 0, err
	}
	defer f.Close()
	h := d.Algorithm().Hash()
	n, err := copyBounded(ctx, h, f, Expect{})
	if err != nil {
		if ctx.Err() != nil {
			return false, n, ctx.Err()
		}
		return false, n, nil // what can't be read is not whole
	}
	return digest.NewDigest(d.Algorithm(), h) == d, n, nil
}

// Drop removes a damaged blob, so that a whole one can take its place.
func (s *Store) Drop(d digest.Digest) error {
	path, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return blobError(d, err)
	}
	return nil
}

// CollectPartials removes parts that nobody goes on with for a week.
func (s *Store) CollectPartials() error { return s.clearPartials(time.Now()) }
