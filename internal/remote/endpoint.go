package remote

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gantry/internal/errs"
)

// Docker Hub's names: in references, and where its registry is.
const (
	hubHost     = "docker.io"
	hubRegistry = "registry-1.docker.io"
)

// endpoint is one place that serves a registry's repositories.
type endpoint struct {
	base     *url.URL // up to and with /v2
	host     string   // the registry that it serves
	mirror   bool
	pull     bool
	resolve  bool // may say what a tag leads to
	push     bool
	insecure bool // plain HTTP will do, and any certificate
	fixed    bool // the scheme was given: no other is tried
	header   http.Header
	http     *http.Transport

	noRanges atomic.Bool // it sends whole blobs only

	mu      sync.Mutex
	settled bool // base has the scheme that the host speaks
}

// settings is a Config that was read.
type settings struct {
	insecure map[string]bool
	networks []netip.Prefix
	mirrors  map[string][]*url.URL
	proxies  *proxies
	shown    Proxies
}

func parseConfig(cfg Config) (settings, error) {
	s := settings{insecure: map[string]bool{}, mirrors: map[string][]*url.URL{}}
	for _, v := range cfg.Insecure {
		if p, err := netip.ParsePrefix(v); err == nil {
			s.networks = append(s.networks, p)
			continue
		}
		if strings.Contains(v, "://") {
			return s, errs.Invalid.Errorf("insecure registry %s should not contain '://'", v)
		}
		if err := checkHost(v); err != nil {
			return s, errs.Invalid.Errorf("insecure registry %s is not valid: %w", v, err)
		}
		s.insecure[strings.ToLower(v)] = true
	}
	for host, list := range cfg.Mirrors {
		if err := checkHost(host); err != nil && host != "*" {
			return s, errs.Invalid.Errorf("mirrors of %q: %w", host, err)
		}
		for _, v := range list {
			u, err := parseMirror(v)
			if err != nil {
				return s, err
			}
			s.mirrors[host] = append(s.mirrors[host], u)
		}
	}
	var err error
	s.shown = cfg.Proxies.shown()
	s.proxies, err = parseProxies(cfg.Proxies)
	return s, err
}

// parseMirror reads a mirror's URL. The refusals are Docker's.
func parseMirror(v string) (*url.URL, error) {
	u, err := url.Parse(v)
	switch {
	case err != nil:
		return nil, errs.Invalid.Errorf("invalid mirror: %q is not a valid URI: %w", v, err)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errs.Invalid.Errorf("invalid mirror: no scheme specified for %q: must use either 'https://' or 'http://'", v)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errs.Invalid.Errorf("invalid mirror: query or fragment at end of the URI %q", v)
	case u.User != nil:
		return nil, errs.Invalid.Errorf("invalid mirror: username/password not allowed in URI %q", u.Redacted())
	}
	if err := checkHost(u.Host); err != nil {
		return nil, errs.Invalid.Errorf("invalid mirror: %q: %w", v, err)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return u, nil
}

// checkHost refuses what is no name or address with an optional port: it becomes a path and a URL.
func checkHost(s string) error {
	host, port := s, ""
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	}
	host = strings.Trim(host, "[]")
	if host == "" || host == "." || host == ".." {
		return errors.New("no host")
	}
	for _, c := range host + port {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune("-._:", c) {
			return fmt.Errorf("invalid host %q", s)
		}
	}
	return nil
}

// endpoints returns where a registry's repositories are read, mirrors first; the last is the registry itself.
func (c *Client) endpoints(host string, insecure bool) ([]*endpoint, error) {
	if err := checkHost(host); err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	c.mu.Lock()
	cfg := c.cfg
	c.mu.Unlock()
	file, dir, err := c.readHosts(host)
	if err != nil {
		return nil, err
	}
	var all []*endpoint
	if file != nil {
		for _, h := range file.hosts {
			e := &endpoint{base: apiBase(h.url, h.overridePath), host: host, mirror: true, pull: h.pull, resolve: h.resolve, push: h.push, header: h.header, fixed: true}
			e.insecure = h.skipVerify || cfg.isInsecure(e.base.Host)
			if e.http, err = c.transport(transportKey(h.tls(dir), e.insecure), func() (*tls.Config, error) { return tlsConfig(h.tls(dir), e.insecure) }); err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	} else {
		urls := cfg.mirrors[host]
		if urls == nil {
			urls = cfg.mirrors["*"]
		}
		for _, u := range urls {
			e := &endpoint{base: apiBase(u, false), host: host, mirror: true, pull: true, resolve: true, fixed: true}
			e.insecure = cfg.isInsecure(u.Host)
			if e.http, err = c.dialer(u.Host, e.insecure); err != nil {
				return nil, err
			}
			all = append(all, e)
		}
	}
	e := &endpoint{host: host, pull: true, resolve: true, push: true}
	at := host
	if host == hubHost {
		at = hubRegistry
	}
	e.insecure = insecure || cfg.isInsecure(at)
	server := &hostEntry{}
	e.base = &url.URL{Scheme: "https", Host: at, Path: "/v2"}
	if file != nil && file.server != nil {
		server = file.server
		if server.url != nil {
			e.base, e.fixed = apiBase(server.url, server.overridePath), true
		}
		e.insecure = e.insecure || server.skipVerify
		e.header = server.header
	}
	if t := server.tls(dir); t != nil {
		e.http, err = c.transport(transportKey(t, e.insecure), func() (*tls.Config, error) { return tlsConfig(t, e.insecure) })
	} else {
		e.http, err = c.dialer(at, e.insecure)
	}
	if err != nil {
		return nil, err
	}
	return append(all, e), nil
}

func apiBase(u *url.URL, override bool) *url.URL {
	b := *u
	b.Path = strings.TrimSuffix(b.Path, "/")
	if !override && !strings.HasSuffix(b.Path, "/v2") {
		b.Path += "/v2"
	}
	return &b
}

// isInsecure reports whether plain HTTP will do for a host: it is on loopback, or the user said so by its name or
// by a network that one of its addresses is in.
func (s settings) isInsecure(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if s.insecure[strings.ToLower(hostport)] || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return s.inNetworks(a)
	}
	if len(s.networks) == 0 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if s.inNetworks(a) {
			return true
		}
	}
	return false
}

