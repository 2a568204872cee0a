// Package swagger holds answers of the API against the description that moby publishes of each version: a
// YAML file a version in the module github.com/moby/moby/api, which the engine's wire types come from anyway.
//
// Only what a client can stumble over is checked: the status is described, required fields are there, types and
// enumerations are right. Fields that the description does not name are let pass, for it omits many. So is
// null for a field that is not required, whatever its type: Docker's engine writes it for every empty list.
package swagger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
)

// module is where the descriptions are.
const module = "github.com/moby/moby/api"

// Spec is the description of one version.
type Spec struct {
	version     string
	paths       map[string]map[string]any // "/containers/{id}/json" → method → operation
	definitions map[string]any
	responses   map[string]any
}

var dir = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", fmt.Errorf("find the module %s: %w", module, err)
	}
	return strings.TrimSpace(string(out)), nil
})

// Load reads the description of a version, such as "1.56"; there is one for each from 1.25 on.
func Load(version string) (*Spec, error) {
	d, err := dir()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(d, "docs", "v"+version+".yaml"))
	if err != nil {
		return nil, err
	}
	var file struct {
		Paths       map[string]map[string]any `yaml:"paths"`
		Definitions map[string]any            `yaml:"definitions"`
		Responses   map[string]any            `yaml:"responses"`
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		return nil, fmt.Errorf("read the description of version %s: %w", version, err)
	}
	return &Spec{version, file.Paths, file.Definitions, file.Responses}, nil
}

// Validate returns what is wrong with an answer; nothing, if it is as described. path is the request's, without query; a
// version in front of it is ignored.
func (s *Spec) Validate(method, path string, status int, body []byte) []string {
	op, pattern := s.operation(method, path)
	if op == nil {
		return []string{fmt.Sprintf("%s %s is not described", method, path)}
	}
	where := fmt.Sprintf("%s %s %d", method, pattern, status)
	if status == 204 || status == 304 { // have no body, whatever an old description says
		if len(body) > 0 {
			return []string{where + ": has a body"}
		}
		return nil
	}
	responses, _ := op["responses"].(map[string]any)
	resp, ok := responses[strconv.Itoa(status)].(map[string]any)
	if !ok && status == 409 && pattern == "/containers/{id}" { // not described until 1.27; Docker said it before
		return nil
	}
	if !ok {
		// 501 and 503 say that Gantry, or the host, lacks something: no description foresees that.
		if status >= 500 && status != 500 {
			return s.problems(where, map[string]any{"$ref": "#/definitions/ErrorResponse"}, body)
		}
		return []string{where + " is not described"}
	}
	if ref, ok := resp["$ref"].(string); ok {
		resp, _ = s.responses[strings.TrimPrefix(ref, "#/responses/")].(map[string]any)
	}
	schema, ok := resp["schema"].(map[string]any)
	if !ok {
		return nil
	}
	if t := schema["type"]; t == "string" || t == "file" { // raw streams, and the text of a ping
		return nil
	}
	return s.problems(where, schema, body)
}

// ValidateDefinition holds a JSON value against one of the description's definitions, such as "ContainerInspectResponse".
func (s *Spec) ValidateDefinition(name string, body []byte) []string {
	if s.definitions[name] == nil {
		return []string{name + " is not described"}
	}
	return s.problems(name, map[string]any{"$ref": "#/definitions/" + name}, body)
}

// Has reports whether the description has a definition of that name.
func (s *Spec) Has(name string) bool { return s.definitions[name] != nil }

func (s *Spec) operation(method, path string) (map[string]any, string) {
	if m := regexp.MustCompile(`^/v[0-9.]+/`).FindString(path); m != "" {
		path = path[len(m)-1:]
	}
	method = strings.ToLower(method)
	if op, ok := s.paths[path][method].(map[string]any); ok {
		return op, path
	}
	best := ""
	for pattern := range s.paths {
		if s.paths[pattern][method] == nil || !strings.Contains(pattern, "{") {
			continue
		}
		re := regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(pattern), ".+")
		if regexp.MustCompile("^"+re+"$").MatchString(path) && len(pattern) > len(best) {
			best = pattern
		}
	}
	op, _ := s.paths[best][method].(map[string]any)
	return op, best
}

// problems checks every JSON value of body: streams have several.
func (s *Spec) problems(where string, schema map[string]any, body []byte) []string {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	c := checker{spec: s}
	for n := 0; ; n++ {
		var v any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			if n == 0 {
				c.add(where, "the body is empty")
			}
			return c.found
		}
		if err != nil {
			c.add(where, "not JSON: %v: %.100q", err, body)
			return c.found
		}
		c.check(where, schema, v, true)
	}
}

type checker struct {
	spec  *Spec
	found []string
	depth int
}

func (c *checker) add(where, format string, args ...any) {
	c.found = append(c.found, where+": "+fmt.Sprintf(format, args...))
}

