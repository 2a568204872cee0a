// Package builder is the service that builds: the Dockerfile becomes a graph (package dockerfile), the graph is solved (package solve),
// and of the result comes what is asked for.
package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build"
	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/layer"
	"gantry/internal/remote"
	"gantry/internal/state"
)

// Image is what a build needs to know of an image.
type Image struct {
	ID       digest.Digest
	Target   digest.Digest // what its name points to
	Config   dockerspec.DockerOCIImage
	Chain    digest.Digest // its topmost layer
	Platform ocispec.Platform
}

// Images are the engine's images.
type Images interface {
	// Get finds an image that is here; errs.NotFound otherwise.
	Get(ctx context.Context, ref string) (Image, error)
	Pull(ctx context.Context, ref string, p *ocispec.Platform, a remote.Access, report func(build.Status)) error
	// Make makes an image of layers that are here.
	// cache, if any, goes into its configuration (package cachefile).
	Make(ctx context.Context, config dockerspec.DockerOCIImage, chain digest.Digest, names []string, cache []byte) (id, manifest digest.Digest, err error)
	// Load takes in an image archive, and returns the image's ID.
	Load(ctx context.Context, r io.Reader) (digest.Digest, error)
	// Archive describes the archive of a layer that is here, in the content store, and gives it to the lease.
	Archive(ctx context.Context, l *content.Lease, diff digest.Digest) (ocispec.Descriptor, error)
	// Field is a field of an image's configuration that is in no specification; nil without it.
	Field(ctx context.Context, ref, name string) (json.RawMessage, error)
	// Chains are the topmost layers of all images.
	Chains(ctx context.Context) (map[digest.Digest]bool, error)
	// Collect removes layers that nobody wants any more.
	Collect(ctx context.Context) error
}

// Options are what the service stands on.
type Options struct {
	State  *state.Store
	Layers *layer.Store
	Images Images
	Cache  *solve.Cache // opened before the images are
	Runner solve.Runner
	Fetch  *source.Fetcher // nil: no addresses
	// Content and Remote are for caches elsewhere; nil: none.
	Content *content.Store
	Remote  *remote.Client
	Dir     string // a folder of the data-root
	Policy  Policy
	Log     *slog.Logger
}

// Service builds. Its methods may be called from any goroutine.
type Service struct {
	Options
	solver *solve.Solver
	fetch  *fetcher

	mu       sync.Mutex
	running  map[string]context.CancelFunc // by Request.ID
	work     sync.WaitGroup
	quit     context.CancelFunc
	ctx      context.Context
	tidying  sync.Mutex
	creating sync.Mutex
}

// Open opens the service.
func Open(o Options) (*Service, error) {
	s := &Service{Options: o, running: map[string]context.CancelFunc{}}
	s.ctx, s.quit = context.WithCancel(context.Background())
	so := solve.Options{Cache: o.Cache, Layers: o.Layers, Runner: o.Runner, Images: images{o.Images}, Dir: o.Dir, Log: o.Log}
	if o.Fetch != nil {
		s.fetch = &fetcher{o.Fetch, o.Fetch.Dir}
		so.Fetch = s.fetch
	}
	var err error
	s.solver, err = solve.Open(so)
	return s, err
}

// Close ends the builds under way.
func (s *Service) Close() {
	s.quit()
	s.work.Wait()
	s.solver.Close()
}

// Cancel ends the build of that ID; none is no error.
func (s *Service) Cancel(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.running[id]; cancel != nil {
		cancel()
	}
}

// begin makes a build one of those under way.
func (s *Service) begin(ctx context.Context, id string) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, nil, errs.Unavailable.Errorf("the engine is ending")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	s.work.Add(1)
	if id != "" {
		s.running[id] = cancel
	}
	return ctx, func() {
		s.mu.Lock()
		delete(s.running, id)
		s.mu.Unlock()
		stop()
		cancel()
		s.work.Done()
	}, nil
}

