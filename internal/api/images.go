package api

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/image"
)

// imageList is GET /images/json.
func (s *Server) imageList(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if name := c.str("filter"); name != "" && c.version < v(41) && len(filters["reference"]) == 0 {
		if filters == nil {
			filters = make(map[string][]string)
		}
		filters["reference"] = []string{name}
	}
	found, err := s.deps.Images.List(c.r.Context(), image.ListOptions{All: c.flag("all"), Filters: filters})
	if err != nil {
		return err
	}
	manifests := c.version >= v(47) && c.flag("manifests")
	var users map[string][]string
	if c.version >= v(51) || manifests { // who isn't told need not be counted for
		if users, err = s.users(); err != nil {
			return err
		}
	}
	out := make([]imageSummary, len(found))
	for i := range found {
		x := &found[i]
		out[i].Summary = imagetypes.Summary{
			Containers:  int64(len(users[x.ID.String()])),
			ID:          x.ID.String(),
			Labels:      x.Config.Config.Labels,
			Descriptor:  &x.Target,
			RepoDigests: orEmpty(x.RepoDigests),
			RepoTags:    orEmpty(x.RepoTags),
			SharedSize:  -1,
			Size:        x.Size,
		}
		if out[i].Labels == nil {
			out[i].Labels = map[string]string{}
		}
		if x.Config.Created != nil {
			out[i].Created = x.Config.Created.Unix()
		}
		if manifests {
			out[i].Manifests = manifestsOf(x, users[x.ID.String()])
		}
		shape(c.version, &out[i], imageSummaryShims)
	}
	return c.reply(200, out)
}

// users returns the IDs of containers by their image's.
func (s *Server) users() (map[string][]string, error) {
	all, err := s.deps.Containers.List(container.ListOptions{All: true})
	if err != nil {
		return nil, err
	}
	m := make(map[string][]string)
	for i := range all {
		id := all[i].Image.ID.String()
		m[id] = append(m[id], all[i].ID)
	}
	return m, nil
}

func manifestsOf(x *image.Image, users []string) []imagetypes.ManifestSummary {
	m := imagetypes.ManifestSummary{
		ID:         x.Manifest.Digest.String(),
		Descriptor: x.Manifest,
		Available:  true,
		Kind:       imagetypes.ManifestKindImage,
		ImageData:  &imagetypes.ImageProperties{Platform: platformOf(x), Containers: orEmpty(users)},
	}
	m.Size.Content = x.Content
	m.Size.Total = x.Content + x.Size
	m.ImageData.Size.Unpacked = x.Size
	return []imagetypes.ManifestSummary{m}
}

func platformOf(x *image.Image) ocispec.Platform {
	if p := x.Manifest.Platform; p != nil {
		return *p
	}
	return x.Config.Platform
}

// imageInspect is GET /images/{name}/json.
func (s *Server) imageInspect(c *call) error {
	manifests := c.version >= v(48) && c.flag("manifests")
	if p := c.str("platform"); p != "" && c.version >= v(49) {
		if manifests {
			return errs.Invalid.Errorf("conflicting options: manifests and platform options cannot both be set")
		}
		if _, err := parsePlatform(p); err != nil {
			return err
		}
	}
	x, err := s.deps.Images.Get(c.r.Context(), c.name)
	if err != nil {
		return err
	}
	if p := c.str("platform"); p != "" && c.version >= v(49) {
		want, _ := parsePlatform(p)
		have := platformOf(&x)
		if want.OS != have.OS || want.Architecture != have.Architecture || want.Variant != "" && want.Variant != have.Variant {
			return errs.NotFound.Errorf("image with reference %s was found but does not provide the specified platform (%s)", c.name, platformText(want))
		}
	}
	out := inspectImage(&x)
	if manifests {
		users, err := s.users()
		if err != nil {
			return err
		}
		out.Manifests = manifestsOf(&x, users[x.ID.String()])
	}
	shape(c.version, out, imageInspectShims)
	if strings.HasPrefix(c.r.UserAgent(), "docker-compose/1.") {
		// It speaks the newest version that it finds, and dies without this field, where it looks for the volumes that a
		// service's next container gets from the one before.
		out.imageContainer = containerOf(x.Config.Config.Volumes)
	}
	return c.reply(200, out)
}

func inspectImage(x *image.Image) *imageInspect {
	config := x.Config.Config
	out := &imageInspect{InspectResponse: imagetypes.InspectResponse{
		ID:           x.ID.String(),
		RepoTags:     orEmpty(x.RepoTags),
		RepoDigests:  orEmpty(x.RepoDigests),
		Config:       &config,
		Architecture: x.Config.Architecture,
		Variant:      x.Config.Variant,
		Os:           cmp.Or(x.Config.OS, "linux"),
		OsVersion:    x.Config.OSVersion,
		Size:         x.Size,
		RootFS:       imagetypes.RootFS{Type: cmp.Or(x.Config.RootFS.Type, "layers")},
		Metadata:     imagetypes.Metadata{LastTagTime: x.Tagged},
		Descriptor:   &x.Target,
	}}
	out.Config = &config
	for _, d := range x.Config.RootFS.DiffIDs {
		out.RootFS.Layers = append(out.RootFS.Layers, d.String())
	}
	if x.Config.Created != nil {
		out.Created = x.Config.Created.Format(time.RFC3339Nano)
	}
	if a := x.Config.Author; a != "" {
		out.Author = &a
	}
	if h := x.Config.History; len(h) > 0 && h[len(h)-1].Comment != "" {
		out.Comment = &h[len(h)-1].Comment
	}
	return out
}

