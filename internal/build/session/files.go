package session

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// Files are contents that builds took in, by digest, below one directory: what did not change since the last build need not
// travel again. They are a cache: nothing is synced, and a file that is torn by a crash of the machine is found by
// its digest and fetched once more.
type Files struct {
	dir string
	max int64 // bytes; the least recently used go first
}

// OpenFiles uses the directory, makes it if need be, and lets go of what is too much.
func OpenFiles(dir string, maxBytes int64) (*Files, error) {
	f := &Files{dir, maxBytes}
	if err := os.MkdirAll(filepath.Join(dir, "tmp"), 0o700); err != nil {
		return nil, err
	}
	// What lies in tmp was being received when the last engine ended.
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil {
		return nil, err
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(dir, "tmp", e.Name())); err != nil {
			return nil, err
		}
	}
	return f, f.Trim()
}

func (f *Files) path(d digest.Digest) string {
	return filepath.Join(f.dir, d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// fresh is how long ago a content's last use may be noted without noting it anew.
const fresh = time.Hour

// Has reports whether the content is here, and keeps it from being trimmed soon.
func (f *Files) Has(d digest.Digest) bool {
	path := f.path(d)
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	now := time.Now()
	if age := now.Sub(info.ModTime()); age >= 0 && age < fresh {
		return true
	}
	return os.Chtimes(path, now, now) == nil
}

// read returns a content of at most limit bytes.
func (f *Files) read(d digest.Digest, limit int64) ([]byte, error) {
	if !f.Has(d) {
		return nil, errs.NotFound.Errorf("no file %s is here", d)
	}
	r, err := f.Open(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errs.Invalid.Errorf("file %s is longer than %d bytes", d, limit)
	}
	return data, err
}

// Put takes in a content. One that is not of the digest is errs.Invalid.
func (f *Files) Put(d digest.Digest, r io.Reader) error {
	tmp, err := os.CreateTemp(filepath.Join(f.dir, "tmp"), "")
	if err != nil {
		return errs.Internal.Wrap(err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	check := d.Verifier()
	if _, err := io.Copy(tmp, io.TeeReader(r, check)); err != nil {
		return errs.Internal.Errorf("write %s: %w", tmp.Name(), err)
	}
	if !check.Verified() {
		return errs.Invalid.Errorf("the content is not %s", d)
	}
	to := f.path(d)
	if err := os.Rename(tmp.Name(), to); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return errs.Internal.Wrap(err)
		}
		err = os.Rename(tmp.Name(), to)
		if err != nil {
			return errs.Internal.Wrap(err)
		}
	} else if err != nil {
		return errs.Internal.Wrap(err)
	}
	return nil
}

// Open returns a content, whose digest is checked when it has been read to its end; errs.NotFound if it is not here.
func (f *Files) Open(d digest.Digest) (io.ReadCloser, error) {
	path := f.path(d)
	// Contents are many and small: os.File would ask the kernel for each whether it can be waited for.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil, errs.NotFound.Errorf("no file %s is here", d)
	} else if err != nil {
		return nil, errs.Internal.Wrap(&fs.PathError{Op: "open", Path: path, Err: err})
	}
	c := &checked{fd: fd, check: d.Verifier(), of: f, d: d}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		c.Close()
		return nil, errs.Internal.Wrap(&fs.PathError{Op: "stat", Path: path, Err: err})
	}
	c.left = st.Size
	return c, nil
}

type checked struct {
	fd    int
	left  int64 // bytes to be read; whoever knows the size does not read on to the end
	over  bool
	check digest.Verifier
	of    *Files
	d     digest.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	if c.over || len(p) == 0 {
		return 0, io.EOF
	}
	n := 0
	for c.left > 0 {
		var err error
		n, err = unix.Read(c.fd, p[:min(int64(len(p)), c.left)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return 0, errs.Internal.Wrap(&fs.PathError{Op: "read", Path: c.of.path(c.d), Err: err})
		}
		break
	}
	_, _ = c.check.Write(p[:n])
	if c.left -= int64(n); c.left > 0 && n > 0 {
		return n, nil
	}
	if c.over = true; !c.check.Verified() {
		os.Remove(c.of.path(c.d))
		return 0, errs.Internal.Errorf("read file %s of an earlier build: it is damaged and has been removed; build again", c.d)
	}
	return n, io.EOF
}

func (c *checked) Close() error { return unix.Close(c.fd) }

// Size tells how many bytes are kept.
func (f *Files) Size() (int64, error) {
	all, err := f.all()
	var n int64
	for _, x := range all {
		n += x.size
	}
	return n, err
}

type kept struct {
	path string
	size int64
	used time.Time
}

func (f *Files) all() (all []kept, err error) {
	err = filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		all = append(all, kept{path, info.Size(), info.ModTime()})
		return nil
	})
	return all, err
}

// Trim removes the least recently used contents beyond the bound.
func (f *Files) Trim() error {
	all, err := f.all()
	if err != nil {
		return err
	}
	var total int64
	for _, x := range all {
		total += x.size
	}
	slices.SortFunc(all, func(a, b kept) int { return a.used.Compare(b.used) })
	for _, x := range all {
		if total <= f.max {
			break
		}
		if err := os.Remove(x.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= x.size
	}
	return nil
}

// Clear removes everything and tells how many bytes that was.
func (f *Files) Clear() (int64, error) {
	was, err := f.Size()
	if err != nil {
		return 0, err
	}
	less := Files{f.dir, 0}
	return was, less.Trim()
}
