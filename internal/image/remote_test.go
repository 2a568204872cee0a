package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/registry"
	"gantry/internal/registry/disk"
	"gantry/internal/remote"
)

// hub is a registry of ours with something in front of it that the test chooses.
type hub struct {
	host string
	mu   sync.Mutex
	// fault, if set, may answer instead of the registry; it returns false to let it.
	fault func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
	asked []string // METHOD path, of all requests
	inner http.Handler
}

func newHub(t testing.TB) *hub { return newHubOf(t, registry.Config{}) }

func newHubOf(t testing.TB, cfg registry.Config) *hub {
	t.Helper()
	data := t.TempDir()
	st, err := disk.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	reg, err := registry.New(cfg, st, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{inner: reg.Handler()}
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		reg.Close()
		st.Close()
	})
	h.host = strings.TrimPrefix(srv.URL, "http://")
	return h
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked = append(h.asked, r.Method+" "+r.URL.Path)
	fault := h.fault
	h.mu.Unlock()
	if fault == nil || !fault(w, r, h.inner) {
		h.inner.ServeHTTP(w, r)
	}
}

func (h *hub) breaking(f func(w http.ResponseWriter, r *http.Request, next http.Handler) bool) {
	h.mu.Lock()
	h.fault = f
	h.asked = nil
	h.mu.Unlock()
}

// count tells how many requests there were whose line contains all of what.
func (h *hub) count(what ...string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, a := range h.asked {
		if !slices.ContainsFunc(what, func(w string) bool { return !strings.Contains(a, w) }) {
			n++
		}
	}
	return n
}

// put stores a blob or a manifest, past the fault.
func (h *hub) put(t testing.TB, repo, ref, mediaType string, data []byte) {
	t.Helper()
	do := func(method, path string) *http.Response {
		u, err := url.Parse("http://" + h.host + path)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: method, URL: u, Host: h.host, RequestURI: u.RequestURI(), Header: http.Header{"Content-Type": {mediaType}}, Body: io.NopCloser(bytes.NewReader(data)), ContentLength: int64(len(data)), RemoteAddr: "127.0.0.1:1", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
		w := httptest.NewRecorder()
		h.inner.ServeHTTP(w, r.WithContext(t.Context()))
		return w.Result()
	}
	path := "/v2/" + repo + "/manifests/" + ref
	method := "PUT"
	if ref == "" {
		method, path = "POST", "/v2/"+repo+"/blobs/uploads/?digest="+url.QueryEscape(digest.FromBytes(data).String())
	}
	if resp := do(method, path); resp.StatusCode != http.StatusCreated {
		b, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s %s", method, path, resp.Status, b)
	}
}

func (h *hub) putImage(t testing.TB, repo, ref string, f fixture) {
	t.Helper()
	for _, b := range append([][]byte{f.config}, f.layers...) {
		h.put(t, repo, "", "application/octet-stream", b)
	}
	h.put(t, repo, ref, ocispec.MediaTypeImageManifest, f.manifest)
}

// quick makes failing quick, but for silence: a busy machine is silent, too.
var quick = remote.Patience{Backoff: time.Millisecond, Tries: 4, Longest: 2 * time.Second}

// impatient is for a registry whose silence is the test. Its reply, which the test makes at once, may still take its time.
var impatient = remote.Patience{Silence: 500 * time.Millisecond, Backoff: time.Millisecond, Tries: 4, Longest: 2 * time.Second}

func client(t testing.TB) *remote.Client { return clientOf(t, quick) }

func clientOf(t testing.TB, p remote.Patience) *remote.Client {
	c := remote.New(remote.Options{UserAgent: "test", Patience: p})
	t.Cleanup(c.Close)
	return c
}

func puller(t *testing.T) (*Service, string) {
	root := t.TempDir()
	return openAt(t, root, Options{Remote: client(t)}), root
}

