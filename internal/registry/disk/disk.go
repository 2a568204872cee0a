// Package disk keeps a registry's objects as files of one folder tree.
//
// Every object is written under a temporary name, synced, and renamed to its own; then its folder is synced. So an
// object that a caller was told of is there, whole, after a kill or a power cut, and one that it was not told of is
// there whole or not at all. Uploads grow in a folder of their own and are moved, never copied. One process owns a
// tree (a lock file); what an earlier one left under temporary names is removed at the start.
//
//	lock              held by the owner
//	tmp/              objects being written
//	uploads/<id>      uploads
//	objects/<key>     objects
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/atomicfile"
	"gantry/internal/registry"
)

// Disk is a folder tree. Its methods may be called at the same time.
type Disk struct {
	root string
	lock *os.File
	temp atomic.Uint64
}

var _ registry.Storage = (*Disk)(nil)

// ErrUsed says that another process has the tree.
var ErrUsed = errors.New("another registry uses this folder")

// Open takes over the tree at root, which it makes if there is none. While another process has it, that is ErrUsed.
func Open(root string) (*Disk, error) {
	for _, dir := range []string{"tmp", "uploads", "objects"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return nil, err
		}
	}
	lock, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrUsed, root)
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	d := &Disk{root: root, lock: lock}
	left, err := os.ReadDir(d.path("tmp"))
	if err != nil {
		lock.Close()
		return nil, err
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(root, "tmp", e.Name())); err != nil {
			lock.Close()
			return nil, err
		}
	}
	return d, nil
}

// Close lets another process have the tree.
func (d *Disk) Close() error { return d.lock.Close() }

func (d *Disk) path(elem ...string) string {
	return filepath.Join(append([]string{d.root}, elem...)...)
}

// object confines keys to the tree. Callers check names by their grammars; this is the second lock on the door.
func (d *Disk) object(key string) (string, error) {
	if key == "." || !filepath.IsLocal(key) || filepath.Clean(key) != key || strings.ContainsRune(key, 0) {
		return "", fmt.Errorf("object key %q: %w", key, fs.ErrInvalid)
	}
	return d.root + "/objects/" + key, nil
}

// Open implements registry.Storage.
func (d *Disk) Open(key string) (io.ReadSeekCloser, registry.Info, error) {
	path, err := d.object(key)
	if err != nil {
		return nil, registry.Info{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, registry.Info{}, missing(err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("open %s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		f.Close()
		return nil, registry.Info{}, err
	}
	return f, info(fi), nil
}

// Stat implements registry.Storage.
func (d *Disk) Stat(key string) (registry.Info, error) {
	path, err := d.object(key)
	if err != nil {
		return registry.Info{}, err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return registry.Info{}, missing(err)
	}
	if !fi.Mode().IsRegular() {
		return registry.Info{}, fmt.Errorf("stat %s: %w", key, fs.ErrNotExist)
	}
	return info(fi), nil
}

// missing makes "a parent is a file" the same as "there is none".
func missing(err error) error {
	if errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// Put implements registry.Storage.
func (d *Disk) Put(key string, data []byte) error {
	path, err := d.object(key)
	if err != nil {
		return err
	}
	temp := d.path("tmp", strconv.FormatUint(d.temp.Add(1), 36))
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return unwritable(err)
	}
	_, err = f.Write(data)
	if err == nil && len(data) > 0 {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = move(temp, path)
	}
	if err != nil {
		os.Remove(temp)
	}
	return unwritable(err)
}

// unwritable names the errors that more room would mend, or another mount.
func unwritable(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", registry.ErrFull, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", registry.ErrReadOnly, err)
	}
	return err
}

// move renames temp to path, for good.
func move(temp, path string) error {
	dir := filepath.Dir(path)
	err := os.Rename(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDirs(dir); err == nil {
			err = os.Rename(temp, path)
		}
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// makeDirs is os.MkdirAll whose new folders survive a power cut.
func makeDirs(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// Delete implements registry.Storage. It does not sync: what comes back after a power cut is collected again.
func (d *Disk) Delete(key string) error {
	path, err := d.object(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(missing(err), fs.ErrNotExist) {
		return unwritable(err)
	}
	return nil
}

// List implements registry.Storage.
func (d *Disk) List(key string, f func(registry.Entry) error) error {
	path := d.path("objects")
	if key != "" {
		var err error
		if path, err = d.object(key); err != nil {
			return err
		}
	}
	return list(path, f)
}

// Stages implements registry.Storage.
func (d *Disk) Stages(f func(registry.Entry) error) error { return list(d.path("uploads"), f) }

func list(path string, f func(registry.Entry) error) error {
	dir, err := os.Open(path)
	if err != nil {
		if errors.Is(missing(err), fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer dir.Close()
	for {
		// In portions: a folder of a million tags needs no million entries in memory.
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			if err := f(registry.Entry{Name: e.Name(), Dir: fi.IsDir(), Info: info(fi)}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func info(fi fs.FileInfo) registry.Info {
	return registry.Info{Size: fi.Size(), Time: fi.ModTime()}
}

// Stage implements registry.Storage.
func (d *Disk) Stage(id string, create bool) (registry.Stage, error) {
	if !filepath.IsLocal(id) || strings.ContainsAny(id, "/\x00") || id == "." {
		return nil, fmt.Errorf("upload %q: %w", id, fs.ErrInvalid)
	}
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := os.OpenFile(d.path("uploads", id), flags, 0o600)
	if err != nil {
		return nil, unwritable(err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &stage{d: d, f: f, size: fi.Size(), behind: fi.Size()}, nil
}

// stage is an upload's file. The size is kept here and every write says where it goes, for two requests of which the
// older is being ended must not move each other's file offset.
type stage struct {
	d      *Disk
	f      *os.File
	size   int64
	behind int64 // up to here writing to the disk has begun
}

// writeBehind is after how many bytes the kernel is asked to begin writing them: the sync at the end finds little to do.
const writeBehind = 8 << 20

func (s *stage) Write(p []byte) (int, error) {
	n, err := s.f.WriteAt(p, s.size)
	s.size += int64(n)
	if s.size-s.behind >= writeBehind {
		_ = unix.SyncFileRange(int(s.f.Fd()), s.behind, s.size-s.behind, unix.SYNC_FILE_RANGE_WRITE) // a hint
		s.behind = s.size
	}
	return n, unwritable(err)
}

func (s *stage) ReadAt(p []byte, off int64) (int, error) { return s.f.ReadAt(p, off) }
func (s *stage) Size() int64                             { return s.size }
func (s *stage) Sync() error                             { return unwritable(s.f.Sync()) }
func (s *stage) Close() error                            { return s.f.Close() }

func (s *stage) Truncate(n int64) error {
	if err := s.f.Truncate(n); err != nil {
		return unwritable(err)
	}
	s.size, s.behind = n, min(s.behind, n)
	return nil
}

func (s *stage) Commit(key string) error {
	path, err := s.d.object(key)
	if err != nil {
		return err
	}
	// What lay in a stage for a day is not a day old as an object: collection goes by this time.
	if err := os.Chtimes(s.f.Name(), time.Now(), time.Now()); err != nil {
		return unwritable(err)
	}
	if err := move(s.f.Name(), path); err != nil {
		return unwritable(err)
	}
	return s.f.Close()
}

func (s *stage) Discard() error {
	err := os.Remove(s.f.Name())
	if e := s.f.Close(); err == nil {
		err = e
	}
	return err
}
