package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	types "github.com/moby/moby/api/types/build"
	registrytypes "github.com/moby/moby/api/types/registry"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"gantry/internal/build"
	"gantry/internal/build/builder"
	"gantry/internal/build/graph"
	"gantry/internal/build/session/wire"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/errs"
	"gantry/internal/remote"
)

// build is POST /build, Docker's classic builder: the context is the body, and what happens is told as its lines.
func (s *Server) build(c *call) error {
	if s.deps.Builds == nil {
		return errs.NotImplemented.Errorf("this engine builds nothing")
	}
	if v := c.str("version"); v != "" && v != "1" {
		return errs.Invalid.Errorf("the builder version %s is not supported: Gantry answers the stock command line's classic builder (DOCKER_BUILDKIT=0)", v)
	}
	if c.flag("squash") {
		return errs.Invalid.Errorf("squash is only supported with experimental mode")
	}
	r, err := c.buildRequest()
	if err != nil {
		return err
	}
	if r.Access, err = c.registryConfig(); err != nil {
		return err
	}
	tags, err := buildTags(c.query["t"])
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	client := &classicClient{}
	defer client.close()
	r.Client, r.Outputs = client, []build.Output{{Type: "image", Names: tags}}
	remoteURL := c.str("remote")
	if remoteURL != "" && remoteURL != "client-session" {
		r.Remote = remoteURL
	} else if err := client.read(ctx, s.deps.Builds.TempDir(), c.r.Body, r.File); err != nil {
		return c.refuseBody(s.advise(err))
	}
	m := &messages{c: c}
	p := newClassicPrinter(m, c.flag("q"), c.str("rm") == "" || c.flag("rm"), c.flag("forcerm"))
	r.Sink = p
	built, err := s.deps.Builds.Build(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return p.fail(s.advise(err))
	}
	p.end(built)
	return nil
}

// classicClient is a client that sent all that it has with its request.
type classicClient struct {
	archive *source.Archive
	whole   *source.Archive // with the Dockerfile, even if .dockerignore excludes it
}

func (b *classicClient) read(ctx context.Context, dir string, body io.Reader, file string) error {
	a, err := source.ReadArchive(ctx, body, dir, source.Limits{})
	if err != nil {
		return err
	}
	b.archive, b.whole = a, a
	// The command line sends these two even if .dockerignore excludes them: it is about what COPY sees.
	if file == "" {
		file = "Dockerfile"
	}
	data, err := solve.ReadFile(ctx, a, "/.dockerignore", 1<<20)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	patterns, err := ignorefile.ReadAll(strings.NewReader(string(data)))
	if err != nil {
		return errs.Invalid.Errorf("error reading .dockerignore: %w", err)
	}
	excluded := map[string]bool{}
	for _, name := range []string{".dockerignore", file} {
		if out, err := patternmatcher.MatchesOrParentMatches(name, patterns); err == nil && out {
			excluded[name] = true
		}
	}
	if len(excluded) > 0 {
		b.archive = a.Without(func(p string) bool { return excluded[p] })
	}
	return nil
}

func (b *classicClient) close() {
	if b.whole != nil {
		b.whole.Close()
	}
}

func (b *classicClient) Folder(_ context.Context, l *graph.Local) (source.Tree, error) {
	switch {
	case b.archive == nil:
		return nil, errs.NotFound.Errorf("no context was sent")
	case l.Name == "dockerfile":
		return b.whole, nil
	case l.Name == "context":
		return b.archive, nil
	}
	return nil, errs.NotFound.Errorf("the client offers no folder %q", l.Name)
}

func (b *classicClient) Secret(context.Context, string) ([]byte, error) {
	return nil, errs.NotFound.Errorf("the classic builder has no secrets")
}

func (b *classicClient) Agent(context.Context, string) (net.Conn, error) {
	return nil, errs.NotFound.Errorf("the classic builder has no agents")
}

// buildTags checks the names that the image is to have, as Docker does.
func buildTags(list []string) ([]string, error) {
	var out []string
	for _, t := range list {
		if t == "" {
			continue
		}
		named, err := reference.ParseNormalizedNamed(t)
		if err != nil {
			return nil, errs.Invalid.Wrap(err)
		}
		if _, ok := named.(reference.Canonical); ok {
			return nil, errs.Invalid.Errorf("build tag cannot contain a digest")
		}
		if full := reference.TagNameOnly(named).String(); !slices.Contains(out, full) {
			out = append(out, full)
		}
	}
	return out, nil
}

