package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"gantry/internal/registry"
)

func TestPing(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	r.do("GET", "/v2/", nil).want(t, 200).header(t, "Docker-Distribution-Api-Version", "registry/2.0")
	r.do("GET", "/v1/_ping", nil).want(t, 200)
	r.do("GET", "/", nil).want(t, 200)
	r.do("GET", "/nothing", nil).want(t, 404)
	r.do("POST", "/v2/", nil).wantCode(t, 405, "UNSUPPORTED")
}

func TestBlobPushInEveryWay(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	for _, d := range []func([]byte) string{digest, digest512} {
		for _, size := range []int{0, 1, 1000, 3 << 20} {
			check := func(b []byte) {
				t.Helper()
				path := "/v2/a/b/blobs/" + d(b)
				r.do("HEAD", path, nil).want(t, 200).header(t, "Content-Length", fmt.Sprint(size)).header(t, "Docker-Content-Digest", d(b))
				if got := r.do("GET", path, nil).want(t, 200).header(t, "Docker-Content-Digest", d(b)); !bytes.Equal(got.body, b) {
					t.Fatal("other bytes came back")
				}
			}
			algo := d(nil)[:6]

			b := randomBytes(size)
			r.do("POST", "/v2/a/b/blobs/uploads/?digest="+d(b), b).want(t, 201).header(t, "Location", "/v2/a/b/blobs/"+d(b))
			check(b)

			b = randomBytes(size)
			r.do("PUT", r.begin("a/b")+"?digest="+d(b), b).want(t, 201).header(t, "Location", "/v2/a/b/blobs/"+d(b))
			check(b)

			// In chunks, the last with the PUT; the algorithm said at the start, or not.
			for _, query := range []string{"", "?digest-algorithm=" + algo} {
				b = randomBytes(size)
				loc := r.do("POST", "/v2/a/b/blobs/uploads/"+query, nil).want(t, 202).Header.Get("Location")
				at := 0
				for i := range 3 {
					chunk := b[at:min(at+size/3, size)]
					if i == 2 {
						chunk = b[at:]
					}
					if len(chunk) == 0 {
						continue
					}
					cr := fmt.Sprintf("%d-%d", at, at+len(chunk)-1)
					if i == 2 {
						r.do("PUT", loc+"?digest="+d(b), chunk, "Content-Range", cr).want(t, 201)
						break
					}
					loc = r.do("PATCH", loc, chunk, "Content-Range", cr).want(t, 202).
						header(t, "Range", fmt.Sprintf("0-%d", at+len(chunk)-1)).Header.Get("Location")
					at += len(chunk)
				}
				if size > 0 {
					check(b)
				}
			}

			// As a stream of unknown length.
			b = randomBytes(size)
			loc := r.begin("a/b")
			req, _ := http.NewRequest("PATCH", r.url+loc, struct{ io.Reader }{bytes.NewReader(b)})
			resp, err := r.srv.Client().Do(req)
			if err != nil || resp.StatusCode != 202 {
				t.Fatal(err, resp)
			}
			resp.Body.Close()
			r.do("PUT", loc+"?digest="+d(b), nil).want(t, 201)
			check(b)
		}
	}
}

func TestUploadRefusals(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{Limits: registry.Limits{Blob: 1000}})
	b := randomBytes(100)

	loc := r.begin("x")
	r.do("PATCH", loc, b[:50], "Content-Range", "0-49").want(t, 202)
	// Out of order, and not what it says.
	r.do("PATCH", loc, b[60:], "Content-Range", "60-99").want(t, 416).header(t, "Range", "0-49")
	r.do("PATCH", loc, b[:50], "Content-Range", "0-49").want(t, 416)
	r.do("PUT", loc+"?digest="+digest(b), b[60:], "Content-Range", "60-99").want(t, 416)
	r.do("PATCH", loc, b[50:], "Content-Range", "50-98").wantCode(t, 400, "SIZE_INVALID")
	for _, cr := range []string{"x", "50", "-", "50-", "-99", "99-50", "50-99999999999999999999", "+50-99", "50--99"} {
		r.do("PATCH", loc, b[50:], "Content-Range", cr).wantCode(t, 400, "BLOB_UPLOAD_INVALID")
	}
	r.do("GET", loc, nil).want(t, 204).header(t, "Range", "0-49")
	r.do("PUT", loc+"?digest="+digest(b), b[50:], "Content-Range", "50-99").want(t, 201)
	r.do("GET", loc, nil).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")

	// Another digest ends the upload and keeps nothing.
	loc = r.begin("x")
	r.do("PUT", loc+"?digest="+digest([]byte("other")), b).wantCode(t, 400, "DIGEST_INVALID")
	r.do("GET", loc, nil).want(t, 404)
	r.do("HEAD", "/v2/x/blobs/"+digest([]byte("other")), nil).want(t, 404)
	r.do("POST", "/v2/x/blobs/uploads/?digest="+digest([]byte("other")), b).wantCode(t, 400, "DIGEST_INVALID")
	for _, d := range []string{"", "sha256:", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", strings.ToUpper(digest(b)), "sha256:" + strings.Repeat("g", 64), digest(b) + "/.."} {
		r.do("PUT", r.begin("x")+"?digest="+d, b).wantCode(t, 400, "DIGEST_INVALID")
	}
	r.do("POST", "/v2/x/blobs/uploads/?digest-algorithm=md5", nil).wantCode(t, 400, "DIGEST_INVALID")

	// Cancelled, unknown, and of another repository.
	loc = r.begin("x")
	r.do("PATCH", strings.Replace(loc, "/v2/x/", "/v2/y/", 1), b).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	r.do("DELETE", loc, nil).want(t, 204)
	r.do("PATCH", loc, b).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	for _, id := range []string{"x", "..", "%2e%2e%2f%2e%2e", "00000000-0000-0000-0000-000000000000"} {
		r.do("GET", "/v2/x/blobs/uploads/"+id, nil).want(t, 404)
	}

	// Too large: known before, and found out.
	big := randomBytes(1001)
	r.do("PATCH", r.begin("x"), big).wantCode(t, 413, "SIZE_INVALID")
	loc = r.begin("x")
	req, _ := http.NewRequest("PATCH", r.url+loc, struct{ io.Reader }{bytes.NewReader(big)})
	resp, err := r.srv.Client().Do(req)
	if err != nil || resp.StatusCode != 413 {
		t.Fatal(err, resp)
	}
	resp.Body.Close()
	r.do("GET", loc, nil).want(t, 204).header(t, "Range", "0-0")
}

