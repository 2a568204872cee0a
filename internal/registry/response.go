package registry

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// piece is how much is sent or received between two looks at the clock.
const piece = 4 << 20

// response counts what is sent, and gives a client that takes nothing an end.
type response struct {
	http.ResponseWriter
	stall   time.Duration
	next    time.Time // when the deadline is to be moved on
	status  int
	written int64
}

// Unwrap serves http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// moveOn gives the client another while. The server has no deadline for whole answers: it would either cut slow
// clients of large blobs or let a dead one hold its connection for days.
func (w *response) moveOn() {
	if w.stall <= 0 {
		return
	}
	if now := time.Now(); now.After(w.next) {
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(now.Add(w.stall)) // a test's recorder has none
		w.next = now.Add(w.stall / 8)
	}
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
		w.moveOn()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.moveOn()
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	return n, err
}

// ReadFrom sends r in pieces, each of which the client must take in time. A file behind an io.LimitedReader, which is
// what http.ServeContent brings, goes out by sendfile(2).
func (w *response) ReadFrom(r io.Reader) (n int64, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	lr, limited := r.(*io.LimitedReader)
	if !limited {
		lr = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for lr.N > 0 {
		w.moveOn()
		want := min(lr.N, piece)
		m, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: lr.R, N: want})
		lr.N -= m
		n += m
		w.written += m
		if err != nil {
			return n, err
		}
		if m < want {
			break
		}
	}
	return n, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// body reads a request's body, with an end for a client that sends nothing.
type body struct {
	r     io.Reader
	rc    *http.ResponseController
	stall time.Duration
	next  time.Time
}

func (s *Server) body(w http.ResponseWriter, r *http.Request) *body {
	return &body{r: r.Body, rc: http.NewResponseController(w), stall: time.Duration(s.conf().Limits.Stall)}
}

func (b *body) Read(p []byte) (int, error) {
	if b.stall > 0 {
		if now := time.Now(); now.After(b.next) {
			_ = b.rc.SetReadDeadline(now.Add(b.stall))
			b.next = now.Add(b.stall / 8)
		}
	}
	n, err := b.r.Read(p)
	if err == io.EOF && b.stall > 0 {
		// The server keeps reading to learn of a hang-up: our deadline must not look like one while we sync.
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}
