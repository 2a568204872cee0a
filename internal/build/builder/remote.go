package builder

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"gantry/internal/build"
	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/errs"
)

// fetcher is what the solver needs of package source's.
type fetcher struct {
	*source.Fetcher
	dir string // for sockets
}

func (f fetcher) HTTP(ctx context.Context, op *graph.HTTP, secret func(string) ([]byte, error), report func(build.Status)) (*source.Archive, error) {
	authorization := ""
	if op.AuthSecret != "" {
		value, err := secret(op.AuthSecret)
		if err != nil && !errs.NotFound.Is(err) {
			return nil, err
		}
		authorization = string(value)
	}
	return f.Fetcher.HTTP(ctx, op, authorization, func(n, total int64) {
		report(build.Status{ID: op.URL, Action: "downloading", Current: n, Total: total})
	})
}

func (f fetcher) Git(ctx context.Context, op *graph.Git, client build.Client, report func(build.Status)) (*source.Archive, error) {
	auth := source.GitAuth{KnownHosts: op.KnownHosts}
	if op.SSH != "" {
		socket, done, err := solve.AgentSocket(ctx, client, f.dir, op.SSH)
		if err == nil {
			defer done()
			auth.AgentSock = socket
		} else if !errs.NotFound.Is(err) {
			return nil, err
		}
	}
	for id, make := range map[string]func(string) string{
		op.HeaderSecret: func(s string) string { return s },
		op.TokenSecret: func(s string) string {
			return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+s))
		},
	} {
		if id == "" {
			continue
		}
		value, err := client.Secret(ctx, id)
		if err == nil && len(value) > 0 {
			auth.Header = make(strings.TrimSpace(string(value)))
		} else if err != nil && !errs.NotFound.Is(err) {
			return nil, err
		}
	}
	a, err := f.Fetcher.Git(ctx, op, auth, func(line string) { report(build.Status{ID: line, Action: "fetched", Done: true}) })
	if err != nil && op.SSH != "" && auth.AgentSock == "" && ctx.Err() == nil {
		err = fmt.Errorf("%w (no SSH agent was offered: --ssh %s does)", err, op.SSH)
	}
	return a, err
}

// remote reads the Dockerfile of a context with an address. Where the address is of a Dockerfile itself, the request is changed to one
// with an empty context.
func (s *Service) remote(ctx context.Context, r *build.Request, name string) ([]byte, error) {
	if s.fetch == nil {
		return nil, errs.NotImplemented.Errorf("this engine fetches nothing")
	}
	op, err := dockerfile.RemoteContext(r.Remote)
	if err != nil {
		return nil, errs.Invalid.Wrap(err)
	}
	secret := func(id string) ([]byte, error) { return r.Client.Secret(ctx, id) }
	report := func(st build.Status) { tell(r.Sink, build.Event{Kind: build.Reported, Status: st}) }
	var t *source.Archive
	switch op := op.(type) {
	case *graph.Git:
		t, err = s.fetch.Git(ctx, op, r.Client, report)
	case *graph.HTTP:
		if t, err = s.fetch.HTTP(ctx, op, secret, report); err != nil {
			return nil, err
		}
		defer t.Close()
		f, err := t.Open(ctx, &t.Entries()[0])
		if err != nil {
			return nil, err
		}
		defer f.Close()
		plain, archive, err := source.Untar(f)
		if err != nil {
			return nil, err
		}
		if !archive {
			r.Remote, r.Client = "", alone{r.Client}
			return solve.ReadFile(ctx, t, "/"+t.Entries()[0].Path, maxDockerfile)
		}
		defer plain.Close()
		if t, err = source.ReadArchive(ctx, plain, s.TempDir(), source.Limits{}); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	defer t.Close()
	data, err := solve.ReadFile(ctx, t, name, maxDockerfile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Invalid.Errorf("Cannot locate specified Dockerfile: %s", path.Clean(name[1:]))
	}
	return data, err
}

// alone is a client without a context.
type alone struct{ build.Client }

func (alone) Folder(context.Context, *graph.Local) (source.Tree, error) { return empty{}, nil }

type empty struct{ source.Tree }

func (empty) Entries() []source.Entry                     { return nil }
func (empty) Digest() digest.Digest                       { return "" }
func (empty) Want(context.Context, []*source.Entry) error { return nil }
