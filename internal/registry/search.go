package registry

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// v1Ping tells `docker search HOST:PORT/TERM` that it may ask here.
func v1Ping(w *response) error {
	h := w.Header()
	h.Set("X-Docker-Registry-Version", "0.9.1")
	h.Set("X-Docker-Registry-Standalone", "true")
	return writeJSON(w, "application/json", true)
}

// search answers the v1 search as the Hub does.
func (s *Server) search(w *response, r *http.Request, who identity) error {
	q := r.URL.Query()
	term := strings.ToLower(q.Get("q"))
	size, page := int64(25), int64(1)
	if v, ok := parseDecimal(q.Get("n")); ok && v > 0 {
		size = min(v, 100)
	}
	if v, ok := parseDecimal(q.Get("page")); ok && v > 0 {
		page = min(v, 1_000_000)
	}
	// "library/" is how Docker's clients spell a name without a user.
	term = strings.TrimPrefix(term, "library/")
	names, err := s.visible(w, r, who)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !strings.Contains(name, term) })
	// What begins with the term first, the exact name before it.
	rank := func(name string) int {
		switch {
		case name == term:
			return 0
		case strings.HasPrefix(name, term):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank(a) - rank(b) })
	type result struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		StarCount   int    `json:"star_count"`
		IsTrusted   bool   `json:"is_trusted"`
		IsAutomated bool   `json:"is_automated"`
		IsOfficial  bool   `json:"is_official"`
	}
	total := int64(len(names))
	first := min((page-1)*size, total)
	results := []result{}
	for _, name := range names[first:min(first+size, total)] {
		results = append(results, result{Name: name, Description: s.description(name)})
	}
	return writeJSON(w, "application/json", map[string]any{
		"query": q.Get("q"), "num_results": total, "num_pages": (total + size - 1) / size,
		"page": page, "page_size": size, "results": results,
	})
}

// description is what the latest image says of itself (image-spec, annotations).
func (s *Server) description(repo string) string {
	d, _, err := s.tag(repo, "latest")
	if err != nil {
		return ""
	}
	b, _, err := readSmall(s.storage, blobKey(d), maxManifest)
	if err != nil {
		return ""
	}
	var m struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(b, &m) != nil {
		return ""
	}
	text := m.Annotations["org.opencontainers.image.description"]
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "")
	}
	return text
}
