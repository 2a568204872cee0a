package registry_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	dockerImage = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList  = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// reg is a registry that serves, and a client for it.
type reg struct {
	t    *testing.T
	s    *registry.Server
	st   *disk.Disk
	data string
	url  string
	srv  *httptest.Server
	auth string
}

func start(t *testing.T, cfg registry.Config) *reg {
	t.Helper()
	return startAt(t, t.TempDir(), cfg)
}

func startAt(t *testing.T, data string, cfg registry.Config) *reg {
	t.Helper()
	return startOver(t, data, cfg, func(st *disk.Disk) registry.Storage { return st })
}

// startOver starts a registry over what over makes of the folder data.
func startOver(t *testing.T, data string, cfg registry.Config, over func(*disk.Disk) registry.Storage) *reg {
	t.Helper()
	st, err := disk.Open(data)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Data = data
	s, err := registry.New(cfg, over(st), slog.New(slog.NewTextHandler(testWriter{t}, nil)))
	if err != nil {
		st.Close()
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	r := &reg{t: t, s: s, st: st, data: data, url: srv.URL, srv: srv}
	t.Cleanup(func() {
		srv.Close()
		s.Close()
		st.Close()
	})
	return r
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimRight(p, "\n"))
	return len(p), nil
}

// answer is a response, read.
type answer struct {
	*http.Response
	body []byte
}

// do sends a request. headers are pairs of name and value.
func (r *reg) do(method, path string, body []byte, headers ...string) answer {
	r.t.Helper()
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	if !strings.HasPrefix(path, "http") {
		path = r.url + path
	}
	req, err := http.NewRequest(method, path, rd)
	if err != nil {
		r.t.Fatal(err)
	}
	if r.auth != "" {
		req.Header.Set("Authorization", r.auth)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := r.srv.Client().Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp, b}
}

func (a answer) want(t *testing.T, status int) answer {
	t.Helper()
	if a.StatusCode != status {
		t.Fatalf("%s %s: %s, want %d: %s", a.Request.Method, a.Request.URL, a.Status, status, a.body)
	}
	return a
}

// wantCode holds that the answer is an error of the specification's form.
func (a answer) wantCode(t *testing.T, status int, code string) {
	t.Helper()
	a.want(t, status)
	var e struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &e); err != nil || len(e.Errors) == 0 || e.Errors[0].Code != code {
		t.Fatalf("%s %s: %s, want an error %s", a.Request.Method, a.Request.URL, a.body, code)
	}
}

func (a answer) header(t *testing.T, name, value string) answer {
	t.Helper()
	if got := a.Header.Get(name); got != value {
		t.Fatalf("%s %s: %s: %q, want %q", a.Request.Method, a.Request.URL, name, got, value)
	}
	return a
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func digest512(b []byte) string {
	sum := sha512.Sum512(b)
	return "sha512:" + hex.EncodeToString(sum[:])
}

func randomBytes(n int) []byte {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// pushBlob uploads by POST and PUT.
func (r *reg) pushBlob(repo string, b []byte) string {
	r.t.Helper()
	d := digest(b)
	r.do("PUT", r.begin(repo)+"?digest="+d, b).want(r.t, 201)
	return d
}

// begin opens an upload.
func (r *reg) begin(repo string) string {
	r.t.Helper()
	return r.do("POST", "/v2/"+repo+"/blobs/uploads/", nil).want(r.t, 202).Header.Get("Location")
}

type desc struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

func descOf(mediaType string, b []byte) desc {
	return desc{MediaType: mediaType, Digest: digest(b), Size: len(b)}
}

// image makes a manifest with these layers; more is put into it.
func image(config []byte, layers [][]byte, more map[string]any) []byte {
	m := map[string]any{
		"schemaVersion": 2, "mediaType": ociManifest,
		"config": descOf("application/vnd.oci.image.config.v1+json", config),
	}
	list := []desc{}
	for _, l := range layers {
		list = append(list, descOf("application/vnd.oci.image.layer.v1.tar", l))
	}
	m["layers"] = list
	for k, v := range more {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func index(mediaType string, children ...desc) []byte {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": append([]desc{}, children...)})
	if err != nil {
		panic(err)
	}
	return b
}

// pushImage pushes an image of n layers and returns its manifest.
func (r *reg) pushImage(repo, ref string, n int, more map[string]any) []byte {
	r.t.Helper()
	config := []byte(fmt.Sprintf(`{"n":"%x"}`, randomBytes(8)))
	var layers [][]byte
	for range n {
		layers = append(layers, randomBytes(1000))
	}
	for _, b := range append(layers, config) {
		r.pushBlob(repo, b)
	}
	m := image(config, layers, more)
	if ref == "" {
		ref = digest(m)
	}
	r.put(repo, ref, m).want(r.t, 201)
	return m
}

func (r *reg) put(repo, ref string, manifest []byte, headers ...string) answer {
	r.t.Helper()
	var m struct{ MediaType string }
	_ = json.Unmarshal(manifest, &m)
	return r.do("PUT", "/v2/"+repo+"/manifests/"+ref, manifest, append([]string{"Content-Type", m.MediaType}, headers...)...)
}
