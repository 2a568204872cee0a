package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/content"
	"gantry/internal/errs"
	"gantry/internal/failpoint"
	"gantry/internal/layer"
	"gantry/internal/remote"
	"gantry/internal/state"
)

// Progress is one report of a pull or a push, in Docker's words: ID names a layer or a tag, or is empty. Total is 0
// where nothing is measured.
type Progress struct {
	ID, Status     string
	Current, Total int64 // bytes
	Aux            any   // for programs
}

// PullOptions say what to pull besides the reference.
type PullOptions struct {
	Platform *ocispec.Platform // nil: the host's
	All      bool              // all tags of the repository
	Access   remote.Access
}

// Pull gets what ref leads to from its registry. An index is kept whole, of its images the one for the platform is
// fetched. What came of a pull that failed is kept for a week, for the next one to go on from there.
func (s *Service) Pull(ctx context.Context, ref string, o PullOptions, report func(Progress)) error {
	if s.remote == nil {
		return errs.NotImplemented.Errorf("this engine pulls no images")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	repo, err := s.remote.Repository(named, o.Access)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	p := &pull{s: s, repo: repo, platform: o.Platform, report: func(m Progress) {
		mu.Lock()
		defer mu.Unlock()
		if report != nil {
			report(m)
		}
	}}
	if !o.All {
		return p.one(ctx, reference.TagNameOnly(named))
	}
	if !reference.IsNameOnly(named) {
		return errs.Invalid.Errorf("tag can't be used with --all-tags/-a")
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return p.explain(ctx, named, err)
	}
	slices.Sort(tags)
	p.many = true
	newer := false
	for _, t := range tags {
		tagged, err := reference.WithTag(named, t)
		if err != nil {
			return errs.Invalid.Errorf("registry lists the tag %q: %w", t, err)
		}
		if err := p.one(ctx, tagged); err != nil {
			return err
		}
		newer = newer || p.newer
	}
	p.status(newer, named)
	return nil
}

// status is the last line of a pull.
func (p *pull) status(newer bool, ref reference.Named) {
	if newer {
		p.say("", "Status: Downloaded newer image for "+reference.FamiliarString(ref))
	} else {
		p.say("", "Status: Image is up to date for "+reference.FamiliarString(ref))
	}
}

// unfinished is what the state keeps of a pull until it is done: what it got is not collected.
type unfinished struct {
	Blobs  []digest.Digest `json:"blobs"`
	Chains []digest.Digest `json:"chains"`
	Time   time.Time       `json:"time"`
}

const (
	pullBucket     = "pulls"
	unfinishedLife = 7 * 24 * time.Hour
)

// pull is one call of Pull.
type pull struct {
	s        *Service
	repo     *remote.Repository
	platform *ocispec.Platform
	report   func(Progress)

	blobs         *content.Lease
	layers        *layer.Lease
	fresh         bool // something was fetched or unpacked
	many, newer   bool // one of several tags; the last one was not up to date
	layersMissing bool
	known         bool          // the image is here, perhaps by another name
	begun         digest.Digest // the manifest that is recorded as under way
}

func (p *pull) say(id, status string) { p.report(Progress{ID: id, Status: status}) }

// one pulls one reference.
func (p *pull) one(ctx context.Context, ref reference.Named) error {
	err := p.fetch(ctx, ref)
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if errs.Invalid.Is(err) { // nobody can go on with what came
		if ferr := p.s.forget(ctx, p.begun); ferr != nil {
			err = errors.Join(err, ferr)
		}
	}
	return p.explain(ctx, ref, err)
}

func (p *pull) fetch(ctx context.Context, ref reference.Named) error {
	p.blobs, p.layers = p.s.content.Lease(), p.s.layers.Lease()
	defer p.blobs.Release()
	defer p.layers.Release()
	p.fresh, p.begun = false, ""
	what := ""
	switch r := ref.(type) {
	case reference.Digested:
		what = r.Digest().String()
	case reference.Tagged:
		what = r.Tag()
	}
	top, err := p.repo.Manifest(ctx, what)
	if err != nil {
		return err
	}
	from := ""
	if top.Mirror != "" {
		from = " (mirror " + top.Mirror + ")"
	}
	p.say(what, "Pulling from "+reference.Path(ref)+from)
	if top.Quota != "" {
		p.say("", "Rate limit of "+p.repo.Host()+": "+top.Quota)
	}
	path, err := p.choose(ctx, ref, top)
	if err != nil {
		return err
	}
	if err := p.image(ctx, ref, path[len(path)-1]); err != nil {
		return err
	}
	// Manifests come last, from below: one that is here has all that it names.
	for _, m := range slices.Backward(path) {
		p.blobs.Hold(m.Digest)
		if _, err := p.s.content.Ingest(ctx, p.blobs, strings.NewReader(string(m.Data)), content.Expect{Digest: m.Digest, Size: m.Size, Sized: true}); err != nil {
			return err
		}
	}
	failpoint.Hit("image-pulled")
	newer, err := p.commit(ctx, ref, path)
	if err != nil {
		return err
	}
	p.say("", "Digest: "+top.Digest.String())
	if p.newer = newer || p.fresh; !p.many {
		p.status(p.newer, ref)
	}
	return nil
}

// choose walks down to the manifest for the platform; it returns all manifests on the way.
func (p *pull) choose(ctx context.Context, ref reference.Named, m remote.Manifest) ([]remote.Manifest, error) {
	path := []remote.Manifest{m}
	for isIndex(m.MediaType, m.Data) {
		if len(path) > maxNesting {
			return nil, errs.Invalid.Errorf("index %s is nested too deep", path[0].Digest)
		}
		var index ocispec.Index
		if err := json.Unmarshal(m.Data, &index); err != nil {
			return nil, errs.Invalid.Errorf("read index %s: %w", m.Digest, err)
		}
		if len(index.Manifests) > maxManifests {
			return nil, errs.Invalid.Errorf("index %s lists more than %d manifests", m.Digest, maxManifests)
		}
		d, err := p.pick(index.Manifests)
		if err != nil {
			return nil, err
		}
		if err := content.Check(d.Digest); err != nil {
			return nil, errs.Invalid.Errorf("index %s: %w", m.Digest, err)
		}
		child, err := p.manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if d.Size != child.Size {
			return nil, errs.Invalid.Errorf("index %s: manifest %s has %d bytes, not %d", m.Digest, d.Digest, child.Size, d.Size)
		}
		m = child
		path = append(path, m)
	}
	return path, nil
}

// manifest is a child of an index; it may be here already.
func (p *pull) manifest(ctx context.Context, d ocispec.Descriptor) (remote.Manifest, error) {
	p.blobs.Hold(d.Digest)
	if data, err := p.s.content.Read(d.Digest, maxManifest); err == nil {
		return remote.Manifest{Descriptor: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: int64(len(data))}, Data: data}, nil
	}
	m, err := p.repo.Manifest(ctx, d.Digest.String())
	if refused := remote.As(err); refused != nil && refused.Status == http.StatusNotFound {
		return m, errs.Unavailable.Errorf("the registry lists manifest %s in the index, but does not have it: %w", d.Digest, err)
	}
	return m, err
}

