package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// FetchInto brings a blob into p, from where p has it. A way that breaks is tried again from there, as long as each try
// brings something; with a digest that does not fit it begins once anew, for what was there may have been damaged.
// It commits p, or leaves what came for the next time.
func (r *Repository) FetchInto(ctx context.Context, p *content.Partial, d ocispec.Descriptor) error {
	resumed := p.Offset() > 0
	anew := false
	for {
		if err := r.fetchRest(ctx, p, d); err != nil {
			if errs.Invalid.Is(err) { // more than was promised
				p.Discard()
			}
			return err
		}
		err := p.Commit()
		if err == nil || !errs.Invalid.Is(err) {
			return err
		}
		if !resumed || anew {
			p.Discard()
			return fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		anew = true
		if err := p.Restart(); err != nil {
			return err
		}
	}
}

func (r *Repository) fetchRest(ctx context.Context, p *content.Partial, d ocispec.Descriptor) error {
	patience := r.c.o.Patience
	failures := 0
	backoff := patience.Backoff
	for p.Offset() < d.Size {
		before := p.Offset()
		err := r.reading(false, func(e *endpoint) error { return r.fetchFrom(ctx, e, p, d) })
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var broken *brokenError
		if !errors.As(err, &broken) {
			return err // do has tried
		}
		if p.Offset() > before {
			failures, backoff = 0, patience.Backoff
		}
		// However short the steps: 10,000 of them are no way to get a layer.
		if failures++; failures >= patience.Tries {
			return err
		}
		if err := sleep(ctx, backoff); err != nil {
			return err
		}
		backoff = min(2*backoff, patience.Longest)
	}
	return nil
}

// brokenError is a reply that broke off: what came counts, and the rest may come another time.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// fetchFrom asks e for the rest of the blob once.
func (r *Repository) fetchFrom(ctx context.Context, e *endpoint, p *content.Partial, d ocispec.Descriptor) error {
	from := p.Offset()
	if r.inSegments(e, d, from) {
		if err := r.fetchSegments(ctx, e, p, d); !errors.Is(err, errNoRanges) {
			return err
		}
		e.noRanges.Store(true)
		from = p.Offset()
	}
	q := request{method: "GET", path: "blobs/" + d.Digest.String(), actions: "pull", header: http.Header{}}
	if from > 0 {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := r.do(ctx, e, q)
	if refused := As(err); refused != nil && refused.Status == http.StatusRequestedRangeNotSatisfiable && from > 0 {
		// It has less than we do, or knows no ranges: begin anew.
		if err := p.Restart(); err != nil {
			return err
		}
		from = 0
		q.header.Del("Range")
		resp, err = r.do(ctx, e, q)
	}
	if refused := As(err); refused != nil && refused.Status == http.StatusNotFound {
		return errs.NotFound.Wrap(&hint{err, fmt.Sprintf("The registry %s has the image but not its layer %s: whoever has it should push it again", e.base.Host, d.Digest)})
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusPartialContent:
		if first, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || first != from {
			return errs.Unavailable.Errorf("blob %s: registry %s sent another range than asked for", d.Digest, e.base.Host)
		}
	case resp.StatusCode != http.StatusOK:
		return errs.Unavailable.Errorf("blob %s: registry %s answered %s", d.Digest, e.base.Host, resp.Status)
	case from > 0: // the whole: skip what is there
		if _, err := io.CopyN(io.Discard, resp.Body, from); err != nil {
			return r.broken(ctx, err, e)
		}
	}
	if n := resp.ContentLength; n >= 0 {
		want := d.Size - from
		if resp.StatusCode == http.StatusOK {
			want = d.Size
		}
		if n != want {
			return errs.Invalid.Errorf("blob %s: registry %s sends %d bytes, not %d as promised", d.Digest, e.base.Host, n, want)
		}
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := resp.Body.Read(buf)
		if n > 0 {
			if _, err := p.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			if p.Offset() < d.Size {
				return r.broken(ctx, io.ErrUnexpectedEOF, e)
			}
			return nil
		}
		if err != nil {
			return r.broken(ctx, err, e)
		}
	}
}

func (r *Repository) broken(ctx context.Context, err error, e *endpoint) error {
	return &brokenError{explainNet(ctx, err, e.base.Host)}
}

// rangeStart reads the first byte's position of a Content-Range (RFC 9110 §14.4).
func rangeStart(s string) (int64, bool) {
	rest, ok := strings.CutPrefix(s, "bytes ")
	first, _, dash := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(first, 10, 64)
	return n, ok && dash && err == nil && n >= 0
}

// Blob gets a small blob of at most limit bytes, checked against its digest.
func (r *Repository) Blob(ctx context.Context, d ocispec.Descriptor, limit int64) (data []byte, err error) {
	if d.Size < 0 || d.Size > limit {
		return nil, errs.Invalid.Errorf("blob %s is larger than %d bytes", d.Digest, limit)
	}
	err = r.reading(false, func(e *endpoint) error {
		for n := 1; ; n++ {
			data, err = r.blob(ctx, e, d)
			var broken *brokenError
			if !errors.As(err, &broken) || n >= r.c.o.Patience.Tries {
				return err
			}
			if err := sleep(ctx, r.c.o.Patience.Backoff); err != nil {
				return err
			}
		}
	})
	return data, err
}

func (r *Repository) blob(ctx context.Context, e *endpoint, d ocispec.Descriptor) ([]byte, error) {
	resp, err := r.do(ctx, e, request{method: "GET", path: "blobs/" + d.Digest.String(), actions: "pull"})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if n := resp.ContentLength; n >= 0 && n != d.Size {
		return nil, errs.Invalid.Errorf("blob %s: registry %s sends %d bytes, not %d as promised", d.Digest, e.base.Host, n, d.Size)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, d.Size+1))
	if err != nil {
		return nil, r.broken(ctx, err, e)
	}
	if int64(len(data)) != d.Size {
		return nil, errs.Invalid.Errorf("blob %s has %d bytes, not %d as promised", d.Digest, len(data), d.Size)
	}
	if got := d.Digest.Algorithm().FromBytes(data); got != d.Digest {
		return nil, errs.Invalid.Errorf("blob %s: content has digest %s", d.Digest, got)
	}
	return data, nil
}

func bytesBody(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}
