// Package api serves Docker's HTTP API, versions 1.24 to 1.56, over the services of the engine.
//
// A request's life: the server (HTTP/1.1 and h2c on one socket) finds the route in the one table of
// routes.go, settles the API version (version.go), and calls the route's handler. The handler reads the
// request (request.go), asks a service, and replies with moby's wire types (reply.go), shaped for older
// clients by the one table of shims.go. An error becomes a status by its errs.Kind, in status.go alone.
// Wire types and shims stop here: services do not know which version asked.
//
// Attach and exec take the connection over ("hijack"); stream.go has all of that.
package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"gantry/internal/build/builder"
	"gantry/internal/build/session"
	"gantry/internal/container"
	"gantry/internal/disk"
	"gantry/internal/events"
	"gantry/internal/image"
	"gantry/internal/kernel/peer"
	"gantry/internal/network"
	"gantry/internal/trash"
	"gantry/internal/volume"
)

// Deps is what a Server needs.
type Deps struct {
	Containers *container.Service
	Images     *image.Service
	Networks   *network.Service // nil: none can be made
	Volumes    *volume.Service
	Builds     *builder.Service // nil: nothing is built
	BuildFiles *session.Files   // with Builds: what clients' builds sent
	Trash      *trash.Bin       // nil: what is removed is gone
	Usage      func(context.Context) (*disk.Usage, error)
	Check      func(ctx context.Context, repair bool, say func(image.Finding)) (image.Checked, error)
	Events     *events.Bus
	Host       Host
	Registries Registries // nil: no registry is talked to
	// Supervisor tells which process holds the containers, and the digest of its program. May be nil.
	Supervisor func(ctx context.Context) (pid int, build string, err error)
	// Relay does so of the one that holds their names and ports; a pid of 0 is none. May be nil.
	Relay func() (pid int, build string)
	Log   *slog.Logger // nil: slog.Default
}

// Server is the API on any number of listeners.
type Server struct {
	deps   Deps
	log    *slog.Logger
	http   http.Server
	header serverHeader
	done   context.CancelFunc // ends streams on Shutdown

	hangups func() (*peer.Watcher, error) // made when the first connection is taken over

	mu    sync.Mutex
	taken map[net.Conn]struct{} // hijacked connections: http.Server forgets them
}

// New returns a server that listens nowhere yet.
func New(d Deps) *Server {
	if d.Log == nil {
		d.Log = slog.Default()
	}
	s := &Server{deps: d, log: d.Log, taken: make(map[net.Conn]struct{})}
	s.hangups = sync.OnceValues(peer.New)
	s.header = newServerHeader(d.Host.Version)
	base, cancel := context.WithCancel(context.Background())
	s.done = cancel
	s.http = http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Minute, // Docker's; against clients that never finish a header
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(d.Log.Handler(), slog.LevelDebug),
		Protocols:         new(http.Protocols),
	}
	s.http.Protocols.SetHTTP1(true)
	s.http.Protocols.SetUnencryptedHTTP2(true)
	return s
}

// Serve answers requests on l until Shutdown, and returns nil then. It may run for several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops listening, ends streams that would never end by themselves (events, followed logs, waits,
// attachments), and waits for the requests under way until ctx is done.
func (s *Server) Shutdown(ctx context.Context) error {
	s.done()
	s.mu.Lock()
	for c := range s.taken {
		c.Close()
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close()
	}
	if w, oops := s.hangups(); oops == nil {
		w.Close()
	}
	return err
}

// watch calls gone when the client at the other end of conn has hung up, where the kernel tells.
func (s *Server) watch(conn net.Conn, gone func()) (stop func()) {
	w, err := s.hangups()
	if err == nil {
		if stop, err = w.Watch(conn, gone); err == nil {
			return stop
		}
	}
	s.log.Warn("a client's hang-up will go unnoticed", "err", err)
	return func() {}
}

// hold remembers a hijacked connection until it is let go.
func (s *Server) hold(c net.Conn) {
	s.mu.Lock()
	s.taken[c] = struct{}{}
	s.mu.Unlock()
}

func (s *Server) letGo(c net.Conn) {
	s.mu.Lock()
	delete(s.taken, c)
	s.mu.Unlock()
}
