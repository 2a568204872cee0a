package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/layer"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// trashed is where the folder of a volume lies that can be brought back.
func (s *Service) trashed(id string) string { return filepath.Join(s.Root, trashDir, id) }

// toTrash puts a volume whose gone is set into the trash: record and item change places in one transaction, then the folder follows
// with one rename, which the next engine does after a crash.
func (s *Service) toTrash(ctx context.Context, v *vol) (wait func() error, err error) {
	r := v.record
	it, err := s.Trash.New(ctx, trash.Volume, r.Name, []string{r.Name}, &r)
	if err != nil {
		return nil, err
	}
	done := s.State.Submit(func(tx state.Tx) error {
		if err := tx.Delete(bucket, r.Name); err != nil {
			return err
		}
		return it.Put(tx)
	})
	s.event("destroy", r.Name)
	return func() error {
		if err := done(); err != nil {
			s.settle(v)
			return errs.KindOf(err).Errorf("remove %s: %w", r.Name, err)
		}
		failpoint.Hit("volume.trash.record")
		err := s.park(it)
		s.Trash.Add(it)
		s.forget(v)
		return err
	}, nil
}

// park moves the folder of a volume in the trash aside. It may run twice.
func (s *Service) park(it *trash.Item) error {
	if err := os.Mkdir(filepath.Join(s.Root, trashDir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err := os.Rename(s.dir(it.Key), s.trashed(it.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// settleTrash brings folders to where the items say that they belong: a crash may have come between the two. It comes before
// folders without a record are taken in.
func (s *Service) settleTrash() error {
	known := map[string]bool{}
	for _, it := range s.Trash.Items(trash.Volume) {
		known[it.ID] = true
		if _, err := os.Lstat(s.trashed(it.ID)); errors.Is(err, fs.ErrNotExist) && s.vols[it.Key] == nil {
			if err := s.park(&it); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.Root, trashDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, v := range s.vols {
		if v.Under == underReturning {
			known[v.From] = true
		}
	}
	for _, e := range entries {
		if !known[e.Name()] {
			if err := s.aside(s.trashed(e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Keeper brings volumes back from the trash.
func (s *Service) Keeper() trash.Keeper { return keeper{s} }

type keeper struct{ s *Service }

// Restore makes the volume as it was.
func (k keeper) Restore(ctx context.Context, it trash.Item, as string, taken func(state.Tx) error) (string, error) {
	s := k.s
	var r record
	if err := it.Decode(&r); err != nil {
		return "", err
	}
	if as != "" {
		if err := checkName(as); err != nil {
			return "", err
		}
		r.Name = as
	}
	v, old, err := s.reserve(ctx, Request{Name: r.Name})
	if err != nil {
		return "", err
	}
	if old {
		return "", errs.Conflict.Errorf("cannot bring volume %s back: there is one of that name\n`gantry undo --as NAME %s` gives it another", it.Key, it.Key)
	}
	r.Under, r.From = underReturning, it.ID
	v.record = r
	err = s.State.Update(func(tx state.Tx) error {
		if err := taken(tx); err != nil {
			return err
		}
		return tx.Put(bucket, r.Name, &r)
	})
	if err != nil {
		s.forget(v)
		return "", err
	}
	failpoint.Hit("volume.return.record")
	if err := s.unpark(v); err != nil {
		s.Log.Error("a volume that was brought back has no files; the next start tries again", "volume", r.Name, "err", err)
	}
	s.settle(v)
	s.event("create", r.Name)
	return r.Name, nil
}

// unpark puts the folder of a volume that is brought back into its place, and says so in the record. It may run twice.
func (s *Service) unpark(v *vol) error {
	if err := os.Rename(s.trashed(v.From), s.dir(v.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := s.makeDirs(&v.record); err != nil {
		return err
	}
	return s.change(v, func(r *record) { r.Under, r.From = "", "" })
}

// Discard deletes the volume's files.
func (k keeper) Discard(_ context.Context, it trash.Item) error { return k.s.aside(k.s.trashed(it.ID)) }

// Size is that of the files, snapshots included.
func (k keeper) Size(it trash.Item) int64 {
	n, _ := layer.Usage(k.s.ctx, k.s.trashed(it.ID))
	return n
}
