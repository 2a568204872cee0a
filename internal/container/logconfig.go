package container

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/ids"
)

// logSpec says where and how output is kept; `mode` and `max-buffer-size` are accepted, for the supervisor
// never lets a log hold up a container's output for long.
func logSpec(l api.LogConfig, path string, attrs map[string]string) (spec logSettings, err error) {
	spec = logSettings{Driver: l.Type, MaxSize: 20 << 20, MaxFiles: 5}
	if l.Type == "none" {
		return logSettings{Driver: "none"}, nil
	}
	spec.Path, spec.Attrs = path, attrs
	for k, v := range l.Config {
		switch k {
		case "max-size":
			if v == "-1" {
				spec.MaxSize = 0
				continue
			}
			if spec.MaxSize, err = ParseSize(v); err != nil {
				return spec, errs.Invalid.Errorf("invalid value for log opt max-size: %w", err)
			}
			if spec.MaxSize <= 0 {
				return spec, errs.Invalid.Errorf("max-size must be a positive number: %s", v)
			}
		case "max-file":
			if spec.MaxFiles, err = strconv.Atoi(v); err != nil {
				return spec, errs.Invalid.Errorf("invalid value for log opt max-file: %w", err)
			}
			if spec.MaxFiles < 1 {
				return spec, errs.Invalid.Errorf("max-file cannot be less than 1")
			}
		case "compress":
			if _, err = strconv.ParseBool(v); err != nil {
				return spec, errs.Invalid.Errorf("invalid value for log opt compress: %w", err)
			}
		case "mode":
			if v != "" && v != "blocking" && v != "non-blocking" {
				return spec, errs.Invalid.Errorf("logger: logging mode not supported: %s", v)
			}
		case "max-buffer-size":
			if l.Config["mode"] != "non-blocking" {
				return spec, errs.Invalid.Errorf("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
			}
			if _, err = ParseSize(v); err != nil {
				return spec, errs.Invalid.Errorf("error parsing option max-buffer-size: %w", err)
			}
		case "labels", "labels-regex", "env", "env-regex", "tag", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress":
		default:
			return spec, errs.Invalid.Errorf("unknown log opt '%s' for json-file log driver", k)
		}
	}
	return spec, nil
}

// logAttrs are the "attrs" of every log line: the labels and variables that the options labels, env and their likes with -regex
// pick, and the tag.
func logAttrs(x *Snapshot) (map[string]string, error) {
	l := x.HostConfig.LogConfig
	if l.Type == "none" {
		return nil, nil
	}
	var attrs map[string]string
	put := func(k, v string) {
		if attrs == nil {
			attrs = map[string]string{}
		}
		attrs[k] = v
	}
	labelled, err := picker(l.Config, "labels")
	if err != nil {
		return nil, err
	}
	for k, v := range x.Config.Labels {
		if labelled(k) {
			put(k, v)
		}
	}
	set, err := picker(l.Config, "env")
	if err != nil {
		return nil, err
	}
	for _, e := range x.Config.Env {
		if k, v, ok := strings.Cut(e, "="); ok && set(k) {
			put(k, v)
		}
	}
	if text := l.Config["tag"]; text != "" {
		tag, err := logTag(text, x)
		if err != nil {
			return nil, err
		}
		put("tag", tag)
	}
	return attrs, nil
}

// picker tells which keys the options NAME, a list, and NAME-regex pick.
func picker(options map[string]string, name string) (func(string) bool, error) {
	list := strings.Split(options[name], ",")
	var re *regexp.Regexp
	if text := options[name+"-regex"]; text != "" {
		var err error
		if re, err = regexp.Compile(text); err != nil {
			return nil, errs.Invalid.Errorf("invalid value for log opt %s-regex: %w", name, err)
		}
	}
	return func(k string) bool { return k != "" && slices.Contains(list, k) || re != nil && re.MatchString(k) }, nil
}

// field is a word of a tag's template: {{.Name}}.
var field = regexp.MustCompile(`{{\s*\.(\w+)\s*}}`)

// logTag fills in a tag's template, whose words are Docker's (docs.docker.com, "Customize log driver output"). Nobody has been
// seen to use the rest of Go's templates there, and their package would make the engine larger by a part.
func logTag(text string, x *Snapshot) (string, error) {
	image := x.Image.ID.String()
	short := image
	if len(short) > ids.ShortLen { // Docker's, too, has the algorithm's name in it
		short = short[:ids.ShortLen]
	}
	words := map[string]string{
		"ID": ids.Short(x.ID), "FullID": x.ID, "Name": x.Name, "ImageID": short, "ImageFullID": image, "ImageName": x.Config.Image,
		"Command": strings.Join(append([]string{x.Path}, x.Args...), " "), "DaemonName": "docker",
	}
	var unknown error
	tag := field.ReplaceAllStringFunc(text, func(m string) string {
		name := field.FindStringSubmatch(m)[1]
		if _, ok := words[name]; !ok && unknown == nil {
			unknown = errs.Invalid.Errorf("invalid value for log opt tag: there is no %s, but %s", m, strings.Join(slices.Sorted(maps.Keys(words)), ", "))
		}
		return words[name]
	})
	if rest := field.ReplaceAllString(text, ""); unknown == nil && strings.Contains(rest, "{{") {
		unknown = errs.Invalid.Errorf("invalid value for log opt tag: only fields such as {{.Name}} are filled in: %s", text)
	}
	return tag, unknown
}
