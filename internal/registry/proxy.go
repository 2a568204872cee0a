package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// proxy makes the registry a cache of others. What it has by digest it serves without asking; a tag it asks for again
// when it was not asked for a while; and with the upstream down it serves what it has, and says so in a Warning.
type proxy struct {
	s   *Server
	ups map[string]*upstream // by the first component of our repositories' names

	mu      sync.Mutex
	fetches map[string]*fetch    // by repository and digest
	asked   map[string]time.Time // when a tag was last held against the upstream's
}

// maxFetches bounds the blobs that are being fetched.
const maxFetches = 64

// nsComponent makes a host a component of a name: only a port's colon stands against it.
func nsComponent(host string) string { return strings.ReplaceAll(host, ":", "_") }

func nsRepo(ns, repo string) string {
	if host := nsComponent(ns); !strings.HasPrefix(repo, host+"/") {
		return host + "/" + repo
	}
	return repo
}

func newProxy(s *Server) (*proxy, error) {
	p := &proxy{s: s, ups: map[string]*upstream{}, fetches: map[string]*fetch{}, asked: map[string]time.Time{}}
	for host, cfg := range s.conf().Proxy.Upstreams {
		u, err := newUpstream(host, cfg, time.Duration(s.conf().Limits.Stall))
		if err != nil {
			return nil, err
		}
		p.ups[nsComponent(host)] = u
	}
	return p, nil
}

// serves reports whether ns is the host of an upstream.
func (p *proxy) serves(ns string) bool { return p.ups[nsComponent(ns)] != nil }

// upstreamOf returns the upstream that a repository is a copy of, or nil.
func (p *proxy) upstreamOf(repo string) *upstream {
	if len(p.ups) == 0 {
		return nil
	}
	host, _, more := strings.Cut(repo, "/")
	if !more {
		return nil
	}
	return p.ups[host]
}

// byDefault says where a repository is read that is neither ours nor named with a host: dockerd asks its mirrors of the
// Hub with plain names.
func (p *proxy) byDefault(r *http.Request, rt route) string {
	if p.s.conf().Proxy.Default == "" || p.upstreamOf(rt.repo) != nil || rt.kind == routeUploads || rt.kind == routeUpload {
		return rt.repo
	}
	if own := p.s.repos.get(rt.repo); own != nil && own.manifests.Load() > 0 {
		return rt.repo
	}
	if rt.kind == routeBlob {
		// The first push to a repository asks for blobs by HEAD, and means ours.
		d, ok := ParseDigest(rt.ref)
		if !ok || r.Method == http.MethodHead {
			return rt.repo
		}
		if _, err := p.s.storage.Stat(blobLinkKey(rt.repo, d)); err == nil {
			return rt.repo
		}
	}
	return nsRepo(p.s.conf().Proxy.Default, rt.repo)
}

// serve brings here what the request is for. done says that it has answered, too.
func (p *proxy) serve(w *response, r *http.Request, rt route, up *upstream) (done bool, err error) {
	switch rt.kind {
	case routeManifest:
		err = p.manifest(w, r, rt, up)
	case routeBlob:
		return p.blob(w, r, rt, up)
	case routeTags:
		return p.pass(w, r, rt, up, "tags/list")
	case routeReferrers:
		if _, ok := ParseDigest(rt.ref); !ok {
			return false, digestInvalid(rt.ref)
		}
		return p.pass(w, r, rt, up, "referrers/"+rt.ref)
	}
	return false, err
}

// stale says that the answer is a copy of unknown age (distribution-spec, "Warnings"), and that err is why.
func (p *proxy) stale(w http.ResponseWriter, up *upstream, err error) {
	p.s.metrics.proxyStale.Add(1)
	why := up.host + " does not answer"
	if noStorage(err) {
		why = "this registry's disk takes nothing new"
	}
	w.Header().Add("Warning", `299 - "`+why+`: this is the copy of an earlier time"`)
}

// noStorage reports whether it is our own disk that an upstream's content did not come to.
func noStorage(err error) bool { return errors.Is(err, ErrFull) || errors.Is(err, ErrReadOnly) }