// TestUploadResumes breaks the connection in the middle of a chunk, restarts the registry, and goes on.
func TestUploadResumes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var loc string
	b := randomBytes(2 << 20)
	t.Run("broken", func(t *testing.T) {
		r := startAt(t, dir, registry.Config{})
		loc = r.begin("x")
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", loc, len(b))
		c.Write(b[:1<<20])
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	})
	r := startAt(t, dir, registry.Config{})
	var last int
	if _, err := fmt.Sscanf(r.do("GET", loc, nil).want(t, 204).Header.Get("Range"), "0-%d", &last); err != nil {
		t.Fatal(err)
	}
	if last+1 != 1<<20 {
		t.Fatalf("%d bytes were kept of %d", last+1, 1<<20)
	}
	r.do("PUT", loc+"?digest="+digest(b), b[last+1:], "Content-Range", fmt.Sprintf("%d-%d", last+1, len(b)-1)).want(t, 201)
	if got := r.do("GET", "/v2/x/blobs/"+digest(b), nil).want(t, 200); !bytes.Equal(got.body, b) {
		t.Fatal("other bytes came back")
	}
}

// TestUploadTakenOver goes on with an upload while an older request still holds it with a connection that says nothing.
func TestUploadTakenOver(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	loc := r.begin("x")
	b := randomBytes(100_000)
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", loc, len(b))
	c.Write(b[:50_000])
	for r.do("GET", loc, nil).want(t, 204).Header.Get("Range") != "0-49999" {
		// until the first half has arrived
	}
	r.do("PUT", loc+"?digest="+digest(b), b[50_000:], "Content-Range", "50000-99999").want(t, 201)
	r.do("GET", "/v2/x/blobs/"+digest(b), nil).want(t, 200)
}

func TestMount(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	b := randomBytes(100)
	d := r.pushBlob("from/here", b)
	r.do("HEAD", "/v2/to/blobs/"+d, nil).want(t, 404)
	r.do("POST", "/v2/to/blobs/uploads/?mount="+d+"&from=from/here", nil).want(t, 201).header(t, "Location", "/v2/to/blobs/"+d)
	r.do("HEAD", "/v2/to/blobs/"+d, nil).want(t, 200)
	r.do("POST", "/v2/anonymous/blobs/uploads/?mount="+d, nil).want(t, 201)
	// What is not there becomes an upload.
	r.do("POST", "/v2/to2/blobs/uploads/?mount="+d+"&from=elsewhere", nil).want(t, 202)
	r.do("POST", "/v2/to2/blobs/uploads/?mount="+digest([]byte("none"))+"&from=from/here", nil).want(t, 202)
	r.do("POST", "/v2/to2/blobs/uploads/?mount="+d+"&from=../x", nil).wantCode(t, 400, "NAME_INVALID")
	r.do("POST", "/v2/to2/blobs/uploads/?mount=x&from=from/here", nil).wantCode(t, 400, "DIGEST_INVALID")
}

