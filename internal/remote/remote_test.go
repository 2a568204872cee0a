package remote

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	cryptorand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
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

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// quick makes failing quick, but for silence: a busy machine is silent, too.
var quick = Patience{Backoff: time.Millisecond, Tries: 3, Longest: time.Second}

func newClient(t *testing.T, certs ...string) *Client {
	c := New(Options{UserAgent: "test", CertDirs: certs, Patience: quick})
	t.Cleanup(c.Close)
	return c
}

func named(t *testing.T, s string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func repository(t *testing.T, c *Client, name string, a Access) *Repository {
	t.Helper()
	r, err := c.Repository(named(t, name), a)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const manifestText = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`

// serveManifest answers for every tag.
func serveManifest(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		io.WriteString(w, manifestText)
		return
	}
	if r.URL.Path != "/v2/" {
		w.WriteHeader(http.StatusNotFound)
	}
}

func host(s *httptest.Server) string {
	return s.URL[strings.Index(s.URL, "://")+3:]
}

func server(t *testing.T, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// tokenServer gives tokens that say what they are for, and wants a password for pushing.
func tokenServer(t *testing.T, asked *[]string) *httptest.Server {
	var mu sync.Mutex
	return server(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		r.ParseForm()
		user, password, _ := r.BasicAuth()
		*asked = append(*asked, fmt.Sprintf("%s %s:%s %s %s", r.Method, user, password, r.Form.Get("service"), strings.Join(r.Form["scope"], " ")))
		if user != "" && password != "secret" || r.Form.Get("refresh_token") == "stale" {
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"details":"incorrect username or password"}`)
			return
		}
		fmt.Fprintf(w, `{"token":"for %s","expires_in":300}`, strings.Join(r.Form["scope"], " "))
	})
}

func TestTokens(t *testing.T) {
	var asked []string
	tokens := tokenServer(t, &asked)
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer for repository:team/app:pull" {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="reg",scope="repository:team/app:pull"`, tokens.URL))
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		serveManifest(w, r)
	})
	c := newClient(t)
	r := repository(t, c, host(reg)+"/team/app", Access{})
	for range 3 {
		if _, err := r.Manifest(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"GET : reg repository:team/app:pull"}; !slices.Equal(asked, want) {
		t.Errorf("asked for tokens %q", asked)
	}
	asked = nil
	r = repository(t, c, host(reg)+"/team/app", Access{Credentials: Credentials{Username: "me", Password: "secret"}})
	if _, err := r.Manifest(t.Context(), "1"); err != nil || len(asked) != 1 || asked[0] != "GET me:secret reg repository:team/app:pull" {
		t.Errorf("with a password: %v %q", err, asked)
	}
	asked = nil
	r = repository(t, c, host(reg)+"/team/app", Access{Credentials: Credentials{Username: "me", Password: "wrong"}})
	if _, err := r.Manifest(t.Context(), "1"); !errs.Unauthorized.Is(err) || !strings.Contains(err.Error(), "incorrect username or password") {
		t.Errorf("with a wrong password: %v", err)
	}
	asked = nil
	r = repository(t, c, host(reg)+"/team/app", Access{Credentials: Credentials{IdentityToken: "x"}})
	if _, err := r.Manifest(t.Context(), "1"); err != nil || len(asked) != 1 || !strings.HasPrefix(asked[0], "POST : reg repository") {
		t.Errorf("with an identity token: %v %q", err, asked)
	}
	r = repository(t, c, host(reg)+"/team/app", Access{Credentials: Credentials{IdentityToken: "stale"}})
	if _, err := r.Manifest(t.Context(), "1"); !errs.Unauthorized.Is(err) {
		t.Errorf("with a stale identity token: %v", err)
	}
	r = repository(t, c, host(reg)+"/team/app", Access{Credentials: Credentials{RegistryToken: "for repository:team/app:pull"}})
	if _, err := r.Manifest(t.Context(), "1"); err != nil {
		t.Errorf("with a registry token: %v", err)
	}
}

