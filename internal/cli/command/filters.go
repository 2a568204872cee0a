package command

import (
	"github.com/spf13/pflag"

	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Filters defines --filter; all that it is given is added to f.
func Filters(fs *pflag.FlagSet, f *client.Filters, short, help string) {
	add := func(s string) error { return parse.Filter(s, f.Add) }
	fs.VarP(&flags.Each{Kind: "filter", Parse: add}, "filter", short, help)
}
