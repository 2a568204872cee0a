package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/remote"
)

// PushOptions say how to push.
type PushOptions struct {
	Platform *ocispec.Platform // only this platform's manifest; nil: all that the name leads to
	All      bool              // all tags of the repository
	Access   remote.Access
}

// Pushed is what a push ends with, for programs.
type Pushed struct {
	Tag    string
	Digest string
	Size   int
}

// Push sends what ref leads to, as it was received: digests stay. Of an index of which not everything is here the
// image for the host is pushed alone, if the registry has not got the rest.
func (s *Service) Push(ctx context.Context, ref string, o PushOptions, report func(Progress)) error {
	if s.remote == nil {
		return errs.NotImplemented.Errorf("this engine pushes no images")
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	if _, ok := named.(reference.Canonical); ok {
		return errs.Invalid.Errorf("cannot push a digest reference")
	}
	if o.All && !reference.IsNameOnly(named) {
		return errs.Invalid.Errorf("tag can't be used with --all-tags/-a")
	}
	repo, err := s.remote.Repository(named, o.Access)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	p := &push{s: s, repo: repo, name: reference.TrimNamed(named), platform: o.Platform, sent: map[digest.Digest]bool{}, report: func(m Progress) {
		mu.Lock()
		defer mu.Unlock()
		if report != nil {
			report(m)
		}
	}}
	p.say("", "The push refers to repository ["+named.Name()+"]")
	tags := s.tagsOf(named, o.All)
	if len(tags) == 0 {
		if o.All {
			return errs.NotFound.Errorf("An image does not exist locally with the tag: %s", reference.FamiliarName(named)) //nolint:staticcheck // Docker's words
		}
		if _, err := s.Get(ctx, ref); err == nil { // the builtin one comes when it is asked for
			tags = s.tagsOf(named, false)
		}
		if len(tags) == 0 {
			if !s.has(named) {
				return errs.NotFound.Errorf("An image does not exist locally with the tag: %s", reference.FamiliarName(named)) //nolint:staticcheck // Docker's words
			}
			return errs.NotFound.Errorf("tag does not exist: %s", reference.FamiliarString(reference.TagNameOnly(named)))
		}
	}
	for _, t := range tags {
		if err := p.one(ctx, t); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return p.explain(err)
		}
	}
	return nil
}

// tagsOf lists the local tags that a reference means, in order.
func (s *Service) tagsOf(named reference.Named, all bool) []reference.NamedTagged {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var tags []reference.NamedTagged
	for k := range s.refs {
		if isHeld(k) {
			continue
		}
		other, err := reference.ParseNormalizedNamed(k)
		t, ok := other.(reference.NamedTagged)
		if err != nil || !ok || other.Name() != named.Name() || !all && k != key(named) {
			continue
		}
		tags = append(tags, t)
	}
	slices.SortFunc(tags, func(a, b reference.NamedTagged) int { return strings.Compare(a.Tag(), b.Tag()) })
	return tags
}

func (s *Service) has(named reference.Named) bool { return len(s.tagsOf(named, true)) > 0 }

// push is one call of Push.
type push struct {
	s        *Service
	repo     *remote.Repository
	name     reference.Named
	platform *ocispec.Platform
	report   func(Progress)

	mu   sync.Mutex
	sent map[digest.Digest]bool // what the registry was seen to have
	told []string               // the layers of this tag that were listed
}

func (p *push) say(id, status string) { p.report(Progress{ID: id, Status: status}) }

// list tells of layers, of each once: they are packed before they are sent.
func (p *push) list(layers []string) {
	for _, id := range layers {
		if !slices.Contains(p.told, id) {
			p.told = append(p.told, id)
			p.say(id, "Preparing")
		}
	}
}

func (p *push) done(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent[d]
}

func (p *push) did(d digest.Digest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent[d] = true
}

// one pushes one tag.
func (p *push) one(ctx context.Context, ref reference.NamedTagged) error {
	l := p.s.content.Lease()
	defer l.Release()
	p.told = nil
	p.s.mu.RLock()
	r, ok := p.s.refs[ref.String()]
	x := p.s.known[r.Target.Digest]
	if x != nil {
		l.Hold(x.blobs...)
	}
	p.s.mu.RUnlock()
	if !ok || x == nil {
		return errs.NotFound.Errorf("tag does not exist: %s", reference.FamiliarString(ref))
	}
	x, err := p.pack(ctx, x)
	if err != nil {
		return err
	}
	l.Hold(x.blobs...)
	target, err := p.choose(ctx, x)
	if err != nil {
		return err
	}
	if target.Digest != x.target.Digest && p.platform == nil {
		p.report(Progress{Aux: auxprogress.ManifestPushedInsteadOfIndex{ManifestPushedInsteadOfIndex: true, OriginalIndex: x.target, SelectedManifest: target}})
	}
	if err := p.tree(ctx, target, ref.Tag(), 0); err != nil {
		return err
	}
	p.say("", fmt.Sprintf("%s: digest: %s size: %d", ref.Tag(), target.Digest, target.Size))
	if target.Digest == x.target.Digest {
		if err := p.remember(x); err != nil {
			return err
		}
	}
	p.report(Progress{Aux: Pushed{ref.Tag(), target.Digest.String(), int(target.Size)}})
	p.s.event("push", x, reference.FamiliarString(ref))
	return nil
}

