// Package client speaks the Docker Engine API to one engine, over a unix socket or TCP.
//
// It is what the command line sits on, so it is made for a process that lives a few milliseconds: it frames
// HTTP/1.1 itself (wire.go) instead of going through net/http, whose package inits and transport goroutines cost
// more than the requests. A request asks for the newest API version at once; only an engine that answers
// "too new" is pinged for the version it has, and asked again. Hijacked streams (attach, exec) are plain
// connections with half close.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Version is the newest API version this client speaks.
const Version = "1.56"

// maxErrorBody bounds what is read of an error's body, in bytes.
const maxErrorBody = 1 << 20

// Client talks to one engine. It is safe for concurrent use.
type Client struct {
	host        string // as the user would write it
	proto, addr string // for net.Dial
	basePath    string // a path in front of every route, from tcp://host:port/path
	userAgent   string

	// Revive, if set, is called once when nobody listens at the engine's address; a nil error means that it does now.
	Revive func(context.Context) error
	pinned bool // DOCKER_API_VERSION was set: never negotiate

	mu      sync.Mutex
	version string
	idle    []*conn
}

// New makes a client of the engine at host, such as unix:///run/gantry.sock or tcp://127.0.0.1:2375. It
// does not connect. apiVersion pins the API version; empty asks for the newest and falls back.
func New(host, apiVersion, userAgent string) (*Client, error) {
	proto, rest, ok := strings.Cut(host, "://")
	if !ok || rest == "" && proto != "unix" {
		return nil, fmt.Errorf("unable to parse docker host `%s`", host)
	}
	c := &Client{host: host, userAgent: userAgent, version: Version}
	switch proto {
	case "unix":
		c.proto, c.addr = "unix", rest
	case "tcp", "http":
		u, err := url.Parse("tcp://" + rest)
		if err != nil {
			return nil, fmt.Errorf("unable to parse docker host `%s`", host)
		}
		c.proto, c.addr, c.basePath = "tcp", u.Host, strings.TrimSuffix(u.Path, "/")
		if u.Port() == "" {
			c.addr = net.JoinHostPort(u.Hostname(), "2375")
		}
	default:
		return nil, fmt.Errorf("invalid bind address format: %s", host)
	}
	if apiVersion != "" {
		c.version, c.pinned = strings.TrimPrefix(apiVersion, "v"), true
	}
	return c, nil
}

// Host returns the engine's address as it was given to New.
func (c *Client) Host() string { return c.host }

// APIVersion returns the version the next request asks for.
func (c *Client) APIVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Close closes the connections that are kept for reuse.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cn := range c.idle {
		cn.Close()
	}
	c.idle = nil
}

// Request is one call of the API.
type Request struct {
	Method string
	Path   string // without version prefix: /containers/json
	Query  url.Values
	Body   any // marshalled to JSON; nil for none
	// Stream is a body of unknown length, sent chunked, or a regular file; not together with Body. If it is an
	// io.WriterTo that is used instead of Read, and parts of files that it copies (io.LimitedReader) are sent by the kernel.
	Stream io.Reader
	Type   string // content type of Stream
	Header map[string]string
	// Unversioned leaves the version prefix out, as the first /_ping must.
	Unversioned bool
}

func (c *Client) target(r *Request) string {
	var b strings.Builder
	b.WriteString(c.basePath)
	if !r.Unversioned {
		b.WriteString("/v")
		b.WriteString(c.APIVersion())
	}
	b.WriteString(r.Path)
	if len(r.Query) > 0 {
		b.WriteByte('?')
		b.WriteString(r.Query.Encode())
	}
	return b.String()
}

// Do sends r and returns the response, whose body the caller closes. A status of 400 and above comes back as *Error.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	if r.Stream != nil && !r.Unversioned {
		// A stream can't be sent twice, so the version has to be right the first time.
		if err := c.Negotiate(ctx); err != nil {
			return nil, err
		}
	}
	resp, err := c.once(ctx, &r)
	if c.tooNew(err) {
		if err := c.Negotiate(ctx); err != nil {
			return nil, err
		}
		return c.once(ctx, &r)
	}
	return resp, err
}

func (c *Client) once(ctx context.Context, r *Request) (*Response, error) {
	p, err := c.Send(ctx, r)
	if err != nil {
		return nil, err
	}
	return p.Receive()
}

// tooNew says whether err is the engine's refusal of our API version that a negotiation can help.
func (c *Client) tooNew(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == 400 && !c.pinned && strings.Contains(e.Message, "is too new. Maximum supported API version is")
}

