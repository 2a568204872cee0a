package image

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"gantry/internal/errs"
)

// Apply changes an image's configuration by Dockerfile instructions, as --change of commit and import gives them.
func Apply(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, line := range changes {
		for part := range strings.Lines(strings.ReplaceAll(line, "\\\n", " ")) {
			part = strings.TrimSpace(part)
			if part == "" || strings.HasPrefix(part, "#") {
				continue
			}
			if err := apply(c, part); err != nil {
				return err
			}
		}
	}
	return nil
}

func apply(c *dockerspec.DockerOCIImageConfig, line string) error {
	word, rest := line, ""
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		word, rest = line[:i], strings.TrimSpace(line[i:])
	}
	name := strings.ToUpper(word)
	if rest == "" && name != "CMD" && name != "ENTRYPOINT" {
		switch name {
		case "ENV", "LABEL", "EXPOSE", "USER", "VOLUME", "WORKDIR", "STOPSIGNAL", "ONBUILD", "HEALTHCHECK", "SHELL":
			return errs.Invalid.Errorf("%s requires at least one argument", name)
		}
	}
	switch name {
	case "CMD":
		c.Cmd = command(c, rest)
	case "ENTRYPOINT":
		c.Entrypoint = command(c, rest)
	case "SHELL":
		list, ok := jsonList(rest)
		if !ok || len(list) == 0 {
			return errs.Invalid.Errorf("SHELL requires the arguments to be in JSON form")
		}
		c.Shell = list
	case "ENV":
		pairs, err := keyValues("ENV", rest)
		if err != nil {
			return err
		}
		for _, kv := range pairs {
			setEnv(c, kv[0], kv[1])
		}
	case "LABEL":
		pairs, err := keyValues("LABEL", rest)
		if err != nil {
			return err
		}
		labels := map[string]string{}
		for k, v := range c.Labels {
			labels[k] = v
		}
		for _, kv := range pairs {
			labels[kv[0]] = kv[1]
		}
		c.Labels = labels
	case "EXPOSE":
		return expose(c, strings.Fields(rest))
	case "USER":
		c.User = rest
	case "VOLUME":
		list, ok := jsonList(rest)
		if !ok {
			list = strings.Fields(rest)
		}
		volumes := map[string]struct{}{}
		for v := range c.Volumes {
			volumes[v] = struct{}{}
		}
		for _, v := range list {
			if v = strings.TrimSpace(v); v == "" {
				return errs.Invalid.Errorf("VOLUME specified can not be an empty string")
			}
			volumes[v] = struct{}{}
		}
		c.Volumes = volumes
	case "WORKDIR":
		if !path.IsAbs(rest) {
			rest = path.Join("/", c.WorkingDir, rest)
		}
		c.WorkingDir = path.Clean(rest)
	case "STOPSIGNAL":
		c.StopSignal = rest
	case "ONBUILD":
		trigger := strings.ToUpper(strings.Fields(rest)[0])
		switch trigger {
		case "ONBUILD":
			return errs.Invalid.Errorf("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
		case "MAINTAINER", "FROM":
			return errs.Invalid.Errorf("%s isn't allowed as an ONBUILD trigger", trigger)
		}
		c.OnBuild = append(append([]string(nil), c.OnBuild...), rest)
	case "HEALTHCHECK":
		return health(c, rest)
	default:
		return errs.Invalid.Errorf("%s is not a valid change command", strings.ToLower(word))
	}
	return nil
}

// jsonList reads the exec form: a JSON array of strings.
func jsonList(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "[") {
		return nil, false
	}
	var list []string
	if json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	if list == nil {
		list = []string{}
	}
	return list, true
}

// command reads either form; the shell form goes through the image's shell.
func command(c *dockerspec.DockerOCIImageConfig, s string) []string {
	if list, ok := jsonList(s); ok {
		return list
	}
	shell := []string{"/bin/sh", "-c"}
	if len(c.Shell) > 0 {
		shell = c.Shell
	}
	return append(append([]string(nil), shell...), s)
}

func setEnv(c *dockerspec.DockerOCIImageConfig, key, value string) {
	env := append([]string(nil), c.Env...)
	for i, e := range env {
		if k, _, _ := strings.Cut(e, "="); k == key {
			env[i] = key + "=" + value
			c.Env = env
			return
		}
	}
	c.Env = append(env, key+"="+value)
}

