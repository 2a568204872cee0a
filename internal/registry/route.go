package registry

import (
	"net/http"
	"runtime/debug"
	"strings"
	"time"
)

// route is a request's path, understood.
type route struct {
	kind routeKind
	repo string
	// ref is the tag or digest, the digest, or the upload, as the kind has it.
	ref string
}

type routeKind uint8

const (
	routeNone routeKind = iota
	routePing
	routeCatalog
	routeTags
	routeManifest
	routeBlob
	routeUploads
	routeUpload
	routeReferrers
	routeToken
	routeSearch
	routeV1Ping
	routeMetrics
	routeCollect
	routeRoot
	routeKinds
)

var routeNames = [routeKinds]string{"none", "ping", "catalog", "tags", "manifest", "blob", "uploads", "upload", "referrers", "token", "search", "v1ping", "metrics", "collect", "root"}

// parsePath understands a path. It reads from the right: a repository may well be called "a/blobs".
func parsePath(path string) route {
	switch path {
	case "/":
		return route{kind: routeRoot}
	case "/v2/", "/v2":
		return route{kind: routePing}
	case "/v2/_catalog":
		return route{kind: routeCatalog}
	case "/token":
		return route{kind: routeToken}
	case "/v1/search":
		return route{kind: routeSearch}
	case "/v1/_ping":
		return route{kind: routeV1Ping}
	case "/metrics":
		return route{kind: routeMetrics}
	case "/_gantry/collect":
		return route{kind: routeCollect}
	}
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return route{}
	}
	if repo, ok := strings.CutSuffix(rest, "/tags/list"); ok {
		return route{routeTags, repo, ""}
	}
	if repo, ok := strings.CutSuffix(strings.TrimSuffix(rest, "/"), "/blobs/uploads"); ok {
		return route{routeUploads, repo, ""}
	}
	i := strings.LastIndexByte(rest, '/')
	if i < 0 {
		return route{}
	}
	rest, ref := rest[:i], rest[i+1:]
	for _, r := range [...]struct {
		suffix string
		kind   routeKind
	}{{"/blobs/uploads", routeUpload}, {"/blobs", routeBlob}, {"/manifests", routeManifest}, {"/referrers", routeReferrers}} {
		if repo, ok := strings.CutSuffix(rest, r.suffix); ok {
			return route{r.kind, repo, ref}
		}
	}
	return route{}
}

// serve is the whole server's way in.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rt := parsePath(r.URL.Path)
	began := time.Now()
	rw := &response{ResponseWriter: w, stall: time.Duration(s.conf().Limits.Stall)}
	s.metrics.inFlight.Add(1)
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				s.metrics.inFlight.Add(-1)
				panic(p)
			}
			s.log.Error("panic", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if rw.status == 0 {
				writeError(rw, nil)
			}
		}
		s.metrics.inFlight.Add(-1)
		s.metrics.request(rt.kind, rw.status, rw.written, time.Since(began))
	}()
	h := w.Header()
	h.Set("Docker-Distribution-Api-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	if err := s.dispatch(rw, r, rt); err != nil {
		if rw.status != 0 {
			// The answer is half out: the only honest end is a broken connection.
			panic(http.ErrAbortHandler)
		}
		if _, known := err.(*apiError); !known && r.Context().Err() == nil {
			s.log.Error("request", "method", r.Method, "path", r.URL.Path, "remote", r.RemoteAddr, "err", err)
		}
		writeError(rw, err)
	}
}

func (s *Server) dispatch(w *response, r *http.Request, rt route) error {
	// Reads are given away by GET and HEAD alone, whatever the endpoint.
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch rt.kind {
	case routeNone:
		return fail(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	case routeRoot:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		w.WriteHeader(http.StatusOK)
		return nil
	case routeToken:
		return s.token(w, r)
	case routeV1Ping:
		return v1Ping(w)
	}
	who, err := s.authority().identify(w, r, rt)
	if err != nil {
		return err
	}
	switch rt.kind {
	case routePing:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return ping(w)
	case routeCatalog:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return s.catalog(w, r, who)
	case routeSearch:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return s.search(w, r, who)
	case routeMetrics:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return s.serveMetrics(w, who)
	case routeCollect:
		if r.Method != http.MethodPost {
			return notAllowed(w, "POST")
		}
		return s.serveCollect(w, r, who)
	}
	if ns := r.URL.Query().Get("ns"); ns != "" && read && s.proxy.serves(ns) {
		w.Header().Set("OCI-Namespace", ns)
		rt.repo = nsRepo(ns, rt.repo)
	}
	if !validName(rt.repo) {
		return nameInvalid(rt.repo)
	}
	if read {
		rt.repo = s.proxy.byDefault(r, rt)
	}
	if err := s.authority().allow(w, r, who, rt); err != nil {
		return err
	}
	if up := s.proxy.upstreamOf(rt.repo); up != nil {
		if !read {
			return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is a cache of %s: push there", rt.repo, up.host)
		}
		if done, err := s.proxy.serve(w, r, rt, up); done || err != nil {
			return err
		}
	}
	switch rt.kind {
	case routeTags:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return s.listTags(w, r, rt.repo)
	case routeReferrers:
		if !read {
			return notAllowed(w, "GET, HEAD")
		}
		return s.listReferrers(w, r, rt)
	case routeManifest:
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return s.getManifest(w, r, rt)
		case http.MethodPut:
			return s.putManifest(w, r, rt)
		case http.MethodDelete:
			return s.deleteManifest(w, r, rt)
		}
		return notAllowed(w, "GET, HEAD, PUT, DELETE")
	case routeBlob:
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return s.getBlob(w, r, rt)
		case http.MethodDelete:
			return s.deleteBlob(w, rt)
		}
		return notAllowed(w, "GET, HEAD, DELETE")
	case routeUploads:
		if r.Method != http.MethodPost {
			return notAllowed(w, "POST")
		}
		return s.beginUpload(w, r, rt, who)
	case routeUpload:
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return s.uploadStatus(w, rt)
		case http.MethodPatch:
			return s.patchUpload(w, r, rt)
		case http.MethodPut:
			return s.putUpload(w, r, rt)
		case http.MethodDelete:
			return s.cancelUpload(w, rt)
		}
		return notAllowed(w, "GET, HEAD, PATCH, PUT, DELETE")
	}
	return fail(http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
}

func notAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	return fail(http.StatusMethodNotAllowed, "UNSUPPORTED", "The operation is unsupported.")
}

// ping answers end-1.
func ping(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", "2")
	w.WriteHeader(http.StatusOK)
	_, err := w.Write([]byte("{}"))
	return err
}
