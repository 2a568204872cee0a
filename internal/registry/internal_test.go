package registry

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The grammars as the distribution-spec writes them.
var (
	nameGrammar = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagGrammar  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

func FuzzNames(f *testing.F) {
	for _, s := range []string{"a", "a/b", "a_b", "a__b", "a___b", "a-b", "a---b", "a.b", "a..b", "a._b", "a-_b", "a_-b", "_a", "a_", "a/", "/a", "a//b", "A", "", "a/_b", "a\n", "a\x00b", "0/9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validName(s), len(s) <= maxName && nameGrammar.MatchString(s) && !strings.HasSuffix(s, "\n"); got != want {
			t.Errorf("validName(%q) = %v", s, got)
		}
		if got, want := validTag(s), tagGrammar.MatchString(s) && !strings.HasSuffix(s, "\n"); got != want {
			t.Errorf("validTag(%q) = %v", s, got)
		}
		if d, ok := ParseDigest(s); ok && (d.Algorithm()+":"+d.Hex() != s || strings.ContainsAny(s, "/.")) {
			t.Errorf("ParseDigest(%q)", s)
		}
		if repo, _, ok := parseScope("repository:" + s + ":pull"); ok && !validName(repo) {
			t.Errorf("parseScope gave %q", repo)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/v2/", "/v2/a/tags/list", "/v2/a/b/manifests/x", "/v2/a/blobs/sha256:x", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/x", "/v2/a/referrers/x",
		"/v2/blobs/blobs/blobs/x", "/v2/tags/list/tags/list", "/v2//manifests/", "/v2/a/manifests/", "//", "/v2/a/manifests/x/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		rt := parsePath(path)
		if strings.Contains(rt.ref, "/") {
			t.Errorf("%q: the reference %q has a slash", path, rt.ref)
		}
		if rt.kind == routeNone && (rt.repo != "" || rt.ref != "") {
			t.Errorf("%q: nothing, but %+v", path, rt)
		}
	})
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-99", "99-0", "-", "1-", "-1", "bytes 0-9/*", "bytes 0-9/10", "9223372036854775807-9223372036854775807", "0x1-2", " 0-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if first, last, ok := parseContentRange(s); ok && (first < 0 || last < first || last-first+1 <= 0) {
			t.Errorf("%q: %d-%d", s, first, last)
		}
	})
}

func FuzzManifest(f *testing.F) {
	d := `{"mediaType":"x","digest":"sha256:` + strings.Repeat("0", 64) + `","size":1}`
	f.Add(typeOCIManifest, []byte(`{"schemaVersion":2,"config":`+d+`,"layers":[`+d+`],"subject":`+d+`}`))
	f.Add(typeOCIIndex, []byte(`{"schemaVersion":2,"manifests":[`+d+`]}`))
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"`+typeDockerImage+`","config":`+d+`}`))
	f.Add(typeOCIArtifact+"; charset=utf-8", []byte(`{"blobs":[`+d+`]}`))
	f.Add("x/y", []byte(`null`))
	f.Add(typeOCIManifest, []byte(strings.Repeat(`{"config":`, 1000)))
	f.Fuzz(func(t *testing.T, typ string, b []byte) {
		m, err := parseManifest(typ, b)
		if err != nil {
			if _, ok := err.(*apiError); !ok {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		if m.mediaType == "" || strings.ContainsAny(m.mediaType, "\n;") {
			t.Errorf("media type %q", m.mediaType)
		}
		all := append(append([]descriptor{}, m.blobs...), m.children...)
		if m.subject != nil {
			all = append(all, *m.subject)
		}
		for _, c := range all {
			if _, ok := ParseDigest(c.Digest); !ok || c.Size < 0 {
				t.Errorf("%+v", c)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	now := time.Unix(1_000_000, 0)
	good := signToken(key, claims{Issuer: tokenIssuer, Subject: "a", NotBefore: 1, Expires: 2_000_000})
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + strings.TrimPrefix(good, tokenHeader)
	for _, s := range []string{good, none, good[:len(good)-1], good + "A", "..", "", ".", strings.Repeat(".", 100), signToken(key, claims{Issuer: tokenIssuer}), signToken(key, claims{Issuer: "x", Expires: 2_000_000})} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := verifyToken(key.Public().(ed25519.PublicKey), s, now)
		if (err == nil) != (s == good) {
			// The signature's last character has bits that say nothing: the same bytes in another spelling.
			if i := len(good) - 1; err == nil && len(s) == len(good) && s[:i] == good[:i] {
				return
			}
			t.Errorf("%q: %+v, %v", s, c, err)
		}
	})
}

func FuzzHtpasswd(f *testing.F) {
	f.Add([]byte("a:" + string(nobody) + "\n# x\n\nb:" + strings.Replace(string(nobody), "$2a$", "$2y$", 1)))
	f.Add([]byte("a:{SHA}x"))
	f.Add([]byte("a"))
	f.Add([]byte(":x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		users, err := parseHtpasswd(b)
		for u, h := range users {
			if err != nil || u == "" || strings.Contains(u, ":") || !strings.HasPrefix(string(h), "$2") {
				t.Errorf("%q: %q, %v", u, h, err)
			}
		}
	})
}

func FuzzChallenge(f *testing.F) {
	for _, s := range []string{`Bearer realm="https://a/token",service="b",scope="repository:x:pull,push"`, `Basic realm="x"`, `Bearer realm="a\"b`, `Bearer a=b, c=d`, `=,=,`, `Bearer "`, ``} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { parseChallenge(s) })
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	scheme, p := parseChallenge(`Bearer realm="https://a/token?x=y",service="b \"c\"", scope="repository:x:pull,push",error=none`)
	if scheme != "bearer" || p["realm"] != "https://a/token?x=y" || p["service"] != `b "c"` || p["scope"] != "repository:x:pull,push" || p["error"] != "none" {
		t.Errorf("%q %q", scheme, p)
	}
}

func TestPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"**", "a/b/c", true}, {"*", "a", true}, {"*", "a/b", false}, {"a/*", "a/b", true}, {"a/*", "a/b/c", false}, {"a/**", "a/b/c", true}, {"a/**", "a", false},
		{"a/**/c", "a/b/b/c", true}, {"**/c", "a/c", true}, {"v*", "v1.2", true}, {"v*.*", "v1", false}, {"v?", "v1", true}, {"v?", "v", false}, {"a?b", "a/b", false},
		{"", "", true}, {"", "a", false}, {"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxaxx", false}, {"**/x*/y", "a/xb/c/xd/y", true}, {"a", "ab", false}, {"ab", "a", false},
	} {
		if got := match(c.pattern, c.name); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.name, got)
		}
	}
	// No pattern makes it slow.
	if match(strings.Repeat("*a", 60)+"**"+strings.Repeat("*a", 60)+"b", strings.Repeat("a", 255)) {
		t.Error("a name without b matches a pattern that ends in b")
	}
}