// lines collects reports as "id: status".
type lines struct {
	mu  sync.Mutex
	all []string
	aux []any
}

func (l *lines) add(p Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Aux != nil {
		l.aux = append(l.aux, p.Aux)
		return
	}
	line := p.Status
	if p.ID != "" {
		line = p.ID + ": " + line
	}
	l.all = append(l.all, line)
}

func (l *lines) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.all, func(x string) bool { return strings.Contains(x, s) })
}

func TestWhatIsPushedIsPulledWithItsDigests(t *testing.T) {
	h := newHub(t)
	f := makeFixture(t, "a", hostPlatform(), nil)
	name := h.host + "/team/app:1"
	s, _ := puller(t)
	load(t, s, pack(t, f.dockerArchive(t, name)...))
	target := get(t, s, name).Target.Digest
	var l lines
	if err := s.Push(t.Context(), name, PushOptions{}, l.add); err != nil {
		t.Fatal(err)
	}
	if !l.has("The push refers to repository ["+h.host+"/team/app]") || !l.has(": Pushed") || !l.has("1: digest: "+target.String()) {
		t.Errorf("said %q", l.all)
	}
	if n := h.count("POST", "/blobs/uploads/"); n != 4 {
		t.Errorf("%d uploads, not 4", n)
	}
	l = lines{}
	if err := s.Push(t.Context(), name, PushOptions{}, l.add); err != nil || l.has(": Pushed") || !l.has("Layer already exists") {
		t.Errorf("again: %v %q", err, l.all)
	}
	// Into another repository of the same registry the blobs are mounted.
	other := h.host + "/other/app:2"
	if err := s.Tag(t.Context(), name, other); err != nil {
		t.Fatal(err)
	}
	l = lines{}
	if err := s.Push(t.Context(), other, PushOptions{}, l.add); err != nil || !l.has("Mounted from team/app") || l.has(": Pushed") {
		t.Errorf("mount: %v %q", err, l.all)
	}

	p, root := puller(t)
	l = lines{}
	if err := p.Pull(t.Context(), name, PullOptions{}, l.add); err != nil {
		t.Fatal(err)
	}
	i := get(t, p, name)
	if i.ID != f.id || i.Target.Digest != target || !slices.Equal(i.RepoDigests, []string{h.host + "/team/app@" + target.String()}) {
		t.Errorf("pulled %+v", i)
	}
	for _, want := range []string{"1: Pulling from team/app", ": Pulling fs layer", ": Download complete", ": Pull complete", "Digest: " + target.String(), "Status: Downloaded newer image for " + name} {
		if !l.has(want) {
			t.Errorf("did not say %q: %q", want, l.all)
		}
	}
	for _, b := range f.layers {
		if got, err := p.content.Read(digest.FromBytes(b), 1<<20); err != nil || !bytes.Equal(got, b) {
			t.Errorf("blob was not kept as it is: %v", err)
		}
	}
	l = lines{}
	if err := p.Pull(t.Context(), name, PullOptions{}, l.add); err != nil || !l.has("Status: Image is up to date for "+name) || l.has("Already exists") {
		t.Errorf("again: %v %q", err, l.all)
	}
	byDigest := h.host + "/team/app@" + target.String()
	if err := p.Pull(t.Context(), byDigest, PullOptions{}, nil); err != nil || get(t, p, byDigest).ID != f.id {
		t.Errorf("by digest: %v", err)
	}
	if _, err := p.Remove(t.Context(), i.ID.String(), true, false); err != nil {
		t.Fatal(err)
	}
	empty(t, p, root)
	if d, platforms, err := p.Distribution(t.Context(), name, remote.Access{}); err != nil || d.Digest != target || len(platforms) != 1 {
		t.Errorf("distribution: %v %v %v", d, platforms, err)
	}
}

