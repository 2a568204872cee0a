// Package dockerfile turns a Dockerfile into a graph of operations (internal/build/graph). It is pure: the same bytes
// and options give the same graph, nothing is read or run, and the one thing that has to be asked outside (what an image's
// configuration is, for FROM inherits from it) goes through [ImageResolver].
//
// # The story
//
// [Convert] has BuildKit's own parser read the file, so that what is a comment, a heredoc or a mistake is decided
// by the same code as everywhere else. Then:
//
//  1. The ARGs before the first FROM and the predefined ones get their values; FROM lines are expanded with them
//     and become stages, and a stage knows which others it needs: by FROM, COPY --from or RUN --mount=from.
//  2. From the target backwards, what is needed is marked; the base images of those stages, and only of those, are
//     resolved. ONBUILD triggers that they bring may need further stages, so this is done until nothing new comes.
//  3. The stages are walked in the order of the file, one instruction after the other. Each changes the
//     image's configuration, or adds a vertex to the graph, or both, and writes its line of history.
//  4. The context's vertex learns which paths of it were named, so that no others have to travel.
//
// All along BuildKit's checks look on and make warnings.
//
// What people rely on are BuildKit's texts: errors, history entries and the names of steps are those. With
// Options.Classic the history is written as Docker's classic builder writes it.
//
// A Dockerfile may come from anyone. What it can make grow (variables that double, histories that are
// inherited by thousands of stages) is paid for from one allowance, see budget.go.
package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// ImageResolver knows images.
type ImageResolver interface {
	// ResolveImage returns the configuration of the image that ref, a whole reference, names for the platform.
	ResolveImage(ctx context.Context, ref ImageRef) (ResolvedImage, error)
}

// ImageRef says which image.
type ImageRef struct {
	// Ref is like docker.io/library/debian:13.
	Ref string
	// Layout is the OCI layout of the client's to look in; "" means the store and registries.
	Layout   string
	Platform graph.Platform
	Pull     graph.PullMode
}

// ResolvedImage is what a resolver found.
type ResolvedImage struct {
	// Ref is ImageRef's, with the digest of the manifest or index if that is known: what is built is then what was resolved.
	Ref    string
	Config dockerspec.DockerOCIImage
}

// Options are what the one who asks for a build can say besides the Dockerfile.
type Options struct {
	// Target is the stage to build, by name or number; "" is the last one.
	Target    string
	BuildArgs map[string]string
	// Labels are put on the image.
	Labels map[string]string
	// Context is where COPY takes from: the address of a git repository or of an archive; "" is the folder that the client
	// offers as "context".
	Context string
	// Contexts are further ones by name, as buildx sends them: docker-image://…, oci-layout://…, a git or HTTP address, or
	// local:NAME for a folder that the client offers as NAME.
	Contexts map[string]string
	// Ignore are the patterns of .dockerignore, for a check only.
	Ignore []string
	// Platforms are those to build for, none means BuildPlatform.
	Platforms []graph.Platform
	// BuildPlatform is the engine's own.
	BuildPlatform graph.Platform
	Pull          graph.PullMode
	// NoCache ignores the cache for all stages, or for NoCacheStages if there are any.
	NoCache       bool
	NoCacheStages []string
	// The rest is for RUN.
	Network      graph.NetworkMode
	Hosts        []graph.Host
	Hostname     string
	Ulimits      []graph.Ulimit
	ShmSize      int64
	CgroupParent string
	Resources    *graph.Resources
	// Classic writes the history as Docker's classic builder does, and does what else it does differently: labels are
	// instructions of their own, WORKDIR's directory is root's, an unknown user of --chown is an error.
	Classic bool
	// AllStages converts those that nothing needs as well, as --check does without a target.
	AllStages bool
}

// Error is what is wrong with a Dockerfile. Its text is BuildKit's.
type Error struct {
	// Source are the lines that the error is about, in the order in which a person should look at them; nil if it is about
	// none in particular.
	Source []graph.Range
	err    error
}