// badUpstream is what a client is told when the upstream fails, or our disk, and there is no copy.
func (p *proxy) badUpstream(up *upstream, err error) error {
	if noStorage(err) {
		return err
	}
	p.s.metrics.proxyErrors.Add(1)
	p.s.log.Warn("upstream", "host", up.host, "err", err)
	return fail(http.StatusBadGateway, "UNAVAILABLE", "%s does not answer, and there is no copy here", up.host)
}

var acceptManifests = http.Header{"Accept": {typeOCIIndex, typeDockerList, typeOCIManifest, typeDockerImage, typeOCIArtifact}}

// manifest brings a manifest here, if it is not, or if its tag may have moved.
func (p *proxy) manifest(w http.ResponseWriter, r *http.Request, rt route, up *upstream) error {
	ctx, s := r.Context(), p.s
	d, err := s.resolve(rt.repo, rt.ref)
	var known *apiError
	if err != nil && (!errors.As(err, &known) || known.status != http.StatusNotFound) {
		return err
	}
	have := false
	if err == nil {
		if _, err := s.manifestLink(rt.repo, d); err == nil {
			_, err = s.storage.Stat(blobKey(d))
			have = err == nil
		}
	}
	byDigest := strings.ContainsRune(rt.ref, ':')
	key := rt.repo + ":" + rt.ref
	p.mu.Lock()
	fresh := byDigest || time.Since(p.asked[key]) < time.Duration(s.conf().Proxy.Fresh)
	p.mu.Unlock()
	if have && fresh {
		s.metrics.proxyHits.Add(1)
		return nil
	}
	unlock := s.names.lock("fetch " + key) // of many that want it at once, one asks
	defer unlock()
	name := up.name(rt.repo)
	if have {
		// A HEAD is enough to learn that nothing moved; the Hub does not count it.
		resp, err := up.do(ctx, http.MethodHead, name, "manifests/"+rt.ref, acceptManifests)
		if err == nil {
			resp.Body.Close()
			switch {
			case resp.StatusCode == http.StatusOK && resp.Header.Get("Docker-Content-Digest") == string(d):
				p.note(key)
				s.metrics.proxyHits.Add(1)
				if err := p.touch(rt.repo, rt.ref, d); err != nil { // nobody's pull fails for a note
					s.log.Warn("note that a copy is wanted", "repository", rt.repo, "tag", rt.ref, "err", err)
				}
				return nil
			case resp.StatusCode == http.StatusNotFound:
				return manifestUnknown(rt.repo, rt.ref)
			}
		}
	}
	s.metrics.proxyMisses.Add(1)
	err = p.fetchManifest(ctx, rt, up, name)
	if err == nil {
		p.note(key)
		return nil
	}
	if errors.As(err, &known) {
		return err
	}
	if have {
		s.log.Warn("upstream", "host", up.host, "err", err)
		p.stale(w, up, err)
		return nil
	}
	return p.badUpstream(up, err)
}

func (p *proxy) note(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) > 100_000 {
		clear(p.asked)
	}
	p.asked[key] = time.Now()
}

// touch notes once in a while that a tag is still wanted: collection goes by its time.
func (p *proxy) touch(repo, ref string, d Digest) error {
	if strings.ContainsRune(ref, ':') {
		return nil
	}
	_, info, err := p.s.tag(repo, ref)
	if err != nil || time.Since(info.Time) < time.Duration(p.s.conf().Proxy.Keep)/10 {
		return nil
	}
	rp := p.s.repos.obtain(repo)
	rp.gate.RLock()
	defer rp.gate.RUnlock()
	return p.s.putTag(nil, rp, ref, d)
}

