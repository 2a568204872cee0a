package image

import (
	"context"
	"io"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/layer"
	"gantry/internal/remote"
)

// fetching is a layer that is on its way, for all pulls that want it. It ends when nobody does any more.
type fetching struct {
	users  int // guarded by Service.fetchMu
	cancel context.CancelCauseFunc
	ready  chan struct{} // closed when part is set, or it failed before
	part   *content.Partial
	done   chan struct{} // closed at the end; err is set then
	err    error
}

// want finds or starts the fetch of a layer. Every want is followed by a leave.
func (s *Service) want(repo *remote.Repository, d ocispec.Descriptor) *fetching {
	s.fetchMu.Lock()
	defer s.fetchMu.Unlock()
	if f := s.fetches[d.Digest]; f != nil {
		f.users++
		return f
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &fetching{users: 1, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	s.fetches[d.Digest] = f
	go func() {
		f.err = s.fetch(ctx, f, repo, d)
		cancel(nil)
		s.fetchMu.Lock()
		delete(s.fetches, d.Digest)
		s.fetchMu.Unlock()
		close(f.done)
	}()
	return f
}

func (s *Service) leave(f *fetching) {
	s.fetchMu.Lock()
	defer s.fetchMu.Unlock()
	if f.users--; f.users == 0 {
		f.cancel(errLeft)
	}
}

func (s *Service) fetch(ctx context.Context, f *fetching, repo *remote.Repository, d ocispec.Descriptor) error {
	opened := false
	defer func() {
		if !opened {
			close(f.ready)
		}
	}()
	l := s.content.Lease()
	defer l.Release()
	l.Hold(d.Digest)
	if _, err := s.content.Stat(d.Digest); err == nil { // it came while we were asked
		return nil
	}
	part, err := s.content.Partial(ctx, l, d.Digest, d.Size)
	if err != nil {
		return err
	}
	defer part.Close()
	f.part = part
	opened = true
	close(f.ready)
	return repo.FetchInto(ctx, part, d)
}

// offset is how many bytes have come.
func (f *fetching) offset() int64 {
	select {
	case <-f.ready:
		if f.part != nil {
			return f.part.Offset()
		}
	default:
	}
	return 0
}

// source opens the layer's archive: as it comes, or from the store.
func (j *job) source(ctx context.Context, m *meter) layer.Source {
	return func() (io.ReadCloser, error) {
		m.n.Store(0)
		if !j.here {
			select {
			case <-j.f.ready:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			select {
			case <-j.f.done:
				if j.f.err != nil {
					return nil, j.f.err
				}
			default:
				if j.f.part != nil {
					r, err := j.f.part.Reader(ctx)
					if err != nil {
						return nil, err
					}
					return &metered{r, m}, nil
				}
				<-j.f.done
				if j.f.err != nil {
					return nil, j.f.err
				}
			}
		}
		r, err := j.p.s.content.Open(j.desc.Digest)
		if err != nil {
			return nil, err
		}
		return &metered{r, m}, nil
	}
}

// meter counts what was read.
type meter struct{ n atomic.Int64 }

type metered struct {
	io.ReadCloser
	m *meter
}

func (r *metered) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.m.n.Add(int64(n))
	return n, err
}
