package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gantry/internal/registry"
)

// eager collects whatever is not in use at this very moment.
var eager = registry.GC{Every: -1, Grace: 1, Untagged: 1, Uploads: 1}

func (r *reg) collect() registry.Collected {
	r.t.Helper()
	c, err := r.s.Collect(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// blobs counts the files of blobs.
func (r *reg) blobs() (n int) {
	r.t.Helper()
	err := filepath.WalkDir(filepath.Join(r.data, "objects", "blobs"), func(_ string, e os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func TestDeletedTagFreesSpace(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{GC: eager})
	m1 := r.pushImage("a", "v1", 3, nil)
	r.pushImage("a", "v2", 2, nil)
	r.collect()
	r.whole("a", "v1")
	if n := r.blobs(); n != 5+4 {
		t.Fatalf("%d blobs", n)
	}
	r.do("DELETE", "/v2/a/manifests/v1", nil).want(t, 202)
	c := r.collect()
	if c.Manifests != 1 || c.Blobs != 5 || c.Freed < 3000 {
		t.Fatalf("%+v", c)
	}
	r.do("GET", "/v2/a/manifests/"+digest(m1), nil).want(t, 404)
	r.whole("a", "v2")
	r.do("DELETE", "/v2/a/manifests/v2", nil).want(t, 202)
	r.collect()
	if n := r.blobs(); n != 0 {
		t.Fatalf("%d blobs are left", n)
	}
	r.do("GET", "/v2/a/tags/list", nil).want(t, 404)
}

func TestCollectionKeepsWhatTagsReach(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{GC: eager})
	child := r.pushImage("k", "", 2, nil)
	nested := index(ociIndex, descOf(ociManifest, child))
	r.put("k", digest(nested), nested).want(t, 201)
	top := index(ociIndex, descOf(ociIndex, nested))
	r.put("k", "top", top).want(t, 201)
	// A signature of a child, and a signature of the signature.
	sig := r.pushImage("k", "", 1, map[string]any{"subject": descOf(ociManifest, child)})
	sigsig := r.pushImage("k", "", 1, map[string]any{"subject": descOf(ociManifest, sig)})
	// The same layer elsewhere.
	var mm struct{ Layers []desc }
	if err := json.Unmarshal(child, &mm); err != nil {
		t.Fatal(err)
	}
	shared := mm.Layers[0].Digest
	r.do("POST", "/v2/other/blobs/uploads/?from=k&mount="+shared, nil).want(t, 201)
	time.Sleep(2 * time.Millisecond) // longer than the grace
	r.collect()
	r.whole("k", "top")
	r.whole("k", digest(sig))
	r.whole("k", digest(sigsig))
	if a := r.do("HEAD", "/v2/other/blobs/"+shared, nil); a.StatusCode != 404 {
		t.Error("a blob that no manifest of its repository has was kept after the grace")
	}
	r.do("DELETE", "/v2/k/manifests/top", nil).want(t, 202)
	time.Sleep(2 * time.Millisecond)
	c := r.collect()
	if n := r.blobs(); n != 0 {
		t.Fatalf("%d blobs are left: %+v", n, c)
	}
}

func TestGrace(t *testing.T) {
	t.Parallel()
	hour := registry.Duration(time.Hour)
	r := start(t, registry.Config{GC: registry.GC{Every: -1, Grace: hour, Untagged: hour, Uploads: hour}})
	layer := randomBytes(100)
	r.pushBlob("g", layer)
	r.pushImage("g", "", 1, nil) // by digest, as for an index to come
	old := r.pushImage("g", "latest", 1, nil)
	r.pushImage("g", "latest", 1, nil)
	loc := r.begin("g")
	if c := r.collect(); c.Blobs+c.Links+c.Manifests+c.Uploads != 0 {
		t.Fatalf("%+v", c)
	}
	r.whole("g", digest(old)) // somebody runs it by its digest
	r.do("PUT", loc+"?digest="+digest(layer), layer).want(t, 201)
}

func TestCollectByRequest(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{GC: eager})
	r.pushImage("c", "v1", 1, nil)
	r.do("DELETE", "/v2/c/manifests/v1", nil).want(t, 202)
	var c registry.Collected
	if err := json.Unmarshal(r.do("POST", "/_gantry/collect", nil).want(t, 200).body, &c); err != nil || c.Manifests != 1 {
		t.Fatalf("%v %+v", err, c)
	}
	r.do("POST", "/_gantry/collect", nil, "X-Forwarded-For", "192.0.2.1").wantCode(t, 403, "DENIED")
	r.do("GET", "/_gantry/collect", nil).want(t, 405)
}

func TestForgottenUploadsEnd(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{GC: eager})
	loc := r.begin("u")
	r.do("PATCH", loc, []byte("half")).want(t, 202)
	time.Sleep(2 * time.Millisecond)
	if c := r.collect(); c.Uploads != 1 {
		t.Fatalf("%+v", c)
	}
	r.do("GET", loc, nil).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	r.do("PATCH", loc, []byte("half")).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
}

func TestRetention(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{GC: eager,
		Immutable: []registry.TagPattern{{Tags: []string{"pr-0"}}},
		Retention: []registry.Retention{
			{TagPattern: registry.TagPattern{Repositories: []string{"ci/**"}, Tags: []string{"pr-*"}}, KeepLast: 3},
			{TagPattern: registry.TagPattern{Repositories: []string{"ci/**"}, Tags: []string{"old"}}, KeepYounger: registry.Duration(time.Hour)},
		}})
	var pushed time.Time
	for i := range 8 {
		for {
			r.pushImage("ci/app", fmt.Sprintf("pr-%d", i), 1, nil)
			fi, err := os.Stat(filepath.Join(r.data, "objects/repos/ci/app/_tags", fmt.Sprintf("pr-%d", i)))
			if err != nil {
				t.Fatal(err)
			}
			if fi.ModTime().After(pushed) { // the file system's clock has steps
				pushed = fi.ModTime()
				break
			}
		}
	}
	r.pushImage("ci/app", "release", 1, nil)
	r.pushImage("ci/app", "old", 1, nil)
	r.pushImage("other", "pr-1", 1, nil)
	if c := r.collect(); c.Tags != 4 {
		t.Fatalf("%+v", c)
	}
	want := []string{"old", "pr-0", "pr-5", "pr-6", "pr-7", "release"}
	if got := r.pages("/v2/ci/app/tags/list", "tags")[0]; !slices.Equal(got, want) {
		t.Fatal(got)
	}
	for _, tag := range want {
		r.whole("ci/app", tag)
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(r.data, "objects/repos/ci/app/_tags/old"), past, past); err != nil {
		t.Fatal(err)
	}
	if c := r.collect(); c.Tags != 1 {
		t.Fatalf("%+v", c)
	}
}