func (p *proxy) fetchManifest(ctx context.Context, rt route, up *upstream, name string) error {
	resp, err := up.do(ctx, http.MethodGet, name, "manifests/"+rt.ref, acceptManifests)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return manifestUnknown(rt.repo, rt.ref)
	case http.StatusUnauthorized, http.StatusForbidden:
		// The Hub says this of names that do not exist.
		return &apiError{http.StatusNotFound, "MANIFEST_UNKNOWN", up.host + " does not let us read " + name + ", or it does not exist", nil}
	default:
		return fmt.Errorf("%w: %s", errDown, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return fmt.Errorf("%w: %w", errDown, err)
	}
	if len(b) > maxManifest {
		return fmt.Errorf("%w: a manifest of more than %d bytes", errDown, maxManifest)
	}
	m, err := parseManifest(resp.Header.Get("Content-Type"), b)
	if err != nil {
		return fmt.Errorf("%w: %s", errDown, err)
	}
	algo, tags := "sha256", []string{rt.ref}
	want, byDigest := ParseDigest(rt.ref)
	if byDigest {
		algo, tags = want.Algorithm(), nil
	}
	d := digestOf(algo, b)
	if byDigest && d != want {
		return fmt.Errorf("%w: it gave %s for %s", errDown, d, want)
	}
	return p.s.storeManifest(nil, rt.repo, d, m, b, tags)
}

// pass asks the upstream for a list, and leaves it to the local one if that fails.
func (p *proxy) pass(w *response, r *http.Request, rt route, up *upstream, path string) (bool, error) {
	q := url.Values{}
	for _, k := range []string{"n", "last", "artifactType"} {
		if v := r.URL.Query().Get(k); v != "" {
			q.Set(k, v)
		}
	}
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	name := up.name(rt.repo)
	resp, err := up.do(r.Context(), http.MethodGet, name, path, nil)
	if err != nil {
		p.stale(w, up, err)
		return false, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound && rt.kind == routeReferrers {
		// Without the API there, referrers are in an index at a tag (distribution-spec, "Referrers Tag Schema").
		resp.Body.Close()
		resp, err = up.do(r.Context(), http.MethodGet, name, "manifests/"+strings.Replace(rt.ref, ":", "-", 1), acceptManifests)
		if err != nil || resp.StatusCode != http.StatusOK {
			if err == nil {
				resp.Body.Close()
			}
			return false, nil
		}
		defer resp.Body.Close()
	}
	if resp.StatusCode != http.StatusOK {
		if rt.kind == routeTags && resp.StatusCode == http.StatusNotFound {
			return true, nameUnknown(rt.repo)
		}
		return false, nil
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 2*maxManifest+1))
	if err != nil || len(b) > 2*maxManifest {
		return false, nil
	}
	h := w.Header()
	if rt.kind == routeTags {
		b = bytes.Replace(b, []byte(`"name":"`+name+`"`), []byte(`"name":"`+rt.repo+`"`), 1)
		h.Set("Content-Type", "application/json")
	} else {
		h.Set("Content-Type", typeOCIIndex)
		if f := resp.Header.Get("OCI-Filters-Applied"); f == "artifactType" {
			h.Set("OCI-Filters-Applied", f)
		}
	}
	if next, ok := nextOf(resp.Header.Get("Link")); ok {
		nextPage(w, r.URL.Path, next)
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, err = w.Write(b)
	}
	return true, err
}

// nextOf takes the query out of an upstream's Link header; its path is of no use to our clients.
func nextOf(link string) (url.Values, bool) {
	target, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok || !strings.Contains(rest, "next") {
		return nil, false
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, false
	}
	return u.Query(), true
}

// fetch is a blob on its way here. It goes on when the client that wanted it has gone: the next one will.
type fetch struct {
	mu     sync.Mutex
	more   chan struct{} // closed, and replaced, when something changed
	stage  Stage
	size   int64 // -1 for unknown
	have   int64
	done   bool
	err    error
	status int
}

func (f *fetch) change(set func()) {
	f.mu.Lock()
	set()
	close(f.more)
	f.more = make(chan struct{})
	f.mu.Unlock()
}

