package nearest

import (
	"strings"
	"testing"
)

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		n    int
	}{{"", "", 0}, {"a", "", 1}, {"run", "run", 0}, {"rnu", "run", 1}, {"rn", "run", 1}, {"runn", "run", 1}, {"xyz", "run", 3},
		{"imgaes", "images", 1}, {"kitten", "sitting", 3}, {strings.Repeat("a", 1000), "a", longest}} {
		if n := distance(c.a, c.b); n != c.n {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, n, c.n)
		}
	}
}

func TestTo(t *testing.T) {
	t.Parallel()
	names := []string{"volumes-from", "volume", "network", "rm"}
	for typed, want := range map[string]string{"volume-from": "volumes-from", "VOLUMES": "volume", "netwrok": "network", "xy": "", "something": "", "": ""} {
		if got := To(typed, names); got != want {
			t.Errorf("To(%q) = %q, want %q", typed, got, want)
		}
	}
}
