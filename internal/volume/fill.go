package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/failpoint"
	kernelfs "gantry/internal/kernel/fs"
	"gantry/internal/layer"
)

// Fill copies the directory at path in the image's root that open opens into the volume, which container holds, if the
// volume is empty; owner and mode of the directory go with it. An image without the directory changes nothing. With durable, it is
// on disk when Fill returns.
//
// The copy is made beside the data and comes into its place by one rename, which the kernel refuses where something has come
// into the data meanwhile. Where another container has the volume it may have the empty directory open: then the
// copy goes into it entry by entry, and a crash in between is carried on by the next engine.
func (s *Service) Fill(ctx context.Context, container, name string, open func() (kernelfs.Root, error), path string, durable bool) error {
	s.mu.Lock()
	v, err := s.find(name)
	if err != nil || !v.fillable() {
		s.mu.Unlock()
		return err
	}
	s.mu.Unlock()
	v.work.Lock()
	defer v.work.Unlock()
	data, _ := s.places(&v.record)
	if empty, err := isEmpty(data); errors.Is(err, os.ErrNotExist) || !empty { // whose folder is not there is told when it is mounted
		return nil
	} else if err != nil {
		return err
	}
	root, err := open()
	if err != nil {
		return err
	}

	from, err := root.Open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return errs.Internal.Errorf("cannot mount volume over existing file, file exists %s", path)
	}
	if err != nil {
		return err
	}
	defer unix.Close(from)
	s.mu.Lock()
	others := len(v.holders)
	if _, own := v.holders[container]; own {
		others--
	}
	s.mu.Unlock()
	err = s.fill(ctx, v, others > 0 || v.mounted(), durable, func(to int) error {
		_, err := layer.CopyTree(ctx, to, from, layer.CopyOptions{Image: true})
		return err
	})
	if err != nil {
		return fmt.Errorf("failed to populate volume: %w", err)
	}
	return nil
}

// fill has put write into a directory that then becomes the data of v, if that is empty. v.work is held.
func (s *Service) fill(ctx context.Context, v *vol, shared, durable bool, write func(to int) error) error {
	data, staged := s.places(&v.record)
	empty, err := isEmpty(data)
	if err != nil || !empty {
		return err
	}
	if shared && v.limited() {
		// What is counted by itself cannot be moved into what another container has open (rename(2), EXDEV).
		s.Log.Warn("a volume with a size stays empty, for another container holds it", "volume", v.Name)
		return nil
	}
	if err := s.clear(v, staged); err != nil {
		return err
	}
	if err := s.makeData(&v.record, staged); err != nil {
		return err
	}
	to, err := unix.Open(staged, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err = write(to); err == nil && durable {
		err = unix.Syncfs(to)
	}
	if err != nil {
		return errors.Join(err, s.clear(v, staged))
	}
	failpoint.Hit("volume.fill.staged")
	if v.limited() {
		// A subvolume is not replaced by a rename, be it empty; nobody else has it, so that it stays empty.
		if err := unix.Renameat2(unix.AT_FDCWD, staged, unix.AT_FDCWD, s.data(v.Name), unix.RENAME_EXCHANGE); err != nil {
			return errors.Join(&os.PathError{Op: "exchange", Path: s.data(v.Name), Err: err}, s.aside(staged))
		}
		failpoint.Hit("volume.fill.done")
		return s.aside(staged)
	}
	if !shared {
		err := unix.Rename(staged, s.data(v.Name)) // not os.Rename, which refuses to replace even an empty directory
		if err == unix.ENOTEMPTY || err == unix.EEXIST {
			return s.aside(staged)
		}
		failpoint.Hit("volume.fill.done")
		return err
	}
	if err := s.change(v, func(r *record) { r.Under = underFilling }); err != nil {
		return errors.Join(err, s.clear(v, staged))
	}
	if err := s.pour(v); err != nil {
		return err
	}
	failpoint.Hit("volume.fill.done")
	return s.change(v, func(r *record) { r.Under = "" })
}

// places are the folder of a volume's files, and the one in which what is on its way into it is complete first. Where options bind
// a folder of the host this is inside that, for a rename does not leave a file system.
func (s *Service) places(r *record) (data, staged string) {
	if dir := r.bound(); dir != "" {
		return dir, filepath.Join(dir, boundFillDir)
	}
	return s.data(r.Name), filepath.Join(s.dir(r.Name), fillDir)
}

// clear deletes what has been staged.
func (s *Service) clear(v *vol, staged string) error {
	if v.mounted() {
		return layer.RemoveTree(staged)
	}
	return s.aside(staged)
}

// pour moves what is staged into the data, each entry by one rename, and last the directory's own owner and mode. It may run twice.
func (s *Service) pour(v *vol) error {
	data, staged := s.places(&v.record)
	entries, err := os.ReadDir(staged)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// What a container has made meanwhile under the same name stays.
		from, to := filepath.Join(staged, e.Name()), filepath.Join(data, e.Name())
		err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if err == unix.EINVAL { // a bound folder on a file system that does not know how (NFS)
			if _, oops := os.Lstat(to); errors.Is(oops, os.ErrNotExist) {
				err = unix.Rename(from, to)
			}
		}
		if err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "move", Path: filepath.Join(data, e.Name()), Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(staged, &st); err != nil {
		return err
	}
	if err := os.Lchown(data, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(data, st.Mode&0o7777); err != nil {
		return err
	}
	return s.clear(v, staged)
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if len(names) > 0 {
		return false, nil
	}
	if err == io.EOF {
		err = nil
	}
	return err == nil, err
}

// Size returns the bytes of the volume's files, and how many containers hold it.
func (s *Service) Size(ctx context.Context, name string) (bytes int64, links int, err error) {
	s.mu.Lock()
	v, err := s.find(name)
	if err == nil {
		links = len(v.holders)
		if v.mounted() {
			s.mu.Unlock()
			return 0, links, nil // its files are not on our disk
		}
	}
	s.mu.Unlock()
	if err != nil {
		return 0, 0, err
	}
	bytes, err = layer.Usage(ctx, s.data(name))
	return bytes, links, err
}
