// Package parse reads what users write in flags and files: environments, mounts, ports, filters, key sequences.
// It touches nothing but the files it is told to read; its errors are Docker's, for people search for them.
package parse

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxEnvFile bounds an env or label file, in bytes.
const MaxEnvFile = 16 << 20

// EnvFile reads lines NAME=value from r. Blank lines and lines that begin with # are skipped. A line that is only a
// name takes its value from lookup, or is left out if there is none; without a lookup it stays as it is.
func EnvFile(r io.Reader, lookup func(string) (string, bool)) ([]string, error) {
	sc := bufio.NewScanner(io.LimitReader(r, MaxEnvFile))
	sc.Buffer(nil, 1<<20)
	var out []string
	for n := 1; sc.Scan(); n++ {
		b := sc.Bytes()
		if !utf8.Valid(b) {
			return nil, fmt.Errorf("invalid utf8 bytes at line %d: %v", n, b)
		}
		if n == 1 {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) // Windows editors write a byte order mark
		}
		line := strings.TrimLeftFunc(string(b), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if strings.ContainsFunc(name, unicode.IsSpace) {
			return nil, fmt.Errorf("variable '%s' contains whitespaces", name)
		}
		if name == "" {
			return nil, fmt.Errorf("no variable name on line '%s'", line)
		}
		switch {
		case ok:
			out = append(out, name+"="+value)
		case lookup == nil:
			out = append(out, name)
		default:
			if v, found := lookup(name); found {
				out = append(out, name+"="+v)
			}
		}
	}
	return out, sc.Err()
}

// Pairs reads a list of k=v; a k alone has an empty value.
func Pairs(list []string) map[string]string {
	m := map[string]string{}
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		m[k] = v
	}
	return m
}

// KeyValues joins what the files say with what the flags say, which comes last and so wins.
func KeyValues(files, flags []string, lookup func(string) (string, bool)) ([]string, error) {
	var out []string
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		kv, err := EnvFile(f, lookup)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("invalid env file (%s): %w", path, err)
		}
		out = append(out, kv...)
	}
	return append(out, flags...), nil
}

// Env completes one -e: a bare name takes the caller's value, and stays bare if there is none.
func Env(s string, lookup func(string) (string, bool)) (string, error) {
	name, _, ok := strings.Cut(s, "=")
	if name == "" {
		return "", errors.New("invalid environment variable: " + s)
	}
	if !ok {
		if v, found := lookup(name); found {
			return name + "=" + v, nil
		}
	}
	return s, nil
}

// Map makes a map of key=value pairs; a pair without = has the value "".
func Map(pairs []string) map[string]string {
	out := make(map[string]string, len(pairs))
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		out[k] = v
	}
	return out
}
