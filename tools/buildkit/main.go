// Command buildkit converts the corpus of Dockerfiles with BuildKit's own front end, and says where the expected results
// of Gantry's differ from it, and where the graph is another than BuildKit's LLB. It is a module of its own, because it needs most of BuildKit.
//
//	go -C tools/buildkit run . ../../internal/build/dockerfile/testdata
//
// A case whose head says "oracle: WHY" can't be compared (a named context needs a client, another syntax an engine); one
// that says "differs: WHY" must differ, and the reason has to stand there.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build/dockerfile"
	"gantry/internal/build/dockerfile/corpus"
	"gantry/internal/build/graph"
)

type resolver map[string]json.RawMessage

func (r resolver) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, ok := r[ref]
	if !ok {
		return "", "", nil, fmt.Errorf("%s: not found", ref)
	}
	return ref, "", config, nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: buildkit TESTDATA")
		os.Exit(2)
	}
	data, err := os.ReadFile(filepath.Join(os.Args[1], "images.json"))
	check(err)
	images := resolver{}
	check(json.Unmarshal(data, &images))
	cases, err := corpus.Read(os.Args[1])
	check(err)
	compared, bad := 0, 0
	for _, c := range cases {
		opt, skip := options(c)
		if skip {
			continue
		}
		data, differs := c.Dockerfile(), c.Options["differs"] != nil
		compared++
		got := convert(images, opt, data)
		// BuildKit doesn't tell which arguments nobody asked for.
		want := unused.ReplaceAllString(c.Section("result"), "")
		why := ""
		if got != want {
			why = "BuildKit has\n" + got + "\nexpected is\n" + want
		} else if !strings.HasPrefix(want, "error: ") {
			why = sameGraph(images, opt, data)
		}
		if (why == "") == differs {
			bad++
			fmt.Printf("--- %s\n%s\n", c.Name, cmp.Or(why, "this should differ, and doesn't"))
		}
	}
	fmt.Printf("%d of %d cases compared, %d not as expected\n", compared, len(cases), bad)
	if bad > 0 {
		os.Exit(1)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// options are what BuildKit is told; a case that it can't be told is skipped.
func options(c corpus.Case) (opt dockerfile2llb.ConvertOpt, skip bool) {
	caps := pb.Caps.CapSet(pb.Caps.All())
	opt.LLBCaps = &caps
	opt.BuildArgs, opt.Labels = map[string]string{}, map[string]string{}
	opt.BuildPlatforms = []ocispec.Platform{{OS: "linux", Architecture: "amd64"}}
	for key, values := range c.Options {
		for _, value := range values {
			k, v, _ := strings.Cut(value, "=")
			switch key {
			case "target":
				opt.Target = value
			case "arg":
				opt.BuildArgs[k] = v
			case "label":
				opt.Labels[k] = v
			case "platform":
				p := platforms.MustParse(value)
				opt.TargetPlatform = &p
			case "check":
				opt.AllStages = true
			case "oracle", "classic", "context", "ignore":
				skip = true
			}
		}
	}
	return opt, skip
}

func convert(images resolver, opt dockerfile2llb.ConvertOpt, data []byte) string {
	type warning struct {
		line int
		text string
	}
	var warnings []warning
	opt.MetaResolver = images
	opt.Warn = func(rule, _, _, message string, location []parser.Range) {
		w := warning{0, fmt.Sprintf("warning: %s: %s (%s)\n", rule, message, lines(location))}
		if len(location) > 0 {
			w.line = location[0].Start.Line
		}
		if !slices.Contains(warnings, w) {
			warnings = append(warnings, w)
		}
	}
	var b strings.Builder
	r, err := dockerfile2llb.Dockerfile2LLB(context.Background(), data, opt)
	if err == nil {
		// What is wrong in an instruction may only be found now.
		_, err = r.State.Marshal(context.Background())
	}
	if err != nil {
		fmt.Fprintf(&b, "error: %s\n", err)
		var at *parser.LocationError
		if errors.As(err, &at) {
			var all []parser.Range
			for _, l := range at.Locations {
				all = append(all, l...)
			}
			if len(all) > 0 {
				fmt.Fprintf(&b, "at: %s\n", lines(all))
			}
		}
	} else {
		fmt.Fprintf(&b, "platform: %s\n", platforms.Format(r.Image.Platform))
		b.WriteString(corpus.Describe(*r.Image))
	}
	slices.SortStableFunc(warnings, func(a, b warning) int { return a.line - b.line })
	for _, w := range warnings {
		b.WriteString(w.text)
	}
	return b.String()
}

// ours resolves images for Gantry's conversion.
type ours resolver

func (o ours) ResolveImage(_ context.Context, ref dockerfile.ImageRef) (dockerfile.ResolvedImage, error) {
	config, ok := o[ref.Ref]
	if !ok {
		return dockerfile.ResolvedImage{}, fmt.Errorf("%s: not found", ref.Ref)
	}
	var img dockerfile.ResolvedImage
	return img, json.Unmarshal(config, &img.Config)
}

// sameGraph compares BuildKit's definition with Gantry's graph.
func sameGraph(images resolver, opt dockerfile2llb.ConvertOpt, data []byte) string {
	// A document of COPY is a vertex of its own there, and an action here.
	if copied.Match(data) {
		return ""
	}
	opt.MetaResolver = images
	args := maps.Clone(opt.BuildArgs)
	r, err := dockerfile2llb.Dockerfile2LLB(context.Background(), data, opt)
	if err != nil {
		return err.Error()
	}
	theirs := graph.Edge{}
	if r.State.Output() != nil {
		if theirs, err = translate(r.State); err != nil {
			return err.Error()
		}
	}
	o := dockerfile.Options{BuildPlatform: graph.Platform{OS: "linux", Architecture: "amd64"}, BuildArgs: args, Target: opt.Target, Labels: opt.Labels, AllStages: opt.AllStages}
	if p := opt.TargetPlatform; p != nil {
		o.Platforms = []graph.Platform{{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}
	}
	mine, err := dockerfile.Convert(context.Background(), data, ours(images), o)
	if err != nil {
		return err.Error()
	}
	a, outlineA, err := plain(theirs)
	if err != nil {
		return err.Error()
	}
	b, outlineB, err := plain(mine.Outputs[0].Root)
	if err != nil {
		return err.Error()
	}
	if a == b {
		return ""
	}
	return "BuildKit has\n" + outlineA + "\nGantry has\n" + outlineB
}

var unused = regexp.MustCompile(`(?m)^unused: .*\n`)

var copied = regexp.MustCompile(`(?mi)^\s*(copy|add)\b.*<<`)

func lines(ranges []parser.Range) string {
	type run struct{ start, end int }
	var runs []run
	for _, r := range ranges {
		if n := len(runs); n > 0 && r.Start.Line == runs[n-1].start && r.End.Line == runs[n-1].end {
			continue // said twice
		}
		if n := len(runs); n > 0 && r.Start.Line == runs[n-1].end+1 {
			runs[n-1].end = r.End.Line
			continue
		}
		runs = append(runs, run{r.Start.Line, max(r.Start.Line, r.End.Line)})
	}
	if len(runs) == 0 {
		return ""
	}
	var parts []string
	many := len(runs) > 1
	for _, r := range runs {
		if r.start == r.end {
			parts = append(parts, fmt.Sprint(r.start))
			continue
		}
		many = true
		parts = append(parts, fmt.Sprintf("%d-%d", r.start, r.end))
	}
	if many {
		return "lines " + strings.Join(parts, ", ")
	}
	return "line " + parts[0]
}

var _ llb.ImageMetaResolver = resolver{}