func TestPullMovesATag(t *testing.T) {
	h := newHub(t)
	a, b := makeFixture(t, "a", hostPlatform(), nil), makeFixture(t, "b", hostPlatform(), nil)
	h.putImage(t, "app", "latest", a)
	s, _ := puller(t)
	name := h.host + "/app"
	if err := s.Pull(t.Context(), name, PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	h.putImage(t, "app", "latest", b)
	var l lines
	if err := s.Pull(t.Context(), name, PullOptions{}, l.add); err != nil || !l.has("Downloaded newer image") {
		t.Fatal(err, l.all)
	}
	if get(t, s, name).ID != b.id {
		t.Error("the tag did not move")
	}
	if old := get(t, s, a.id.String()); len(old.RepoTags) != 0 || len(old.RepoDigests) != 1 {
		t.Errorf("the old image: %v %v", old.RepoTags, old.RepoDigests)
	}
	h.putImage(t, "app", "v2", a)
	l = lines{}
	if err := s.Pull(t.Context(), name, PullOptions{All: true}, l.add); err != nil || !l.has("v2: Pulling from app") || !l.has("latest: Pulling from app") {
		t.Errorf("all tags: %v %q", err, l.all)
	}
	if err := s.Push(t.Context(), name, PushOptions{All: true}, nil); err != nil {
		t.Error(err)
	}
}

func indexOf(t testing.TB, manifests ...ocispec.Descriptor) []byte {
	return toJSON(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests})
}

func TestIndexesArePulledWhole(t *testing.T) {
	h := newHub(t)
	foreign := ocispec.Platform{OS: "linux", Architecture: "s390x"}
	mine, other := makeFixture(t, "mine", hostPlatform(), nil), makeFixture(t, "other", foreign, nil)
	at := func(f fixture, p ocispec.Platform) ocispec.Descriptor {
		d := describe(ocispec.MediaTypeImageManifest, f.manifest)
		d.Platform = &p
		return d
	}
	h.putImage(t, "multi", digest.FromBytes(mine.manifest).String(), mine)
	h.putImage(t, "multi", digest.FromBytes(other.manifest).String(), other)
	index := indexOf(t, at(other, foreign), at(mine, hostPlatform()))
	h.put(t, "multi", "1", ocispec.MediaTypeImageIndex, index)
	h.putImage(t, "multi", "foreign", other)
	whole := digest.FromBytes(index)
	name := h.host + "/multi:1"

	s, root := puller(t)
	if err := s.Pull(t.Context(), name, PullOptions{Platform: &foreign}, nil); err != nil {
		t.Fatal(err)
	}
	if i := get(t, s, name); i.ID != other.id || i.Target.Digest != whole {
		t.Errorf("the other platform's: %+v", i)
	}
	if err := s.Pull(t.Context(), name, PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	i := get(t, s, name)
	if i.ID != mine.id || i.Target.Digest != whole || i.Manifest.Digest != digest.FromBytes(mine.manifest) {
		t.Errorf("the host's: %+v", i)
	}
	for _, b := range append(slices.Clone(other.layers), mine.layers...) {
		if _, err := s.content.Stat(digest.FromBytes(b)); err != nil {
			t.Errorf("both platforms' blobs are kept: %v", err)
		}
	}
	// Both are here: the index goes as it is, anywhere.
	elsewhere := newHub(t)
	copied := elsewhere.host + "/copy:1"
	if err := s.Tag(t.Context(), name, copied); err != nil {
		t.Fatal(err)
	}
	if err := s.Push(t.Context(), copied, PushOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if d, platforms, err := s.Distribution(t.Context(), copied, remote.Access{}); err != nil || d.Digest != whole || len(platforms) != 2 {
		t.Errorf("copy: %v %v %v", d, platforms, err)
	}
	_ = root

	// One is here: it goes alone where the rest is not, and the index where it is.
	one, _ := puller(t)
	if err := one.Pull(t.Context(), name, PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]digest.Digest{newHub(t).host + "/x": digest.FromBytes(mine.manifest), elsewhere.host + "/copy": whole} {
		if err := one.Tag(t.Context(), name, host+":2"); err != nil {
			t.Fatal(err)
		}
		var l lines
		if err := one.Push(t.Context(), host+":2", PushOptions{}, l.add); err != nil {
			t.Fatal(err)
		}
		if d, _, err := one.Distribution(t.Context(), host+":2", remote.Access{}); err != nil || d.Digest != want {
			t.Errorf("%s: %v %v", host, d, err)
		}
		if (want == whole) != (len(l.aux) == 1) {
			t.Errorf("%s: notes %v", host, l.aux)
		}
	}
	risc := ocispec.Platform{OS: "linux", Architecture: "riscv64"}
	err := one.Pull(t.Context(), name, PullOptions{Platform: &risc}, nil)
	if !errs.NotFound.Is(err) || !strings.Contains(err.Error(), "no matching manifest for linux/riscv64 in the manifest list entries") || !strings.Contains(err.Error(), "linux/s390x") {
		t.Errorf("absent platform: %v", err)
	}
	err = one.Pull(t.Context(), h.host+"/multi:foreign", PullOptions{Platform: &risc}, nil)
	if !errs.NotFound.Is(err) || !strings.Contains(err.Error(), "does not provide the specified platform (linux/riscv64)") {
		t.Errorf("wrong platform: %v", err)
	}
}

// cutter passes so many bytes of a body and then breaks the connection.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.ResponseWriter.Write(b[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

func isBlob(r *http.Request) bool {
	return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/sha256:")
}

func TestPullSurvivesACutAtAnyByte(t *testing.T) {
	h := newHub(t)
	f := makeFixture(t, "a", hostPlatform(), nil)
	h.putImage(t, "app", "1", f)
	name := h.host + "/app:1"
	for k := 1; k < 4000; k = k*3/2 + 7 {
		h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !isBlob(r) {
				return false
			}
			if strings.HasSuffix(r.URL.Path, f.id.String()) { // the config is small: it must come at once
				return false
			}
			next.ServeHTTP(&cutter{w, k}, r)
			return true
		})
		s, _ := puller(t)
		if err := s.Pull(t.Context(), name, PullOptions{}, nil); err != nil {
			t.Fatalf("cut after %d bytes: %v", k, err)
		}
		if get(t, s, name).ID != f.id {
			t.Errorf("cut after %d bytes: another image", k)
		}
	}
}

