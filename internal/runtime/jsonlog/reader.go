package jsonlog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxRecord bounds a line of a log file in bytes; longer ones, which cannot be Append's, are skipped. The greatest
// possible is a piece of MaxLine bytes all escaped, and the attributes.
const maxRecord = 1 << 20

// maxFiles bounds how many rotated files are looked for.
const maxFiles = 10000

// Options say what to read.
type Options struct {
	Stdout, Stderr bool
	// Since and Until bound the records' times, both included; zero means no bound.
	Since, Until time.Time
	// Tail is how many of the last records (of both streams, as Docker counts) to begin with; negative means all.
	Tail int
	// Follow waits for more until Ended is closed, or Until is past. A nil Ended never is.
	Follow bool
	Ended  <-chan struct{}
}

// Reader hands out the records of a log, oldest first, over all its files. It is for one goroutine, but for Close.
type Reader struct {
	path string
	o    Options
	mu   sync.Mutex // held by Next
	once sync.Once  // Close

	files []*os.File // still to be read; the first is being read
	ino   uint64     // of the first
	buf   []byte     // read from it and not yet handed out
	start int
	skip  bool // inside a line that is too long
	text  []byte

	watch  *os.File // inotify; nil: not following, or there is none to be had
	ended  chan struct{}
	closed chan struct{}
	over   bool // no more is written
}

// NewReader opens the log of which path is the newest file. It need not exist yet.
func NewReader(path string, o Options) (*Reader, error) {
	r := &Reader{path: path, o: o, closed: make(chan struct{})}
	if o.Follow {
		r.ended = make(chan struct{})
		r.listen() // before the files are opened, so that no change is missed
	}
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// open opens all files, and finds where the tail begins.
func (r *Reader) open() error {
	list, err := r.scan(func(st os.FileInfo, newer int) bool {
		// All in a file, and in those before it, is older than its last change.
		return newer > 0 && !r.o.Since.IsZero() && st.ModTime().Before(r.o.Since)
	})
	if err != nil {
		return err
	}
	if n := r.o.Tail; n >= 0 {
		for i, f := range list {
			offset, found, err := tail(f, n)
			if err != nil {
				closeFiles(list)
				return err
			}
			if n -= found; n <= 0 {
				if _, err := f.Seek(offset, io.SeekStart); err != nil {
					closeFiles(list)
					return err
				}
				closeFiles(list[i+1:])
				list = list[:i+1]
				break
			}
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		r.files = append(r.files, list[i])
	}
	r.current()
	return nil
}

// scan opens the log's files, from the newest on, as far as that of which stop is true (newer are those met before it).
//
// A rotation that happens meanwhile moves files only to where each comes later: so they are all met, and in order, unless
// there is a gap where one is just being moved, or one is met twice. Then the scan is repeated.
func (r *Reader) scan(stop func(st os.FileInfo, newer int) bool) ([]*os.File, error) {
	for attempt := 0; ; attempt++ {
		list, gap, err := r.scanOnce(stop)
		if err != nil || !gap || attempt == 100 { // somebody has deleted one: it stays a gap
			return list, err
		}
		closeFiles(list)
	}
}

func (r *Reader) scanOnce(stop func(st os.FileInfo, newer int) bool) (list []*os.File, gap bool, err error) {
	defer func() {
		if err != nil {
			closeFiles(list)
		}
	}()
	seen := make(map[uint64]bool)
	for i, missing := 0, 0; i < maxFiles && missing < 3; i++ {
		f, err := os.Open(name(r.path, i))
		if errors.Is(err, os.ErrNotExist) {
			missing++
			continue
		}
		if err != nil {
			return list, false, err
		}
		gap = gap || missing > 0
		missing = 0
		st, err := f.Stat()
		if err != nil || !st.Mode().IsRegular() {
			f.Close()
			continue
		}
		if seen[inode(st)] {
			f.Close()
			gap = true // what lay between the two places may be newer
			continue
		}
		seen[inode(st)] = true
		if stop(st, len(list)) {
			f.Close()
			break
		}
		list = append(list, f)
	}
	return list, gap, nil
}

func closeFiles(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

func inode(st os.FileInfo) uint64 { return st.Sys().(*syscall.Stat_t).Ino }

// tail finds the offset at which the last n whole lines of f begin, and how many there are if fewer.
func tail(f *os.File, n int) (offset int64, found int, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	defer f.Seek(0, io.SeekStart)
	buf := make([]byte, 64<<10)
	lines := -1 // the first newline met ends the last line, each further one is ahead of a line's beginning
	for pos := size; pos > 0; {
		k := min(int64(len(buf)), pos)
		pos -= k
		if _, err := f.ReadAt(buf[:k], pos); err != nil && err != io.EOF {
			return 0, 0, err
		}
		for i := k; ; {
			j := bytes.LastIndexByte(buf[:i], '\n')
			if j < 0 {
				break
			}
			lines++
			if lines == n {
				return pos + int64(j) + 1, n, nil
			}
			i = int64(j)
		}
	}
	return 0, max(lines+1, 0), nil
}

// current notes which file is read now.
func (r *Reader) current() {
	r.ino = 0
	if len(r.files) > 0 {
		if st, err := r.files[0].Stat(); err == nil {
			r.ino = inode(st)
		}
	}
}

// Next returns the next record, or io.EOF behind the last one, or os.ErrClosed after Close.
func (r *Reader) Next() (Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		line, err := r.line()
		if err != nil {
			return Record{}, err
		}
		rec, text, ok := Decode(line, r.text)
		r.text = text
		if !ok {
			continue // a crash's leavings, or a foreign hand's
		}
		if !r.o.Until.IsZero() && rec.Time.After(r.o.Until) {
			return Record{}, io.EOF
		}
		if rec.Time.Before(r.o.Since) || rec.Stream == "stdout" && !r.o.Stdout || rec.Stream == "stderr" && !r.o.Stderr {
			continue
		}
		return rec, nil
	}
}

// line returns the next line with its newline; it is valid until the next call.
func (r *Reader) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(r.buf[r.start:], '\n'); i >= 0 {
			line := r.buf[r.start : r.start+i+1]
			r.start += i + 1
			if r.skip {
				r.skip = false
				continue
			}
			return line, nil
		}
		r.buf = append(r.buf[:0], r.buf[r.start:]...)
		r.start = 0
		if len(r.buf) >= maxRecord {
			r.buf, r.skip = r.buf[:0], true
		}
		n, err := r.read()
		if err != nil {
			return nil, err
		}
		if n > 0 {
			continue
		}
		// The end of this file, for now.
		if len(r.files) > 1 {
			r.advance()
			continue
		}
		if !r.o.Follow {
			return r.rest()
		}
		moved, err := r.moved() // if so, what the current one still got is read first
		if err != nil {
			return nil, err
		}
		if moved {
			continue
		}
		if r.over {
			return r.rest()
		}
		if err := r.wait(); err != nil {
			return nil, err
		}
	}
}

