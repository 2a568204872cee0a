package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
)

// maxPage is how many names a list has at most without paging on.
const maxPage = 10_000

func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n') // as distribution has it, for those who ask with curl
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(http.StatusOK)
	_, err = w.Write(b)
	return err
}

// pageOf cuts the part that n and last ask for out of sorted names. more says that there is something after it.
func pageOf(names []string, q url.Values) (page []string, n int, more bool, err error) {
	n = maxPage
	if v := q.Get("n"); v != "" {
		asked, ok := parseDecimal(v)
		if !ok {
			return nil, 0, false, fail(http.StatusBadRequest, "UNSUPPORTED", "invalid number of results requested: %.50q", v)
		}
		n = int(min(asked, maxPage))
	}
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(names, last)
		if found {
			i++
		}
		names = names[i:]
	}
	if len(names) > n {
		return names[:n], n, n > 0, nil
	}
	return names, n, false, nil
}

func (s *Server) link2next(w http.ResponseWriter, path, last string, n int) {
	nextPage(w, path, url.Values{"last": {last}, "n": {strconv.Itoa(n)}})
}

// listTags answers end-8a and end-8b.
func (s *Server) listTags(w *response, r *http.Request, repo string) error {
	rp := s.repos.get(repo)
	if rp == nil || rp.manifests.Load() == 0 {
		return nameUnknown(repo)
	}
	names, err := s.tagNames(r.Context(), repo)
	if err != nil {
		return err
	}
	page, n, more, err := pageOf(names, r.URL.Query())
	if err != nil {
		return err
	}
	if more {
		s.link2next(w, "/v2/"+repo+"/tags/list", page[len(page)-1], n)
	}
	return writeJSON(w, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{repo, append([]string{}, page...)})
}

func (s *Server) tagNames(ctx context.Context, repo string) ([]string, error) {
	var names []string
	err := s.tags(ctx, repo, func(tag string, _ Info) error {
		names = append(names, tag)
		return nil
	})
	slices.Sort(names)
	return names, err
}

// catalog answers distribution's /v2/_catalog, which the course's lessons ask for by curl: the repositories that the
// client may read.
func (s *Server) catalog(w *response, r *http.Request, who identity) error {
	names, err := s.visible(w, r, who)
	if err != nil {
		return err
	}
	page, n, more, err := pageOf(names, r.URL.Query())
	if err != nil {
		return err
	}
	if more {
		s.link2next(w, "/v2/_catalog", page[len(page)-1], n)
	}
	return writeJSON(w, "application/json", map[string][]string{"repositories": append([]string{}, page...)})
}

// visible lists the repositories that the client may read. A token must have been asked for with the catalog's scope: one
// for a single repository may lie with somebody who is not to know of the others. Who may read nothing without logging in
// is asked to, for some clients send no password unasked.
func (s *Server) visible(w *response, r *http.Request, who identity) ([]string, error) {
	a := s.authority()
	if who.token != nil && !who.token.catalog() {
		return nil, a.challenge(w, r, catalogScope, "the token is not for this")
	}
	names := slices.DeleteFunc(s.repos.names(), func(name string) bool { return !a.may(who, name, actionPull) })
	if len(names) == 0 && !a.off && who == (identity{}) {
		return nil, a.challenge(w, r, catalogScope, "")
	}
	return names, nil
}

// putReferrer adds entry to the list of what refers to subject.
func (s *Server) putReferrer(repo string, subject, d Digest, entry descriptor) error {
	b, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	return s.storage.Put(referrerKey(repo, subject, d), b)
}

// referrers calls f for every manifest whose subject is d.
func (s *Server) referrers(repo string, subject Digest, f func(Digest) error) error {
	return s.storage.List(repoKey(repo)+"/_referrers/"+subject.path(), func(e Entry) error {
		d, ok := parseReferrerName(e.Name)
		if !ok || e.Dir {
			return nil
		}
		return f(d)
	})
}

func parseReferrerName(name string) (Digest, bool) {
	if len(name) < 8 || name[6] != '-' {
		return "", false
	}
	return ParseDigest(name[:6] + ":" + name[7:])
}

// listReferrers answers end-12a and end-12b.
func (s *Server) listReferrers(w *response, r *http.Request, rt route) error {
	subject, ok := ParseDigest(rt.ref)
	if !ok {
		return digestInvalid(rt.ref)
	}
	q := r.URL.Query()
	filter := q.Get("artifactType")
	var all []string
	if err := s.referrers(rt.repo, subject, func(d Digest) error {
		all = append(all, string(d))
		return nil
	}); err != nil {
		return err
	}
	slices.Sort(all)
	if last := q.Get("last"); last != "" {
		i, found := slices.BinarySearch(all, last)
		if found {
			i++
		}
		all = all[i:]
	}
	list := []json.RawMessage{}
	var size int64
	for i, name := range all {
		d := Digest(name)
		b, info, err := readSmall(s.storage, referrerKey(rt.repo, subject, d), 2*maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if filter != "" {
			var e descriptor
			if err := json.Unmarshal(b, &e); err != nil {
				return err
			}
			if e.ArtifactType != filter {
				continue
			}
		}
		// An answer is no larger than a manifest may be; the first entry goes out whatever its size.
		if size += info.Size + 1; size > maxManifest-1024 && len(list) > 0 {
			next := url.Values{"last": {all[i-1]}}
			if filter != "" {
				next.Set("artifactType", filter)
			}
			nextPage(w, "/v2/"+rt.repo+"/referrers/"+string(subject), next)
			break
		}
		list = append(list, b)
	}
	if q.Has("artifactType") && filter != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, typeOCIIndex, struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Manifests     []json.RawMessage `json:"manifests"`
	}{2, typeOCIIndex, list})
}
