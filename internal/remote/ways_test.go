package remote

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
)

// TestProxiesThatRefuse: what a proxy says is not taken for the registry's word, and the message names it, and what mends it.
func TestProxiesThatRefuse(t *testing.T) {
	var asked atomic.Int64
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.WriteHeader(code)
		}
	}
	cut := func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}
	half := func(w http.ResponseWriter, _ *http.Request) { // it connects, and then cuts
		asked.Add(1)
		c, rw, err := http.NewResponseController(w).Hijack()
		if err == nil {
			rw.WriteString("HTTP/1.1 200 OK\r\n\r\n")
			rw.Flush()
			c.Close()
		}
	}
	for _, c := range []struct {
		name     string
		h        http.HandlerFunc
		want     string
		tries    int64
		insecure bool // the registry speaks plain HTTP
	}{
		{"407", status(407), "Proxy Authentication Required\nThe proxy PROXY wants a user and a password: write them into its URL, http://USER:PASSWORD@PROXY, in proxies of daemon.json", 1, false},
		{"407 over HTTP", status(407), "Proxy Authentication Required\nThe proxy PROXY wants a user and a password", 2, true},
		{"403", status(403), "Forbidden\nThe proxy PROXY answered 403 Forbidden: see proxies in daemon.json", 1, false},
		{"502", status(502), "Bad Gateway\nThe proxy PROXY answered 502 Bad Gateway: see proxies in daemon.json", int64(quick.Tries), false},
		{"cut", cut, "EOF\nThe way to registry.example goes through the proxy PROXY, and broke off: see proxies in daemon.json", int64(quick.Tries), false},
		{"cut after connecting", half, "EOF\nThe way to registry.example goes through the proxy PROXY, and broke off: see proxies in daemon.json", int64(quick.Tries), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked.Store(0)
			p := server(t, c.h)
			cl := newClient(t)
			cfg := Config{Proxies: Proxies{HTTP: p.URL, HTTPS: p.URL}}
			if c.insecure {
				cfg.Insecure = []string{"registry.example"}
			}
			if err := cl.Configure(cfg); err != nil {
				t.Fatal(err)
			}
			_, err := repository(t, cl, "registry.example/app", Access{}).Manifest(t.Context(), "1")
			if want := strings.ReplaceAll(c.want, "PROXY", host(p)); !errs.Unavailable.Is(err) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v\ninstead of\n%s", err, want)
			}
			if n := asked.Load(); n != c.tries {
				t.Errorf("asked %d times, not %d", n, c.tries)
			}
			if len(cl.schemes) > 0 {
				t.Errorf("the proxy's word was taken for the registry's: %v", cl.schemes)
			}
			// Another configuration counts from the next request on.
			good := server(t, serveManifest)
			if err := cl.Configure(Config{Proxies: Proxies{HTTP: good.URL}, Insecure: []string{"registry.example"}}); err != nil {
				t.Fatal(err)
			}
			r := repository(t, cl, "registry.example/app", Access{})
			r.registry().setScheme("http") // over HTTPS there is nobody
			if _, err := r.Manifest(t.Context(), "1"); err != nil {
				t.Errorf("after the configuration changed: %v", err)
			}
		})
	}
}

// TestCertificatesThatWontDo: each says what mends it.
func TestCertificatesThatWontDo(t *testing.T) {
	start := func(change func(*x509.Certificate)) (*httptest.Server, []byte) {
		c := &x509.Certificate{NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
		change(c)
		der, key := selfSigned(t, c)
		s := httptest.NewUnstartedServer(http.HandlerFunc(serveManifest))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.StartTLS()
		t.Cleanup(s.Close)
		return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	_, foreign := start(func(*x509.Certificate) {})
	yesterday := time.Now().Add(-24 * time.Hour) // once, for midnight may come in between
	for _, c := range []struct {
		name   string
		change func(*x509.Certificate)
		ca     []byte // instead of its own
		want   string
	}{
		{"good", func(*x509.Certificate) {}, nil, ""},
		{"ended", func(c *x509.Certificate) { c.NotAfter = yesterday }, nil,
			"\nThe certificate of HOST was good until " + yesterday.UTC().Format(time.DateOnly) + ": whoever runs it has it made anew"},
		{"not begun", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(24 * time.Hour) }, nil, ": is this machine's clock right?"},
		{"for another name", func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} }, nil, "\nThe certificate of HOST is for other names"},
		{"the wrong authority", func(*x509.Certificate) {}, foreign, "\nThe certificate of HOST is signed by nobody this machine knows: put the authority's into /etc/gantry/certs.d/HOST/ca.crt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, ca := start(c.change)
			at := strings.Replace(host(s), "127.0.0.1", "localhost", 1)
			if c.ca != nil {
				ca = c.ca
			}
			dir := t.TempDir()
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, at), 0o755), os.WriteFile(filepath.Join(dir, at, "ca.crt"), ca, 0o644)); err != nil {
				t.Fatal(err)
			}
			cl := newClient(t, dir)
			r := repository(t, cl, at+"/app", Access{})
			e := r.registry()
			e.insecure = false // on loopback anything would do
			var err error
			if e.http, err = cl.dialer(at, false); err != nil {
				t.Fatal(err)
			}
			_, err = r.Manifest(t.Context(), "1")
			if want := strings.ReplaceAll(c.want, "HOST", at); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v\ninstead of\n%s", err, want)
			}
		})
	}
}

