package remote

import (
	"cmp"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"gantry/internal/errs"
)

// Proxies are the way to registries that can't be reached directly. What is empty is as the environment says (HTTP_PROXY,
// HTTPS_PROXY, NO_PROXY).
type Proxies struct {
	HTTP, HTTPS string // URLs, for registries of that scheme
	No          string // who is reached directly: hosts, .domains, addresses, networks, "*", with a port or without, by commas
}

func (p Proxies) withEnvironment() Proxies {
	env := func(v, name string) string { return cmp.Or(v, os.Getenv(name), os.Getenv(strings.ToLower(name))) }
	return Proxies{env(p.HTTP, "HTTP_PROXY"), env(p.HTTPS, "HTTPS_PROXY"), env(p.No, "NO_PROXY")}
}

// shown is what anybody may see, as Docker shows it: without passwords.
func (p Proxies) shown() Proxies {
	p = p.withEnvironment()
	for _, at := range []*string{&p.HTTP, &p.HTTPS} {
		if u, err := url.Parse(*at); err == nil && u.User != nil {
			u.User = url.UserPassword("xxxxx", "xxxxx")
			*at = u.String()
		}
	}
	return p
}

// proxies is Proxies, read. Nil: the environment says it all.
type proxies struct {
	http, https *url.URL
	no          []string
}

func parseProxies(p Proxies) (*proxies, error) {
	if p == (Proxies{}) {
		return nil, nil
	}
	p = p.withEnvironment()
	out := &proxies{}
	for _, one := range []struct {
		at    **url.URL
		value string
	}{{&out.http, p.HTTP}, {&out.https, p.HTTPS}} {
		if one.value == "" {
			continue
		}
		text := one.value
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			return nil, errs.Invalid.Errorf("invalid proxy: want a URL such as http://proxy:3128") // not what was given: it may hold a password
		}
		*one.at = u
	}
	for v := range strings.SplitSeq(p.No, ",") {
		if v = strings.ToLower(strings.TrimSpace(v)); v != "" {
			out.no = append(out.no, v)
		}
	}
	return out, nil
}

// proxy is the way to a request's host; nil: directly.
func (c *Client) proxy(r *http.Request) (*url.URL, error) {
	c.mu.Lock()
	p := c.cfg.proxies
	c.mu.Unlock()
	if p == nil {
		return http.ProxyFromEnvironment(r)
	}
	return p.of(r.URL), nil
}

// proxyError is a proxy's own refusal, in place of a registry's reply.
type proxyError struct {
	host, said string
	status     int
}

func refusedBy(proxy *url.URL, resp *http.Response) *proxyError {
	return &proxyError{proxy.Host, clean(resp.Status), resp.StatusCode}
}

// Error is what net/http says of it, and so Docker.
func (e *proxyError) Error() string { return cmp.Or(http.StatusText(e.status), e.said) }

// viaError is what went wrong on a way through a proxy.
type viaError struct {
	proxy string
	err   error
}

func (e *viaError) Error() string { return e.err.Error() }
func (e *viaError) Unwrap() error { return e.err }

func (p *proxies) of(u *url.URL) *url.URL {
	host := strings.ToLower(u.Hostname())
	ip, err := netip.ParseAddr(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	for _, no := range p.no {
		if no == "*" {
			return nil
		}
		if network, perr := netip.ParsePrefix(no); perr == nil {
			if err == nil && network.Contains(ip.Unmap()) {
				return nil
			}
			continue
		}
		if h, port, err := net.SplitHostPort(no); err == nil {
			if port != cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]) {
				continue
			}
			no = h
		}
		domain := strings.TrimPrefix(strings.TrimPrefix(no, "*"), ".")
		if host == domain && no[0] != '.' && no[0] != '*' || strings.HasSuffix(host, "."+domain) {
			return nil
		}
	}
	if u.Scheme == "https" {
		return p.https
	}
	return p.http
}
