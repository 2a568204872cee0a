package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"slices"
	"strings"
	"testing"

	"gantry/internal/registry"
)

func TestBlobRanges(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	b := randomBytes(2048)
	path := "/v2/r/blobs/" + r.pushBlob("r", b)
	for _, c := range []struct {
		ask, answer string
		want        []byte
	}{
		{"bytes=500-1499", "bytes 500-1499/2048", b[500:1500]},
		{"bytes=500-", "bytes 500-2047/2048", b[500:]},
		{"bytes=-500", "bytes 1548-2047/2048", b[1548:]},
		{"bytes=2000-5000", "bytes 2000-2047/2048", b[2000:]},
		{"bytes=0-0", "bytes 0-0/2048", b[:1]},
	} {
		got := r.do("GET", path, nil, "Range", c.ask).want(t, 206).header(t, "Content-Range", c.answer)
		if !bytes.Equal(got.body, c.want) {
			t.Fatalf("%s: other bytes came back", c.ask)
		}
	}
	for _, bad := range []string{"bytes=500-0", "bytes=5000-10000", "bytes=x", "lines=1-2", "bytes=2048-"} {
		r.do("GET", path, nil, "Range", bad).want(t, 416)
	}
	// Several in one answer; absurdly many are ignored.
	a := r.do("GET", path, nil, "Range", "bytes=0-9,100-109").want(t, 206)
	_, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range [][]byte{b[:10], b[100:110]} {
		p, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(p); !bytes.Equal(got, want) {
			t.Fatal("another part came back")
		}
	}
	if got := r.do("GET", path, nil, "Range", "bytes="+strings.Repeat("0-0,", 100)+"0-0").want(t, 200); !bytes.Equal(got.body, b) {
		t.Fatal("not the whole blob came back")
	}
	// Conditions.
	etag := r.do("HEAD", path, nil).want(t, 200).Header.Get("Etag")
	r.do("GET", path, nil, "If-None-Match", etag).want(t, 304)
	r.do("HEAD", path, nil, "If-None-Match", etag).want(t, 304)
	r.do("GET", path, nil, "Range", "bytes=0-9", "If-Range", etag).want(t, 206)
	r.do("GET", path, nil, "Range", "bytes=0-9", "If-Range", `"other"`).want(t, 200)
}