// Negotiate asks the engine for its API version and lowers ours to it.
func (c *Client) Negotiate(ctx context.Context) error {
	if c.pinned {
		return nil
	}
	p, err := c.Ping(ctx)
	if err != nil {
		return err
	}
	v := p.APIVersion
	if v == "" {
		v = "1.24"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if VersionLess(v, c.version) {
		c.version = v
	}
	return nil
}

// VersionLess compares two API versions such as 1.9 and 1.41.
func VersionLess(a, b string) bool {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		m, _ := strconv.Atoi(x)
		n, _ := strconv.Atoi(y)
		if m != n {
			return m < n
		}
	}
	return false
}

// Pending is a request that was sent and whose response was not read yet. Sending several before reading the first
// response saves round trips.
type Pending struct {
	c    *Client
	ctx  context.Context
	cn   *conn
	req  *Request
	stop func() bool
	up   bool
}

// Send writes r to a connection of its own.
func (c *Client) Send(ctx context.Context, r *Request) (*Pending, error) {
	return c.send(ctx, r, false)
}

func (c *Client) send(ctx context.Context, r *Request, upgrade bool) (*Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var body []byte
	if r.Body != nil {
		b := new(bytes.Buffer)
		enc := json.NewEncoder(b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(r.Body); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	for {
		cn, reused, err := c.conn(ctx)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { cn.SetDeadline(time.Unix(1, 0)) })
		if err := cn.writeRequest(c, r, body, upgrade); err != nil {
			stop()
			cn.Close()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if reused && errors.Is(err, syscall.EPIPE) {
				continue // the engine had closed it: nothing of the request was taken
			}
			return nil, c.connectionError(err)
		}
		return &Pending{c: c, ctx: ctx, cn: cn, req: r, stop: stop, up: upgrade}, nil
	}
}

// Receive reads the response's head; the caller closes the body.
func (p *Pending) Receive() (*Response, error) {
	resp, err := p.cn.readResponse(p.req.Method)
	if err != nil {
		p.stop()
		p.cn.Close()
		if p.ctx.Err() != nil {
			return nil, p.ctx.Err()
		}
		if source := p.cn.source.Load(); source != nil {
			return nil, *source
		}
		return nil, &streamError{fmt.Errorf("error during connect: %s %s: %w", p.req.Method, p.c.target(p.req), err)}
	}
	resp.Body.(*body).finish = func(whole bool) {
		alive := p.stop()
		if whole && alive && resp.keepAlive && !p.up && p.req.Stream == nil {
			p.c.keep(p.cn)
		} else {
			p.cn.Close()
		}
	}
	resp.Body.(*body).ctx = p.ctx
	if resp.Status < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return nil, err
	}
	return nil, newError(p, resp, text)
}

// Discard gives up on the response.
func (p *Pending) Discard() {
	p.stop()
	p.cn.Close()
}

func (c *Client) conn(ctx context.Context) (cn *conn, reused bool, err error) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		cn, c.idle = c.idle[n-1], c.idle[:n-1]
		c.mu.Unlock()
		return cn, true, nil
	}
	c.mu.Unlock()
	var d net.Dialer
	nc, err := d.DialContext(ctx, c.proto, c.addr)
	if err != nil && c.Revive != nil && ctx.Err() == nil && (errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)) {
		revive := c.Revive
		c.Revive = nil
		if err := revive(ctx); err != nil {
			return nil, false, err
		}
		nc, err = d.DialContext(ctx, c.proto, c.addr)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		return nil, false, c.connectionError(err)
	}
	return newConn(nc), false, nil
}

func (c *Client) keep(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) >= 4 {
		cn.Close()
		return
	}
	c.idle = append(c.idle, cn)
}

// JSON sends r and decodes the response into out, which may be nil.
func (c *Client) JSON(ctx context.Context, r Request, out any) error {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err := io.Copy(io.Discard, resp.Body)
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	return json.Unmarshal(b, out)
}

func (c *Client) connectionError(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return &ConnectionError{c.host, fmt.Errorf("permission denied while trying to connect to the Docker daemon socket at %s: %w", c.host, err), err}
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return &ConnectionError{c.host, fmt.Errorf("error during connect: %w", err), err}
	}
	return &ConnectionError{c.host, fmt.Errorf("Cannot connect to the Docker daemon at %s. Is the docker daemon running?", c.host), err} //nolint:staticcheck // Docker's words
}
