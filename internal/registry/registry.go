// Package registry is a private registry: the OCI distribution specification 1.1 over HTTP.
//
// # The story of a push
//
// A client asks for each blob (HEAD). One that is missing is uploaded: POST opens an upload, PATCH and PUT append to a
// file that is hashed as it comes, and the last PUT names the digest; the file is then synced, moved to its place and
// linked to the repository. At last the client puts the manifest: everything that it points to must be linked, then
// its bytes, its link, its entry in the list of its subject's referrers, and its tag are written, in this order and
// each of them whole or not at all. What was acknowledged is on disk; what was not is collected later.
//
// # Collection
//
// Blobs are kept once and linked to repositories. Collection runs beside everything else. In each repository it marks
// what tags reach (indexes, manifests, blobs, and referrers of what it reached), then deletes the other links that
// nobody used for a while, then the bytes without links. Two locks keep it from running into a push. A repository's
// gate: a push that looks whether blobs are there and then points to them can't have collection in between. A lock
// for each blob: a link and the deletion of the bytes behind it can't cross. So a push gets a whole manifest or a
// MANIFEST_BLOB_UNKNOWN, never a tag with holes.
//
// # Keys
//
//	blobs/<algorithm>/<xx>/<hex>                                the bytes of blobs and manifests
//	repos/<name>/_blobs/<algorithm>/<hex>                       the repository has this blob (empty)
//	repos/<name>/_manifests/<algorithm>/<hex>                   … this manifest: its media type; "released" if untagged on purpose
//	repos/<name>/_tags/<tag>                                    the manifest's digest
//	repos/<name>/_referrers/<algorithm>/<hex>/<algorithm>-<hex> the descriptor of a manifest whose subject is the former
package registry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a registry over a Storage. Make it by New.
type Server struct {
	live    atomic.Pointer[settings] // what Reload replaces
	changed chan struct{}            // has one after a Reload, for Run
	storage Storage
	log     *slog.Logger
	repos   repositories
	locks   *blobLocks
	names   nameLocks // a tag's writers, a link's writers, a fetch: one after the other
	uploads uploads
	metrics metrics
	gcMu    sync.Mutex // one collection at a time
	proxy   *proxy
	started time.Time
	large   chan struct{} // has one for each manifest of more than a few kilobytes that is being pushed

	// What goes on behind the requests, and its end.
	ctx        context.Context
	cancel     context.CancelFunc
	background sync.WaitGroup
}

// New opens a registry. It reads the names of the repositories, so it takes as long as walking their folders.
func New(cfg Config, st Storage, log *slog.Logger) (*Server, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{changed: make(chan struct{}, 1), storage: st, log: log, locks: newBlobLocks(), started: time.Now(), large: make(chan struct{}, 16)}
	s.uploads.open = map[string]*upload{}
	if err := s.repos.load(st); err != nil {
		return nil, err
	}
	if err := s.forgetFetches(); err != nil {
		return nil, err
	}
	var err error
	if err = s.settle(cfg); err != nil {
		return nil, err
	}
	if s.proxy, err = newProxy(s); err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

// Handler answers everything that the registry serves.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

// Run collects at the configured interval until ctx ends.
func (s *Server) Run(ctx context.Context) {
	for {
		var due <-chan time.Time
		if every := time.Duration(s.conf().GC.Every); every > 0 {
			due = time.After(every)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.changed:
			continue
		case <-due:
		}
		if _, err := s.Collect(ctx); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("collect", "err", err)
		}
	}
}
