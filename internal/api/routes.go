package api

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"

	"gantry/internal/build/session/wire"
	"gantry/internal/errs"
)

// route is one line of the API. pattern may hold one {name}, which stands for anything, slashes included:
// names of images have them. since is the first version that has the route, zero for all.
type route struct {
	method, pattern string
	handle          func(*Server, *call) error
	since           version
}

// routes is the whole API. Of several that match, the first counts: fixed paths come before {name}.
var routes = []route{
	{"GET", "/_ping", (*Server).ping, 0},
	{"HEAD", "/_ping", (*Server).ping, 0},
	{"GET", "/version", (*Server).showVersion, 0},
	{"GET", "/info", (*Server).info, 0},
	{"GET", "/events", (*Server).events, 0},

	{"GET", "/containers/json", (*Server).containerList, 0},
	{"POST", "/containers/create", (*Server).containerCreate, 0},
	{"POST", "/containers/prune", (*Server).containerPrune, v(25)},
	{"GET", "/containers/{name}/json", (*Server).containerInspect, 0},
	{"GET", "/containers/{name}/logs", (*Server).containerLogs, 0},
	{"POST", "/containers/{name}/start", (*Server).containerStart, 0},
	{"POST", "/containers/{name}/stop", (*Server).containerStop, 0},
	{"POST", "/containers/{name}/restart", (*Server).containerRestart, 0},
	{"POST", "/containers/{name}/kill", (*Server).containerKill, 0},
	{"POST", "/containers/{name}/wait", (*Server).containerWait, 0},
	{"POST", "/containers/{name}/resize", (*Server).containerResize, 0},
	{"POST", "/containers/{name}/attach", (*Server).containerAttach, 0},
	{"POST", "/containers/{name}/exec", (*Server).execCreate, 0},
	{"POST", "/exec/{name}/start", (*Server).execStart, 0},
	{"POST", "/exec/{name}/resize", (*Server).execResize, 0},
	{"GET", "/exec/{name}/json", (*Server).execInspect, 0},
	{"GET", "/containers/{name}/attach/ws", missing("attach over a websocket"), 0},
	{"GET", "/containers/{name}/top", (*Server).containerTop, 0},
	{"GET", "/containers/{name}/stats", missing("stats"), 0},
	{"GET", "/containers/{name}/changes", (*Server).containerChanges, 0},
	{"GET", "/containers/{name}/export", (*Server).containerExport, 0},
	{"GET", "/containers/{name}/archive", (*Server).archiveGet, 0},
	{"PUT", "/containers/{name}/archive", (*Server).archivePut, 0},
	{"HEAD", "/containers/{name}/archive", (*Server).archiveStat, 0},
	{"POST", "/containers/{name}/pause", (*Server).containerPause, 0},
	{"POST", "/containers/{name}/unpause", (*Server).containerUnpause, 0},
	{"POST", "/containers/{name}/rename", (*Server).containerRename, 0},
	{"POST", "/containers/{name}/update", missing("update"), 0},
	{"GET", "/containers/{name}/checkpoints", missing("checkpoint"), 0},
	{"POST", "/containers/{name}/checkpoints", missing("checkpoint"), 0},
	{"DELETE", "/containers/{name}", (*Server).containerRemove, 0},
	{"POST", "/commit", (*Server).commit, 0},

	{"GET", "/images/json", (*Server).imageList, 0},
	{"POST", "/images/load", (*Server).imageLoad, 0},
	{"POST", "/images/create", (*Server).imageCreate, 0},
	{"POST", "/images/prune", (*Server).imagePrune, v(25)},
	{"GET", "/images/search", (*Server).imageSearch, 0},
	{"GET", "/images/get", (*Server).imageSave, 0},
	{"GET", "/images/{name}/json", (*Server).imageInspect, 0},
	{"POST", "/images/{name}/tag", (*Server).imageTag, 0},
	{"GET", "/images/{name}/get", (*Server).imageSave, 0},
	{"GET", "/images/{name}/history", (*Server).imageHistory, 0},
	{"GET", "/images/{name}/attestations", missing("attestations"), v(55)},
	{"POST", "/images/{name}/push", (*Server).imagePush, 0},
	{"DELETE", "/images/{name}", (*Server).imageRemove, 0},
	{"DELETE", "/images/", (*Server).imageRemove, 0}, // says that the name is blank

	{"POST", "/auth", (*Server).auth, 0},
	{"GET", "/distribution/{name}/json", (*Server).distribution, v(30)},
	{"POST", "/build", (*Server).build, 0},
	{"POST", wire.Path, (*Server).buildSession, 0},
	{"POST", "/build/prune", (*Server).buildPrune, v(31)},
	{"POST", "/build/cancel", (*Server).buildCancel, v(39)},
	{"POST", "/session", missing("BuildKit's API"), v(39)},
	{"POST", "/grpc", missing("BuildKit's API"), v(39)},
	{"GET", "/system/df", (*Server).systemDf, v(25)},

	{"GET", "/networks", (*Server).networkList, 0},
	{"POST", "/networks/create", (*Server).networkCreate, 0},
	{"POST", "/networks/prune", (*Server).networkPrune, v(25)},
	{"GET", "/networks/{name}", (*Server).networkInspect, 0},
	{"POST", "/networks/{name}/connect", (*Server).networkConnect, 0},
	{"POST", "/networks/{name}/disconnect", (*Server).networkDisconnect, 0},
	{"DELETE", "/networks/{name}", (*Server).networkRemove, 0},
	{"GET", "/volumes", (*Server).volumeList, 0},
	{"POST", "/volumes/create", (*Server).volumeCreate, 0},
	{"POST", "/volumes/prune", (*Server).volumePrune, v(25)},
	// Ours: what Docker's volumes can't do.
	{"POST", "/volumes/{name}/protect", (*Server).volumeProtect, 0},
	{"POST", "/volumes/{name}/clone", (*Server).volumeClone, 0},
	{"GET", "/volumes/{name}/export", (*Server).volumeExport, 0},
	{"POST", "/volumes/{name}/import", (*Server).volumeImport, 0},
	{"GET", "/volumes/{name}/snapshots", (*Server).snapshotList, 0},
	{"POST", "/volumes/{name}/snapshots", (*Server).snapshotCreate, 0},
	{"DELETE", "/volumes/{name}/snapshots", (*Server).snapshotRemove, 0},
	{"POST", "/volumes/{name}/restore", (*Server).volumeRestore, 0},
	{"GET", "/volumes/{name}", (*Server).volumeInspect, 0},
	{"PUT", "/volumes/{name}", (*Server).volumeUpdate, v(42)},
	{"DELETE", "/volumes/{name}", (*Server).volumeRemove, 0},
	{"GET", "/plugins", noPlugins, v(25)},
	{"GET", "/plugins/{name}/json", noSuch("plugin %q not found"), v(25)},

	// Gantry's own: what Docker has no words for lies below /gantry.
	{"GET", "/gantry/manifest", (*Server).remoteManifest, 0},
	{"GET", "/gantry/trash", (*Server).trashList, 0},
	{"DELETE", "/gantry/trash", (*Server).trashEmpty, 0},
	{"GET", "/gantry/prunable/{name}", (*Server).prunable, 0},
	{"GET", "/gantry/disk", (*Server).disk, 0},
	{"GET", "/gantry/ports/{name}", (*Server).portExplain, 0},
	{"POST", "/gantry/check", (*Server).check, 0},
	{"POST", "/gantry/undo", (*Server).undo, 0},
	{"POST", "/gantry/images/{name}/protect", (*Server).imageProtect, 0},

	{"GET", "/swarm", noSwarm, 0},
	{"POST", "/swarm/{name}", missing("swarm"), 0},
	{"GET", "/nodes", noSwarm, 0},
	{"GET", "/nodes/{name}", noSwarm, 0},
	{"GET", "/services", noSwarm, 0},
	{"POST", "/services/create", noSwarm, 0},
	{"GET", "/services/{name}", noSwarm, 0},
	{"GET", "/tasks", noSwarm, 0},
	{"GET", "/tasks/{name}", noSwarm, 0},
	{"GET", "/secrets", noSwarm, v(25)},
	{"POST", "/secrets/create", noSwarm, v(25)},
	{"GET", "/secrets/{name}", noSwarm, v(25)},
	{"GET", "/configs", noSwarm, v(30)},
	{"POST", "/configs/create", noSwarm, v(30)},
	{"GET", "/configs/{name}", noSwarm, v(30)},
}

