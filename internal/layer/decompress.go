package layer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"gantry/internal/errs"
)

// Compression is how a tar stream is packed.
type Compression uint8

const (
	Plain Compression = iota
	Gzip
	Zstd
)

var magics = [...][]byte{Gzip: {0x1f, 0x8b, 0x08}, Zstd: {0x28, 0xb5, 0x2f, 0xfd}}

// Compressions that Docker takes and Gantry does not: named, so that the error says what to do.
var foreignMagics = map[string][]byte{
	"bzip2": []byte("BZh"),
	"xz":    {0xfd, '7', 'z', 'X', 'Z', 0},
}

// Sniff tells the compression by a stream's first bytes.
func Sniff(head []byte) (Compression, error) {
	for _, c := range []Compression{Gzip, Zstd} {
		if bytes.HasPrefix(head, magics[c]) {
			return c, nil
		}
	}
	// A zstd stream may begin with a skippable frame, 0x184D2A50..5F (RFC 8878, 3.1.2).
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18 {
		return Zstd, nil
	}
	for name, m := range foreignMagics {
		if bytes.HasPrefix(head, m) {
			return Plain, errs.Invalid.Errorf("archive is compressed with %s: compress it with gzip or zstd, or not at all", name)
		}
	}
	return Plain, nil
}

// maxZstdWindow bounds the memory that a zstd frame may ask for: `zstd --ultra --long=27` at most.
const maxZstdWindow = 128 << 20

// Decompress returns the plain bytes of r, whatever it is packed with. It reads ahead in goroutines of its
// own; Close ends them. Errors of the packed form are errs.Invalid.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, Plain, err
	}
	c, err := Sniff(head)
	if err != nil {
		return nil, c, err
	}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, c, errs.Invalid.Errorf("read gzip: %w", err)
		}
		return readAhead(&format{z, "gzip"}, func() { z.Close() }), c, nil
	case Zstd:
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderConcurrency(min(4, runtime.GOMAXPROCS(0))))
		if err != nil {
			return nil, c, errs.Invalid.Errorf("read zstd: %w", err)
		}
		return readAhead(&format{z, "zstd"}, z.Close), c, nil
	}
	return io.NopCloser(br), c, nil
}

// format names the packed form in its errors.
type format struct {
	r    io.Reader
	name string
}

func (f *format) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && err != io.EOF {
		err = errs.Invalid.Wrap(fmt.Errorf("read %s: %w", f.name, err))
	}
	return n, err
}

// ahead hands chunks that one goroutine reads to the goroutine that consumes them: unpacking and writing
// files overlap. Three chunks go round: one being filled, one waiting, one being read.
type ahead struct {
	full, free chan []byte
	err        error // valid once full is closed
	quit       chan struct{}
	closed     bool
	cur, rest  []byte
}

const aheadChunk = 512 << 10

func readAhead(r io.Reader, release func()) io.ReadCloser {
	a := &ahead{full: make(chan []byte, 1), free: make(chan []byte, 3), quit: make(chan struct{})}
	for range cap(a.free) {
		a.free <- make([]byte, aheadChunk)
	}
	go func() {
		defer release()
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.free:
			case <-a.quit:
				return
			}
			n, err := io.ReadFull(r, b[:aheadChunk])
			if err == io.ErrUnexpectedEOF { // ReadFull's: the format's own are wrapped
				err = io.EOF
			}
			if n > 0 {
				select {
				case a.full <- b[:n]:
				case <-a.quit:
					return
				}
			}
			if err != nil {
				a.err = err
				return
			}
		}
	}()
	return a
}

func (a *ahead) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(a.rest) == 0 {
		if a.cur != nil {
			a.free <- a.cur
			a.cur = nil
		}
		b, ok := <-a.full
		if !ok {
			return 0, a.err
		}
		a.cur, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the reading. It does not wait for a read that is under way below.
func (a *ahead) Close() error {
	if !a.closed {
		a.closed = true
		close(a.quit)
	}
	return nil
}
