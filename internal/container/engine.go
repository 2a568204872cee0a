package container

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/runtime"
	"gantry/internal/runtime/supervisor"
	"gantry/internal/state"
	"gantry/internal/trash"
)

// Options are what the service stands on.
type Options struct {
	Root string // holds a directory for each container: <data-root>/containers
	Run  string // the exec-root
	// VolumeRoot is where a volume has its files: VolumeRoot/NAME/_data.
	VolumeRoot string

	State     *state.Store
	Images    Images
	Layers    Layers
	Sizer     Sizer
	Processes *supervisor.Keeper
	Cgroups   *cgroup.Host
	Home      *cgroup.Group // the supervisor's own
	Builder   *runtime.Builder
	Networks  Networks   // nil: none
	Volumes   Volumes    // nil: none
	Mounter   Mounter    // nil without Volumes
	Connector Connector  // nil without Networks
	Trash     *trash.Bin // nil: what is removed is gone
	Parking   Parking    // nil without Trash
	OpenLog   LogOpener
	Events    Events
	Log       *slog.Logger
	Defaults  Defaults
}

// Service answers for all containers. Its methods may be called from any goroutine. A ref is a full ID, a
// name, or a unique prefix of an ID; errs.NotFound with Docker's "No such container: …" otherwise.
type Service struct {
	Options

	ctx    context.Context // ends with the service
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.RWMutex
	byID  map[string]*container
	names map[string]string // → ID; also those of containers that are just being created
	execs map[string]*exec

	links atomic.Bool // some container is linked to another

	leavings map[string]chan struct{} // of removals whose reply is out, but which are not done yet
}

