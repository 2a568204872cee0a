package remote

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// table is a TOML table that remembers the order of its keys: that of mirrors counts.
type table struct {
	keys   []string
	values map[string]any // string, bool, int64, []any or *table
}

func newTable() *table { return &table{values: map[string]any{}} }

func (t *table) get(key string) (any, bool) {
	v, ok := t.values[key]
	return v, ok
}

func (t *table) set(key string, v any) error {
	if _, ok := t.values[key]; ok {
		return fmt.Errorf("%q is given twice", key)
	}
	t.keys = append(t.keys, key)
	t.values[key] = v
	return nil
}

func (t *table) sub(key string) (*table, error) {
	v, ok := t.values[key]
	if !ok {
		s := newTable()
		return s, t.set(key, s)
	}
	s, ok := v.(*table)
	if !ok {
		return nil, fmt.Errorf("%q is no table", key)
	}
	return s, nil
}

// parseTOML reads the part of TOML 1.0 that hosts.toml is written in: tables, dotted and quoted keys, strings, booleans,
// integers, arrays and inline tables. Arrays of tables, floats, dates and strings of several lines are refused.
func parseTOML(text string) (*table, error) {
	if !utf8.ValidString(text) {
		return nil, errors.New("not UTF-8")
	}
	p := &tomlParser{rest: strings.TrimPrefix(text, "\ufeff"), line: 1}
	root := newTable()
	cur := root
	seen := map[*table]bool{}
	for {
		p.blank(true)
		if p.rest == "" {
			return root, nil
		}
		var err error
		if p.take("[") {
			if strings.HasPrefix(p.rest, "[") {
				return nil, p.fail("arrays of tables are not understood")
			}
			var path []string
			if path, err = p.key(); err == nil && !p.take("]") {
				err = errors.New("a table's name ends with ]")
			}
			cur = root
			for i := 0; err == nil && i < len(path); i++ {
				cur, err = cur.sub(path[i])
			}
			if err == nil && seen[cur] {
				err = fmt.Errorf("table %q is given twice", strings.Join(path, "."))
			}
			seen[cur] = true
		} else {
			err = p.pair(cur, 0)
		}
		if err != nil {
			return nil, p.fail("%w", err)
		}
		p.blank(false)
		if p.rest != "" && !p.newline() {
			return nil, p.fail("something follows on the line")
		}
	}
}

// maxDepth bounds arrays in arrays.
const maxDepth = 16

type tomlParser struct {
	rest string
	line int
}

func (p *tomlParser) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %w", p.line, fmt.Errorf(format, args...))
}

func (p *tomlParser) take(s string) bool {
	rest, ok := strings.CutPrefix(p.rest, s)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *tomlParser) newline() bool {
	if p.take("\n") || p.take("\r\n") {
		p.line++
		return true
	}
	return false
}

// blank skips spaces and comments, and with lines what is empty of lines.
func (p *tomlParser) blank(lines bool) {
	for {
		p.rest = strings.TrimLeft(p.rest, " \t")
		if strings.HasPrefix(p.rest, "#") {
			i := strings.IndexByte(p.rest, '\n')
			if i < 0 {
				i = len(p.rest)
			}
			p.rest = p.rest[i:]
		}
		if !lines || !p.newline() {
			return
		}
	}
}

func bare(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_'
}

func (p *tomlParser) key() (path []string, err error) {
	for {
		p.blank(false)
		var k string
		if strings.HasPrefix(p.rest, `"`) || strings.HasPrefix(p.rest, `'`) {
			if k, err = p.str(); err != nil {
				return nil, err
			}
		} else {
			n := 0
			for n < len(p.rest) && bare(p.rest[n]) {
				n++
			}
			if n == 0 {
				return nil, errors.New("want a key")
			}
			k, p.rest = p.rest[:n], p.rest[n:]
		}
		path = append(path, k)
		p.blank(false)
		if !p.take(".") {
			return path, nil
		}
		if len(path) > maxDepth {
			return nil, errors.New("key of too many parts")
		}
	}
}

func (p *tomlParser) pair(t *table, depth int) error {
	path, err := p.key()
	if err != nil {
		return err
	}
	if !p.take("=") {
		return fmt.Errorf("want = after %q", strings.Join(path, "."))
	}
	for _, k := range path[:len(path)-1] {
		if t, err = t.sub(k); err != nil {
			return err
		}
	}
	v, err := p.value(depth)
	if err != nil {
		return err
	}
	return t.set(path[len(path)-1], v)
}

func (p *tomlParser) value(depth int) (any, error) {
	p.blank(false)
	if depth > maxDepth {
		return nil, errors.New("nested too deep")
	}
	switch {
	case p.rest == "":
		return nil, errors.New("want a value")
	case p.rest[0] == '"' || p.rest[0] == '\'':
		return p.str()
	case p.take("["):
		list := []any{}
		for {
			p.blank(true)
			if p.take("]") {
				return list, nil
			}
			v, err := p.value(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
			p.blank(true)
			if !p.take(",") && !strings.HasPrefix(p.rest, "]") {
				return nil, errors.New("want , or ] in an array")
			}
		}
	case p.take("{"):
		t := newTable()
		for first := true; ; first = false {
			p.blank(false)
			if p.take("}") {
				return t, nil
			}
			if !first && !p.take(",") {
				return nil, errors.New("want , or } in a table")
			}
			if err := p.pair(t, depth+1); err != nil {
				return nil, err
			}
		}
	}
	n := 0
	for n < len(p.rest) && (bare(p.rest[n]) || p.rest[n] == '+' || p.rest[n] == '.' || p.rest[n] == ':') {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	switch word {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	i, err := strconv.ParseInt(word, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("want a string, a boolean, an integer, an array or a table, not %q", word)
	}
	return i, nil
}

func (p *tomlParser) str() (string, error) {
	if strings.HasPrefix(p.rest, `"""`) || strings.HasPrefix(p.rest, `'''`) {
		return "", errors.New("strings of several lines are not understood")
	}
	quote := p.rest[0]
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case c == quote:
			p.rest = p.rest[i+1:]
			return b.String(), nil
		case c == '\n' || c < ' ' && c != '\t' || c == 0x7f:
			return "", errors.New("a string does not end on its line")
		case c == '\\' && quote == '"':
			if i++; i == len(p.rest) {
				return "", errors.New("a string does not end")
			}
			if r, ok := map[byte]byte{'b': '\b', 't': '\t', 'n': '\n', 'f': '\f', 'r': '\r', '"': '"', '\\': '\\'}[p.rest[i]]; ok {
				b.WriteByte(r)
				continue
			}
			n := map[byte]int{'u': 4, 'U': 8}[p.rest[i]]
			if n == 0 || i+n >= len(p.rest) {
				return "", fmt.Errorf("unknown escape \\%c", p.rest[i])
			}
			r, err := strconv.ParseUint(p.rest[i+1:i+1+n], 16, 32)
			if err != nil || !utf8.ValidRune(rune(r)) {
				return "", fmt.Errorf("unknown escape \\%s", p.rest[i:i+1+n])
			}
			b.WriteRune(rune(r))
			i += n
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("a string does not end")
}
