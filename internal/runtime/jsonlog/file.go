package jsonlog

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// File is the newest file of a log, open for writing.
type File struct {
	Path     string
	MaxSize  int64 // bytes, 0: unbounded
	MaxFiles int   // the newest included

	fd   int
	size int64
	ino  uint64
}

// New makes a File that opens, or creates, the newest file when Ensure is called first.
func New(path string, maxSize int64, maxFiles int) *File {
	return &File{Path: path, MaxSize: maxSize, MaxFiles: maxFiles, fd: -1}
}

// Open opens or creates the newest file; its mode is 0640, Docker's.
func Open(path string, maxSize int64, maxFiles int) (*File, error) {
	f := New(path, maxSize, maxFiles)
	return f, f.Ensure()
}

// Ensure opens the newest file unless it is open.
func (f *File) Ensure() error {
	if f.fd >= 0 {
		return nil
	}
	return f.open(0)
}

func (f *File) open(flags int) error {
	fd, err := unix.Open(f.Path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0o640)
	if err != nil {
		return &os.PathError{Op: "open", Path: f.Path, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return &os.PathError{Op: "stat", Path: f.Path, Err: err}
	}
	f.fd, f.size, f.ino = fd, st.Size, st.Ino
	return nil
}

// Close closes the file.
func (f *File) Close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// Position returns the file's inode number and its size: where the next Write goes.
func (f *File) Position() (ino uint64, size int64) { return f.ino, f.size }

// Room returns how many bytes are left until the file is due to be rotated; the last record may go over that.
func (f *File) Room() int64 {
	if f.MaxSize <= 0 {
		return 1 << 62
	}
	return f.MaxSize - f.size
}

// Rewind undoes a Write that a crash cut: if the newest file is still the one of inode ino, all behind size is dropped.
func (f *File) Rewind(ino uint64, size int64) error {
	if f.ino != ino || f.size <= size {
		return nil
	}
	if err := unix.Ftruncate(f.fd, size); err != nil {
		return &os.PathError{Op: "truncate", Path: f.Path, Err: err}
	}
	f.size = size
	return nil
}

// Write appends records. If not all could be written (a full disk), what was is taken back.
func (f *File) Write(records []byte) error {
	if err := f.Ensure(); err != nil {
		return err
	}
	for done := 0; done < len(records); {
		n, err := unix.Write(f.fd, records[done:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			unix.Ftruncate(f.fd, f.size)
			return &os.PathError{Op: "write", Path: f.Path, Err: err}
		}
		done += n
	}
	f.size += int64(len(records))
	return nil
}

// Rotate moves the newest file, and the older ones, one place on, and begins a new one. With MaxFiles 1 it
// empties the only one.
func (f *File) Rotate() error {
	f.Close()
	flags := unix.O_TRUNC
	if f.MaxFiles > 1 {
		flags = 0
		for i := f.MaxFiles - 2; i >= 0; i-- {
			if err := unix.Rename(name(f.Path, i), name(f.Path, i+1)); err != nil && err != unix.ENOENT {
				flags = unix.O_TRUNC // rather lose the newest than grow without bound
			}
		}
	}
	return f.open(flags)
}

// name is the i-th file of a log, 0 the newest.
func name(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}