func TestParseConfig(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig([]byte(`
listen: 127.0.0.1:5000
auth:
  htpasswd: /etc/x
  rules:
  - users: [anonymous]
    repositories: ["public/**"]
    allow: [pull]
gc: {every: 30m, untagged: 7d, grace: never}
retention:
- repositories: ["ci/**"]
  tags: ["pr-*"]
  keep-last: 10
  keep-younger: 30d
immutable:
- tags: ["v*"]
proxy:
  upstreams:
    docker.io: {}
    "localhost:5001": {url: "http://localhost:5001"}
limits: {blob: 10GB, stall: 5s}
`))
	if err != nil {
		t.Fatal(err)
	}
	if c.Limits.Blob != 10_000_000_000 || time.Duration(c.GC.Untagged) != 7*24*time.Hour || c.GC.Grace >= 0 || c.Retention[0].KeepLast != 10 || len(c.Retention[0].Tags) != 1 {
		t.Errorf("%+v", c)
	}
	for _, s := range []struct {
		text string
		want Size
	}{{"1", 1}, {"1B", 1}, {"2K", 2000}, {"2kb", 2000}, {"3MiB", 3 << 20}, {"1TiB", 1 << 40}, {"1 TB", 1e12}} {
		c, err := ParseConfig([]byte("limits: {blob: " + s.text + "}"))
		if err != nil || c.Limits.Blob != s.want {
			t.Errorf("%s: %d, %v", s.text, c.Limits.Blob, err)
		}
	}
	for _, bad := range []string{
		"lissten: x", "auth: {mode: x}", "tls: {mode: files}", "gc: {every: -1s}", "gc: {every: 1}", "limits: {blob: x}", "limits: {blob: 99999999999TB}",
		"retention: [{tags: [x]}]", "auth: {rules: [{users: [a], repositories: [b], allow: [c]}]}", "auth: {rules: [{users: [a]}]}", "auth: {mode: basic, rules: [{users: [a], repositories: [b], allow: [pull]}]}",
		"proxy: {upstreams: {\"a/b\": {}}}", "proxy: {upstreams: {\"A\": {}}}", "proxy: {upstreams: {a.b: {url: \"ftp://x\"}}}", "proxy: {upstreams: {a.b: {username: x}}}", "auth: {url: x}", "[]",
	} {
		if _, err := ParseConfig([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
	if _, err := ParseConfig(nil); err != nil {
		t.Error(err)
	}
}

func TestAutomaticCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dial := func(names []string, host string) error {
		t.Helper()
		cfg, err := autoTLS(dir, names, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		pem, err := os.ReadFile(CAFile(dir))
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			t.Fatal("no certificate in", CAFile(dir))
		}
		l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.NotFoundHandler()}
		defer srv.Close()
		go srv.Serve(l)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
			}}}
		resp, err := c.Get("https://" + host)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]"} {
		if err := dial(nil, host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	ca, err := os.ReadFile(CAFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	if dial(nil, "registry.test") == nil {
		t.Error("registry.test is not among the names")
	}
	// A name more: another certificate of the same authority.
	if err := dial([]string{"registry.test", "192.0.2.1"}, "registry.test"); err != nil {
		t.Error(err)
	}
	if again, _ := os.ReadFile(CAFile(dir)); string(again) != string(ca) {
		t.Error("the authority changed: clients would have to trust anew")
	}
	for _, key := range []string{"ca.key", "server.key"} {
		if fi, err := os.Stat(dir + "/tls/" + key); err != nil || fi.Mode().Perm() != 0o600 {
			t.Error(key, err, fi.Mode())
		}
	}
}

// TestCertificateThatCantBeKept: the time to renew has come, but the disk takes nothing, or somebody deleted the folder.
func TestCertificateThatCantBeKept(t *testing.T) {
	t.Parallel()
	a := &authorityTLS{dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	if err := a.openCA(); err != nil {
		t.Fatal(err)
	}
	old, err := a.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	old.Leaf.NotAfter = time.Now().Add(time.Hour)
	if err := os.RemoveAll(a.dir); err != nil {
		t.Fatal(err)
	}
	fresh, err := a.certificate(nil)
	if err != nil || fresh == old || fresh.Leaf.CheckSignatureFrom(a.ca) != nil {
		t.Errorf("%v: the certificate is not a new one of the same authority", err)
	}
	if again, err := a.certificate(nil); err != nil || again != fresh {
		t.Errorf("%v: another one is made each time", err)
	}
}

// TestStalledClients holds that a client that sends or takes nothing does not keep its connection.
func TestStalledClients(t *testing.T) {
	t.Parallel()
	st := newMemory()
	s, err := New(Config{Limits: Limits{Stall: Duration(100 * time.Millisecond)}, GC: GC{Every: -1}}, st, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := s.httpServer()
	defer srv.Close()
	go srv.Serve(l)
	dial := func(text string) net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, text)
		return c
	}
	id, err := s.begin("x", "sha256")
	if err != nil {
		t.Fatal(err)
	}
	// Half a chunk, then silence: the answer is an error and the end.
	c := dial("PATCH /v2/x/blobs/uploads/" + id + " HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	b, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("%q %v", b, err)
	}
	c.Close()
	// A large blob that nobody reads.
	big := make([]byte, 64<<20)
	d := digestOf("sha256", big)
	if err := st.Put(blobKey(d), big); err != nil {
		t.Fatal(err)
	}
	if err := s.link(s.repos.obtain("x"), d, nil); err != nil {
		t.Fatal(err)
	}
	c = dial("GET /v2/x/blobs/" + string(d) + " HTTP/1.1\r\nHost: x\r\n\r\n")
	defer c.Close()
	for s.metrics.inFlight.Load() == 0 && s.metrics.requests[routeBlob][2].Load() == 0 {
		time.Sleep(time.Millisecond) // until it is being answered
	}
	for s.metrics.inFlight.Load() != 0 {
		time.Sleep(time.Millisecond) // until it is given up; the test's own time limit is the failure
	}
	if sent := s.metrics.sent.Load(); sent >= int64(len(big)) {
		t.Errorf("%d bytes were sent to a client that reads none", sent)
	}
}

// TestNameLocks holds many at once: with locks shared by accident that would not end.
func TestNameLocks(t *testing.T) {
	t.Parallel()
	var l nameLocks
	var unlock []func()
	for i := range 1000 {
		unlock = append(unlock, l.lock(strings.Repeat("x", i)))
	}
	for _, u := range unlock {
		u()
	}
	for i := range l.shards {
		if len(l.shards[i].held) != 0 {
			t.Fatal("a lock that nobody has is kept")
		}
	}
}