// pick chooses the image for the platform.
func (p *pull) pick(list []ocispec.Descriptor) (ocispec.Descriptor, error) {
	best, rank := -1, 0
	var seen []ocispec.Platform
	for i, d := range list {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		have := ocispec.Platform{}
		if d.Platform != nil {
			have = *d.Platform
		} else if len(list) == 1 {
			return d, nil // an index of one that does not say for what: its config will
		}
		seen = append(seen, have)
		if r := rankFor(p.platform, have); r >= 0 && (best < 0 || r < rank) {
			best, rank = i, r
		}
	}
	if best < 0 {
		want := hostPlatform()
		if p.platform != nil {
			want = *p.platform
		}
		return ocispec.Descriptor{}, errs.NotFound.Errorf("no matching manifest for %s in the manifest list entries\nit has: %s", formatPlatform(want), listPlatforms(seen))
	}
	return list[best], nil
}

// rankFor orders what there is by how well it suits, 0 the best; -1: not at all. Without a wish the host's kernel says.
func rankFor(want *ocispec.Platform, have ocispec.Platform) int {
	if want == nil {
		return platformRank(have)
	}
	if want.OS != "" && want.OS != have.OS || want.Architecture != "" && want.Architecture != have.Architecture {
		return -1
	}
	plain := func(p ocispec.Platform) string { // v8 is what every arm64 is, v7 what most mean by arm
		if p.Architecture == "arm64" && p.Variant == "v8" || p.Architecture == "arm" && p.Variant == "v7" || p.Variant == "v1" && p.Architecture == "amd64" {
			return ""
		}
		return p.Variant
	}
	switch {
	case plain(*want) == plain(have):
		return 0
	case want.Variant == "":
		return 1
	}
	return -1
}

