package session

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"gantry/internal/build"
	"gantry/internal/build/graph"
	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// maxSecret bounds a secret, in bytes; BuildKit's bound.
const maxSecret = 500 << 10

// Client is the engine's end of a session. It implements build.Client and build.Sink.
type Client struct {
	http   *http.ClientConn
	files  *Files
	ctx    context.Context
	cancel context.CancelCauseFunc

	events *json.Encoder
	pipe   *io.PipeWriter
	told   chan struct{} // closed when the client has taken in all events

	mu      sync.Mutex
	folders map[string]*folder // by what was asked for
}

// NewClient talks over conn until ctx or the connection ends. Files keeps contents over builds.
func NewClient(ctx context.Context, conn net.Conn, files *Files) (*Client, error) {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 4 << 20},
		DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
	over, err := transport.NewClientConn(ctx, "http", "client:80")
	if err != nil {
		return nil, errs.Canceled.Errorf("begin a session: %w", err)
	}
	c := &Client{http: over, files: files, told: make(chan struct{}), folders: map[string]*folder{}}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	r, w := io.Pipe()
	c.pipe, c.events = w, json.NewEncoder(w)
	go func() {
		defer close(c.told)
		resp, err := c.send(context.WithoutCancel(ctx), "POST", "http://client/events", r)
		if err == nil {
			resp.Body.Close()
		}
		// All that the client has to say here is that it is gone.
		c.cancel(errs.Canceled.Errorf("the client has gone"))
		r.CloseWithError(errs.Canceled.Errorf("the client has gone"))
	}()
	return c, nil
}

// Context ends when the client goes.
func (c *Client) Context() context.Context { return c.ctx }

// Event implements build.Sink.
func (c *Client) Event(e build.Event) { _ = c.events.Encode(FromBuild(e)) } // a client that is gone ends the context

// End tells the client how it ended, waits until it knows, and closes the session.
func (c *Client) End(built *build.Built, err error, code int) {
	e := Event{Kind: Ended, Built: built, Code: code}
	if err != nil {
		e.Error = err.Error()
	}
	_ = c.events.Encode(e)
	c.pipe.Close()
	<-c.told
	_ = c.http.Close()
	c.cancel(nil)
}

// send asks the client for something. An answer that is no success is an error with the client's words.
func (c *Client) send(ctx context.Context, method, url string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.RoundTrip(req)
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, errs.Canceled.Wrap(context.Cause(c.ctx))
		}
		return nil, errs.Canceled.Errorf("ask the client: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	kind := errs.Invalid
	if resp.StatusCode == http.StatusNotFound {
		kind = errs.NotFound
	}
	return nil, kind.Errorf("%s", strings.TrimSpace(string(text)))
}

// Secret implements build.Client.
func (c *Client) Secret(ctx context.Context, id string) ([]byte, error) {
	resp, err := c.send(ctx, "GET", at("secret", id), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = errs.Invalid.Errorf("invalid secret %s: longer than %d bytes", id, maxSecret)
	}
	return data, err
}

// Agent implements build.Client.
func (c *Client) Agent(ctx context.Context, id string) (net.Conn, error) {
	here, there := net.Pipe()
	// The transport closes the body when the agent has said its last: what that was must still go through there.
	resp, err := c.send(ctx, "POST", at("agent", id), io.NopCloser(there))
	if err != nil {
		here.Close()
		there.Close()
		return nil, err
	}
	go func() {
		_, _ = io.Copy(there, resp.Body)
		there.Close() // ends the request's body, for which closing the reply's waits
		resp.Body.Close()
	}()
	return here, nil
}

// Output returns what takes in the archive of the request's output n.
func (c *Client) Output(n int) *Output {
	r, w := io.Pipe()
	o := &Output{w, make(chan error, 1)}
	go func() {
		resp, err := c.send(c.ctx, "POST", at("output", strconv.Itoa(n)), r)
		if err == nil {
			err = resp.Body.Close()
		}
		r.CloseWithError(cmp.Or(err, io.ErrClosedPipe))
		o.done <- err
	}()
	return o
}

// Output is an archive on its way to the client.
type Output struct {
	pipe *io.PipeWriter
	done chan error
}

// Write sends on.
func (o *Output) Write(p []byte) (int, error) { return o.pipe.Write(p) }

// Close ends the archive and tells whether the client has all of it.
func (o *Output) Close() error {
	o.pipe.Close()
	return <-o.done
}

// Abort breaks the archive off: the client keeps nothing of it.
func (o *Output) Abort(err error) {
	o.pipe.CloseWithError(err)
	<-o.done
}

