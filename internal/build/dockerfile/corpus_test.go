package dockerfile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"gantry/internal/build/dockerfile"
	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

var update = flag.Bool("update", false, "write what comes out into the corpus")

// images is a resolver of the images in testdata/images.json.
type images map[string]dockerspec.DockerOCIImage

func (i images) ResolveImage(_ context.Context, ref dockerfile.ImageRef) (dockerfile.ResolvedImage, error) {
	img, ok := i[ref.Ref]
	if !ok {
		return dockerfile.ResolvedImage{}, errs.NotFound.Errorf("%s: not found", ref.Ref)
	}
	return dockerfile.ResolvedImage{Config: img}, nil
}

func loadImages(t testing.TB) images {
	t.Helper()
	data, err := os.ReadFile("testdata/images.json")
	if err != nil {
		t.Fatal(err)
	}
	i := images{}
	if err := json.Unmarshal(data, &i); err != nil {
		t.Fatal(err)
	}
	return i
}

// TestCorpus converts every file of testdata/corpus (see its README) and compares what comes out.
func TestCorpus(t *testing.T) {
	t.Parallel()
	imgs := loadImages(t)
	files, err := filepath.Glob("testdata/corpus/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 150 {
		t.Errorf("the corpus has %d files, at least 150 were promised", len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			o, data := caseOf(t, ar)
			r, err := dockerfile.Convert(t.Context(), data, imgs, o)
			got := map[string]string{"result": result(r, err)}
			if err == nil {
				var b bytes.Buffer
				if err := r.Graph.Outline(&b); err != nil {
					t.Fatal(err)
				}
				got["graph"] = b.String()
			}
			if err == nil {
				checkSound(t, r)
			}
			if *update {
				write(t, file, ar, got)
				return
			}
			for _, name := range []string{"result", "graph"} {
				want := section(ar, name)
				if want != got[name] {
					t.Errorf("%s is\n%s\nwant\n%s", name, got[name], want)
				}
			}
		})
	}
}

// checkSound holds what the solver relies on.
func checkSound(t *testing.T, r *graph.Result) {
	t.Helper()
	for _, o := range r.Outputs {
		if len(o.Layers) != len(o.Config.History) {
			t.Errorf("%d layers told for %d entries of history", len(o.Layers), len(o.Config.History))
		}
		for i, v := range o.Layers {
			if v == nil {
				continue
			}
			if o.Config.History[i].EmptyLayer {
				t.Errorf("history %d is an empty layer with a vertex", i)
			}
			if r.Graph.Vertex(v.Digest()) != v {
				t.Errorf("history %d has a vertex that is not in the graph", i)
			}
		}
	}
	for _, v := range r.Graph.Vertices {
		if v.Meta.Name == "" {
			t.Errorf("a %s vertex has no name", v.Op.Kind())
		}
	}
}

func section(ar *txtar.Archive, name string) string {
	for _, f := range ar.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func write(t *testing.T, file string, ar *txtar.Archive, got map[string]string) {
	t.Helper()
	ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool { return f.Name == "result" || f.Name == "graph" })
	for _, name := range []string{"result", "graph"} {
		if got[name] != "" {
			ar.Files = append(ar.Files, txtar.File{Name: name, Data: []byte(got[name])})
		}
	}
	if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
		t.Fatal(err)
	}
}

