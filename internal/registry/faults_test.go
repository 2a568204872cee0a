package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"gantry/internal/registry"
)

// raw sends bytes as they are, then closes the way out, and returns the answer.
func (r *reg) raw(b []byte) string {
	r.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.Write(b) // the server may have answered and gone
	c.(*net.TCPConn).CloseWrite()
	got, _ := io.ReadAll(c)
	return string(got)
}

// TestCutAfterEveryByte breaks the requests of a push at every k-th byte. Nothing that was cut is there; after that,
// the same requests whole succeed.
func TestCutAfterEveryByte(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	config, layer := []byte("{}"), randomBytes(300)
	r.pushBlob("cut", config)
	m := image(config, [][]byte{layer}, nil)

	post := append([]byte(fmt.Sprintf("POST /v2/cut/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", digest(layer), len(layer))), layer...)
	for k := 0; k < len(post); k += 7 {
		if got := r.raw(post[:k]); strings.HasPrefix(got, "HTTP/1.1 2") {
			t.Fatalf("cut after %d bytes: %s", k, got)
		}
		r.do("HEAD", "/v2/cut/blobs/"+digest(layer), nil).want(t, 404)
	}
	if got := r.raw(post); !strings.HasPrefix(got, "HTTP/1.1 201") {
		t.Fatal(got)
	}
	put := append([]byte(fmt.Sprintf("PUT /v2/cut/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", ociManifest, len(m))), m...)
	for k := 0; k < len(put); k += 7 {
		if got := r.raw(put[:k]); strings.HasPrefix(got, "HTTP/1.1 2") {
			t.Fatalf("cut after %d bytes: %s", k, got)
		}
		r.do("HEAD", "/v2/cut/manifests/v1", nil).want(t, 404)
	}
	if got := r.raw(put); !strings.HasPrefix(got, "HTTP/1.1 201") {
		t.Fatal(got)
	}
	r.whole("cut", "v1")

	// An upload goes on from wherever it was cut.
	blob := randomBytes(1000)
	loc := r.begin("cut")
	for cuts := 0; ; cuts++ {
		at := 0
		if a := r.do("GET", loc, nil).want(t, 204); cuts > 0 {
			if _, err := fmt.Sscanf(a.Header.Get("Range"), "0-%d", &at); err != nil {
				t.Fatal(err)
			}
			at++
		}
		if at != min(37*cuts, 1000) {
			t.Fatalf("%d bytes are there after %d cuts", at, cuts)
		}
		if at == len(blob) {
			break
		}
		head := fmt.Sprintf("PATCH %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Range: %d-%d\r\nContent-Length: %d\r\n\r\n", loc, at, len(blob)-1, len(blob)-at)
		r.raw(append([]byte(head), blob[at:min(at+37, len(blob))]...))
	}
	r.do("PUT", loc+"?digest="+digest(blob), nil).want(t, 201)
}

func TestHostileManifests(t *testing.T) {
	t.Parallel()
	r := start(t, registry.Config{})
	d := r.pushBlob("h", []byte("{}"))
	one := fmt.Sprintf(`{"mediaType":"x","digest":"%s","size":2}`, d)
	// As many layers as there is room for; nesting without end; a number that is none.
	many := fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]}`, one, strings.Repeat(one+",", 30_000)+one)
	r.do("PUT", "/v2/h/manifests/many", []byte(many), "Content-Type", ociManifest).want(t, 201)
	for _, body := range []string{
		strings.Repeat(`{"a":`, 500_000),
		strings.Repeat("[", 4<<20),
		`{"schemaVersion":2e999}`,
		`{"schemaVersion":2,"config":{"digest":"` + d + `","size":1e400}}`,
		`{"schemaVersion":2,"config":` + one + `,"layers":[null]}`,
		`{"schemaVersion":2,"config":` + one + `,"layers":[{}]}`,
		`{"schemaVersion":2,"config":` + one + `,"subject":{"digest":"../../x"}}`,
		"\x00\xff",
	} {
		r.do("PUT", "/v2/h/manifests/x", []byte(body), "Content-Type", ociManifest).wantCode(t, 400, "MANIFEST_INVALID")
	}
	// An index that lists itself can't be made; one that lists another many times is walked once.
	m := r.pushImage("h", "v1", 1, nil)
	list := []desc{}
	for range 1000 {
		list = append(list, descOf(ociManifest, m))
	}
	top := index(ociIndex, list...)
	for range 10 {
		r.put("h", "deep", top).want(t, 201)
		top = index(ociIndex, descOf(ociIndex, top), descOf(ociIndex, top))
	}
	r.collect()
	if a := r.do("GET", "/v2/h/manifests/many", nil).want(t, 200); !bytes.Equal(a.body, []byte(many)) {
		t.Error("other bytes came back")
	}
}
