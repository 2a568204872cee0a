package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/build/graph"
)

// dispatch walks the needed stages in the order of the file.
func (c *converter) dispatch(needed map[*stage]bool) error {
	if _, err := c.context(); err != nil {
		return err
	}
	for _, s := range c.stages {
		s.walked = s.foreign || s.whole
	}
	for _, s := range c.stages {
		if !needed[s] || s.walked {
			continue
		}
		if err := s.begin(); err != nil {
			return parser.WithLocation(err, s.def.Location)
		}
		s.walked = true
		for _, cmd := range s.commands {
			if err := s.dispatch(cmd); err != nil {
				return parser.WithLocation(err, cmd.Location())
			}
		}
		s.image.Config.Env = s.config.slice()
	}
	return nil
}

// begin inherits.
func (s *stage) begin() error {
	c := s.c
	if b := s.base; b != nil {
		if err := c.spend(imageBytes(&b.image) + b.size()); err != nil {
			return err
		}
		s.root, s.platform = b.root, b.platform
		s.image = cloneImage(b.image)
		s.image.Config.OnBuild = nil
		s.baseImage = b.baseImage
		s.layers = slices.Clone(b.layers)
		s.paths, s.workdirSet = b.paths, b.workdirSet
		for _, kv := range b.buildArgs {
			s.addBuildArg(kv)
		}
	}
	if s.platform == nil {
		s.platform = &c.target
	}
	s.config = newEnv(s.image.Config.Env)
	if _, ok := s.config.Get("PATH"); !ok && s.platform.OS != "windows" {
		s.config.set("PATH", defaultPath)
	}
	if b := s.base; b != nil && b.env != nil {
		// The variables are those with which the base ended, its ARGs included.
		s.env = b.env.clone()
		for _, kv := range s.config.list {
			k, v, _ := strings.Cut(kv, "=")
			s.env.set(k, v)
		}
	} else {
		s.env = s.config.clone()
	}
	if wd := s.image.Config.WorkingDir; wd != "" {
		s.image.Config.WorkingDir = absolute("/", wd)
	}
	text := "FROM " + s.def.BaseName
	if code := s.def.SourceCode; code != "" {
		text = code
	}
	step := graph.Step{Text: oneLine(text), Stage: s.name, Source: lines(s.def.Location)}
	if s.base == nil {
		step.Vertex = s.root0.Vertex
	} else if s.root.Vertex != nil {
		step.Vertex = s.root.Vertex
	}
	c.steps = append(c.steps, step)
	return nil
}

// size is about what a copy of the stage's variables and arguments costs.
func (s *stage) size() int {
	n := 64 * len(s.buildArgs)
	if s.env != nil {
		n += s.env.size + 2*64*len(s.env.list) + s.config.size
	}
	return n + 8*len(s.layers)
}

func (s *stage) addBuildArg(kv instructions.KeyValuePairOptional) {
	s.argIndex[kv.Key] = true
	s.buildArgs = append(s.buildArgs, kv)
}

// dispatch carries out one instruction.
func (s *stage) dispatch(cmd command) error {
	c := s.c
	lint := c.lint.WithMergedConfigFromComments(cmd.Comments())
	at := walk{s: s, cmd: cmd, lint: lint}
	// An ARG's default may not be needed, so that what is wrong in it may not matter.
	_, isArg := cmd.Command.(*instructions.ArgCommand)
	if e, ok := cmd.Command.(instructions.SupportsSingleWordExpansion); ok && !isArg {
		if err := e.Expand(at.expander(c.lex)); err != nil {
			return err
		}
	}
	if e, ok := cmd.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		if err := e.ExpandRaw(at.expander(lex)); err != nil {
			return err
		}
	}
	before, had := s.root.Vertex, len(s.image.History)
	if err := at.dispatch(); err != nil {
		return err
	}
	step := graph.Step{Text: text(cmd), Stage: s.name, Source: lines(cmd.Location()), Trigger: cmd.trigger}
	if s.root.Vertex != before {
		step.Vertex = s.root.Vertex
	}
	c.steps = append(c.steps, step)
	n := 256 + len(step.Text)
	for _, h := range s.image.History[had:] {
		n += len(h.CreatedBy)
	}
	return c.spend(n)
}