// Open brings back all containers: those that run are adopted, what ended meanwhile is recorded, operations
// that were cut short are finished or undone, and restart policies are carried out.
func Open(ctx context.Context, o Options) (*Service, error) {
	for _, dir := range []string{o.Root, o.journals(), o.lives()} {
		if err := os.MkdirAll(dir, 0o710); err != nil {
			return nil, err
		}
	}
	s := &Service{Options: o, byID: map[string]*container{}, names: map[string]string{}, execs: map[string]*exec{}, leavings: map[string]chan struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.recover(ctx); err != nil {
		s.Close()
		return nil, err
	}
	s.work.Go(s.collectExecs)
	return s, nil
}

// Close ends the service's own work, when what is under way is done. Containers go on.
func (s *Service) Close() {
	s.mu.Lock()
	all := make([]*container, 0, len(s.byID))
	for _, c := range s.byID {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.do(context.Background(), func() error { c.over = true; return nil })
	}
	for _, c := range all {
		<-c.done
	}
	s.cancel()
	s.work.Wait()
}

func (o *Options) journals() string { return filepath.Join(o.Run, "journal") }
func (o *Options) lives() string    { return filepath.Join(o.Run, "containers") }

func errNoSuch(ref string) error { return errs.NotFound.Errorf("No such container: %s", ref) }

// find resolves a ref.
func (s *Service) find(ref string) (*container, error) {
	if ref == "" {
		return nil, errs.Invalid.Errorf("No container name or ID supplied")
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.byID[ref]; c != nil {
		return c, nil
	}
	if c := s.byID[s.names[strings.TrimPrefix(ref, "/")]]; c != nil {
		return c, nil
	}
	if c := s.byLink(ref); c != nil {
		return c, nil
	}
	c, err := s.byPrefix(ref)
	if c == nil && err == nil {
		err = errNoSuch(ref)
	}
	return c, err
}

func (s *Service) byPrefix(ref string) (*container, error) {
	if len(ref) > 64 {
		return nil, nil
	}
	var found *container
	for id, c := range s.byID {
		if strings.HasPrefix(id, ref) {
			if found != nil {
				return nil, errs.Invalid.Errorf("Multiple IDs found with provided prefix: %s", ref)
			}
			found = c
		}
	}
	return found, nil
}

// Get returns the container's state now, without waiting for anything under way.
func (s *Service) Get(ref string) (Snapshot, error) {
	c, err := s.find(ref)
	if err != nil {
		return Snapshot{}, err
	}
	return c.get(), nil
}

// all returns a snapshot of every container, newest first.
func (s *Service) all() []Snapshot {
	s.mu.RLock()
	list := make([]Snapshot, 0, len(s.byID))
	for _, c := range s.byID {
		list = append(list, c.get())
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b Snapshot) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// ImageUsers returns the containers that were made from the image or have it mounted, running ones first; image removal asks.
func (s *Service) ImageUsers(id digest.Digest) (users []Snapshot) {
	for _, c := range s.all() {
		if c.Image.ID == id || c.mountsImage(id) {
			users = append(users, c)
		}
	}
	slices.SortStableFunc(users, func(a, b Snapshot) int {
		switch {
		case a.Status.Alive() == b.Status.Alive():
			return 0
		case a.Status.Alive():
			return -1
		}
		return 1
	})
	return users
}

// Running returns the containers that have processes.
func (s *Service) Running() (list []Snapshot) {
	for _, c := range s.all() {
		if c.Status.Alive() {
			list = append(list, c)
		}
	}
	return list
}

// Chains returns the chain IDs of the layers that containers stand on; collection keeps them.
func (s *Service) Chains() []digest.Digest {
	var list []digest.Digest
	for _, c := range s.all() {
		if c.Image.ChainID != "" && !slices.Contains(list, c.Image.ChainID) {
			list = append(list, c.Image.ChainID)
		}
	}
	return list
}

// Sizes returns the bytes of the writable layer and of all layers together.
func (s *Service) Sizes(ctx context.Context, ref string) (rw, root int64, err error) {
	c, err := s.find(ref)
	if err != nil {
		return 0, 0, err
	}
	snap := c.get()
	if rw, err = s.Sizer.Size(c.id); err != nil {
		return 0, 0, err
	}
	below, err := s.Sizer.ChainSize(snap.Image.ChainID)
	if err != nil {
		return 0, 0, err
	}
	return rw, rw + below, nil
}

// exited hands the end of a process to whom it belongs. One that belongs to nobody (the daemon died between the
// end of an exec and hearing of it) is forgotten.
func (s *Service) exited(e supervisor.Exit) {
	s.mu.RLock()
	c, x := s.byID[e.ID], s.execs[e.ID]
	s.mu.RUnlock()
	switch {
	case c != nil:
		c.post(func() { c.ended(e) })
	case x != nil:
		x.ended(e)
	default:
		s.leave(e.ID)
		s.unmounted(e.ID)
		s.forget(e.ID)
	}
}

func (s *Service) forget(id string) {
	if err := s.Processes.Forget(s.ctx, id); err != nil && !errs.NotFound.Is(err) && s.ctx.Err() == nil {
		s.Log.Warn("the supervisor did not forget an ended process", "id", id, "err", err)
	}
}

// watch hears of ends until the service closes. The supervisor tells again, to the next daemon, of those that it
// was not told to forget.
func (s *Service) watch() {
	for {
		select {
		case e, ok := <-s.Processes.Exits():
			if !ok {
				return
			}
			s.exited(e)
		case <-s.ctx.Done():
			return
		}
	}
}

// event tells of an action on a container in Docker's way.
func (s *Service) event(snap *Snapshot, action string, more ...string) {
	attrs := make(map[string]string, len(snap.Config.Labels)+2+len(more)/2)
	for k, v := range snap.Config.Labels {
		attrs[k] = v
	}
	attrs["image"] = snap.Config.Image
	attrs["name"] = snap.Name
	for i := 0; i+1 < len(more); i += 2 {
		attrs[more[i]] = more[i+1]
	}
	s.Events.Container(action, snap.ID, attrs)
}

// reserveName takes the name, or finds one where it is empty, for the container id. release gives it back.
func (s *Service) reserveName(name, id string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != "" {
		if holder, taken := s.names[name]; taken {
			return "", errNameTaken(name, holder)
		}
		s.names[name] = id
		return name, nil
	}
	for i := range 12 {
		name = randomName()
		if i >= 6 {
			name = fmt.Sprintf("%s%d", name, i) // many containers: the pairs run out
		}
		if _, taken := s.names[name]; !taken {
			s.names[name] = id
			return name, nil
		}
	}
	name = ids.Short(id)
	s.names[name] = id
	return name, nil
}

func (s *Service) releaseName(name, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == id {
		delete(s.names, name)
	}
}
