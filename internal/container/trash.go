package container

import (
	"context"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// Parking sets folders of removed containers aside. The layer store does; without it there is no trash for containers.
type Parking interface {
	Park(container string) error
	Unpark(container string) error
	Parked() ([]string, error)
	DiscardParked(container string) error
	ParkedSize(container string) (int64, error)
}

// thrown makes what the trash gets of a container that is being removed: its record. Nil: it is removed for good.
func (c *container) thrown(ctx context.Context, was Status) (*trash.Item, error) {
	s := c.s
	if s.Parking == nil || c.now.HostConfig.AutoRemove || !s.Trash.Takes(ctx) {
		return nil, nil
	}
	r := newRecord(&c.now, c.manual)
	if was == Dead {
		was = Exited
	}
	r.Status = was.String()
	it, err := s.Trash.New(ctx, trash.Container, c.id, []string{c.now.Name}, r)
	if err != nil {
		return nil, err
	}
	if c.now.Image.ChainID != "" {
		it.Holds.Chains = []digest.Digest{c.now.Image.ChainID}
	}
	return it, nil
}

// leaving lets whoever brings a container back wait until the last of its removal is done.
func (s *Service) leaving(id string) (done func()) {
	ch := make(chan struct{})
	s.mu.Lock()
	s.leavings[id] = ch
	s.mu.Unlock()
	return func() {
		s.mu.Lock()
		delete(s.leavings, id)
		s.mu.Unlock()
		close(ch)
	}
}

// Keeper brings containers back from the trash.
func (s *Service) Keeper() trash.Keeper { return keeper{s} }

type keeper struct{ s *Service }

// Restorable refuses a name that is taken; Restore does so once more, for somebody may come in between.
func (k keeper) Restorable(it trash.Item, as string) error {
	r := new(record)
	if err := it.Decode(r); err != nil {
		return err
	}
	if as != "" {
		bare, err := checkName(as)
		if err != nil {
			return err
		}
		r.Name = bare
	}
	if _, err := k.s.reserveName(r.Name, r.ID); err != nil {
		return errTaken(r.ID, err)
	}
	k.s.releaseName(r.Name, r.ID)
	return nil
}

func errTaken(id string, err error) error {
	return errs.Conflict.Errorf("cannot bring container %s back: %w\n`gantry undo --as NAME %s` gives it another", ids.Short(id), err, ids.Short(id))
}

// Restore makes the container as it was when it was removed, but that it does not run.
func (k keeper) Restore(ctx context.Context, it trash.Item, as string, taken func(state.Tx) error) (string, error) {
	s := k.s
	r := new(record)
	if err := it.Decode(r); err != nil {
		return "", err
	}
	if as != "" {
		bare, err := checkName(as)
		if err != nil {
			return "", err
		}
		r.Name = bare
	}
	s.mu.Lock()
	last := s.leavings[r.ID]
	s.mu.Unlock()
	if last != nil {
		select {
		case <-last:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if _, err := s.reserveName(r.Name, r.ID); err != nil {
		return "", errTaken(r.ID, err)
	}
	snap, err := r.snapshot()
	var f frozen
	if err == nil {
		f, err = freeze(r)
	}
	if err == nil {
		err = s.Parking.Unpark(r.ID)
	}
	if err == nil {
		if err = s.State.Update(func(tx state.Tx) error {
			if err := taken(tx); err != nil {
				return err
			}
			return f.reserve(tx)
		}); err != nil {
			if perr := s.Parking.Park(r.ID); perr != nil {
				s.Log.Warn("a container that was not brought back will be found at the next start", "container", r.ID, "err", perr)
			}
		}
	}
	if err != nil {
		s.releaseName(r.Name, r.ID)
		return "", err
	}
	s.keepVolumes(map[string]*record{r.ID: r}) // those that are gone are made anew when it starts
	if s.Volumes != nil {
		s.Volumes.Keep(r.ID, snap.volumeNames(false))
	}
	c := s.newContainer(snap)
	c.post(func() { c.manual = r.Stopped })
	s.mu.Lock()
	s.byID[r.ID] = c
	s.mu.Unlock()
	s.event(c.snap.Load(), "create")
	return r.Name, nil
}

// Discard deletes the container's folder.
func (k keeper) Discard(_ context.Context, it trash.Item) error {
	return k.s.Parking.DiscardParked(it.Key)
}

// Size is that of the writable layer and the log.
func (k keeper) Size(it trash.Item) int64 {
	n, _ := k.s.Parking.ParkedSize(it.Key)
	return n
}

// park sets the folder of a container in the trash aside.
func (s *Service) park(id string) {
	if err := s.Parking.Park(id); err != nil {
		s.Log.Warn("setting a removed container's folder aside failed; the next start does it", "container", id, "err", err)
	}
}

// settleParked brings folders to where the records say that they belong: a crash may have come between the two.
func (s *Service) settleParked(records map[string]*record) error {
	if s.Parking == nil {
		return nil
	}
	parked, err := s.Parking.Parked()
	if err != nil {
		return err
	}
	for _, id := range parked {
		switch {
		case records[id] != nil:
			err = s.Parking.Unpark(id)
		case !s.Trash.Has(trash.Container, id):
			err = s.Parking.DiscardParked(id)
		}
		if err != nil {
			s.Log.Warn("tidying the trash failed", "container", id, "err", err)
		}
	}
	for _, it := range s.Trash.Items(trash.Container) {
		if _, err := os.Lstat(filepath.Join(s.Root, it.Key)); err == nil && records[it.Key] == nil {
			s.park(it.Key)
		}
	}
	return nil
}