// keyValues reads "k=v k2='v 2'", or the old form "k all that follows".
func keyValues(name, s string) ([][2]string, error) {
	tokens, err := split(s)
	if err != nil {
		return nil, err
	}
	if len(tokens) > 0 && !strings.Contains(tokens[0], "=") {
		k, v, ok := strings.Cut(s, " ")
		if !ok {
			return nil, errs.Invalid.Errorf("%s must have two arguments", name)
		}
		return [][2]string{{k, strings.TrimSpace(v)}}, nil
	}
	var all [][2]string
	for _, t := range tokens {
		k, v, ok := strings.Cut(t, "=")
		if !ok {
			return nil, errs.Invalid.Errorf("Syntax error - can't find = in %q. Must be of the form: name=value", t)
		}
		if k == "" {
			return nil, errs.Invalid.Errorf("%s names can not be blank", name)
		}
		all = append(all, [2]string{k, v})
	}
	return all, nil
}

// split cuts at blanks outside of quotes, and takes quotes and backslashes away.
func split(s string) ([]string, error) {
	var out []string
	var cur strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch == '\\' && quote != '\'' && i+1 < len(s):
			i++
			cur.WriteByte(s[i])
			in = true
		case quote != 0 && ch == quote:
			quote = 0
		case quote != 0:
			cur.WriteByte(ch)
		case ch == '"' || ch == '\'':
			quote, in = ch, true
		case ch == ' ' || ch == '\t':
			if in {
				out = append(out, cur.String())
				cur.Reset()
				in = false
			}
		default:
			cur.WriteByte(ch)
			in = true
		}
	}
	if quote != 0 {
		return nil, errs.Invalid.Errorf("unexpected end of statement while looking for matching %s-quote", map[byte]string{'"': "double", '\'': "single"}[quote])
	}
	if in {
		out = append(out, cur.String())
	}
	return out, nil
}

func expose(c *dockerspec.DockerOCIImageConfig, ports []string) error {
	all := map[string]struct{}{}
	for p := range c.ExposedPorts {
		all[p] = struct{}{}
	}
	for _, p := range ports {
		number, proto, ok := strings.Cut(p, "/")
		if !ok {
			proto = "tcp"
		}
		proto = strings.ToLower(proto)
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			return errs.Invalid.Errorf("invalid proto: %s", proto)
		}
		from, to, isRange := strings.Cut(number, "-")
		if !isRange {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 16)
		b, err2 := strconv.ParseUint(to, 10, 16)
		if err != nil || err2 != nil || a > b || a == 0 {
			return errs.Invalid.Errorf("invalid containerPort: %s", number)
		}
		for n := a; n <= b; n++ {
			all[fmt.Sprintf("%d/%s", n, proto)] = struct{}{}
		}
	}
	c.ExposedPorts = all
	return nil
}

func health(c *dockerspec.DockerOCIImageConfig, s string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(s, "--") {
		flag, rest, _ := strings.Cut(s, " ")
		key, value, ok := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		if !ok {
			return errs.Invalid.Errorf("Missing a value on flag: %s", key)
		}
		if key == "retries" {
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return errs.Invalid.Errorf("--retries must be at least 1 (not %s)", value)
			}
			h.Retries = n
		} else {
			d, err := time.ParseDuration(value)
			if err != nil {
				return errs.Invalid.Wrap(err)
			}
			if d != 0 && d < time.Millisecond {
				return errs.Invalid.Errorf("Interval %q cannot be less than %s", key, time.Millisecond)
			}
			switch key {
			case "interval":
				h.Interval = d
			case "timeout":
				h.Timeout = d
			case "start-period":
				h.StartPeriod = d
			case "start-interval":
				h.StartInterval = d
			default:
				return errs.Invalid.Errorf("Unknown flag: %s", key)
			}
		}
		s = strings.TrimSpace(rest)
	}
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch strings.ToUpper(word) {
	case "NONE":
		if rest != "" {
			return errs.Invalid.Errorf("HEALTHCHECK NONE takes no arguments")
		}
		h = &dockerspec.HealthcheckConfig{Test: []string{"NONE"}}
	case "CMD":
		if rest == "" {
			return errs.Invalid.Errorf("Missing command after HEALTHCHECK CMD")
		}
		if list, ok := jsonList(rest); ok {
			h.Test = append([]string{"CMD"}, list...)
		} else {
			h.Test = []string{"CMD-SHELL", rest}
		}
	default:
		return errs.Invalid.Errorf("Unknown type %#v in HEALTHCHECK (try CMD)", word)
	}
	c.Healthcheck = h
	return nil
}
