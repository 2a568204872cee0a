package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
)

// HasBlob asks the registry itself whether the repository has a blob.
func (r *Repository) HasBlob(ctx context.Context, d digest.Digest) (bool, error) {
	resp, err := r.do(ctx, r.registry(), request{method: "HEAD", path: "blobs/" + d.String(), actions: "pull,push"})
	if err != nil {
		if refused := As(err); refused != nil && refused.Status == http.StatusNotFound {
			return false, nil
		}
		return false, err
	}
	resp.Body.Close()
	return true, nil
}

// wholeBelow is up to which size a blob goes in the one request that ends its upload. Larger ones are sent so that
// what has arrived stays there when the way breaks.
const wholeBelow = 1 << 20

// Source opens a blob from an offset on.
type Source func(offset int64) (io.ReadCloser, error)

// Push sends a blob that the repository does not have. from names repositories of the same registry that may have it:
// the first one that does is mounted from instead, and returned. sent is told how many bytes are on the way; it may be nil.
func (r *Repository) Push(ctx context.Context, d ocispec.Descriptor, from []string, open Source, sent func(int64)) (mounted string, err error) {
	e := r.registry()
	var at *url.URL
	for _, other := range from {
		resp, err := r.do(ctx, e, request{
			method: "POST", path: "blobs/uploads/", actions: "pull,push", scopes: []string{"repository:" + other + ":pull"},
			query: url.Values{"mount": {d.Digest.String()}, "from": {other}}, body: bytesBody(nil),
		})
		if err != nil {
			if errs.Canceled.Is(err) {
				return "", err
			}
			continue // no right to read there: not a reason to fail
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusCreated {
			return other, nil
		}
		if at, err = r.location(e, resp); err != nil { // an upload was begun instead
			return "", err
		}
		break
	}
	if at == nil {
		resp, err := r.do(ctx, e, request{method: "POST", path: "blobs/uploads/", actions: "pull,push", body: bytesBody(nil)})
		if err != nil {
			return "", err
		}
		resp.Body.Close()
		if at, err = r.location(e, resp); err != nil {
			return "", err
		}
	}
	octets := http.Header{"Content-Type": {"application/octet-stream"}}
	if d.Size > wholeBelow {
		if at, err = r.send(ctx, e, at, d, open, sent); err != nil {
			return "", err
		}
		resp, err := r.do(ctx, e, request{method: "PUT", url: withDigest(at, d.Digest), actions: "pull,push", body: bytesBody(nil), header: octets})
		if err != nil {
			return "", err
		}
		resp.Body.Close()
		return "", stored(resp, d.Digest)
	}
	resp, err := r.do(ctx, e, request{
		method: "PUT", url: withDigest(at, d.Digest), actions: "pull,push", header: octets, length: d.Size,
		body: func() (io.ReadCloser, error) { return counted(open, 0, sent) },
	})
	if err != nil {
		return "", err
	}
	resp.Body.Close()
	return "", stored(resp, d.Digest)
}

// send streams a blob to an upload, and goes on from what the registry has when the way breaks.
func (r *Repository) send(ctx context.Context, e *endpoint, at *url.URL, d ocispec.Descriptor, open Source, sent func(int64)) (*url.URL, error) {
	p := r.c.o.Patience
	backoff := p.Backoff
	offset := int64(0)
	for failures := 0; ; {
		h := http.Header{"Content-Type": {"application/octet-stream"}}
		if offset > 0 {
			h.Set("Content-Range", fmt.Sprintf("%d-%d", offset, d.Size-1))
		}
		resp, err := r.do(ctx, e, request{
			method: "PATCH", url: at, actions: "pull,push", header: h, length: d.Size - offset, once: true,
			body: func() (io.ReadCloser, error) { return counted(open, offset, sent) },
		})
		if err == nil {
			resp.Body.Close()
			return r.location(e, resp)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		refused := As(err)
		if refused != nil && (refused.Status < 500 || refused.Status == http.StatusInsufficientStorage) && refused.Status != http.StatusTooManyRequests && refused.Status != http.StatusRequestedRangeNotSatisfiable {
			return nil, err
		}
		if failures++; failures >= p.Tries || refused == nil && !errs.Unavailable.Is(err) {
			return nil, err
		}
		if refused != nil {
			backoff = max(backoff, min(refused.after, p.Longest))
		}
		if err := sleep(ctx, backoff); err != nil {
			return nil, err
		}
		backoff = min(2*backoff, p.Longest)
		resp, serr := r.do(ctx, e, request{method: "GET", url: at, actions: "pull,push"})
		if serr != nil {
			return nil, errors.Join(err, serr)
		}
		resp.Body.Close()
		if next, lerr := r.location(e, resp); lerr == nil {
			at = next
		}
		have := uploaded(resp.Header.Get("Range"))
		if have > offset {
			failures = 0
		}
		if offset = have; offset >= d.Size {
			return at, nil
		}
	}
}

// uploaded reads how many bytes an upload has, of the Range header of its status ("0-1023").
func uploaded(s string) int64 {
	first, last, ok := strings.Cut(strings.TrimPrefix(s, "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n <= 0 { // "0-0" is what an empty upload says
		return 0
	}
	return n + 1
}

// location is where an upload goes on. Registries may name another host; credentials stay at theirs.
func (r *Repository) location(e *endpoint, resp *http.Response) (*url.URL, error) {
	l := resp.Header.Get("Location")
	u, err := resp.Request.URL.Parse(l)
	if err != nil || l == "" || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errs.Unavailable.Errorf("registry %s names no place to upload to: %q", e.base.Host, clean(l))
	}
	u.User = nil
	return u, nil
}

func withDigest(at *url.URL, d digest.Digest) *url.URL {
	u := *at
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	return &u
}

// counted opens the source and tells how far it was read.
func counted(open Source, offset int64, sent func(int64)) (io.ReadCloser, error) {
	f, err := open(offset)
	if err != nil || sent == nil {
		return f, err
	}
	return &counter{f, offset, sent}, nil
}

type counter struct {
	io.ReadCloser
	n    int64
	sent func(int64)
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n += int64(n)
	c.sent(c.n)
	return n, err
}