// parsePlatform reads a platform as the API has it in queries of images: JSON of an OCI platform.
func parsePlatform(s string) (ocispec.Platform, error) {
	var p ocispec.Platform
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return p, errs.Invalid.Errorf("failed to parse platform: %w", err)
	}
	if p.OS == "" || p.Architecture == "" {
		return p, errs.Invalid.Errorf("both OS and Architecture must be provided")
	}
	return p, nil
}

func platformText(p ocispec.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// messages writes the JSON lines in which Docker reports progress.
type messages struct {
	c     *call
	begun bool
}

// message is jsonstream.Message with the plain error that clients of before 1.4 read, and many libraries still do.
type message struct {
	jsonstream.Message
	ErrorMessage string `json:"error,omitempty"`
}

func (m *messages) send(x message) {
	if !m.begun {
		m.c.w.Header()["Content-Type"] = typeJSON
		m.begun = true
	}
	e := json.NewEncoder(m.c.w)
	e.SetEscapeHTML(false)
	_ = e.Encode(x)
	m.c.flush()
}

// progress reports what a pull or a push does.
func (m *messages) progress(p image.Progress) {
	x := message{Message: jsonstream.Message{ID: p.ID, Status: p.Status}}
	if p.ID != "" {
		x.Progress = &jsonstream.Progress{Current: p.Current, Total: p.Total} // Docker's has it empty, too
	}
	if p.Aux != nil {
		data, err := json.Marshal(p.Aux)
		if err != nil {
			return
		}
		x.Aux = (*json.RawMessage)(&data)
		x.Progress = nil
	}
	m.send(x)
}

func (m *messages) stream(text string) { m.send(message{Message: jsonstream.Message{Stream: text}}) }
func (m *messages) status(id, text string) {
	m.send(message{Message: jsonstream.Message{ID: id, Status: text}})
}

// fail reports err: as the reply's status while there is none yet, in the stream afterwards.
func (m *messages) fail(err error) error {
	if !m.begun {
		return err
	}
	m.send(message{Message: jsonstream.Message{Error: &jsonstream.Error{Message: err.Error()}}, ErrorMessage: err.Error()})
	return nil
}

// imageLoad is POST /images/load.
func (s *Server) imageLoad(c *call) error {
	m := messages{c: c}
	// The parameter quiet leaves out progress bars, of which there are none; what happens to names is told always.
	progress := func(line string) { m.stream(line + "\n") }
	// The archive is sent as it is read: the reply's first lines must not end the request's body.
	_ = fullDuplex(c)
	loaded, err := s.deps.Images.Load(c.r.Context(), c.r.Body, progress)
	c.drain() // of a good archive, too: padding may follow it
	if err != nil {
		m.begun = true // Docker says 200 and reports a broken archive in the stream; the CLI shows either
		m.c.w.Header()["Content-Type"] = typeJSON
		return m.fail(s.advise(err))
	}
	for _, l := range loaded {
		if l.Ref != "" {
			m.stream("Loaded image: " + l.Ref + "\n")
		} else {
			m.stream("Loaded image ID: " + l.ID.String() + "\n")
		}
	}
	return nil
}

// imageTag is POST /images/{name}/tag.
func (s *Server) imageTag(c *call) error {
	target, tag := c.str("repo"), c.str("tag")
	if target == "" {
		return errs.Invalid.Errorf("invalid reference format")
	}
	if strings.Contains(target, "@") {
		return errs.Invalid.Errorf("cannot import digest reference")
	}
	if tag != "" {
		if i := strings.LastIndexByte(target, ':'); i > strings.LastIndexByte(target, '/') {
			target = target[:i]
		}
		target += ":" + tag
	}
	if err := s.deps.Images.Tag(c.r.Context(), c.name, target); err != nil {
		return err
	}
	return c.ok(201)
}

// imageRemove is DELETE /images/{name}.
func (s *Server) imageRemove(c *call) error {
	if strings.TrimSpace(c.name) == "" {
		return errs.Invalid.Errorf("image name cannot be blank")
	}
	gone, err := s.deps.Images.Remove(c.removal(), c.name, c.flag("force"), c.flag("noprune"))
	if err != nil {
		return err
	}
	out := make([]imagetypes.DeleteResponse, len(gone))
	for i, g := range gone {
		out[i] = imagetypes.DeleteResponse{Deleted: g.Deleted, Untagged: g.Untagged}
	}
	return c.reply(200, out)
}
