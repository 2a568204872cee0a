package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/internal/errs"
)

// request is one request to an endpoint.
type request struct {
	method  string
	path    string   // below the repository: manifests/latest
	root    bool     // path is below /v2 instead
	url     *url.URL // instead of path: where the registry told us to go on
	query   url.Values
	header  http.Header
	body    func() (io.ReadCloser, error) // nil: none; asked anew for each try
	length  int64                         // of body
	actions string                        // what a token must allow: pull; pull,push
	scopes  []string                      // beside that
	once    bool                          // a second try would not mean the same
}

// asHead is the method that Docker would have used: it asks whether a tag is there before it gets it.
func (q *request) asHead() string {
	if q.method == "GET" && strings.HasPrefix(q.path, "manifests/") && !strings.Contains(q.path, ":") {
		return "HEAD"
	}
	return q.method
}

const maxRedirects = 10

// do sends a request until it is answered for good: it settles the scheme, authenticates, follows redirects, and
// tries again after what may pass. The reply's status is below 400; the caller closes the body.
func (r *Repository) do(ctx context.Context, e *endpoint, q request) (*http.Response, error) {
	if err := r.settle(ctx, e); err != nil {
		return nil, err
	}
	p := r.c.o.Patience
	scopes := q.scopes
	if q.actions != "" {
		scopes = append([]string{r.scope(q.actions)}, scopes...)
	}
	authorized := 0
	auth, err := r.authorize(ctx, e, scopes, false)
	if err != nil {
		return nil, err
	}
	backoff := p.Backoff
	for n := 1; ; n++ {
		resp, err := r.follow(ctx, e, q, auth)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if q.once || n >= p.Tries || lasting(err) || errs.KindOf(err) != errs.Internal {
				return nil, explainNet(ctx, err, e.base.Host)
			}
		} else if resp.StatusCode < 400 {
			return resp, nil
		} else {
			refused := replyError(resp)
			resp.Body.Close()
			if refused.Status == http.StatusUnauthorized {
				if authorized >= 2 {
					return nil, errs.Unauthorized.Errorf("%w", unauthorizedError(refused, true))
				}
				authorized++
				offered := parseChallenges(resp.Header.Values("Www-Authenticate"))
				r.c.challenged(e, offered)
				again, err := r.authorize(ctx, e, scopes, auth != "") // what was refused is worth no second try
				if err != nil {
					return nil, err
				}
				if again == "" {
					if slices.ContainsFunc(offered, func(c challenge) bool { return c.scheme == "basic" }) {
						// Not errs.Unauthorized, as in Docker: its command line would ask for a password where nobody is to type one.
						return nil, fmt.Errorf("%s %q: %w", verb(q.asHead()), redacted(resp.Request.URL), ErrNoCredentials)
					}
					return nil, errs.Unauthorized.Errorf("%w", unauthorizedError(refused, false))
				}
				if again == auth { // the same again: it doesn't let us in
					return nil, errs.Unauthorized.Errorf("%w", unauthorizedError(refused, true))
				}
				auth = again
				n--
				continue
			}
			passing := refused.Status == http.StatusTooManyRequests || refused.Status == http.StatusRequestTimeout ||
				refused.Status >= 500 && refused.Status != http.StatusNotImplemented && refused.Status != http.StatusInsufficientStorage
			if !passing || q.once || n >= p.Tries || refused.after > p.Longest {
				return nil, refused.kind()
			}
			backoff = max(backoff, refused.after)
		}
		if err := sleep(ctx, backoff); err != nil {
			return nil, err
		}
		backoff = min(2*backoff, p.Longest)
	}
}

func verb(method string) string { return method[:1] + strings.ToLower(method[1:]) }

