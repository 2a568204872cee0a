// Package content keeps blobs: manifests, configs and layers, exactly as they were received.
//
// A blob is a file named by its digest, <root>/blobs/<algorithm>/<hex>. Its life:
//
// It is written to <root>/ingest while it is hashed, synced, and renamed to its name: a blob that has a name
// is whole. What a crash leaves lies in ingest and goes at the next Open, but for blobs that come from afar: of those
// a [Partial] keeps what has come, so that fetching goes on where it broke off. A [Lease] protects blobs that
// nothing on disk refers to yet (or no longer): whoever ingests, or is about to refer to a blob that is
// already there, holds one until the reference is recorded. [Store.Collect] removes what neither a root nor a
// lease wants, while others go on working.
package content

import (
	"bytes"
	"context"
	_ "crypto/sha256" // the algorithms that digests may name
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/atomicfile"
	"gantry/internal/errs"
)

// algorithms are those a blob may be known by; each has a folder.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA512}

// Store is an open blob store. Its methods may be called from any goroutine.
type Store struct {
	root string

	collecting sync.Mutex // one collection at a time

	mu      sync.Mutex
	coming  map[digest.Digest]struct{} // open as a Partial
	held    map[digest.Digest]int      // by how many leases
	touched map[digest.Digest]struct{} // leased at any time during the running collection; nil when none runs
}

// Open opens or creates the store in root and removes what unfinished ingestions left there.
func Open(root string) (*Store, error) {
	s := &Store{root: root, held: map[digest.Digest]int{}, coming: map[digest.Digest]struct{}{}}
	err := os.RemoveAll(s.ingestDir())
	if err == nil {
		err = s.clearPartials(time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("clear unfinished blobs: %w", err)
	}
	dirs := []string{s.ingestDir(), s.partialDir()}
	for _, a := range algorithms {
		dirs = append(dirs, filepath.Join(root, "blobs", a.String()))
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open content store: %w", err)
		}
	}
	return s, nil
}

func (s *Store) ingestDir() string { return filepath.Join(s.root, "ingest") }

// path names the file of d. It refuses what is not a digest, so that a foreign one never becomes a path.
func (s *Store) path(d digest.Digest) (string, error) {
	if err := Check(d); err != nil {
		return "", err
	}
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), d.Encoded()), nil
}

// Check reports as errs.Invalid what is not a digest of an algorithm that the store knows.
func Check(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return errs.Invalid.Errorf("digest %q: %w", string(d), err)
	}
	for _, a := range algorithms {
		if d.Algorithm() == a {
			return nil
		}
	}
	return errs.Invalid.Errorf("digest %q: unsupported algorithm", string(d))
}

// Stat returns the size of a blob in bytes; errs.NotFound if it is not there.
func (s *Store) Stat(d digest.Digest) (int64, error) {
	path, err := s.path(d)
	if err != nil {
		return 0, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return 0, blobError(d, err)
	}
	return fi.Size(), nil
}

// Open opens a blob for reading; errs.NotFound if it is not there. An open blob stays readable even when
// it is collected.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	path, err := s.path(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, blobError(d, err)
	}
	return f, nil
}

// Read returns a whole small blob, of at most limit bytes, and checks it against its digest.
func (s *Store) Read(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	}
	if int64(len(data)) > limit {
		return nil, errs.Invalid.Errorf("blob %s is larger than %d bytes", d, limit)
	}
	if d.Algorithm().FromBytes(data) != d {
		return nil, fmt.Errorf("blob %s is damaged on disk", d)
	}
	return data, nil
}

func blobError(d digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.NotFound.Errorf("blob %s: not found", d)
	}
	return fmt.Errorf("blob %s: %w", d, err)
}

// Expect says what is known of a blob before it comes. The zero value expects nothing.
type Expect struct {
	Digest digest.Digest // empty: any; it is then known by its sha256
	Size   int64         // bytes, when Sized
	Sized  bool
	Max    int64 // bytes; more is refused; 0: no bound
}

// Blob names what was taken in.
type Blob struct {
	Digest digest.Digest
	Size   int64
	New    bool // it was not there before: its bytes are those that were just hashed
}

