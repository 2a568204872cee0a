package session

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build"
	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/build/session/wire"
	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/layer"
)

// maxSecret bounds a secret, in bytes; BuildKit's bound.
const maxSecret = 500 << 10

// Client is the engine's end of a session. It implements build.Client and build.Sink.
type Client struct {
	conn   *wire.Conn
	files  *Files
	ctx    context.Context
	cancel context.CancelCauseFunc
	events *events
	told   chan struct{} // closed when the client has taken in all events

	mu      sync.Mutex
	folders map[string]*folder // by what was asked for
}

// NewClient talks over conn until ctx or the connection ends. Files keeps contents over builds.
func NewClient(ctx context.Context, conn net.Conn, files *Files) (*Client, error) {
	c := &Client{conn: wire.NewConn(conn, nil), files: files, told: make(chan struct{}), folders: map[string]*folder{}}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	s, err := (&wire.Ask{Kind: "events"}).Open(c.conn)
	if err != nil {
		c.conn.Close()
		return nil, errs.Canceled.Errorf("begin a session: %w", err)
	}
	c.events = newEvents(s)
	go func() {
		defer close(c.told)
		_ = wire.Await(s)
		// All that the client has to say here is that it is gone.
		c.cancel(errs.Canceled.Errorf("the client has gone"))
		c.events.stop()
	}()
	context.AfterFunc(c.ctx, func() { c.conn.Close() })
	return c, nil
}

// Context ends when the client goes.
func (c *Client) Context() context.Context { return c.ctx }

// Event implements build.Sink.
func (c *Client) Event(e build.Event) { c.events.add(FromBuild(e)) } // a client that is gone ends the context

// End tells the client how it ended, waits until it knows, and closes the session.
func (c *Client) End(built *build.Built, err error, code int) {
	e := wire.Event{Kind: wire.Ended, Built: built, Code: code}
	if err != nil {
		e.Error = err.Error()
		if bad := (*dockerfile.Error)(nil); errors.As(err, &bad) {
			e.Source = bad.Source
		}
	}
	c.events.add(e)
	c.events.end()
	<-c.told
	c.cancel(nil)
	c.conn.Close()
}

// ask asks the client for something, until ctx ends. A refusal is an error with the client's words.
func (c *Client) ask(ctx context.Context, a *wire.Ask) (*wire.Stream, error) {
	s, err := a.Open(c.conn)
	if err != nil {
		return nil, c.gone(err)
	}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	if err := wire.Await(s); err != nil {
		stop()
		s.Close()
		if errs.NotFound.Is(err) || errs.Invalid.Is(err) {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, errs.Canceled.Wrap(ctx.Err())
		}
		return nil, c.gone(err)
	}
	return s, nil
}

// gone is the error of a session that has ended, if that is why err came.
func (c *Client) gone(err error) error {
	if c.ctx.Err() != nil {
		return errs.Canceled.Wrap(context.Cause(c.ctx))
	}
	return errs.Canceled.Errorf("ask the client: %w", err)
}