// blob brings a blob here, and sends it on while it comes.
func (p *proxy) blob(w *response, r *http.Request, rt route, up *upstream) (bool, error) {
	d, ok := ParseDigest(rt.ref)
	if !ok {
		return false, digestInvalid(rt.ref)
	}
	if _, err := p.s.hasBlob(rt.repo, d); err == nil {
		p.s.metrics.proxyHits.Add(1)
		return false, nil
	}
	name := up.name(rt.repo)
	if r.Method == http.MethodHead {
		resp, err := up.do(r.Context(), http.MethodHead, name, "blobs/"+string(d), nil)
		if err != nil {
			return true, p.badUpstream(up, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return true, blobUnknown(d)
		}
		blobHeaders(w, d)
		if resp.ContentLength >= 0 {
			w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
		}
		w.WriteHeader(http.StatusOK)
		return true, nil
	}
	p.s.metrics.proxyMisses.Add(1)
	f, err := p.fetchOf(rt.repo, name, d, up)
	if err != nil {
		return true, err
	}
	if r.Header.Get("Range") != "" {
		// From the copy, when it is whole: parts of what is not verified yet would be the client's to verify.
		if err := f.wait(r.Context(), func() bool { return f.done }); err != nil {
			return true, err
		}
		return false, p.failed(f, d, up)
	}
	return p.follow(w, r, f, d, up)
}

func blobHeaders(w http.ResponseWriter, d Digest) {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Etag", `"`+string(d)+`"`)
}

// wait returns when ok holds, which is asked for with the lock held.
func (f *fetch) wait(ctx context.Context, ok func() bool) error {
	for {
		f.mu.Lock()
		good, more := ok(), f.more
		f.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *proxy) failed(f *fetch, d Digest, up *upstream) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err == nil:
		return nil
	case f.status == http.StatusNotFound || f.status == http.StatusUnauthorized || f.status == http.StatusForbidden:
		return blobUnknown(d)
	}
	return p.badUpstream(up, f.err)
}

// follow sends a blob while it arrives. If it turns out not to be the blob, the connection breaks before its end.
func (p *proxy) follow(w *response, r *http.Request, f *fetch, d Digest, up *upstream) (bool, error) {
	ctx := r.Context()
	if err := f.wait(ctx, func() bool { return f.done || f.have > 0 }); err != nil {
		return true, err
	}
	if err := p.failed(f, d, up); err != nil {
		return true, err
	}
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	var at int64
	for {
		var n int
		var err error
		f.mu.Lock()
		done := f.done
		if !done {
			// The last byte is not sent before the whole is verified.
			avail := f.have - at
			if f.size < 0 || f.have >= f.size {
				avail--
			}
			if avail > 0 {
				n, err = f.stage.ReadAt((*bp)[:min(avail, int64(len(*bp)))], at)
			}
		}
		ferr, size, more := f.err, f.size, f.more
		f.mu.Unlock()
		if w.status == 0 && (!done || at > 0) && n > 0 {
			blobHeaders(w, d)
			if size >= 0 {
				w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			}
			w.WriteHeader(http.StatusOK)
		}
		switch {
		case n > 0:
			if _, err := w.Write((*bp)[:n]); err != nil {
				return true, err
			}
			at += int64(n)
			continue
		case err != nil:
			return true, err
		case done && ferr != nil:
			if w.status == 0 {
				return true, p.failed(f, d, up)
			}
			return true, ferr
		case done && at == 0:
			return false, nil // all of it is here
		case done:
			blob, info, err := p.s.storage.Open(blobKey(d))
			if err != nil {
				return true, err
			}
			defer blob.Close()
			if _, err := blob.Seek(at, io.SeekStart); err != nil {
				return true, err
			}
			_, err = w.ReadFrom(&io.LimitedReader{R: blob, N: info.Size - at})
			return true, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return true, ctx.Err()
		}
	}
}

