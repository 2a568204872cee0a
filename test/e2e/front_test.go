//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// TestFrontStartsTheEngine: root's first command starts an engine at the default places, here in a mount namespace where these are empty,
// says so in one line, and the engine keeps nothing of the command's.
func TestFrontStartsTheEngine(t *testing.T) {
	script := `
set -e
mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mount -t tmpfs none /var/log
unset DOCKER_HOST GANTRY_HOST
# Two at once start one.
"$GANTRY" ps -q 2>/var/log/two & "$GANTRY" ps -q 2>/var/log/one; wait
cat /var/log/one /var/log/two >&2
exec 7>&-
"$GANTRY" run --rm --network none hello-world | grep -c Hello
pid=$(cat /run/gantry.pid)
ls -l "/proc/$pid/fd" | grep -cF "$PIPE" || true
kill "$pid"
while [ -e "/proc/$pid/stat" ] && ! grep -q ') Z' "/proc/$pid/stat"; do sleep 0.05; done
# With a host given, nothing is started.
"$GANTRY" -H unix:///run/gantry.sock ps || echo "code $?"
DOCKER_HOST=unix:///run/gantry.sock "$GANTRY" ps || echo "code $?"
[ ! -e /run/gantry.sock ] || ! "$GANTRY" -H unix:///run/gantry.sock ps 2>/dev/null
`
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	link, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	// A PID namespace of its own: whatever the engine leaves running ends with the script.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script)
	cmd.Env = append(os.Environ(), "GANTRY="+filepath.Join(engine.Repo(), "bin", "gantry"), "PIPE="+link)
	cmd.ExtraFiles = []*os.File{nil, nil, nil, nil, w} // descriptor 7
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	// The pipe's end comes though the engine still runs: it did not inherit it.
	if _, err := io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\nstdout: %s\nstderr: %s", err, out.String(), errs.String())
	}
	if want := "1\n0\ncode 1\ncode 1\n"; out.String() != want {
		t.Errorf("stdout %q, want %q", out.String(), want)
	}
	const line = "Starting the engine: gantry daemon (its log is /var/log/gantry.log)\n"
	if strings.Count(errs.String(), line) != 1 || !strings.HasPrefix(errs.String(), line) {
		t.Errorf("stderr %q, want %q once", errs.String(), line)
	}
	if !strings.Contains(errs.String(), "Cannot connect to the Docker daemon at unix:///run/gantry.sock. Is the docker daemon running?\nStart one there with: sudo gantry daemon") {
		t.Errorf("stderr %q does not say how to start an engine", errs.String())
	}
}
