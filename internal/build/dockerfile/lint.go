package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/patternmatcher"

	"gantry/internal/build/graph"
	"gantry/internal/errs"
)

// maxWarnings bounds what a file full of odd lines says.
const maxWarnings = 1000

// checkSyntax reads "# syntax=": the Dockerfile's own front end, of whatever version, is this package. Another
// language can't be had.
func (c *converter) checkSyntax(data []byte) error {
	ref, _, loc, ok := parser.DetectSyntax(data)
	if v, given := c.o.BuildArgs["BUILDKIT_SYNTAX"]; given && v != "" {
		ref, loc, ok = v, nil, true
	}
	if !ok {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return parser.WithLocation(fmt.Errorf("failed to parse syntax %q: %w", ref, err), loc)
	}
	switch reference.FamiliarName(named) {
	case "docker/dockerfile", "docker/dockerfile-upstream":
		return nil
	}
	err = errs.NotImplemented.Errorf("syntax %s is not the Dockerfile's: its frontend can't be run here (docker/dockerfile, in any version, is built in)", ref)
	return errs.NotImplemented.Wrap(parser.WithLocation(err, loc))
}

// newLinter reads "# check=".
func (c *converter) newLinter(data []byte) error {
	options, _, _, _ := parser.ParseDirective("check", data)
	if v, ok := c.o.BuildArgs["BUILDKIT_DOCKERFILE_CHECK"]; ok {
		options = v
	}
	config, err := linter.ParseLintOptions(options)
	if err != nil {
		return fmt.Errorf("failed to parse check options: %w", err)
	}
	config.Warn = func(rule, description, url, message string, location []parser.Range) {
		if len(c.warnings) < maxWarnings {
			c.warnings = append(c.warnings, graph.Warning{Rule: rule, Message: message, Description: description, URL: url, Source: lines(location)})
		}
	}
	c.lint = linter.New(config)
	return nil
}

// lintError is the error that "# check=error=true" makes of warnings.
func (c *converter) lintError() error {
	if !c.lint.ReturnAsError || len(*c.lint.CalledRules) == 0 {
		return nil
	}
	rules := slices.Clone(*c.lint.CalledRules)
	slices.Sort(rules)
	return errors.New("lint violation found for rules: " + strings.Join(slices.Compact(rules), ", "))
}

