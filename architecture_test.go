// Package gantry_test holds the house together: ARCHITECTURE.md's invariants about who may import whom.
package gantry_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// floors lists the rooms from the ground up. A room imports only from floors below its own. A prefix that
// ends in "/" takes in everything below it; the longest match wins.
var floors = [][]string{
	{"internal/errs", "internal/ids", "internal/atomicfile", "internal/failpoint", "internal/nearest", "internal/resolvconf", "internal/version", "internal/runtime/spec", "internal/runstream"},
	{"internal/kernel/"},
	{"internal/runtime", "internal/runtime/", "internal/layer", "internal/content", "internal/remote", "internal/client", "internal/state", "internal/events", "internal/trash", "internal/disk"},
	{"internal/container", "internal/image", "internal/registry", "internal/registry/", "internal/network", "internal/network/", "internal/build", "internal/build/", "internal/build/session", "internal/build/session/", "internal/volume"},
	{"internal/api", "internal/api/", "internal/cli", "internal/cli/", "internal/config"},
	{"internal/daemon", "cmd/", "test/"},
}

// sameFloor lists the imports within a floor that are meant.
var sameFloor = map[string][]string{
	"internal/kernel/":   {"internal/kernel/"},
	"internal/runtime":   {"internal/runtime/", "internal/layer"},
	"internal/runtime/":  {"internal/runtime/"},
	"internal/layer":     {"internal/content", "internal/state"},
	"internal/content":   {"internal/state"},
	"internal/trash":     {"internal/state"},
	"internal/remote":    {"internal/content"},
	"internal/cli":       {"internal/cli/"},
	"internal/cli/":      {"internal/cli/"},
	"internal/api/":      {"internal/api"},
	"internal/api":       {"internal/api/"},
	"internal/registry/": {"internal/registry", "internal/registry/"},
	"internal/build":     {"internal/build/", "internal/build/session/"},
	"internal/build/":    {"internal/build", "internal/build/", "internal/build/session/"},
	// A session is what a build looks like from outside.
	"internal/build/session":  {"internal/build", "internal/build/", "internal/build/session/"},
	"internal/build/session/": {"internal/build/", "internal/build/session/"},
	"internal/network":        {"internal/network/"},
	"internal/network/":       {"internal/network/"},
	"cmd/":                    {"internal/daemon"},
	"test/":                   {"test/"},
}

// small programs may import nothing but these, besides the standard library: they must stay tiny.
var small = map[string][]string{
	"cmd/init":       {"gantry/internal/", "golang.org/x/sys/unix"},
	"cmd/supervisor": {"gantry/internal/", "golang.org/x/sys/unix"},
	"cmd/relay":      {"gantry/internal/", "golang.org/x/sys/unix"},
}

// kernelSpeakers are the rooms that may make raw system calls. (internal/container names signals by package
// syscall, and makes none.)
var kernelSpeakers = []string{"internal/kernel/", "internal/layer", "internal/runtime", "internal/runtime/", "internal/atomicfile", "internal/failpoint", "internal/state", "internal/content", "internal/disk", "internal/remote", "internal/registry/", "internal/build/session", "internal/build/session/", "internal/network", "internal/network/", "internal/volume", "cmd/", "test/", "internal/cli", "internal/cli/", "internal/client", "internal/daemon"}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, args...)...).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

// room returns the entry of floors that path belongs to, and its floor.
func room(path string) (name string, floor int) {
	floor = -1
	for i, f := range floors {
		for _, r := range f {
			if (path == r || strings.HasSuffix(r, "/") && strings.HasPrefix(path, r)) && len(r) >= len(name) {
				name, floor = r, i
			}
		}
	}
	return name, floor
}

func TestImportsRunDownward(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, "gantry/")
		if from == "gantry" {
			continue
		}
		fromRoom, fromFloor := room(from)
		if fromFloor < 0 {
			t.Errorf("%s stands on no floor: add it to floors, and to ARCHITECTURE.md", from)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, "gantry/")
			if !ours {
				if (imp == "golang.org/x/sys/unix" || imp == "syscall" && fromRoom != "internal/container") && !slices.ContainsFunc(kernelSpeakers, func(r string) bool { return r == fromRoom }) {
					t.Errorf("%s makes system calls (imports %s): move that into a room under internal/kernel", from, imp)
				}
				continue
			}
			toRoom, toFloor := room(to)
			if toFloor < fromFloor || toFloor == fromFloor && slices.Contains(sameFloor[fromRoom], toRoom) {
				continue
			}
			t.Errorf("%s (floor %d) imports %s (floor %d): imports run downward", from, fromFloor, to, toFloor)
		}
	}
}

func TestSmallProgramsStaySmall(t *testing.T) {
	std := map[string]bool{}
	for _, p := range list(t, "std") {
		std[p.ImportPath] = true
	}
	for _, p := range list(t, "./cmd/init", "./cmd/supervisor", "./cmd/relay") {
		allowed := small[strings.TrimPrefix(p.ImportPath, "gantry/")]
		for _, dep := range p.Deps {
			if std[dep] || slices.ContainsFunc(allowed, func(a string) bool { return strings.HasPrefix(dep, a) }) {
				continue
			}
			t.Errorf("%s links %s: these programs hold only the standard library and system calls", p.ImportPath, dep)
		}
		for _, heavy := range []string{"net", "net/http", "gantry/internal/errs/http", "github.com/moby/moby/api", "go.etcd.io/bbolt"} {
			if slices.Contains(p.Deps, heavy) {
				t.Errorf("%s links %s", p.ImportPath, heavy)
			}
		}
	}
}

// TestFrontStaysLight keeps what only the engine needs, and what makes a program start slowly, out of the command line.
func TestFrontStaysLight(t *testing.T) {
	for _, p := range list(t, "./cmd/gantry") {
		for _, dep := range p.Deps {
			for _, heavy := range []string{"github.com/moby/buildkit/", "google.golang.org/protobuf/", "go.etcd.io/bbolt"} {
				if strings.HasPrefix(dep+"/", heavy) {
					t.Errorf("cmd/gantry links %s", dep)
				}
			}
		}
	}
}
