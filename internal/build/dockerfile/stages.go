package dockerfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// scratch is the name of the empty base.
const scratch = "scratch"

// stage is a stage of the Dockerfile, or something that COPY --from or RUN --mount=from names and that is none:
// then it has no instructions and stands for an image or a named context.
type stage struct {
	c        *converter
	def      instructions.Stage
	index    int
	name     string // "" if it is the only one
	foreign  bool   // not in the file
	platform *graph.Platform
	// base is the stage that FROM names, nil if FROM names something else.
	base *stage
	// context is set if a named context takes the stage's place or that of its base.
	context *namedContext
	whole   bool // context is instead of the stage, not only of its base
	needs   []need
	// commands are the instructions, after the triggers of the base.
	commands []command
	// asked is the image's name as the file has it.
	asked    string
	resolved bool
	begun    bool
	walked   bool
	noCache  bool
	// platformChecked is set when the image's platform was compared.
	platformChecked bool

	// What follows changes as the instructions are walked.
	root0     graph.Edge // what the base is
	root      graph.Edge
	image     dockerspec.DockerOCIImage
	baseImage *dockerspec.DockerOCIImage
	config    *env // image.Config.Env
	env       *env // config with ARGs
	layers    []*graph.Vertex
	buildArgs []instructions.KeyValuePairOptional
	argIndex  map[string]bool
	// paths are those of the stage's file system, or of that which it comes from, that others use. They are shared
	// with the stages that come from it.
	paths                        map[string]bool
	workdirSet                   bool
	step, steps                  int
	cmdSeen, entrySeen, checkSet []parser.Range
	cmdSet                       bool
}

// need says that a stage needs another, and for which instruction.
type need struct {
	on  *stage
	cmd instructions.Command
}

// command is an instruction with the stages that it takes files from.
type command struct {
	instructions.Command
	from    []*stage // one for COPY --from, for RUN one for each mount, nil without from
	trigger bool
}

// use says that path is used of the stage's file system.
func (s *stage) use(path string) { s.paths[path] = true }

// makeStages expands the FROM lines.
func (c *converter) makeStages(defs []instructions.Stage) error {
	for i, def := range defs {
		lint := c.lint.WithMergedConfigFromComments(def.Comments)
		r, err := c.expand(c.lex, def.BaseName, c.global)
		c.checkUndefinedInFrom(r.Unmatched, def.Location, lint)
		if err != nil {
			return parser.WithLocation(err, def.Location)
		}
		if r.Result == "" {
			return parser.WithLocation(fmt.Errorf("base name (%s) should not be blank", def.BaseName), def.Location)
		}
		def.BaseName = r.Result
		s := &stage{c: c, def: def, index: i, name: def.Name, paths: map[string]bool{}, argIndex: map[string]bool{}}
		if def.Platform != "" {
			p, err := c.stagePlatform(def, lint)
			if err != nil {
				return err
			}
			s.platform = p
		}
		if def.Name != "" {
			nc, err := c.namedContext(def.Name, s.platform)
			if err != nil {
				return err
			}
			if nc != nil {
				s.context, s.whole = nc, true
				c.add(s)
				s.base = nil
				continue
			}
		}
		if s.name == "" {
			s.name = "stage-" + strconv.Itoa(i)
		}
		c.add(s)
		if s.base == nil && def.BaseName != scratch {
			s.steps++
		}
		for _, cmd := range def.Commands {
			switch cmd.(type) {
			case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
				s.steps++
			}
		}
		s.noCache = c.o.NoCache && len(c.o.NoCacheStages) == 0 || slices.ContainsFunc(c.o.NoCacheStages, func(n string) bool {
			return strings.EqualFold(n, def.Name)
		})
	}
	return nil
}

func (c *converter) stagePlatform(def instructions.Stage, lint *linter.Linter) (*graph.Platform, error) {
	r, err := c.expand(c.lex, def.Platform, c.global)
	c.checkUndefinedInFrom(r.Unmatched, def.Location, lint)
	c.checkPlatform(def, r, lint)
	if err != nil {
		return nil, parser.WithLocation(fmt.Errorf("failed to process arguments for platform %s: %w", r.Result, err), def.Location)
	}
	mean := func(err error) error {
		for _, k := range sorted(r.Unmatched) {
			if found, better := suggest.WrapErrorMaybe(err, k, c.global.Keys(), true); found {
				return better
			}
		}
		return err
	}
	if r.Result == "" {
		return nil, mean(parser.WithLocation(fmt.Errorf("empty platform value from expression %s", def.Platform), def.Location))
	}
	p, err := parsePlatform(r.Result)
	if err != nil {
		return nil, parser.WithLocation(fmt.Errorf("failed to parse platform %s: %w", def.Platform, mean(err)), def.Location)
	}
	return &p, nil
}

