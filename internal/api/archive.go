package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/image"
	"gantry/internal/layer"
)

const typeTar = "application/x-tar"

// tarStream is a reply whose body is a tar stream. An error before its first byte is still a status; afterwards all that
// can be done is to cut the connection, so that the client does not take a part for the whole.
type tarStream struct {
	c     *call
	begun bool
}

func (t *tarStream) Write(p []byte) (int, error) {
	if !t.begun {
		t.begun = true
		t.c.w.Header().Set("Content-Type", typeTar)
	}
	return t.c.w.Write(p)
}

// end reports how it went.
func (t *tarStream) end(s *Server, err error) error {
	if err == nil || !t.begun {
		return err
	}
	if t.c.r.Context().Err() == nil {
		s.log.Error("sending an archive failed", "path", t.c.r.URL.Path, "err", err)
	}
	panic(http.ErrAbortHandler)
}

// containerChanges is GET /containers/{id}/changes.
func (s *Server) containerChanges(c *call) error {
	list, err := s.deps.Containers.Changes(c.name)
	if err != nil {
		return err
	}
	var out []types.FilesystemChange // null without any, as Docker
	for _, x := range list {
		out = append(out, types.FilesystemChange{Kind: types.ChangeType(x.Kind), Path: x.Path})
	}
	return c.reply(200, out)
}

// containerExport is GET /containers/{id}/export.
func (s *Server) containerExport(c *call) error {
	t := &tarStream{c: c}
	return t.end(s, s.deps.Containers.Export(c.r.Context(), c.name, func() io.Writer { return t }))
}

// archivePath reads what the three archive routes share.
func (c *call) archivePath() (string, error) {
	if c.name == "" {
		return "", errs.Invalid.Errorf("bad parameter: 'name' cannot be empty")
	}
	p := c.str("path")
	if p == "" {
		return "", errs.Invalid.Errorf("bad parameter: 'path' cannot be empty")
	}
	return p, nil
}

// statHeader is the header in which a path's description comes.
const statHeader = "X-Docker-Container-Path-Stat"

func setStat(w http.ResponseWriter, st layer.PathStat) error {
	b, err := json.Marshal(types.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.Mtime, LinkTarget: st.LinkTarget})
	if err != nil {
		return err
	}
	w.Header().Set(statHeader, base64.StdEncoding.EncodeToString(b))
	return nil
}

// archiveStat is HEAD /containers/{id}/archive.
func (s *Server) archiveStat(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	st, err := s.deps.Containers.StatPath(c.r.Context(), c.name, p)
	if err != nil {
		return err
	}
	if err := setStat(c.w, st); err != nil {
		return err
	}
	return c.ok(200)
}

// archiveGet is GET /containers/{id}/archive.
func (s *Server) archiveGet(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	t := &tarStream{c: c}
	return t.end(s, s.deps.Containers.CopyOut(c.r.Context(), c.name, p, func(st layer.PathStat) (io.Writer, error) {
		return t, setStat(c.w, st)
	}))
}

// archivePut is PUT /containers/{id}/archive.
func (s *Server) archivePut(c *call) error {
	p, err := c.archivePath()
	if err != nil {
		return err
	}
	err = s.deps.Containers.CopyIn(c.r.Context(), c.name, p, c.r.Body, c.flag("noOverwriteDirNonDir"), c.flag("copyUIDGID"))
	c.drain()
	if err != nil {
		return err
	}
	return c.ok(200)
}

// commit is POST /commit.
func (s *Server) commit(c *call) error {
	var body types.Config
	if err := c.wantJSON(); err != nil && c.r.ContentLength != 0 {
		return err
	}
	if c.r.ContentLength != 0 {
		if err := decodeJSON(http.MaxBytesReader(c.w, c.r.Body, maxBody), &body); err != nil {
			return err
		}
	}
	x, err := s.deps.Containers.Get(c.str("container"))
	if err != nil {
		return err
	}
	if x.Status == container.Dead || x.Status == container.Removing {
		return errs.Conflict.Errorf("You cannot commit container %s which is %s", x.ID, x.Status)
	}
	name, err := image.ParseName(c.newName())
	if err != nil {
		return err
	}
	config := imageConfig(&body, x.Config)
	if err := image.Apply(&config, c.query["changes"]); err != nil {
		return err
	}
	ctx := c.r.Context()
	if (c.flag("pause") || c.str("pause") == "") && x.Status == container.Running {
		if err := s.deps.Containers.Pause(ctx, x.ID); err != nil && !errs.Conflict.Is(err) {
			return err
		} else if err == nil {
			defer func() {
				if err := s.deps.Containers.Unpause(context.WithoutCancel(ctx), x.ID); err != nil && !errs.Conflict.Is(err) && !errs.NotFound.Is(err) {
					s.log.Error("a container stays paused after its commit", "container", x.ID, "err", err)
				}
			}()
		}
	}
	comment, ref := c.str("comment"), ""
	id, err := s.deps.Images.Commit(ctx, image.Commit{
		Container: x.ID, ChainID: x.Image.ChainID, Image: x.Image.ID, Config: config,
		Author: c.str("author"), Comment: comment, CreatedBy: strings.Join(x.Config.Cmd, " "), Name: name,
	})
	if err != nil {
		return err
	}
	if name != nil {
		ref = reference.FamiliarString(name)
	}
	s.deps.Containers.Committed(&x, comment, id.String(), ref)
	return c.reply(201, types.CommitResponse{ID: id.String()})
}

