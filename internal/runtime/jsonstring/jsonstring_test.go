package jsonstring

import (
	"encoding/json"
	"testing"
)

// FuzzUnescape holds each escape against encoding/json.
func FuzzUnescape(f *testing.F) {
	for _, s := range []string{`n`, `"`, `\`, `/`, `x`, ``, `u00e9`, `u00g0`, `u12`, `ud83d\ude00`, `ud83d`, `ud83d\u0041`, `ude00\ud83d`, `ud83d\ud83d\ude00`, `nrest`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, rest, ok := Unescape(nil, []byte(s))
		var want string
		if err := json.Unmarshal([]byte(`"\`+s[:len(s)-len(rest)]+`"`), &want); ok != (err == nil) || ok && string(got) != want {
			t.Errorf("%q: %q, %q, %v; encoding/json has %q, %v", s, got, rest, ok, want, err)
		}
	})
}
