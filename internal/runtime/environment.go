package runtime

import (
	"strings"

	api "github.com/moby/moby/api/types/container"
)

// DefaultPath is the PATH of containers that set none.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is Docker's: the defaults and what tells of linked containers, overridden by the container's and those by the exec's. A variable
// without "=" takes an earlier one away. init adds HOME, for which it reads the container's passwd.
func environment(c *api.Config, linked []string, tty bool, exec []string) []string {
	env := []string{"PATH=" + DefaultPath, "HOSTNAME=" + c.Hostname}
	if tty {
		env = append(env, "TERM=xterm")
	}
	return override(override(override(env, linked), c.Env), exec)
}

func override(env, with []string) []string {
	at := make(map[string]int, len(env)+len(with))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		at[name] = i
	}
	for _, e := range with {
		name, _, set := strings.Cut(e, "=")
		i, has := at[name]
		switch {
		case !set && has:
			env[i] = ""
		case !set:
		case has:
			env[i] = e
		default:
			at[name] = len(env)
			env = append(env, e)
		}
	}
	kept := env[:0]
	for _, e := range env {
		if e != "" {
			kept = append(kept, e)
		}
	}
	return kept
}
