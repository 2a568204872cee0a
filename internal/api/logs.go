package api

import (
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	mobytypes "github.com/moby/moby/api/types"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/runtime/supervisor"
)

// logTime is RFC 3339 with all nine digits of the nanoseconds, so that columns line up.
const logTime = "2006-01-02T15:04:05.000000000Z07:00"

// containerLogs is GET /containers/{id}/logs.
func (s *Server) containerLogs(c *call) error {
	o := container.LogOptions{Stdout: c.flag("stdout"), Stderr: c.flag("stderr"), Follow: c.flag("follow"), Tail: -1}
	if !o.Stdout && !o.Stderr {
		return errs.Invalid.Errorf("Bad parameters: you must choose at least one stream")
	}
	var err error
	if o.Since, err = c.time("since"); err != nil {
		return err
	}
	if c.str("until") != "0" && c.version >= v(35) {
		if o.Until, err = c.time("until"); err != nil {
			return err
		}
	}
	if n, err := strconv.Atoi(c.str("tail")); err == nil && n >= 0 { // "all", and whatever else
		o.Tail = n
	}
	x, err := s.deps.Containers.Get(c.name)
	if err != nil {
		return err
	}
	lines, err := s.deps.Containers.Logs(c.r.Context(), x.ID, o)
	if err != nil {
		return err
	}
	defer lines.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a client that goes away ends a follow that would wait for ever
		select {
		case <-c.r.Context().Done():
			lines.Close()
		case <-stop:
		}
	}()

	kind := mobytypes.MediaTypeRawStream
	if !x.Config.Tty && c.version >= v(42) {
		kind = mobytypes.MediaTypeMultiplexedStream
	}
	c.w.Header().Set("Content-Type", kind)
	c.w.WriteHeader(200)
	c.flush() // a follower of a silent container wants the header now
	out := newFlusher(c.w, c.flush)
	defer out.end()
	writeLog(lines, out, logFormat{plain: x.Config.Tty, times: c.flag("timestamps"), details: c.flag("details")})
	return nil
}

type logFormat struct{ plain, times, details bool }

func writeLog(lines container.LogReader, out *flusher, format logFormat) {
	f := framer{plain: format.plain}
	var buf []byte
	for {
		l, err := lines.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) { // closed: the client is gone, or the engine ends
			return
		}
		if err != nil {
			// The status is out; Docker tells it in the stream reserved for that.
			_ = out.do(func(w io.Writer) error {
				f.w = w
				return f.write(systemErr, []byte("Error grabbing logs: "+err.Error()+"\n"))
			})
			return
		}
		text := l.Text
		if format.times || format.details {
			buf = buf[:0]
			if format.times {
				buf = append(l.Time.UTC().AppendFormat(buf, logTime), ' ')
			}
			if format.details {
				buf = append(append(buf, attrs(l.Attrs)...), ' ')
			}
			buf = append(buf, text...)
			text = buf
		}
		if out.do(func(w io.Writer) error { f.w = w; return f.write(l.Stream, text) }) != nil {
			return
		}
	}
}

// systemErr is the stream of stdcopy for errors of the engine's own.
const systemErr = supervisor.Stderr + 1

// attrs writes a line's attributes as --details shows them: k=v,k=v, sorted and query-escaped.
func attrs(m map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(url.QueryEscape(k) + "=" + url.QueryEscape(m[k]))
	}
	return b.String()
}
