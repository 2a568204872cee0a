package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// packed is an entry on its way into the archive.
type packed struct {
	header *tar.Header
	st     unix.Stat_t // of an entry that may have several names
	err    error       // the walk's, or the reader's

	// Of a regular file, whose header is made by the one who reads it:
	file       bool
	name, path string
	fd         int
	buf        []byte // for its beginning; nil: it is read when its turn comes
	n          int    // bytes of it
	ready      chan struct{}
}

// scout is the part of a packer that goes ahead of the archive.
type scout struct {
	items chan *packed // in the order of the walk
	jobs  chan *packed // those of them that are files
	free  chan []byte
	quit  chan struct{} // closed when the archive has failed
}

const (
	scoutBuffer  = 256 << 10
	scoutBuffers = 8
	scoutFiles   = 64 // open at a time
)

var errQuit = errors.New("the archive failed")

// pack writes the archive of what walk emits.
func (p *packer) pack(walk func() error) error {
	p.items, p.jobs = make(chan *packed, scoutFiles), make(chan *packed, scoutFiles)
	p.free, p.quit = make(chan []byte, scoutBuffers), make(chan struct{})
	for range scoutBuffers {
		p.free <- nil // made when first used
	}
	for range min(runtime.GOMAXPROCS(0), 4) {
		go func() {
			for f := range p.jobs {
				p.read(f)
				close(f.ready)
			}
		}()
	}
	go func() {
		defer close(p.items)
		defer close(p.jobs)
		if err := walk(); err != nil {
			_ = p.emit(&packed{err: err})
		}
	}()
	var failed error
	for it := range p.items {
		if it.ready != nil {
			<-it.ready
		}
		if failed == nil {
			if failed = p.put(it); failed != nil {
				close(p.quit)
			}
		}
		if it.file {
			unix.Close(it.fd)
		}
		if it.buf != nil {
			p.free <- it.buf
		}
	}
	if failed != nil {
		return failed
	}
	if err := p.w.Close(); err != nil {
		return err
	}
	return p.to.Flush()
}

// emit hands an entry to the archive. The walk calls it.
func (p *packer) emit(it *packed) error {
	if it.file {
		it.ready = make(chan struct{})
		// One buffer each, taken in the order in which they are given back. A file with holes is not read ahead,
		// and of one with several names only the first counts.
		if st := &it.st; st.Size > 0 && st.Nlink < 2 && st.Blocks*512 >= st.Size {
			select {
			case it.buf = <-p.free:
			case <-p.quit:
				unix.Close(it.fd)
				return errQuit
			}
			if it.buf == nil {
				it.buf = make([]byte, scoutBuffer)
			}
		}
	}
	select {
	case p.items <- it:
	case <-p.quit:
		if it.file {
			unix.Close(it.fd)
		}
		return errQuit
	}
	if it.file {
		p.jobs <- it
	}
	return nil
}

// read makes a file's header and reads its beginning.
func (p *packer) read(f *packed) {
	f.header = base(f.name, &f.st)
	f.header.Typeflag, f.header.Size = tar.TypeReg, f.st.Size
	var names []string
	if names, f.err = flistXattrs(f.fd); f.err == nil {
		f.err = p.xattrs(f.header, names, func(x string) ([]byte, error) { return fgetXattr(f.fd, x) })
	}
	if f.err != nil || f.buf == nil {
		return
	}
	if f.st.Size > int64(len(f.buf)) {
		_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_SEQUENTIAL)
	}
	for want := int(min(int64(len(f.buf)), f.st.Size)); f.n < want; {
		n, err := unix.Pread(f.fd, f.buf[f.n:want], int64(f.n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			f.err = fmt.Errorf("read %q: %w", f.path, err)
			return
		}
		if n == 0 {
			return // it became shorter
		}
		f.n += n
	}
}

// put writes an entry to the archive.
func (p *packer) put(it *packed) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	if it.err != nil {
		return it.err
	}
	if it.st.Nlink > 1 {
		if done, err := p.again(it.header.Name, &it.st); done {
			return err
		}
	}
	if err := p.w.WriteHeader(it.header); err != nil || !it.file || it.st.Size == 0 {
		return err
	}
	if _, err := p.w.Write(it.buf[:it.n]); err != nil {
		return err
	}
	if err := p.content(it.fd, int64(it.n), it.st.Size, it.st.Blocks*512 < it.st.Size); err != nil {
		return fmt.Errorf("read %q: %w", it.path, err)
	}
	return nil
}