// text is an instruction as it stands in the file.
func text(cmd command) string {
	if s, ok := cmd.Command.(fmt.Stringer); ok {
		return oneLine(s.String())
	}
	return cmd.Name()
}

func oneLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// walk is one instruction being carried out.
type walk struct {
	s    *stage
	cmd  command
	lint *linter.Linter
}

func (w *walk) expander(lex *shell.Lex) instructions.SingleWordExpander {
	return func(word string) (string, error) {
		r, err := w.s.c.expand(lex, word, w.s.env)
		w.checkUndefined(r.Unmatched)
		return r.Result, err
	}
}

func (w *walk) dispatch() error {
	switch cmd := w.cmd.Command.(type) {
	case *instructions.MaintainerCommand:
		w.s.image.Author = cmd.Maintainer
		return w.s.note("MAINTAINER "+cmd.Maintainer, nil)
	case *instructions.EnvCommand:
		return w.env(cmd)
	case *instructions.LabelCommand:
		return w.label(cmd)
	case *instructions.ArgCommand:
		return w.arg(cmd)
	case *instructions.RunCommand:
		return w.run(cmd)
	case *instructions.WorkdirCommand:
		return w.workdir(cmd)
	case *instructions.AddCommand:
		return w.add(cmd)
	case *instructions.CopyCommand:
		return w.copy(cmd)
	case *instructions.OnbuildCommand:
		w.s.image.Config.OnBuild = append(w.s.image.Config.OnBuild, cmd.Expression)
		if w.s.c.o.Classic {
			return w.s.note("ONBUILD "+cmd.Expression, nil)
		}
		return nil
	case *instructions.CmdCommand:
		return w.command(cmd)
	case *instructions.EntrypointCommand:
		return w.entrypoint(cmd)
	case *instructions.HealthCheckCommand:
		return w.healthcheck(cmd)
	case *instructions.ExposeCommand:
		return w.expose(cmd)
	case *instructions.UserCommand:
		w.s.image.Config.User = cmd.User
		return w.s.note("USER "+cmd.User, nil)
	case *instructions.VolumeCommand:
		return w.volume(cmd)
	case *instructions.StopSignalCommand:
		if err := checkSignal(cmd.Signal); err != nil {
			return err
		}
		w.s.image.Config.StopSignal = cmd.Signal
		return w.s.note("STOPSIGNAL "+cmd.Signal, nil)
	case *instructions.ShellCommand:
		w.s.image.Config.Shell = cmd.Shell
		return w.s.note(fmt.Sprintf("SHELL %v", cmd.Shell), nil)
	}
	return fmt.Errorf("unknown instruction: %s", w.cmd.Name())
}

func (w *walk) env(cmd *instructions.EnvCommand) error {
	var said strings.Builder
	said.WriteString("ENV")
	for _, kv := range cmd.Env {
		if kv.NoDelim {
			w.lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(cmd.Name()))
		}
		w.checkSecret("ENV", kv.Key)
		said.WriteString(" " + kv.String())
		w.s.env.set(kv.Key, kv.Value)
		w.s.config.set(kv.Key, kv.Value)
	}
	return w.s.note(said.String(), nil)
}

func (w *walk) label(cmd *instructions.LabelCommand) error {
	var said strings.Builder
	said.WriteString("LABEL")
	config := &w.s.image.Config
	if config.Labels == nil {
		config.Labels = make(map[string]string, len(cmd.Labels))
	}
	for _, kv := range cmd.Labels {
		if kv.NoDelim {
			w.lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(cmd.Name()))
		}
		said.WriteString(" " + kv.String())
		config.Labels[kv.Key] = kv.Value
	}
	return w.s.note(said.String(), nil)
}

