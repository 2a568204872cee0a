// Package volume keeps data that outlives containers: volumes by name, their snapshots, and who holds them.
//
// A volume is a record in the state and a folder, in Docker's layout: <root>/NAME/_data. The record comes first: a
// folder without one was brought here by hand (or by a Docker that worked here before) and is taken in, as Docker does.
// What takes longer than a rename announces itself in the record and is finished or undone by the next engine: a
// clone that was cut short is gone, a removal is carried on, content on its way into a volume is all there or not at all.
//
// A container that is created holds its volumes until it is removed; one that runs has them mounted. Neither
// is written down: the container service tells, for the containers of before when it opens.
//
// Nothing is mounted on the host. Where a volume's options ask for a file system (the local driver's type, o and
// device), Mount says which, and it is mounted in the container's mount namespace.
//
// On disk, below <root>/NAME: _data; _fill, what is on its way into an empty _data; _snapshots/SNAP, and
// _new, a snapshot or a restored _data on its way. <root>/.trash holds the folders of what can be brought back (package trash),
// <root>/.removed what is being deleted.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	api "github.com/moby/moby/api/types/volume"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/state"
	"gantry/internal/trash"
)

const (
	bucket  = "volumes"
	version = 1 // of record

	dataDir      = "_data"
	fillDir      = "_fill"
	newDir       = "_new"
	boundFillDir = ".gantry-fill" // _fill, in a folder of the host that options bind
	snapDir      = "_snapshots"
	trashDir     = ".trash"

	driver = "local"
	// AnonymousLabel marks the volumes that were made for one container, without a name; Docker's.
	AnonymousLabel = "com.docker.volume.anonymous"
)

// record is a volume as the state file keeps it.
type record struct {
	V         int                 `json:"v"`
	Name      string              `json:"name"`
	Created   time.Time           `json:"created"`
	Labels    map[string]string   `json:"labels,omitempty"`
	Options   map[string]string   `json:"options,omitempty"`
	Protected bool                `json:"protected,omitempty"`
	Snapshots map[string]snapshot `json:"snapshots,omitempty"`
	// Under is what was under way: see the consts below.
	Under string `json:"under,omitempty"`
	// Project is the number under which the file system counts a volume that has a size.
	Project uint32 `json:"project,omitempty"`
	From    string `json:"from,omitempty"` // with underReturning: its folder in the trash
}

// What may be under way on a volume when the engine dies.
const (
	underMaking    = "making"    // nobody has seen it yet: it goes
	underRemoving  = "removing"  // nobody sees it any more: it goes
	underFilling   = "filling"   // _fill is complete, and goes into _data entry by entry
	underReturning = "returning" // out of the trash: the folder follows
)

// vol is a volume in memory; its fields are under Service.mu.
type vol struct {
	record
	holders map[string]bool // containers that exist → that have it mounted
	gone    chan struct{}   // not nil: it is being removed or made; closed when that is over
	// work is held by whoever changes the data as a whole: fill, restore, snapshot.
	work sync.Mutex
}

// Events hears what happens to volumes; attrs hold "driver" and what the action has.
type Events interface {
	Volume(action, name string, attrs map[string]string)
}

// Options are what the service stands on.
type Options struct {
	Root   string // <data-root>/volumes
	State  *state.Store
	Events Events
	Trash  *trash.Bin // nil: what is removed is gone
	Log    *slog.Logger
}

// Service answers for all volumes. Its methods may be called from any goroutine.
type Service struct {
	Options

	ctx    context.Context // ends with the service
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	vols map[string]*vol
	next uint64 // names in .removed
}

