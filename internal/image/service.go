package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/layer"
	"gantry/internal/remote"
	"gantry/internal/state"
	"gantry/internal/trash"
)

const bucket = "images"

// record is what the state keeps of a reference.
type record struct {
	Target ocispec.Descriptor `json:"target"`
	Time   time.Time          `json:"time"`
}

// Options are the service's optional collaborators and bounds.
type Options struct {
	Users  Users          // nil: no containers
	Events Events         // nil: nobody listens
	Remote *remote.Client // nil: nothing is pulled or pushed
	Log    *slog.Logger
	Limits Limits
	Trash  *trash.Bin // nil: what is removed is gone
}

// Limits bound what one archive may cost. A zero field means the default.
type Limits struct {
	Archive int64 // bytes of the unpacked outer archive; default 1 TiB
	Entries int   // in the outer archive; default 100,000
}

// Service answers for all images. Its methods may be called from any goroutine.
type Service struct {
	state   *state.Store
	content *content.Store
	layers  *layer.Store
	users   Users
	events  Events
	remote  *remote.Client
	log     *slog.Logger
	limits  Limits
	trash   *trash.Bin
	builtin sync.Mutex

	fetchMu sync.Mutex
	fetches map[digest.Digest]*fetching // layers on their way

	// change is held by whoever changes references, from looking at them until state and memory agree. Readers
	// need only mu, so that they never wait for the disk.
	change sync.Mutex
	mu     sync.RWMutex
	refs   map[string]record
	known  map[digest.Digest]*resolved  // by target
	pulls  map[digest.Digest]unfinished // by the manifest
	images map[digest.Digest]*Image     // what view made of the two; nil when they have changed since
}

