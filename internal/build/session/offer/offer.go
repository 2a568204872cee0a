// Package offer is the command line's end of a session (package wire): it lets the engine have what was offered of folders, secrets
// and agents, takes in what is made, and passes on what happens.
package offer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"

	"gantry/internal/build/session/wire"
	"gantry/internal/errs"
)

// Offer is what the engine may have, and who is told.
type Offer struct {
	// Folders are by name: "context", and those of --build-context.
	Folders map[string]Folder
	// Secrets are read when they are asked for.
	Secrets map[string]func() ([]byte, error)
	// Agents are the addresses of SSH agents' sockets.
	Agents map[string]string
	// Outputs take in archives, by the number of the output in the request.
	Outputs map[int]func(io.Reader) error
	// Event is told what happens, the last is Ended. It is called by one goroutine.
	Event func(wire.Event)
	// Cache is a directory where digests of files are remembered; "" is none.
	Cache string
}

// Folder is a folder that is offered.
type Folder struct {
	Path    string
	Exclude []string // patterns of its .dockerignore
}

// Serve lets the engine at the other end of conn have what is offered, until it says how the build ended. An end without that is
// an error.
func (o *Offer) Serve(ctx context.Context, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	s := &server{o: o, ctx: ctx, lists: map[string][]wire.Entry{}, told: make(chan struct{}), over: make(chan struct{})}
	c := wire.NewConn(conn, s.serve)
	defer s.saving.Wait()
	defer c.Close()
	defer cancel()
	select {
	case <-s.over:
		return nil
	case <-c.Done():
	case <-ctx.Done():
	}
	select {
	case <-s.told: // and the engine has closed the connection as soon as that was confirmed
		return nil
	default:
	}
	if ctx.Err() != nil {
		return errs.Canceled.Wrap(context.Cause(ctx))
	}
	return errs.Unavailable.Errorf("the engine broke the connection off before the build was over: see its log")
}

type server struct {
	o    *Offer
	ctx  context.Context
	told chan struct{} // closed when the last event has come
	over chan struct{} // closed when that is confirmed
	last sync.Once

	saving sync.WaitGroup
	mu     sync.Mutex
	lists  map[string][]wire.Entry // what was listed, by folder and digest of the list
}

// serve answers one stream.
func (s *server) serve(st *wire.Stream) {
	defer st.Close()
	a, err := wire.ReadAsk(st)
	if err != nil {
		_ = wire.Answer(st, errs.Invalid.Wrap(err))
		return
	}
	switch a.Kind {
	case "events":
		if err = s.events(st); err == nil {
			s.last.Do(func() {
				close(s.told)
				err = wire.Answer(st, nil)
				close(s.over)
			})
		}
	case "folder":
		err = s.list(st, a)
	case "files":
		err = s.files(st, a)
	case "secret":
		err = s.secret(st, a.Name)
	case "agent":
		err = s.agent(st, a.Name)
	case "output":
		err = s.output(st, a.Number)
	default:
		err = errs.Invalid.Errorf("this program knows no %q: it is older than the engine", a.Kind)
	}
	if err != nil {
		_ = wire.Answer(st, err) // too late if the answer has begun; then it breaks off, and the engine sees that
		return
	}
	_ = st.CloseWrite()
	_, _ = io.Copy(io.Discard, st) // until the engine has all of it
}

func (s *server) events(st *wire.Stream) error {
	in := json.NewDecoder(st)
	for {
		var e wire.Event
		if err := in.Decode(&e); err != nil {
			return errs.Invalid.Wrap(err)
		}
		s.o.Event(e)
		if e.Kind == wire.Ended {
			return nil
		}
	}
}

func (s *server) folder(name string) (*Folder, error) {
	f, ok := s.o.Folders[name]
	if !ok {
		return nil, errs.NotFound.Errorf("no folder %s is offered", name)
	}
	return &f, nil
}

