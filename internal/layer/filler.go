package layer

import (
	"bytes"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// filler writes the contents of new files beside the one who reads the archive. The reader makes the names, in the archive's order;
// from then on the descriptor is the file, whatever becomes of its name. One goroutine fills them one after the other.
//
// Without one (the zero value with a disk) everything is done at once.
type filler struct {
	disk  *disk
	tasks chan task
	free  chan []byte
	ended chan struct{}
	once  sync.Once
	err   atomic.Pointer[error] // the first that came of it
	file  *filled               // that the reader is at
}

// filled is a file that is being filled.
type filled struct {
	fd     int
	dir    int // the folder that has it under name, if it is to be removed unless it gets whole; otherwise negative
	name   string
	full   string // for errors
	size   int64
	finish func() error
	hole   bool // it ends with one
}

type task struct {
	f    *filled
	buf  []byte // whole; to go back
	n    int
	at   int64
	last bool // finish the file
	drop bool // only close it
}

const (
	fillBuffer  = 256 << 10
	fillBuffers = 6
)

func newFiller(d *disk) *filler {
	f := &filler{disk: d}
	if runtime.GOMAXPROCS(0) == 1 {
		return f
	}
	f.tasks, f.free, f.ended = make(chan task, 64), make(chan []byte, fillBuffers), make(chan struct{})
	for range fillBuffers {
		f.free <- nil // made when first used
	}
	go func() {
		defer close(f.ended)
		for t := range f.tasks {
			if err := f.do(t); err != nil {
				f.err.CompareAndSwap(nil, &err)
			}
			if t.n > 0 {
				f.free <- t.buf
			}
		}
	}()
	return f
}

func (f *filler) failed() error {
	if err := f.err.Load(); err != nil {
		return *err
	}
	return nil
}

// buffer returns a buffer to read into; own is the caller's.
func (f *filler) buffer(own []byte) []byte {
	if f.tasks == nil {
		return own
	}
	b := <-f.free
	if b == nil {
		b = make([]byte, fillBuffer)
	}
	return b
}

// write writes the first n bytes of buf, which came from buffer, at an offset of the file.
func (f *filler) write(buf []byte, n int, at int64) error {
	return f.give(task{f: f.file, buf: buf, n: n, at: at})
}

// close ends the file.
func (f *filler) close() error { return f.give(task{f: f.file, last: true}) }

// abandon closes the file as it is: the whole has failed.
func (f *filler) abandon() { _ = f.give(task{f: f.file, drop: true}) }

func (f *filler) give(t task) error {
	if f.tasks == nil {
		return f.do(t)
	}
	f.tasks <- t
	return f.failed()
}

// stop waits until all files are filled. It may be called twice.
func (f *filler) stop() error {
	if f.tasks != nil {
		f.once.Do(func() { close(f.tasks) })
		<-f.ended
	}
	return f.failed()
}

func (f *filler) do(t task) error {
	if t.last || t.drop {
		err := error(nil)
		whole := !t.drop && f.failed() == nil
		if whole {
			err = t.f.complete()
		}
		if t.f.dir >= 0 {
			if !whole || err != nil {
				t.f.remove()
			}
			unix.Close(t.f.dir)
		}
		unix.Close(t.f.fd)
		return err
	}
	if f.failed() != nil {
		return nil
	}
	return f.fill(t.f, t.buf[:t.n], t.at)
}

func (f *filled) complete() error {
	if f.hole {
		if err := unix.Ftruncate(f.fd, f.size); err != nil {
			return pathError("write", f.full, err)
		}
	}
	return f.finish()
}

// remove takes the file away: half of one is worse than none. What has its name by now stays.
func (f *filled) remove() {
	var mine, there unix.Stat_t
	if unix.Fstat(f.fd, &mine) != nil || unix.Fstatat(f.dir, f.name, &there, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return
	}
	if mine.Dev == there.Dev && mine.Ino == there.Ino {
		_ = unix.Unlinkat(f.dir, f.name, 0)
	}
}

var zeros [64 << 10]byte

// fill writes a piece of the file. Long runs of zeros become holes: that is how the tar reader hands out a sparse file, whose
// archive may be tiny.
func (f *filler) fill(to *filled, chunk []byte, at int64) error {
	for len(chunk) > 0 {
		if isZero(chunk) {
			at += int64(len(zeros))
			chunk = chunk[len(zeros):]
			to.hole = true
			continue
		}
		n := min(len(zeros), len(chunk))
		for n < len(chunk) && !isZero(chunk[n:]) {
			n = min(n+len(zeros), len(chunk))
		}
		part := chunk[:n]
		chunk = chunk[n:]
		for len(part) > 0 {
			w, err := unix.Pwrite(to.fd, part, at)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return fmt.Errorf("write %q: %w", to.full, err)
			}
			at += int64(w)
			part = part[w:]
			if err := f.disk.room(int64(w)); err != nil {
				return err
			}
		}
		to.hole = false
	}
	return nil
}

// isZero reports whether p begins with a long run of zeros.
func isZero(p []byte) bool { return len(p) >= len(zeros) && bytes.Equal(p[:len(zeros)], zeros[:]) }

// disk is where files are made, and what has been written there.
type disk struct {
	root      int // a descriptor on it; negative: it is not looked at
	keep      int64
	written   int64
	unchecked int64 // bytes written since it was last looked at
}

// checkEvery is after how many bytes written the disk is looked at.
const checkEvery = 64 << 20

// room refuses to go on when the disk gets full: a small archive may hold more than any disk, and every container suffers from a full
// one.
func (d *disk) room(n int64) error {
	d.written += n
	if d.unchecked += n; d.unchecked < checkEvery {
		return nil
	}
	d.unchecked = 0
	if d.root < 0 {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.root, &st); err != nil || st.Bsize <= 0 {
		return nil // then the disk says so itself
	}
	keep := d.keep
	if keep <= 0 {
		keep = min(256<<20, int64(st.Blocks)/50*int64(st.Bsize))
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < keep {
		return errs.Unavailable.Errorf("%w: %d bytes are unpacked, more are to come, and %d are free", unix.ENOSPC, d.written, free)
	}
	return nil
}

// futimens sets the times of an open file (utimensat(2) without a path, for which x/sys has no name).
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
