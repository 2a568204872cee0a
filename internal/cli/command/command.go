// Package command is what every verb of the command line is made of: its name, its flags, and what it does.
//
// A verb's flags are made when it is called, not before: building the whole tree of flags at every start would cost
// more than most calls. Flag errors, usage lines, help and exit codes are Docker's.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/nearest"
)

// Run does a verb's work.
type Run func(ctx context.Context, env *Env, args []string) error

// Command is one verb.
type Command struct {
	Name    string   // in its group: ls
	Top     string   // at the top level: ps; "" if it is not there
	Aliases []string // further names in its group
	Args    string   // what the usage line shows after the name: "[OPTIONS] CONTAINER [CONTAINER...]"
	OrArgs  string   // the same of a second usage line, by the name at the top level; "" if there is none
	Short   string   // one line of help
	Min     int      // least arguments
	Max     int      // most arguments, -1 for any number
	Stop    bool     // flags end at the first argument, for what follows belongs to the container
	Flags   Flags
}

// Flags registers a verb's flags and returns what does its work.
type Flags func(*pflag.FlagSet, *Env) Run

// Group is a noun with its verbs.
type Group struct {
	Name, Short string
	Commands    []*Command
}

// Find returns the group's command of that name or alias.
func (g *Group) Find(name string) *Command {
	for _, c := range g.Commands {
		if c.Name == name {
			return c
		}
		for _, a := range c.Aliases {
			if a == name {
				return c
			}
		}
	}
	return nil
}

// StatusError ends the program with a code; Text, if any, goes to stderr as it is.
type StatusError struct {
	Text string
	Code int
}

func (e *StatusError) Error() string { return e.Text }

// Hint is an error with a line that says what to do next. It is shown under Docker's words, and not
// at all when the program is called as docker.
type Hint struct {
	Err  error
	Line string
}

func (e *Hint) Error() string { return e.Err.Error() }
func (e *Hint) Unwrap() error { return e.Err }

// Invoke parses args and runs c, called by path ("run", "container run"); group is the name of its group, "" for none.
func Invoke(ctx context.Context, env *Env, c *Command, group, path string, args []string) error {
	env.Path = path
	fs := pflag.NewFlagSet(c.Name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = true
	fs.SetInterspersed(!c.Stop)
	run := c.Flags(fs, env)
	if fs.Lookup("help") == nil {
		short := "h"
		if fs.ShorthandLookup("h") != nil {
			short = ""
		}
		fs.BoolP("help", short, false, "Print usage")
		fs.Lookup("help").Hidden = true
	}
	if err := fs.Parse(args); err != nil {
		return meant(FlagError(env, c.usage(env), err), err, fs)
	}
	if help, _ := fs.GetBool("help"); help {
		if strings.HasPrefix(firstHelp(args), "-h") {
			fmt.Fprintln(env.IO.Err, "Flag shorthand -h has been deprecated, use --help")
		}
		c.help(env, group, fs)
		return nil
	}
	rest := fs.Args()
	if err := c.arity(env, len(rest)); err != nil {
		return err
	}
	return run(ctx, env, rest)
}

func firstHelp(args []string) string {
	for _, a := range args {
		if a == "-h" || a == "--help" {
			return a
		}
	}
	return ""
}

func (c *Command) usage(env *Env) string {
	if c.Args == "" {
		return env.Prog + " " + env.Path
	}
	usage := env.Prog + " " + env.Path + " " + c.Args
	if c.OrArgs != "" {
		usage += "\n\t" + env.Prog + " " + c.Top + " " + c.OrArgs
	}
	return usage
}

// FlagError is a flag that can't be parsed: 125, with the usage line.
func FlagError(env *Env, usage string, err error) error {
	name := env.Prog
	if env.Path != "" {
		name += " " + env.Path
	}
	return &StatusError{fmt.Sprintf("%s\n\nUsage:  %s\n\nRun '%s --help' for more information", err, usage, name), 125}
}

// meant adds the flag that was most likely meant to the error of one that there is not.
func meant(shown, err error, fs *pflag.FlagSet) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
		return shown
	}
	var names []string
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if n := nearest.To(unknown.GetSpecifiedName(), names); n != "" {
		return &Hint{Err: shown, Line: "Did you mean '--" + n + "'?"}
	}
	return shown
}

func plural(n int) string {
	if n == 1 {
		return "argument"
	}
	return "arguments"
}

func (c *Command) arity(env *Env, n int) error {
	name := env.Prog + " " + env.Path
	text, see := "", "Run"
	switch {
	case c.Max == 0 && n > 0:
		text = "accepts no arguments"
	case c.Min == c.Max && n != c.Min:
		text = fmt.Sprintf("requires %d %s", c.Min, plural(c.Min))
	case n < c.Min:
		text, see = fmt.Sprintf("requires at least %d %s", c.Min, plural(c.Min)), "See"
	case c.Max >= 0 && n > c.Max:
		text = fmt.Sprintf("requires at most %d %s", c.Max, plural(c.Max))
	default:
		return nil
	}
	return fmt.Errorf("%s: '%s' %s\n\nUsage:  %s\n\n%s '%s --help' for more information", env.Prog, name, text, c.usage(env), see, name)
}

func (c *Command) help(env *Env, group string, fs *pflag.FlagSet) {
	w := env.IO.Out
	fmt.Fprintf(w, "Usage:  %s\n\n%s\n", c.usage(env), c.Short)
	var names []string
	if group != "" {
		for _, n := range append([]string{c.Name}, c.Aliases...) {
			names = append(names, env.Prog+" "+group+" "+n)
		}
		if c.Top != "" {
			names = append(names, env.Prog+" "+c.Top)
		}
	}
	if len(names) > 1 {
		fmt.Fprintf(w, "\nAliases:\n  %s\n", strings.Join(names, ", "))
	}
	if fs.HasAvailableFlags() {
		_, width := env.IO.Size()
		if width == 0 {
			width = 80
		}
		fmt.Fprintf(w, "\nOptions:\n%s", fs.FlagUsagesWrapped(int(width)))
	}
}

// Report prints err as the program's last words and returns the exit code.
func Report(env *Env, err error) int {
	if err == nil {
		return 0
	}
	code := 1
	var s *StatusError
	if errors.As(err, &s) {
		code = s.Code
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(env.IO.Err, text)
	}
	var h *Hint
	if errors.As(err, &h) && h.Line != "" && !env.AsDocker() {
		fmt.Fprintln(env.IO.Err, h.Line)
	}
	return code
}