func (c *converter) add(s *stage) {
	c.stages = append(c.stages, s)
	// The name as it is written: stage names are lower case, and so a FROM with capitals never means a stage.
	s.base = c.byName[s.def.BaseName]
	if s.def.Name != "" {
		c.byName[strings.ToLower(s.def.Name)] = s
	}
}

func (c *converter) findTarget() (*stage, error) {
	if c.o.Target == "" {
		return c.stages[len(c.stages)-1], nil
	}
	if s, ok := c.byName[strings.ToLower(c.o.Target)]; ok {
		return s, nil
	}
	// By number, as the classic builder has it and the manual says.
	if n, err := strconv.Atoi(c.o.Target); err == nil && n >= 0 && n < len(c.stages) {
		return c.stages[n], nil
	}
	var names []string
	for _, s := range c.stages {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return nil, suggest.WrapError(fmt.Errorf("target stage %q could not be found", c.o.Target), c.o.Target, names, true)
}

// link finds out which stage needs which.
func (c *converter) link() error {
	for i := 0; i < len(c.stages); i++ {
		s := c.stages[i]
		s.commands = make([]command, len(s.def.Commands))
		for j, cmd := range s.def.Commands {
			linked, err := c.linkCommand(s, cmd)
			if err != nil {
				return err
			}
			s.commands[j] = linked
		}
	}
	if err := c.checkCircles(); err != nil {
		return err
	}
	if len(c.stages) == 1 {
		c.stages[0].name = ""
	}
	return nil
}

func (c *converter) linkCommand(s *stage, cmd instructions.Command) (command, error) {
	linked := command{Command: cmd}
	switch cmd := cmd.(type) {
	case *instructions.CopyCommand:
		if cmd.From == "" {
			return linked, nil
		}
		r, err := c.expand(c.lex, cmd.From, newEnv(nil))
		if err != nil {
			return linked, err
		}
		if r.Result != cmd.From {
			return linked, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
		}
		var from *stage
		if n, err := strconv.Atoi(cmd.From); err != nil {
			from = c.stageOrForeign(cmd.From, cmd.Location())
		} else if n < 0 || n >= len(c.stages) {
			return linked, fmt.Errorf("invalid stage index %d", n)
		} else {
			from = c.stages[n]
		}
		linked.from = []*stage{from}
		s.needs = append(s.needs, need{from, cmd})
	case *instructions.RunCommand:
		mounts := instructions.GetMounts(cmd)
		linked.from = make([]*stage, len(mounts))
		for i, m := range mounts {
			if m.From == "" {
				continue
			}
			// Where m.Type is a variable it isn't known yet what the mount is, so one that needs no other stage may name
			// one all the same.
			linked.from[i] = c.stageOrForeign(m.From, nil)
			s.needs = append(s.needs, need{linked.from[i], cmd})
		}
	}
	return linked, nil
}

// stageOrForeign returns the stage of that name, or a new one that stands for an image or a named context.
func (c *converter) stageOrForeign(name string, loc []parser.Range) *stage {
	if s, ok := c.byName[strings.ToLower(name)]; ok {
		return s
	}
	s := &stage{c: c, def: instructions.Stage{BaseName: name, Location: loc}, foreign: true, paths: map[string]bool{}, argIndex: map[string]bool{}}
	c.add(s)
	return s
}

func (c *converter) checkCircles() error {
	state := map[*stage]int{} // 1 on the way, 2 done
	var way []instructions.Command
	var visit func(s *stage) error
	visit = func(s *stage) error {
		state[s] = 1
		for _, n := range s.needs {
			if state[n.on] == 2 {
				continue
			}
			way = append(way, n.cmd)
			if state[n.on] == 1 {
				// The name of the stage from which the circle was entered.
				return errCircle
			}
			if err := visit(n.on); err != nil {
				return err
			}
			way = way[:len(way)-1]
		}
		state[s] = 2
		return nil
	}
	for _, s := range c.stages {
		if state[s] != 0 {
			continue
		}
		way = way[:0]
		if err := visit(s); err != nil {
			err := fmt.Errorf("circular dependency detected on stage: %s", s.name)
			for _, cmd := range way {
				err = parser.WithLocation(err, cmd.Location())
			}
			return err
		}
	}
	return nil
}

var errCircle = errors.New("circle")

// resolve marks what last needs, and gets the images that it comes from, until triggers bring nothing new.
func (c *converter) resolve(last *stage) (map[*stage]bool, error) {
	for {
		needed := map[*stage]bool{}
		mark(last, needed)
		if c.o.AllStages {
			for _, s := range c.stages {
				mark(s, needed)
			}
		}
		if err := c.resolveBases(needed); err != nil {
			return nil, err
		}
		more := false
		// By number, since triggers add stages.
		for i := 0; i < len(c.stages); i++ {
			s := c.stages[i]
			if !needed[s] || s.begun || s.foreign || s.whole {
				continue
			}
			var triggers []string
			if s.base == nil {
				triggers = s.image.Config.OnBuild
			} else {
				// What the base stage got from its image went off there; only what it says itself is handed on.
				for _, cmd := range s.base.commands {
					if o, ok := cmd.Command.(*instructions.OnbuildCommand); ok {
						triggers = append(triggers, o.Expression)
					}
				}
			}
			s.begun = true
			s.image.Config.OnBuild = nil
			added, err := c.addTriggers(s, triggers)
			if err != nil {
				return nil, parser.SetLocation(err, s.def.Location)
			}
			more = more || added
		}
		if !more {
			return needed, nil
		}
		// A trigger may close a circle.
		if err := c.checkCircles(); err != nil {
			return nil, err
		}
	}
}

func mark(s *stage, needed map[*stage]bool) {
	// The chain of bases may be as long as the file.
	for ; s != nil && !needed[s]; s = s.base {
		needed[s] = true
		for _, n := range s.needs {
			mark(n.on, needed)
		}
	}
}

// addTriggers puts the instructions of ONBUILD before those of s, and says whether they need further stages.
func (c *converter) addTriggers(s *stage, triggers []string) (more bool, err error) {
	if len(triggers) == 0 {
		return false, nil
	}
	commands := make([]command, 0, len(triggers)+len(s.commands))
	start, end := 0, 0
	if loc := s.def.Location; len(loc) > 0 {
		start, end = loc[0].Start.Line, loc[len(loc)-1].End.Line
	}
	for _, t := range triggers {
		if err := c.spend(len(t)); err != nil {
			return false, err
		}
		if err := checkSize([]byte(t)); err != nil {
			return false, err
		}
		ast, err := parser.Parse(strings.NewReader(t))
		if err != nil {
			return false, err
		}
		if len(ast.AST.Children) != 1 {
			return false, errors.New("onbuild trigger should be a single expression")
		}
		node := ast.AST.Children[0]
		node.StartLine, node.EndLine = start, end
		cmd, err := instructions.ParseCommand(node)
		if err != nil {
			return false, err
		}
		linked, err := c.linkCommand(s, cmd)
		if err != nil {
			return false, err
		}
		linked.trigger = true
		more = more || len(linked.from) > 0
		commands = append(commands, linked)
	}
	s.commands = append(commands, s.commands...)
	s.steps += len(triggers)
	return more, nil
}

// At most maxResolving images are asked for at once, and maxImages in all.
const (
	maxResolving = 8
	maxImages    = 1000
)

// resolveBases gets, several at once, what the stages come from that come from no other stage.
func (c *converter) resolveBases(needed map[*stage]bool) error {
	var wg sync.WaitGroup
	var stop atomic.Bool
	turns := make(chan struct{}, maxResolving)
	failed := make([]error, len(c.stages))
	for i, s := range c.stages {
		if s.base != nil || s.resolved {
			continue
		}
		if needed[s] {
			s.resolved = true
		}
		if s.def.BaseName == scratch && !s.whole {
			s.image = emptyImage(c.target)
			s.platform = &c.target
			continue
		}
		if !needed[s] {
			if _, err := reference.ParseNormalizedNamed(s.def.BaseName); err != nil && !s.whole {
				failed[i] = parser.WithLocation(fmt.Errorf("failed to parse stage name %q: %w", s.def.BaseName, err), s.def.Location)
			}
			continue
		}
		if c.resolved++; c.resolved > maxImages {
			failed[i] = parser.WithLocation(fmt.Errorf("the Dockerfile needs more than %d images", maxImages), s.def.Location)
			break
		}
		turns <- struct{}{}
		if stop.Load() {
			break
		}
		wg.Go(func() {
			defer func() { <-turns }()
			if failed[i] = parser.WithLocation(s.resolveBase(), s.def.Location); failed[i] != nil {
				stop.Store(true)
			}
		})
	}
	wg.Wait()
	for i, err := range failed {
		if err != nil {
			return err
		}
		if s := c.stages[i]; needed[s] && s.resolved && !s.platformChecked {
			s.platformChecked = true
			s.checkBasePlatform()
		}
	}
	return nil
}

// resolveBase gets what s comes from. It runs beside those of other stages, and so changes nothing but s.
func (s *stage) resolveBase() error {
	c := s.c
	if s.whole {
		return s.resolveContext()
	}
	name := s.def.BaseName
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return fmt.Errorf("failed to parse stage name %q: %w", name, err)
	}
	platform := c.target
	if s.platform != nil {
		platform = *s.platform
	}
	ref := reference.TagNameOnly(named).String()
	if s.context, err = c.namedContext(ref, &platform); err != nil {
		return err
	}
	if s.context != nil {
		s.platform = &platform
		return s.resolveContext()
	}
	if c.images == nil {
		return errs.NotFound.Errorf("%s: no images are known", name)
	}
	img, err := c.images.ResolveImage(c.ctx, ImageRef{Ref: ref, Platform: platform, Pull: c.o.Pull})
	if err != nil {
		var names []string
		for _, o := range c.stages {
			if o.name != "" {
				names = append(names, o.name)
			}
		}
		return errs.KindOf(err).Wrap(suggest.WrapError(fmt.Errorf("%s: %w", name, err), name, append(names, commonImages()...), true))
	}
	if img.Ref == "" {
		img.Ref = ref
	}
	if s.platform == nil && c.implicit && img.Config.OS != "" && img.Config.Architecture != "" {
		// Nobody asked for a platform: then an image of another one is what it is.
		if own := normalize(c.o.BuildPlatform); img.Config.OS == own.OS && img.Config.Architecture == own.Architecture {
			platform = own
		}
	}
	s.setImage(img.Config)
	s.asked, s.def.BaseName = name, img.Ref
	s.platform = &platform
	if isEmpty(img.Config) {
		return nil
	}
	s.root = graph.Edge{Vertex: &graph.Vertex{
		Op:       &graph.Image{Ref: img.Ref, Pull: c.o.Pull},
		Platform: platform,
		Meta: graph.Meta{
			Name:    s.prefix("FROM " + img.Ref),
			Stage:   s.name,
			Command: s.def.SourceCode,
			Source:  lines(s.def.Location),
		},
	}}
	s.root0 = s.root
	return nil
}