// remember gives the image the digest's name that it has in the registry now.
func (p *push) remember(x *resolved) error {
	canonical, err := reference.WithDigest(p.name, x.target.Digest)
	if err != nil {
		return errs.Invalid.Wrap(err)
	}
	s := p.s
	s.change.Lock()
	defer s.change.Unlock()
	if _, ok := s.refs[key(canonical)]; ok || s.known[x.target.Digest] == nil { // the image may have been removed meanwhile
		return nil
	}
	return s.apply(edit{key(canonical): &record{x.target, time.Now().UTC()}})
}

// choose says what of the image is pushed: all of it, if all of it is here or there.
func (p *push) choose(ctx context.Context, x *resolved) (ocispec.Descriptor, error) {
	if p.platform != nil {
		return p.pick(x.target, 0)
	}
	whole, err := p.whole(ctx, x.target, 0)
	if err != nil || whole {
		return x.target, err
	}
	return x.manifest, nil
}

// pick finds the manifest for the wanted platform.
func (p *push) pick(d ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	data, err := p.s.content.Read(d.Digest, maxManifest)
	if err != nil {
		return d, err
	}
	missing := func() (ocispec.Descriptor, error) {
		return d, errs.NotFound.Errorf("image with reference %s was found but does not provide the specified platform (%s)", reference.FamiliarName(p.name), formatPlatform(*p.platform))
	}
	if !isIndex(d.MediaType, data) {
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return d, errs.Invalid.Errorf("read manifest %s: %w", d.Digest, err)
		}
		config, err := p.s.readConfig(m.Config.Digest)
		if err == nil && rankFor(p.platform, config.Platform) < 0 {
			return missing()
		}
		return d, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return d, errs.Invalid.Errorf("read index %s: %w", d.Digest, err)
	}
	best, rank := -1, 0
	for i, m := range index.Manifests {
		if m.Platform == nil || m.Annotations["vnd.docker.reference.type"] != "" {
			continue
		}
		if _, err := p.s.content.Stat(m.Digest); err != nil {
			continue
		}
		if r := rankFor(p.platform, *m.Platform); r >= 0 && (best < 0 || r < rank) {
			best, rank = i, r
		}
	}
	if best < 0 || depth >= maxNesting {
		return missing()
	}
	return p.pick(index.Manifests[best], depth+1)
}

// whole reports whether everything below d is here, or there already.
func (p *push) whole(ctx context.Context, d ocispec.Descriptor, depth int) (bool, error) {
	if depth > maxNesting {
		return false, errs.Invalid.Errorf("index %s is nested too deep", d.Digest)
	}
	data, err := p.s.content.Read(d.Digest, maxManifest)
	if errs.NotFound.Is(err) {
		if _, err := p.repo.HasManifest(ctx, d.Digest.String()); err != nil {
			if refused := remote.As(err); refused != nil && refused.Status == http.StatusNotFound {
				return false, nil
			}
			return false, err
		}
		p.did(d.Digest)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if !isIndex(d.MediaType, data) {
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return false, errs.Invalid.Errorf("read manifest %s: %w", d.Digest, err)
		}
		for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if _, err := p.s.content.Stat(b.Digest); err != nil {
				return false, nil
			}
		}
		return true, nil
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return false, errs.Invalid.Errorf("read index %s: %w", d.Digest, err)
	}
	for _, m := range index.Manifests {
		if ok, err := p.whole(ctx, m, depth+1); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// tree pushes a manifest and, before it, what it names. tag is the name of the topmost.
func (p *push) tree(ctx context.Context, d ocispec.Descriptor, tag string, depth int) error {
	if tag == "" && p.done(d.Digest) {
		return nil
	}
	data, err := p.s.content.Read(d.Digest, maxManifest)
	if err != nil {
		return err
	}
	mediaType := d.MediaType
	if isIndex(mediaType, data) {
		var index ocispec.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return errs.Invalid.Errorf("read index %s: %w", d.Digest, err)
		}
		for _, m := range index.Manifests {
			if err := p.tree(ctx, m, "", depth+1); err != nil {
				return err
			}
		}
	} else {
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return errs.Invalid.Errorf("read manifest %s: %w", d.Digest, err)
		}
		if err := p.blobs(ctx, m); err != nil {
			return err
		}
		if mediaType == "" {
			mediaType = m.MediaType
		}
	}
	ref := tag
	if ref == "" {
		ref = d.Digest.String()
	}
	if err := p.repo.PutManifest(ctx, ref, mediaType, data); err != nil {
		return err
	}
	p.did(d.Digest)
	return nil
}