// buildRequest reads the parameters of a build.
func (c *call) buildRequest() (*build.Request, error) {
	r := &build.Request{Classic: true, Request: wire.Request{
		ID: c.str("buildid"), File: c.str("dockerfile"), Target: c.str("target"), NoCache: c.flag("nocache"), Pull: c.flag("pull"),
		CgroupParent: c.str("cgroupparent"), Network: c.str("networkmode"), HostNetwork: true,
	}}
	if err := jsonParameter(c, "buildargs", &r.Args); err != nil {
		return nil, err
	}
	if err := jsonParameter(c, "labels", &r.Labels); err != nil {
		return nil, err
	}
	var from []string
	if err := jsonParameter(c, "cachefrom", &from); err != nil {
		return nil, err
	}
	for _, ref := range from {
		r.CacheFrom = append(r.CacheFrom, build.CacheFrom{Type: "registry", Ref: ref, Here: true})
	}
	var limits []struct {
		Name       string
		Soft, Hard int64
	}
	if err := jsonParameter(c, "ulimits", &limits); err != nil {
		return nil, err
	}
	for _, u := range limits {
		r.Ulimits = append(r.Ulimits, graph.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	for _, list := range c.query["extrahosts"] {
		for h := range strings.SplitSeq(list, ",") {
			if h != "" {
				r.ExtraHosts = append(r.ExtraHosts, h)
			}
		}
	}
	for p := range strings.SplitSeq(c.str("platform"), ",") {
		if p == "" {
			continue
		}
		x, err := parsePlatformText(p)
		if err != nil {
			return nil, err
		}
		r.Platforms = append(r.Platforms, x)
	}
	res := &r.Resources
	res.CPUSetCPUs, res.CPUSetMems = c.str("cpusetcpus"), c.str("cpusetmems")
	for _, n := range []struct {
		key string
		to  func(int64)
	}{
		{"shmsize", func(v int64) { r.ShmSize = v }}, {"memory", func(v int64) { res.Memory = v }}, {"memswap", func(v int64) { res.MemorySwap = v }},
		{"cpushares", func(v int64) { res.CPUShares = uint64(v) }}, {"cpuperiod", func(v int64) { res.CPUPeriod = uint64(v) }}, {"cpuquota", func(v int64) { res.CPUQuota = v }},
	} {
		if v := c.str(n.key); v != "" {
			x, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return nil, errs.Invalid.Errorf("invalid %s: %w", n.key, err)
			}
			n.to(x)
		}
	}
	return r, nil
}

func jsonParameter(c *call, key string, out any) error {
	v := c.str(key)
	if v == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(v), out); err != nil {
		return errs.Invalid.Errorf("error reading %s: %w", key, err)
	}
	return nil
}

// registryConfig reads what the client knows of registries, by their address.
func (c *call) registryConfig() (func(string) remote.Access, error) {
	h := c.r.Header.Get("X-Registry-Config")
	if h == "" {
		return nil, nil
	}
	if len(h) > 1<<20 {
		return nil, errs.Invalid.Errorf("X-Registry-Config is too large")
	}
	var all map[string]registrytypes.AuthConfig
	data, err := base64.URLEncoding.DecodeString(h)
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err != nil {
		return nil, nil //nolint:nilerr // as in Docker, one that can't be read counts as none
	}
	hosts := map[string]remote.Access{}
	for host, x := range all {
		host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
		host, _, _ = strings.Cut(host, "/")
		if host == "index.docker.io" {
			host = "docker.io"
		}
		hosts[host] = remote.Access{Credentials: credentials(x)}
	}
	return func(ref string) remote.Access {
		named, err := reference.ParseNormalizedNamed(ref)
		if err != nil {
			return remote.Access{}
		}
		return hosts[reference.Domain(named)]
	}, nil
}

// buildPrune is POST /build/prune.
func (s *Server) buildPrune(c *call) error {
	f, err := c.filters()
	if err != nil {
		return err
	}
	o := builder.PruneOptions{All: c.flag("all"), Filters: f}
	for _, key := range []string{"reserved-space", "keep-storage"} {
		if v := c.str(key); v != "" {
			if o.Keep, err = strconv.ParseInt(v, 10, 64); err != nil {
				return errs.Invalid.Errorf("invalid %s: %w", key, err)
			}
			break
		}
	}
	ids, freed, err := s.deps.Builds.Prune(c.r.Context(), o)
	if err != nil {
		return err
	}
	s.deps.Events.Pruned("builder", pruned(freed))
	return c.reply(200, types.CachePruneReport{CachesDeleted: orEmpty(ids), SpaceReclaimed: pruned(freed)})
}

// buildCancel is POST /build/cancel.
func (s *Server) buildCancel(c *call) error {
	id := c.str("id")
	if id == "" {
		return errs.Invalid.Errorf("build ID not provided")
	}
	s.deps.Builds.Cancel(id)
	return c.ok(204)
}