// addLabels makes --label the last instructions of the stage, as the classic builder does.
func (s *stage) addLabels(labels map[string]string) {
	keys := make([]string, 0, len(labels))
	for k := range labels {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		s.def.Commands = append(s.def.Commands, instructions.NewLabelCommand(k, labels[k], true))
	}
}

func (w *walk) arg(cmd *instructions.ArgCommand) error {
	s, c := w.s, w.s.c
	said := make([]string, 0, len(cmd.Args))
	for _, kv := range cmd.Args {
		w.checkSecret("ARG", kv.Key)
		classic := kv.Key // the legacy builder tells what stands there, not what came of it
		if c.o.Classic && kv.Value != nil {
			r, err := c.expand(c.lex, *kv.Value, s.env)
			if err != nil {
				return err
			}
			classic += "=" + r.Result
		}
		if v, ok := c.o.BuildArgs[kv.Key]; ok {
			kv.Value = &v
		} else if kv.Value == nil {
			if v, ok := c.global.Get(kv.Key); ok {
				kv.Value = &v
			}
		} else {
			r, err := c.expand(c.lex, *kv.Value, s.env)
			w.checkUndefined(r.Unmatched)
			if err != nil {
				return err
			}
			kv.Value = &r.Result
		}
		one := kv.Key
		if kv.Value != nil {
			s.env.set(kv.Key, *kv.Value)
			one += "=" + *kv.Value
		}
		s.addBuildArg(kv)
		if c.o.Classic {
			one = classic
		}
		said = append(said, one)
	}
	return s.note("ARG "+strings.Join(said, " "), nil)
}

func (w *walk) workdir(cmd *instructions.WorkdirCommand) error {
	s := w.s
	// A relative one only means something if the base image's is known, and that may change. One warning will do: with the
	// first made absolute, the others are, too.
	if !s.workdirSet && !path.IsAbs(cmd.Path) {
		w.lint.Run(&linter.RuleWorkdirRelativePath, cmd.Location(), linter.RuleWorkdirRelativePath.Format(cmd.Path))
	}
	s.workdirSet = true
	dir := absolute(s.image.Config.WorkingDir, cmd.Path)
	s.image.Config.WorkingDir = dir
	if dir == "/" {
		return s.note("WORKDIR /", nil)
	}
	make := &graph.MkDir{Path: path.Clean(dir), Mode: 0o755, Parents: true}
	if user := s.image.Config.User; user != "" && !s.c.o.Classic {
		make.Owner = owner(user, 0, false)
	}
	if s.c.epoch != nil {
		t := s.c.epoch.Unix()
		make.Timestamp = &t
	}
	v := &graph.Vertex{Op: &graph.File{Actions: []graph.Action{{From: graph.Scratch, MkDir: make}}}, Meta: w.meta(cmd.String())}
	v.Meta.IgnoreCache = false
	s.change(v, &v.Op.(*graph.File).Actions[0].Input)
	if make.Owner != nil {
		unbase(make.Owner, v)
	}
	return s.note("WORKDIR "+dir, v)
}

// unbase lets names be looked up nowhere, if there is no input to look in.
func unbase(o *graph.Owner, v *graph.Vertex) {
	if len(v.Inputs) > 0 {
		return
	}
	for _, p := range []*graph.Principal{o.User, o.Group} {
		if p != nil && p.Name != "" {
			p.Input = graph.Scratch
		}
	}
}

// change makes v, which takes the stage's file system as *input, what the stage's file system becomes.
func (s *stage) change(v *graph.Vertex, input *int) {
	if s.root.IsScratch() {
		*input = graph.Scratch
	} else {
		*input = len(v.Inputs)
		v.Inputs = append(v.Inputs, s.root)
	}
	s.root = graph.Edge{Vertex: v}
}

// absolute joins p to the directory that is current.
func absolute(dir, p string) string {
	if dir == "" {
		dir = "/"
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", dir)
	}
	switch {
	case p == "":
		return dir
	case path.IsAbs(p):
		return p
	}
	return path.Join(dir, p)
}

