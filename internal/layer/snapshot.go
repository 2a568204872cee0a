package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/state"
)

// packVersion is the form of Pack's archives. A layer's diff ID was computed of one: a Pack that writes other bytes gets a
// number of its own, and the old one stays for the layers that have it.
const packVersion = 1

// EmptyDiff is the diff ID of a layer in which nothing is: 1,024 zero bytes.
var EmptyDiff = digest.FromBytes(make([]byte, 1024))

// Snapshot makes a layer of what the container changed on top of chain, and gives it to the lease. Nothing changed is
// an Info with EmptyDiff, and no layer. The container may run: what it writes meanwhile is in it or not, so
// that whoever wants one moment pauses it.
//
// The upper directory is copied (shared blocks where the file system has them), tidied of marks that mean nothing,
// and the copy is packed to learn its diff ID. So packing the layer again gives the same bytes for as long as it
// lives, and no archive is kept beside it: [Store.OpenTar] makes it when somebody saves or pushes the image.
func (s *Store) Snapshot(ctx context.Context, l *Lease, chain digest.Digest, container string) (_ Info, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make layer of container %s: %w", container, err)
		}
	}()
	l.Hold(chain)
	s.mu.Lock()
	_, err = s.lowerOf(chain) // refuses the 128th layer
	s.mu.Unlock()
	if err != nil {
		return Info{}, err
	}
	upper, lower, err := s.openStack(chain, container)
	if err != nil {
		return Info{}, err
	}
	defer closeAll(append(lower, upper))
	name, tmp, err := s.newDir()
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.trash.throw(tmp))
		}
	}()
	to, err := openDir(tmp)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(to)
	size, err := copyLayer(ctx, to, upper, lower)
	if err != nil {
		return Info{}, err
	}
	failpoint.Hit("layer-copied")
	// The disk writes while the archive is hashed.
	synced := make(chan error, 1)
	go func() { synced <- unix.Syncfs(to) }()
	d, n, err := packedDigest(ctx, to, lower)
	if serr := <-synced; err == nil && serr != nil {
		err = fmt.Errorf("sync: %w", serr)
	}
	if err != nil {
		return Info{}, err
	}
	if d == EmptyDiff {
		return Info{ChainID: chain, DiffID: EmptyDiff, Parent: chain}, s.trash.throw(tmp)
	}
	r := record{Dir: name, DiffID: d, Parent: chain, Size: size, Created: time.Now().UTC(), Pack: packVersion, TarSize: n}
	return s.keep(ctx, l, tmp, r)
}

// keep makes the synced directory tmp the layer r, unless it is there already.
func (s *Store) keep(ctx context.Context, l *Lease, tmp string, r record) (Info, error) {
	chain := ChainID(r.Parent, r.DiffID)
	l.Hold(chain)
	info := Info{chain, r.DiffID, r.Parent, r.Size}
	for {
		s.mu.Lock()
		old, there := s.layers[chain]
		other, busy := s.unpacking[chain]
		if !there && !busy {
			other = make(chan struct{})
			s.unpacking[chain] = other
			s.mu.Unlock()
			err := s.publish(tmp, chain, r)
			s.mu.Lock()
			delete(s.unpacking, chain)
			if err == nil {
				s.layers[chain] = r
			}
			s.mu.Unlock()
			close(other)
			return info, err
		}
		s.mu.Unlock()
		if there {
			if err := s.trash.throw(tmp); err != nil {
				return Info{}, err
			}
			if old.Pack == 0 && r.Pack > 0 { // came as an archive that may go; from now on it can be made again
				if err := s.settle(); err != nil { // and it may be all that is kept of it
					return Info{}, err
				}
				old.Pack, old.TarSize, old.Boot = r.Pack, r.TarSize, ""
				if err := s.state.Update(func(tx state.Tx) error { return tx.Put(bucket, chain.String(), old) }); err != nil {
					return Info{}, err
				}
				s.mu.Lock()
				if _, still := s.layers[chain]; still {
					s.layers[chain] = old
				}
				s.mu.Unlock()
			}
			info.Size = old.Size
			return info, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return Info{}, ctx.Err()
		}
	}
}

// publish renames the directory and records the layer.
func (s *Store) publish(tmp string, chain digest.Digest, r record) error {
	if err := os.Rename(tmp, filepath.Join(s.base, "layers", r.Dir)); err != nil {
		return err
	}
	// As unpack does: the rename reaches the disk no later than the record.
	if err := syncPath(filepath.Join(s.base, "layers"), unix.Fsync); err != nil {
		return err
	}
	failpoint.Hit("layer-renamed")
	return s.state.Update(func(tx state.Tx) error { return tx.Put(bucket, chain.String(), r) })
}

