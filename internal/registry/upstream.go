package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// upstream is a registry that we are a cache of: a client with as much as a cache needs.
type upstream struct {
	host   string
	base   *url.URL
	user   string
	pass   string
	client *http.Client

	// downUntil: it did not answer lately, and until then (Unix nanoseconds) nobody waits for it again.
	downUntil atomic.Int64

	mu     sync.Mutex
	tokens map[string]upstreamToken // by scope
}

type upstreamToken struct {
	header string
	until  time.Time
}

// downFor is how long an upstream that did not answer is left alone.
const downFor = 10 * time.Second

// errDown says that an upstream does not answer, or not in order; what it says of content (404) is another thing.
var errDown = errors.New("upstream does not answer")

func newUpstream(host string, cfg Upstream, stall time.Duration) (*upstream, error) {
	raw := cfg.URL
	if raw == "" {
		raw = "https://" + host
		if host == "docker.io" {
			raw = "https://registry-1.docker.io"
		}
	}
	base, err := url.Parse(strings.TrimSuffix(raw, "/"))
	if err != nil {
		return nil, err
	}
	u := &upstream{host: host, base: base, user: cfg.Username, pass: cfg.Password, tokens: map[string]upstreamToken{}}
	if cfg.PasswordFile != "" {
		b, err := os.ReadFile(cfg.PasswordFile)
		if err != nil {
			return nil, fmt.Errorf("proxy: upstream %s: %w", host, err)
		}
		u.pass = strings.TrimRight(string(b), "\r\n")
	}
	tr := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  max(stall, time.Second),
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    16,
		MaxConnsPerHost:        64,
		DisableCompression:     true, // a blob's bytes are its bytes
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	if cfg.CA != "" {
		pem, err := os.ReadFile(cfg.CA)
		if err != nil {
			return nil, fmt.Errorf("proxy: upstream %s: %w", host, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("proxy: upstream %s: %s has no certificate", host, cfg.CA)
		}
		tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	// Redirects to another host lose the Authorization header: net/http sees to that, but takes no notice of the scheme.
	u.client = &http.Client{Transport: tr, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
			return fmt.Errorf("it redirects to %s, in the clear", req.URL.Host)
		}
		if len(via) >= 10 {
			return errors.New("it redirects too often")
		}
		return nil
	}}
	return u, nil
}

// name is what the upstream calls the repository that is rest after the host in ours.
func (u *upstream) name(repo string) string {
	_, name, _ := strings.Cut(repo, "/")
	if u.host == "docker.io" && !strings.Contains(name, "/") {
		name = "library/" + name
	}
	return name
}

// do asks the upstream, and logs in where it wants that. The error is errDown, or ctx's.
func (u *upstream) do(ctx context.Context, method, name, path string, header http.Header) (*http.Response, error) {
	if time.Now().UnixNano() < u.downUntil.Load() {
		return nil, fmt.Errorf("%s: %w (tried a moment ago)", u.host, errDown)
	}
	scope := "repository:" + name + ":pull"
	for try := 0; ; try++ {
		req, err := http.NewRequestWithContext(ctx, method, u.base.String()+"/v2/"+name+"/"+path, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range header {
			req.Header[k] = v
		}
		req.Header.Set("User-Agent", "gantry-registry")
		u.mu.Lock()
		if t, ok := u.tokens[scope]; ok && time.Now().Before(t.until) {
			req.Header.Set("Authorization", t.header)
		}
		u.mu.Unlock()
		resp, err := u.client.Do(req)
		if err != nil {
			if ctx.Err() == nil {
				u.downUntil.Store(time.Now().Add(downFor).UnixNano())
			}
			return nil, fmt.Errorf("%s: %w: %w", u.host, errDown, err)
		}
		if resp.StatusCode == http.StatusUnauthorized && try == 0 {
			challenge := resp.Header.Values("WWW-Authenticate")
			drain(resp)
			if err := u.login(ctx, scope, challenge); err != nil {
				return nil, fmt.Errorf("%s: %w: %w", u.host, errDown, err)
			}
			continue
		}
		if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
			drain(resp)
			return nil, fmt.Errorf("%s: %w: %s", u.host, errDown, resp.Status)
		}
		return resp, nil
	}
}

func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	resp.Body.Close()
}

// login gets what the challenge asks for.
func (u *upstream) login(ctx context.Context, scope string, challenges []string) error {
	for _, c := range challenges {
		scheme, params := parseChallenge(c)
		switch scheme {
		case "basic":
			if u.user == "" {
				continue
			}
			r := http.Request{Header: http.Header{}}
			r.SetBasicAuth(u.user, u.pass)
			u.keep(scope, r.Header.Get("Authorization"), time.Hour)
			return nil
		case "bearer":
			return u.fetchToken(ctx, scope, params)
		}
	}
	return errors.New("it wants a login that we do not have")
}

func (u *upstream) keep(scope, header string, life time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.tokens) > 1000 {
		clear(u.tokens)
	}
	u.tokens[scope] = upstreamToken{header, time.Now().Add(life)}
}

func (u *upstream) fetchToken(ctx context.Context, scope string, params map[string]string) error {
	realm, err := u.base.Parse(params["realm"])
	if err != nil || realm.Scheme != "https" && realm.Scheme != u.base.Scheme {
		return fmt.Errorf("its token server %q can't be trusted", params["realm"])
	}
	q := realm.Query()
	if s := params["service"]; s != "" {
		q.Set("service", s)
	}
	q.Set("scope", scope)
	realm.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return err
	}
	if u.user != "" {
		req.SetBasicAuth(u.user, u.pass)
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("its token server says %s", resp.Status)
	}
	var t struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&t); err != nil {
		return err
	}
	if t.Token == "" {
		t.Token = t.AccessToken
	}
	if t.Token == "" || strings.ContainsAny(t.Token, "\r\n") {
		return errors.New("its token server gives no token")
	}
	// The token specification: 60 seconds where nothing is said. A little less, for it has been on its way.
	life := max(min(t.ExpiresIn, 3600), 60)
	u.keep(scope, "Bearer "+t.Token, time.Duration(life*0.8)*time.Second)
	return nil
}

// parseChallenge understands a WWW-Authenticate header with one challenge (RFC 7235). The scheme is in lower case.
func parseChallenge(s string) (scheme string, params map[string]string) {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(s), " ")
	params = map[string]string{}
	for len(params) < 32 {
		rest = strings.TrimLeft(rest, " \t,")
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		var value strings.Builder
		if strings.HasPrefix(after, `"`) {
			i := 1
			for ; i < len(after) && after[i] != '"'; i++ {
				if after[i] == '\\' && i+1 < len(after) {
					i++
				}
				value.WriteByte(after[i])
			}
			rest = after[min(i+1, len(after)):]
		} else {
			v, r, _ := strings.Cut(after, ",")
			value.WriteString(strings.TrimSpace(v))
			rest = r
		}
		params[strings.ToLower(strings.TrimSpace(key))] = value.String()
	}
	return strings.ToLower(scheme), params
}
