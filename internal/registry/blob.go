package registry

import (
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRanges is how many ranges of a blob one answer gives; with more asked for, it is the whole blob (RFC 9110, 14.2
// lets a server ignore them). Thousands of tiny ranges cost much more to send than to ask for.
const maxRanges = 16

// getBlob answers end-2.
func (s *Server) getBlob(w *response, r *http.Request, rt route) error {
	d, ok := ParseDigest(rt.ref)
	if !ok {
		return digestInvalid(rt.ref)
	}
	if _, err := s.storage.Stat(blobLinkKey(rt.repo, d)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return blobUnknown(d)
		}
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", string(d))
	// A digest's content never changes.
	h.Set("Etag", `"`+string(d)+`"`)
	h.Set("Cache-Control", "max-age=31536000")
	if r.Method == http.MethodHead {
		if repo := s.repos.get(rt.repo); repo != nil {
			repo.use(time.Now(), d) // a push that is told "there" counts on it
		}
		if len(r.Header["Range"]) == 0 && !conditional(r) {
			info, err := s.storage.Stat(blobKey(d))
			if err != nil {
				return notThere(err, d)
			}
			h.Set("Accept-Ranges", "bytes")
			h.Set("Content-Length", strconv.FormatInt(info.Size, 10))
			w.WriteHeader(http.StatusOK)
			return nil
		}
	}
	f, _, err := s.storage.Open(blobKey(d))
	if err != nil {
		return notThere(err, d)
	}
	defer f.Close()
	if strings.Count(r.Header.Get("Range"), ",") >= maxRanges {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// conditional reports whether the client asks for an answer that depends on what it has.
func conditional(r *http.Request) bool {
	return len(r.Header["If-None-Match"]) > 0 || len(r.Header["If-Match"]) > 0
}

func notThere(err error, d Digest) error {
	if errors.Is(err, fs.ErrNotExist) {
		return blobUnknown(d)
	}
	return err
}

// deleteBlob answers end-10: the repository has the blob no longer. The bytes go with the next collection, if no
// other repository has it.
func (s *Server) deleteBlob(w *response, rt route) error {
	d, ok := ParseDigest(rt.ref)
	if !ok {
		return digestInvalid(rt.ref)
	}
	if _, err := s.storage.Stat(blobLinkKey(rt.repo, d)); err != nil {
		return notThere(err, d)
	}
	repo := s.repos.obtain(rt.repo)
	repo.gate.Lock() // not between a push's look at this blob and its manifest
	err := s.storage.Delete(blobLinkKey(rt.repo, d))
	repo.gate.Unlock()
	if err != nil {
		return err
	}
	s.log.Info("delete blob", "repository", rt.repo, "digest", string(d))
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusAccepted)
	return nil
}
