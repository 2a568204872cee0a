package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"io"

	"github.com/ulikunitz/xz"

	"gantry/internal/errs"
	"gantry/internal/layer"
)

// Decompress returns the plain bytes of r, which is packed with gzip, bzip2, xz or zstd, or not at all.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		// The dictionary is bounded as zstd's window is.
		x, err := xz.ReaderConfig{DictCap: 8 << 20}.NewReader(b)
		if err != nil {
			return nil, errs.Invalid.Errorf("read xz: %w", err)
		}
		return io.NopCloser(x), nil
	}
	plain, _, err := layer.Decompress(b)
	return plain, err
}

// Untar returns the plain archive in r and true, or false if r holds no archive. The archive's bytes begin
// where r's do.
func Untar(r io.Reader) (io.ReadCloser, bool, error) {
	plain, err := Decompress(r)
	if err != nil {
		if errs.Invalid.Is(err) {
			return nil, false, nil
		}
		return nil, false, err
	}
	// Enough for the first header with extended ones before it.
	b := bufio.NewReaderSize(plain, 64<<10)
	head, err := b.Peek(64 << 10)
	if _, bad := tar.NewReader(bytes.NewReader(head)).Next(); bad != nil && !errors.Is(bad, tar.ErrInsecurePath) {
		plain.Close()
		return nil, false, nil // packed with something, but not an archive that anybody can read
	}
	var all io.Reader = b
	if err != nil && err != io.EOF {
		// It is one that is cut off or damaged: whoever unpacks it gets that far, and is told. A Peek tells it once only.
		all = io.MultiReader(bytes.NewReader(head), broken{err})
	}
	return struct {
		io.Reader
		io.Closer
	}{all, plain}, true, nil
}

// broken is a reader's end that is none.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
