package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Collected is what a collection did.
type Collected struct {
	Tags      int           `json:"tags"`
	Manifests int           `json:"manifests"`
	Links     int           `json:"links"`
	Blobs     int           `json:"blobs"`
	Uploads   int           `json:"uploads"`
	Freed     int64         `json:"freed_bytes"`
	Kept      int           `json:"kept_blobs"`
	KeptBytes int64         `json:"kept_bytes"`
	Took      time.Duration `json:"took_ns"`
}

// sweepBatch is how many deletions are made while pushes to a repository wait.
const sweepBatch = 32

// Collect deletes what nothing keeps. Pulls and pushes go on meanwhile. What it can't read, it keeps.
func (s *Server) Collect(ctx context.Context) (Collected, error) {
	s.gcMu.Lock()
	defer s.gcMu.Unlock()
	var out Collected
	start := time.Now()
	s.locks.forget(start.Add(-time.Hour))
	n, err := s.expireUploads(start.Add(-time.Duration(s.conf().GC.Uploads)))
	out.Uploads = n
	if err != nil {
		return out, err
	}
	linked := map[Digest]struct{}{}
	for _, rp := range s.repos.all() {
		if err := s.retain(ctx, rp, start, &out); err != nil {
			return out, fmt.Errorf("retention in %s: %w", rp.name, err)
		}
		if err := s.collectRepository(ctx, rp, start, linked, &out); err != nil {
			// Its links keep their blobs only if they are known: without them nothing may be swept.
			return out, fmt.Errorf("collect %s: %w", rp.name, err)
		}
		rp.forget(start.Add(-max(time.Duration(s.conf().GC.Grace), time.Hour)))
	}
	if err := s.sweepBlobs(ctx, start, linked, &out); err != nil {
		return out, err
	}
	out.Took = time.Since(start)
	s.metrics.collected(out)
	s.log.Info("collected", "tags", out.Tags, "manifests", out.Manifests, "blobs", out.Blobs, "freed", out.Freed, "kept", out.KeptBytes, "took", out.Took)
	return out, nil
}

// retain deletes the tags that retention rules do not keep. The first rule that chooses a tag decides.
func (s *Server) retain(ctx context.Context, rp *repository, now time.Time, out *Collected) error {
	proxied := s.proxy.upstreamOf(rp.name) != nil
	cfg := s.conf() // one for all that follows
	if len(cfg.Retention) == 0 && !proxied {
		return nil
	}
	type tagged struct {
		name string
		time time.Time
	}
	byRule := make([][]tagged, len(cfg.Retention))
	var old []string
	if err := s.tags(ctx, rp.name, func(tag string, info Info) error {
		if proxied {
			if now.Sub(info.Time) > time.Duration(cfg.Proxy.Keep) {
				old = append(old, tag)
			}
			return nil
		}
		if cfg.immutable(rp.name, tag) {
			return nil
		}
		for i, r := range cfg.Retention {
			if r.match(rp.name, tag) {
				byRule[i] = append(byRule[i], tagged{tag, info.Time})
				break
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for i, tags := range byRule {
		rule := cfg.Retention[i]
		slices.SortFunc(tags, func(a, b tagged) int {
			if c := b.time.Compare(a.time); c != 0 {
				return c
			}
			return strings.Compare(b.name, a.name)
		})
		for j, t := range tags {
			if j < rule.KeepLast || rule.KeepYounger > 0 && now.Sub(t.time) < time.Duration(rule.KeepYounger) {
				continue
			}
			old = append(old, t.name)
		}
	}
	for _, tag := range old {
		// Not if it was pushed since it was listed.
		err := s.dropTag(func(_ Digest, info Info) error {
			if info.Time.Before(now) {
				return nil
			}
			return manifestUnknown(rp.name, tag)
		}, rp, tag)
		var known *apiError
		if errors.As(err, &known) {
			continue // gone, or pushed again
		}
		if err != nil {
			return err
		}
		out.Tags++
	}
	return nil
}

// mark returns the manifests and blobs that the repository's roots reach.
func (s *Server) mark(ctx context.Context, rp *repository, roots []Digest) (live map[Digest]struct{}, err error) {
	live = map[Digest]struct{}{}
	todo := slices.Clone(roots)
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if _, seen := live[d]; seen {
			continue
		}
		live[d] = struct{}{}
		// What refers to something living lives: signatures, attestations.
		if err := s.referrers(rp.name, d, func(r Digest) error {
			todo = append(todo, r)
			return nil
		}); err != nil {
			return nil, err
		}
		link, err := s.manifestLink(rp.name, d)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a blob in an index, or a child that a cache never had
		}
		if err != nil {
			return nil, err
		}
		b, _, err := readSmall(s.storage, blobKey(d), maxManifest)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		m, err := parseManifest(link.mediaType, b)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d, err)
		}
		for _, c := range m.blobs {
			live[Digest(c.Digest)] = struct{}{}
		}
		for _, c := range m.children {
			todo = append(todo, Digest(c.Digest))
		}
	}
	return live, nil
}

