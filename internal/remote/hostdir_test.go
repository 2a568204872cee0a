package remote

import (
	"os"
	"path/filepath"
	"testing"
)

// TestHostDirStaysBelowItsRoot: what a registry redirects to may be named as it likes.
func TestHostDirStaysBelowItsRoot(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	root := filepath.Join(top, "certs.d")
	for _, d := range []string{"reg.example", "reg.example:5000", "other_443_"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for host, want := range map[string]string{
		"reg.example": "reg.example", "reg.example:5000": "reg.example:5000", "other:443": "other_443_", "none": "",
		"..": "", ".": "", "": "", "../certs.d/reg.example": "", "/": "", "reg.example/..": "",
	} {
		got, err := hostDir(root, host)
		if want != "" {
			want = filepath.Join(root, want)
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", host, got, err)
		}
	}
}
