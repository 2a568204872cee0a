package parse

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Platform turns os/arch[/variant] into the JSON that the API has for it.
func Platform(s string) (string, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) < 2 || len(parts) > 3 {
		return "", fmt.Errorf("invalid platform %q: want os/arch[/variant]", s)
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_.-") != "" {
			return "", fmt.Errorf("invalid platform %q: want os/arch[/variant]", s)
		}
	}
	p := struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		Variant      string `json:"variant,omitempty"`
	}{parts[1], parts[0], ""}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	b, err := json.Marshal(p)
	return string(b), err
}
