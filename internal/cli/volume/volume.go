// Package volume is the verbs of volumes, one file each.
package volume

import (
	"errors"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// each does f for every name; failures come together after the others.
func each(names []string, f func(string) error) error {
	var failed []string
	for _, n := range names {
		if err := f(n); err != nil {
			failed = append(failed, err.Error())
		}
	}
	if len(failed) > 0 {
		return errors.New(strings.Join(failed, "\n"))
	}
	return nil
}

// pairs reads k=v; a k alone has an empty value.
func pairs(list []string) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		m[k] = v
	}
	return m
}

func filters(fs *pflag.FlagSet, short, help string) *client.Filters {
	f := new(client.Filters)
	fs.VarP(&flags.Each{Kind: "filter", Parse: func(s string) error { return parse.Filter(s, f.Add) }}, "filter", short, help)
	return f
}
