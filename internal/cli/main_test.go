package cli

import (
	"io"
	"testing"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/iostreams"
)

// TestEveryVerb: each has its words, its flags can be made, and no name means two things.
func TestEveryVerb(t *testing.T) {
	t.Parallel()
	top := map[string]bool{}
	var all []*command.Command
	for _, g := range groups() {
		names := map[string]bool{}
		for _, c := range g.Commands {
			for _, n := range append([]string{c.Name}, c.Aliases...) {
				if names[n] {
					t.Errorf("%s %s is there twice", g.Name, n)
				}
				names[n] = true
			}
			all = append(all, c)
		}
	}
	all = append(all, others()...)
	env := &command.Env{IO: iostreams.Test(nil, io.Discard, io.Discard), Prog: "gantry"}
	for _, c := range all {
		name := c.Top
		if name == "" {
			name = c.Name
		}
		if c.Top != "" && top[c.Top] {
			t.Errorf("%s is there twice", c.Top)
		}
		top[c.Top] = true
		if c.Short == "" || c.Flags == nil {
			t.Errorf("%s is not whole", name)
		}
		if c.Flags == nil {
			continue // internal/cli/build has its test
		}
		fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
		c.Flags(fs, env)
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no words", name, f.Name)
			}
		})
	}
}
