package client

import "encoding/json"

// Filters are key=value pairs that choose things of a list; a key may be given more than once.
type Filters map[string]map[string]bool

// Add adds one pair.
func (f *Filters) Add(key, value string) {
	if *f == nil {
		*f = Filters{}
	}
	if (*f)[key] == nil {
		(*f)[key] = map[string]bool{}
	}
	(*f)[key][value] = true
}

// Has reports whether the key is given.
func (f Filters) Has(key string) bool { return len(f[key]) > 0 }

// Encode returns them as the API's query parameter has them, "" for none.
func (f Filters) Encode() string {
	if len(f) == 0 {
		return ""
	}
	b, _ := json.Marshal(f)
	return string(b)
}