// Folder implements build.Client.
func (c *Client) Folder(ctx context.Context, l *graph.Local) (source.Tree, error) {
	ask, err := json.Marshal(selection{l.Include, l.Exclude, l.Follow})
	if err != nil {
		return nil, err
	}
	key := l.Name + "\x00" + string(ask)
	c.mu.Lock()
	f := c.folders[key]
	if f == nil {
		f = &folder{c: c, name: l.Name, ready: make(chan struct{})}
		c.folders[key] = f
		go func() {
			defer close(f.ready)
			f.err = f.list(ask)
		}()
	}
	c.mu.Unlock()
	select {
	case <-f.ready:
	case <-ctx.Done():
		return nil, errs.Canceled.Wrap(ctx.Err())
	}
	if f.err != nil {
		return nil, f.err
	}
	return f, nil
}

// selection says which part of a folder is wanted; see graph.Local.
type selection struct {
	Include, Exclude, Follow []string `json:",omitempty"`
}

// folder is a source.Tree: a folder of the client's, as it was when it was first asked for.
type folder struct {
	c       *Client
	name    string
	ready   chan struct{}
	err     error
	entries []source.Entry

	fetch sync.Mutex // one transfer at a time
}

func (f *folder) list(ask []byte) error {
	resp, err := f.c.send(f.c.ctx, "POST", at("folder", f.name), bytes.NewReader(ask))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	last := ""
	for lines.Scan() {
		var w Entry
		if err := json.Unmarshal(lines.Bytes(), &w); err != nil {
			return errs.Invalid.Errorf("read the list of folder %s: %w", f.name, err)
		}
		if w.Error != "" {
			return errs.Invalid.Errorf("%s", w.Error)
		}
		e := w.entry()
		if err := check(&e, last); err != nil {
			return errs.Invalid.Errorf("read the list of folder %s: %q: %w", f.name, e.Path, err)
		}
		last = e.Path
		if f.entries = append(f.entries, e); len(f.entries) > maxEntries {
			return errs.Invalid.Errorf("folder %s has more than %d names: keep some out by .dockerignore", f.name, maxEntries)
		}
	}
	if err := lines.Err(); err != nil {
		return errs.Canceled.Errorf("read the list of folder %s: %w", f.name, err)
	}
	return nil
}

// check refuses what no honest client sends.
func check(e *source.Entry, last string) error {
	switch {
	case e.Path == "" || e.Path == "." || e.Path == ".." || strings.HasPrefix(e.Path, "../") || path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path || strings.Contains(e.Path, "\x00"):
		return errors.New("it is no path in a folder")
	case last != "" && source.Compare(last, e.Path) >= 0:
		return errors.New("it is out of order")
	case e.Size < 0:
		return errors.New("its size is negative")
	case !e.IsRegular():
		return nil
	}
	return e.Digest.Validate()
}

// Entries implements source.Tree.
func (f *folder) Entries() []source.Entry { return f.entries }

// Want implements source.Tree.
func (f *folder) Want(ctx context.Context, files []*source.Entry) error {
	f.fetch.Lock()
	defer f.fetch.Unlock()
	var missing []*source.Entry
	var paths [][]byte
	seen := map[string]bool{}
	for _, e := range files {
		if d := string(e.Digest); !seen[d] && !f.c.files.Has(e.Digest) {
			seen[d] = true
			missing, paths = append(missing, e), append(paths, []byte(e.Path))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	ask, err := json.Marshal(paths)
	if err != nil {
		return err
	}
	resp, err := f.c.send(ctx, "POST", at("files", f.name), bytes.NewReader(ask))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := bufio.NewReaderSize(resp.Body, 256<<10)
	for _, e := range missing {
		n, err := readLength(in)
		if err != nil {
			return errs.Canceled.Errorf("receive %s: %w", e.Path, err)
		}
		if n == badFile {
			return f.bad(in, e)
		}
		if n != uint64(e.Size) {
			return changed(e)
		}
		if err := f.c.files.Put(e.Digest, io.LimitReader(in, e.Size)); err != nil {
			if errs.Invalid.Is(err) {
				return changed(e)
			}
			return fmt.Errorf("receive %s: %w", e.Path, err)
		}
	}
	return nil
}

func (f *folder) bad(in io.Reader, e *source.Entry) error {
	n, err := readLength(in)
	if err != nil {
		return errs.Canceled.Wrap(err)
	}
	text, err := io.ReadAll(io.LimitReader(in, int64(min(n, 64<<10))))
	if err != nil {
		return errs.Canceled.Wrap(err)
	}
	return errs.Invalid.Errorf("receive %s: %s", e.Path, text)
}

func changed(e *source.Entry) error {
	return errs.Invalid.Errorf("%s was changed while the build took it in: build again when nobody writes to it", e.Path)
}

// Open implements source.Tree.
func (f *folder) Open(ctx context.Context, file *source.Entry) (io.ReadCloser, error) {
	r, err := f.c.files.Open(file.Digest)
	if errs.NotFound.Is(err) {
		if err := f.Want(ctx, []*source.Entry{file}); err != nil {
			return nil, err
		}
		r, err = f.c.files.Open(file.Digest)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", file.Path, err)
	}
	return r, nil
}