func TestUnknownAndInvalid(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	r.pushImage("known", "v1", 1, nil)
	none := digest([]byte("none"))
	r.do("GET", "/v2/known/blobs/"+none, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	r.do("HEAD", "/v2/known/blobs/"+none, nil).want(t, 404)
	r.do("GET", "/v2/known/manifests/"+none, nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	r.do("GET", "/v2/known/manifests/none", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	r.do("GET", "/v2/unknown/tags/list", nil).wantCode(t, 404, "NAME_UNKNOWN")
	r.do("GET", "/v2/known/blobs/sha256:x", nil).wantCode(t, 400, "DIGEST_INVALID")
	r.do("GET", "/v2/known/referrers/x", nil).wantCode(t, 400, "DIGEST_INVALID")
	r.do("GET", "/v2/known/manifests/sha256:baddigeststring", nil).wantCode(t, 400, "DIGEST_INVALID")
	for _, name := range []string{"Known", "known/", "/known", "a//b", "..", "a/../b", "%2e%2e/x", "a%2f..%2fb", "_a", "a_", "a___b", "a..b", "-a", "a/_tags", strings.Repeat("a", 256), "a%00b", "a b", "é"} {
		a := r.do("GET", "/v2/"+name+"/manifests/v1", nil)
		if a.StatusCode != 400 && a.StatusCode != 404 {
			t.Errorf("%q: %s", name, a.Status)
		}
		if a := r.do("POST", "/v2/"+name+"/blobs/uploads/", nil); a.StatusCode != 400 && a.StatusCode != 404 {
			t.Errorf("%q: %s", name, a.Status)
		}
	}
	// A blob is a repository's own.
	b := r.pushBlob("known", randomBytes(10))
	r.do("GET", "/v2/other/blobs/"+b, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	for _, c := range [][2]string{{"PATCH", "/v2/x/manifests/v1"}, {"POST", "/v2/x/tags/list"}, {"PUT", "/v2/x/blobs/" + none}, {"DELETE", "/v2/_catalog"}} {
		r.do(c[0], c[1], nil).wantCode(t, 405, "UNSUPPORTED")
	}
}

// pages follows Link headers and returns what key has in each page.
func (r *reg) pages(path, key string) (pages [][]string) {
	r.t.Helper()
	for path != "" {
		a := r.do("GET", path, nil).want(r.t, 200)
		var m map[string]json.RawMessage
		var list []string
		if err := json.Unmarshal(a.body, &m); err != nil {
			r.t.Fatal(err)
		}
		if err := json.Unmarshal(m[key], &list); err != nil {
			r.t.Fatal(err)
		}
		pages = append(pages, list)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	return pages
}

func TestListsInPages(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	m := r.pushImage("p/q", "t9", 0, nil)
	for i := range 9 {
		r.put("p/q", fmt.Sprintf("t%d", 8-i), m).want(t, 201)
	}
	all := strings.Fields("t0 t1 t2 t3 t4 t5 t6 t7 t8 t9")
	for _, n := range []int{1, 3, 5, 9, 10, 11} {
		pages := r.pages(fmt.Sprintf("/v2/p/q/tags/list?n=%d", n), "tags")
		if got := slices.Concat(pages...); !slices.Equal(got, all) {
			t.Errorf("n=%d: %v", n, pages)
		}
		if len(pages) != (10+n-1)/n {
			t.Errorf("n=%d: %d pages", n, len(pages))
		}
	}
	if got := r.pages("/v2/p/q/tags/list", "tags"); len(got) != 1 || !slices.Equal(got[0], all) {
		t.Error(got)
	}
	if got := r.pages("/v2/p/q/tags/list?last=t44", "tags"); !slices.Equal(got[0], all[5:]) {
		t.Error(got)
	}
	if got := r.pages("/v2/p/q/tags/list?n=0", "tags"); len(got) != 1 || len(got[0]) != 0 {
		t.Error(got)
	}
	r.do("GET", "/v2/p/q/tags/list?n=-1", nil).want(t, 400)

	for _, name := range []string{"z", "a", "p"} {
		r.pushImage(name, "latest", 0, nil)
	}
	r.pushBlob("only-blobs", []byte("x"))
	if got := slices.Concat(r.pages("/v2/_catalog?n=3", "repositories")...); !slices.Equal(got, []string{"a", "p", "p/q", "z"}) {
		t.Error(got)
	}
	// Who asks with curl finds the prompt on a line of its own.
	for _, list := range []string{"/v2/_catalog", "/v2/p/tags/list"} {
		if body := r.do("GET", list, nil).want(t, 200).body; !bytes.HasSuffix(body, []byte("}\n")) {
			t.Errorf("%s: %q", list, body)
		}
	}
	// The same after a restart is in TestRestart.
}

func TestReferrers(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	subject := r.pushImage("s", "v1", 1, nil)
	sd := descOf(ociManifest, subject)
	list := func(query string) []desc {
		t.Helper()
		a := r.do("GET", "/v2/s/referrers/"+sd.Digest+query, nil).want(t, 200).header(t, "Content-Type", ociIndex)
		var idx struct{ Manifests []desc }
		if err := json.Unmarshal(a.body, &idx); err != nil || idx.Manifests == nil {
			t.Fatal(err, string(a.body))
		}
		if strings.Contains(query, "artifactType") {
			a.header(t, "OCI-Filters-Applied", "artifactType")
		}
		return idx.Manifests
	}
	if got := list(""); len(got) != 0 {
		t.Fatal(got)
	}
	sbom := r.pushImage("s", "", 1, map[string]any{"subject": sd, "artifactType": "application/x-sbom", "annotations": map[string]string{"k": "<v>"}})
	r.put("s", digest(sbom), sbom).want(t, 201).header(t, "OCI-Subject", sd.Digest)
	r.pushImage("s", "", 1, map[string]any{"subject": sd})
	if got := list(""); len(got) != 2 {
		t.Fatal(got)
	}
	got := list("?artifactType=application/x-sbom")
	if len(got) != 1 || got[0].Digest != digest(sbom) || got[0].Size != len(sbom) || got[0].Annotations["k"] != "<v>" {
		t.Fatal(got)
	}
	// Without an artifactType it is the config's type.
	if got := list("?artifactType=application/vnd.oci.image.config.v1%2bjson"); len(got) != 1 {
		t.Fatal(got)
	}
	if got := list("?artifactType=none"); len(got) != 0 {
		t.Fatal(got)
	}
	r.do("DELETE", "/v2/s/manifests/"+digest(sbom), nil).want(t, 202)
	if got := list(""); len(got) != 1 {
		t.Fatal(got)
	}
	// Too much for one answer.
	long := strings.Repeat("x", 1<<20)
	for range 6 {
		r.pushImage("s", "", 0, map[string]any{"subject": sd, "artifactType": "big", "annotations": map[string]string{"k": long}})
	}
	n, path := 0, "/v2/s/referrers/"+sd.Digest+"?artifactType=big"
	for pages := 0; path != ""; pages++ {
		a := r.do("GET", path, nil).want(t, 200)
		if len(a.body) > 4<<20 || pages > 6 {
			t.Fatalf("page %d has %d bytes", pages, len(a.body))
		}
		var idx struct{ Manifests []desc }
		if err := json.Unmarshal(a.body, &idx); err != nil {
			t.Fatal(err)
		}
		n += len(idx.Manifests)
		path, _, _ = strings.Cut(strings.TrimPrefix(a.Header.Get("Link"), "<"), ">")
	}
	if n != 6 {
		t.Fatalf("%d of 6 came in pages", n)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	m := r.pushImage("d", "v1", 1, nil)
	r.put("d", "v2", m).want(t, 201)
	r.do("DELETE", "/v2/d/manifests/v1", nil).want(t, 202)
	r.do("GET", "/v2/d/manifests/v1", nil).want(t, 404)
	r.do("GET", "/v2/d/manifests/v2", nil).want(t, 200)
	r.do("DELETE", "/v2/d/manifests/v1", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	r.do("DELETE", "/v2/d/manifests/"+digest(m), nil).want(t, 202)
	r.do("GET", "/v2/d/manifests/v2", nil).want(t, 404)
	r.do("GET", "/v2/d/manifests/"+digest(m), nil).want(t, 404)
	r.do("DELETE", "/v2/d/manifests/"+digest(m), nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	r.do("DELETE", "/v2/none/manifests/v1", nil).want(t, 404)
	var mm struct{ Layers []desc }
	if err := json.Unmarshal(m, &mm); err != nil {
		t.Fatal(err)
	}
	l := mm.Layers[0].Digest
	r.do("DELETE", "/v2/d/blobs/"+l, nil).want(t, 202)
	r.do("HEAD", "/v2/d/blobs/"+l, nil).want(t, 404)
	r.do("DELETE", "/v2/d/blobs/"+l, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	r.put("d", "v1", m).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
}

func TestImmutableTags(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{Immutable: []registry.TagPattern{{Repositories: []string{"prod/**"}, Tags: []string{"v*"}}}})
	m := r.pushImage("prod/a", "v1", 1, nil)
	r.put("prod/a", "v1", m).want(t, 201) // the same again
	r.put("prod/a", "latest", m).want(t, 201)
	other := r.pushImage("prod/a", "latest", 1, nil)
	r.put("prod/a", "v1", other).wantCode(t, 403, "DENIED")
	r.do("PUT", "/v2/prod/a/manifests/"+digest(other)+"?tag=x&tag=v1", other, "Content-Type", ociManifest).wantCode(t, 403, "DENIED")
	r.do("GET", "/v2/prod/a/manifests/x", nil).want(t, 404)
	r.do("DELETE", "/v2/prod/a/manifests/v1", nil).wantCode(t, 403, "DENIED")
	r.do("DELETE", "/v2/prod/a/manifests/"+digest(m), nil).wantCode(t, 403, "DENIED")
	r.do("GET", "/v2/prod/a/manifests/v1", nil).want(t, 200).header(t, "Docker-Content-Digest", digest(m))
	r.do("DELETE", "/v2/prod/a/manifests/latest", nil).want(t, 202)
	r.pushImage("dev", "v1", 1, nil)
	r.pushImage("dev", "v1", 1, nil)
}

func TestSearch(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	for _, n := range []string{"library/alpine", "team/alpine-tools", "alpine", "debian"} {
		r.pushImage(n, "latest", 0, map[string]any{"annotations": map[string]string{"org.opencontainers.image.description": "about " + n}})
	}
	var got struct {
		NumResults int `json:"num_results"`
		Results    []struct{ Name, Description string }
	}
	if err := json.Unmarshal(r.do("GET", "/v1/search?q=alpine&n=2", nil).want(t, 200).body, &got); err != nil {
		t.Fatal(err)
	}
	if got.NumResults != 3 || len(got.Results) != 2 || got.Results[0].Name != "alpine" || got.Results[0].Description != "about alpine" {
		t.Fatalf("%+v", got)
	}
	if err := json.Unmarshal(r.do("GET", "/v1/search?q=alpine&n=2&page=2", nil).want(t, 200).body, &got); err != nil || len(got.Results) != 1 {
		t.Fatalf("%v %+v", err, got)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	r.pushImage("m", "v1", 1, nil)
	text := string(r.do("GET", "/metrics", nil).want(t, 200).body)
	for _, want := range []string{`gantry_registry_requests_total{route="manifest",status="2xx"} 1`, "gantry_registry_repositories 1", "gantry_registry_uploads_open 0"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); !ok || !strings.HasPrefix(name, "gantry_registry_") || strings.Contains(value, " ") {
			t.Errorf("malformed line %q", line)
		}
	}
}

// TestRestart holds that everything that was acknowledged is there for the next process.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var m, ref []byte
	t.Run("before", func(t *testing.T) {
		r := startAt(t, dir, registry.Config{})
		m = r.pushImage("keep/this", "v1", 2, nil)
		ref = r.pushImage("keep/this", "", 1, map[string]any{"subject": descOf(ociManifest, m)})
		r.pushImage("keep", "latest", 1, nil)
	})
	r := startAt(t, dir, registry.Config{})
	if got := slices.Concat(r.pages("/v2/_catalog", "repositories")...); !slices.Equal(got, []string{"keep", "keep/this"}) {
		t.Error(got)
	}
	r.whole("keep/this", "v1")
	if a := r.do("GET", "/v2/keep/this/referrers/"+digest(m), nil); !strings.Contains(string(a.body), digest(ref)) {
		t.Errorf("%s", a.body)
	}
}

// whole pulls everything that a reference reaches, and checks every digest.
func (r *reg) whole(repo, ref string) {
	r.t.Helper()
	a := r.do("GET", "/v2/"+repo+"/manifests/"+ref, nil).want(r.t, 200)
	if a.Header.Get("Docker-Content-Digest") != digest(a.body) {
		r.t.Fatalf("%s:%s is not what it says", repo, ref)
	}
	var m struct {
		Config    *desc
		Layers    []desc
		Manifests []desc
	}
	if err := json.Unmarshal(a.body, &m); err != nil {
		r.t.Fatal(err)
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, l := range m.Layers {
		if got := r.do("GET", "/v2/"+repo+"/blobs/"+l.Digest, nil).want(r.t, 200); digest(got.body) != l.Digest {
			r.t.Fatalf("blob %s of %s:%s has other bytes", l.Digest, repo, ref)
		}
	}
	for _, c := range m.Manifests {
		r.whole(repo, c.Digest)
	}
}