// fetchOf returns the fetch of a blob, which it begins if there is none.
func (p *proxy) fetchOf(repo, name string, d Digest, up *upstream) (*fetch, error) {
	key := repo + "@" + string(d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.fetches[key]; f != nil {
		return f, nil
	}
	if len(p.fetches) >= maxFetches {
		return nil, fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many blobs are being fetched from upstream")
	}
	f := &fetch{more: make(chan struct{}), size: -1}
	p.fetches[key] = f
	p.s.background.Go(func() {
		err := p.fetchBlob(p.s.ctx, f, repo, name, d, up)
		p.mu.Lock()
		delete(p.fetches, key)
		p.mu.Unlock()
		f.change(func() { f.done, f.err = true, err })
	})
	return f, nil
}

// fetchPrefix begins the name of a fetch's stage.
const fetchPrefix = "fetch."

// forgetFetches discards what the fetches of an earlier process left: nobody goes on with it. What can't be discarded now, expires.
func (s *Server) forgetFetches() error {
	return s.storage.Stages(func(e Entry) error {
		if !strings.HasPrefix(e.Name, fetchPrefix) {
			return nil
		}
		if stage, err := s.storage.Stage(e.Name, false); err == nil {
			_ = stage.Discard()
		}
		return nil
	})
}

// maxResumes is how often a fetch goes on after its connection broke, without a byte more.
const maxResumes = 3

func (p *proxy) fetchBlob(ctx context.Context, f *fetch, repo, name string, d Digest, up *upstream) (err error) {
	stage, err := p.s.storage.Stage(fetchPrefix+newUploadID(), true)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.stage = stage
	f.mu.Unlock()
	h := newHash(d.Algorithm())
	for failures := 0; ; {
		before := stage.Size()
		whole, err := p.fetchPart(ctx, f, h, name, d, up)
		if err == nil && whole {
			break
		}
		if stage.Size() > before {
			failures = 0
		}
		failures++
		f.mu.Lock()
		final := f.status == http.StatusNotFound || f.status == http.StatusUnauthorized || f.status == http.StatusForbidden
		f.mu.Unlock()
		if ctx.Err() != nil || final || failures > maxResumes || errors.Is(err, ErrFull) {
			f.mu.Lock()
			defer f.mu.Unlock()
			_ = stage.Discard()
			return err
		}
	}
	if got := sumDigest(d.Algorithm(), h); got != d {
		f.mu.Lock()
		defer f.mu.Unlock()
		_ = stage.Discard()
		return fmt.Errorf("%s gave %s for %s", up.host, got, d)
	}
	err = stage.Sync()
	committed := false
	// With the fetch locked, for those who follow read from the stage.
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		err = p.s.link(p.s.repos.obtain(repo), d, func() error {
			err := stage.Commit(blobKey(d))
			committed = err == nil
			return err
		})
	}
	if !committed {
		_ = stage.Discard()
	}
	f.done, f.err = true, err
	return err
}

// fetchPart goes on where the stage ends.
func (p *proxy) fetchPart(ctx context.Context, f *fetch, h io.Writer, name string, d Digest, up *upstream) (whole bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	at := f.stage.Size()
	var header http.Header
	if at > 0 {
		header = http.Header{"Range": {"bytes=" + strconv.FormatInt(at, 10) + "-"}}
	}
	resp, err := up.do(ctx, http.MethodGet, name, "blobs/"+string(d), header)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	f.mu.Lock()
	f.status = resp.StatusCode
	f.mu.Unlock()
	skip := int64(0)
	switch resp.StatusCode {
	case http.StatusOK:
		skip = at // it does not do ranges
		if at == 0 {
			f.change(func() { f.size = resp.ContentLength })
		}
	case http.StatusPartialContent:
		if at == 0 || !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(at, 10)+"-") {
			return false, errors.New("a part that was not asked for")
		}
	default:
		return false, fmt.Errorf("blob %s: %s", d, resp.Status)
	}
	// An upstream that sends nothing for a while is given up.
	stall := time.Duration(p.s.conf().Limits.Stall)
	if stall <= 0 {
		stall = time.Hour
	}
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	for {
		n, rerr := resp.Body.Read(*bp)
		watch.Reset(stall)
		b := (*bp)[:n]
		if skip > 0 {
			cut := min(skip, int64(n))
			skip -= cut
			b = b[cut:]
		}
		if limit := int64(p.s.conf().Limits.Blob); limit > 0 && f.stage.Size()+int64(len(b)) > limit {
			f.change(func() { f.status = http.StatusForbidden })
			return false, fmt.Errorf("blob %s has more than %d bytes", d, limit)
		}
		if len(b) > 0 {
			h.Write(b)
			if _, err := f.stage.Write(b); err != nil {
				return false, err
			}
			f.change(func() { f.have = f.stage.Size() })
		}
		if rerr == io.EOF {
			f.mu.Lock()
			size := f.size
			f.mu.Unlock()
			if size >= 0 && f.stage.Size() != size {
				return false, io.ErrUnexpectedEOF
			}
			return true, nil
		}
		if rerr != nil {
			return false, rerr
		}
	}
}