// TestMirrorsAreNamed: where neither a mirror nor the registry gives an image, the message tells of both.
func TestMirrorsAreNamed(t *testing.T) {
	gone := server(t, serveManifest)
	gone.Close()
	empty := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`)
	})
	dead := server(t, serveManifest)
	dead.Close()
	c := newClient(t)
	if err := c.Configure(Config{Mirrors: map[string][]string{host(gone): {empty.URL, dead.URL}}}); err != nil {
		t.Fatal(err)
	}
	for _, second := range []string{" was asked before: Get \"", " was not asked: it did not answer a moment ago"} {
		_, err := repository(t, c, host(gone)+"/app", Access{}).Manifest(t.Context(), "1")
		if !errs.Unavailable.Is(err) {
			t.Fatal(err)
		}
		for _, want := range []string{
			"\nNothing listens at " + host(gone), "\nIts mirror " + empty.URL + " was asked before: manifest unknown: manifest unknown\n", "\nIts mirror " + dead.URL + second,
		} {
			if !strings.Contains(err.Error()+"\n", want) {
				t.Errorf("%v\nlacks\n%s", err, want)
			}
		}
	}
	// What the registry itself says needs no mirror's word.
	if err := c.Configure(Config{Mirrors: map[string][]string{host(empty): {dead.URL}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := repository(t, c, host(empty)+"/app", Access{}).Manifest(t.Context(), "1"); err == nil || strings.Contains(err.Error(), dead.URL) {
		t.Error(err)
	}
}

// TestLoginAtAPage: a web site that says 200 to everything has looked at no password. Registries without logins say so, too, each in its way.
func TestLoginAtAPage(t *testing.T) {
	a := Access{Credentials: Credentials{Username: "me", Password: "secret"}}
	for body, good := range map[string]bool{"{}": true, "": true, "true": true, "\"\"": true, "\n <!DOCTYPE html><html>hello</html>": false} {
		s := server(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
		_, err := newClient(t).Login(t.Context(), host(s), a)
		if good && err != nil || !good && (!errs.Invalid.Is(err) || !strings.Contains(err.Error(), "\nwhat answers there is no registry")) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

// TestNoRoomIsSaidAtOnce: a registry without room is not asked again and again, and its own word is what the user sees.
func TestNoRoomIsSaidAtOnce(t *testing.T) {
	var asked atomic.Int64
	s := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case r.Method == "POST":
			w.Header().Set("Location", "/v2/app/blobs/uploads/1")
			w.WriteHeader(http.StatusAccepted)
		case r.Method == "GET":
			w.WriteHeader(http.StatusNotFound) // it kept nothing of the upload
		default:
			asked.Add(1)
			w.WriteHeader(http.StatusInsufficientStorage)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"the registry's disk is full","detail":{}}]}`)
		}
	})
	r := repository(t, newClient(t), host(s)+"/app", Access{})
	for _, size := range []int{10, wholeBelow + 1} {
		data := strings.Repeat("x", size)
		_, err := r.Push(t.Context(), ocispec.Descriptor{Digest: digest.FromString(data), Size: int64(size)}, nil, func(off int64) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(data[off:])), nil }, nil)
		if err == nil || err.Error() != "denied: the registry's disk is full" || asked.Swap(0) != 1 {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
