package dockerfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"gantry/internal/build/dockerfile"
	"gantry/internal/build/dockerfile/corpus"
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
	cases, err := corpus.Read("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 150 {
		t.Errorf("the corpus has %d files, at least 150 were promised", len(cases))
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			r, err := dockerfile.Convert(t.Context(), c.Dockerfile(), imgs, optionsOf(t, c))
			told, outline := result(r, err), strings.Builder{}
			if err == nil {
				if err := r.Graph.Outline(&outline); err != nil {
					t.Fatal(err)
				}
				checkSound(t, r)
			}
			got := []txtar.File{{Name: "result", Data: []byte(told)}, {Name: "graph", Data: []byte(outline.String())}}
			if *update {
				if err := corpus.Write("testdata", c, got...); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, got := range got {
				if want := c.Section(got.Name); want != string(got.Data) {
					t.Errorf("%s is\n%s\nwant\n%s", got.Name, got.Data, want)
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

// optionsOf reads the options in a case's head.
func optionsOf(t *testing.T, c corpus.Case) dockerfile.Options {
	t.Helper()
	o := dockerfile.Options{
		BuildPlatform: graph.Platform{OS: "linux", Architecture: "amd64"},
		BuildArgs:     map[string]string{}, Labels: map[string]string{}, Contexts: map[string]string{},
	}
	for key, values := range c.Options {
		for _, value := range values {
			option(t, &o, key, value)
		}
	}
	return o
}

func option(t *testing.T, o *dockerfile.Options, key, value string) {
	t.Helper()
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
	case "crlf", "bom", "about", "session", "ctx-link", "ctx-mode", "ctx-tar", "oracle", "differs", "legacy", "image", "why":
	default:
		t.Fatalf("unknown option %q", key)
	}
}

// result tells in words what a conversion gave, but for the graph: tools/buildkit writes the same of BuildKit's own.
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
		b.WriteString(corpus.Describe(o.Config))
	}
	if len(r.UnusedArgs) > 0 {
		fmt.Fprintf(&b, "unused: %s\n", r.UnusedArgs)
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s: %s (%s)\n", w.Rule, w.Message, graph.Lines(w.Source))
	}
	return b.String()
}
