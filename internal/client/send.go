package client

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
)

// wholeFile reports whether a stream is the rest of a regular file, and how many bytes that is: then the body has a length, and
// the kernel sends it without a copy.
func wholeFile(r io.Reader) (*os.File, int64) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil || at > fi.Size() {
		return nil, 0
	}
	return f, fi.Size() - at
}

func (cn *conn) writeFile(f *os.File, n int64) {
	if source, err := cn.sendFile(f, n); source {
		cn.broke(err)
	}
}

// broke tells the engine that the body ends before its end, and the caller why.
func (cn *conn) broke(err error) {
	cn.source.Store(&err)
	cn.Close()
}

// sendFile sends n bytes of f from where it stands; source says that an error is the file's.
func (cn *conn) sendFile(f *os.File, n int64) (source bool, err error) {
	to, err := cn.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		return false, err
	}
	from, err := f.SyscallConn()
	if err != nil {
		return true, err
	}
	sent := int64(0)
	refused := false
	werr := to.Write(func(out uintptr) (done bool) {
		cerr := from.Control(func(in uintptr) {
			for done = true; sent < n; {
				m, e := syscall.Sendfile(int(out), int(in), nil, int(min(n-sent, 4<<20)))
				switch {
				case e == syscall.EINTR:
				case e == syscall.EAGAIN:
					done = false
					return
				case e == syscall.EINVAL || e == syscall.ENOSYS: // a file system that can't
					refused = true
					return
				case e != nil:
					err = os.NewSyscallError("sendfile", e)
					source = e == syscall.EIO
					return
				case m == 0:
					source, err = true, errShorter
					return
				}
				sent += int64(max(m, 0))
			}
		})
		if cerr != nil {
			source, err, done = true, cerr, true
		}
		return done
	})
	if err == nil {
		err = werr
	}
	if err != nil || !refused {
		return source, err
	}
	m, err := io.Copy(struct{ io.Writer }{cn.Conn}, io.LimitReader(f, n-sent))
	if err == nil && m < n-sent {
		return true, errShorter
	}
	var net *net.OpError
	return !errors.As(err, &net), err
}

var errShorter = errors.New("the file became shorter while it was sent")

// writeChunks sends a body of unknown length (RFC 9112, section 7.1).
func (cn *conn) writeChunks(r io.Reader) {
	w := &chunkWriter{cn: cn}
	var err error
	if from, ok := r.(io.WriterTo); ok {
		_, err = from.WriteTo(w)
	} else {
		_, err = w.ReadFrom(r)
	}
	switch {
	case w.err != nil: // the reader of the response sees why
	case err != nil || w.source != nil:
		if w.source != nil {
			err = w.source
		}
		cn.broke(err)
	default:
		w.end()
	}
}

// chunkWriter gathers what is written into chunks. A file of which a part is copied to it (ReadFrom of an
// [io.LimitedReader]) goes out without passing through here.
type chunkWriter struct {
	cn     *conn
	buf    []byte // room for a chunk's head, then its bytes
	begun  bool   // a chunk was sent, whose final line break goes with the next one
	err    error  // the connection's
	source error  // of a file that was promised and did not come: the body can't go on
}

const (
	chunkHead = 2 + 16 + 2 // the line break of the chunk before, a length, a line break
	chunkSize = 256 << 10
	// From this size on a file is sent by the kernel; below, a copy is cheaper than the calls.
	sendFrom = 32 << 10
)

func (w *chunkWriter) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if err := w.room(); err != nil {
			return n, err
		}
		m := min(len(p), cap(w.buf)-len(w.buf))
		w.buf = append(w.buf, p[:m]...)
		p, n = p[m:], n+m
	}
	return n, nil
}

// room makes sure that something fits into the buffer.
func (w *chunkWriter) room() error {
	if w.buf == nil {
		w.buf = make([]byte, chunkHead, chunkHead+chunkSize)
	}
	if len(w.buf) < cap(w.buf) {
		return w.failed()
	}
	return w.flush(0)
}

func (w *chunkWriter) failed() error {
	if w.err != nil {
		return w.err
	}
	return w.source
}

// flush sends what is in the buffer as a chunk, or as the beginning of one of more bytes that the caller will send.
func (w *chunkWriter) flush(more int64) error {
	if err := w.failed(); err != nil {
		return err
	}
	n := int64(max(len(w.buf)-chunkHead, 0)) + more
	if n == 0 {
		return nil
	}
	var head [chunkHead]byte
	h := head[:0]
	if w.begun {
		h = append(h, "\r\n"...)
	}
	h = strconv.AppendInt(h, n, 16)
	h = append(h, "\r\n"...)
	from := chunkHead - len(h)
	copy(w.buf[from:], h)
	_, w.err = w.cn.Write(w.buf[from:])
	w.begun = true
	w.buf = w.buf[:chunkHead]
	return w.err
}

// ReadFrom copies r to its end.
func (w *chunkWriter) ReadFrom(r io.Reader) (n int64, err error) {
	if l, ok := r.(*io.LimitedReader); ok && l.N >= sendFrom {
		if f, ok := l.R.(*os.File); ok {
			if _, unix := w.cn.Conn.(*net.UnixConn); unix {
				return w.sendFile(f, l)
			}
		}
	}
	for {
		if err := w.room(); err != nil {
			return n, err
		}
		m, err := r.Read(w.buf[len(w.buf):cap(w.buf)])
		w.buf = w.buf[:len(w.buf)+m]
		n += int64(m)
		if _, part := r.(*io.LimitedReader); m > 0 && !part { // it may be long until more comes
			if err := w.flush(0); err != nil {
				return n, err
			}
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (w *chunkWriter) sendFile(f *os.File, l *io.LimitedReader) (int64, error) {
	if err := w.room(); err != nil {
		return 0, err
	}
	n := l.N
	if err := w.flush(n); err != nil {
		return 0, err
	}
	source, err := w.cn.sendFile(f, n)
	if err != nil {
		if source {
			w.source = err
		} else {
			w.err = err
		}
		return 0, err
	}
	l.N = 0
	return n, nil
}

// end sends the rest, and the chunk that says that it was all.
func (w *chunkWriter) end() {
	if w.flush(0) != nil {
		return
	}
	last := "0\r\n\r\n"
	if w.begun {
		last = "\r\n" + last
	}
	_, w.err = io.WriteString(w.cn, last)
}

// splices reports whether the kernel can write a socket's bytes to f: not at the end of a file that is open for appending, and
// of what is no file one can't know before they are lost in between.
func splices(f *os.File) bool {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return false
	}
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	appends := true
	cerr := c.Control(func(fd uintptr) {
		flags, _, e := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
		appends = e != 0 || flags&syscall.O_APPEND != 0
	})
	return cerr == nil && !appends
}
