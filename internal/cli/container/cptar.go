package container

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// packLocal writes what from names as a tar stream, and returns its length. rename is the name of its top; empty: its own.
// Contents of files go to w by its ReadFrom, if it has one.
func packLocal(ctx context.Context, to io.Writer, from copyEnd, rename string) (int64, error) {
	_, base := splitEntry(from.path)
	top := base
	if from.rebase != "" {
		top = from.rebase
	}
	if rename != "" {
		top = rename
	}
	w := &counted{w: to}
	tw := tar.NewWriter(w)
	type inode struct{ dev, ino uint64 }
	links := map[inode]string{}
	root := filepath.Clean(from.path)
	buf := make([]byte, 256<<10)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := path.Join(top, rel)
		if top == "." {
			name = "./" + rel
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fi.Mode()&fs.ModeSocket != 0 {
			return nil
		}
		target := ""
		if fi.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(bare{fi}, target)
		if err != nil {
			return err
		}
		h.Name, h.Format = name, tar.FormatPAX
		h.Uname, h.Gname, h.AccessTime, h.ChangeTime = "", "", time.Time{}, time.Time{}
		h.ModTime = h.ModTime.Truncate(time.Second)
		if st, ok := fi.Sys().(*syscall.Stat_t); ok {
			h.Uid, h.Gid = int(st.Uid), int(st.Gid)
			if fi.Mode()&fs.ModeDevice != 0 {
				h.Devmajor, h.Devminor = int64(st.Rdev>>8&0xfff|st.Rdev>>32&^0xfff), int64(st.Rdev&0xff|st.Rdev>>12&^0xff)
			}
			if key := (inode{uint64(st.Dev), st.Ino}); st.Nlink > 1 && !fi.IsDir() {
				if first, ok := links[key]; ok {
					h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
				} else {
					links[key] = name
				}
			}
		}
		if fi.IsDir() {
			h.Name = strings.TrimSuffix(name, "/") + "/"
		}
		if h.Typeflag != tar.TypeReg {
			return tw.WriteHeader(h)
		}
		f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if now, err := f.Stat(); err != nil || !now.Mode().IsRegular() {
			return fmt.Errorf("read %s: it changed while it was copied", p)
		} else {
			h.Size = now.Size()
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		// Past the tar writer, which would copy it; and so the next entry is another writer's.
		n, err := w.copy(f, h.Size, buf)
		if err == nil && n < h.Size {
			err = fmt.Errorf("read %s: it became shorter while it was copied", p)
		}
		if err != nil {
			return err
		}
		tw = tar.NewWriter(w)
		_, err = w.Write(padding[:-h.Size&511])
		return err
	})
	if err != nil {
		return w.n, err
	}
	err = tw.Close()
	return w.n, err
}

var padding [511]byte

// counted counts what goes to w.
type counted struct {
	w io.Writer
	n int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *counted) copy(f *os.File, size int64, buf []byte) (n int64, err error) {
	l := &io.LimitedReader{R: f, N: size}
	if to, ok := c.w.(io.ReaderFrom); ok {
		n, err = to.ReadFrom(l)
	} else {
		n, err = io.CopyBuffer(struct{ io.Writer }{c.w}, struct{ io.Reader }{l}, buf)
	}
	c.n += n
	return n, err
}

// bare hides a file's owner from archive/tar, which would look up its name.
type bare struct{ fs.FileInfo }

func (bare) Sys() any { return nil }

// Unpack extracts an archive into dir and nowhere else; see unpackLocal.
func Unpack(ctx context.Context, r io.Reader, dir string) error {
	return unpackLocal(ctx, r, dir, ".", ".")
}

// unpackLocal extracts an archive into dir. The first element of the names is first in the archive and becomes name. What the archive
// says is not believed: nothing is made outside of dir, whatever names and links it has. As in Docker what is made belongs
// to whoever copies.
func unpackLocal(ctx context.Context, r io.Reader, dir, first, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	tr := tar.NewReader(r)
	buf := make([]byte, 256<<10)
	type made struct {
		path string
		time time.Time
	}
	var dirs []made
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return err
		}
		p := local(h.Name, first, name)
		if p == "" {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = local(h.Linkname, first, name)
		}
		if err := extract(root, dir, p, h, tr, buf); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, made{p, h.ModTime})
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		root.Chtimes(dirs[i].path, dirs[i].time, dirs[i].time)
	}
	return nil
}

// local turns an archive's name into a path below the target; empty is the target itself.
func local(name, first, rename string) string {
	p := strings.TrimLeft(path.Clean("/"+name), "/")
	if first == "." || first == "/" {
		if rename == first {
			return p
		}
		return path.Join(rename, p)
	}
	if head, rest, _ := strings.Cut(p, "/"); head == first {
		return path.Join(rename, rest)
	}
	return p
}

func extract(root *os.Root, dir, p string, h *tar.Header, r io.Reader, buf []byte) error {
	if up := path.Dir(p); up != "." {
		if err := root.MkdirAll(up, 0o755); err != nil {
			return err
		}
	}
	fi, err := root.Lstat(p)
	if err == nil {
		shown := filepath.Join(dir, p)
		switch {
		case fi.IsDir() && h.Typeflag != tar.TypeDir:
			return fmt.Errorf("cannot overwrite directory %q with non-directory %q", shown, dir)
		case !fi.IsDir() && h.Typeflag == tar.TypeDir:
			return fmt.Errorf("cannot overwrite non-directory %q with directory %q", shown, dir)
		case !fi.IsDir():
			if err := root.Remove(p); err != nil {
				return err
			}
		}
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if fi == nil {
			if err := root.Mkdir(p, 0o700); err != nil {
				return err
			}
		}
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, p)
	case tar.TypeLink:
		return root.Link(h.Linkname, p)
	case tar.TypeReg:
		f, err := root.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, r, buf)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		if err := makeNode(root, p, h); err != nil {
			return err
		}
	default:
		return nil
	}
	if err := root.Chmod(p, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return root.Chtimes(p, h.ModTime, h.ModTime)
}

// makeNode makes a FIFO or a device.
func makeNode(root *os.Root, p string, h *tar.Header) error {
	kind := map[byte]uint32{tar.TypeFifo: syscall.S_IFIFO, tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK}[h.Typeflag]
	up, err := root.Open(path.Dir(p))
	if err != nil {
		return err
	}
	defer up.Close()
	a, b := uint64(h.Devmajor), uint64(h.Devminor)
	dev := b&0xff | a&0xfff<<8 | b&^0xff<<12 | a&^0xfff<<32
	if err := syscall.Mknodat(int(up.Fd()), path.Base(p), kind|0o600, int(dev)); err != nil {
		return &os.PathError{Op: "mknod", Path: p, Err: err}
	}
	return nil
}