// withShell is a command line in the shell form.
func (s *stage) withShell(args []string) []string {
	sh := []string{"/bin/sh", "-c"}
	if s.image.OS == "windows" {
		sh = []string{"cmd", "/S", "/C"}
	}
	if len(s.image.Config.Shell) > 0 {
		sh = slices.Clone(s.image.Config.Shell)
	}
	return append(sh, strings.Join(args, " "))
}

func (w *walk) commandLine(name string, line instructions.ShellDependantCmdLine) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(w.s.image.Config.Shell) == 0 {
		w.lint.Run(&linter.RuleJSONArgsRecommended, w.cmd.Location(), linter.RuleJSONArgsRecommended.Format(name))
	}
	return w.s.withShell(line.CmdLine)
}

func (w *walk) command(cmd *instructions.CmdCommand) error {
	w.checkOnce(&w.s.cmdSeen)
	config := &w.s.image.Config
	config.Cmd = w.commandLine(cmd.Name(), cmd.ShellDependantCmdLine)
	//lint:ignore SA1019 BuildKit sets it, and so tools that compare images see it.
	config.ArgsEscaped = !w.s.c.o.Classic
	w.s.cmdSet = true
	return w.s.note(fmt.Sprintf("CMD %q", config.Cmd), nil)
}

func (w *walk) entrypoint(cmd *instructions.EntrypointCommand) error {
	w.checkOnce(&w.s.entrySeen)
	config := &w.s.image.Config
	config.Entrypoint = w.commandLine(cmd.Name(), cmd.ShellDependantCmdLine)
	// The base image's CMD was meant for the base image's ENTRYPOINT.
	if !w.s.cmdSet {
		config.Cmd = nil
	}
	return w.s.note(fmt.Sprintf("ENTRYPOINT %q", config.Entrypoint), nil)
}

func (w *walk) healthcheck(cmd *instructions.HealthCheckCommand) error {
	w.checkOnce(&w.s.checkSet)
	check := dockerspec.HealthcheckConfig{
		Test: cmd.Health.Test, Interval: cmd.Health.Interval, Timeout: cmd.Health.Timeout,
		StartPeriod: cmd.Health.StartPeriod, StartInterval: cmd.Health.StartInterval, Retries: cmd.Health.Retries,
	}
	w.s.image.Config.Healthcheck = &check
	if w.s.c.o.Classic {
		said := fmt.Sprintf("HEALTHCHECK &{%q %q %q %q %q %q}", check.Test, check.Interval, check.Timeout, check.StartPeriod, check.StartInterval, rune(check.Retries))
		return w.s.note(said, nil)
	}
	return w.s.note(fmt.Sprintf("HEALTHCHECK %+v", check), nil)
}

func (w *walk) volume(cmd *instructions.VolumeCommand) error {
	config := &w.s.image.Config
	if config.Volumes == nil {
		config.Volumes = map[string]struct{}{}
	}
	for _, v := range cmd.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		config.Volumes[v] = struct{}{}
	}
	return w.s.note(fmt.Sprintf("VOLUME %v", cmd.Volumes), nil)
}

// signals are those that a program may be asked to stop by, without SIG (signal(7)).
var signals = words(`ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP SYS TERM
	TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX`)

func checkSignal(s string) error {
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	ok := signals[name]
	if n, err := strconv.Atoi(s); err == nil {
		ok = n != 0
	} else if d, found := strings.CutPrefix(name, "RTMIN+"); found {
		n, err := strconv.Atoi(d)
		ok = err == nil && n >= 1 && n <= 15
	} else if d, found := strings.CutPrefix(name, "RTMAX-"); found {
		n, err := strconv.Atoi(d)
		ok = err == nil && n >= 1 && n <= 14
	}
	if !ok {
		return fmt.Errorf("invalid signal: %s", s)
	}
	return nil
}
