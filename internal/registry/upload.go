package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// uploads are the open uploads. An upload is a Stage whose id ends in the hash of the repository's name, so that it is
// found again after a restart, in its own repository only. In memory there is but the running hash, and who is at it.
type uploads struct {
	mu   sync.Mutex // guards the map alone
	open map[string]*upload
}

// maxUploads bounds the memory that open uploads cost.
const maxUploads = 100_000

type upload struct {
	// turn has one token: the request that holds it may touch the rest.
	turn chan struct{}

	mu      sync.Mutex
	stop    func() // ends the request that is at it
	waiting int

	stage Stage
	algo  string
	hash  hash.Hash
	// hashed is how many bytes went into hash; less than the stage's size after a restart.
	hashed int64
	ended  bool
	last   time.Time
}

func stageID(repo, id string) string {
	sum := sha256.Sum256([]byte(repo))
	return id + "." + hex.EncodeToString(sum[:8])
}

// newUploadID makes a UUID (version 4), as end-4a wants.
func newUploadID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func validUploadID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') && c != '-' {
			return false
		}
	}
	return true
}

func uploadUnknown() *apiError {
	return fail(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
}

func uploadInvalid(format string, args ...any) *apiError {
	return fail(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", format, args...)
}

// take waits for the upload and holds it. A request that is still at it is ended first: it is the one whose
// connection broke without our knowing, and this is the client that comes back to go on.
func (s *Server) take(ctx context.Context, repo, id string, stop func()) (u *upload, release func(), err error) {
	if !validUploadID(id) {
		return nil, nil, uploadUnknown()
	}
	sid := stageID(repo, id)
	s.uploads.mu.Lock()
	u = s.uploads.open[sid]
	if u == nil {
		u = &upload{turn: make(chan struct{}, 1)}
		u.turn <- struct{}{}
		s.uploads.open[sid] = u
	}
	s.uploads.mu.Unlock()
	drop := func() {
		s.uploads.mu.Lock()
		if s.uploads.open[sid] == u {
			delete(s.uploads.open, sid)
		}
		s.uploads.mu.Unlock()
	}
	u.mu.Lock()
	if u.stop != nil {
		u.stop()
	}
	u.waiting++
	busy := u.waiting > 8
	u.mu.Unlock()
	done := func() {
		u.mu.Lock()
		u.waiting--
		u.mu.Unlock()
	}
	if busy {
		done()
		return nil, nil, fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many requests for one upload")
	}
	select {
	case <-ctx.Done():
		done()
		return nil, nil, ctx.Err()
	case <-u.turn:
	}
	done()
	if u.ended {
		u.turn <- struct{}{}
		return nil, nil, uploadUnknown()
	}
	// Open only while somebody is at it: an abandoned upload holds no descriptor.
	if u.stage, err = s.storage.Stage(sid, false); err != nil {
		u.ended = true
		drop()
		u.turn <- struct{}{}
		if errors.Is(err, fs.ErrNotExist) {
			err = uploadUnknown()
		}
		return nil, nil, err
	}
	u.mu.Lock()
	u.stop = stop
	u.mu.Unlock()
	return u, func() {
		u.mu.Lock()
		u.stop = nil
		u.mu.Unlock()
		u.last = time.Now()
		if u.ended {
			drop()
		} else {
			_ = u.stage.Close() // nothing is lost by it: what must last was synced
		}
		u.turn <- struct{}{}
	}, nil
}

// begin opens a new upload of the repository.
func (s *Server) begin(repo, algo string) (string, error) {
	if newHash(algo) == nil {
		return "", fail(http.StatusBadRequest, "DIGEST_INVALID", "unsupported digest algorithm %.100q: want sha256 or sha512", algo)
	}
	id := newUploadID()
	sid := stageID(repo, id)
	stage, err := s.storage.Stage(sid, true)
	if err != nil {
		return "", err
	}
	_ = stage.Close()
	u := &upload{turn: make(chan struct{}, 1), algo: algo, hash: newHash(algo), last: time.Now()}
	u.turn <- struct{}{}
	s.uploads.mu.Lock()
	defer s.uploads.mu.Unlock()
	if len(s.uploads.open) >= maxUploads {
		if stage, err := s.storage.Stage(sid, false); err == nil {
			_ = stage.Discard()
		}
		return "", fail(http.StatusTooManyRequests, "TOOMANYREQUESTS", "too many open uploads")
	}
	s.uploads.open[sid] = u
	return id, nil
}

// beginUpload answers end-4a, 4b, 4c and end-11.
func (s *Server) beginUpload(w *response, r *http.Request, rt route, who identity) error {
	q := r.URL.Query()
	if q.Has("mount") {
		d, ok := ParseDigest(q.Get("mount"))
		if !ok {
			return digestInvalid(q.Get("mount"))
		}
		from := q.Get("from")
		if a := s.authority(); who.token != nil && !who.token.allows(from, actionPull) && validName(from) && a.may(who, from, actionPull) {
			return a.challenge(w, r, scopeOf(r, rt), "the token is not for this")
		}
		mounted, err := s.mount(rt.repo, from, d, who)
		if err != nil {
			return err
		}
		if mounted {
			return blobCreated(w, rt.repo, d)
		}
	}
	algo := q.Get("digest-algorithm")
	if algo == "" {
		algo = "sha256"
	}
	var whole Digest
	if q.Has("digest") && !q.Has("mount") {
		var ok bool
		if whole, ok = ParseDigest(q.Get("digest")); !ok {
			return digestInvalid(q.Get("digest"))
		}
		algo = whole.Algorithm()
	}
	id, err := s.begin(rt.repo, algo)
	if err != nil {
		return err
	}
	if whole == "" {
		return uploadState(w, rt.repo, id, 0, http.StatusAccepted)
	}
	u, release, err := s.take(r.Context(), rt.repo, id, nil)
	if err != nil {
		return err
	}
	defer release()
	err = s.receive(w, r, u)
	if err == nil {
		err = s.finish(rt.repo, u, whole)
	}
	if err != nil {
		u.discard()
		return err
	}
	return blobCreated(w, rt.repo, whole)
}

// mount makes a blob of another repository one of ours. Without from, any repository that the client may read will do.
func (s *Server) mount(repo, from string, d Digest, who identity) (bool, error) {
	has := func(name string) bool {
		if !s.authority().may(who, name, actionPull) {
			return false // as if it were not there: its existence is not for everyone to know
		}
		if who.token != nil && !who.token.allows(name, actionPull) {
			return false // whoever holds it was not given all that its user may read
		}
		_, err := s.storage.Stat(blobLinkKey(name, d))
		return err == nil
	}
	found := false
	if from != "" {
		if !validName(from) {
			return false, nameInvalid(from)
		}
		found = has(from)
	} else if _, err := s.storage.Stat(blobKey(d)); err == nil {
		for _, r := range s.repos.all() {
			if found = has(r.name); found {
				break
			}
		}
	}
	if !found {
		return false, nil
	}
	err := s.link(s.repos.obtain(repo), d, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // collected since
	}
	return err == nil, err
}

func blobCreated(w http.ResponseWriter, repo string, d Digest) error {
	h := w.Header()
	h.Set("Location", "/v2/"+repo+"/blobs/"+string(d))
	h.Set("Docker-Content-Digest", string(d))
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// uploadState says how far an upload is. Locations have no host: they hold behind any proxy and under any name.
func uploadState(w http.ResponseWriter, repo, id string, size int64, status int) error {
	h := w.Header()
	h.Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	// With nothing there it is 0-0, as with one byte: the grammar has no empty range, and this is what clients know.
	h.Set("Range", "0-"+strconv.FormatInt(max(size-1, 0), 10))
	h.Set("Docker-Upload-Uuid", id)
	if status != http.StatusNoContent {
		h.Set("Content-Length", "0")
	}
	w.WriteHeader(status)
	return nil
}

// uploadStatus answers end-13. It ends no request that is under way: who only asks does not take over.
func (s *Server) uploadStatus(w *response, rt route) error {
	if !validUploadID(rt.ref) {
		return uploadUnknown()
	}
	sid := stageID(rt.repo, rt.ref)
	stage, err := s.storage.Stage(sid, false)
	if errors.Is(err, fs.ErrNotExist) {
		return uploadUnknown()
	}
	if err != nil {
		return err
	}
	size := stage.Size()
	stage.Close()
	return uploadState(w, rt.repo, rt.ref, size, http.StatusNoContent)
}

// stopReading ends a request's body.
func stopReading(w http.ResponseWriter) func() {
	rc := http.NewResponseController(w)
	return func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) }
}

// patchUpload answers end-5.
func (s *Server) patchUpload(w *response, r *http.Request, rt route) error {
	u, release, err := s.take(r.Context(), rt.repo, rt.ref, stopReading(w))
	if err != nil {
		return err
	}
	defer release()
	if err := s.receive(w, r, u); err != nil {
		return withState(w, rt, u, err)
	}
	return uploadState(w, rt.repo, rt.ref, u.stage.Size(), http.StatusAccepted)
}

// withState adds how far the upload is to an error after which the client can go on.
func withState(w *response, rt route, u *upload, err error) error {
	if e, ok := err.(*apiError); ok && e.status == http.StatusRequestedRangeNotSatisfiable {
		h := w.Header()
		h.Set("Location", "/v2/"+rt.repo+"/blobs/uploads/"+rt.ref)
		h.Set("Range", "0-"+strconv.FormatInt(max(u.stage.Size()-1, 0), 10))
		h.Set("Docker-Upload-Uuid", rt.ref)
	}
	return err
}

// putUpload answers end-6.
func (s *Server) putUpload(w *response, r *http.Request, rt route) error {
	d, ok := ParseDigest(r.URL.Query().Get("digest"))
	if !ok {
		return digestInvalid(r.URL.Query().Get("digest"))
	}
	u, release, err := s.take(r.Context(), rt.repo, rt.ref, stopReading(w))
	if err != nil {
		return err
	}
	defer release()
	if u.stage.Size() == 0 {
		u.algo, u.hash, u.hashed = d.Algorithm(), newHash(d.Algorithm()), 0
	}
	if err := s.receive(w, r, u); err != nil {
		return withState(w, rt, u, err)
	}
	if err := s.finish(rt.repo, u, d); err != nil {
		return err
	}
	return blobCreated(w, rt.repo, d)
}

// cancelUpload answers end-14.
func (s *Server) cancelUpload(w *response, rt route) error {
	u, release, err := s.take(context.Background(), rt.repo, rt.ref, nil)
	if err != nil {
		return err
	}
	defer release()
	u.discard()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (u *upload) discard() {
	if !u.ended {
		u.ended = true
		_ = u.stage.Discard() // what stays is collected when its time is over
	}
}

// parseContentRange understands an upload's Content-Range, "<first>-<last>", both inclusive. It also takes the header
// as RFC 9110 has it ("bytes 0-9/*"), which some clients send.
func parseContentRange(s string) (first, last int64, ok bool) {
	s = strings.TrimPrefix(s, "bytes ")
	s, _, _ = strings.Cut(s, "/")
	a, b, found := strings.Cut(s, "-")
	if !found {
		return 0, 0, false
	}
	first, ok = parseDecimal(a)
	if !ok {
		return 0, 0, false
	}
	last, ok = parseDecimal(b)
	return first, last, ok && last >= first
}

// parseDecimal is strconv.ParseInt without signs.
func parseDecimal(s string) (int64, bool) {
	if s == "" || len(s) > 18 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = 10*n + int64(s[i]-'0')
	}
	return n, true
}

// receive appends a request's body to the upload. What arrived before a connection broke stays: the client asks how
// far it is (end-13) and goes on from there.
func (s *Server) receive(w *response, r *http.Request, u *upload) error {
	limit := int64(1<<63 - 1)
	if s.conf().Limits.Blob > 0 {
		limit = int64(s.conf().Limits.Blob) - u.stage.Size()
	}
	start, want := u.stage.Size(), r.ContentLength
	if cr := r.Header.Get("Content-Range"); cr != "" && r.ContentLength != 0 {
		first, last, ok := parseContentRange(cr)
		if !ok {
			return uploadInvalid("invalid Content-Range %.100q", cr)
		}
		if first != start {
			return fail(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID",
				"the chunk begins at byte %d, but %d bytes have arrived so far", first, start)
		}
		if n := last - first + 1; want >= 0 && want != n {
			return fail(http.StatusBadRequest, "SIZE_INVALID", "Content-Range %s has %d bytes, Content-Length says %d", cr, n, want)
		} else if want < 0 {
			want = n
			limit = min(limit, n)
		}
	}
	if want > limit {
		return tooLarge(s.conf().Limits.Blob)
	}
	if err := s.rehash(u); err != nil {
		return err
	}
	src := s.body(w, r)
	h := newHasher(u.hash)
	defer h.close()
	for {
		buf := h.buffer()
		n, rerr := src.Read(buf)
		if int64(n) > limit {
			// More than was announced, or than fits: none of this request counts.
			h.close()
			if err := u.stage.Truncate(start); err != nil {
				return err
			}
			u.hashed = -1
			if s.conf().Limits.Blob > 0 && start+limit == int64(s.conf().Limits.Blob) {
				return tooLarge(s.conf().Limits.Blob)
			}
			return fail(http.StatusBadRequest, "SIZE_INVALID", "more bytes than Content-Range has")
		}
		limit -= int64(n)
		if n > 0 {
			m, err := u.stage.Write(buf[:n])
			h.write(buf[:m])
			u.hashed += int64(m)
			s.metrics.received.Add(int64(m))
			if err != nil {
				h.close()
				return u.without(err)
			}
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return uploadInvalid("the upload broke off at byte %d: ask for its state and go on from there", u.stage.Size())
		}
	}
	if got := u.stage.Size() - start; want >= 0 && got != want {
		return fail(http.StatusBadRequest, "SIZE_INVALID", "%d bytes arrived, %d were announced", got, want)
	}
	return nil
}

func tooLarge(limit Size) *apiError {
	return fail(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "this registry takes blobs of at most %s", limit)
}

// rehash brings the running hash up to what is there: after a restart, or when bytes were taken back.
func (s *Server) rehash(u *upload) error {
	if u.hash != nil && u.hashed == u.stage.Size() {
		return nil
	}
	if u.algo == "" {
		u.algo = "sha256"
	}
	return u.hashAs(u.algo)
}

func (u *upload) hashAs(algo string) error {
	h := newHash(algo)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, err := io.CopyBuffer(h, struct{ io.Reader }{io.NewSectionReader(u.stage, 0, u.stage.Size())}, *buf)
	if err != nil {
		return err
	}
	u.algo, u.hash, u.hashed = algo, h, n
	return nil
}

// finish makes blob d of the upload, if that is what it is.
func (s *Server) finish(repo string, u *upload, d Digest) error {
	if u.algo != d.Algorithm() || u.hashed != u.stage.Size() {
		// sha512 without saying so at the start: the bytes are read once more.
		if err := u.hashAs(d.Algorithm()); err != nil {
			return err
		}
	}
	if got := sumDigest(u.algo, u.hash); got != d {
		u.discard()
		return &apiError{http.StatusBadRequest, "DIGEST_INVALID", "provided digest did not match uploaded content",
			map[string]string{"digest": string(d), "content": string(got)}}
	}
	// Before the locks: this is the long wait.
	if _, err := s.storage.Stat(blobKey(d)); err != nil {
		if err := u.stage.Sync(); err != nil {
			return u.without(err)
		}
	}
	err := s.link(s.repos.obtain(repo), d, func() error {
		if err := u.stage.Sync(); err != nil { // again for a blob that was collected in between; free otherwise
			return err
		}
		if err := u.stage.Commit(blobKey(d)); err != nil {
			return err
		}
		u.ended = true
		return nil
	})
	if err != nil {
		return u.without(err)
	}
	u.discard() // nothing of it is left but if somebody else was first
	return nil
}

// without ends an upload that there is no room for: what came of it would keep the disk full for a day, also for those
// that would fit. After other errors the client may go on.
func (u *upload) without(err error) error {
	if errors.Is(err, ErrFull) {
		u.discard()
	}
	return err
}

// expireUploads discards uploads that nobody went on with since t.
func (s *Server) expireUploads(t time.Time) (n int, err error) {
	err = s.storage.Stages(func(e Entry) error {
		if !e.Time.Before(t) {
			return nil
		}
		s.uploads.mu.Lock()
		u := s.uploads.open[e.Name]
		s.uploads.mu.Unlock()
		if u == nil {
			stage, err := s.storage.Stage(e.Name, false)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			n++
			return stage.Discard()
		}
		select {
		case <-u.turn:
		default:
			return nil // somebody is at it
		}
		if !u.ended && u.last.Before(t) {
			if stage, err := s.storage.Stage(e.Name, false); err == nil {
				_ = stage.Discard()
			}
			u.ended = true
			n++
		}
		if u.ended {
			s.uploads.mu.Lock()
			if s.uploads.open[e.Name] == u {
				delete(s.uploads.open, e.Name)
			}
			s.uploads.mu.Unlock()
		}
		u.turn <- struct{}{}
		return nil
	})
	return n, err
}

// nextPage makes a Link header for the rest of a list (RFC 8288).
func nextPage(w http.ResponseWriter, path string, q url.Values) {
	w.Header().Set("Link", "<"+path+"?"+q.Encode()+`>; rel="next"`)
}
