package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gantry/internal/registry"
)

// between stands before an upstream, counts, and does harm.
type between struct {
	*httptest.Server
	requests atomic.Int64
	harm     atomic.Pointer[func(w http.ResponseWriter, r *http.Request, next http.Handler)]
}

func before(t *testing.T, up *reg) *between {
	t.Helper()
	target, err := url.Parse(up.url)
	if err != nil {
		t.Fatal(err)
	}
	b := &between{}
	next := &httputil.ReverseProxy{}
	// Challenges of the upstream name the host that was asked: ours.
	next.Rewrite = func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
	}
	next.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) }
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.requests.Add(1)
		if harm := b.harm.Load(); harm != nil {
			(*harm)(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *between) set(harm func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	if harm == nil {
		b.harm.Store(nil)
		return
	}
	b.harm.Store(&harm)
}

// cacheOf starts a cache of the registry behind b, which clients call up.test.
func cacheOf(t *testing.T, b *between, fresh time.Duration) *reg {
	t.Helper()
	return start(t, registry.Config{
		GC:     registry.GC{Every: -1, Grace: 1, Untagged: 1},
		Limits: registry.Limits{Stall: registry.Duration(time.Minute)},
		Proxy: registry.Proxy{Fresh: registry.Duration(fresh), Default: "docker.io",
			Upstreams: map[string]registry.Upstream{"up.test": {URL: b.URL}, "docker.io": {URL: b.URL}}},
	})
}

func TestCache(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	m := up.pushImage("a/b", "v1", 2, nil)
	list := index(ociIndex, descOf(ociManifest, m))
	up.put("a/b", "list", list).want(t, 201)
	up.pushImage("library/alpine", "latest", 1, nil)
	b := before(t, up)
	c := cacheOf(t, b, time.Nanosecond)

	// By the host in the path, and as containerd asks.
	c.whole("up.test/a/b", "list")
	c.do("GET", "/v2/a/b/manifests/v1?ns=up.test", nil).want(t, 200).header(t, "OCI-Namespace", "up.test").header(t, "Docker-Content-Digest", digest(m))
	c.whole("docker.io/alpine", "latest")
	c.whole("library/alpine", "latest") // as dockerd asks a mirror
	c.do("GET", "/v2/up.test/a/b/manifests/none", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	c.do("GET", "/v2/up.test/a/b/blobs/"+digest([]byte("none")), nil).wantCode(t, 404, "BLOB_UNKNOWN")
	if a := c.do("GET", "/v2/up.test/a/b/tags/list", nil).want(t, 200); !strings.Contains(string(a.body), `"name":"up.test/a/b"`) || !strings.Contains(string(a.body), `"list"`) {
		t.Errorf("%s", a.body)
	}
	c.do("POST", "/v2/up.test/a/b/blobs/uploads/", nil).wantCode(t, 405, "UNSUPPORTED")
	c.pushImage("own", "v1", 1, nil)
	c.whole("own", "v1")

	// What is here by digest is not asked for again.
	n := b.requests.Load()
	c.whole("up.test/a/b", digest(list))
	if b.requests.Load() != n {
		t.Error("upstream was asked for what is here")
	}

	// A tag that moves.
	m2 := up.pushImage("a/b", "v1", 1, nil)
	c.do("GET", "/v2/up.test/a/b/manifests/v1", nil).want(t, 200).header(t, "Docker-Content-Digest", digest(m2))
	c.whole("up.test/a/b", "v1")

	// Collection keeps copies for as long as is set.
	c.collect()
	n = b.requests.Load()
	c.whole("up.test/a/b", digest(list))
	if b.requests.Load() != n {
		t.Error("collection took a copy that is still due")
	}

	// With the upstream down.
	b.set(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, "no", http.StatusServiceUnavailable)
	})
	c.whole("up.test/a/b", "list")
	if a := c.do("GET", "/v2/up.test/a/b/manifests/list", nil).want(t, 200); !strings.HasPrefix(a.Header.Get("Warning"), `299 - "up.test does not answer`) {
		t.Errorf("Warning: %q", a.Header.Get("Warning"))
	}
	c.do("GET", "/v2/up.test/a/b/tags/list", nil).want(t, 200)
	c.do("GET", "/v2/up.test/never/seen/manifests/v1", nil).want(t, 502)
	b.Close()
	c.whole("up.test/a/b", "list")
}

func TestCacheLogsIn(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"basic", "token"} {
		up := start(t, registry.Config{Auth: registry.Auth{Htpasswd: htpasswdFile(t, "alice"), Mode: mode}})
		up.auth = basic("alice")
		up.pushImage("private/x", "v1", 1, nil)
		pass := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(pass, []byte("secret-alice\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := start(t, registry.Config{Proxy: registry.Proxy{Upstreams: map[string]registry.Upstream{
			"up.test": {URL: up.url, Username: "alice", PasswordFile: pass}, "nobody.test": {URL: up.url}}}})
		c.whole("up.test/private/x", "v1")
		if a := c.do("GET", "/v2/nobody.test/private/x/manifests/v1", nil); a.StatusCode < 400 {
			t.Errorf("%s: %s", mode, a.Status)
		}
	}
}