// Secret implements build.Client.
func (c *Client) Secret(ctx context.Context, id string) ([]byte, error) {
	s, err := c.ask(ctx, &wire.Ask{Kind: "secret", Name: id})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	data, err := io.ReadAll(io.LimitReader(s, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = errs.Invalid.Errorf("invalid secret %s: longer than %d bytes", id, maxSecret)
	}
	return data, err
}

// Agent implements build.Client.
func (c *Client) Agent(ctx context.Context, id string) (net.Conn, error) {
	s, err := c.ask(ctx, &wire.Ask{Kind: "agent", Name: id})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Output returns what takes in the archive of the request's output n.
func (c *Client) Output(n int) *Output {
	s, err := (&wire.Ask{Kind: "output", Number: n}).Open(c.conn)
	return &Output{s, err}
}

// Output is an archive on its way to the client.
type Output struct {
	s   *wire.Stream
	err error
}

// Write sends on.
func (o *Output) Write(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.s.Write(p)
	if err != nil {
		// A client that cannot keep the archive says why before it breaks it off.
		if why := wire.Await(o.s); errs.Invalid.Is(why) || errs.NotFound.Is(why) {
			err = errs.Invalid.Errorf("write the output: %w", why)
		}
		o.err = err
		o.s.Close()
	}
	return n, err
}

// Close ends the archive and tells whether the client has all of it.
func (o *Output) Close() error {
	if o.err != nil {
		return o.err
	}
	defer o.s.Close()
	_ = o.s.CloseWrite() // what the client has to say of it is said by the answer
	return wire.Await(o.s)
}

// Abort breaks the archive off: the client keeps nothing of it.
func (o *Output) Abort(error) {
	if o.err == nil {
		o.s.Close()
	}
}

// Folder implements build.Client.
func (c *Client) Folder(ctx context.Context, l *graph.Local) (source.Tree, error) {
	ask := &wire.Ask{Kind: "folder", Name: l.Name, Include: l.Include, Exclude: l.Exclude, Follow: l.Follow}
	data, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	key := string(data)
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

// folder is a source.Tree: a folder of the client's, as it was when it was first asked for.
type folder struct {
	c       *Client
	name    string
	ready   chan struct{}
	err     error
	digest  digest.Digest // of its list
	entries []source.Entry

	fetch sync.Mutex // one transfer at a time
}

// list gets the list of names; one that came before is not sent again.
func (f *folder) list(ask *wire.Ask) error {
	s, err := f.c.ask(f.c.ctx, ask)
	if err != nil {
		return err
	}
	defer s.Close()
	var sum [sha256.Size]byte
	if _, err := io.ReadFull(s, sum[:]); err != nil {
		return f.c.gone(err)
	}
	f.digest = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:]))
	data, err := f.c.files.read(f.digest, wire.MaxList)
	if err != nil {
		if _, err := s.Write([]byte{1}); err != nil {
			return f.c.gone(err)
		}
		n, err := wire.ReadLength(s)
		if err != nil {
			return f.c.gone(err)
		}
		if n > wire.MaxList {
			return errs.Invalid.Errorf("folder %s: %w", f.name, wire.ErrTooMany)
		}
		var b bytes.Buffer
		if err := f.c.files.Put(f.digest, io.TeeReader(io.LimitReader(s, int64(n)), &b)); err != nil {
			return fmt.Errorf("receive the list of folder %s: %w", f.name, err)
		}
		data = b.Bytes()
	}
	list, err := wire.ReadList(data)
	if err != nil {
		return errs.Invalid.Errorf("read the list of folder %s: %w", f.name, err)
	}
	f.entries = make([]source.Entry, len(list))
	for i := range list {
		f.entries[i] = entry(&list[i])
		if f.entries[i].IsDevice() {
			return errs.Invalid.Errorf("read the list of folder %s: %q is a device: keep it out by .dockerignore", f.name, list[i].Path)
		}
	}
	return nil
}

// entry is a name of a list as a source has it.
func entry(w *wire.Entry) source.Entry {
	e := source.Entry{Path: w.Path, Node: layer.Node{Mode: w.Mode, UID: w.UID, GID: w.GID, Size: w.Size, Rdev: w.Rdev,
		Mtime: time.Unix(0, w.Mtime), Link: w.Link, Inode: w.Inode, Xattrs: w.Xattrs}}
	if w.IsRegular() {
		e.Digest = digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(w.Sum[:]))
	}
	return e
}

// Digest implements source.Tree.
func (f *folder) Digest() digest.Digest { return f.digest }

// Entries implements source.Tree.
func (f *folder) Entries() []source.Entry { return f.entries }

// Want implements source.Tree.
func (f *folder) Want(ctx context.Context, files []*source.Entry) error {
	f.fetch.Lock()
	defer f.fetch.Unlock()
	var missing []*source.Entry
	var numbers []byte
	seen := map[string]bool{}
	for _, e := range files {
		if d := string(e.Digest); !seen[d] && !f.c.files.Has(e.Digest) {
			seen[d] = true
			n, _ := slices.BinarySearchFunc(f.entries, e.Path, func(x source.Entry, path string) int { return source.Compare(x.Path, path) })
			missing, numbers = append(missing, e), binary.AppendUvarint(numbers, uint64(n))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	s, err := f.c.ask(ctx, &wire.Ask{Kind: "files", Name: f.name, List: f.digest.Encoded()})
	if err != nil {
		return err
	}
	defer s.Close()
	go func() { // it may be more than the client takes in before it has begun to answer
		_, _ = s.Write(numbers)
		_ = s.CloseWrite()
	}()
	in := bufio.NewReaderSize(s, 256<<10)
	for _, e := range missing {
		n, err := wire.ReadLength(in)
		if err != nil {
			return errs.Canceled.Errorf("receive %s: %w", e.Path, err)
		}
		if n == wire.BadFile {
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
	n, err := wire.ReadLength(in)
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