// Build does what is asked.
func (s *Service) Build(ctx context.Context, r *build.Request) (*build.Built, error) {
	ctx, end, err := s.begin(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	defer end()
	result, err := s.Convert(ctx, r)
	if err != nil {
		return nil, err
	}
	tell(r.Sink, build.Event{Kind: build.Planned, Result: result})
	if r.Check {
		return &build.Built{}, nil
	}
	roots := make([]graph.Edge, len(result.Outputs))
	for i, o := range result.Outputs {
		roots[i] = o.Root
	}
	job := &solve.Job{Graph: result.Graph, Roots: roots, Client: r.Client, Sink: r.Sink, Access: r.Access, Epoch: result.Epoch, ShmSize: r.ShmSize, Allow: allowed(r), Strict: r.Classic, Import: s.importCaches(ctx, r)}
	built := &build.Built{}
	if r.Debug {
		job.Failed = func(v *graph.Vertex, before digest.Digest) { built.Debug = s.debugImage(ctx, v, before) }
	}
	solved, err := s.solver.Solve(ctx, job)
	if err != nil {
		return built, err
	}
	defer solved.Release()
	built, err = s.export(ctx, r, result, solved)
	if err != nil {
		return nil, err
	}
	if err := s.exportCaches(ctx, r, solved); err != nil {
		return nil, err
	}
	s.tidy()
	return built, nil
}

// debugImage makes an image of the state before a step that failed, in which a container stands where the step would have begun; "" where
// there is nothing to run a shell of.
func (s *Service) debugImage(ctx context.Context, v *graph.Vertex, before digest.Digest) digest.Digest {
	if before == "" {
		return ""
	}
	now := time.Now().UTC() // which makes it one that nobody else has
	config := dockerspec.DockerOCIImage{Image: ocispec.Image{Created: &now, Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}}}
	c := &config.Config
	c.Entrypoint, c.Labels = []string{"/bin/sh"}, map[string]string{"gantry.build.debug": v.Meta.Command}
	if op, ok := v.Op.(*graph.Exec); ok {
		c.Env, c.User, c.WorkingDir = op.Env, op.User, op.Cwd
		if len(op.Args) == 3 && strings.HasPrefix(op.Args[1], "-") { // RUN in its shell form says which shell there is
			c.Entrypoint = op.Args[:1]
		}
	}
	id, _, err := s.Images.Make(ctx, config, before, nil, nil)
	if err != nil {
		s.Log.Warn("keeping the state before a failed step failed", "err", err)
		return ""
	}
	return id
}

// allowed is what the request lets the Dockerfile ask for.
func allowed(r *build.Request) (list []string) {
	if r.Insecure {
		list = append(list, "security.insecure")
	}
	if r.Insecure || r.HostNetwork || r.Network == "host" {
		list = append(list, "network.host")
	}
	return list
}

func tell(sink build.Sink, e build.Event) {
	if sink != nil {
		e.Time = time.Now()
		sink.Event(e)
	}
}

// Convert reads the Dockerfile and makes a graph of it, without doing anything of it.
func (s *Service) Convert(ctx context.Context, r *build.Request) (*graph.Result, error) {
	data, err := s.dockerfile(ctx, r)
	if err != nil {
		return nil, err
	}
	o, err := options(r)
	if err != nil {
		return nil, err
	}
	for _, p := range o.Platforms {
		if p.OS != "" && p.OS != "linux" || p.Architecture != "" && p.Architecture != runtime.GOARCH {
			return nil, errs.Invalid.Errorf("building for %s is not supported: this engine builds for linux/%s, its own platform", p, runtime.GOARCH)
		}
	}
	if len(o.Platforms) > 1 {
		return nil, errs.Invalid.Errorf("building for several platforms at once is not supported: this engine builds for linux/%s, its own platform", runtime.GOARCH)
	}
	return dockerfile.Convert(ctx, data, resolver{s: s, r: r}, *o)
}