func (e *Error) Error() string { return e.err.Error() }
func (e *Error) Unwrap() error { return e.err }

// located gives err its lines, if it knows some and hasn't got them, and the kind Invalid unless it has one.
func located(err error) error {
	if err == nil {
		return nil
	}
	e := &Error{err: err}
	var loc *parser.LocationError
	if errors.As(err, &loc) {
		for _, l := range loc.Locations {
			e.Source = append(e.Source, lines(l)...)
		}
	}
	kind := errs.KindOf(err)
	if kind == errs.Internal {
		kind = errs.Invalid
	}
	return kind.Wrap(e)
}

// lines makes runs of ranges, which the parser gives line by line.
func lines(ranges []parser.Range) []graph.Range {
	var out []graph.Range
	for _, r := range ranges {
		if n := len(out); n > 0 && r.Start.Line == out[n-1].End+1 {
			out[n-1].End = r.End.Line
			continue
		}
		out = append(out, graph.Range{Start: r.Start.Line, End: max(r.Start.Line, r.End.Line)})
	}
	return out
}

// Convert makes a graph of a Dockerfile. Errors have the kind Invalid, or the resolver's; most are an *Error. If the
// Dockerfile is wrong, the warnings found up to there come with the error.
func Convert(ctx context.Context, data []byte, images ImageResolver, o Options) (*graph.Result, error) {
	platforms := o.Platforms
	if len(platforms) == 0 {
		platforms = []graph.Platform{{}}
	}
	result := &graph.Result{}
	var roots []*graph.Edge
	for _, p := range platforms {
		c := &converter{
			ctx: ctx, o: o, images: images, target: normalize(p), implicit: p == graph.Platform{},
			byName: map[string]*stage{}, warned: map[string]bool{}, left: allowance,
		}
		if c.implicit {
			c.target = normalize(o.BuildPlatform)
		}
		out, err := c.convert(data)
		result.Warnings = mergeWarnings(result.Warnings, c.warnings)
		if err != nil {
			return &graph.Result{Warnings: result.Warnings}, located(err)
		}
		if result.Outputs == nil {
			result.Steps, result.Epoch, result.UnusedArgs = c.steps, c.epoch, c.unusedArgs()
		}
		result.Outputs = append(result.Outputs, *out)
	}
	for i := range result.Outputs {
		roots = append(roots, &result.Outputs[i].Root)
	}
	// What isn't a root may be referred to by Layers and Steps: sealing tells which vertex was kept.
	g, err := graph.Seal(roots...)
	if err != nil {
		return nil, err
	}
	result.Graph = g
	for i := range result.Outputs {
		for j, v := range result.Outputs[i].Layers {
			result.Outputs[i].Layers[j] = kept(g, v)
		}
	}
	for i, s := range result.Steps {
		result.Steps[i].Vertex = kept(g, s.Vertex)
	}
	return result, nil
}

// kept returns the vertex of g that v became.
func kept(g *graph.Graph, v *graph.Vertex) *graph.Vertex {
	if v == nil {
		return nil
	}
	return g.Vertex(v.Digest())
}

func mergeWarnings(all, more []graph.Warning) []graph.Warning {
	for _, w := range more {
		if !slices.ContainsFunc(all, func(o graph.Warning) bool {
			return o.Rule == w.Rule && o.Message == w.Message && slices.Equal(o.Source, w.Source)
		}) {
			all = append(all, w)
		}
	}
	slices.SortStableFunc(all, func(a, b graph.Warning) int { return firstLine(a) - firstLine(b) })
	return all
}

func firstLine(w graph.Warning) int {
	if len(w.Source) == 0 {
		return 0
	}
	return w.Source[0].Start
}