// layerTypes are the media types that layers may have. What can be unpacked is seen by the bytes.
var layerTypes = []string{
	ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
	"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd",
	"application/vnd.docker.image.rootfs.foreign.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
}

// parseManifest reads a manifest and refuses what is no image of ours.
func parseManifest(m remote.Manifest) (out ocispec.Manifest, err error) {
	artifact := func(t string) error {
		return errs.Invalid.Errorf("Encountered remote %q(unknown) when fetching\nit is no container image, but an artifact of that type: fetch it with a tool made for it", t) //nolint:staticcheck // Docker's words
	}
	if m.MediaType != ocispec.MediaTypeImageManifest && m.MediaType != dockerManifest {
		return out, artifact(m.MediaType)
	}
	if err := json.Unmarshal(m.Data, &out); err != nil {
		return out, errs.Invalid.Errorf("read manifest %s: %w", m.Digest, err)
	}
	switch out.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerspec.DockerOCIImageMediaType, "", "application/octet-stream":
	default:
		return out, artifact(cmp.Or(out.ArtifactType, out.Config.MediaType))
	}
	if len(out.Layers) > layer.MaxLayers {
		return out, errs.Invalid.Errorf("max depth exceeded: an image has at most %d layers", layer.MaxLayers)
	}
	for _, b := range append([]ocispec.Descriptor{out.Config}, out.Layers...) {
		if err := content.Check(b.Digest); err != nil {
			return out, errs.Invalid.Errorf("manifest %s: %w", m.Digest, err)
		}
		if b.Size < 0 {
			return out, errs.Invalid.Errorf("manifest %s: blob %s of %d bytes", m.Digest, b.Digest, b.Size)
		}
	}
	for i, l := range out.Layers {
		if !slices.Contains(layerTypes, l.MediaType) {
			return out, errs.Invalid.Errorf("layer %d is of media type %q, which is no file system's: it is no container image", i, l.MediaType)
		}
	}
	return out, nil
}