// newName is the name that a commit or an import gives its image; empty: none.
func (c *call) newName() string {
	name := c.str("repo")
	if tag := c.str("tag"); name != "" && tag != "" {
		name += ":" + tag
	}
	return name
}

// imageConfig makes of a container's configuration what a commit keeps; what own says comes first.
func imageConfig(own, of *types.Config) dockerspec.DockerOCIImageConfig {
	var c dockerspec.DockerOCIImageConfig
	pick := func(a, b string) string {
		if a != "" {
			return a
		}
		return b
	}
	list := func(a, b []string) []string {
		if len(a) > 0 {
			return a
		}
		return b
	}
	c.User, c.WorkingDir, c.StopSignal = pick(own.User, of.User), pick(own.WorkingDir, of.WorkingDir), pick(own.StopSignal, of.StopSignal)
	c.Cmd, c.Entrypoint, c.Shell, c.OnBuild = list(own.Cmd, of.Cmd), list(own.Entrypoint, of.Entrypoint), list(own.Shell, of.Shell), list(own.OnBuild, of.OnBuild)
	c.Env = append([]string(nil), own.Env...)
	for _, e := range of.Env {
		key, _, _ := strings.Cut(e, "=")
		known := false
		for _, o := range own.Env {
			k, _, _ := strings.Cut(o, "=")
			known = known || k == key
		}
		if !known {
			c.Env = append(c.Env, e)
		}
	}
	for _, labels := range []map[string]string{of.Labels, own.Labels} {
		for k, v := range labels {
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[k] = v
		}
	}
	for _, from := range []*types.Config{of, own} {
		for v := range from.Volumes {
			if c.Volumes == nil {
				c.Volumes = map[string]struct{}{}
			}
			c.Volumes[v] = struct{}{}
		}
		for p := range from.ExposedPorts {
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			c.ExposedPorts[p.String()] = struct{}{}
		}
	}
	c.Healthcheck = of.Healthcheck
	if own.Healthcheck != nil {
		c.Healthcheck = own.Healthcheck
	}
	return c
}

// imageImport is POST /images/create?fromSrc=…
func (s *Server) imageImport(c *call) error {
	o := image.Import{Changes: c.query["changes"], Message: c.str("message"), Name: c.newName()}
	if p := c.str("platform"); p != "" {
		parts := strings.Split(p, "/")
		if parts[0] != "linux" || len(parts) > 3 {
			return errs.Invalid.Errorf("image operating system %q cannot be used on this platform", parts[0])
		}
		o.OS = parts[0]
		if len(parts) > 1 {
			o.Arch = parts[1]
		}
		if len(parts) > 2 {
			o.Variant = parts[2]
		}
	}
	m := messages{c: c}
	src := c.str("fromSrc")
	var from io.Reader = c.r.Body
	if src == "-" {
		_ = fullDuplex(c)
	} else {
		body, name, err := download(c.r.Context(), src)
		if err != nil {
			return err
		}
		defer body.Close()
		m.status("", "Downloading from "+name)
		from = body
		src = name
	}
	if o.Message == "" {
		o.Message = "Imported from " + src
	}
	id, err := s.deps.Images.Import(c.r.Context(), from, o)
	if err != nil {
		c.drain()
		return m.fail(s.advise(err))
	}
	m.status("", id.String())
	return nil
}

// download opens an archive that a URL names; one without a scheme is taken for http, as Docker does.
func download(ctx context.Context, src string) (io.ReadCloser, string, error) {
	if !strings.Contains(src, "://") {
		src = "http://" + src
	}
	if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
		return nil, src, errs.Invalid.Errorf("cannot import from %s: only http and https are supported", src)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, src, nil)
	if err != nil {
		return nil, src, errs.Invalid.Wrap(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: time.Minute, DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, src, err
	}
	if resp.StatusCode >= 400 {
		resp.Body.Close()
		return nil, src, errs.Internal.Errorf("Got HTTP status code >= 400: %s", resp.Status)
	}
	return resp.Body, src, nil
}

// imageSave is GET /images/get and GET /images/{name}/get.
func (s *Server) imageSave(c *call) error {
	names := []string{c.name}
	if c.name == "" {
		names = c.r.URL.Query()["names"]
	}
	write, err := s.deps.Images.Save(c.r.Context(), names)
	if err != nil {
		return err
	}
	t := &tarStream{c: c}
	return t.end(s, write(t))
}

// imageHistory is GET /images/{name}/history.
func (s *Server) imageHistory(c *call) error {
	x, steps, err := s.deps.Images.History(c.r.Context(), c.name)
	if err != nil {
		return err
	}
	out := make([]imagetypes.HistoryResponseItem, len(steps))
	for i, st := range steps {
		out[i] = imagetypes.HistoryResponseItem{ID: "<missing>", CreatedBy: st.CreatedBy, Comment: st.Comment, Size: st.Size}
		if !st.Created.IsZero() {
			out[i].Created = st.Created.Unix()
		}
	}
	if len(out) > 0 {
		out[0].ID, out[0].Tags = x.ID.String(), x.RepoTags
	}
	return c.reply(200, out)
}