// Open reads the references and what they lead to, and removes what a crash left of unfinished loads. An image whose blobs or layers are damaged is logged, and
// left out until it is loaded again.
func Open(st *state.Store, blobs *content.Store, layers *layer.Store, o Options) (*Service, error) {
	s := &Service{
		state: st, content: blobs, layers: layers, users: o.Users, events: o.Events, remote: o.Remote, log: o.Log, limits: o.Limits, trash: o.Trash,
		refs: map[string]record{}, known: map[digest.Digest]*resolved{}, pulls: map[digest.Digest]unfinished{}, fetches: map[digest.Digest]*fetching{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.limits.Archive <= 0 {
		s.limits.Archive = 1 << 40
	}
	if s.limits.Entries <= 0 {
		s.limits.Entries = 100_000
	}
	err := st.View(func(tx state.Tx) error {
		return tx.Each(bucket, func(key string, decode func(any) error) error {
			var r record
			if err := decode(&r); err != nil {
				return err
			}
			s.refs[key] = r
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	if err := s.loadPulls(time.Now()); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	if err := s.restore(context.Background()); err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	damaged := false
	for key, r := range s.refs {
		if s.known[r.Target.Digest] != nil {
			continue
		}
		x, err := s.resolveAny(r.Target)
		if err == nil {
			err = s.measure(x)
		}
		if err != nil {
			s.log.Error("image is damaged: load it again", "image", key, "error", err)
			damaged = true
			continue
		}
		s.known[r.Target.Digest] = x
	}
	if !damaged { // otherwise what is left of it would go as well, and someone may yet want to look
		if _, err := s.Collect(context.Background()); err != nil {
			return nil, fmt.Errorf("open images: %w", err)
		}
	}
	return s, nil
}

// SetUsers says who tells which containers use an image. To be called before the service is used: containers
// need images first, so one of the two has to come later.
func (s *Service) SetUsers(u Users) { s.users = u }

func (s *Service) event(action string, x *resolved, name string) {
	if s.events != nil {
		s.events.Image(action, x.id, name, x.config.Config.Labels)
	}
}

// held is the key of a target that no reference leads to.
func held(d digest.Digest) string { return "@" + d.String() }

func isHeld(key string) bool { return strings.HasPrefix(key, "@") }

// edit is a change of references: nil removes.
type edit map[string]*record

// apply makes the change durable and then visible. It is called with s.change held; fresh are targets not known before.
func (s *Service) apply(e edit, fresh ...*resolved) error { return s.applyPull(e, "", fresh...) }

// applyPull is apply at the end of a pull, whose record goes in the same transaction.
func (s *Service) applyPull(e edit, done digest.Digest, fresh ...*resolved) error {
	return s.applyWith(e, func(tx state.Tx) error {
		if done == "" {
			return nil
		}
		return tx.Delete(pullBucket, done.String())
	}, func() { delete(s.pulls, done) }, fresh...)
}

// applyWith is apply with something more in the transaction, and done with s.mu held when it is on disk.
func (s *Service) applyWith(e edit, more func(state.Tx) error, done func(), fresh ...*resolved) error {
	err := s.state.Update(func(tx state.Tx) error {
		if err := more(tx); err != nil {
			return err
		}
		for key, r := range e {
			var err error
			if r == nil {
				err = tx.Delete(bucket, key)
			} else {
				err = tx.Put(bucket, key, r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record images: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images = nil
	done()
	for _, x := range fresh {
		s.known[x.target.Digest] = x
	}
	for key, r := range e {
		if r == nil {
			delete(s.refs, key)
		} else {
			s.refs[key] = *r
		}
	}
	used := map[digest.Digest]bool{}
	for _, r := range s.refs {
		used[r.Target.Digest] = true
	}
	for d := range s.known {
		if !used[d] {
			delete(s.known, d)
		}
	}
	return nil
}

// Collect removes blobs and layers that no image leads to (and no container or running load needs).
func (s *Service) Collect(ctx context.Context) ([]layer.Info, error) {
	gone, lerr := s.layers.Collect(ctx, func(mark func(digest.Digest)) error {
		// Under one lock with what is known: what is being removed or brought back is in one of the two.
		s.mu.RLock()
		defer s.mu.RUnlock()
		s.markLayers(mark)
		for _, it := range s.trash.Items("") {
			for _, c := range it.Holds.Chains {
				mark(c)
			}
		}
		return nil
	})
	_, cerr := s.content.Collect(ctx, func(mark func(digest.Digest)) error {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, r := range s.refs {
			mark(r.Target.Digest)
		}
		for _, x := range s.known {
			for _, d := range x.blobs {
				mark(d)
			}
		}
		for _, u := range s.pulls {
			for _, d := range u.Blobs {
				mark(d)
			}
		}
		for _, it := range s.trash.Items("") {
			for _, d := range it.Holds.Blobs {
				mark(d)
			}
		}
		return nil
	})
	return gone, errors.Join(lerr, cerr)
}

// markLayers marks those of images, and of pulls under way. It is called with s.mu held.
func (s *Service) markLayers(mark func(digest.Digest)) {
	for _, x := range s.known {
		mark(x.chain)
	}
	for _, u := range s.pulls {
		for _, c := range u.Chains {
			mark(c)
		}
	}
}

// view is all images by ID, at one moment. It is never changed: every container that is created looks at it.
func (s *Service) view() map[digest.Digest]*Image {
	s.mu.RLock()
	images := s.images
	s.mu.RUnlock()
	if images != nil {
		return images
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images == nil {
		s.images = s.join()
	}
	return s.images
}

// join brings references and targets together. It is called with s.mu held.
func (s *Service) join() map[digest.Digest]*Image {
	images := map[digest.Digest]*Image{}
	newest := map[digest.Digest]time.Time{}
	for key, r := range s.refs {
		x := s.known[r.Target.Digest]
		if x == nil {
			continue
		}
		i := images[x.id]
		if i == nil {
			i = &Image{}
			images[x.id] = i
		}
		if i.ID == "" || newest[x.id].Before(r.Time) {
			newest[x.id] = r.Time
			i.ID, i.Target, i.Manifest, i.Config, i.ChainID, i.Size = x.id, x.target, x.manifest, x.config, x.chain, x.size
			i.Content = x.manifest.Size + x.configSize
			for _, l := range x.layers {
				i.Content += l.Size
			}
		}
		if isHeld(key) {
			continue
		}
		if r.Time.After(i.Tagged) {
			i.Tagged = r.Time
		}
		if name, isDigest := familiar(key); isDigest {
			i.RepoDigests = append(i.RepoDigests, name)
		} else {
			i.RepoTags = append(i.RepoTags, name)
		}
	}
	for _, i := range images {
		slices.Sort(i.RepoTags)
		slices.Sort(i.RepoDigests)
	}
	return images
}

// familiar turns a record's key into what users type, and says whether it names a digest.
func familiar(key string) (string, bool) {
	named, err := reference.ParseNormalizedNamed(key)
	if err != nil {
		return key, false
	}
	_, isDigest := named.(reference.Canonical)
	return reference.FamiliarString(named), isDigest
}
