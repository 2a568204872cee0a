//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gantry/test/engine"
)

// shellDifferential plays sessions of shell lines, each in an empty folder of its own, against both engines: with the stock
// docker command line against docker, with that and with Gantry's own, as "docker" both, against ours. What they print
// and how they end must be equal once masked. The marks of session apply: "~" compares the exit status only, "!" nothing.
// $ENGINE is the engine's process, in whose network namespace its networks are.
func shellDifferential(t *testing.T, sessions []session, ours, docker *engine.Engine, mask func(string) string) {
	links := t.TempDir()
	if err := os.Symlink(ours.Program, filepath.Join(links, "docker")); err != nil {
		t.Fatal(err)
	}
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			root := t.TempDir()
			play := func(e *engine.Engine, who, path string) (results []engine.Result) {
				dir := filepath.Join(root, who)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Error(err)
				}
				for _, line := range s.lines {
					cmd := exec.Command("sh", "-c", strings.TrimLeft(line, "~!"))
					cmd.Env = append(e.StockCLI().Env, "PATH="+path+os.Getenv("PATH"), fmt.Sprint("ENGINE=", e.Pid()))
					cmd.Dir = dir
					r := engine.Run(cmd)
					r.Out, r.Err = strings.ReplaceAll(r.Out, dir, "<dir>"), strings.ReplaceAll(r.Err, dir, "<dir>")
					results = append(results, r)
				}
				return results
			}
			theirs := make(chan []engine.Result)
			go func() { theirs <- play(docker, "docker", "/usr/bin:") }()
			stock := play(ours, "stock", "/usr/bin:")
			own := play(ours, "own", links+":")
			wanted := <-theirs
			for i, line := range s.lines {
				if strings.HasPrefix(line, "!") {
					continue
				}
				for who, got := range map[string]engine.Result{"stock": stock[i], "own": own[i]} {
					want := wanted[i]
					for _, part := range []struct{ what, got, want string }{
						{"status", fmt.Sprint(got.Code), fmt.Sprint(want.Code)},
						{"stdout", mask(got.Out), mask(want.Out)},
						{"stderr", mask(got.Err), mask(want.Err)},
					} {
						if part.what != "status" && strings.HasPrefix(line, "~") || part.what == "stderr" && who == "own" && newerWords(want.Err) {
							continue
						}
						if part.got != part.want {
							t.Errorf("%s\n  %s of gantry (%s command line): %q\n  %s of docker: %q", line, part.what, who, part.got, part.what, part.want)
						}
					}
				}
			}
		})
	}
}