func (c *checker) check(where string, schema map[string]any, v any, required bool) {
	if c.depth++; c.depth > 100 {
		c.add(where, "nested too deeply")
		return
	}
	defer func() { c.depth-- }()
	if ref, ok := schema["$ref"].(string); ok {
		target, ok := c.spec.definitions[strings.TrimPrefix(ref, "#/definitions/")].(map[string]any)
		if !ok {
			c.add(where, "the description refers to %s, which it lacks", ref)
			return
		}
		c.check(where, target, v, required)
		return
	}
	if v == nil {
		if nullable, _ := schema["x-nullable"].(bool); !nullable && required && schema["allOf"] == nil && schema["type"] != nil {
			c.add(where, "is null")
		}
		return
	}
	if all, ok := schema["allOf"].([]any); ok {
		for _, e := range all {
			if m, ok := e.(map[string]any); ok {
				c.check(where, m, v, required)
			}
		}
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.ContainsFunc(enum, func(e any) bool { return fmt.Sprint(e) == fmt.Sprint(v) }) {
		// An empty string is an absent value to every Go client, and Docker sends it as one.
		if v != "" || required {
			c.add(where, "%v is none of %v", v, enum)
		}
	}
	switch t, _ := schema["type"].(string); t {
	case "object":
		c.object(where, schema, v)
	case "array":
		list, ok := v.([]any)
		if !ok && strings.HasSuffix(where, ".NetworkSettings.Ports") {
			return // the mistake of descriptions up to 1.31: Docker always sent an object
		}
		if !ok {
			c.wrong(where, t, v)
			return
		}
		if items, ok := schema["items"].(map[string]any); ok {
			for i, e := range list {
				c.check(fmt.Sprintf("%s[%d]", where, i), items, e, true)
			}
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			c.wrong(where, t, v)
			return
		}
		if f := schema["format"]; (f == "dateTime" || f == "date-time") && text != "" {
			if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
				c.add(where, "%q is no time", text)
			}
		}
		if p, ok := schema["pattern"].(string); ok && text != "" && !regexp.MustCompile(p).MatchString(text) {
			c.add(where, "%q does not match %s", text, p)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			c.wrong(where, t, v)
		}
	case "integer", "number":
		n, ok := v.(json.Number)
		if !ok {
			c.wrong(where, t, v)
			return
		}
		c.number(where, schema, n, t)
	case "":
		if schema["properties"] != nil {
			c.object(where, schema, v)
		}
	}
}

func (c *checker) wrong(where, want string, v any) { c.add(where, "is %T, not %s", v, want) }

func (c *checker) object(where string, schema map[string]any, v any) {
	m, ok := v.(map[string]any)
	if !ok {
		c.wrong(where, "object", v)
		return
	}
	var required []any
	if required, ok = schema["required"].([]any); ok {
		for _, k := range required {
			if _, ok := m[fmt.Sprint(k)]; !ok {
				c.add(where, "%v is missing", k)
			}
		}
	}
	properties, _ := schema["properties"].(map[string]any)
	rest, _ := schema["additionalProperties"].(map[string]any)
	for k, e := range m {
		if p, ok := properties[k].(map[string]any); ok {
			c.check(where+"."+k, p, e, slices.Contains(required, any(k)))
		} else if rest != nil && properties == nil {
			c.check(where+"."+k, rest, e, false)
		}
	}
}

func (c *checker) number(where string, schema map[string]any, n json.Number, kind string) {
	f, err := n.Float64()
	if err != nil {
		c.add(where, "%v is no number", n)
		return
	}
	if kind == "integer" && f != math.Trunc(f) {
		c.add(where, "%v is no integer", n)
	}
	if low, ok := schema["minimum"].(int); ok && f < float64(low) {
		c.add(where, "%v is less than %d", n, low)
	}
	if high, ok := schema["maximum"].(int); ok && f > float64(high) {
		c.add(where, "%v is more than %d", n, high)
	}
	bits := map[any]float64{"uint16": math.MaxUint16, "uint32": math.MaxUint32, "uint64": math.MaxUint64}
	if most, ok := bits[schema["format"]]; ok && (f < 0 || f > most) {
		c.add(where, "%v is no %v", n, schema["format"])
	}
}

// Describes reports whether the description has an operation for the method and path.
func (s *Spec) Describes(method, path string) bool {
	op, _ := s.operation(method, path)
	return op != nil
}

// Operations lists what is described, as "GET /containers/{id}/json", sorted.
func (s *Spec) Operations() []string {
	var out []string
	for path, ops := range s.paths {
		for method := range ops {
			if m := strings.ToUpper(method); m != "PARAMETERS" {
				out = append(out, m+" "+path)
			}
		}
	}
	slices.Sort(out)
	return out
}