// TestATokenThatEnds: a token is refused in the middle, and a new one is asked for.
func TestATokenThatEnds(t *testing.T) {
	n := 0
	var mu sync.Mutex
	tokens := server(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		n++
		fmt.Fprintf(w, `{"access_token":"%d"}`, n)
	})
	good := "Bearer 1"
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		ok := r.Header.Get("Authorization") == good
		mu.Unlock()
		if !ok {
			w.Header().Set("WWW-Authenticate", `bearer realm="`+tokens.URL+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		serveManifest(w, r)
	})
	r := repository(t, newClient(t), host(reg)+"/app", Access{})
	if _, err := r.Manifest(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	good = "Bearer 2"
	mu.Unlock()
	if _, err := r.Manifest(t.Context(), "1"); err != nil {
		t.Errorf("after the first token's end: %v", err)
	}
}

func TestBasic(t *testing.T) {
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "me" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="reg"`)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		serveManifest(w, r)
	})
	c := newClient(t)
	_, err := repository(t, c, host(reg)+"/app", Access{}).Manifest(t.Context(), "1")
	if !errors.Is(err, ErrNoCredentials) || err.Error() != fmt.Sprintf(`Head "%s/v2/app/manifests/1": no basic auth credentials`, reg.URL) {
		t.Errorf("without: %v", err)
	}
	for password, ok := range map[string]bool{"secret": true, "wrong": false} {
		a := Access{Credentials: Credentials{Username: "me", Password: password}}
		if _, err := repository(t, c, host(reg)+"/app", a).Manifest(t.Context(), "1"); (err == nil) != ok || !ok && !errs.Unauthorized.Is(err) {
			t.Errorf("%s: %v", password, err)
		}
		_, err := c.Login(t.Context(), host(reg), a)
		if (err == nil) != ok || !ok && !strings.Contains(err.Error(), "unauthorized: authentication required") {
			t.Errorf("login, %s: %v", password, err)
		}
	}
}

// TestCredentialsStay: what a registry redirects to learns nothing.
func TestCredentialsStay(t *testing.T) {
	blob := []byte("content")
	d := ocispec.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	var leaked []string
	elsewhere := server(t, func(w http.ResponseWriter, r *http.Request) {
		for _, h := range []string{"Authorization", "Cookie", "X-Secret"} {
			if v := r.Header.Get(h); v != "" {
				leaked = append(leaked, h+": "+v)
			}
		}
		w.Write(blob)
	})
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="reg"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, elsewhere.URL+"/signed?x=y", http.StatusTemporaryRedirect)
	})
	r := repository(t, newClient(t), host(reg)+"/app", Access{Credentials: Credentials{Username: "me", Password: "secret"}})
	if data, err := r.Blob(t.Context(), d, 100); err != nil || string(data) != "content" {
		t.Errorf("%q %v", data, err)
	}
	if leaked != nil {
		t.Errorf("the other host was told %q", leaked)
	}
}

func TestMirrors(t *testing.T) {
	reg := server(t, serveManifest)
	var seen []string
	var mu sync.Mutex
	record := func(name string, h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, name+" "+r.URL.RequestURI()+" "+r.Header.Get("Authorization")+r.Header.Get("X-Extra"))
			mu.Unlock()
			h(w, r)
		}
	}
	empty := server(t, record("empty", http.NotFound))
	full := server(t, record("full", serveManifest))
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	c := newClient(t)
	if err := c.Configure(Config{Mirrors: map[string][]string{host(reg): {dead.URL, empty.URL, full.URL + "/sub"}}}); err != nil {
		t.Fatal(err)
	}
	a := Access{Credentials: Credentials{Username: "me", Password: "secret"}}
	for range 2 {
		m, err := repository(t, c, host(reg)+"/app", a).Manifest(t.Context(), "1")
		if err != nil || m.Mirror != full.URL {
			t.Fatalf("%v, from %q", err, m.Mirror)
		}
	}
	want := "full /sub/v2/app/manifests/1?ns=" + strings.ReplaceAll(host(reg), ":", "%3A") + " "
	if len(seen) != 4 || seen[1] != want {
		t.Errorf("asked %q", seen)
	}
	c.mu.Lock()
	if _, ok := c.dead[dead.URL+"/v2"]; !ok {
		t.Error("the dead one is not left alone")
	}
	clear(c.dead) // a minute later
	c.mu.Unlock()
	// What did not answer comes after what did, wherever it stands.
	seen = nil
	if m, err := repository(t, c, host(reg)+"/app", a).Manifest(t.Context(), "1"); err != nil || m.Mirror != full.URL || len(c.dead) != 0 || len(seen) != 2 {
		t.Errorf("%v, from %q; the dead one is asked first again: %v %q", err, m.Mirror, c.dead, seen)
	}
	if err := c.Configure(Config{Mirrors: map[string][]string{"*": {empty.URL}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := repository(t, c, host(reg)+"/app", a).Manifest(t.Context(), "1"); err != nil || m.Mirror != "" {
		t.Errorf("the registry itself comes last: %v, from %q", err, m.Mirror)
	}

	// The same by containerd's file.
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, host(reg)), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n[host.%q.header]\nX-Extra = \"yes\"\n", reg.URL, full.URL, full.URL)
	if err := os.WriteFile(filepath.Join(dir, host(reg), "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	seen = nil
	if m, err := repository(t, newClient(t, dir), host(reg)+"/app", a).Manifest(t.Context(), "1"); err != nil || m.Mirror != full.URL {
		t.Errorf("%v, from %q", err, m.Mirror)
	}
	if len(seen) != 1 || !strings.HasSuffix(seen[0], " yes") {
		t.Errorf("asked %q", seen)
	}
}

func TestSchemes(t *testing.T) {
	plain := server(t, serveManifest)
	secure := httptest.NewTLSServer(http.HandlerFunc(serveManifest))
	t.Cleanup(secure.Close)
	c := newClient(t)
	for _, s := range []*httptest.Server{plain, secure} { // on loopback either will do
		if _, err := repository(t, c, host(s)+"/app", Access{}).Manifest(t.Context(), "1"); err != nil {
			t.Errorf("%s: %v", s.URL, err)
		}
	}
	// What is not insecure wants a good certificate.
	strict := func(s *httptest.Server, dirs ...string) error {
		c := newClient(t, dirs...)
		r := repository(t, c, host(s)+"/app", Access{})
		e := r.endpoints[0]
		e.insecure = false
		e.base.Scheme = "https"
		var err error
		if e.http, err = c.dialer(host(s), false); err != nil {
			return err
		}
		_, err = r.Manifest(t.Context(), "1")
		return err
	}
	if err := strict(plain); err == nil || !strings.Contains(err.Error(), "http: server gave HTTP response to HTTPS client\n") || !strings.Contains(err.Error(), `"insecure-registries": ["`+host(plain)+`"]`) {
		t.Errorf("plain HTTP: %v", err)
	}
	if err := strict(secure); err == nil || !strings.Contains(err.Error(), "certs.d/"+host(secure)+"/ca.crt") {
		t.Errorf("unknown authority: %v", err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, host(secure)), 0o755); err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(filepath.Join(dir, host(secure), "ca.crt"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := strict(secure, dir); err != nil {
		t.Errorf("with its authority: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, host(secure), "me.cert"), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, dir).Repository(named(t, host(secure)+"/app"), Access{}); err == nil || !strings.Contains(err.Error(), "missing key me.key for client certificate me.cert") {
		t.Errorf("a certificate without its key: %v", err)
	}
}

// selfSigned makes a certificate (DER) that stands for itself, and its key.
func selfSigned(t *testing.T, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(1)
	der, err := x509.CreateCertificate(cryptorand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// TestClientCertificate: a registry that wants one gets that of its folder, and no other host does.
func TestClientCertificate(t *testing.T) {
	me, key := selfSigned(t, &x509.Certificate{NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	start := func(mode tls.ClientAuthType, shown *atomic.Int64) *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.TLS.PeerCertificates) == 1 && bytes.Equal(r.TLS.PeerCertificates[0].Raw, me) {
				shown.Add(1)
			}
			serveManifest(w, r)
		}))
		s.TLS = &tls.Config{ClientAuth: mode}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	var wanted, other atomic.Int64
	strict, curious := start(tls.RequireAnyClientCert, &wanted), start(tls.RequestClientCert, &other)
	dir := t.TempDir()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: strict.Certificate().Raw})
	for name, data := range map[string][]byte{
		host(strict) + "/ca.crt": ca, host(curious) + "/ca.crt": ca,
		host(strict) + "/me.cert": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: me}),
		host(strict) + "/me.key":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c := newClient(t, dir)
	for _, s := range []*httptest.Server{strict, curious} {
		if _, err := repository(t, c, host(s)+"/app", Access{}).Manifest(t.Context(), "1"); err != nil {
			t.Error(err)
		}
	}
	if wanted.Load() == 0 || other.Load() != 0 {
		t.Errorf("shown %d times where it is wanted, %d times elsewhere", wanted.Load(), other.Load())
	}
	if _, err := repository(t, newClient(t), host(strict)+"/app", Access{}).Manifest(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), host(strict)+" wants a certificate of ours") {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestProxies(t *testing.T) {
	p, err := parseProxies(Proxies{HTTP: "plain:3128", HTTPS: "http://u:p@secure:3128", No: "direct.example, .lan,10.0.0.0/8,port.example:5000"})
	if err != nil {
		t.Fatal(err)
	}
	for u, want := range map[string]string{
		"http://reg.example": "plain:3128", "https://reg.example": "secure:3128", "https://direct.example:5000": "", "https://a.direct.example": "",
		"https://lan": "secure:3128", "https://a.lan": "", "https://10.1.2.3": "", "https://11.1.2.3": "secure:3128", "https://localhost:5000": "", "http://127.0.0.1": "",
		"http://port.example:5000": "", "http://port.example:5001": "plain:3128", "http://notdirect.example": "plain:3128",
	} {
		at, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if way := p.of(at); way != nil {
			got = way.Host
		}
		if got != want {
			t.Errorf("%s by %q, not %q", u, got, want)
		}
	}
	if got := (Proxies{HTTPS: "http://u:p@secure:3128"}).shown().HTTPS; got != "http://xxxxx:xxxxx@secure:3128" {
		t.Errorf("shown as %q", got)
	}
	for _, bad := range []string{"ftp://x", "http://", "a b"} {
		if _, err := parseProxies(Proxies{HTTP: bad}); !errs.Invalid.Is(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestInsecureRegistries(t *testing.T) {
	for _, bad := range []Config{
		{Insecure: []string{"http://x"}}, {Insecure: []string{"a b"}}, {Insecure: []string{"../x"}},
		{Mirrors: map[string][]string{"docker.io": {"mirror:5000"}}}, {Mirrors: map[string][]string{"docker.io": {"https://u:p@x"}}},
		{Mirrors: map[string][]string{"docker.io": {"https://x?y"}}}, {Mirrors: map[string][]string{"a/b": {"https://x"}}},
	} {
		if _, err := parseConfig(bad); !errs.Invalid.Is(err) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	s, err := parseConfig(Config{Insecure: []string{"reg.example:5000", "10.1.0.0/16"}})
	if err != nil {
		t.Fatal(err)
	}
	for h, want := range map[string]bool{
		"reg.example:5000": true, "REG.example:5000": true, "10.1.2.3:5000": true, "10.1.2.3": true, "10.2.0.1": false, "localhost:5000": true, "127.3.2.1": true,
		"[::1]:5000": true, "x.localhost": true,
	} {
		if s.isInsecure(h) != want {
			t.Errorf("%s: %v", h, !want)
		}
	}
}

// TestPushGoesOn: an upload is cut, and goes on from what has arrived.
func TestPushGoesOn(t *testing.T) {
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	var mu sync.Mutex
	var have []byte
	var ranges []string
	whole := false
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Location", "/v2/app/blobs/uploads/1?state=x")
		switch r.Method {
		case "POST":
			w.WriteHeader(http.StatusAccepted)
		case "PATCH":
			ranges = append(ranges, r.Header.Get("Content-Range"))
			if len(ranges) < 3 {
				part, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
				have = append(have, part...)
				panic(http.ErrAbortHandler)
			}
			part, _ := io.ReadAll(r.Body)
			have = append(have, part...)
			w.WriteHeader(http.StatusAccepted)
		case "GET":
			if r.URL.Path == "/v2/" {
				return
			}
			w.Header().Set("Range", fmt.Sprintf("0-%d", len(have)-1))
			w.WriteHeader(http.StatusNoContent)
		case "PUT":
			whole = digest.FromBytes(have) == d.Digest && r.URL.Query().Get("digest") == d.Digest.String() && r.URL.Query().Get("state") == "x"
			w.WriteHeader(http.StatusCreated)
		}
	})
	r := repository(t, newClient(t), host(reg)+"/app", Access{})
	_, err := r.Push(t.Context(), d, nil, func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(data[offset:]))), nil
	}, nil)
	if err != nil || !whole {
		t.Errorf("%v, whole %v", err, whole)
	}
	if want := []string{"", "1048576-3145727", "2097152-3145727"}; !slices.Equal(ranges, want) {
		t.Errorf("ranges %q", ranges)
	}
}

// TestPushToAPage: a web server that says 200 to everything has taken nothing.
func TestPushToAPage(t *testing.T) {
	page := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			w.Header().Set("Location", "/v2/app/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
			return
		}
		io.WriteString(w, "<html>hello</html>")
	})
	r := repository(t, newClient(t), host(page)+"/app", Access{})
	if err := r.PutManifest(t.Context(), "1", ocispec.MediaTypeImageIndex, []byte(manifestText)); !errs.Unavailable.Is(err) || !strings.Contains(err.Error(), "answered 200 OK, not 201 Created\nwhat answers there is no registry") {
		t.Errorf("a manifest: %v", err)
	}
	d := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
	if _, err := r.Push(t.Context(), d, nil, func(int64) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("x")), nil }, nil); !errs.Unavailable.Is(err) {
		t.Errorf("a blob: %v", err)
	}
}

// TestWhoDoesNotAnswer: what a message names is who did not answer, be it behind a redirect or on the way.
func TestWhoDoesNotAnswer(t *testing.T) {
	gone := server(t, serveManifest)
	dead := host(gone)
	gone.Close()
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			http.Redirect(w, r, gone.URL+"/elsewhere", http.StatusTemporaryRedirect)
		}
	})
	if _, err := repository(t, newClient(t), host(reg)+"/app", Access{}).Manifest(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "\nNothing listens at "+dead) {
		t.Errorf("behind a redirect: %v", err)
	}
	c := newClient(t)
	if err := c.Configure(Config{Proxies: Proxies{HTTP: gone.URL, HTTPS: gone.URL}}); err != nil {
		t.Fatal(err)
	}
	if _, err := repository(t, c, "registry.example/app", Access{}).Manifest(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "\nThe proxy "+dead+" does not let us through") {
		t.Errorf("through a proxy: %v", err)
	}
}

// TestRangesThatAreNot: a registry that knows no ranges sends the whole; one that sends another range is refused.
func TestRangesThatAreNot(t *testing.T) {
	data := []byte(strings.Repeat("0123456789", 1000))
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	for name, h := range map[string]http.HandlerFunc{
		"whole": func(w http.ResponseWriter, r *http.Request) { w.Write(data) },
		"416 once": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			w.Write(data)
		},
		"another": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 1-9999/10000")
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[1:])
		},
	} {
		reg := server(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/v2/" {
				h(w, r)
			}
		})
		store, err := content.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		l := store.Lease()
		defer l.Release()
		p, err := store.Partial(t.Context(), l, d.Digest, d.Size)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Write(data[:5000]); err != nil {
			t.Fatal(err)
		}
		err = repository(t, newClient(t), host(reg)+"/app", Access{}).FetchInto(t.Context(), p, d)
		p.Close()
		if (err == nil) != (name != "another") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSearch(t *testing.T) {
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/search" && r.URL.Query().Get("q") == "deb" && r.URL.Query().Get("n") == "7" {
			io.WriteString(w, `{"num_results":1,"results":[{"name":"team/debian","description":"d","star_count":3}]}`)
		}
	})
	found, err := newClient(t).Search(t.Context(), host(reg)+"/deb", 7, Access{})
	if err != nil || len(found) != 1 || found[0] != (Result{"team/debian", "d", 3, false}) {
		t.Errorf("%v %v", found, err)
	}
}

func TestTagsArePaged(t *testing.T) {
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/app/tags/list" {
			return
		}
		if r.URL.Query().Get("last") == "" {
			w.Header().Set("Link", `</v2/app/tags/list?n=1000&last=b>; rel="next"`)
			io.WriteString(w, `{"tags":["a","b"]}`)
			return
		}
		io.WriteString(w, `{"tags":["c"]}`)
	})
	tags, err := repository(t, newClient(t), host(reg)+"/app", Access{}).Tags(t.Context())
	if err != nil || !slices.Equal(tags, []string{"a", "b", "c"}) {
		t.Errorf("%v %v", tags, err)
	}
}

func TestCancelEndsARequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	reg := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		cancel()
		<-r.Context().Done()
	})
	if _, err := repository(t, newClient(t), host(reg)+"/app", Access{}).Manifest(ctx, "1"); !errs.Canceled.Is(err) {
		t.Errorf("got %v", err)
	}
}