// converter is one conversion, for one platform.
type converter struct {
	ctx      context.Context
	o        Options
	images   ImageResolver
	target   graph.Platform
	implicit bool

	lex      *shell.Lex
	escape   rune
	lint     *linter.Linter
	warnings []graph.Warning
	warned   map[string]bool
	// global are the ARGs before the first FROM and the predefined ones, declared those of the file alone.
	global   *env
	declared map[string]bool
	epoch    *time.Time
	proxy    *graph.Proxy
	ignore   ignoreMatcher

	stages []*stage
	byName map[string]*stage
	// local is the context's vertex, made when the first asks for it; paths are what is used of it.
	local graph.Edge
	asked bool
	paths map[string]bool
	steps []graph.Step
	// resolved counts images.
	resolved int
	// left is what is left of the allowance.
	left int64
}

func (c *converter) convert(data []byte) (*graph.Output, error) {
	if len(data) == 0 {
		return nil, errors.New("the Dockerfile cannot be empty")
	}
	if err := checkSize(data); err != nil {
		return nil, err
	}
	if err := c.checkSyntax(data); err != nil {
		return nil, err
	}
	if err := c.newLinter(data); err != nil {
		return nil, err
	}
	parsed, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	for _, w := range parsed.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			c.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	stages, args, err := instructions.Parse(parsed.AST, c.lint)
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 {
		return nil, errors.New("dockerfile contains no stages to build")
	}
	c.escape, c.lex = parsed.EscapeToken, shell.NewLex(parsed.EscapeToken)
	checkStageNames(stages, c.lint)
	checkCasing(stages, c.lint)
	if err := c.newIgnore(); err != nil {
		return nil, err
	}
	target := c.o.Target
	if target == "" {
		target = stages[len(stages)-1].Name
	}
	if err := c.globals(stages, args, target); err != nil {
		return nil, err
	}
	if err := c.makeStages(stages); err != nil {
		return nil, err
	}
	last, err := c.findTarget()
	if err != nil {
		return nil, err
	}
	if c.o.Classic {
		last.addLabels(c.o.Labels)
	}
	if err := c.link(); err != nil {
		return nil, err
	}
	needed, err := c.resolve(last)
	if err != nil {
		return nil, err
	}
	for _, a := range args {
		c.steps = append(c.steps, graph.Step{Text: a.String(), Source: lines(a.Location())})
	}
	if err := c.dispatch(needed); err != nil {
		return nil, err
	}
	return c.finish(last)
}

// finish makes the output of the target's stage.
func (c *converter) finish(last *stage) (*graph.Output, error) {
	last.use("/")
	if !c.o.Classic && len(c.o.Labels) > 0 {
		if last.image.Config.Labels == nil {
			last.image.Config.Labels = map[string]string{}
		}
		for k, v := range c.o.Labels {
			last.image.Config.Labels[k] = v
		}
	}
	if err := c.lintError(); err != nil {
		return nil, err
	}
	follow(c.local, c.paths)
	for _, s := range c.stages {
		if s.context != nil {
			follow(s.root0, s.paths)
		}
	}
	if !c.implicit {
		img := &last.image
		same := img.OS == c.target.OS && img.Architecture == c.target.Architecture
		img.OS, img.Architecture = c.target.OS, c.target.Architecture
		if c.target.Variant != "" || !same {
			img.Variant = c.target.Variant
		}
		if c.target.OSVersion != "" || !same {
			img.OSVersion = c.target.OSVersion
		}
	}
	p := normalize(graph.Platform{OS: last.image.OS, Architecture: last.image.Architecture, Variant: last.image.Variant, OSVersion: last.image.OSVersion})
	last.image.OS, last.image.Architecture, last.image.Variant, last.image.OSVersion = p.OS, p.Architecture, p.Variant, p.OSVersion
	return &graph.Output{Platform: p, Root: last.root, Config: last.image, Base: last.baseImage, Layers: last.layers}, nil
}

// follow tells a folder of the client's which of its paths are used.
func follow(e graph.Edge, paths map[string]bool) {
	if e.Vertex == nil {
		return
	}
	local, ok := e.Vertex.Op.(*graph.Local)
	if !ok {
		return
	}
	local.Follow = nil
	for p := range paths {
		if p == "/" {
			local.Follow = nil
			return
		}
		local.Follow = append(local.Follow, strings.TrimPrefix(p, "/"))
	}
	slices.Sort(local.Follow)
}
