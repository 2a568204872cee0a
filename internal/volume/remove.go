package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/layer"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// Failpoints lists the places where a test may kill the engine (package failpoint).
func Failpoints() []string {
	return []string{"volume.create.record", "volume.fill.staged", "volume.fill.done", "volume.remove.record", "volume.remove.aside",
		"volume.clone.record", "volume.clone.copied", "volume.import.copied", "volume.snapshot.copied", "volume.snapshot.renamed",
		"volume.restore.copied", "volume.restore.exchanged", "volume.trash.record", "volume.return.record"}
}

// Remove deletes a volume that no container holds. With force one that is not there is no error.
func (s *Service) Remove(ctx context.Context, name string, force bool) error {
	s.mu.Lock()
	v, err := s.find(name)
	if err == nil && len(v.holders) > 0 {
		err = errInUse(name, v.holdersOf())
	}
	if err == nil && v.Protected {
		err = trash.ErrProtected(trash.Volume, name)
	}
	if err != nil {
		s.mu.Unlock()
		if force && errs.NotFound.Is(err) {
			return nil
		}
		return err
	}
	v.gone = make(chan struct{})
	s.mu.Unlock()
	return s.bury(ctx, v)()
}

// bury removes a volume whose gone is set: from now on it is not there, but in the trash if ctx has it so (package trash).
// The durable part and the disk's are done by what is returned; without a trash it is a mark in the record first, so that a crash carries on; then the folder goes aside with one rename, and last the record.
func (s *Service) bury(ctx context.Context, v *vol) (wait func() error) {
	if s.Trash.Takes(ctx) {
		wait, err := s.toTrash(ctx, v)
		if err == nil {
			return wait
		}
		s.Log.Warn("a volume is removed for good", "volume", v.Name, "err", err)
	}
	r := v.record
	r.Under = underRemoving
	marked := s.State.Submit(func(tx state.Tx) error { return tx.Put(bucket, r.Name, &r) })
	s.event("destroy", v.Name)
	return func() error {
		if err := marked(); err != nil {
			s.settle(v)
			return errs.KindOf(err).Errorf("remove %s: %w", v.Name, err)
		}
		failpoint.Hit("volume.remove.record")
		err := s.drop(v.Name)
		s.forget(v)
		return err
	}
}

// drop moves the folder aside and deletes the record. It may run twice.
func (s *Service) drop(name string) error {
	if err := s.aside(s.dir(name)); err != nil {
		return err
	}
	failpoint.Hit("volume.remove.aside")
	if err := s.State.Update(func(tx state.Tx) error { return tx.Delete(bucket, name) }); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

func (s *Service) removed() string { return filepath.Join(s.Root, ".removed") }

// aside takes a path away with one rename and deletes it behind; one that is not there is no error.
func (s *Service) aside(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.mu.Lock()
	s.next++
	to := filepath.Join(s.removed(), strconv.FormatUint(s.next, 36))
	s.mu.Unlock()
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("move aside: %w", err)
	}
	if s.ctx.Err() == nil {
		s.work.Go(func() { s.delete(to) })
	}
	return nil
}

func (s *Service) delete(path string) {
	if err := layer.RemoveTree(path); err != nil {
		s.Log.Warn("deleting a removed volume failed; it is tried again at the next start", "path", path, "err", err)
	}
}

// emptyRemoved deletes what was there when the service opened.
func (s *Service) emptyRemoved() {
	entries, err := os.ReadDir(s.removed())
	if err != nil {
		s.Log.Warn("looking for removed volumes failed", "err", err)
	}
	for _, e := range entries {
		if s.ctx.Err() != nil {
			return
		}
		s.delete(filepath.Join(s.removed(), e.Name()))
	}
}

// Prune removes the volumes that no container holds, and returns their names and bytes. Filters are label, label! and all:
// without all=true only those go that were made without a name.
func (s *Service) Prune(ctx context.Context, filters map[string][]string) (names []string, freed int64, err error) {
	list, err := s.Prunable(ctx, filters)
	if err != nil {
		return nil, 0, err
	}
	for _, n := range list {
		if err := ctx.Err(); err != nil {
			return names, freed, err
		}
		size, _ := layer.Usage(ctx, s.data(n))
		if err := s.Remove(ctx, n, false); err != nil {
			if !errs.NotFound.Is(err) && !errs.Conflict.Is(err) { // taken or removed meanwhile
				s.Log.Warn("pruning a volume failed", "volume", n, "err", err)
			}
			continue
		}
		names = append(names, n)
		freed += size
	}
	return names, freed, nil
}

// Prunable names what Prune would remove.
func (s *Service) Prunable(ctx context.Context, filters map[string][]string) ([]string, error) {
	all := false
	for k, values := range filters {
		switch k {
		case "label", "label!":
		case "all":
			var err error
			if all, err = boolFilter(k, values); err != nil {
				return nil, err
			}
		default:
			return nil, errs.Invalid.Errorf("invalid filter '%s'", k)
		}
	}
	var names []string
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.vols)) {
		v := s.vols[name]
		_, anonymous := v.Labels[AnonymousLabel]
		if v.gone != nil || len(v.holders) > 0 || v.Protected || !all && !anonymous ||
			slices.ContainsFunc(filters["label"], func(l string) bool { return !labelled(v.Labels, l) }) ||
			slices.ContainsFunc(filters["label!"], func(l string) bool { return labelled(v.Labels, l) }) {
			continue
		}
		names = append(names, name)
	}
	return names, nil
}
