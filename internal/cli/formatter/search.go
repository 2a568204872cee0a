package formatter

import (
	"io"
	"strconv"
)

// SearchResult is a repository that a search found.
type SearchResult struct {
	name, description string
	stars             int
	official          bool
}

// NewSearchResult returns a row of a search.
func NewSearchResult(name, description string, stars int, official bool) *SearchResult {
	return &SearchResult{name, description, stars, official}
}

// MarshalJSON is what --format json prints.
func (r *SearchResult) MarshalJSON() ([]byte, error) { return marshal(r) }

// Name is the repository's.
func (r *SearchResult) Name() string { return r.name }

// Description is one line.
func (r *SearchResult) Description() string { return r.description }

// StarCount is how many like it.
func (r *SearchResult) StarCount() string { return strconv.Itoa(r.stars) }

// IsOfficial is [OK] for Docker's own.
func (r *SearchResult) IsOfficial() string {
	if r.official {
		return "[OK]"
	}
	return ""
}

// IsAutomated is empty: nothing is any more.
func (r *SearchResult) IsAutomated() string { return "" }

// Search prints what a search found.
func Search(w io.Writer, f Format, rows []*SearchResult) error {
	columns := []Column{{"NAME", "Name"}, {"DESCRIPTION", "Description"}, {"STARS", "StarCount"}, {"OFFICIAL", "IsOfficial"}}
	headers := map[string]string{"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL", "IsAutomated": "AUTOMATED"}
	return Write(w, f, columns, headers, rows, func(r *SearchResult, field string) string {
		switch field {
		case "Name":
			return r.Name()
		case "Description":
			return r.Description()
		case "StarCount":
			return r.StarCount()
		}
		return r.IsOfficial()
	})
}