// noise is a layer that does not compress.
func noise(t testing.TB, n int, salt byte) []byte {
	data := make([]byte, n)
	x := uint32(salt) + 1
	for i := range data {
		x = x*1664525 + 1013904223
		data[i] = byte(x >> 24)
	}
	return pack(t, part{name: "noise", data: data})
}

// imageOf makes an image of plain layers.
func imageOf(t testing.TB, layers ...[]byte) fixture {
	f := makeFixture(t, "x", hostPlatform(), nil)
	config := ocispec.Image{Platform: hostPlatform(), RootFS: ocispec.RootFS{Type: "layers"}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, describe(ocispec.MediaTypeImageLayer, l))
	}
	f.plain, f.layers = layers, layers
	f.config = toJSON(t, config)
	f.id = digest.FromBytes(f.config)
	m.Config = describe(ocispec.MediaTypeImageConfig, f.config)
	f.manifest = toJSON(t, m)
	return f
}

func TestAPullGoesOnWhereOneBrokeOff(t *testing.T) {
	h := newHub(t)
	first, second := noise(t, 1<<20, 1), noise(t, 2<<20, 2)
	f := imageOf(t, first, second)
	h.putImage(t, "app", "1", f)
	name := h.host + "/app:1"
	path := "/blobs/" + digest.FromBytes(second).String()
	root := t.TempDir()
	t.Run("broken off", func(t *testing.T) {
		s := openAt(t, root, Options{Remote: client(t)})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(second)))
			w.Write(second[:1<<20])
			w.(http.Flusher).Flush()
			part := filepath.Join(root, "content/partial", strings.ReplaceAll(digest.FromBytes(second).String(), ":", "-"))
			for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				if fi, err := os.Stat(part); err == nil && fi.Size() >= 1<<20 {
					if _, err := s.content.Stat(digest.FromBytes(first)); err == nil {
						break
					}
				}
			}
			cancel()
			<-r.Context().Done()
			return true
		})
		if err := s.Pull(ctx, name, PullOptions{}, nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("canceled: %v", err)
		}
	})
	s := openAt(t, root, Options{Remote: client(t)}) // what is collected at the start must not be what we got
	var from atomic.Value
	h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if strings.HasSuffix(r.URL.Path, path) {
			from.Store(r.Header.Get("Range"))
		}
		return false
	})
	if err := s.Pull(t.Context(), name, PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if from.Load() != "bytes=1048576-" {
		t.Errorf("asked for %v", from.Load())
	}
	if n := h.count("GET", digest.FromBytes(first).String()); n != 0 {
		t.Errorf("the first layer was fetched again")
	}
	if get(t, s, name).ID != f.id {
		t.Error("another image")
	}
	if _, err := s.Remove(t.Context(), f.id.String(), true, false); err != nil {
		t.Fatal(err)
	}
	empty(t, s, root)
}