// image gets config and layers of a manifest, and unpacks them.
func (p *pull) image(ctx context.Context, ref reference.Named, m remote.Manifest) error {
	parsed, err := parseManifest(m)
	if err != nil {
		return err
	}
	todo := unfinished{Blobs: []digest.Digest{parsed.Config.Digest}, Time: time.Now().UTC()}
	for _, l := range parsed.Layers {
		todo.Blobs = append(todo.Blobs, l.Digest)
	}
	p.blobs.Hold(todo.Blobs...)
	config, err := p.config(ctx, parsed.Config)
	if err != nil {
		return err
	}
	if p.platform != nil && rankFor(p.platform, config.Platform) < 0 {
		return errs.NotFound.Errorf("image with reference %s was found but does not provide the specified platform (%s)\nit is for %s", reference.FamiliarString(ref), formatPlatform(*p.platform), formatPlatform(config.Platform))
	}
	if config.OS != "" && config.OS != "linux" {
		return errs.Invalid.Errorf("image operating system %q cannot be used on this platform", config.OS)
	}
	if len(parsed.Layers) != len(config.RootFS.DiffIDs) {
		return errs.Invalid.Errorf("image %s has %d layers, but its config names %d", parsed.Config.Digest, len(parsed.Layers), len(config.RootFS.DiffIDs))
	}
	var chain digest.Digest
	for _, d := range config.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return errs.Invalid.Errorf("config %s: diff ID %q: %w", parsed.Config.Digest, string(d), err)
		}
		chain = layer.ChainID(chain, d)
		todo.Chains = append(todo.Chains, chain)
	}
	p.layers.Hold(todo.Chains...)
	p.layersMissing = p.missing(parsed, todo.Chains)
	p.known = p.s.view()[parsed.Config.Digest] != nil
	if p.layersMissing {
		p.fresh, p.begun = true, m.Digest
		if err := p.s.begin(m.Digest, todo); err != nil {
			return err
		}
	}
	return p.get(ctx, parsed.Layers, config.RootFS.DiffIDs, todo.Chains)
}

func (p *pull) missing(m ocispec.Manifest, chains []digest.Digest) bool {
	for i, l := range m.Layers {
		if _, err := p.s.content.Stat(l.Digest); err != nil {
			return true
		}
		if _, err := p.s.layers.Get(chains[i]); err != nil {
			return true
		}
	}
	return false
}

func (p *pull) config(ctx context.Context, d ocispec.Descriptor) (c dockerspec.DockerOCIImage, err error) {
	if _, err := p.s.content.Stat(d.Digest); errs.NotFound.Is(err) {
		data, err := p.repo.Blob(ctx, d, maxConfig)
		if err != nil {
			return c, err
		}
		p.fresh = true
		if _, err := p.s.content.Ingest(ctx, p.blobs, strings.NewReader(string(data)), content.Expect{Digest: d.Digest}); err != nil {
			return c, err
		}
	}
	return p.s.readConfig(d.Digest)
}

// atOnce is how many layers of one pull are fetched at a time.
const atOnce = 4

// get fetches the layers, several at a time, and unpacks them side by side while they come.
func (p *pull) get(ctx context.Context, list []ocispec.Descriptor, diffs, chains []digest.Digest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	jobs := make([]*job, len(list))
	var waiting []*job
	if !p.layersMissing && p.known { // Docker lists nothing then
		return nil
	}
	for i, d := range list {
		j := &job{p: p, id: short(d.Digest), desc: d, started: make(chan struct{})}
		jobs[i] = j
		_, berr := p.s.content.Stat(d.Digest)
		_, lerr := p.s.layers.Get(chains[i])
		if berr == nil && lerr == nil {
			p.say(j.id, "Already exists")
			j.done = true
			continue
		}
		p.say(j.id, "Pulling fs layer")
		if berr == nil {
			j.here = true
			continue
		}
		// One blob may be several layers (empty ones are): it is fetched once.
		waiting = append(waiting, j)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, atOnce)
	wg.Go(func() {
		for n, j := range waiting {
			if n >= atOnce {
				p.say(j.id, "Waiting")
			}
		}
		for _, j := range waiting {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			f := p.s.want(p.repo, j.desc)
			j.f = f
			close(j.started)
			wg.Go(func() {
				defer func() { <-slots }()
				defer p.s.leave(f)
				if err := j.watch(ctx); err != nil {
					cancel(err)
				}
			})
		}
	})
	err := sideBySide(ctx, len(jobs), func(ctx context.Context, i int, below func(context.Context) error) error {
		if jobs[i].done {
			return nil
		}
		r := layer.Recipe{Diff: diffs[i], Below: below, Kept: true}
		if i > 0 {
			r.Parent = chains[i-1]
		}
		return jobs[i].unpack(ctx, r)
	})
	if err != nil {
		cancel(err)
		return context.Cause(ctx)
	}
	return nil
}

