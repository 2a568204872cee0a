//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"gantry/test/engine"
)

// TestKilledInCommitAndLoad kills the engine in the middle of a commit, of a load and of an import, at every place that
// matters: afterwards the image is there and whole, or there is nothing of it, on the disk either.
func TestKilledInCommitAndLoad(t *testing.T) {
	e := ownEngine(t, "busybox")
	okOn(t, e, "run", "--name", "work", "--network", "none", "busybox", "sh", "-c", "mkdir /w; echo done >/w/done; rm /bin/vi")
	dir := t.TempDir()
	okOn(t, e, "commit", "work", "other")
	okOn(t, e, "save", "-o", dir+"/other.tar", "other")
	okOn(t, e, "export", "-o", dir+"/files.tar", "work")
	okOn(t, e, "rmi", "--now", "other")
	for _, c := range []struct {
		name, program string
		args          []string
		points        []string
	}{
		{"committed", "cat /w/done", []string{"commit", "work", "committed"}, []string{"layer-copied", "layer-renamed"}},
		{"other", "cat /w/done", []string{"load", "-q", "-i", dir + "/other.tar"}, []string{"layer-unpacked", "layer-renamed", "image-unpacked"}},
		{"imported", "cat /w/done", []string{"import", dir + "/files.tar", "imported"}, []string{"layer-renamed"}},
	} {
		for _, point := range c.points {
			e.Stop()
			if err := e.Start("GANTRY_FAILPOINT=" + point); err != nil {
				t.Fatal(err)
			}
			engine.Run(e.CLI(c.args...))
			select {
			case <-e.Done():
			case <-time.After(time.Minute):
				t.Fatalf("%s: %s was not reached", c.name, point)
			}
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			if got := okOn(t, e, "images", "--format", "{{.Repository}}"); got != "busybox" {
				t.Errorf("%s killed at %s: images %q", c.name, point, got)
			}
			okOn(t, e, "system", "check")
			if _, shares := usage(t, e); shares["orphans"] > 0 {
				t.Errorf("%s killed at %s left %d bytes", c.name, point, shares["orphans"])
			}
			okOn(t, e, c.args...)
			if got := okOn(t, e, append([]string{"run", "--rm", "--network", "none", c.name}, strings.Fields(c.program)...)...); got != "done" {
				t.Errorf("%s says %q", c.name, got)
			}
			okOn(t, e, "rmi", "--now", c.name)
		}
	}
	okOn(t, e, "rm", "work")
}
