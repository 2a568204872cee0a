package source

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Limits bound what an archive may cost, whatever it claims. A zero field means the default.
type Limits struct {
	Bytes   int64 // of all files; default 64 GiB
	Entries int   // default 2 million
}

// Archive is a Tree that a client sent as a tar archive. The contents lie one after another in one file, so that a
// file whose step is cached is never made; it has no name, and goes with Close.
type Archive struct {
	f       *os.File
	entries []Entry
	at      map[string]int64 // path → offset
}

// ReadArchive reads an archive, plain or compressed, to its end. dir is where contents are kept. Owners are root's: who
// has a file at the client says nothing here. What is wrong with the archive is errs.Invalid.
func ReadArchive(ctx context.Context, r io.Reader, dir string, l Limits) (_ *Archive, err error) {
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries <= 0 {
		l.Entries = 2_000_000
	}
	plain, err := Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	f, err := os.CreateTemp(dir, "context-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	a := &archiveReader{f: f, limits: l, found: map[string]*Entry{}, at: map[string]int64{}, buf: make([]byte, 256<<10)}
	tr := tar.NewReader(plain)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, archiveError(err)
		}
		if err := a.entry(h, tr); err != nil {
			return nil, err
		}
	}
	out := &Archive{f: f, at: a.at}
	for _, p := range slices.SortedFunc(maps.Keys(a.found), Compare) {
		e := a.found[p]
		e.Path = p
		out.entries = append(out.entries, *e)
	}
	return out, nil
}

func archiveError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errs.Invalid.Errorf("read context: %w", err)
	}
	return fmt.Errorf("read context: %w", err)
}

type archiveReader struct {
	f      *os.File
	limits Limits
	found  map[string]*Entry
	at     map[string]int64
	end    int64
	buf    []byte
	inode  uint64
}

const maxPath = 4095

func cleanName(name string) (string, error) {
	if len(name) > maxPath || strings.IndexByte(name, 0) >= 0 {
		return "", errs.Invalid.Errorf("read context: bad name in the archive")
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", errs.Invalid.Errorf("read context: name %q leads out of the context", name)
	}
	if p == "." {
		return "", nil
	}
	return p, nil
}

func (a *archiveReader) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, err := cleanName(h.Name)
	if err != nil || p == "" {
		return err
	}
	if err := a.parents(p); err != nil {
		return err
	}
	if old := a.found[p]; old == nil && len(a.found) >= a.limits.Entries {
		return errs.Invalid.Errorf("read context: more than %d files", a.limits.Entries)
	} else if old != nil && old.IsDir() && h.Typeflag != tar.TypeDir {
		for below := range a.found {
			if strings.HasPrefix(below, p+"/") {
				delete(a.found, below)
			}
		}
	}
	e := &Entry{Node: layer.Node{Mode: uint32(h.Mode & 0o7777), Mtime: h.ModTime}}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && (name == "security.capability" || strings.HasPrefix(name, "user.")) {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Mode |= layer.TypeFile
		if h.Size < 0 || h.Size > a.limits.Bytes-a.end {
			return errs.Invalid.Errorf("read context: it is larger than %d bytes", a.limits.Bytes)
		}
		e.Size = h.Size
		a.at[p] = a.end
		if e.Digest, err = a.content(r, h.Size); err != nil {
			return err
		}
	case tar.TypeDir:
		e.Mode |= layer.TypeDir
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxPath {
			return errs.Invalid.Errorf("read context: %q: bad symbolic link", p)
		}
		e.Mode, e.Link = layer.TypeLink|0o777, h.Linkname
	case tar.TypeLink:
		target, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		to := a.found[target]
		if to == nil || to.IsDir() {
			return errs.Invalid.Errorf("read context: %q: hard link to %q, which is not there", p, h.Linkname)
		}
		if to.Inode == [2]uint64{} {
			a.inode++
			to.Inode = [2]uint64{0, a.inode}
		}
		same := *to
		e = &same
		a.at[p] = a.at[target]
	case tar.TypeFifo:
		e.Mode |= layer.TypeFIFO
	case tar.TypeChar, tar.TypeBlock:
		return errs.Invalid.Errorf("read context: %q is a device", p)
	default:
		return errs.Invalid.Errorf("read context: %q: unknown entry type %q", p, h.Typeflag)
	}
	a.found[p] = e
	return nil
}

// parents makes the directories that the archive omitted.
func (a *archiveReader) parents(p string) error {
	dir, _ := split(p)
	if dir == "" {
		return nil
	}
	if e := a.found[dir]; e != nil {
		if !e.IsDir() {
			return errs.Invalid.Errorf("read context: %q is below %q, which is no directory", p, dir)
		}
		return nil
	}
	if err := a.parents(dir); err != nil {
		return err
	}
	a.found[dir] = &Entry{Node: layer.Node{Mode: layer.TypeDir | 0o755}}
	return nil
}

type sum struct{ hash.Hash }

func newSum() sum { return sum{sha256.New()} }

func (s sum) digest() digest.Digest { return digest.NewDigest(digest.SHA256, s.Hash) }

// content takes in one file. Blocks of zeros become holes, lest a bomb of them fills the disk.
func (a *archiveReader) content(r io.Reader, size int64) (digest.Digest, error) {
	h := newSum()
	for left := size; left > 0; {
		n, err := io.ReadFull(r, a.buf[:min(left, int64(len(a.buf)))])
		if err != nil {
			return "", archiveError(err)
		}
		p := a.buf[:n]
		h.Write(p)
		if !zero(p) {
			if _, err := a.f.WriteAt(p, a.end); err != nil {
				return "", fmt.Errorf("keep context: %w", err)
			}
		}
		a.end += int64(n)
		left -= int64(n)
	}
	return h.digest(), nil
}

func zero(p []byte) bool {
	if len(p) < 4096 {
		return false
	}
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// Entries implements Tree.
func (a *Archive) Entries() []Entry { return a.entries }

// Digest implements Tree.
func (a *Archive) Digest() digest.Digest { return "" }

// Want implements Tree: everything is here.
func (a *Archive) Want(context.Context, []*Entry) error { return nil }

// Open implements Tree.
func (a *Archive) Open(_ context.Context, e *Entry) (io.ReadCloser, error) {
	at, ok := a.at[e.Path]
	if !ok {
		return nil, errs.NotFound.Errorf("%s is not in the context", e.Path)
	}
	// A file that ends in a hole ends before its size says.
	return io.NopCloser(&padded{r: io.NewSectionReader(a.f, at, e.Size), left: e.Size}), nil
}

// padded gives zeros for what is missing at the end.
type padded struct {
	r    io.Reader
	left int64
}

func (p *padded) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n, err := p.r.Read(b[:min(int64(len(b)), p.left)])
	if n == 0 && err == io.EOF {
		n = int(min(int64(len(b)), p.left))
		clear(b[:n])
	}
	p.left -= int64(n)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// Without returns the tree without some of its files.
func (a *Archive) Without(drop func(path string) bool) *Archive {
	out := &Archive{f: a.f, at: a.at}
	for _, e := range a.entries {
		if !drop(e.Path) {
			out.entries = append(out.entries, e)
		}
	}
	return out
}

// Close lets the contents go.
func (a *Archive) Close() error { return a.f.Close() }