// Open reads the records, takes in folders that have none, and ends what a crash left under way.
func Open(o Options) (*Service, error) {
	s := &Service{Options: o, vols: map[string]*vol{}, next: uint64(time.Now().UnixNano())}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := os.MkdirAll(s.removed(), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(s.Root, 0o711); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	if err := s.settleTrash(); err != nil {
		return nil, fmt.Errorf("look for volumes in the trash: %w", err)
	}
	if err := s.adopt(); err != nil {
		return nil, fmt.Errorf("look for volumes in %s: %w", s.Root, err)
	}
	for _, v := range s.vols {
		if err := s.mend(v); err != nil {
			return nil, fmt.Errorf("mend volume %s: %w", v.Name, err)
		}
	}
	s.work.Go(s.emptyRemoved)
	return s, nil
}

// Close ends the service's own work.
func (s *Service) Close() {
	s.cancel()
	s.work.Wait()
}

func (s *Service) load() error {
	return s.State.View(func(tx state.Tx) error {
		return tx.Each(bucket, func(name string, decode func(any) error) error {
			var r record
			if err := decode(&r); err != nil {
				return err
			}
			if r.V > version {
				return errs.Conflict.Errorf("volume %s: record version %d was written by a newer gantry; this one knows %d", name, r.V, version)
			}
			s.vols[name] = &vol{record: r, holders: map[string]bool{}}
			return nil
		})
	})
}

// adopt takes in folders without a record.
func (s *Service) adopt() error {
	entries, err := os.ReadDir(s.Root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() || s.vols[name] != nil || checkName(name) != nil {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(s.Root, name, dataDir)); err != nil || !fi.IsDir() {
			continue
		}
		r := record{V: version, Name: name, Created: time.Now().UTC()}
		if fi, err := e.Info(); err == nil {
			r.Created = fi.ModTime().UTC()
		}
		if ids.Valid(name) {
			r.Labels = map[string]string{AnonymousLabel: ""}
		}
		if err := s.put(&r); err != nil {
			return err
		}
		s.vols[name] = &vol{record: r, holders: map[string]bool{}}
	}
	return nil
}

// mend ends what was under way. Nobody else is there yet.
func (s *Service) mend(v *vol) error {
	switch v.Under {
	case underMaking, underRemoving:
		delete(s.vols, v.Name)
		return s.drop(v.Name)
	case underReturning:
		if err := s.unpark(v); err != nil {
			return err
		}
	case underFilling:
		if err := s.pour(v); err != nil && !v.mounted() { // a folder of the host may be gone
			return err
		}
		v.Under = ""
		if err := s.put(&v.record); err != nil {
			return err
		}
	}
	if dir := v.bound(); dir != "" {
		if err := s.clear(v, filepath.Join(dir, boundFillDir)); err != nil {
			s.Log.Warn("deleting what a crash left in a bound folder failed", "volume", v.Name, "err", err)
		}
	}
	if err := s.makeDirs(&v.record); err != nil {
		return err
	}
	for _, d := range []string{fillDir, newDir} {
		if err := s.aside(filepath.Join(s.dir(v.Name), d)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.dir(v.Name), snapDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if _, ok := v.Snapshots[e.Name()]; !ok {
			if err := s.aside(filepath.Join(s.dir(v.Name), snapDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) put(r *record) error {
	return s.State.Update(func(tx state.Tx) error { return tx.Put(bucket, r.Name, r) })
}

func (s *Service) dir(name string) string { return filepath.Join(s.Root, name) }

// data is where the files of the volume are.
func (s *Service) data(name string) string { return filepath.Join(s.Root, name, dataDir) }

// makeDirs makes the folders of a volume; those that are there stay.
func (s *Service) makeDirs(r *record) error {
	if err := os.Mkdir(s.dir(r.Name), 0o701); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return s.makeData(r, s.data(r.Name))
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkName is Docker's rule. The length is the file system's.
func checkName(name string) error {
	switch {
	case len(name) == 1:
		return errs.Invalid.Errorf("volume name is too short, names should be at least two alphanumeric characters")
	case !validName.MatchString(name):
		return errs.Invalid.Errorf("%q includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path", name)
	case len(name) > 255:
		return errs.Invalid.Errorf("volume name is too long: %d characters, at most 255", len(name))
	}
	return nil
}

func errNoSuch(name string) error { return errs.NotFound.Errorf("get %s: no such volume", name) }

// find returns a volume that is there. s.mu is held.
func (s *Service) find(name string) (*vol, error) {
	v := s.vols[name]
	if v == nil || v.gone != nil {
		return nil, errNoSuch(name)
	}
	return v, nil
}

// describe is the volume on the wire. s.mu is held.
func (s *Service) describe(v *vol) api.Volume {
	x := api.Volume{Name: v.Name, Driver: driver, Mountpoint: s.data(v.Name), Scope: "local", CreatedAt: v.Created.Local().Format(time.RFC3339),
		Labels: maps.Clone(v.Labels), Options: maps.Clone(v.Options)}
	status := map[string]any{}
	if v.Protected {
		status["protected"] = true
	}
	if len(v.Snapshots) > 0 {
		status["snapshots"] = slices.Sorted(maps.Keys(v.Snapshots))
	}
	if len(status) > 0 {
		x.Status = status
	}
	return x
}

// Get describes one volume.
func (s *Service) Get(name string) (api.Volume, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(name)
	if err != nil {
		return api.Volume{}, err
	}
	return s.describe(v), nil
}

// List describes the volumes that match, by name. Filters are dangling, driver, label and name.
func (s *Service) List(filters map[string][]string) ([]api.Volume, error) {
	for k, values := range filters {
		switch k {
		case "driver", "label", "name":
		case "dangling":
			if _, err := boolFilter(k, values); err != nil {
				return nil, err
			}
		default:
			return nil, errs.Invalid.Errorf("invalid filter '%s'", k)
		}
	}
	some := func(values []string, ok func(string) bool) bool {
		return len(values) == 0 || slices.ContainsFunc(values, ok)
	}
	list := []api.Volume{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.vols)) {
		v := s.vols[name]
		if v.gone != nil {
			continue
		}
		if d := filters["dangling"]; len(d) > 0 {
			if want, _ := boolFilter("dangling", d); want == (len(v.holders) > 0) {
				continue
			}
		}
		if some(filters["driver"], func(d string) bool { return d == driver }) &&
			some(filters["name"], func(n string) bool { return n == name || strings.Contains(name, n) || matches(n, name) }) &&
			!slices.ContainsFunc(filters["label"], func(l string) bool { return !labelled(v.Labels, l) }) {
			list = append(list, s.describe(v))
		}
	}
	return list, nil
}

func matches(pattern, name string) bool {
	re, err := regexp.Compile(pattern)
	return err == nil && re.MatchString(name)
}

func labelled(labels map[string]string, want string) bool {
	k, value, valued := strings.Cut(want, "=")
	have, ok := labels[k]
	return ok && (!valued || have == value)
}

func boolFilter(key string, values []string) (bool, error) {
	var yes, no bool
	for _, v := range values {
		switch v {
		case "1", "true":
			yes = true
		case "0", "false":
			no = true
		default:
			return false, errs.Invalid.Errorf("invalid filter '%s=[%s]'", key, v)
		}
	}
	if yes == no {
		return false, errs.Invalid.Errorf("invalid filter '%s=%v'", key, values)
	}
	return yes, nil
}

func (s *Service) event(action, name string, more ...string) {
	attrs := map[string]string{"driver": driver}
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	s.Events.Volume(action, name, attrs)
}
