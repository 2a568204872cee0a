package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// metrics are counters without locks, and what the last collection found.
type metrics struct {
	inFlight atomic.Int64
	received atomic.Int64
	sent     atomic.Int64
	// requests and micros by route; requests also by the status's class.
	requests [routeKinds][6]atomic.Int64
	micros   [routeKinds]atomic.Int64

	proxyHits, proxyMisses, proxyStale, proxyErrors atomic.Int64

	mu          sync.Mutex
	last        Collected
	collections int64
	freed       int64
}

func (m *metrics) request(kind routeKind, status int, written int64, took time.Duration) {
	m.requests[kind][min(status/100, 5)].Add(1)
	m.micros[kind].Add(took.Microseconds())
	m.sent.Add(written)
}

func (m *metrics) collected(c Collected) {
	m.mu.Lock()
	m.last = c
	m.collections++
	m.freed += c.Freed
	m.mu.Unlock()
}

// serveMetrics answers in the Prometheus text format, 0.0.4.
func (s *Server) serveMetrics(w *response, who identity) error {
	if !s.authority().off && who.user == "" {
		w.Header().Set("WWW-Authenticate", `Basic realm="Gantry registry"`)
		return fail(http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	}
	var b strings.Builder
	family := func(name, typ, help string) {
		fmt.Fprintf(&b, "# HELP gantry_registry_%s %s\n# TYPE gantry_registry_%s %s\n", name, help, name, typ)
	}
	one := func(name, typ, help string, v float64) {
		family(name, typ, help)
		fmt.Fprintf(&b, "gantry_registry_%s %s\n", name, strconv.FormatFloat(v, 'g', -1, 64))
	}
	m := &s.metrics
	family("requests_total", "counter", "Requests answered, by route and class of status.")
	for k := range m.requests {
		for c := range m.requests[k] {
			if n := m.requests[k][c].Load(); n > 0 {
				fmt.Fprintf(&b, "gantry_registry_requests_total{route=%q,status=\"%dxx\"} %d\n", routeNames[k], c, n)
			}
		}
	}
	family("request_seconds_total", "counter", "Time spent in requests, by route.")
	for k := range m.micros {
		if n := m.micros[k].Load(); n > 0 {
			fmt.Fprintf(&b, "gantry_registry_request_seconds_total{route=%q} %g\n", routeNames[k], float64(n)/1e6)
		}
	}
	one("requests_in_flight", "gauge", "Requests being answered.", float64(m.inFlight.Load()))
	one("received_bytes_total", "counter", "Bytes of blobs and manifests received.", float64(m.received.Load()))
	one("sent_bytes_total", "counter", "Bytes of answers sent.", float64(m.sent.Load()))
	s.uploads.mu.Lock()
	open := len(s.uploads.open)
	s.uploads.mu.Unlock()
	one("uploads_open", "gauge", "Uploads begun and not ended.", float64(open))
	one("repositories", "gauge", "Repositories with a manifest.", float64(len(s.repos.names())))
	one("proxy_hits_total", "counter", "Requests for others' content served from here.", float64(m.proxyHits.Load()))
	one("proxy_misses_total", "counter", "Requests for others' content that asked upstream.", float64(m.proxyMisses.Load()))
	one("proxy_stale_total", "counter", "Requests served from here because upstream failed.", float64(m.proxyStale.Load()))
	one("proxy_errors_total", "counter", "Requests that upstream failed.", float64(m.proxyErrors.Load()))
	m.mu.Lock()
	last, collections, freed := m.last, m.collections, m.freed
	m.mu.Unlock()
	one("collections_total", "counter", "Collections.", float64(collections))
	one("collected_bytes_total", "counter", "Bytes freed by collections.", float64(freed))
	one("collection_seconds", "gauge", "Time that the last collection took.", last.Took.Seconds())
	one("blobs", "gauge", "Blobs that the last collection kept.", float64(last.Kept))
	one("blobs_bytes", "gauge", "Bytes of the blobs that the last collection kept.", float64(last.KeptBytes))
	one("start_time_seconds", "gauge", "When this registry was started, in seconds since 1970.", float64(s.started.UnixMilli())/1000)
	h := w.Header()
	h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	_, err := w.Write([]byte(b.String()))
	return err
}