// checkBasePlatform warns if the image isn't for the platform that was asked for.
func (s *stage) checkBasePlatform() {
	if s.asked == "" || s.root.IsScratch() {
		return
	}
	want, have := *s.platform, s.baseImage.Platform
	if want.OS != have.OS || want.Architecture != have.Architecture {
		got := graph.Platform{OS: have.OS, Architecture: have.Architecture, Variant: have.Variant, OSVersion: have.OSVersion}
		msg := linter.RuleInvalidBaseImagePlatform.Format(s.asked, formatAll(normalize(want)), formatAll(normalize(got)))
		s.c.lint.Run(&linter.RuleInvalidBaseImagePlatform, s.def.Location, msg)
	}
}

// setImage makes img what the stage starts from.
func (s *stage) setImage(img dockerspec.DockerOCIImage) {
	base := cloneImage(img)
	s.baseImage = &base
	s.image = cloneImage(img)
	s.image.Created = nil
	s.layers = make([]*graph.Vertex, len(img.History))
}

// isEmpty tells an image without files.
func isEmpty(img dockerspec.DockerOCIImage) bool {
	if len(img.RootFS.DiffIDs) > 0 {
		return false
	}
	for _, h := range img.History {
		if !h.EmptyLayer {
			return false
		}
	}
	return true
}

// commonImages are names that people mistype.
func commonImages() []string {
	var out []string
	for _, name := range []string{"alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"} {
		out = append(out, name, name+":latest", "docker.io/library/"+name, "docker.io/library/"+name+":latest")
	}
	return out
}