// TestCacheOfManyClients lets many clients want one blob at once: it is fetched once, and everyone gets it.
func TestCacheOfManyClients(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	blob := randomBytes(3 << 20)
	d := up.pushBlob("x", blob)
	b := before(t, up)
	c := cacheOf(t, b, time.Hour)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			want := blob
			headers := []string{}
			if i%4 == 3 {
				headers, want = []string{"Range", "bytes=1000000-1999999"}, blob[1_000_000:2_000_000]
			}
			if a := c.do("GET", "/v2/up.test/x/blobs/"+d, nil, headers...); !bytes.Equal(a.body, want) {
				t.Errorf("%s: %d other bytes", a.Status, len(a.body))
			}
		})
	}
	all.Wait()
	if n := b.requests.Load(); n != 1 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// TestCacheAgainstFaults cuts, lies and redirects.
func TestCacheAgainstFaults(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	blob := randomBytes(1 << 20)
	d := up.pushBlob("x", blob)
	get := func(c *reg) (int, []byte, error) {
		resp, err := http.Get(c.url + "/v2/up.test/x/blobs/" + d)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, b, err
	}

	t.Run("cut", func(t *testing.T) {
		b := before(t, up)
		b.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&cutWriter{ResponseWriter: w, left: 300_000}, r)
		})
		status, got, err := get(cacheOf(t, b, time.Hour))
		if err != nil || status != 200 || !bytes.Equal(got, blob) {
			t.Fatal(err, status, len(got))
		}
		if n := b.requests.Load(); n != 4 {
			t.Errorf("%d requests for a blob that came in four parts", n)
		}
	})
	for name, body := range map[string][]byte{"other bytes": randomBytes(len(blob)), "too few": blob[:1000], "too many": append(bytes.Clone(blob), 'x'), "nothing": {}} {
		t.Run(name, func(t *testing.T) {
			b := before(t, up)
			b.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) { w.Write(body) })
			c := cacheOf(t, b, time.Hour)
			// The connection breaks before the end, or there is no answer at all; never a whole wrong blob.
			if status, got, err := get(c); err == nil && status == 200 {
				t.Fatalf("%d bytes came as if they were the blob", len(got))
			}
			b.set(nil)
			if _, got, err := get(c); err != nil || !bytes.Equal(got, blob) {
				t.Fatal("not the blob, though upstream is well again", err)
			}
		})
	}
	t.Run("manifests", func(t *testing.T) {
		m := up.pushImage("x", "v1", 1, nil)
		b := before(t, up)
		c := cacheOf(t, b, time.Hour)
		for _, body := range []string{"", "{", strings.Repeat(" ", 5<<20), `{"schemaVersion":1}`} {
			b.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				w.Header().Set("Content-Type", ociManifest)
				io.WriteString(w, body)
			})
			c.do("GET", "/v2/up.test/x/manifests/v1", nil).want(t, 502)
		}
		b.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", ociIndex)
			w.Write(index(ociIndex)) // a manifest, but another
		})
		c.do("GET", "/v2/up.test/x/manifests/"+digest(m), nil).want(t, 502)
		b.set(nil)
		c.whole("up.test/x", "v1")
	})
	t.Run("redirect", func(t *testing.T) {
		// Blobs often lie on another host. It must not see what we log in with.
		var seen atomic.Value
		seen.Store("")
		store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen.Store(r.Header.Get("Authorization"))
			w.Write(blob)
		}))
		defer store.Close()
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(401)
				return
			}
			http.Redirect(w, r, strings.Replace(store.URL, "127.0.0.1", "localhost", 1)+"/data", http.StatusTemporaryRedirect)
		}))
		defer front.Close()
		pass := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(pass, []byte("p"), 0o600); err != nil {
			t.Fatal(err)
		}
		c := start(t, registry.Config{Proxy: registry.Proxy{Upstreams: map[string]registry.Upstream{"up.test": {URL: front.URL, Username: "u", PasswordFile: pass}}}})
		if status, got, err := get(c); err != nil || !bytes.Equal(got, blob) {
			t.Fatal(err, status)
		}
		if seen.Load() != "" {
			t.Errorf("another host was shown %q", seen.Load())
		}
	})
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		w.ResponseWriter.Write(p[:w.left])
		w.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	w.left -= len(p)
	return w.ResponseWriter.Write(p)
}

func TestReferrersThroughACache(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	m := up.pushImage("x", "v1", 1, nil)
	up.pushImage("x", "", 1, map[string]any{"subject": descOf(ociManifest, m), "artifactType": "sbom"})
	b := before(t, up)
	c := cacheOf(t, b, time.Hour)
	check := func() {
		t.Helper()
		var idx struct{ Manifests []desc }
		a := c.do("GET", "/v2/up.test/x/referrers/"+digest(m), nil).want(t, 200).header(t, "Content-Type", ociIndex)
		if err := json.Unmarshal(a.body, &idx); err != nil || len(idx.Manifests) != 1 {
			t.Fatalf("%v %s", err, a.body)
		}
	}
	check()
	// An upstream without the API keeps them at a tag.
	list := index(ociIndex, desc{MediaType: ociManifest, Digest: digest([]byte("r")), Size: 1})
	b.set(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case strings.Contains(r.URL.Path, "/referrers/"):
			http.NotFound(w, r)
		case strings.HasSuffix(r.URL.Path, fmt.Sprintf("/manifests/sha256-%s", digest(m)[7:])):
			w.Header().Set("Content-Type", ociIndex)
			w.Write(list)
		default:
			next.ServeHTTP(w, r)
		}
	})
	check()
}
