package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// All describes every layer, those below before those above.
func (s *Store) All() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	depth := func(c digest.Digest) (n int) {
		for ; c != ""; c = s.layers[c].Parent {
			n++
		}
		return n
	}
	depths := map[digest.Digest]int{}
	var all []Info
	for c, r := range s.layers {
		depths[c] = depth(c)
		all = append(all, Info{c, r.DiffID, r.Parent, r.Size})
	}
	slices.SortFunc(all, func(a, b Info) int {
		return cmp.Or(cmp.Compare(depths[a.ChainID], depths[b.ChainID]), cmp.Compare(a.ChainID, b.ChainID))
	})
	return all
}

// Made reports whether the layer was made here, so that its archive can be made again.
func (s *Store) Made(chain digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.layers[chain].Pack > 0
}

// ErrDamaged is wrapped by what Check finds.
var ErrDamaged = errors.New("damaged on disk")

// Check reads all files of a layer. Those of one that was made here must make the archive of its diff ID again; those of
// another must be what its archive, which open opens, is unpacked to once more. What differs is ErrDamaged. Without open, of
// a layer that came from elsewhere only its directory is looked for.
func (s *Store) Check(ctx context.Context, chain digest.Digest, open Source) (err error) {
	l, r, dirs, err := s.borrow(chain)
	if err != nil {
		return err
	}
	defer l.Release()
	fds, err := s.openAll(dirs)
	if err != nil {
		return fmt.Errorf("layer %s is %w: %w", chain, ErrDamaged, err)
	}
	defer closeAll(fds)
	if r.Pack == 0 && open == nil {
		return nil
	}
	have, _, err := packedDigest(ctx, fds[0], fds[1:])
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("layer %s is %w: %w", chain, ErrDamaged, err)
	}
	want := r.DiffID
	if r.Pack == 0 {
		_, tmp, err := s.newDir()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.trash.throw(tmp)) }()
		if _, err := s.refill(ctx, tmp, r, open); err != nil {
			return fmt.Errorf("check layer %s: unpack its archive once more: %w", chain, err)
		}
		again, err := openDir(tmp)
		if err != nil {
			return err
		}
		defer unix.Close(again)
		if want, _, err = packedDigest(ctx, again, fds[1:]); err != nil {
			return err
		}
	}
	if have != want {
		return fmt.Errorf("layer %s is %w: its files are not those of its archive", chain, ErrDamaged)
	}
	return nil
}

// borrow returns a layer's record, its directory and those below it, and a lease that keeps them.
func (s *Store) borrow(chain digest.Digest) (*Lease, record, []string, error) {
	l := s.Lease()
	l.Hold(chain)
	s.mu.Lock()
	r, ok := s.layers[chain]
	dirs, err := s.lower(chain)
	s.mu.Unlock()
	if !ok || err != nil {
		l.Release()
		return nil, record{}, nil, notFound(chain)
	}
	return l, r, dirs, nil
}

// refill unpacks the layer r into dir, and syncs it.
func (s *Store) refill(ctx context.Context, dir string, r record, open Source) (int64, error) {
	below := &lowerStack{s: s, ctx: ctx, parent: r.Parent}
	defer below.close()
	return s.fill(ctx, dir, Recipe{Parent: r.Parent, Diff: r.DiffID, Open: open}, below, true)
}

// Repair unpacks a layer anew. No container that stands on it may run: it would go on with the old files.
func (s *Store) Repair(ctx context.Context, chain digest.Digest, open Source) (err error) {
	l := s.Lease()
	defer l.Release()
	l.Hold(chain)
	s.mu.Lock()
	r, ok := s.layers[chain]
	_, busy := s.unpacking[chain]
	if ok && !busy {
		mine := make(chan struct{})
		s.unpacking[chain] = mine
		defer func() {
			s.mu.Lock()
			delete(s.unpacking, chain)
			s.mu.Unlock()
			close(mine)
		}()
	}
	s.mu.Unlock()
	if !ok {
		return notFound(chain)
	}
	if busy {
		return errs.Conflict.Errorf("layer %s is being worked on", chain)
	}
	name, tmp, err := s.newDir()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("repair layer %s: %w", chain, errors.Join(err, s.trash.throw(tmp)))
		}
	}()
	old := r.Dir
	r.Dir, r.Created, r.Boot = name, time.Now().UTC(), ""
	r.Pack, r.TarSize = 0, 0 // what Pack makes of it may be something else now
	if r.Size, err = s.refill(ctx, tmp, r, open); err != nil {
		return err
	}
	final := filepath.Join(s.base, "layers", name)
	if err := os.Rename(tmp, final); err != nil {
		return err
	}
	tmp = final
	if err := syncPath(filepath.Join(s.base, "layers"), unix.Fsync); err != nil {
		return err
	}
	if err := s.state.Update(func(tx state.Tx) error { return tx.Put(bucket, chain.String(), r) }); err != nil {
		return err
	}
	s.mu.Lock()
	s.layers[chain] = r
	s.mu.Unlock()
	return s.trash.throw(filepath.Join(s.base, "layers", old))
}

// Vouch makes of a layer that came as an archive one that can be made again without it, if packing it comes to the same bytes: then the
// archive may go. It reports whether that is so.
func (s *Store) Vouch(ctx context.Context, chain digest.Digest) (bool, error) {
	l, r, dirs, err := s.borrow(chain)
	if err != nil {
		return false, err
	}
	defer l.Release()
	if r.Pack > 0 {
		return true, nil
	}
	fds, err := s.openAll(dirs[:min(2, len(dirs))])
	if err != nil {
		return false, err
	}
	defer closeAll(fds)
	diff, n, err := packedDigest(ctx, fds[0], fds[1:])
	if err != nil || diff != r.DiffID {
		return false, err
	}
	if r.Boot != "" { // its archive would have brought it back
		if err := s.settle(); err != nil {
			return false, err
		}
	}
	r.Pack, r.TarSize, r.Boot = packVersion, n, ""
	if err := s.state.Update(func(tx state.Tx) error { return tx.Put(bucket, chain.String(), r) }); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, still := s.layers[chain]; still {
		s.layers[chain] = r
	}
	return true, nil
}