// Import makes a bottom layer of a plain archive whose diff ID is not known yet, and gives it to the lease. What
// is wrong with the archive is errs.Invalid.
func (s *Store) Import(ctx context.Context, l *Lease, plain io.Reader) (_ Info, err error) {
	name, tmp, err := s.newDir()
	if err != nil {
		return Info{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.trash.throw(tmp))
		}
	}()
	to, err := openDir(tmp)
	if err != nil {
		return Info{}, err
	}
	defer unix.Close(to)
	v := verify(plain, digest.Digest(digest.SHA256.String()+":"))
	defer v.close()
	done, err := Unpack(ctx, v, Target{Root: to, Limits: s.limits})
	if err != nil {
		return Info{}, err
	}
	d := v.sum()
	if err := unix.Syncfs(to); err != nil {
		return Info{}, fmt.Errorf("sync: %w", err)
	}
	return s.keep(ctx, l, tmp, record{Dir: name, DiffID: d, Size: done.Size, Created: time.Now().UTC()})
}

// packedDigest packs the layer in dir into nothing but its digest and size.
func packedDigest(ctx context.Context, dir int, lower []int) (digest.Digest, int64, error) {
	h := hashAside(sha256.New())
	err := packLayer(ctx, h, dir, lower)
	h.close()
	if err != nil {
		return "", 0, err
	}
	return digest.NewDigest(digest.SHA256, h.hash), h.n, nil
}

// packLayer packs a layer's directory. The top gets an entry only if it is not as the layers below have it: that is
// what it is unpacked to without one.
func packLayer(ctx context.Context, w io.Writer, dir int, lower []int) error {
	own, err := ownRoot(dir, lower)
	if err != nil {
		return err
	}
	return Pack(ctx, w, dir, PackOptions{Layer: true, RootEntry: own})
}

func ownRoot(dir int, lower []int) (bool, error) {
	var st, below unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return false, err
	}
	mine, err := rootXattrs(dir)
	if err != nil {
		return false, err
	}
	if len(lower) == 0 {
		return st.Mode&0o7777 != 0o755 || st.Uid != 0 || st.Gid != 0 || len(mine) > 0, nil
	}
	if err := unix.Fstat(lower[0], &below); err != nil {
		return false, err
	}
	theirs, err := rootXattrs(lower[0])
	if err != nil {
		return false, err
	}
	return !sameAttributes(&st, &below) || !slices.Equal(mine, theirs), nil
}

func rootXattrs(dir int) ([]string, error) {
	names, err := listXattrs(dir, ".")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, x := range names {
		if carried(x) {
			v, err := getXattr(dir, ".", x)
			if err != nil {
				return nil, err
			}
			all = append(all, x+"="+string(v))
		}
	}
	slices.Sort(all)
	return all, nil
}

// TarSize returns the size of the archive that OpenTar makes of the layer diff; errs.NotFound if no layer of
// that diff ID was made here.
func (s *Store) TarSize(diff digest.Digest) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, _, err := s.packed(diff)
	return r.TarSize, err
}

// packed is called with s.mu held.
func (s *Store) packed(diff digest.Digest) (record, digest.Digest, error) {
	for chain, r := range s.layers {
		if r.DiffID == diff && r.Pack > 0 {
			return r, chain, nil
		}
	}
	return record{}, "", errs.NotFound.Errorf("layer %s: not found", diff)
}

// OpenTar makes the plain archive of a layer that was made here. The last Read fails instead of returning io.EOF when the
// bytes are not those of the diff ID: the layer is damaged then.
func (s *Store) OpenTar(ctx context.Context, diff digest.Digest) (io.ReadCloser, error) {
	s.mu.Lock()
	r, chain, err := s.packed(diff)
	if err == nil && r.Pack != packVersion {
		err = errs.Conflict.Errorf("layer %s was made by a newer gantry (archive form %d)", diff, r.Pack)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l, _, dirs, err := s.borrow(chain)
	if err != nil {
		return nil, err
	}
	fds, err := s.openAll(dirs[:min(2, len(dirs))]) // the layer, and the one whose root it shows
	if err != nil {
		l.Release()
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	go func() {
		defer l.Release()
		defer closeAll(fds)
		err := packLayer(ctx, pw, fds[0], fds[1:])
		pw.CloseWithError(err)
	}()
	return &rebuilt{verifier: verify(pr, diff), pipe: pr, cancel: cancel, want: diff}, nil
}

type rebuilt struct {
	*verifier
	pipe   *io.PipeReader
	cancel func()
	want   digest.Digest
}

func (r *rebuilt) Read(p []byte) (int, error) {
	n, err := r.verifier.Read(p)
	if err == io.EOF {
		if got := r.sum(); got != r.want {
			return n, fmt.Errorf("layer %s is damaged on disk: its files now have the diff ID %s", r.want, got)
		}
	}
	return n, err
}

// Close ends the making.
func (r *rebuilt) Close() error {
	r.cancel()
	r.pipe.CloseWithError(context.Canceled)
	r.verifier.close()
	return nil
}
