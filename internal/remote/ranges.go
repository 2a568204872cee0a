package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
)

// A large blob comes over several connections, for many registries give each of them only so much. Segments are
// asked for ahead of what is written, and written in order: a part that is kept has no holes. What is ahead lies in memory.
const (
	defaultSegment = 2 << 20 // bytes
	segmentsAhead  = 3       // asked for at a time
	segmentsLarge  = 8       // as many must be missing of a blob
)

// errNoRanges: the registry sends the whole blob, whatever is asked for.
var errNoRanges = errors.New("registry knows no ranges")

// segment is a part of a blob on its way.
type segment struct {
	n    int64
	got  []byte // what came of it
	err  error
	done chan struct{}
}

// inSegments reports whether the rest of a blob is fetched so.
func (r *Repository) inSegments(e *endpoint, d ocispec.Descriptor, from int64) bool {
	return d.Size-from >= segmentsLarge*r.c.o.Segment && !e.noRanges.Load()
}

// fetchSegments writes the rest of the blob to p. What came before an error is written, too.
func (r *Repository) fetchSegments(ctx context.Context, e *endpoint, p *content.Partial, d ocispec.Descriptor) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var free [][]byte // buffers that were written
	var window []*segment
	next := p.Offset()
	for {
		for len(window) < segmentsAhead && next < d.Size {
			s := &segment{n: min(r.c.o.Segment, d.Size-next), done: make(chan struct{})}
			var buf []byte
			if len(free) > 0 {
				buf, free = free[len(free)-1], free[:len(free)-1]
			} else {
				buf = make([]byte, r.c.o.Segment)
			}
			from := next
			wg.Go(func() {
				defer close(s.done)
				s.got, s.err = r.fetchSegment(ctx, e, d, from, buf[:s.n])
			})
			window = append(window, s)
			next += s.n
		}
		if len(window) == 0 {
			return nil
		}
		s := window[0]
		window = window[1:]
		<-s.done
		if _, err := p.Write(s.got); err != nil {
			return err
		}
		if s.err != nil {
			return s.err
		}
		free = append(free, s.got[:cap(s.got)])
	}
}

// fetchSegment fills buf from the blob's offset on, and returns what came.
func (r *Repository) fetchSegment(ctx context.Context, e *endpoint, d ocispec.Descriptor, from int64, buf []byte) ([]byte, error) {
	last := from + int64(len(buf)) - 1
	q := request{method: "GET", path: "blobs/" + d.Digest.String(), actions: "pull", header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, last)}}}
	resp, err := r.do(ctx, e, q)
	if refused := As(err); refused != nil && refused.Status == http.StatusRequestedRangeNotSatisfiable {
		err = errNoRanges // or it has less than was promised: the whole will tell
	}
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		return nil, errNoRanges
	default:
		return nil, errs.Unavailable.Errorf("blob %s: registry %s answered %s", d.Digest, e.base.Host, resp.Status)
	}
	if first, ok := rangeStart(resp.Header.Get("Content-Range")); !ok || first != from {
		return nil, errs.Unavailable.Errorf("blob %s: registry %s sent another range than asked for", d.Digest, e.base.Host)
	}
	n, err := io.ReadFull(resp.Body, buf)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = r.broken(ctx, err, e)
	}
	return buf[:n], err
}