func redacted(u *url.URL) string {
	c := *u
	c.RawQuery = ""
	return c.Redacted()
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func (c *Client) challenged(e *endpoint, offered []challenge) {
	if len(offered) == 0 {
		return
	}
	for _, ch := range offered {
		// A token is asked for with the scopes we need; what one request asked for is not the next one's.
		if !e.mirror {
			delete(ch.params, "scope")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.challenges[e.base.String()] = offered
}

// settle finds out whether an endpoint that may speak either speaks HTTPS or HTTP.
func (r *Repository) settle(ctx context.Context, e *endpoint) error {
	if !e.insecure || e.fixed {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settled {
		return nil
	}
	r.c.mu.Lock()
	known := r.c.schemes[e.base.Host]
	r.c.mu.Unlock()
	if known != "" {
		e.setScheme(known)
		return nil
	}
	var reason error
	for _, scheme := range []string{"https", "http"} {
		u := url.URL{Scheme: scheme, Host: e.base.Host, Path: e.base.Path + "/"}
		q, err := http.NewRequestWithContext(ctx, "GET", u.String(), nil)
		if err != nil {
			return errs.Invalid.Wrap(err)
		}
		q.Header.Set("User-Agent", r.c.o.UserAgent)
		resp, err := r.c.try(ctx, e.http, q)
		if err == nil && scheme == "http" && resp.StatusCode == http.StatusBadRequest && !speaksPlain(reason) {
			// What an HTTPS server says to plain HTTP: why it did not speak HTTPS with us is the reason.
			resp.Body.Close()
			break
		}
		if err == nil {
			offered := parseChallenges(resp.Header.Values("Www-Authenticate"))
			resp.Body.Close()
			r.c.mu.Lock()
			r.c.schemes[e.base.Host] = scheme
			r.c.mu.Unlock()
			e.setScheme(scheme)
			if resp.StatusCode == http.StatusUnauthorized {
				r.c.challenged(e, offered)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		reason = err // of both, the last one's, as in Docker
	}
	return explainNet(ctx, reason, e.base.Host)
}

// speaksPlain reports whether err is what comes of speaking HTTPS with a server that does not.
func speaksPlain(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}

// setScheme is called with e.mu held. Who reads base has passed settle, and so that lock.
func (e *endpoint) setScheme(s string) {
	b := *e.base
	b.Scheme = s
	e.base, e.settled = &b, true
}

// follow sends a request once, and after its redirects. Credentials go to the endpoint's own host only.
func (r *Repository) follow(ctx context.Context, e *endpoint, q request, auth string) (*http.Response, error) {
	u := q.url
	if u == nil {
		path := "/" + r.path + "/" + q.path
		if q.root {
			path = "/" + q.path
		}
		c := *e.base
		c.Path += path
		v := url.Values{}
		for k, list := range q.query {
			v[k] = list
		}
		if e.mirror { // as containerd does, for mirrors of several registries
			v.Set("ns", e.host)
		}
		c.RawQuery = v.Encode()
		u = &c
	}
	method := q.method
	for range maxRedirects {
		var body io.ReadCloser
		if q.body != nil {
			var err error
			if body, err = q.body(); err != nil {
				return nil, errs.KindOf(err).Wrap(err)
			}
		}
		h, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			if body != nil {
				body.Close()
			}
			return nil, errs.Invalid.Wrap(err)
		}
		if body != nil {
			h.Body, h.ContentLength = body, q.length
			if q.length == 0 {
				body.Close()
				h.Body = http.NoBody
			}
		}
		for k, v := range q.header {
			h.Header[k] = v
		}
		h.Header.Set("User-Agent", r.c.o.UserAgent)
		transport := e.http
		if sameOrigin(u, e.base) {
			for k, v := range e.header {
				h.Header[http.CanonicalHeaderKey(k)] = v
			}
			if auth != "" {
				h.Header.Set("Authorization", auth)
			}
		} else {
			if e.base.Scheme == "https" && u.Scheme != "https" && !e.insecure {
				if body != nil {
					body.Close()
				}
				return nil, errs.Unavailable.Errorf("registry %s redirects to %s, in the clear: refused", e.base.Host, redacted(u))
			}
			// A client certificate is a credential too.
			if transport, err = r.c.dialer(u.Host, r.c.insecureHost(u.Host)); err != nil {
				return nil, err
			}
		}
		resp, err := r.c.try(ctx, transport, h)
		if err != nil {
			return nil, err
		}
		get := method == "GET" || method == "HEAD"
		switch code := resp.StatusCode; {
		case (code == 301 || code == 302 || code == 303 || code == 307 || code == 308) && get, code == 307 || code == 308:
		default:
			return resp, nil
		}
		resp.Body.Close()
		next, err := u.Parse(resp.Header.Get("Location"))
		if err != nil || resp.Header.Get("Location") == "" || next.Scheme != "https" && next.Scheme != "http" || next.Host == "" {
			return nil, errs.Unavailable.Errorf("registry %s redirects to nowhere: %q", e.base.Host, clean(resp.Header.Get("Location")))
		}
		next.User = nil
		u = next
	}
	return nil, errs.Unavailable.Errorf("registry %s redirects more than %d times", e.base.Host, maxRedirects)
}

func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host) }

// try sends one request. It, and reading its reply's body, ends when nothing moves any more.
func (c *Client) try(ctx context.Context, t *http.Transport, q *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	q = q.WithContext(ctx)
	if q.Body != nil && q.Body != http.NoBody {
		q.Body = &watchedRequest{ReadCloser: q.Body, t: time.AfterFunc(c.o.Patience.Silence, func() { cancel(errStuck) }), silence: c.o.Patience.Silence}
	}
	resp, err := t.RoundTrip(q)
	if proxy, perr := c.proxy(q); perr == nil && proxy != nil {
		if err != nil {
			err = &viaError{proxy.Host, err}
		} else if resp.StatusCode == http.StatusProxyAuthRequired { // no registry says that
			resp.Body.Close()
			resp, err = nil, refusedBy(proxy, resp)
		}
	}
	if err != nil {
		if cause := context.Cause(ctx); cause == errStuck {
			err = cause
		}
		cancel(nil)
		if record := (tls.RecordHeaderError{}); errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
			err = http.ErrSchemeMismatch
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		return nil, &url.Error{Op: verb(q.Method), URL: redacted(q.URL), Err: err}
	}
	resp.Body = &watchedReply{
		body: resp.Body, ctx: ctx, cancel: cancel, silence: c.o.Patience.Silence,
		t: time.AfterFunc(time.Hour, func() { cancel(errSilent) }),
	}
	resp.Body.(*watchedReply).t.Stop()
	return resp, nil
}

// watchedRequest ends a request whose body is not taken: each read of it is a sign of life.
type watchedRequest struct {
	io.ReadCloser
	t       *time.Timer
	silence time.Duration
}

func (w *watchedRequest) Read(b []byte) (int, error) {
	w.t.Reset(w.silence)
	n, err := w.ReadCloser.Read(b)
	if err != nil {
		w.t.Stop() // from here on the transport waits for the reply
	}
	return n, err
}

func (w *watchedRequest) Close() error {
	w.t.Stop()
	return w.ReadCloser.Close()
}

// enough is what must come within twice the silence: who sends a byte now and then is as good as dead.
const enough = 16 << 10

// watchedReply ends a reply that stops coming. Only the time spent in Read counts: what happens between is ours.
type watchedReply struct {
	body    io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence time.Duration
	t       *time.Timer
	waited  time.Duration
	got     int
}

func (w *watchedReply) Read(b []byte) (int, error) {
	began := time.Now()
	w.t.Reset(w.silence)
	n, err := w.body.Read(b)
	w.t.Stop()
	w.waited += time.Since(began)
	if w.got += n; w.got >= enough {
		w.waited, w.got = 0, 0
	} else if w.waited > 2*w.silence && err == nil {
		err = errSlow
		w.cancel(err)
	}
	if err != nil && err != io.EOF {
		if cause := context.Cause(w.ctx); cause == errSilent || cause == errSlow {
			err = cause
		}
	}
	return n, err
}

func (w *watchedReply) Close() error {
	w.t.Stop()
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// retryAfter reads Retry-After (RFC 9110 §10.2.3): seconds or a date; 0 if there is none.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if n, err := strconv.Atoi(v); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// quota says how much a registry still gives, as Docker Hub tells it ("ratelimit-remaining: 76;w=21600").
func quota(h http.Header) string {
	left, limit := h.Get("Ratelimit-Remaining"), h.Get("Ratelimit-Limit")
	if left == "" || limit == "" {
		return ""
	}
	n, _, _ := strings.Cut(left, ";")
	all, window, _ := strings.Cut(limit, ";w=")
	if _, err := strconv.Atoi(n); err != nil {
		return ""
	}
	if _, err := strconv.Atoi(all); err != nil {
		return ""
	}
	text := fmt.Sprintf("%s of %s pulls left", n, all)
	if sec, err := strconv.Atoi(window); err == nil && sec > 0 {
		text += " in " + (time.Duration(sec) * time.Second).String()
	}
	return text
}