// job is one layer of a pull.
type job struct {
	p       *pull
	id      string
	desc    ocispec.Descriptor
	done    bool          // nothing to do
	here    bool          // only to be unpacked
	started chan struct{} // closed when f is set
	f       *fetching
}

// tick is how often progress is told.
const tick = 100 * time.Millisecond

// watch tells how the fetch goes, until its end.
func (j *job) watch(ctx context.Context) error {
	t := time.NewTicker(tick)
	defer t.Stop()
	last := int64(-1)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.f.done:
			if j.f.err != nil {
				return j.f.err
			}
			j.p.say(j.id, "Verifying Checksum")
			j.p.say(j.id, "Download complete")
			return nil
		case <-t.C:
			if n := j.f.offset(); n != last {
				last = n
				j.p.report(Progress{ID: j.id, Status: "Downloading", Current: n, Total: j.desc.Size})
			}
		}
	}
}

// unpack makes the layer, reading along where it is still coming.
func (j *job) unpack(ctx context.Context, r layer.Recipe) error {
	s := j.p.s
	if !j.here {
		select {
		case <-j.started:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	size := j.desc.Size
	m := &meter{}
	r.Open = j.source(ctx, m)
	for again := false; ; again = true {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { j.extracting(m, stop) })
		_, err := s.layers.Make(ctx, j.p.layers, r)
		close(stop)
		wg.Wait()
		if err == nil {
			break
		}
		if j.here || again || ctx.Err() != nil {
			return err
		}
		// What went wrong may be the fetch's fault: its reason is the better one. If it came right in the end, what was
		// read along may not have been.
		select {
		case <-j.f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if j.f.err != nil {
			return j.f.err
		}
	}
	if !j.here {
		select {
		case <-j.f.done:
			if j.f.err != nil {
				return j.f.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n, err := s.content.Stat(j.desc.Digest)
	if err != nil {
		return err
	}
	if n != size {
		return errs.Invalid.Errorf("layer %s has %d bytes, not %d as the manifest says", j.desc.Digest, n, size)
	}
	j.p.say(j.id, "Pull complete")
	return nil
}

// extracting tells how far the unpacking is, once everything has come.
func (j *job) extracting(m *meter, stop <-chan struct{}) {
	if !j.here {
		select {
		case <-j.f.done:
		case <-stop:
			return
		}
	}
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		j.p.report(Progress{ID: j.id, Status: "Extracting", Current: min(m.n.Load(), j.desc.Size), Total: j.desc.Size})
		select {
		case <-t.C:
		case <-stop:
			return
		}
	}
}

// commit gives the image its names, and reports whether they lead elsewhere than before.
func (p *pull) commit(ctx context.Context, ref reference.Named, path []remote.Manifest) (newer bool, err error) {
	s := p.s
	target := path[0].Descriptor
	x, err := s.resolveAny(target)
	if err != nil {
		return false, err
	}
	if _, err := s.layers.Get(x.chain); x.chain != "" && errs.NotFound.Is(err) {
		// Another platform's than what was fetched now, kept packed.
		if err := s.unpackAll(ctx, p.layers, x, nil); err != nil {
			return false, err
		}
	}
	if err := s.measure(x); err != nil {
		return false, err
	}
	canonical, err := reference.WithDigest(reference.TrimNamed(ref), target.Digest)
	if err != nil {
		return false, errs.Invalid.Wrap(err)
	}
	s.change.Lock()
	defer s.change.Unlock()
	e := edit{}
	now := time.Now().UTC()
	for _, name := range []string{key(ref), key(canonical)} {
		if old, ok := s.refs[name]; ok && old.Target.Digest == target.Digest {
			continue
		}
		newer = true
		s.displace(e, name, x)
		e[name] = &record{target, now}
	}
	e.release(s, target.Digest)
	if err := s.applyPull(e, path[len(path)-1].Digest, x); err != nil {
		return false, err
	}
	s.event("pull", x, reference.FamiliarString(ref))
	return newer, nil
}

// begin records that a pull is under way, before anything of it lies in the store that nothing else leads to.
func (s *Service) begin(manifest digest.Digest, u unfinished) error {
	s.mu.Lock()
	s.pulls[manifest] = u
	s.mu.Unlock()
	if err := s.state.Update(func(tx state.Tx) error { return tx.Put(pullBucket, manifest.String(), u) }); err != nil {
		return fmt.Errorf("record the pull: %w", err)
	}
	return nil
}

// forget gives up what a pull got.
func (s *Service) forget(ctx context.Context, manifest digest.Digest) error {
	s.change.Lock()
	err := s.applyPull(edit{}, manifest)
	s.change.Unlock()
	if err == nil {
		_, err = s.Collect(context.WithoutCancel(ctx))
	}
	return err
}

// loadPulls reads what was under way when the last engine ended; it forgets what is too old.
func (s *Service) loadPulls(now time.Time) error {
	var old []string
	err := s.state.View(func(tx state.Tx) error {
		return tx.Each(pullBucket, func(key string, decode func(any) error) error {
			var u unfinished
			if err := decode(&u); err != nil {
				return err
			}
			if now.Sub(u.Time) > unfinishedLife {
				old = append(old, key)
			} else {
				s.pulls[digest.Digest(key)] = u
			}
			return nil
		})
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return s.state.Update(func(tx state.Tx) error {
		for _, k := range old {
			if err := tx.Delete(pullBucket, k); err != nil {
				return err
			}
		}
		return nil
	})
}

// explain says what a registry's refusal means for the one who pulls: the first line in Docker's words, the second tells
// the reasons apart.
func (p *pull) explain(ctx context.Context, ref reference.Named, err error) error {
	refused := remote.As(err)
	if refused == nil && !errors.Is(err, remote.ErrNoCredentials) && !errs.Unauthorized.Is(err) {
		return err
	}
	familiar := reference.FamiliarString(ref)
	switch {
	case refused == nil || refused.Status == http.StatusUnauthorized:
		return errs.KindOf(err).Errorf("%w\nthe registry %s wants to know who you are: docker login %[2]s", err, p.repo.Host())
	case refused.Code == remote.CodeDenied || refused.Status == http.StatusForbidden:
		return errs.NotFound.Errorf("pull access denied for %s, repository does not exist or may require 'docker login': %w", reference.FamiliarName(ref), err)
	case refused.Code == remote.CodeNameUnknown:
		return errs.NotFound.Errorf("repository %s not found: %w\nthe registry %s has no repository of that name", reference.FamiliarName(ref), err, p.repo.Host())
	case refused.Code == remote.CodeManifestUnknown:
		return errs.NotFound.Errorf("manifest for %s not found: %w%s", familiar, err, p.tellTags(ctx, ref))
	}
	return err
}

// tellTags is a line that says what there is instead; empty if that can't be known.
func (p *pull) tellTags(ctx context.Context, ref reference.Named) string {
	tagged, ok := ref.(reference.Tagged)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tags, err := p.repo.Tags(ctx)
	switch refused := remote.As(err); {
	case refused != nil && refused.Status == http.StatusNotFound && refused.Code == "":
		return fmt.Sprintf("\nwhat answers at %s is no registry: are that its name and its port?", p.repo.Host())
	case refused != nil && refused.Status == http.StatusNotFound || err == nil && len(tags) == 0:
		return fmt.Sprintf("\nthe registry %s has no repository %s", p.repo.Host(), reference.Path(ref))
	case err != nil:
		return ""
	}
	more := ""
	if slices.Sort(tags); len(tags) > 10 {
		tags, more = tags[:10], ", …"
	}
	return fmt.Sprintf("\nthe repository has no tag %s; it has: %s%s", tagged.Tag(), strings.Join(tags, ", "), more)
}

var errLeft = errors.New("nobody wants it any more")
