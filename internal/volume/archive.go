package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	kernelfs "gantry/internal/kernel/fs"
	"gantry/internal/layer"
)

// Export writes the volume's files as a tar stream (POSIX pax): owners as numbers, xattrs, hard links, holes as zeros. The first
// entry is the directory itself. out says where it goes, once the volume is found.
func (s *Service) Export(ctx context.Context, name string, out func() io.Writer) error {
	s.mu.Lock()
	v, err := s.find(name)
	if err == nil {
		err = v.own("export")
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	fd, err := unix.Open(s.data(name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: s.data(name), Err: err}
	}
	defer unix.Close(fd)
	return layer.Pack(ctx, out(), fd, layer.PackOptions{RootEntry: true, Live: true})
}

// Import unpacks an archive, plain or compressed, into a volume, which is made; one that is there must be empty. Half an
// archive leaves nothing.
func (s *Service) Import(ctx context.Context, r Request, archive io.Reader) error {
	plain, _, err := layer.Decompress(archive)
	if err != nil {
		return err
	}
	defer plain.Close()
	s.mu.Lock()
	_, err = s.find(r.Name)
	s.mu.Unlock()
	if errs.NotFound.Is(err) {
		err = s.make(ctx, r, "import", func(data string) error {
			fd, err := unix.Open(data, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unpack(ctx, plain, fd); err != nil {
				return err
			}
			return unix.Syncfs(fd)
		})
		return err
	}
	v, err := s.take(r.Name, "import")
	if err != nil {
		return err
	}
	defer v.work.Unlock()
	if empty, err := isEmpty(s.data(r.Name)); err != nil {
		return err
	} else if !empty {
		return errs.Conflict.Errorf("import: volume %s is not empty", r.Name)
	}
	s.mu.Lock()
	shared := len(v.holders) > 0
	s.mu.Unlock()
	if shared && v.limited() {
		return errs.Conflict.Errorf("import: volume %s has a size and is held by containers", r.Name)
	}
	return s.fill(ctx, v, shared, true, func(to int) error { return unpack(ctx, plain, to) })
}

// unpack extracts the archive into the directory to. An entry for the directory itself gives it owner and mode.
func unpack(ctx context.Context, archive io.Reader, to int) error {
	var head bytes.Buffer
	first, err := tar.NewReader(io.TeeReader(archive, &head)).Next()
	if err == io.EOF {
		return nil
	}
	if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
		return errs.Invalid.Errorf("read archive: %w", err)
	}
	fd, err := unix.Openat(to, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	root := kernelfs.RootAt(fd)
	defer root.Close()
	if err := layer.Extract(ctx, io.MultiReader(&head, archive), root, "/", layer.ExtractOptions{}); err != nil {
		return err
	}
	if path.Clean("/"+first.Name) != "/" || first.Typeflag != tar.TypeDir || first.Uid < 0 || first.Gid < 0 {
		return nil
	}
	if err := unix.Fchown(to, first.Uid, first.Gid); err != nil {
		return err
	}
	return unix.Fchmod(to, uint32(first.Mode)&0o7777)
}
