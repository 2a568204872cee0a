package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	// maxSize is the size of a Dockerfile that is looked at at all.
	maxSize = 16 << 20
	// allowance is how many bytes, about, one conversion may make of a Dockerfile. A long one with many variables makes
	// some megabytes.
	allowance = 128 << 20
	// maxWord is how long a word may become by its variables. The kernel passes no argument or variable of more than
	// 128 KiB to a program (execve(2)), but a label or a file may be longer.
	maxWord = 1 << 20
	// maxContinued bounds the work for one instruction of many lines, bytes times lines: the parser copies what it has
	// for each line that goes on.
	maxContinued = 4 << 30
	// maxDepth is how deep ${a:-${b:-…}} may go, and how often ONBUILD may be said in one instruction before it is clear
	// that it is once too often: both are read recursively.
	maxDepth = 500
)

var errTooMuch = errors.New("the Dockerfile makes too much of too little: its variables, histories and stages together exceed what a build may need")

// spend takes n bytes from the allowance.
func (c *converter) spend(n int) error {
	if c.left -= int64(n); c.left < 0 {
		return errTooMuch
	}
	return nil
}

// checkSize refuses what the parser would need too long for.
func checkSize(data []byte) error {
	if len(data) > maxSize {
		return fmt.Errorf("the Dockerfile is too large: %d bytes, at most %d are read", len(data), maxSize)
	}
	run, count, triggers, number, first := 0, 0, 0, 0, 0
	for line := range bytes.Lines(data) {
		number++
		if run == 0 {
			triggers, first = 0, number
		}
		if triggers += countFold(line, "onbuild"); triggers > maxDepth {
			return fmt.Errorf("dockerfile parse error on line %d: Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", first)
		}
		trimmed := bytes.TrimRight(line, " \t\r\n")
		// Either escape character, since the directive that chooses isn't read yet; comments and empty lines do not end
		// an instruction that goes on.
		if n := len(trimmed); run == 0 && (n == 0 || bytes.TrimLeft(trimmed, " \t")[0] == '#') {
			continue // between instructions
		} else if n == 0 || trimmed[n-1] == '\\' || trimmed[n-1] == '`' || bytes.TrimLeft(trimmed, " \t")[0] == '#' {
			run, count = run+len(line), count+1
			if int64(run)*int64(count) > maxContinued {
				return errors.New("the Dockerfile has an instruction that goes on for too many lines")
			}
			continue
		}
		run, count = 0, 0
	}
	return nil
}

// countFold counts word, which is lower case, in any case.
func countFold(line []byte, word string) int {
	if len(line) < len(word) {
		return 0
	}
	return bytes.Count(bytes.ToLower(line), []byte(word))
}

// tooDeep reports whether the variables of a word stand too deep within each other.
func tooDeep(word string) bool {
	depth := 0
	for i := 0; i+1 < len(word); i++ {
		switch {
		case word[i] == '$' && word[i+1] == '{':
			if depth++; depth > maxDepth {
				return true
			}
		case word[i] == '}' && depth > 0:
			depth--
		}
	}
	return false
}

// replaces finds ${name/pattern/replacement}, whose result may be far longer than all that went in.
var replaces = regexp.MustCompile(`\$\{[A-Za-z0-9_]+/`)

// metered hands out variables and counts how much: once it is too much, all are empty, and over is set.
type metered struct {
	shell.EnvGetter
	left int
	over bool
}

func (m *metered) Get(key string) (string, bool) {
	v, ok := m.EnvGetter.Get(key)
	if m.left -= len(v); m.left < 0 {
		m.over = true
		return "", ok
	}
	return v, ok
}

// meter puts e under the limit for word.
func meter(word string, e shell.EnvGetter) *metered {
	left := maxWord
	if depth := nesting(word); depth > 0 {
		// What goes in is at most n bytes, what comes out n^(depth+1).
		n := 1
		for n < maxWord && power(n*2, depth+1) <= 256<<20 {
			n *= 2
		}
		left = n - len(word)
	}
	return &metered{EnvGetter: e, left: left}
}

func power(n, e int) int {
	p := 1
	for range e {
		if p > 1<<40/n {
			return 1 << 40
		}
		p *= n
	}
	return p
}

// nesting is how many replacements of word stand within each other, at most.
func nesting(word string) int {
	if !strings.Contains(word, "${") || len(replaces.FindStringIndex(word)) == 0 {
		return 0
	}
	depth, deepest := 0, 0
	var open []bool
	for i := 0; i < len(word); i++ {
		switch {
		case word[i] == '}' && len(open) > 0:
			if open[len(open)-1] {
				depth--
			}
			open = open[:len(open)-1]
		case strings.HasPrefix(word[i:], "${"):
			loc := replaces.FindStringIndex(word[i:min(len(word), i+256)])
			is := loc != nil && loc[0] == 0
			open = append(open, is)
			if is {
				depth++
				deepest = max(deepest, depth)
			}
		}
	}
	return deepest
}

// errWord is the error for a word that its variables would make too long.
func errWord(word string) error {
	if len(word) > 64 {
		word = word[:61] + "..."
	}
	return fmt.Errorf("the variables in %q make it too long", word)
}

// expand replaces the variables in word, and says which ones there were.
func (c *converter) expand(lex *shell.Lex, word string, e shell.EnvGetter) (shell.ProcessWordResult, error) {
	if !strings.Contains(word, "$") {
		return lex.ProcessWordWithMatches(word, e)
	}
	if tooDeep(word) {
		return shell.ProcessWordResult{}, errWord(word)
	}
	m := meter(word, e)
	r, err := lex.ProcessWordWithMatches(word, m)
	if err != nil {
		return r, err
	}
	if m.over {
		return r, errWord(word)
	}
	return r, c.spend(len(r.Result))
}

// show is expand for a text that is only shown: what can't be replaced stays.
func show(lex *shell.Lex, text string, e shell.EnvGetter) string {
	if tooDeep(text) {
		return text
	}
	m := meter(text, e)
	if r, err := lex.ProcessWordWithMatches(text, m); err == nil && !m.over {
		return r.Result
	}
	return text
}

// expandWords is expand for a word that may become several.
func (c *converter) expandWords(word string, e shell.EnvGetter) ([]string, error) {
	if tooDeep(word) {
		return nil, errWord(word)
	}
	m := meter(word, e)
	words, err := c.lex.ProcessWords(word, m)
	if err != nil {
		return nil, err
	}
	if m.over {
		return nil, errWord(word)
	}
	n := 0
	for _, w := range words {
		n += len(w)
	}
	return words, c.spend(n)
}
