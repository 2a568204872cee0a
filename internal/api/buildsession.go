package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"gantry/internal/build"
	"gantry/internal/build/executor"
	"gantry/internal/build/graph"
	"gantry/internal/build/session"
	"gantry/internal/build/session/wire"
	"gantry/internal/build/solve"
	"gantry/internal/errs"
)

// buildSession is POST /gantry/build: the connection becomes a session (package session), by which the build gets its
// files and tells what happens.
func (s *Server) buildSession(c *call) error {
	if s.deps.Builds == nil {
		return errs.NotImplemented.Errorf("this engine builds nothing")
	}
	if err := c.wantJSON(); err != nil {
		return err
	}
	var r build.Request
	if err := decodeJSON(http.MaxBytesReader(c.w, c.r.Body, wire.MaxRequest), &r.Request); err != nil {
		return err
	}
	for i := range r.Outputs {
		names, err := buildTags(r.Outputs[i].Names)
		if err != nil {
			return err
		}
		if r.Outputs[i].Names = names; !slices.Contains([]string{"image", "local", "tar", "docker", "oci"}, r.Outputs[i].Type) {
			return errs.Invalid.Errorf("invalid output %q: image, local, tar, docker and oci can be made", r.Outputs[i].Type)
		}
	}
	for _, c := range r.CacheTo {
		if !slices.Contains([]string{"inline", "registry", "local"}, c.Type) {
			return errs.Invalid.Errorf("unknown cache exporter: %q", c.Type)
		}
	}
	for _, c := range r.CacheFrom {
		if !slices.Contains([]string{"registry", "local"}, c.Type) {
			return errs.Invalid.Errorf("unknown cache importer: %q", c.Type)
		}
	}
	var err error
	if r.Access, err = c.registryConfig(); err != nil {
		return err
	}
	if c.r.ProtoMajor != 1 || c.r.Header.Get("Upgrade") == "" {
		return errs.Invalid.Errorf("a build's session needs a connection of its own: ask for an upgrade over HTTP/1.1")
	}
	st, err := s.takeOver(c, false)
	if err != nil {
		return err
	}
	defer st.close()
	client, err := session.NewClient(c.r.Context(), sessionConn{st.conn, st.in}, s.deps.BuildFiles)
	if err != nil {
		return err
	}
	r.Client, r.Sink = client, client
	built, err := s.buildInto(client, &r)
	code := 0
	var exit *executor.ExitError
	if errors.As(err, &exit) {
		code = exit.Code
	}
	client.End(built, s.advise(solveError(err)), code)
	return nil
}

// buildInto builds, with the archives that are wanted going to the client.
func (s *Server) buildInto(client *session.Client, r *build.Request) (built *build.Built, err error) {
	var archives []*session.Output
	defer func() {
		for _, a := range archives {
			if err != nil {
				a.Abort(err)
			} else if err = a.Close(); err != nil {
				err = errs.Invalid.Errorf("write the output: %w", err)
			}
		}
	}()
	saves := map[*session.Output][]string{}
	for i := range r.Outputs {
		o := &r.Outputs[i]
		if o.Type == "image" {
			continue
		}
		a := client.Output(i)
		archives = append(archives, a)
		o.To = a
		if o.Type == "docker" || o.Type == "oci" {
			saves[a] = o.Names
		}
	}
	for i := range r.CacheTo {
		if r.CacheTo[i].Type == "local" {
			a := client.Output(wire.CacheOutput + i)
			archives = append(archives, a)
			r.CacheTo[i].To = a
		}
	}
	ctx := client.Context()
	if built, err = s.deps.Builds.Build(ctx, r); err != nil {
		return built, err
	}
	for a, names := range saves {
		if len(names) == 0 {
			names = []string{built.Image.String()}
		}
		if err := s.saveTo(ctx, a, names); err != nil {
			return nil, err
		}
	}
	return built, nil
}

func (s *Server) saveTo(ctx context.Context, w io.Writer, names []string) error {
	write, err := s.deps.Images.Save(ctx, names)
	if err != nil {
		return err
	}
	return write(w)
}

// solveError puts an error into BuildKit's words.
func solveError(err error) error {
	var v *solve.VertexError
	if !errors.As(err, &v) {
		return err
	}
	var exit *executor.ExitError
	if op, ok := v.Vertex.Op.(*graph.Exec); ok && errors.As(err, &exit) {
		return fmt.Errorf("failed to solve: process %q did not complete successfully: exit code: %d", strings.Join(op.Args, " "), exit.Code)
	}
	return fmt.Errorf("failed to solve: %w", err)
}

// sessionConn reads what came with the request first.
type sessionConn struct {
	net.Conn
	r io.Reader
}

func (c sessionConn) Read(p []byte) (int, error) { return c.r.Read(p) }
