package session

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// Offer is the command line's end of a session: what it lets the engine have, and who is told.
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
	Event func(Event)
	// Cache is a directory where digests of files are remembered; "" is none.
	Cache string
}

// Folder is a folder that is offered.
type Folder struct {
	Path    string
	Exclude []string // patterns of its .dockerignore
}

// Serve lets the engine at the other end of conn have what is offered, until the connection ends. It returns nil if it was
// told how the build ended.
func (o *Offer) Serve(ctx context.Context, conn net.Conn) error {
	s := &server{o: o, folders: map[string]map[string]*source.Entry{}, over: make(chan struct{})}
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /events": s.events, "POST /folder/{name}": s.list, "POST /files/{name}": s.files,
		"GET /secret/{name}": s.secret, "POST /agent/{name}": s.agent, "POST /output/{name}": s.output,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			err := handle(w, r)
			if err == nil {
				return
			}
			status := http.StatusBadRequest
			if errs.NotFound.Is(err) {
				status = http.StatusNotFound
			}
			http.Error(w, err.Error(), status) // too late if the reply has begun; then it breaks off, and the engine sees that
		})
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	listener := &once{conn: conn, done: make(chan struct{})}
	hs := &http.Server{Handler: mux, Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 4 << 20, MaxConcurrentStreams: 1000},
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				listener.Close()
			}
		}}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	_ = hs.Serve(listener)
	select {
	case <-s.over:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return errs.Canceled.Wrap(context.Cause(ctx))
	}
	return errs.Unavailable.Errorf("the engine broke the connection off before the build was over: see its log")
}

// once is a listener for one connection.
type once struct {
	mu   sync.Mutex
	conn net.Conn
	done chan struct{}
	end  sync.Once
}

func (l *once) Accept() (net.Conn, error) {
	l.mu.Lock()
	c := l.conn
	l.conn = nil
	l.mu.Unlock()
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *once) Close() error   { l.end.Do(func() { close(l.done) }); return nil }
func (l *once) Addr() net.Addr { return &net.UnixAddr{Name: "session", Net: "unix"} }

type server struct {
	o    *Offer
	over chan struct{} // closed after the last event

	mu      sync.Mutex
	folders map[string]map[string]*source.Entry // what was listed, by folder and path
}

func (s *server) events(_ http.ResponseWriter, r *http.Request) error {
	in := json.NewDecoder(r.Body)
	for {
		var e Event
		if err := in.Decode(&e); err != nil {
			return errs.Invalid.Wrap(err)
		}
		s.o.Event(e)
		if e.Kind == Ended {
			close(s.over)
			return nil
		}
	}
}

func (s *server) folder(r *http.Request) (string, *Folder, error) {
	name := r.PathValue("name")
	f, ok := s.o.Folders[name]
	if !ok {
		return "", nil, errs.NotFound.Errorf("no folder %s is offered", name)
	}
	return name, &f, nil
}

func (s *server) list(w http.ResponseWriter, r *http.Request) error {
	name, f, err := s.folder(r)
	if err != nil {
		return err
	}
	var want selection
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxLine)).Decode(&want); err != nil {
		return errs.Invalid.Wrap(err)
	}
	entries, err := walk(r.Context(), f, want, s.o.Cache)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	s.mu.Lock()
	known := s.folders[name]
	if known == nil {
		known = map[string]*source.Entry{}
		s.folders[name] = known
	}
	for i := range entries {
		known[entries[i].Path] = &entries[i]
	}
	s.mu.Unlock()
	for i := range entries {
		if err := enc.Encode(toWire(&entries[i])); err != nil {
			return errs.Canceled.Wrap(err)
		}
	}
	return out.Flush()
}

// files sends files that were listed, and no others.
func (s *server) files(w http.ResponseWriter, r *http.Request) error {
	name, f, err := s.folder(r)
	if err != nil {
		return err
	}
	var paths [][]byte
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<30)).Decode(&paths); err != nil {
		return errs.Invalid.Wrap(err)
	}
	root, err := os.OpenRoot(f.Path)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	defer root.Close()
	out := bufio.NewWriterSize(w, 256<<10)
	for _, p := range paths {
		s.mu.Lock()
		e := s.folders[name][string(p)]
		s.mu.Unlock()
		if e == nil || !e.IsRegular() {
			return errs.Invalid.Errorf("%s was not offered", p)
		}
		if err := sendFile(out, root, e); err != nil {
			return err
		}
	}
	return out.Flush()
}

func sendFile(out *bufio.Writer, root *os.Root, e *source.Entry) error {
	bad := func(err error) error {
		if err := writeLength(out, badFile); err != nil {
			return err
		}
		if err := writeLength(out, uint64(len(err.Error()))); err != nil {
			return err
		}
		_, err = out.WriteString(err.Error())
		return err
	}
	file, err := root.Open(filepath.FromSlash(e.Path))
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
	if err := writeLength(out, uint64(e.Size)); err != nil {
		return err
	}
	// A file that shrinks now breaks the reply off; one whose content changes has another digest.
	if _, err := io.CopyN(out, file, e.Size); err != nil {
		return fmt.Errorf("send %s: %w", e.Path, err)
	}
	return nil
}

func (s *server) secret(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("name")
	get := s.o.Secrets[id]
	if get == nil {
		return errs.NotFound.Errorf("secret %s is not given", id)
	}
	data, err := get()
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

func (s *server) agent(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("name")
	address, ok := s.o.Agents[id]
	if !ok {
		return errs.NotFound.Errorf("SSH agent %s is not given", id)
	}
	conn, err := (&net.Dialer{}).DialContext(r.Context(), "unix", address)
	if err != nil {
		return errs.Invalid.Errorf("SSH agent %s: %w", id, err)
	}
	defer conn.Close()
	control := http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, r.Body)
		if c, ok := conn.(*net.UnixConn); ok {
			_ = c.CloseWrite()
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
			if err := control.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *server) output(_ http.ResponseWriter, r *http.Request) error {
	n, err := strconv.Atoi(r.PathValue("name"))
	take := s.o.Outputs[n]
	if err != nil || take == nil {
		return errs.NotFound.Errorf("output %s was not asked for", r.PathValue("name"))
	}
	return take(r.Body)
}