// missing answers for a part of Docker's API that Gantry does not have yet: a 501 that says so helps more
// than a 404, which clients take for a missing container.
func missing(what string) func(*Server, *call) error {
	return func(*Server, *call) error {
		return errs.NotImplemented.Errorf("%s is not implemented yet in Gantry", what)
	}
}

// noSuch answers for one object of a kind that Gantry does not have yet. `docker inspect x` asks for every kind in
// turn, and goes on to the next only after a 404.
func noSuch(format string) func(*Server, *call) error {
	return func(_ *Server, c *call) error { return errs.NotFound.Errorf(format, c.name) }
}

// noSwarm answers as a Docker engine outside a swarm does; Portainer and Traefik ask and cope with it.
func noSwarm(*Server, *call) error {
	return errs.Unavailable.Errorf(`This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`)
}

// noPlugins lists the plugins, of which there are none.
func noPlugins(_ *Server, c *call) error { return c.reply(200, []struct{}{}) }

var errNoPage = errs.NotFound.Errorf("page not found")

// find returns the route for a method and a path without version, and what {name} stands for.
func find(method, path string, x version) (*route, string) {
	for i := range routes {
		r := &routes[i]
		if r.method != method || r.since > x {
			continue
		}
		before, after, wild := strings.Cut(r.pattern, "{name}")
		if !wild {
			if r.pattern == path {
				return r, ""
			}
			continue
		}
		if len(path) <= len(before)+len(after) || !strings.HasPrefix(path, before) || !strings.HasSuffix(path, after) {
			continue
		}
		return r, path[len(before) : len(path)-len(after)]
	}
	return nil, ""
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.header.set(w)
	text, path := cutVersion(r.URL.Path)
	x, err := negotiate(text)
	if err != nil {
		fail(w, err, x < minVersion)
		return
	}
	rt, name := find(r.Method, path, x)
	if rt == nil {
		fail(w, errNoPage, false)
		return
	}
	c := &call{w: w, r: r, version: x, name: name}
	if r.URL.RawQuery != "" {
		c.query = r.URL.Query()
	}
	if s.log.Enabled(r.Context(), slog.LevelDebug) {
		s.log.Debug("request", "method", r.Method, "path", r.URL.Path)
	}
	defer s.survive(r)
	if r.Method == "POST" || r.Method == "PUT" { // may need disk
		s.deps.Trash.MakeRoom(r.Context())
	}
	err = rt.handle(s, c)
	if err == nil || r.Context().Err() != nil { // no one to tell
		return
	}
	if k := errs.KindOf(err); k == errs.Internal {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	fail(w, s.advise(err), false)
}

// survive logs a panic of a handler where everyone sees it, and ends the connection: how far the reply had got is unknown.
func (s *Server) survive(r *http.Request) {
	if p := recover(); p != nil {
		if p != http.ErrAbortHandler {
			s.log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		}
		panic(http.ErrAbortHandler)
	}
}