// collectRepository deletes the links of one repository that nothing keeps, and adds the others to linked.
func (s *Server) collectRepository(ctx context.Context, rp *repository, start time.Time, linked map[Digest]struct{}, out *Collected) error {
	// What is pushed from here on says that it is used before it looks; what was pushed before is on disk now.
	rp.gate.Lock()
	rp.gate.Unlock() //lint:ignore SA2001 waiting for the pushes under way is all of it

	grace := start.Add(-time.Duration(s.conf().GC.Grace))
	untagged := start.Add(-time.Duration(s.conf().GC.Untagged))
	if s.conf().GC.Untagged < 0 {
		untagged = time.Time{}
	}
	if s.proxy.upstreamOf(rp.name) != nil {
		untagged = start.Add(-time.Duration(s.conf().Proxy.Keep))
	}
	var roots []Digest
	if err := s.tags(ctx, rp.name, func(tag string, _ Info) error {
		d, _, err := s.tag(rp.name, tag)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		roots = append(roots, d)
		return err
	}); err != nil {
		return err
	}
	var manifests []Digest
	key := repoKey(rp.name)
	if err := eachDigest(s.storage, key+"/_manifests", func(d Digest, info Info) error {
		link, err := s.manifestLink(rp.name, d)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !link.released && !rp.isReleased(d) && link.time.After(untagged) || rp.usedSince(d, grace) {
			roots = append(roots, d)
		}
		manifests = append(manifests, d)
		return nil
	}); err != nil {
		return err
	}
	live, err := s.mark(ctx, rp, roots)
	if err != nil {
		return err
	}
	var dead []Digest
	for _, d := range manifests {
		if _, ok := live[d]; ok {
			linked[d] = struct{}{}
		} else {
			dead = append(dead, d)
		}
	}
	kept, err := s.sweep(ctx, rp, dead, start, func(d Digest) error {
		out.Manifests++
		return s.unlinkManifest(rp, d)
	})
	if err != nil {
		return err
	}
	// Somebody wants these after all: what they point to stays with them.
	wanted, err := s.mark(ctx, rp, kept)
	if err != nil {
		return err
	}
	for d := range wanted {
		live[d] = struct{}{}
		linked[d] = struct{}{}
	}
	dead = dead[:0]
	if err := eachDigest(s.storage, key+"/_blobs", func(d Digest, info Info) error {
		if _, ok := live[d]; ok || info.Time.After(grace) || rp.usedSince(d, grace) {
			linked[d] = struct{}{}
		} else {
			dead = append(dead, d)
		}
		return nil
	}); err != nil {
		return err
	}
	kept, err = s.sweep(ctx, rp, dead, start, func(d Digest) error {
		out.Links++
		return s.storage.Delete(blobLinkKey(rp.name, d))
	})
	for _, d := range kept {
		linked[d] = struct{}{}
	}
	return err
}

// sweep deletes the dead in batches, each while no push is between its look and its manifest. It returns those that
// somebody wanted since the collection began.
func (s *Server) sweep(ctx context.Context, rp *repository, dead []Digest, start time.Time, del func(Digest) error) (kept []Digest, err error) {
	for batch := range slices.Chunk(dead, sweepBatch) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rp.gate.Lock()
		for _, d := range batch {
			if rp.usedSince(d, start) {
				kept = append(kept, d)
				continue
			}
			if err = del(d); err != nil {
				break
			}
		}
		rp.gate.Unlock()
		if err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// sweepBlobs deletes the bytes that no repository links to.
func (s *Server) sweepBlobs(ctx context.Context, start time.Time, linked map[Digest]struct{}, out *Collected) error {
	for _, algo := range []string{"sha256", "sha512"} {
		var shards []string
		if err := s.storage.List("blobs/"+algo, func(e Entry) error {
			shards = append(shards, e.Name)
			return nil
		}); err != nil {
			return err
		}
		for _, shard := range shards {
			if err := s.storage.List("blobs/"+algo+"/"+shard, func(e Entry) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				d, ok := ParseDigest(algo + ":" + e.Name)
				if !ok || e.Dir {
					return nil
				}
				if _, ok := linked[d]; ok {
					out.Kept++
					out.KeptBytes += e.Size
					return nil
				}
				return s.locks.with(d, func(fresh map[Digest]time.Time) error {
					if at, ok := fresh[d]; ok && !at.Before(start) {
						out.Kept++
						out.KeptBytes += e.Size
						return nil
					}
					if err := s.storage.Delete(blobKey(d)); err != nil {
						return err
					}
					out.Blobs++
					out.Freed += e.Size
					return nil
				})
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// serveCollect lets the one who runs the registry collect now.
func (s *Server) serveCollect(w *response, r *http.Request, who identity) error {
	if !s.authority().mayAdmin(who) {
		return fail(http.StatusForbidden, "DENIED", "only the one who runs this registry may do that")
	}
	out, err := s.Collect(r.Context())
	if err != nil {
		return err
	}
	return writeJSON(w, "application/json", out)
}
