package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// maxInits is what the package inits of the front may take together, in milliseconds: this program starts at every command.
const maxInits = 1.0

// allowed are the packages outside the standard library that the front may be made of. A new one is looked at twice:
// GODEBUG=inittrace=1 shows what it costs at every start.
var allowed = []string{
	"gantry/",
	"github.com/docker/go-units",
	"github.com/moby/docker-image-spec/specs-go/v1",
	"github.com/moby/moby/api/types/",
	"github.com/moby/patternmatcher",
	"github.com/opencontainers/go-digest", // compiles a regexp at init: 0.15 ms, the dearest of all; moby's types need it
	"github.com/opencontainers/image-spec/specs-go",
	"github.com/spf13/pflag",
	"golang.org/x/sys/unix",
	"golang.org/x/term",
}

// dear are packages of the standard library that cost too much at init, or too much size, for what the front would use of them, and rooms
// of ours that belong to the engine.
var dear = []string{
	"net/http", "crypto/tls", "crypto/x509", "html/template", "go/parser", "testing", "encoding/gob", "expvar",
	"gantry/internal/api", "gantry/internal/container", "gantry/internal/daemon", "gantry/internal/image", "gantry/internal/layer",
	"gantry/internal/build/source", "gantry/internal/build/solve", "gantry/internal/content", "gantry/internal/state", "gantry/internal/runtime", "gantry/internal/kernel",
}

func within(path, entry string) bool {
	return path == entry || strings.HasPrefix(path, strings.TrimSuffix(entry, "/")+"/")
}

func TestFrontImportsLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}+{{end}}{{.ImportPath}}", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		path, foreign := strings.CutPrefix(p, "+")
		is := func(e string) bool { return within(path, e) }
		if foreign && !slices.ContainsFunc(allowed, is) {
			t.Errorf("the front links %s, which is not in the list of what it may", path)
		}
		if slices.ContainsFunc(dear, is) && path != "gantry/internal/kernel/memfd" { // a page of code, which starts the engine
			t.Errorf("the front links %s, which is too dear for it", path)
		}
	}
}

func TestFrontInits(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the front")
	}
	front := filepath.Join(t.TempDir(), "gantry")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", front, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	line := regexp.MustCompile(`(?m)^init (\S+) @[\d.]+ ms, ([\d.]+) ms clock`)
	// What a package's init costs is the least that it took in any of the runs: a machine with other work makes single runs long. So
	// one that has much runs on until it has shown what they cost, and only a front that never does is too dear.
	least := map[string]float64{}
	sum := maxInits + 1
	for try := 0; try < 40 || sum > maxInits && try < 1000; try++ {
		cmd := exec.Command(front, "--version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, m := range line.FindAllStringSubmatch(string(out), -1) {
			ms, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if old, seen := least[m[1]]; !seen || ms < old {
				least[m[1]] = ms
			}
		}
		sum = 0
		for _, ms := range least {
			sum += ms
		}
	}
	if len(least) < 10 {
		t.Fatalf("only %d packages in the trace: its format has changed", len(least))
	}
	t.Logf("%d packages take %.3f ms", len(least), sum)
	if sum > maxInits {
		t.Errorf("package inits take %.3f ms, more than %.1f ms: see GODEBUG=inittrace=1 %s", sum, maxInits, front)
	}
}
