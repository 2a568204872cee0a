package volume

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/layer"
	"gantry/internal/state"
)

// snapshot is a copy of a volume's data at one moment.
type snapshot struct {
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes"`
	Shared  int64     `json:"shared,omitempty"` // of them, whose blocks it shared with the data when it was made
}

// Snapshot is one on the wire.
type Snapshot struct {
	Name    string
	Created time.Time
	Bytes   int64 // of its files
	Shared  int64 // of them, whose blocks it shared with the volume when it was made (FICLONE); the rest was copied
	// Running are the containers that may have been writing meanwhile.
	Running []string `json:",omitempty"`
}

// own refuses what cannot be done with files that are not below our root, and says where they are. s.mu is held.
func (v *vol) own(verb string) error {
	if !v.mounted() {
		return nil
	}
	if dir := v.bound(); dir != "" {
		return errs.Invalid.Errorf("%s %s: its options bind the folder %s, where its files are: copy that", verb, v.Name, dir)
	}
	return errs.Invalid.Errorf("%s %s: its options ask for a file system of its own (%s from %s), which is mounted only in containers that run:\n`gantry run --rm -v %s:/v:ro busybox tar c -C /v .` reads it",
		verb, v.Name, v.Options["type"], v.Options["device"], v.Name)
}

// take finds a volume whose files are here and locks its data as a whole; the caller unlocks work.
func (s *Service) take(name, verb string) (*vol, error) {
	s.mu.Lock()
	v, err := s.find(name)
	if err == nil {
		err = v.own(verb)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	v.work.Lock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vols[name] != v || v.gone != nil { // removed while we waited
		v.work.Unlock()
		return nil, errNoSuch(name)
	}
	return v, nil
}

// copyDir copies a directory of files into a new one, and to the disk.
func copyDir(ctx context.Context, from, to string) (layer.Copied, error) {
	src, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return layer.Copied{}, &os.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(src)
	dst, err := unix.Open(to, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return layer.Copied{}, &os.PathError{Op: "open", Path: to, Err: err}
	}
	defer unix.Close(dst)
	done, err := layer.CopyTree(ctx, dst, src, layer.CopyOptions{})
	if err == nil {
		err = unix.Syncfs(dst)
	}
	return done, err
}

// SnapshotCreate copies what the volume holds now. Without a name it gets one of the time.
func (s *Service) SnapshotCreate(ctx context.Context, name, snap string) (Snapshot, error) {
	now := time.Now().UTC()
	if snap == "" {
		snap = now.Format("20060102-150405.000")
	}
	if err := checkName(snap); err != nil {
		return Snapshot{}, errs.Invalid.Errorf("%s", strings.ReplaceAll(err.Error(), "volume name", "snapshot name"))
	}
	v, err := s.take(name, "snapshot")
	if err != nil {
		return Snapshot{}, err
	}
	defer v.work.Unlock()
	if _, taken := v.Snapshots[snap]; taken {
		return Snapshot{}, errs.Conflict.Errorf("volume %s has a snapshot %s already", name, snap)
	}
	tmp := filepath.Join(s.dir(name), newDir)
	if err := s.aside(tmp); err != nil {
		return Snapshot{}, err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return Snapshot{}, err
	}
	done, err := copyDir(ctx, s.data(name), tmp)
	if err != nil {
		return Snapshot{}, errors.Join(err, s.aside(tmp))
	}
	failpoint.Hit("volume.snapshot.copied")
	if err := os.Mkdir(filepath.Join(s.dir(name), snapDir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return Snapshot{}, err
	}
	// Renamed first: one without a record is thrown away by the next engine, a record without it would promise too much.
	place := filepath.Join(s.dir(name), snapDir, snap)
	if err := s.aside(place); err != nil {
		return Snapshot{}, err
	}
	if err := os.Rename(tmp, place); err != nil {
		return Snapshot{}, err
	}
	failpoint.Hit("volume.snapshot.renamed")
	x := snapshot{now, done.Bytes, done.Shared}
	if err := s.change(v, func(r *record) {
		r.Snapshots = maps.Clone(r.Snapshots)
		if r.Snapshots == nil {
			r.Snapshots = map[string]snapshot{}
		}
		r.Snapshots[snap] = x
	}); err != nil {
		return Snapshot{}, errors.Join(err, s.aside(place))
	}
	s.event("snapshot", name, "snapshot", snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	return Snapshot{snap, now, done.Bytes, done.Shared, v.running()}, nil
}

// change writes a changed record down, and then takes it over.
func (s *Service) change(v *vol, f func(*record)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := v.record
	f(&r)
	if err := s.put(&r); err != nil {
		return err
	}
	v.record = r
	return nil
}

// Snapshots lists those of a volume, oldest first.
func (s *Service) Snapshots(name string) ([]Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(name)
	if err != nil {
		return nil, err
	}
	list := []Snapshot{}
	for n, x := range v.Snapshots {
		list = append(list, Snapshot{Name: n, Created: x.Created, Bytes: x.Bytes, Shared: x.Shared})
	}
	slices.SortFunc(list, func(a, b Snapshot) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

func (v *vol) snapshot(name string) error {
	if _, ok := v.Snapshots[name]; !ok {
		return errs.NotFound.Errorf("volume %s has no snapshot %s", v.Name, name)
	}
	return nil
}

// SnapshotRemove deletes one.
func (s *Service) SnapshotRemove(ctx context.Context, name, snap string) error {
	v, err := s.take(name, "snapshot")
	if err != nil {
		return err
	}
	defer v.work.Unlock()
	if err := v.snapshot(snap); err != nil {
		return err
	}
	if err := s.change(v, func(r *record) {
		r.Snapshots = maps.Clone(r.Snapshots)
		delete(r.Snapshots, snap)
	}); err != nil {
		return err
	}
	return s.aside(filepath.Join(s.dir(name), snapDir, snap))
}

// Restore puts a snapshot's files in the place of the volume's, by one exchange; the snapshot stays. No container may
// have the volume mounted: it would go on with the old files, which are deleted.
func (s *Service) Restore(ctx context.Context, name, snap string) error {
	v, err := s.take(name, "restore")
	if err != nil {
		return err
	}
	defer v.work.Unlock()
	if err := v.snapshot(snap); err != nil {
		return err
	}
	s.mu.Lock()
	running := v.running()
	next := v.record
	s.number(&next)
	s.mu.Unlock()
	if len(running) > 0 { // and none gets it while work is held: see Mount
		return errs.Conflict.Errorf("restore %s: volume is mounted in running containers - [%s]", name, strings.Join(running, ", "))
	}
	tmp := filepath.Join(s.dir(name), newDir)
	if err := s.aside(tmp); err != nil {
		return err
	}
	if next.Project != v.Project {
		// Old and new files are both there for a while: under one number they would share the volume's size.
		if err := s.change(v, func(r *record) { r.Project = next.Project }); err != nil {
			return err
		}
	}
	if err := s.makeData(&next, tmp); err != nil {
		return err
	}
	if _, err := copyDir(ctx, filepath.Join(s.dir(name), snapDir, snap), tmp); err != nil {
		return errors.Join(err, s.aside(tmp))
	}
	failpoint.Hit("volume.restore.copied")
	if err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, s.data(name), unix.RENAME_EXCHANGE); err != nil {
		return errors.Join(&os.PathError{Op: "exchange", Path: s.data(name), Err: err}, s.aside(tmp))
	}
	failpoint.Hit("volume.restore.exchanged")
	s.event("restore", name, "snapshot", snap)
	return s.aside(tmp)
}

// Cloned says what a clone took.
type Cloned struct {
	Name          string
	Bytes, Shared int64    // as those of a Snapshot
	Running       []string `json:",omitempty"`
}

// Clone makes a volume with the files, labels and options of another.
func (s *Service) Clone(ctx context.Context, name, to string) (Cloned, error) {
	from, err := s.take(name, "clone")
	if err != nil {
		return Cloned{}, err
	}
	defer from.work.Unlock()
	s.mu.Lock()
	r := Request{Name: to, Labels: maps.Clone(from.Labels), Options: maps.Clone(from.Options)}
	running := from.running()
	s.mu.Unlock()
	delete(r.Labels, AnonymousLabel)
	var done layer.Copied
	err = s.make(ctx, r, "clone", func(data string) (err error) {
		done, err = copyDir(ctx, s.data(name), data)
		return err
	})
	return Cloned{to, done.Bytes, done.Shared, running}, err
}

// make makes a volume that nobody sees before write has filled it: a crash in between leaves nothing of it.
func (s *Service) make(ctx context.Context, r Request, verb string, write func(data string) error) error {
	if err := check(&r); err != nil {
		return err
	}
	v, old, err := s.reserve(ctx, r)
	if err != nil {
		return err
	}
	if old {
		return errs.Conflict.Errorf("%s: there is a volume %s already", verb, r.Name)
	}
	v.Under = underMaking
	err = s.put(&v.record)
	failpoint.Hit("volume." + verb + ".record")
	if err == nil {
		err = s.makeDirs(&v.record)
	}
	if err == nil {
		err = write(s.data(r.Name))
		failpoint.Hit("volume." + verb + ".copied")
	}
	if err == nil {
		v.Under = ""
		err = s.put(&v.record)
	}
	if err != nil {
		err = errors.Join(err, s.aside(s.dir(r.Name)), s.State.Update(func(tx state.Tx) error { return tx.Delete(bucket, r.Name) }))
		s.forget(v)
		return err
	}
	s.settle(v)
	s.event("create", r.Name)
	return nil
}