func sorted(set map[string]struct{}) []string {
	keys := make([]string, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// similar returns the name that was meant, perhaps. Among very many it isn't looked for.
func similar(name string, names []string) string {
	if len(names) > 1000 {
		return ""
	}
	match, _ := suggest.Search(name, names, true)
	return match
}

func checkStageNames(stages []instructions.Stage, lint *linter.Linter) {
	seen := map[string]bool{}
	for _, s := range stages {
		if s.Name == "" {
			continue
		}
		if s.Name == scratch || s.Name == "context" {
			lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if seen[s.Name] {
			lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// checkCasing finds instructions that are not written as most are, upper or lower case.
func checkCasing(stages []instructions.Stage, lint *linter.Linter) {
	lower, upper := 0, 0
	each := func(f func(name string, loc []parser.Range)) {
		for _, s := range stages {
			f(s.OrigCmd, s.Location)
			for _, cmd := range s.Commands {
				f(cmd.Name(), cmd.Location())
			}
		}
	}
	each(func(name string, _ []parser.Range) {
		switch name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			upper++
		}
	})
	want, as := strings.ToUpper, "uppercase"
	if lower > upper {
		want, as = strings.ToLower, "lowercase"
	}
	each(func(name string, loc []parser.Range) {
		if name != want(name) {
			lint.Run(&linter.RuleConsistentInstructionCasing, loc, linter.RuleConsistentInstructionCasing.Format(name, as))
		}
	})
}

// checkDefaultBases finds FROM lines that mean nothing unless somebody gives a build argument.
func (c *converter) checkDefaultBases(stages []instructions.Stage, defaults shell.EnvGetter) {
	for _, s := range stages {
		r, err := c.expand(c.lex, s.BaseName, defaults)
		if err != nil {
			return
		}
		if _, err := reference.ParseNormalizedNamed(r.Result); err != nil {
			c.lint.Run(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
		}
	}
}

// checkUndefinedInFrom finds variables of a FROM that no ARG before it declares.
func (c *converter) checkUndefinedInFrom(unmatched map[string]struct{}, loc []parser.Range, lint *linter.Linter) {
	for _, name := range sorted(unmatched) {
		if _, ok := c.global.Get(name); ok || c.declared[name] {
			continue
		}
		names := c.global.Keys()
		for k := range c.declared {
			names = append(names, k)
		}
		slices.Sort(names)
		lint.Run(&linter.RuleUndefinedArgInFrom, loc, linter.RuleUndefinedArgInFrom.Format(name, similar(name, names)))
	}
}

// checkPlatform finds a FROM --platform that says what holds anyway, or names one platform for all.
func (c *converter) checkPlatform(def instructions.Stage, r shell.ProcessWordResult, lint *linter.Linter) {
	if len(r.Matched) == 1 && len(r.Unmatched) == 0 {
		if _, ok := r.Matched["TARGETPLATFORM"]; ok {
			if v, _ := c.global.Get("TARGETPLATFORM"); v == r.Result {
				lint.Run(&linter.RuleRedundantTargetPlatform, def.Location, linter.RuleRedundantTargetPlatform.Format(def.Platform))
			}
		}
	}
	if len(r.Matched) > 0 || len(r.Unmatched) > 0 {
		return
	}
	p, err := parsePlatform(r.Result)
	if err != nil || strings.Contains(def.Name, p.OS) || strings.Contains(def.Name, p.Architecture) {
		return
	}
	lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, def.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(r.Result))
}

// checkUndefined finds variables that nothing defines.
func (w *walk) checkUndefined(unmatched map[string]struct{}) {
	for _, name := range sorted(unmatched) {
		// An ARG without a value is known all the same.
		if w.s.argIndex[name] || len(w.s.c.warnings) >= maxWarnings {
			continue
		}
		msg := linter.RuleUndefinedVar.Format(name, similar(name, w.s.env.Keys()))
		w.lint.Run(&linter.RuleUndefinedVar, w.cmd.Location(), msg)
	}
}

// checkOnce finds instructions of which only the last counts: the warning is about the one before.
func (w *walk) checkOnce(seen *[]parser.Range) {
	if *seen != nil {
		w.lint.Run(&linter.RuleMultipleInstructionsDisallowed, *seen, linter.RuleMultipleInstructionsDisallowed.Format(w.cmd.Name()))
	}
	*seen = w.cmd.Location()
}

// Whole words of a name that hold, or do not hold, a secret.
var (
	secretName = regexp.MustCompile(`(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicName = regexp.MustCompile(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

func (w *walk) checkSecret(instruction, key string) {
	if secretName.MatchString(key) && !publicName.MatchString(key) {
		w.lint.Run(&linter.RuleSecretsUsedInArgOrEnv, w.cmd.Location(), linter.RuleSecretsUsedInArgOrEnv.Format(instruction, key))
	}
}

// ignoreMatcher tells what .dockerignore leaves out.
type ignoreMatcher interface {
	Exclusions() bool
	MatchesOrParentMatches(file string) (bool, error)
	Patterns() []*patternmatcher.Pattern
}

func (c *converter) newIgnore() error {
	if len(c.o.Ignore) == 0 {
		return nil
	}
	m, err := patternmatcher.New(c.o.Ignore)
	if err != nil {
		return err
	}
	c.ignore = m
	return nil
}

// checkIgnored finds a source that .dockerignore leaves out. With exceptions (!…) that can't be told from the
// patterns alone.
func (w *walk) checkIgnored(t *transfer, src string) {
	m := w.s.c.ignore
	if m == nil || m.Exclusions() {
		return
	}
	src = path.Clean(src)
	if src == "." || src == "/" {
		if !slices.ContainsFunc(m.Patterns(), func(p *patternmatcher.Pattern) bool {
			return slices.Contains([]string{"*", "**", "**/*"}, p.String())
		}) {
			return
		}
	}
	if ok, err := m.MatchesOrParentMatches(src); ok && err == nil {
		name := []string{"Copy", "Add"}[b2i(t.add)]
		w.lint.Run(&linter.RuleCopyIgnoredFile, w.cmd.Location(), linter.RuleCopyIgnoredFile.Format(name, src))
	}
}