func TestADamagedPartIsFetchedAnew(t *testing.T) {
	h := newHub(t)
	l := noise(t, 1<<20, 3)
	f := imageOf(t, l)
	h.putImage(t, "app", "1", f)
	s, root := puller(t)
	d := digest.FromBytes(l)
	if err := os.WriteFile(filepath.Join(root, "content/partial", "sha256-"+d.Encoded()), make([]byte, 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if n := h.count("GET", d.String()); n != 2 {
		t.Errorf("%d requests, not 2", n)
	}
}

func TestTwoPullsFetchALayerOnce(t *testing.T) {
	h := newHub(t)
	shared := noise(t, 1<<20, 1)
	a, b := imageOf(t, shared, noise(t, 1000, 2)), imageOf(t, shared, noise(t, 1000, 3))
	h.putImage(t, "a", "1", a)
	h.putImage(t, "b", "1", b)
	path := "/blobs/" + digest.FromBytes(shared).String()
	s, _ := puller(t)
	var wg sync.WaitGroup
	h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if strings.HasSuffix(r.URL.Path, path) { // until both want it
			for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
				s.fetchMu.Lock()
				f := s.fetches[digest.FromBytes(shared)]
				both := f != nil && f.users == 2
				s.fetchMu.Unlock()
				if both {
					break
				}
			}
		}
		return false
	})
	for _, name := range []string{"/a:1", "/b:1"} {
		wg.Go(func() {
			if err := s.Pull(t.Context(), h.host+name, PullOptions{}, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := h.count("GET", path); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestWhatPassesIsWaitedFor(t *testing.T) {
	h := newHub(t)
	f := makeFixture(t, "a", hostPlatform(), nil)
	h.putImage(t, "app", "1", f)
	for _, status := range []int{429, 500, 502, 503} {
		seen := sync.Map{}
		h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if _, again := seen.LoadOrStore(r.Method+r.URL.Path, true); again {
				return false
			}
			if status == 429 {
				w.Header().Set("Retry-After", "0")
			}
			w.WriteHeader(status)
			return true
		})
		s, _ := puller(t)
		if err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, nil); err != nil {
			t.Errorf("%d: %v", status, err)
		}
		seen.Clear()
		name := h.host + fmt.Sprintf("/copy%d:1", status)
		if err := s.Tag(t.Context(), h.host+"/app:1", name); err != nil {
			t.Fatal(err)
		}
		if err := s.Push(t.Context(), name, PushOptions{}, nil); err != nil {
			t.Errorf("push, %d: %v", status, err)
		}
	}
	h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		w.Header().Set("Retry-After", "3600")
		w.Header().Set("Ratelimit-Limit", "100;w=21600")
		w.Header().Set("Ratelimit-Remaining", "0;w=21600")
		w.WriteHeader(429)
		io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}`)
		return true
	})
	s, _ := puller(t)
	err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, nil)
	if !errs.Unavailable.Is(err) || !strings.Contains(err.Error(), "toomanyrequests: You have reached your pull rate limit. (0 of 100 pulls left in 6h0m0s); it can be tried again in 1h0m0s") {
		t.Errorf("got %v", err)
	}
	h.breaking(func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
		w.Header().Set("Ratelimit-Limit", "100;w=21600")
		w.Header().Set("Ratelimit-Remaining", "76;w=21600")
		return false
	})
	var l lines
	if err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, l.add); err != nil || !l.has("Rate limit of "+h.host+": 76 of 100 pulls left in 6h0m0s") {
		t.Errorf("%v: %q", err, l.all)
	}
}

func TestHostileRegistriesAreRefused(t *testing.T) {
	f := makeFixture(t, "a", hostPlatform(), nil)
	config := describe(ocispec.MediaTypeImageConfig, f.config)
	layer0 := describe(ocispec.MediaTypeImageLayer, f.layers[0])
	manifest := func(edit func(*ocispec.Manifest)) []byte {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer0}}
		edit(&m)
		return toJSON(t, m)
	}
	serve := func(data []byte) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Write(data)
			return true
		}
	}
	blob := func(write func(w http.ResponseWriter, r *http.Request, data []byte)) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !isBlob(r) || strings.HasSuffix(r.URL.Path, f.id.String()) {
				return false
			}
			for _, l := range f.layers {
				if strings.HasSuffix(r.URL.Path, digest.FromBytes(l).String()) {
					write(w, r, l)
				}
			}
			return true
		}
	}
	endless := func(w http.ResponseWriter, r *http.Request) {
		junk := bytes.Repeat([]byte("x"), 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(junk); err != nil {
				return
			}
		}
	}
	many := make([]ocispec.Descriptor, 100_000)
	for i := range many {
		many[i] = ocispec.Descriptor{MediaType: "a", Size: 1, Digest: layer0.Digest}
	}
	patience := map[string]remote.Patience{
		"nothing comes": impatient,
		// The bytes must be far from silence, also where the machine is busy.
		"a byte now and then": {Silence: 4 * time.Second, Backoff: time.Millisecond, Tries: 1},
	}
	for _, c := range []struct {
		name  string
		fault func(http.ResponseWriter, *http.Request, http.Handler) bool
		kind  errs.Kind
		says  string
	}{
		{"endless manifest", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			endless(w, r)
			return true
		}, errs.Invalid, "larger than"},
		{"no JSON", serve([]byte("<html>login please</html>")), errs.Invalid, "no JSON"},
		{"manifest with another digest", func(w http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if strings.Contains(r.URL.Path, "/manifests/") {
				w.Header().Set("Docker-Content-Digest", digest.FromString("x").String())
				w.Write(f.manifest)
				return true
			}
			return false
		}, errs.Invalid, "as promised"},
		{"both index and manifest", serve([]byte(`{"schemaVersion":2,"manifests":[],"config":{}}`)), errs.Invalid, "both"},
		{"schema 1", serve([]byte(`{"schemaVersion":1}`)), errs.Invalid, "schema 1"},
		{"helm chart", serve(manifest(func(m *ocispec.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" })), errs.Invalid, "application/vnd.cncf.helm.config.v1+json"},
		{"foreign manifest", serve([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.example+json"}`)), errs.Invalid, "application/vnd.example+json"},
		{"encrypted layer", serve(manifest(func(m *ocispec.Manifest) { m.Layers[0].MediaType += "+encrypted" })), errs.Invalid, "+encrypted"},
		{"digest that is a path", serve(manifest(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../../../etc/passwd" })), errs.Invalid, "digest"},
		{"negative size", serve(manifest(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 })), errs.Invalid, "-1 bytes"},
		{"large config", serve(manifest(func(m *ocispec.Manifest) { m.Config.Size = 1 << 40 })), errs.Invalid, "larger than"},
		{"100,000 layers", serve(manifest(func(m *ocispec.Manifest) { m.Layers = many[:20_000] })), errs.Invalid, "max depth exceeded"},
		{"more layers than diff IDs", serve(manifest(func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{layer0, layer0, layer0, layer0} })), errs.Invalid, "4 layers"},
		{"nested indexes", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			// Each leads to the next, by what it should hash to; the chain begins with a tag.
			data := []byte("{}")
			for range 10 {
				data = indexOf(t, describe(ocispec.MediaTypeImageIndex, data))
				if strings.HasSuffix(r.URL.Path, digest.FromBytes(data).String()) {
					w.Write(data)
					return true
				}
			}
			w.Write(data)
			return true
		}, errs.Invalid, "nested too deep"},
		{"longer than promised", blob(func(w http.ResponseWriter, r *http.Request, data []byte) { endless(w, r) }), errs.Invalid, "larger than"},
		{"another length", blob(func(w http.ResponseWriter, r *http.Request, data []byte) { w.Write(append(slices.Clone(data), 'x')) }), errs.Invalid, "bytes"},
		{"another digest", blob(func(w http.ResponseWriter, r *http.Request, data []byte) {
			data = slices.Clone(data)
			data[len(data)/2] ^= 1
			w.Write(data)
		}), errs.Invalid, ""},
		{"nothing comes", blob(func(w http.ResponseWriter, r *http.Request, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}), errs.Unavailable, "sent nothing for too long"},
		{"a byte now and then", blob(func(w http.ResponseWriter, r *http.Request, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			for i := range data {
				w.Write(data[i : i+1])
				w.(http.Flusher).Flush()
				select {
				case <-r.Context().Done():
					return
				case <-time.After(200 * time.Millisecond):
				}
			}
		}), errs.Unavailable, "next to nothing"},
		{"always cut", blob(func(w http.ResponseWriter, r *http.Request, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}), errs.Unavailable, "EOF\nThe registry 127.0.0.1:"},
		{"without a layer", blob(func(w http.ResponseWriter, r *http.Request, data []byte) { w.WriteHeader(404) }), errs.NotFound, " has the image but not its layer sha256:"},
		{"redirects in a circle", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, errs.Unavailable, "redirects more than"},
		{"redirects to a file", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(307)
			return true
		}, errs.Unavailable, "redirects to nowhere"},
		{"no permission", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.WriteHeader(403)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}`)
			return true
		}, errs.NotFound, "repository does not exist or may require 'docker login': denied: requested access to the resource is denied"},
		{"always 401", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}, errs.Internal, "no basic auth credentials"},
		{"escape sequences", func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			w.WriteHeader(404)
			io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"\u001b[2J boo"}]}`)
			return true
		}, errs.NotFound, "name unknown:  [2J boo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := newHub(t)
			h.putImage(t, "app", "1", f)
			h.breaking(c.fault)
			root, p := t.TempDir(), quick
			if x, ok := patience[c.name]; ok {
				p = x
			}
			s := openAt(t, root, Options{Remote: clientOf(t, p)})
			err := s.Pull(t.Context(), h.host+"/app:1", PullOptions{}, nil)
			if errs.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v (kind %v)", err, errs.KindOf(err))
			}
			if list, err := s.List(t.Context(), ListOptions{All: true}); err != nil || len(list) != 0 {
				t.Errorf("images: %v %v", list, err)
			}
			if c.kind == errs.Invalid {
				empty(t, s, root)
			}
		})
	}
}
