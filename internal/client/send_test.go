package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

func randomFile(t *testing.T, size int) (*os.File, []byte) {
	t.Helper()
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size)}).Read(data)
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, data
}

// A file's body has a length, and is what is left of the file.
func TestFileBody(t *testing.T) {
	t.Parallel()
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		_, err := io.Copy(h, r.Body)
		fmt.Fprintf(w, "%d %x %v", r.ContentLength, h.Sum(nil), err)
	})
	f, data := randomFile(t, 3<<20+5)
	f.Seek(7, io.SeekStart)
	resp, err := c.ImageLoad(context.Background(), f, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	want := fmt.Sprintf("%d %x <nil>", len(data)-7, sha256.Sum256(data[7:]))
	if b, _ := io.ReadAll(resp.Body); string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
}

// written is a body that is written rather than read.
type written struct {
	io.Reader
	write func(io.Writer) error
}

func (w written) WriteTo(to io.Writer) (int64, error) { return 0, w.write(to) }

// Bytes and parts of files, large and small, come in the order in which they are written.
func TestWrittenBody(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		got.Reset()
		if _, err := io.Copy(&got, r.Body); err != nil {
			t.Error(err)
		}
	})
	large, largeData := randomFile(t, 5<<20+3)
	small, smallData := randomFile(t, 1000)
	var want []byte
	err := c.ContainerCopyIn(context.Background(), "x", "/", written{write: func(w io.Writer) error {
		put := func(p []byte) {
			want = append(want, p...)
			if _, err := w.Write(p); err != nil {
				t.Error(err)
			}
		}
		for i := range 5 {
			put([]byte("head"))
			for f, data := range map[*os.File][]byte{large: largeData, small: smallData} {
				f.Seek(0, io.SeekStart)
				n := len(data) - i
				if m, err := io.Copy(w, io.LimitReader(f, int64(n))); err != nil || m != int64(n) {
					t.Error(m, err)
				}
				want = append(want, data[:n]...)
			}
			put(largeData[:chunkSize+i])
		}
		return nil
	}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes came, of %d, or others", got.Len(), len(want))
	}
	if err := c.ContainerCopyIn(context.Background(), "x", "/", written{write: func(io.Writer) error { return nil }}, false); err != nil || got.Len() != 0 {
		t.Error(err, got.Len())
	}
}

// What broke a body off is told, and the engine does not take a part for the whole.
func TestBrokenBody(t *testing.T) {
	t.Parallel()
	seen := make(chan error, 1)
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "PUT" { // asked for its version
			return
		}
		_, err := io.Copy(io.Discard, r.Body)
		seen <- err
	})
	why := errors.New("a reason")
	file, _ := randomFile(t, 1<<20)
	for name, write := range map[string]func(io.Writer) error{
		"an error": func(w io.Writer) error { io.WriteString(w, "part"); return why },
		"a file that became shorter": func(w io.Writer) error {
			file.Seek(0, io.SeekStart)
			_, err := io.Copy(w, io.LimitReader(file, 2<<20))
			return err
		},
	} {
		err := c.ContainerCopyIn(context.Background(), "x", "/", written{write: write}, false)
		if !errors.Is(err, why) && !errors.Is(err, errShorter) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := <-seen; err == nil {
			t.Errorf("%s: the engine took it for whole", name)
		}
	}
}

// A body goes to a file as it came, with a length or in chunks; also to one that is open for appending.
func TestBodyToFile(t *testing.T) {
	t.Parallel()
	_, data := randomFile(t, 3<<20+1)
	for _, sized := range []bool{true, false} {
		c := server(t, func(w http.ResponseWriter, r *http.Request) {
			if sized {
				w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			}
			w.WriteHeader(200)
			w.Write(data[:100])
			w.(http.Flusher).Flush()
			w.Write(data[100:])
		})
		for _, flags := range []int{os.O_WRONLY, os.O_WRONLY | os.O_APPEND} {
			name := filepath.Join(t.TempDir(), "out")
			f, err := os.OpenFile(name, os.O_CREATE|flags, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			body, err := c.ImageSave(context.Background(), []string{"x"})
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(f, body)
			f.Close()
			body.Close()
			got, _ := os.ReadFile(name)
			if err != nil || n != int64(len(data)) || !bytes.Equal(got, data) {
				t.Errorf("sized %v, flags %x: %d bytes, %v", sized, flags, n, err)
			}
		}
	}
}