func (s *server) list(st *wire.Stream, a *wire.Ask) error {
	f, err := s.folder(a.Name)
	if err != nil {
		return err
	}
	entries, save, err := walk(s.ctx, f, selection{a.Include, a.Exclude, a.Follow}, s.o.Cache)
	if err != nil {
		return err
	}
	s.saving.Go(save) // the engine need not wait for it
	list, err := wire.List(entries)
	if err != nil {
		return errs.Invalid.Errorf("folder %s: %w", a.Name, err)
	}
	sum := sha256.Sum256(list)
	s.mu.Lock()
	s.lists[a.Name+"\x00"+hex.EncodeToString(sum[:])] = entries
	s.mu.Unlock()
	if err := wire.Answer(st, nil); err != nil {
		return err
	}
	if _, err := st.Write(sum[:]); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(st, b[:]); err != nil {
		return nil //nolint:nilerr // the engine has the list
	}
	if err := wire.WriteLength(st, uint64(len(list))); err != nil {
		return err
	}
	_, err = st.Write(list)
	return err
}

// files sends files that were listed, and no others.
func (s *server) files(st *wire.Stream, a *wire.Ask) error {
	f, err := s.folder(a.Name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	entries := s.lists[a.Name+"\x00"+a.List]
	s.mu.Unlock()
	root, err := openRoot(f.Path)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	defer root.Close()
	if err := wire.Answer(st, nil); err != nil {
		return err
	}
	in, out := bufio.NewReader(st), bufio.NewWriterSize(st, 256<<10)
	for {
		n, err := binary.ReadUvarint(in)
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		if n >= uint64(len(entries)) || !entries[n].IsRegular() {
			return errs.Invalid.Errorf("file %d of folder %s was not offered", n, a.Name)
		}
		if err := sendFile(out, root, &entries[n]); err != nil {
			return err
		}
	}
}

func sendFile(out *bufio.Writer, root *root, e *wire.Entry) error {
	bad := func(err error) error {
		if err := wire.WriteLength(out, wire.BadFile); err != nil {
			return err
		}
		if err := wire.WriteLength(out, uint64(len(err.Error()))); err != nil {
			return err
		}
		_, err = out.WriteString(err.Error())
		return err
	}
	file, err := root.open(e.Path)
	if err != nil {
		return bad(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return bad(err)
	}
	if info.Size() != e.Size || !info.Mode().IsRegular() {
		return bad(fmt.Errorf("it was changed while the build took it in: build again when nobody writes to it"))
	}
	if err := wire.WriteLength(out, uint64(e.Size)); err != nil {
		return err
	}
	// A file that shrinks now breaks the reply off; one whose content changes has another digest.
	if _, err := io.CopyN(out, file, e.Size); err != nil {
		return fmt.Errorf("send %s: %w", e.Path, err)
	}
	return nil
}

func (s *server) secret(st *wire.Stream, id string) error {
	get := s.o.Secrets[id]
	if get == nil {
		return errs.NotFound.Errorf("secret %s is not given", id)
	}
	data, err := get()
	if err != nil {
		return err
	}
	if err := wire.Answer(st, nil); err != nil {
		return err
	}
	_, err = st.Write(data)
	return err
}

func (s *server) agent(st *wire.Stream, id string) error {
	address, ok := s.o.Agents[id]
	if !ok {
		return errs.NotFound.Errorf("SSH agent %s is not given", id)
	}
	conn, err := (&net.Dialer{}).DialContext(s.ctx, "unix", address)
	if err != nil {
		return errs.Invalid.Errorf("SSH agent %s: %w", id, err)
	}
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	if err := wire.Answer(st, nil); err != nil {
		return err
	}
	go func() {
		_, err := io.Copy(conn, st)
		if c, ok := conn.(*net.UnixConn); ok && err == nil {
			_ = c.CloseWrite()
			return
		}
		conn.Close() // nobody hears the agent any more
	}()
	_, err = io.Copy(struct{ io.Writer }{st}, conn)
	return err
}

func (s *server) output(st *wire.Stream, n int) error {
	take := s.o.Outputs[n]
	if take == nil {
		return errs.NotFound.Errorf("output %d was not asked for", n)
	}
	if err := take(st); err != nil {
		return err
	}
	return wire.Answer(st, nil)
}
