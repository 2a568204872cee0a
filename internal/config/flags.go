package config

import (
	"fmt"
	"slices"
	"strings"

	"gantry/internal/nearest"
)

// parseFlags reads a command line in the way of dockerd: --name value, --name=value, -x value, -xvalue; a
// boolean's value may only come with "=".
func parseFlags(args []string) ([]setting, error) {
	var all []setting
	add := func(o *option, where, v string) {
		if o.kind == list || o.kind == pairs || o.kind == ulimits || o.kind == pools {
			for i := range all {
				if all[i].opt == o {
					all[i].values = append(all[i].values, v)
					return
				}
			}
		} else if i := slices.IndexFunc(all, func(s setting) bool { return s.opt == o }); i >= 0 {
			all[i].values = []string{v} // the last one counts
			return
		}
		all = append(all, setting{o, []string{v}, where})
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		var o *option
		var where, value string
		var has bool
		switch {
		case arg == "--help" || arg == "-h":
			return nil, ErrHelp
		case arg == "--version" || arg == "-v":
			return nil, ErrVersion
		case strings.HasPrefix(arg, "--") && len(arg) > 2:
			var name string
			name, value, has = strings.Cut(arg[2:], "=")
			where = "--" + name
			i := slices.IndexFunc(options, func(o *option) bool { return o.flag == name })
			if i < 0 {
				return nil, fmt.Errorf("unknown flag: --%s%s", name, suggestFlag(name))
			}
			o = options[i]
		case len(arg) > 1 && arg[0] == '-' && arg[1] != '-':
			i := slices.IndexFunc(options, func(o *option) bool { return o.short != 0 && o.short == arg[1] })
			if i < 0 {
				return nil, fmt.Errorf("unknown shorthand flag: '%c' in %s", arg[1], arg)
			}
			o, where = options[i], "--"+options[i].flag
			if rest := arg[2:]; rest != "" {
				if o.kind == boolean && rest[0] != '=' {
					args = append([]string{"-" + rest}, args...) // -D followed by others
				} else {
					value, has = strings.TrimPrefix(rest, "="), true
				}
			}
		default:
			return nil, fmt.Errorf("\"gantry daemon\" accepts no arguments: %q", arg)
		}
		switch {
		case has:
		case o.kind == boolean:
			value = "true"
		case len(args) == 0:
			return nil, fmt.Errorf("flag needs an argument: %s", where)
		default:
			value, args = args[0], args[1:]
		}
		if o.kind == pairs && !strings.Contains(value, "=") {
			return nil, fmt.Errorf("%s: invalid option %q: want key=value", where, value)
		}
		add(o, where, value)
	}
	return all, nil
}

func suggestFlag(name string) string {
	var all []string
	for _, o := range options {
		all = append(all, o.flag)
	}
	if n := nearest.To(name, slices.Sorted(slices.Values(all))); n != "" {
		return fmt.Sprintf(" (did you mean --%s?)", n)
	}
	return ""
}
