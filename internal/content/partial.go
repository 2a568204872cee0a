package content

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// partialLife is how long a part that nobody goes on with is kept.
const partialLife = 7 * 24 * time.Hour

// writeBehind is after how many bytes the kernel is asked to begin writing: what has reached the disk survives a
// power cut, and the sync at the end finds little to do.
const writeBehind = 16 << 20

// Partial is a blob that comes over a way that may break. What has come is kept until the rest does: over errors, the
// engine's end, and (as far as the kernel had written it) a reboot. Its digest, checked at the end over everything,
// decides what it is worth.
//
// One goroutine writes; any number may read along (Reader).
type Partial struct {
	s    *Store
	d    digest.Digest
	size int64
	f    *os.File
	hash hash.Hash

	mu     sync.Mutex
	more   *sync.Cond
	n      int64 // bytes there
	behind int64 // up to here writing has begun
	round  int   // how often it began anew
	ended  bool
	whole  bool
}

func (s *Store) partialDir() string { return filepath.Join(s.root, "partial") }

func (s *Store) partialPath(d digest.Digest) string {
	return filepath.Join(s.partialDir(), d.Algorithm().String()+"-"+d.Encoded())
}

// clearPartials removes parts that are too old.
func (s *Store) clearPartials(now time.Time) error {
	entries, err := os.ReadDir(s.partialDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && now.Sub(fi.ModTime()) < partialLife {
			continue
		}
		if err := os.Remove(filepath.Join(s.partialDir(), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Partial opens the blob d of size bytes to go on writing it, and gives it to the lease. It reads what is there
// already, to go on hashing. errs.Conflict while another has it open.
func (s *Store) Partial(ctx context.Context, l *Lease, d digest.Digest, size int64) (_ *Partial, err error) {
	if err := Check(d); err != nil {
		return nil, err
	}
	if size < 0 {
		return nil, errs.Invalid.Errorf("blob %s: negative size %d", d, size)
	}
	l.Hold(d)
	s.mu.Lock()
	_, taken := s.coming[d]
	if !taken {
		s.coming[d] = struct{}{}
	}
	s.mu.Unlock()
	if taken {
		return nil, errs.Conflict.Errorf("blob %s is coming already", d)
	}
	p := &Partial{s: s, d: d, size: size, hash: d.Algorithm().Hash()}
	p.more = sync.NewCond(&p.mu)
	defer func() {
		if err != nil {
			if p.f != nil {
				p.f.Close()
			}
			s.arrived(d)
		}
	}()
	if p.f, err = os.OpenFile(s.partialPath(d), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600); err != nil {
		return nil, fmt.Errorf("ingest blob: %w", err)
	}
	fi, err := p.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("ingest blob: %w", err)
	}
	if fi.Size() > size {
		return p, p.Restart()
	}
	if p.n, err = copyBounded(ctx, p.hash, p.f, Expect{}); err != nil {
		return nil, fmt.Errorf("read the part of blob %s: %w", d, err)
	}
	p.behind = p.n
	// Said before it comes, and before the disk is full for everyone else.
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(p.f.Fd()), &st); err == nil && st.Bsize > 0 && (size-p.n)/int64(st.Bsize) >= int64(st.Bavail) {
		return nil, errs.Unavailable.Errorf("blob %s: %w: %d bytes are to come, %d are free", d, unix.ENOSPC, size-p.n, int64(st.Bavail)*int64(st.Bsize))
	}
	return p, nil
}

func (s *Store) arrived(d digest.Digest) {
	s.mu.Lock()
	delete(s.coming, d)
	s.mu.Unlock()
}

// Offset is how many bytes have come.
func (p *Partial) Offset() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// Write adds to what has come. More than the size is errs.Invalid.
func (p *Partial) Write(b []byte) (int, error) {
	if int64(len(b)) > p.size-p.n {
		return 0, errs.Invalid.Errorf("blob is larger than %d bytes", p.size)
	}
	n, err := p.f.WriteAt(b, p.n)
	p.hash.Write(b[:n])
	p.mu.Lock()
	p.n += int64(n)
	p.mu.Unlock()
	p.more.Broadcast()
	if err != nil {
		return n, fmt.Errorf("ingest blob: %w", err)
	}
	if p.n-p.behind >= writeBehind {
		// A hint: where it isn't taken, the sync at the end does the work.
		_ = unix.SyncFileRange(int(p.f.Fd()), p.behind, p.n-p.behind, unix.SYNC_FILE_RANGE_WRITE)
		p.behind = p.n
	}
	return n, nil
}

// Restart forgets what has come. Readers fail.
func (p *Partial) Restart() error {
	p.mu.Lock()
	p.n, p.behind = 0, 0
	p.round++
	p.hash.Reset()
	p.mu.Unlock()
	p.more.Broadcast()
	if err := p.f.Truncate(0); err != nil {
		return fmt.Errorf("ingest blob: %w", err)
	}
	return nil
}

// Commit makes it a blob and closes it. What is not the promised content is errs.Invalid, and is still open:
// what has come may be an older part's fault.
func (p *Partial) Commit() error {
	if p.n != p.size {
		return errs.Invalid.Errorf("ingest blob: blob has %d bytes, not %d as promised", p.n, p.size)
	}
	if got := digest.NewDigest(p.d.Algorithm(), p.hash); got != p.d {
		return errs.Invalid.Errorf("ingest blob: content has digest %s, not %s as promised", got, p.d)
	}
	if err := p.s.commit(p.f, p.d); err != nil {
		return err
	}
	p.end(true)
	return nil
}

// Close lets go of it; what has come is kept. It may be called after Commit.
func (p *Partial) Close() { p.end(false) }

// Discard throws away what has come and closes it.
func (p *Partial) Discard() {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if !ended {
		os.Remove(p.f.Name())
	}
	p.end(false)
}

func (p *Partial) end(whole bool) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended, p.whole = true, whole
	p.mu.Unlock()
	p.more.Broadcast()
	p.f.Close()
	p.s.arrived(p.d)
}

// errBroken is what a reader gets when what it reads along will not come.
var errBroken = errors.New("the rest of the blob did not come")

// Reader reads the blob while it comes, from its beginning, and ends when the blob is whole and its digest was found
// right: who reads to the end has read the truth, who does not must throw away what was made of it.
func (p *Partial) Reader(ctx context.Context) (io.ReadCloser, error) {
	p.mu.Lock()
	round := p.round
	p.mu.Unlock()
	f, err := os.Open(p.s.partialPath(p.d))
	if errors.Is(err, fs.ErrNotExist) { // it has just arrived
		return p.s.Open(p.d)
	}
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", p.d, err)
	}
	r := &partialReader{p: p, ctx: ctx, f: f, round: round}
	r.stop = context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.more.Broadcast()
	})
	return r, nil
}

type partialReader struct {
	p     *Partial
	ctx   context.Context
	f     *os.File
	at    int64
	round int
	stop  func() bool
}

func (r *partialReader) Read(b []byte) (int, error) {
	p := r.p
	p.mu.Lock()
	for p.n <= r.at && !p.ended && p.round == r.round && r.ctx.Err() == nil {
		p.more.Wait()
	}
	have, round, ended, whole := p.n, p.round, p.ended, p.whole
	p.mu.Unlock()
	switch {
	case r.ctx.Err() != nil:
		return 0, r.ctx.Err()
	case round != r.round || ended && !whole:
		return 0, errBroken
	case have > r.at:
		n, err := r.f.ReadAt(b[:min(int64(len(b)), have-r.at)], r.at)
		r.at += int64(n)
		switch {
		case n > 0:
			err = nil
		case err == io.EOF: // it began anew just now
			err = errBroken
		}
		return n, err
	}
	return 0, io.EOF
}

func (r *partialReader) Close() error {
	r.stop()
	return r.f.Close()
}
