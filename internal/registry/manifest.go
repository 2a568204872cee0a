package registry

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// resolve finds the digest that a reference of the repository means.
func (s *Server) resolve(repo, ref string) (Digest, error) {
	if strings.ContainsRune(ref, ':') {
		d, ok := ParseDigest(ref)
		if !ok {
			return "", digestInvalid(ref)
		}
		return d, nil
	}
	if !validTag(ref) {
		return "", fail(http.StatusBadRequest, "MANIFEST_INVALID", "invalid tag %.200q", ref)
	}
	d, _, err := s.tag(repo, ref)
	if errors.Is(err, fs.ErrNotExist) {
		return "", manifestUnknown(repo, ref)
	}
	return d, err
}

// getManifest answers end-3.
func (s *Server) getManifest(w *response, r *http.Request, rt route) error {
	d, err := s.resolve(rt.repo, rt.ref)
	if err != nil {
		return err
	}
	link, err := s.manifestLink(rt.repo, d)
	if errors.Is(err, fs.ErrNotExist) {
		return manifestUnknown(rt.repo, rt.ref)
	}
	if err != nil {
		return err
	}
	if repo := s.repos.get(rt.repo); repo != nil {
		repo.use(time.Now(), d)
	}
	f, info, err := s.storage.Open(blobKey(d))
	if errors.Is(err, fs.ErrNotExist) {
		return manifestUnknown(rt.repo, rt.ref)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", link.mediaType)
	h.Set("Docker-Content-Digest", string(d))
	etag := `"` + string(d) + `"`
	h.Set("Etag", etag)
	if matches(r.Header.Values("If-None-Match"), etag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Length", strconv.FormatInt(info.Size, 10))
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err = w.ReadFrom(&io.LimitedReader{R: f, N: info.Size})
	return err
}

// matches reports whether a list of entity tags has etag (RFC 9110, 13.1). Weak and strong are the same here: content
// of one digest has but one form.
func matches(headers []string, etag string) bool {
	for _, h := range headers {
		for one := range strings.SplitSeq(h, ",") {
			one = strings.TrimPrefix(strings.TrimSpace(one), "W/")
			// Some clients leave the quotes out.
			if one == "*" || one == etag || one == strings.Trim(etag, `"`) {
				return true
			}
		}
	}
	return false
}

// putManifest answers end-7a and end-7b.
func (s *Server) putManifest(w *response, r *http.Request, rt route) error {
	var want Digest
	var tags []string
	if strings.ContainsRune(rt.ref, ':') {
		var ok bool
		if want, ok = ParseDigest(rt.ref); !ok {
			return digestInvalid(rt.ref)
		}
		if tags = r.URL.Query()["tag"]; len(tags) > maxTagParams {
			return fail(http.StatusRequestURITooLong, "MANIFEST_INVALID", "at most %d tags in one request", maxTagParams)
		}
	} else {
		tags = []string{rt.ref}
	}
	for _, t := range tags {
		if !validTag(t) {
			return fail(http.StatusBadRequest, "MANIFEST_INVALID", "invalid tag %.200q", t)
		}
	}
	if r.ContentLength > maxManifest {
		return manifestTooLarge()
	}
	b, done, err := s.readManifest(w, r)
	if err != nil {
		return err
	}
	defer done()
	s.metrics.received.Add(int64(len(b)))
	m, err := parseManifest(r.Header.Get("Content-Type"), b)
	if err != nil {
		return err
	}
	algo := "sha256"
	if want != "" {
		algo = want.Algorithm()
	}
	d := digestOf(algo, b)
	if want != "" && d != want {
		return &apiError{http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content",
			map[string]string{"digest": string(want), "content": string(d)}}
	}
	if err := s.storeManifest(r, rt.repo, d, m, b, tags); err != nil {
		return err
	}
	s.log.Info("push", "repository", rt.repo, "digest", string(d), "tags", tags)
	h := w.Header()
	h.Set("Location", "/v2/"+rt.repo+"/manifests/"+string(d))
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
	if m.subject != nil {
		h.Set("OCI-Subject", m.subject.Digest)
	}
	if want != "" {
		for _, t := range tags {
			h.Add("OCI-Tag", t)
		}
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// readManifest reads a manifest from a request. Few may be large at a time: done says that this one's memory is free.
func (s *Server) readManifest(w *response, r *http.Request) (b []byte, done func(), err error) {
	const small = 64 << 10
	src := s.body(w, r)
	done = func() {}
	if b, err = io.ReadAll(io.LimitReader(src, small)); err == nil && len(b) == small {
		select {
		case s.large <- struct{}{}:
			done = func() { <-s.large }
		case <-r.Context().Done():
			return nil, nil, r.Context().Err()
		}
		var rest []byte
		rest, err = io.ReadAll(io.LimitReader(src, maxManifest+1-small))
		b = append(b, rest...)
	}
	if err != nil {
		err = manifestInvalid("the manifest did not arrive whole")
	} else if len(b) > maxManifest {
		err = manifestTooLarge()
	}
	if err != nil {
		done()
		return nil, nil, err
	}
	return b, done, nil
}

// maxTagParams bounds the tags of one push by digest; the spec wants ten at least.
const maxTagParams = 100

func manifestTooLarge() *apiError {
	return fail(http.StatusRequestEntityTooLarge, "MANIFEST_INVALID", "a manifest has at most %d bytes", maxManifest)
}

// storeManifest writes a checked manifest: bytes, link, referrers, tags, in this order. r has the conditions, and may
// be nil.
func (s *Server) storeManifest(r *http.Request, repo string, d Digest, m *manifest, b []byte, tags []string) error {
	rp := s.repos.obtain(repo)
	rp.gate.RLock()
	defer rp.gate.RUnlock()

	// Say that all of this is in use before looking whether it is there: collection asks in the reverse order.
	used := []Digest{d}
	for _, list := range [][]descriptor{m.blobs, m.children} {
		for _, c := range list {
			used = append(used, Digest(c.Digest))
		}
	}
	rp.use(time.Now(), used...)
	if r != nil && !s.conf().Sparse {
		if err := s.checkChildren(repo, m); err != nil {
			return err
		}
	}
	for _, t := range tags {
		unlock := s.names.lock(repo + ":" + t)
		err := s.mayMove(r, repo, t, d)
		unlock()
		if err != nil {
			return err
		}
	}
	err := s.locks.with(d, func(linked map[Digest]time.Time) error {
		linked[d] = time.Now()
		if info, err := s.storage.Stat(blobKey(d)); err == nil && info.Size == int64(len(b)) {
			return nil
		}
		return s.storage.Put(blobKey(d), b)
	})
	if err != nil {
		return err
	}
	if err := s.linkManifest(rp, d, m, int64(len(b))); err != nil {
		return err
	}
	for _, t := range tags {
		if err := s.putTag(r, rp, t, d); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) linkManifest(rp *repository, d Digest, m *manifest, size int64) error {
	unlock := s.names.lock(rp.name + "@" + string(d)) // so that two pushes of it count one
	defer unlock()
	_, err := s.storage.Stat(manifestKey(rp.name, d))
	fresh := errors.Is(err, fs.ErrNotExist)
	// Written again also when there: its time starts anew, and it is released no longer.
	if err := s.putManifestLink(rp.name, d, manifestLink{mediaType: m.mediaType}); err != nil {
		return err
	}
	rp.release(d, false)
	if fresh {
		rp.manifests.Add(1)
	}
	if m.subject == nil {
		return nil
	}
	entry := descriptor{MediaType: m.mediaType, Digest: string(d), Size: size, ArtifactType: m.artifactType, Annotations: m.annotations}
	return s.putReferrer(rp.name, Digest(m.subject.Digest), d, entry)
}

// checkChildren holds that everything that the manifest points to is in the repository, and as large as it says.
func (s *Server) checkChildren(repo string, m *manifest) error {
	for _, c := range m.blobs {
		info, err := s.hasBlob(repo, Digest(c.Digest))
		if errors.Is(err, fs.ErrNotExist) {
			if c.foreign() {
				continue
			}
			return childUnknown(c)
		}
		if err != nil {
			return err
		}
		if info.Size != c.Size {
			return manifestInvalid("the manifest says that %s has %d bytes, but it has %d", c.Digest, c.Size, info.Size)
		}
	}
	for _, c := range m.children {
		_, err := s.storage.Stat(manifestKey(repo, Digest(c.Digest)))
		if errors.Is(err, fs.ErrNotExist) {
			_, err = s.hasBlob(repo, Digest(c.Digest)) // an index may list anything
		}
		if errors.Is(err, fs.ErrNotExist) {
			return childUnknown(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func childUnknown(c descriptor) *apiError {
	return &apiError{http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry", map[string]string{"digest": c.Digest}}
}

// mayMove says whether a push may set the tag: it is not immutable, and the client's conditions hold.
func (s *Server) mayMove(r *http.Request, repo, tag string, to Digest) error {
	old, _, err := s.tag(repo, tag)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	exists := err == nil
	if exists && old != to && s.conf().immutable(repo, tag) {
		return fail(http.StatusForbidden, "DENIED", "tag %s is immutable: it stays at %s", tag, old)
	}
	if r == nil {
		return nil
	}
	etag := `"` + string(old) + `"`
	if im := r.Header.Values("If-Match"); len(im) > 0 && (!exists || !matches(im, etag)) {
		return fail(http.StatusPreconditionFailed, "DENIED", "tag %s is not at the digest of If-Match", tag)
	}
	if inm := r.Header.Values("If-None-Match"); len(inm) > 0 && exists && matches(inm, etag) {
		return fail(http.StatusPreconditionFailed, "DENIED", "tag %s exists", tag)
	}
	return nil
}

// putTag points a tag to d. The caller holds the gate.
func (s *Server) putTag(r *http.Request, rp *repository, tag string, d Digest) error {
	unlock := s.names.lock(rp.name + ":" + tag)
	defer unlock()
	if err := s.mayMove(r, rp.name, tag, d); err != nil {
		return err
	}
	old, _, err := s.tag(rp.name, tag)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && old != d {
		// Who runs the old one by its digest keeps it for a while: the time without a tag starts now. First, so that a push that
		// fails for want of room has not moved the tag.
		if link, err := s.manifestLink(rp.name, old); err == nil {
			if err := s.putManifestLink(rp.name, old, manifestLink{mediaType: link.mediaType}); err != nil {
				return err
			}
			rp.release(old, false)
		}
	}
	return s.storage.Put(tagKey(rp.name, tag), []byte(string(d)+"\n"))
}

// deleteManifest answers end-9: of a tag, the tag; of a digest, the manifest and every tag on it.
func (s *Server) deleteManifest(w *response, r *http.Request, rt route) error {
	d, err := s.resolve(rt.repo, rt.ref)
	if err != nil {
		return err
	}
	rp := s.repos.obtain(rt.repo)
	if strings.ContainsRune(rt.ref, ':') {
		err = s.dropManifest(r, rp, d)
	} else {
		if s.conf().immutable(rt.repo, rt.ref) {
			return fail(http.StatusForbidden, "DENIED", "tag %s is immutable: it can't be deleted", rt.ref)
		}
		err = s.dropTag(ifMatch(r, rt.ref), rp, rt.ref)
	}
	if err != nil {
		return err
	}
	s.log.Info("delete", "repository", rt.repo, "reference", rt.ref, "digest", string(d))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// dropIf is a condition on a tag that is to be deleted.
type dropIf func(to Digest, info Info) error

// ifMatch is the condition that a request makes.
func ifMatch(r *http.Request, tag string) dropIf {
	return func(to Digest, _ Info) error {
		if im := r.Header.Values("If-Match"); len(im) > 0 && !matches(im, `"`+string(to)+`"`) {
			return fail(http.StatusPreconditionFailed, "DENIED", "tag %s is not at the digest of If-Match", tag)
		}
		return nil
	}
}

// dropTag deletes a tag. A manifest that has no other is released: collection need not wait.
func (s *Server) dropTag(cond dropIf, rp *repository, tag string) error {
	unlock := s.names.lock(rp.name + ":" + tag)
	d, info, err := s.tag(rp.name, tag)
	if err == nil {
		err = cond(d, info)
	}
	if err == nil {
		err = s.storage.Delete(tagKey(rp.name, tag))
	}
	unlock()
	if errors.Is(err, fs.ErrNotExist) {
		return manifestUnknown(rp.name, tag)
	}
	if err != nil {
		return err
	}
	return s.release(rp, d)
}

// release notes that nothing keeps d but what collection finds.
func (s *Server) release(rp *repository, d Digest) error {
	rp.gate.RLock()
	defer rp.gate.RUnlock()
	unlock := s.names.lock(rp.name + "@" + string(d))
	defer unlock()
	link, err := s.manifestLink(rp.name, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || link.released {
		return err
	}
	link.released = true
	rp.mu.Lock()
	delete(rp.used, d)
	rp.mu.Unlock()
	err = s.putManifestLink(rp.name, d, link)
	if errors.Is(err, ErrFull) {
		// The tag is gone, and that is how room is made. What can't be written down is remembered until the next start; after
		// that the manifest stays as long as any other without a tag.
		rp.release(d, true)
		return nil
	}
	return err
}

// dropManifest deletes a manifest and its tags, tags first: killed in between, no tag points to nothing.
func (s *Server) dropManifest(r *http.Request, rp *repository, d Digest) error {
	if _, err := s.storage.Stat(manifestKey(rp.name, d)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return manifestUnknown(rp.name, string(d))
		}
		return err
	}
	rp.gate.Lock() // a tag that is being pushed to it must not come out of this without its manifest
	defer rp.gate.Unlock()
	var on []string
	err := s.tags(r.Context(), rp.name, func(tag string, _ Info) error {
		if to, _, err := s.tag(rp.name, tag); err == nil && to == d {
			on = append(on, tag)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, tag := range on {
		if s.conf().immutable(rp.name, tag) {
			return fail(http.StatusForbidden, "DENIED", "tag %s is immutable: its manifest can't be deleted", tag)
		}
	}
	for _, tag := range on {
		if err := s.storage.Delete(tagKey(rp.name, tag)); err != nil {
			return err
		}
	}
	return s.unlinkManifest(rp, d)
}

// unlinkManifest takes a manifest out of the repository. The caller holds the gate alone.
func (s *Server) unlinkManifest(rp *repository, d Digest) error {
	link, err := s.manifestLink(rp.name, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if b, _, err := readSmall(s.storage, blobKey(d), maxManifest); err == nil {
		if m, err := parseManifest(link.mediaType, b); err == nil && m.subject != nil {
			if err := s.storage.Delete(referrerKey(rp.name, Digest(m.subject.Digest), d)); err != nil {
				return err
			}
		}
	}
	if err := s.storage.Delete(manifestKey(rp.name, d)); err != nil {
		return err
	}
	rp.release(d, false)
	rp.manifests.Add(-1)
	return nil
}