// caseOf reads the options in a case's head: "name: value" lines.
func caseOf(t *testing.T, ar *txtar.Archive) (dockerfile.Options, []byte) {
	t.Helper()
	o := dockerfile.Options{
		BuildPlatform: graph.Platform{OS: "linux", Architecture: "amd64"},
		BuildArgs:     map[string]string{}, Labels: map[string]string{}, Contexts: map[string]string{},
	}
	data := []byte(section(ar, "Dockerfile"))
	for line := range strings.Lines(string(ar.Comment)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		k, v, _ := strings.Cut(value, "=")
		switch key {
		case "target":
			o.Target = value
		case "arg":
			o.BuildArgs[k] = v
		case "label":
			o.Labels[k] = v
		case "context":
			o.Contexts[k] = v
		case "remote":
			o.Context = value
		case "ignore":
			o.Ignore = append(o.Ignore, value)
		case "platform":
			os, arch, _ := strings.Cut(value, "/")
			arch, variant, _ := strings.Cut(arch, "/")
			o.Platforms = append(o.Platforms, graph.Platform{OS: os, Architecture: arch, Variant: variant})
		case "network":
			o.Network = graph.NetworkMode(value)
		case "host":
			o.Hosts = append(o.Hosts, graph.Host{Name: k, IP: v})
		case "ulimit":
			o.Ulimits = append(o.Ulimits, graph.Ulimit{Name: k, Soft: 10, Hard: 20})
		case "shm-size":
			o.ShmSize = 64 << 20
		case "cgroup-parent":
			o.CgroupParent = value
		case "no-cache":
			o.NoCache = true
			if value != "all" {
				o.NoCacheStages = append(o.NoCacheStages, value)
			}
		case "pull":
			o.Pull = graph.PullAlways
		case "classic":
			o.Classic = true
		case "check":
			o.AllStages = true
		case "crlf":
			data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
		case "bom":
			data = append([]byte("\xef\xbb\xbf"), data...)
		case "about", "session", "ctx-link", "ctx-mode", "ctx-tar", "oracle", "differs", "legacy", "image", "why":
		default:
			t.Fatalf("unknown option %q", key)
		}
	}
	return o, data
}

// result tells in words what a conversion gave, but for the graph: tools/buildkit-oracle writes the same of BuildKit's own.
func result(r *graph.Result, err error) string {
	var b strings.Builder
	if err != nil {
		fmt.Fprintf(&b, "error: %s\n", err)
		var at *dockerfile.Error
		if errors.As(err, &at) && len(at.Source) > 0 {
			fmt.Fprintf(&b, "at: %s\n", graph.Lines(at.Source))
		}
	}
	if r == nil {
		return b.String()
	}
	for _, o := range r.Outputs {
		fmt.Fprintf(&b, "platform: %s\n", o.Platform)
		b.WriteString(describe(o.Config))
	}
	if len(r.UnusedArgs) > 0 {
		fmt.Fprintf(&b, "unused: %s\n", r.UnusedArgs)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s: %s (%s)\n", w.Rule, w.Message, graph.Lines(w.Source))
	}
	return b.String()
}

// describe writes a line for each part of a configuration that says something.
func describe(img dockerspec.DockerOCIImage) string {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, value) }
	list := func(name string, value []string) {
		if value != nil {
			line(name, fmt.Sprintf("%q", value))
		}
	}
	c := img.Config
	if img.Author != "" {
		line("author", img.Author)
	}
	if c.User != "" {
		line("user", c.User)
	}
	if c.WorkingDir != "" {
		line("workdir", c.WorkingDir)
	}
	for _, e := range c.Env {
		line("env", fmt.Sprintf("%q", e))
	}
	list("entrypoint", c.Entrypoint)
	list("cmd", c.Cmd)
	list("shell", c.Shell)
	list("onbuild", c.OnBuild)
	for _, p := range slices.Sorted(maps.Keys(c.ExposedPorts)) {
		line("expose", p)
	}
	for _, p := range slices.Sorted(maps.Keys(c.Volumes)) {
		line("volume", p)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		line("label", fmt.Sprintf("%q", k+"="+c.Labels[k]))
	}
	if c.StopSignal != "" {
		line("stopsignal", c.StopSignal)
	}
	if c.Healthcheck != nil {
		line("healthcheck", fmt.Sprintf("%+v", *c.Healthcheck))
	}
	for _, h := range img.History {
		name := "history"
		if h.EmptyLayer {
			name = "history (empty)"
		}
		said := strings.ReplaceAll(h.CreatedBy, "\n", "\\n")
		if h.Created != nil {
			said += " @ " + h.Created.UTC().Format("2006-01-02T15:04:05Z")
		}
		line(name, said)
	}
	return b.String()
}
