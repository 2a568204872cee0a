package remote

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"gantry/internal/errs"
)

// challenge is one way in that a registry offers (RFC 9110 §11.6.1).
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// maxChallenges bounds what is read of WWW-Authenticate.
const maxChallenges = 16

// parseChallenges reads WWW-Authenticate headers. What is no challenge ends its header.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		s := h
		for len(all) < maxChallenges {
			s = strings.TrimLeft(s, ", \t")
			scheme, rest := word(s)
			if scheme == "" {
				break
			}
			c := challenge{strings.ToLower(scheme), map[string]string{}}
			s = strings.TrimLeft(rest, " \t")
			for {
				name, rest := word(s)
				rest = strings.TrimLeft(rest, " \t")
				if name == "" || !strings.HasPrefix(rest, "=") {
					break // the next scheme
				}
				value, rest, ok := paramValue(strings.TrimLeft(rest[1:], " \t"))
				if !ok {
					s = ""
					break
				}
				if name = strings.ToLower(name); c.params[name] == "" {
					c.params[name] = value
				}
				rest = strings.TrimLeft(rest, " \t")
				s = rest
				if !strings.HasPrefix(rest, ",") {
					break
				}
				s = strings.TrimLeft(rest, ", \t")
			}
			all = append(all, c)
		}
	}
	return all
}

// word cuts a token (RFC 9110 §5.6.2) off s.
func word(s string) (string, string) {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", s[n]) >= 0) {
		n++
	}
	return s[:n], s[n:]
}

func paramValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		// Not only tokens: servers write URLs without quotes.
		n := strings.IndexAny(s, ", \t")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:], n > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

type tokenKey struct {
	realm, service, scope string
	who                   [32]byte // hash of the credentials
}

type token struct {
	value string
	until time.Time
}

// Bounds of what a token server may say.
const (
	maxTokenReply = 1 << 20
	maxTokens     = 1000
)

func (r *Repository) credentials(e *endpoint) Credentials {
	if e.mirror {
		return Credentials{} // they are the registry's, not its mirrors'
	}
	return r.access.Credentials
}

// scope is what a token must allow for an operation on the repository.
func (r *Repository) scope(actions string) string { return "repository:" + r.path + ":" + actions }

// authorize makes the header for a request to e, by what e last asked for; empty where it asked for nothing.
// fresh leaves out remembered tokens. extra are challenges that came with a refusal just now.
func (r *Repository) authorize(ctx context.Context, e *endpoint, scopes []string, fresh bool) (string, error) {
	creds := r.credentials(e)
	if creds.RegistryToken != "" {
		return "Bearer " + creds.RegistryToken, nil
	}
	r.c.mu.Lock()
	offered := r.c.challenges[e.base.String()]
	r.c.mu.Unlock()
	for _, c := range offered {
		if c.scheme == "bearer" && c.params["realm"] != "" {
			t, err := r.c.token(ctx, e, c, creds, scopes, fresh)
			if err != nil {
				return "", err
			}
			return "Bearer " + t, nil
		}
	}
	for _, c := range offered {
		if c.scheme == "basic" && creds.Username != "" {
			q := http.Request{Header: http.Header{}}
			q.SetBasicAuth(creds.Username, creds.Password)
			return q.Header.Get("Authorization"), nil
		}
	}
	return "", nil
}

// token asks the token server that a challenge names (distribution/docs: token and oauth authentication).
func (c *Client) token(ctx context.Context, e *endpoint, ch challenge, creds Credentials, scopes []string, fresh bool) (string, error) {
	if s := ch.params["scope"]; s != "" {
		for _, s := range strings.Fields(s) {
			if !slices.Contains(scopes, s) && len(scopes) < 20 {
				scopes = append(slices.Clone(scopes), s)
			}
		}
	}
	scope := strings.Join(scopes, " ")
	key := tokenKey{ch.params["realm"], ch.params["service"], scope, sha256.Sum256(fmt.Appendf(nil, "%q", creds))}
	now := time.Now()
	c.mu.Lock()
	t, ok := c.tokens[key]
	c.mu.Unlock()
	if ok && !fresh && now.Before(t.until) {
		return t.value, nil
	}
	realm, err := url.Parse(ch.params["realm"])
	if err != nil || realm.Scheme != "https" && realm.Scheme != "http" || realm.Host == "" {
		return "", errs.Unavailable.Errorf("registry %s names no usable token server: %q", e.base.Host, ch.params["realm"])
	}
	if realm.Scheme == "http" && e.base.Scheme == "https" && !e.insecure {
		return "", errs.Unavailable.Errorf("registry %s wants credentials sent in the clear, to %s", e.base.Host, realm.Redacted())
	}
	transport := e.http
	if realm.Host != e.base.Host {
		insecure := e.insecure && c.insecureHost(realm.Host)
		if transport, err = c.dialer(realm.Host, insecure); err != nil {
			return "", err
		}
	}
	var q *http.Request
	if creds.IdentityToken != "" {
		form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {creds.IdentityToken}, "service": {ch.params["service"]}, "client_id": {"gantry"}, "access_type": {"offline"}}
		if scope != "" {
			form.Set("scope", scope)
		}
		if q, err = http.NewRequestWithContext(ctx, "POST", realm.String(), strings.NewReader(form.Encode())); err == nil {
			q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
	} else {
		v := realm.Query()
		if s := ch.params["service"]; s != "" {
			v.Set("service", s)
		}
		for _, s := range scopes {
			v.Add("scope", s)
		}
		if creds.Username != "" {
			v.Set("account", creds.Username)
		}
		u := *realm
		u.RawQuery = v.Encode()
		if q, err = http.NewRequestWithContext(ctx, "GET", u.String(), nil); err == nil && creds.Username != "" {
			q.SetBasicAuth(creds.Username, creds.Password)
		}
	}
	if err != nil {
		return "", errs.Internal.Wrap(err)
	}
	q.Header.Set("User-Agent", c.o.UserAgent)
	resp, err := c.try(ctx, transport, q)
	if err != nil {
		return "", fmt.Errorf("get a token from %s: %w", realm.Host, explainNet(ctx, err, realm.Host))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		err := replyError(resp)
		if err.Status == http.StatusUnauthorized || err.Status == http.StatusForbidden || creds.IdentityToken != "" && err.Status == http.StatusBadRequest {
			return "", errs.Unauthorized.Errorf("%w", unauthorizedError(err, !creds.empty()))
		}
		return "", fmt.Errorf("get a token from %s: %w", realm.Host, err.kind())
	}
	var reply struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTokenReply)).Decode(&reply); err != nil {
		return "", errs.Unavailable.Errorf("get a token from %s: %w", realm.Host, err)
	}
	t = token{value: reply.Token}
	if t.value == "" {
		t.value = reply.AccessToken
	}
	if t.value == "" || strings.ContainsAny(t.value, "\r\n") {
		return "", errs.Unavailable.Errorf("get a token from %s: its reply holds none", realm.Host)
	}
	life := min(max(time.Duration(reply.ExpiresIn)*time.Second, time.Minute), time.Hour)
	t.until = now.Add(life * 3 / 4)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= maxTokens {
		clear(c.tokens)
	}
	c.tokens[key] = t
	return t.value, nil
}

func (c *Client) insecureHost(hostport string) bool {
	c.mu.Lock()
	cfg := c.cfg
	c.mu.Unlock()
	return cfg.isInsecure(hostport)
}