// blobs pushes layers, several at a time, and then the config.
func (p *push) blobs(ctx context.Context, m ocispec.Manifest) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ids := p.layerIDs(m)
	seen := map[digest.Digest]bool{}
	var list []ocispec.Descriptor
	p.list(ids)
	for _, l := range m.Layers {
		if !seen[l.Digest] {
			list = append(list, l)
		} else {
			list = append(list, ocispec.Descriptor{}) // the same once more
		}
		seen[l.Digest] = true
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, l := range list {
		if l.Digest == "" {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			p.say(ids[i], "Waiting")
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := p.blob(ctx, ids[i], l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	for i := range list {
		if list[i].Digest == "" {
			p.say(ids[i], "Layer already exists")
		}
	}
	return p.blob(ctx, "", m.Config)
}

// layerIDs are what Docker calls the layers while it pushes them: by their diff IDs.
func (p *push) layerIDs(m ocispec.Manifest) []string {
	ids := make([]string, len(m.Layers))
	config, err := p.s.readConfig(m.Config.Digest)
	for i, l := range m.Layers {
		ids[i] = short(l.Digest)
		if err == nil && len(config.RootFS.DiffIDs) == len(m.Layers) {
			ids[i] = short(config.RootFS.DiffIDs[i])
		}
	}
	return ids
}

// blob makes sure that the registry has a blob. id is empty for what is not reported: configs.
func (p *push) blob(ctx context.Context, id string, d ocispec.Descriptor) error {
	say := func(status string) {
		if id != "" {
			p.say(id, status)
		}
	}
	if p.done(d.Digest) {
		say("Layer already exists")
		return nil
	}
	has, err := p.repo.HasBlob(ctx, d.Digest)
	if err != nil {
		return err
	}
	if has {
		p.did(d.Digest)
		say("Layer already exists")
		return nil
	}
	last := time.Now()
	sent := func(n int64) {
		if id != "" && (time.Since(last) >= tick || n == d.Size) {
			last = time.Now()
			p.report(Progress{ID: id, Status: "Pushing", Current: n, Total: d.Size})
		}
	}
	size, err := p.s.blobSize(d.Digest)
	if err != nil {
		return err
	}
	if size != d.Size {
		return errs.Invalid.Errorf("blob %s has %d bytes, not %d as the manifest says", d.Digest, size, d.Size)
	}
	from, err := p.repo.Push(ctx, d, p.others(d.Digest), func(offset int64) (io.ReadCloser, error) {
		return p.s.openBlobAt(ctx, d.Digest, offset)
	}, sent)
	if err != nil {
		return err
	}
	p.did(d.Digest)
	if from != "" {
		say("Mounted from " + strings.TrimPrefix(from, "library/"))
	} else {
		say("Pushed")
	}
	return nil
}

// maxMounts is how many repositories are tried to mount a blob from.
const maxMounts = 3

// others names repositories of the same registry that images with the blob are known by here: it probably lies there.
func (p *push) others(d digest.Digest) []string {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	var paths []string
	for k, r := range p.s.refs {
		x := p.s.known[r.Target.Digest]
		if isHeld(k) || x == nil || !slices.Contains(x.blobs, d) {
			continue
		}
		other, err := reference.ParseNormalizedNamed(k)
		if err != nil || reference.Domain(other) != p.repo.Host() || other.Name() == p.name.Name() {
			continue
		}
		// That it was pulled or pushed there is known by its digest's name, which a tag alone does not give.
		if path := reference.Path(other); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths[:min(len(paths), maxMounts)]
}

// explain says what a registry's refusal means for the one who pushes.
func (p *push) explain(err error) error {
	refused := remote.As(err)
	var text string
	switch {
	case errors.Is(err, remote.ErrNoCredentials):
		text = remote.ErrNoCredentials.Error()
	case refused == nil:
		return err
	case refused.Status == http.StatusForbidden || refused.Code == remote.CodeDenied:
		text = "denied: requested access to the resource is denied"
	case refused.Status == http.StatusUnauthorized:
		text = err.Error()
	default:
		return err
	}
	line := fmt.Sprintf("you may not push to %s: log in as someone who may (docker login %s)", p.name.Name(), p.repo.Host())
	return errs.KindOf(err).Wrap(errors.Join(errors.New(text), errors.New(line)))
}
