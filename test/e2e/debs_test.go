//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// debs is a folder with the packages that lessons install by themselves: the engines under test are in network namespaces that
// no package comes into.
func debs(t *testing.T) string {
	t.Helper()
	dir, err := fetchDebs()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var fetchDebs = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "gantry", "debs")
	if found, _ := filepath.Glob(filepath.Join(dir, "net-tools_*.deb")); len(found) > 0 {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	out, err := exec.Command("sh", "-c", `rm -rf "$1/new" && mkdir "$1/new" && cd "$1/new" && { get() { apt-get -qq -o APT::Sandbox::User=root download vim-tiny vim-common xxd net-tools; }; get || { apt-get -qq update && get; }; } && rm -f ../*.deb && mv vim*.deb xxd*.deb .. && mv net-tools*.deb .. && rmdir "$1/new"`, "sh", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("download packages: %w\n%s", err, out)
	}
	return dir, nil
})