// rest returns, behind the last newline, what may be a whole record to which a crash left none.
func (r *Reader) rest() ([]byte, error) {
	if len(r.buf) == 0 || r.skip {
		return nil, io.EOF
	}
	r.start = len(r.buf)
	return r.buf, nil
}

func (r *Reader) read() (int, error) {
	select {
	case <-r.closed:
		return 0, os.ErrClosed
	default:
	}
	if len(r.files) == 0 {
		return 0, nil
	}
	if cap(r.buf)-len(r.buf) < 16<<10 {
		grown := make([]byte, len(r.buf), 2*cap(r.buf)+64<<10)
		copy(grown, r.buf)
		r.buf = grown
	}
	n, err := r.files[0].Read(r.buf[len(r.buf):cap(r.buf)])
	r.buf = r.buf[:len(r.buf)+max(n, 0)]
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// advance goes on to the next file. What is left of this one's last line will never have an end.
func (r *Reader) advance() {
	r.files[0].Close()
	r.files = r.files[1:]
	r.buf, r.start, r.skip = r.buf[:0], 0, false
	r.current()
}

// moved finds out whether the log has been rotated since the current file was the newest, and then opens those that came after it.
// The writer rotates between two writes: once there is a newer file, the current one is whole.
func (r *Reader) moved() (bool, error) {
	var current os.FileInfo
	newer, err := r.scan(func(st os.FileInfo, newer int) bool {
		if r.ino != 0 && inode(st) == r.ino {
			current = st
			return true
		}
		return r.ino == 0 && newer > 0 // there was none at all: begin with the newest
	})
	if err != nil {
		return false, err
	}
	if len(newer) == 0 {
		if current != nil {
			return r.truncated(current)
		}
		return false, nil
	}
	// If the current one was not met, it has been rotated out, and all that are left are newer.
	for i := len(newer) - 1; i >= 0; i-- {
		r.files = append(r.files, newer[i])
	}
	if r.ino == 0 {
		r.current()
	}
	return true, nil
}

// truncated starts again at the beginning of the only file of a log that has just one, when it has been emptied.
func (r *Reader) truncated(st os.FileInfo) (bool, error) {
	pos, err := r.files[0].Seek(0, io.SeekCurrent)
	if err != nil || st.Size() >= pos {
		return false, err
	}
	r.buf, r.start, r.skip = r.buf[:0], 0, false
	_, err = r.files[0].Seek(0, io.SeekStart)
	return true, err
}

// listen has the kernel tell of changes in the log's directory. Without (the user's inotify instances are used up)
// the reader looks four times a second.
func (r *Reader) listen() {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		if _, err = unix.InotifyAddWatch(fd, filepath.Dir(r.path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
			unix.Close(fd)
		} else {
			r.watch = os.NewFile(uintptr(fd), "inotify")
			if !r.o.Until.IsZero() {
				r.watch.SetReadDeadline(r.o.Until)
			}
		}
	}
	go func() {
		select {
		case <-r.o.Ended:
			close(r.ended)
			if r.watch != nil {
				r.watch.SetReadDeadline(time.Unix(1, 0))
			}
		case <-r.closed:
		}
	}()
}

// wait waits until the log may have changed, or until no more will be written.
func (r *Reader) wait() error {
	if r.watch == nil {
		timer := time.NewTimer(250 * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			r.over = !r.o.Until.IsZero() && time.Now().After(r.o.Until)
		case <-r.ended:
			r.over = true
		case <-r.closed:
			return os.ErrClosed
		}
		return nil
	}
	var events [4096]byte
	_, err := r.watch.Read(events[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		r.over = true // once more to the end, then
		return nil
	}
	return err
}

// Close ends a waiting Next. It may be called at any time.
func (r *Reader) Close() error {
	r.once.Do(func() {
		close(r.closed)
		if r.watch != nil {
			r.watch.Close()
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		closeFiles(r.files)
		r.files = nil
	})
	return nil
}