func TestManifestPush(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	config, layer := []byte(`{}`), randomBytes(10)
	r.pushBlob("m", config)
	m := image(config, [][]byte{layer}, nil)
	r.put("m", "v1", m).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
	r.do("GET", "/v2/m/manifests/v1", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	r.pushBlob("m", layer)
	r.put("m", "v1", m).want(t, 201).header(t, "Docker-Content-Digest", digest(m)).header(t, "Location", "/v2/m/manifests/"+digest(m))
	for _, ref := range []string{"v1", digest(m)} {
		got := r.do("GET", "/v2/m/manifests/"+ref, nil).want(t, 200).header(t, "Content-Type", ociManifest).header(t, "Docker-Content-Digest", digest(m))
		if !bytes.Equal(got.body, m) {
			t.Fatal("other bytes came back")
		}
		r.do("HEAD", "/v2/m/manifests/"+ref, nil).want(t, 200).header(t, "Content-Length", fmt.Sprint(len(m)))
		r.do("GET", "/v2/m/manifests/"+ref, nil, "If-None-Match", `"`+digest(m)+`"`).want(t, 304)
	}

	// sha512, and tags with a push by digest.
	a := r.do("PUT", "/v2/m/manifests/"+digest512(m)+"?tag=a&tag=b", m, "Content-Type", ociManifest).want(t, 201)
	if got := a.Header.Values("OCI-Tag"); len(got) != 2 {
		t.Fatalf("OCI-Tag: %v", got)
	}
	r.do("GET", "/v2/m/manifests/b", nil).want(t, 200).header(t, "Docker-Content-Digest", digest512(m))

	// Docker's types, a list, a list of lists.
	dm := image(config, [][]byte{layer}, map[string]any{"mediaType": dockerImage})
	r.put("m", "docker", dm).want(t, 201)
	r.do("GET", "/v2/m/manifests/docker", nil).want(t, 200).header(t, "Content-Type", dockerImage)
	list := index(dockerList, descOf(dockerImage, dm))
	r.put("m", "list", list).want(t, 201)
	r.put("m", "lists", index(ociIndex, descOf(dockerList, list))).want(t, 201)
	r.put("m", "holes", index(ociIndex, descOf(ociManifest, []byte("nowhere")))).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")

	for name, c := range map[string]struct {
		ref, typ, body, code string
		status               int
	}{
		"no JSON":         {"x", ociManifest, `{`, "MANIFEST_INVALID", 400},
		"not an object":   {"x", ociManifest, `[]`, "MANIFEST_INVALID", 400},
		"another type":    {"x", ociIndex, string(m), "MANIFEST_INVALID", 400},
		"unknown type":    {"x", "application/x-foo", `{"schemaVersion":2}`, "MANIFEST_INVALID", 400},
		"schema 1":        {"x", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, "MANIFEST_INVALID", 400},
		"two in one":      {"x", ociManifest, string(image(config, nil, map[string]any{"manifests": []desc{}})), "MANIFEST_INVALID", 400},
		"wrong size":      {"x", ociManifest, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + digest(config) + `","size":3},"layers":[]}`, "MANIFEST_INVALID", 400},
		"negative size":   {"x", ociManifest, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + digest(config) + `","size":-1},"layers":[]}`, "MANIFEST_INVALID", 400},
		"path as digest":  {"x", ociManifest, `{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../../../etc/passwd","size":1},"layers":[]}`, "MANIFEST_INVALID", 400},
		"other digest":    {digest([]byte("x")), ociManifest, string(m), "DIGEST_INVALID", 400},
		"bad digest":      {"sha256:bad", ociManifest, string(m), "DIGEST_INVALID", 400},
		"bad tag":         {"-x", ociManifest, string(m), "MANIFEST_INVALID", 400},
		"long tag":        {strings.Repeat("x", 129), ociManifest, string(m), "MANIFEST_INVALID", 400},
		"too large":       {"x", ociManifest, string(m) + strings.Repeat(" ", 4<<20), "MANIFEST_INVALID", 413},
		"no content":      {"x", ociManifest, "", "MANIFEST_INVALID", 400},
		"a bad mediaType": {"x", "a/b/c;;", string(m), "MANIFEST_INVALID", 400},
	} {
		t.Run(name, func(t *testing.T) {
			r.do("PUT", "/v2/m/manifests/"+c.ref, []byte(c.body), "Content-Type", c.typ).wantCode(t, c.status, c.code)
		})
	}
	big := []byte(string(m) + strings.Repeat(" ", 4<<20-len(m)))
	r.do("PUT", "/v2/m/manifests/big", big, "Content-Type", ociManifest).want(t, 201)
}

func TestConditionalPush(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	m1 := r.pushImage("c", "t", 1, nil)
	m2 := r.pushImage("c", "other", 1, nil)
	r.put("c", "t", m2, "If-None-Match", "*").want(t, 412)
	r.put("c", "t", m2, "If-Match", `"`+digest(m2)+`"`).want(t, 412)
	r.put("c", "new", m2, "If-Match", `"`+digest(m2)+`"`).want(t, 412)
	r.do("HEAD", "/v2/c/manifests/t", nil).want(t, 200).header(t, "Etag", `"`+digest(m1)+`"`)
	r.put("c", "t", m2, "If-Match", `"`+digest(m1)+`"`).want(t, 201)
	r.put("c", "new", m2, "If-None-Match", "*").want(t, 201)
	r.do("DELETE", "/v2/c/manifests/t", nil, "If-Match", `"`+digest(m1)+`"`).want(t, 412)
	r.do("DELETE", "/v2/c/manifests/t", nil, "If-Match", `"`+digest(m2)+`"`).want(t, 202)
}