func (s settings) inNetworks(a netip.Addr) bool {
	a = a.Unmap()
	if a.IsLoopback() {
		return true
	}
	for _, p := range s.networks {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// dialer returns the transport for a host without a hosts.toml: with the certificates that Docker's layout has for
// it (*.crt: authorities, NAME.cert and NAME.key: a client's).
func (c *Client) dialer(host string, insecure bool) (*http.Transport, error) {
	var t *tlsFiles
	for _, root := range c.o.CertDirs {
		dir, err := hostDir(root, host)
		if err != nil {
			return nil, err
		}
		if dir == "" {
			continue
		}
		if t, err = dockerCerts(dir); err != nil {
			return nil, err
		}
		break
	}
	return c.transport(transportKey(t, insecure), func() (*tls.Config, error) { return tlsConfig(t, insecure) })
}

// hostDir returns the folder of a host below root: HOST, or HOST_PORT_ for HOST:PORT as on systems that can't
// have a colon in a name; "" if there is none.
func hostDir(root, host string) (string, error) {
	if !filepath.IsLocal(host) || filepath.Base(host) != host || host == "." { // a redirect or a token server may name anything
		return "", nil
	}
	names := []string{host}
	if h, p, err := net.SplitHostPort(host); err == nil {
		names = append(names, h+"_"+p+"_")
	}
	for _, n := range names {
		dir := filepath.Join(root, n)
		fi, err := os.Stat(dir)
		switch {
		case err == nil && fi.IsDir():
			return dir, nil
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("read certificates of %s: %w", host, err)
		}
	}
	return "", nil
}

// tlsFiles names the certificates for a host.
type tlsFiles struct {
	authorities []string
	pairs       [][2]string // certificate, key
}

func dockerCerts(dir string) (*tlsFiles, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	t := &tlsFiles{}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		switch filepath.Ext(name) {
		case ".crt":
			t.authorities = append(t.authorities, path)
		case ".cert":
			key := strings.TrimSuffix(name, ".cert") + ".key"
			if !has[key] {
				return nil, errs.Invalid.Errorf("missing key %s for client certificate %s. CA certificates must use the extension .crt", key, name)
			}
			t.pairs = append(t.pairs, [2]string{path, filepath.Join(dir, key)})
		case ".key":
			if cert := strings.TrimSuffix(name, ".key") + ".cert"; !has[cert] {
				return nil, errs.Invalid.Errorf("missing client certificate %s for key %s", cert, name)
			}
		}
	}
	if len(t.authorities)+len(t.pairs) == 0 {
		return nil, nil
	}
	return t, nil
}

// transportKey tells transports apart by what they are made of; a file that was written anew makes another.
func transportKey(t *tlsFiles, insecure bool) string {
	if t == nil {
		return fmt.Sprint(insecure)
	}
	h := sha256.New()
	add := func(path string) {
		fmt.Fprintf(h, "%q ", path)
		if fi, err := os.Stat(path); err == nil {
			fmt.Fprintf(h, "%d %d ", fi.ModTime().UnixNano(), fi.Size())
		}
	}
	for _, p := range t.authorities {
		add(p)
	}
	for _, p := range t.pairs {
		add(p[0])
		add(p[1])
	}
	return fmt.Sprintf("%v %s", insecure, hex.EncodeToString(h.Sum(nil)))
}

func tlsConfig(t *tlsFiles, insecure bool) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure}
	if t == nil {
		return cfg, nil
	}
	if len(t.authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, path := range t.authorities {
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, fmt.Errorf("read certificates: %w", err)
			}
			if !pool.AppendCertsFromPEM(data) {
				return nil, errs.Invalid.Errorf("read certificates: %s holds none", path)
			}
		}
		cfg.RootCAs = pool
	}
	for _, p := range t.pairs {
		pair, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			return nil, errs.Invalid.Errorf("read certificates: %s: %w", p[0], err)
		}
		cfg.Certificates = append(cfg.Certificates, pair)
	}
	return cfg, nil
}

func newTransport(cfg *tls.Config, p Patience, proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	d := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: proxy, OnProxyConnectResponse: func(_ context.Context, at *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return refusedBy(at, resp)
			}
			return nil
		},
		DialContext: d.DialContext, TLSClientConfig: cfg, TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: 90 * time.Second, ResponseHeaderTimeout: p.Reply, ExpectContinueTimeout: time.Second,
		MaxResponseHeaderBytes: 256 << 10, DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10,
		// One HTTP/2 connection for all layers would put them into one flow-control window, of the server's choice.
		Protocols: onlyHTTP1(),
	}
}

func onlyHTTP1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}