// TestCollectionBesidePushes pushes, deletes and collects all at once, with no grace at all. A push may be told that a
// blob is gone, and starts over; what was acknowledged and not deleted is whole.
func TestCollectionBesidePushes(t *testing.T) {
	t.Parallel()
	gc := eager
	gc.Uploads = registry.Duration(time.Hour)
	r := start(t, registry.Config{GC: gc})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var collector sync.WaitGroup
	var collections atomic.Int64
	collector.Go(func() {
		for ctx.Err() == nil {
			if _, err := r.s.Collect(context.Background()); err != nil {
				t.Error(err)
				return
			}
			collections.Add(1)
		}
	})
	// Few different layers, so that pushes share them with each other and with what is being collected.
	var layers [][]byte
	for i := range 6 {
		layers = append(layers, slices.Repeat([]byte{byte(i)}, 500+i))
	}
	var retries atomic.Int64
	var pushers sync.WaitGroup
	for p := range 4 {
		pushers.Go(func() {
			repo := fmt.Sprintf("repo%d", p%2)
			for i := range 25 {
				tag := fmt.Sprintf("p%d-%d", p, i%3)
				config := []byte(fmt.Sprintf(`{"p":%d}`, i%2))
				mine := [][]byte{layers[(p+i)%6], layers[(p+2*i+1)%6]}
				m := image(config, mine, nil)
				for try := 0; ; try++ {
					for _, b := range append(slices.Clone(mine), config) {
						// As clients do: ask, and upload only if it is not there.
						if r.do("HEAD", "/v2/"+repo+"/blobs/"+digest(b), nil).StatusCode == 200 {
							continue
						}
						if a := r.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest(b), b); a.StatusCode != http.StatusCreated {
							t.Errorf("upload: %s %s", a.Status, a.body)
							return
						}
					}
					a := r.put(repo, tag, m)
					if a.StatusCode == 201 {
						break
					}
					if !strings.Contains(string(a.body), "MANIFEST_BLOB_UNKNOWN") || try > 1000 {
						t.Errorf("push: %s %s", a.Status, a.body)
						return
					}
					retries.Add(1)
				}
				// Nobody else touches this tag.
				r.whole(repo, tag)
				if i%3 == 2 {
					r.do("DELETE", "/v2/"+repo+"/manifests/"+tag, nil).want(t, 202)
				}
			}
		})
	}
	pushers.Wait()
	cancel()
	collector.Wait()
	t.Logf("%d collections, %d pushes began again", collections.Load(), retries.Load())
	r.collect()
	for p := range 4 {
		for _, i := range []int{0, 1} {
			r.whole(fmt.Sprintf("repo%d", p%2), fmt.Sprintf("p%d-%d", p, i))
		}
	}
}