// options are the request's as the front end takes them.
func options(r *build.Request) (*dockerfile.Options, error) {
	o := &dockerfile.Options{
		Target: r.Target, BuildArgs: map[string]string{}, Labels: r.Labels, Context: r.Remote, Contexts: r.Contexts, Ignore: r.Ignore,
		NoCache: r.NoCache, NoCacheStages: r.NoCacheFilter, Ulimits: r.Ulimits, ShmSize: r.ShmSize, CgroupParent: r.CgroupParent, Classic: r.Classic,
		AllStages:     r.Check && r.Target == "",
		BuildPlatform: graph.Platform{OS: "linux", Architecture: runtime.GOARCH},
	}
	o.NoCache = o.NoCache || len(r.NoCacheFilter) > 0
	for k, v := range r.Args {
		if v != nil {
			o.BuildArgs[k] = *v
		}
	}
	if r.Epoch != nil && o.BuildArgs["SOURCE_DATE_EPOCH"] == "" {
		o.BuildArgs["SOURCE_DATE_EPOCH"] = strconv.FormatInt(r.Epoch.Unix(), 10)
	}
	for _, p := range r.Platforms {
		o.Platforms = append(o.Platforms, graph.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	}
	if r.Pull {
		o.Pull = graph.PullAlways
	}
	if r.Resources != (graph.Resources{}) {
		o.Resources = &r.Resources
	}
	switch r.Network {
	case "", "default", "bridge":
	default:
		o.Network = graph.NetworkMode(r.Network)
	}
	for _, h := range r.ExtraHosts {
		name, ip, ok := strings.Cut(h, ":")
		if !ok {
			name, ip, ok = strings.Cut(h, "=")
		}
		if !ok || name == "" {
			return nil, errs.Invalid.Errorf("bad format for add-host: %q", h)
		}
		ip = strings.Trim(ip, "[]")
		if _, err := netip.ParseAddr(ip); err != nil && ip != "host-gateway" {
			return nil, errs.Invalid.Errorf("invalid IP address in add-host: %q", ip)
		}
		o.Hosts = append(o.Hosts, graph.Host{Name: name, IP: ip})
	}
	return o, nil
}

// maxDockerfile bounds a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

func (s *Service) dockerfile(ctx context.Context, r *build.Request) ([]byte, error) {
	if r.Dockerfile != nil {
		return r.Dockerfile, nil
	}
	name := r.File
	if name == "" {
		name = "Dockerfile"
	}
	name = path.Clean("/" + name)
	if r.Remote != "" {
		return s.remote(ctx, r, name)
	}
	t, err := r.Client.Folder(ctx, &graph.Local{Name: "dockerfile", Follow: []string{name, name + ".dockerignore", ".dockerignore"}})
	if errs.NotFound.Is(err) {
		t, err = r.Client.Folder(ctx, &graph.Local{Name: "context", Follow: []string{name}})
	}
	if err != nil {
		return nil, err
	}
	data, err := solve.ReadFile(ctx, t, name, maxDockerfile)
	if errors.Is(err, fs.ErrNotExist) && r.File == "" {
		data, err = solve.ReadFile(ctx, t, "/dockerfile", maxDockerfile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.Invalid.Errorf("Cannot locate specified Dockerfile: %s", path.Clean(name[1:]))
	}
	if err == nil && len(data) == 0 {
		return nil, errs.Invalid.Errorf("the Dockerfile (%s) cannot be empty", path.Clean(name[1:]))
	}
	return data, err
}

// resolver answers what the front end asks of images.
type resolver struct {
	s *Service
	r *build.Request
}

func (x resolver) ResolveImage(ctx context.Context, ref dockerfile.ImageRef) (dockerfile.ResolvedImage, error) {
	if ref.Layout != "" {
		return x.s.layout(ctx, x.r, ref)
	}
	// A status before there is a vertex is nobody's.
	img, err := x.s.image(ctx, ref.Ref, ref.Platform, ref.Pull, x.r.Access, func(st build.Status) {
		tell(x.r.Sink, build.Event{Kind: build.Reported, Status: st})
	})
	if err != nil {
		return dockerfile.ResolvedImage{}, err
	}
	return dockerfile.ResolvedImage{Ref: pinned(ref.Ref, img.Target), Config: img.Config}, nil
}

// image finds an image, here or in its registry.
func (s *Service) image(ctx context.Context, ref string, p graph.Platform, mode graph.PullMode, access func(string) remote.Access, report func(build.Status)) (Image, error) {
	if strings.HasPrefix(ref, layoutRef) {
		return s.Images.Get(ctx, strings.TrimPrefix(ref, layoutRef))
	}
	var want *ocispec.Platform
	if p.Architecture != "" && (p.OS != "linux" || p.Architecture != runtime.GOARCH) {
		want = &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	if mode != graph.PullAlways {
		img, err := s.Images.Get(ctx, ref)
		if err == nil && (want == nil || img.Platform.Architecture == want.Architecture) {
			return img, nil
		}
		if err != nil && !errs.NotFound.Is(err) || mode == graph.PullNever {
			return img, err
		}
	}
	var a remote.Access
	if access != nil {
		a = access(ref)
	}
	if err := s.Images.Pull(ctx, ref, want, a, report); err != nil {
		return Image{}, err
	}
	return s.Images.Get(ctx, ref)
}

// images is what the solver needs of images: those that the front end resolved.
type images struct{ Images }

func (x images) Image(ctx context.Context, op *graph.Image, p graph.Platform, access any, hold func(digest.Digest), report func(build.Status)) (chain, id digest.Digest, err error) {
	a, _ := access.(func(string) remote.Access)
	s := &Service{Options: Options{Images: x.Images}}
	for {
		img, err := s.image(ctx, op.Ref, p, op.Pull, a, report)
		if err != nil {
			return "", "", err
		}
		hold(img.Chain)
		// Held first and looked at afterwards: what is there now stays.
		if again, err := x.Get(ctx, strings.TrimPrefix(op.Ref, layoutRef)); err == nil && again.Chain == img.Chain {
			return img.Chain, img.ID, nil
		} else if err != nil && !errs.NotFound.Is(err) {
			return "", "", err
		}
	}
}

// export makes of the result what is wanted.
func (s *Service) export(ctx context.Context, r *build.Request, result *graph.Result, solved *solve.Solved) (*build.Built, error) {
	built := &build.Built{}
	if len(result.Outputs) == 0 {
		return built, nil
	}
	for _, o := range r.Outputs {
		if o.Type == "local" || o.Type == "tar" {
			tell(r.Sink, build.Event{Kind: build.Exporting, Text: "exporting files"})
			if err := s.exportFiles(ctx, o.To, solved.Roots[0], result.Epoch); err != nil {
				return nil, err
			}
		}
	}
	// The layers go to disk meanwhile; but for an image there is nothing to wait for.
	wanted := false
	var names []string
	for _, o := range r.Outputs {
		if o.Type == "image" || o.Type == "docker" || o.Type == "oci" {
			wanted = true
			names = append(names, o.Names...)
		}
	}
	if !wanted {
		return built, nil
	}
	tell(r.Sink, build.Event{Kind: build.Exporting, Text: "exporting to image"})
	if err := solved.Save(ctx); err != nil {
		return nil, err
	}
	out := &result.Outputs[0]
	chain := solved.Roots[0].Chain()
	config := finishConfig(out, solved.Empty)
	var now time.Time
	var err error
	if result.Epoch != nil {
		now = result.Epoch.UTC()
	} else if now, err = s.created(&config, chain); err != nil {
		return nil, err
	}
	if config.Created == nil {
		config.Created = &now
	}
	for i := range config.History {
		if config.History[i].Created == nil && (out.Base == nil || i >= len(out.Base.History)) {
			config.History[i].Created = &now
		}
	}
	cache, err := s.inline(ctx, r, solved)
	if err != nil {
		return nil, err
	}
	if built.Image, built.Manifest, err = s.Images.Make(ctx, config, chain, names, cache); err != nil {
		return nil, err
	}
	tell(r.Sink, build.Event{Kind: build.Exporting, Text: "writing image " + built.Image.String()})
	for _, n := range names {
		tell(r.Sink, build.Event{Kind: build.Exporting, Text: "naming to " + n})
	}
	built.Names = names
	built.Config, err = json.Marshal(config)
	return built, err
}

// finishConfig marks the lines of history that tell of no layer: what was done there changed nothing.
func finishConfig(out *graph.Output, empty func(*graph.Vertex) bool) dockerspec.DockerOCIImage {
	config := out.Config
	config.History = append([]ocispec.History(nil), config.History...)
	for i := range config.History {
		if i < len(out.Layers) && out.Layers[i] != nil && empty(out.Layers[i]) {
			config.History[i].EmptyLayer = true
		}
	}
	return config
}

// createdBucket holds, by what an image is but for its times, when it was first built.
const createdBucket = "build-created"

// created is when the same image was first built: who builds again what has not changed gets the same image.
func (s *Service) created(config *dockerspec.DockerOCIImage, chain digest.Digest) (time.Time, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return time.Time{}, err
	}
	h := sha256.New()
	h.Write(data)
	io.WriteString(h, chain.String())
	key := hex.EncodeToString(h.Sum(nil))
	type record struct {
		Time time.Time `json:"time"`
	}
	now := record{time.Now().UTC()}
	var old record
	s.creating.Lock() // two that make the same at once make one
	defer s.creating.Unlock()
	err = s.State.View(func(tx state.Tx) error {
		_, err := tx.Get(createdBucket, key, &old)
		return err
	})
	if err != nil || !old.Time.IsZero() {
		return old.Time, err
	}
	return now.Time, s.State.Update(func(tx state.Tx) error { return tx.Put(createdBucket, key, now) })
}

func (s *Service) exportFiles(ctx context.Context, to io.Writer, root *solve.Ref, epoch *time.Time) error {
	view, err := s.solver.View(root)
	if err != nil {
		return err
	}
	defer view.Close()
	return layer.Pack(ctx, to, view.Fd(), layer.PackOptions{})
}

// TempDir is where a client's files may lie while it is served.
func (s *Service) TempDir() string { return s.solver.TempDir() }
