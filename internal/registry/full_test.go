package registry_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

// smallDisk mounts a file system of 2 MiB and a few files.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m,nr_inodes=200,mode=0755"); err != nil {
		needsRoot(t, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func needsRoot(t *testing.T, err error) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// fillDisk takes all room that is left in dir, to the last byte, or, with none, all names; give gives it back.
func fillDisk(t *testing.T, dir string, bytes bool) (give func()) {
	t.Helper()
	var made []string
	for size := 64 << 10; ; {
		path := filepath.Join(dir, fmt.Sprintf("other-%d", len(made)))
		if bytes && len(made) > 0 {
			path = made[0]
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			if len(made) == 0 || !bytes {
				made = append(made, path)
			}
			if bytes {
				_, err = f.Write(make([]byte, size))
			}
			f.Close()
		}
		if errors.Is(err, syscall.ENOSPC) {
			if size /= 4; !bytes || size == 0 {
				break
			}
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		for _, path := range made {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// nothingHalf holds that no upload and no temporary file is left.
func (r *reg) nothingHalf(what string) {
	r.t.Helper()
	for _, dir := range []string{"tmp", "uploads"} {
		if left, err := os.ReadDir(filepath.Join(r.data, dir)); err != nil || len(left) > 0 {
			r.t.Errorf("%s: in %s: %v %v", what, dir, left, err)
		}
	}
}

// wantFull holds that the answer says what is full, and what makes room.
func (a answer) wantFull(t *testing.T) {
	t.Helper()
	a.wantCode(t, 507, "DENIED")
	if !strings.Contains(string(a.body), "the registry's disk is full") || !strings.Contains(string(a.body), "`gantry registry gc`") {
		t.Errorf("%s", a.body)
	}
}

// TestFullDisk: on a full disk each request that needs room says so and keeps none; pulls, deletions, collection and a restart go on, and
// so does everything when there is room again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t)
	gc := registry.GC{Every: -1, Grace: 1, Untagged: registry.Duration(time.Hour), Uploads: registry.Duration(time.Hour)}
	r := startAt(t, filepath.Join(dir, "data"), registry.Config{GC: gc})
	config, layer := []byte("{}"), randomBytes(700<<10)
	r.pushBlob("a", config)
	r.pushBlob("a", layer)
	big := image(config, [][]byte{layer}, nil)
	r.put("a", "big", big).want(t, 201)
	small := r.pushImage("a", "small", 1, nil)
	other := image(config, nil, map[string]any{"annotations": map[string]string{"x": strings.Repeat("x", 8000)}})

	blob := randomBytes(300 << 10)
	give := fillDisk(t, dir, true)
	r.do("POST", "/v2/a/blobs/uploads/?digest="+digest(blob), blob).wantFull(t)
	r.nothingHalf("an upload in one request")
	loc := r.begin("a")
	r.do("PATCH", loc, blob).wantFull(t)
	r.nothingHalf("a chunk")
	r.do("PATCH", loc, blob).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	r.do("PUT", r.begin("a")+"?digest="+digest(blob), blob).wantFull(t)
	r.nothingHalf("the last chunk")
	r.put("a", "small", other).wantFull(t)
	r.put("a", "new", big).wantFull(t)
	r.nothingHalf("a manifest")
	r.do("GET", "/v2/a/manifests/new", nil).want(t, 404)
	if a := r.do("GET", "/v2/a/manifests/small", nil).want(t, 200); digest(a.body) != digest(small) {
		t.Error("a push that failed moved its tag")
	}
	r.whole("a", "big")
	give()

	// Room, but no names.
	give = fillDisk(t, dir, false)
	r.do("POST", "/v2/a/blobs/uploads/", nil).wantFull(t)
	r.do("POST", "/v2/a/blobs/uploads/?digest="+digest(blob), blob).wantFull(t)
	r.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+digest(layer), nil).wantFull(t)
	r.put("a", "new", big).wantFull(t)
	r.nothingHalf("without names")
	give()

	// The room of what is deleted is there at once.
	fillDisk(t, dir, true)
	r.do("DELETE", "/v2/a/manifests/big", nil).want(t, 202)
	if c := r.collect(); c.Manifests != 1 || c.Freed < int64(len(layer)) {
		t.Errorf("%+v", c)
	}
	r.pushBlob("a", blob)
	r.whole("a", "small")
	fillDisk(t, filepath.Join(dir, "data"), true)

	// A start needs no room.
	again := restart(t, r, registry.Config{GC: gc})
	again.whole("a", "small")
	again.do("DELETE", "/v2/a/manifests/small", nil).want(t, 202)
	if c := again.collect(); c.Manifests != 1 || c.Blobs < 3 {
		t.Errorf("after a restart: %+v", c)
	}
	again.pushImage("a", "new", 1, nil)
	again.whole("a", "new")
}

// restart ends r and starts another over its folder.
func restart(t *testing.T, r *reg, cfg registry.Config) *reg {
	t.Helper()
	r.srv.Close()
	r.s.Close()
	if err := r.st.Close(); err != nil {
		t.Fatal(err)
	}
	return startAt(t, r.data, cfg)
}

// TestCacheOnAFullDisk: a cache serves what it has, and says of the rest that its disk is full, not that its upstream is down.
func TestCacheOnAFullDisk(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	blob := randomBytes(200 << 10)
	d := up.pushBlob("a", blob)
	up.pushImage("a", "v1", 1, nil)
	up.pushImage("b", "v1", 1, nil)
	dir := smallDisk(t)
	c := startAt(t, filepath.Join(dir, "data"), registry.Config{GC: registry.GC{Every: -1}, Proxy: registry.Proxy{
		Fresh: 1, Upstreams: map[string]registry.Upstream{"up.test": {URL: up.url}}}})
	c.whole("up.test/a", "v1")
	give := fillDisk(t, dir, true)
	c.do("GET", "/v2/up.test/b/manifests/v1", nil).wantFull(t)
	c.do("GET", "/v2/up.test/a/blobs/"+d, nil, "Range", "bytes=0-9").wantFull(t)
	c.nothingHalf("a copy")
	// That a copy is wanted still can't be noted; who wants it gets it.
	past := time.Now().Add(-10 * 24 * time.Hour)
	tag := filepath.Join(c.data, "objects/repos/up.test/a/_tags/v1")
	if err := os.Chtimes(tag, past, past); err != nil {
		t.Fatal(err)
	}
	if a := c.do("GET", "/v2/up.test/a/manifests/v1", nil).want(t, 200); a.Header.Get("Warning") != "" {
		t.Errorf("Warning: %q", a.Header.Get("Warning"))
	}
	moved := up.pushImage("a", "v1", 1, nil)
	if a := c.do("GET", "/v2/up.test/a/manifests/v1", nil).want(t, 200); digest(a.body) == digest(moved) || !strings.HasPrefix(a.Header.Get("Warning"), `299 - "this registry's disk takes nothing new`) {
		t.Errorf("Warning: %q", a.Header.Get("Warning"))
	}
	give()
	if a := c.do("GET", "/v2/up.test/a/manifests/v1", nil).want(t, 200); digest(a.body) != digest(moved) || a.Header.Get("Warning") != "" {
		t.Errorf("with room again: Warning: %q", a.Header.Get("Warning"))
	}
	c.whole("up.test/a", "v1")
	c.whole("up.test/b", "v1")
	if a := c.do("GET", "/v2/up.test/a/blobs/"+d, nil).want(t, 200); digest(a.body) != d {
		t.Error("other bytes")
	}
}

// TestReadOnlyDisk: a disk that became read-only, as ext4's do after errors, is told from other failures; what is there is served.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	m := r.pushImage("a", "v1", 1, nil)
	loc := r.begin("a")
	for _, dir := range []string{"tmp", "uploads", "objects"} {
		at := filepath.Join(r.data, dir)
		if err := unix.Mount(at, at, "", unix.MS_BIND, ""); err != nil {
			needsRoot(t, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, 0); err != nil {
				t.Error(err)
			}
		})
		if err := unix.Mount("", at, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []answer{
		r.do("POST", "/v2/a/blobs/uploads/", nil), r.do("PATCH", loc, []byte("x")), r.put("a", "v2", m), r.do("DELETE", "/v2/a/manifests/v1", nil),
	} {
		a.wantCode(t, 503, "DENIED")
		if !strings.Contains(string(a.body), "the registry's disk is read-only") {
			t.Errorf("%s", a.body)
		}
	}
	r.whole("a", "v1")
}

// faulty is a folder some of whose writes fail.
type faulty struct {
	*disk.Disk
	fail atomic.Pointer[func(op, key string) error]
}

func (f *faulty) check(op, key string) error {
	if fail := f.fail.Load(); fail != nil {
		return (*fail)(op, key)
	}
	return nil
}

func (f *faulty) Put(key string, data []byte) error {
	if err := f.check("put", key); err != nil {
		return err
	}
	return f.Disk.Put(key, data)
}

func (f *faulty) Stage(id string, create bool) (registry.Stage, error) {
	s, err := f.Disk.Stage(id, create)
	if err != nil {
		return nil, err
	}
	return &faultyStage{s, f}, nil
}

type faultyStage struct {
	registry.Stage
	f *faulty
}

func (s *faultyStage) Sync() error { return errors.Join(s.f.check("sync", ""), s.Stage.Sync()) }

func (s *faultyStage) Commit(key string) error {
	if err := s.f.check("commit", key); err != nil {
		return err
	}
	return s.Stage.Commit(key)
}

// startFaulty starts a registry over a folder whose writes fail as set says.
func startFaulty(t *testing.T, cfg registry.Config) (r *reg, set func(func(op, key string) error)) {
	t.Helper()
	f := new(faulty)
	r = startOver(t, t.TempDir(), cfg, func(st *disk.Disk) registry.Storage {
		f.Disk = st
		return f
	})
	return r, func(fail func(op, key string) error) { f.fail.Store(&fail) }
}

// TestTagsAreDeletedWithoutRoom: another program may take the room of a deleted tag before its manifest's link is marked. The deletion, or
// the collection with its retention, succeeds, and the manifest is freed as if it were marked.
func TestTagsAreDeletedWithoutRoom(t *testing.T) {
	t.Parallel()
	r, set := startFaulty(t, registry.Config{GC: registry.GC{Every: -1, Grace: 1, Untagged: registry.Duration(time.Hour), Uploads: registry.Duration(time.Hour)},
		Retention: []registry.Retention{{TagPattern: registry.TagPattern{Repositories: []string{"ci"}}, KeepYounger: 1}}})
	full := func(op, key string) error { return fmt.Errorf("%s %s: %w", op, key, registry.ErrFull) }
	none := func(string, string) error { return nil }
	r.pushImage("a", "v1", 1, nil)
	r.pushImage("ci", "v1", 1, nil)
	set(full)
	r.do("DELETE", "/v2/a/manifests/v1", nil).want(t, 202)
	if c := r.collect(); c.Tags != 1 || c.Manifests != 2 || r.blobs() != 0 {
		t.Errorf("%+v, %d blobs are left", c, r.blobs())
	}
	// A push that can't note the end of what its tag was at has not moved the tag.
	set(none)
	old := r.pushImage("b", "v1", 1, nil)
	set(func(op, key string) error {
		if strings.Contains(key, "/_manifests/") && strings.HasSuffix(key, digest(old)[7:]) {
			return full(op, key)
		}
		return nil
	})
	r.pushBlob("b", []byte("{}"))
	r.put("b", "v1", image([]byte("{}"), nil, nil)).wantFull(t)
	if a := r.do("GET", "/v2/b/manifests/v1", nil).want(t, 200); digest(a.body) != digest(old) {
		t.Error("a push that failed moved its tag")
	}
	// Who pushes what was deleted again has it as before.
	set(none)
	config, layer := []byte("{}"), randomBytes(100)
	r.pushBlob("a", config)
	r.pushBlob("a", layer)
	again := image(config, [][]byte{layer}, nil)
	r.put("a", "v1", again).want(t, 201)
	set(full)
	r.do("DELETE", "/v2/a/manifests/v1", nil).want(t, 202)
	set(none)
	r.put("a", digest(again), again).want(t, 201)
	r.collect()
	r.whole("a", digest(again))
}

// TestFailedCommits: an upload, or a fetch from upstream, that fails at its very end leaves nothing, or what the client can go on with.
func TestFailedCommits(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	blob := randomBytes(1000)
	d := up.pushBlob("x", blob)
	r, set := startFaulty(t, registry.Config{GC: registry.GC{Every: -1}, Proxy: registry.Proxy{Upstreams: map[string]registry.Upstream{"up.test": {URL: up.url}}}})
	for _, at := range []string{"sync", "commit", "put"} {
		set(func(op, key string) error {
			if op == at {
				return fmt.Errorf("%s: %w", op, registry.ErrFull)
			}
			return nil
		})
		r.do("PUT", r.begin("own")+"?digest="+d, blob).wantFull(t)
		if at != "put" { // the bytes are there, for the next who brings them, or for collection
			r.do("GET", "/v2/up.test/x/blobs/"+d, nil, "Range", "bytes=0-9").wantFull(t)
		}
		r.nothingHalf(at)
	}
	r2, set := startFaulty(t, registry.Config{GC: registry.GC{Every: -1}, Proxy: registry.Proxy{Upstreams: map[string]registry.Upstream{"up.test": {URL: up.url}}}})
	set(func(op, _ string) error {
		if op == "commit" {
			return syscall.EIO
		}
		return nil
	})
	r2.do("GET", "/v2/up.test/x/blobs/"+d, nil, "Range", "bytes=0-9").want(t, 502)
	r2.nothingHalf("a fetch")
	loc := r2.begin("own")
	r2.do("PUT", loc+"?digest="+d, blob).wantCode(t, 500, "UNKNOWN")
	set(func(string, string) error { return nil })
	r2.do("PUT", loc+"?digest="+d, nil).want(t, 201)
	if a := r2.do("GET", "/v2/up.test/x/blobs/"+d, nil).want(t, 200); digest(a.body) != d {
		t.Error("other bytes")
	}
}

// TestFetchesDoNotOutliveTheirProcess: what was on its way from upstream when the registry was killed is gone with the next start; clients'
// uploads go on.
func TestFetchesDoNotOutliveTheirProcess(t *testing.T) {
	t.Parallel()
	up := start(t, registry.Config{})
	d := up.pushBlob("x", randomBytes(1<<20))
	b := before(t, up)
	half, end := make(chan struct{}), make(chan struct{})
	b.set(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "1048576")
		w.Write(randomBytes(500_000))
		w.(http.Flusher).Flush()
		close(half)
		<-end
		panic(http.ErrAbortHandler)
	})
	c := cacheOf(t, b, time.Hour)
	got := make(chan struct{})
	go func() {
		defer close(got)
		if resp, err := http.Get(c.url + "/v2/up.test/x/blobs/" + d); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}()
	<-half
	// The folder as a kill leaves it now.
	data := t.TempDir()
	left, err := os.ReadDir(filepath.Join(c.data, "uploads"))
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(data, "uploads"), 0o700), os.WriteFile(filepath.Join(data, "uploads", left[0].Name()), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.set(nil)
	close(end)
	<-got
	loc := func() string {
		r := startAt(t, data, registry.Config{})
		r.nothingHalf("a fetch")
		loc := r.begin("own")
		r.do("PATCH", loc, []byte("half")).want(t, 202)
		r.srv.Close()
		r.s.Close()
		r.st.Close()
		return loc
	}()
	startAt(t, data, registry.Config{}).do("PUT", loc+"?digest="+digest([]byte("half")), nil).want(t, 201)
}