// Ingest takes a blob in and gives it to the lease. What does not match the expectation is errs.Invalid and leaves nothing.
// An error of r is returned wrapped.
func (s *Store) Ingest(ctx context.Context, l *Lease, r io.Reader, e Expect) (Blob, error) {
	b, finish, err := s.Receive(ctx, l, r, e)
	if err != nil {
		return Blob{}, err
	}
	return b, finish()
}

// Receive is Ingest but for the end: only finish, which waits for the disk and must be called, gives the blob its name. So the next one can
// be received meanwhile.
func (s *Store) Receive(ctx context.Context, l *Lease, r io.Reader, e Expect) (_ Blob, finish func() error, err error) {
	algorithm := digest.SHA256
	if e.Digest != "" {
		if err := Check(e.Digest); err != nil {
			return Blob{}, nil, err
		}
		algorithm = e.Digest.Algorithm()
		l.Hold(e.Digest) // before looking: what is there now must not be collected
	}
	in := &intake{hash: algorithm.Hash()}
	if e.Digest == "" || !s.has(e.Digest) {
		if in.f, err = os.CreateTemp(s.ingestDir(), ""); err != nil {
			return Blob{}, nil, fmt.Errorf("ingest blob: %w", err)
		}
		defer func() {
			if err != nil {
				in.f.Close()
				os.Remove(in.f.Name())
			}
		}()
	}
	n, err := in.copy(ctx, r, e)
	if err != nil {
		return Blob{}, nil, fmt.Errorf("ingest blob: %w", err)
	}
	got := digest.NewDigest(algorithm, in.hash)
	if e.Digest != "" && got != e.Digest {
		return Blob{}, nil, errs.Invalid.Errorf("ingest blob: content has digest %s, not %s as promised", got, e.Digest)
	}
	if in.f == nil {
		return Blob{Digest: got, Size: n}, func() error { return nil }, nil
	}
	l.Hold(got)
	return Blob{got, n, !s.has(got)}, func() error {
		err := s.commit(in.f, got)
		if in.f.Close(); err != nil {
			os.Remove(in.f.Name())
		}
		return err
	}, nil
}

// IngestBytes is Ingest of a blob made here.
func (s *Store) IngestBytes(ctx context.Context, l *Lease, data []byte) (Blob, error) {
	return s.Ingest(ctx, l, bytes.NewReader(data), Expect{Digest: digest.FromBytes(data)})
}

func (s *Store) has(d digest.Digest) bool {
	_, err := s.Stat(d)
	return err == nil
}

// commit makes the ingested file durable under its name.
func (s *Store) commit(f *os.File, d digest.Digest) error {
	path, err := s.path(d)
	if err != nil {
		return err
	}
	if s.has(d) { // came twice: the one that is there is the same
		os.Remove(f.Name())
		return nil
	}
	if err := f.Chmod(0o444); err != nil {
		return fmt.Errorf("ingest blob %s: %w", d, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("ingest blob %s: %w", d, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("ingest blob %s: %w", d, err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("ingest blob %s: %w", d, err)
	}
	return nil
}

// copyBounded copies r to w, and stops when ctx ends or r gives more than expected.
func copyBounded(ctx context.Context, w io.Writer, r io.Reader, e Expect) (n int64, err error) {
	limit := e.bound()
	buf := make([]byte, 256<<10)
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m, rerr := r.Read(buf)
		if n += int64(m); n > limit {
			return n, errs.Invalid.Errorf("blob is larger than %d bytes", limit)
		}
		if _, err := w.Write(buf[:m]); err != nil {
			return n, err
		}
		if rerr == io.EOF {
			return n, e.check(n)
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// bound is the most that may come.
func (e Expect) bound() int64 {
	switch {
	case e.Sized && (e.Max == 0 || e.Size < e.Max):
		return e.Size
	case !e.Sized && e.Max == 0:
		return 1<<63 - 1
	}
	return e.Max
}

func (e Expect) check(n int64) error {
	if e.Sized && n != e.Size {
		return errs.Invalid.Errorf("blob has %d bytes, not %d as promised", n, e.Size)
	}
	return nil
}
