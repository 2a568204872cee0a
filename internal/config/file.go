package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// maxFile bounds daemon.json, in bytes.
const maxFile = 1 << 20

// parseFile reads a daemon.json.
func parseFile(name string, data []byte) ([]setting, error) {
	fail := func(offset int64, format string, args ...any) error {
		return fmt.Errorf("unable to configure the engine with file %s: line %d: %w", name, lineOf(data, offset), fmt.Errorf(format, args...))
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("unable to configure the engine with file %s: larger than %d bytes", name, maxFile)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // dockerd, too, forgives what Windows editors put there
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	syntax := func(err error) error {
		var s *json.SyntaxError
		at := d.InputOffset()
		if errors.As(err, &s) {
			at = s.Offset
		}
		return fail(at, "%w", err)
	}
	if t, err := d.Token(); err != nil {
		return nil, syntax(err)
	} else if t != json.Delim('{') {
		return nil, fail(0, "want an object of settings")
	}
	var all []setting
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, syntax(err)
		}
		key, _ := t.(string)
		at := d.InputOffset()
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, syntax(err)
		}
		i := slices.IndexFunc(options, func(o *option) bool { return o.key != "" && o.key == key })
		if i < 0 {
			return nil, fail(at, "the following directives don't match any configuration option: %s%s", key, suggest(key, keys()))
		}
		o := options[i]
		if slices.ContainsFunc(all, func(s setting) bool { return s.opt == o }) {
			return nil, fail(at, "%s is given twice", key)
		}
		values, err := o.read(raw)
		if err != nil {
			return nil, fail(at, "%s: %w", key, err)
		}
		if len(values) == 0 {
			continue // an empty list or object says nothing
		}
		s := setting{o, values, fmt.Sprintf("unable to configure the engine with file %s: line %d: %s", name, lineOf(data, at), key)}
		if err := s.apply(defaults()); err != nil { // here, for the line
			return nil, err
		}
		all = append(all, s)
	}
	if _, err := d.Token(); err != nil {
		return nil, syntax(err)
	}
	if d.More() {
		return nil, fail(d.InputOffset(), "something follows the settings")
	}
	return all, nil
}

// read turns the value in the file into what the flags would have.
func (o *option) read(raw json.RawMessage) ([]string, error) {
	switch o.kind {
	case boolean:
		var b bool
		if err := json.Unmarshal(raw, &b); err != nil {
			return nil, fmt.Errorf("want true or false, not %s", short(raw))
		}
		return []string{strconv.FormatBool(b)}, nil
	case list:
		var v []string
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("want an array of strings, not %s", short(raw))
		}
		return v, nil
	case pairs:
		var m map[string]string
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf("want an object of strings, not %s", short(raw))
		}
		var v []string
		for _, k := range sortedKeys(m) {
			v = append(v, k+"="+m[k])
		}
		return v, nil
	case pools:
		var list []struct {
			Base string
			Size int
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf(`want an array such as [{"base": "10.10.0.0/16", "size": 24}], not %s`, short(raw))
		}
		var v []string
		for _, p := range list {
			v = append(v, fmt.Sprintf("base=%s,size=%d", p.Base, p.Size))
		}
		return v, nil
	case ulimits:
		var m map[string]struct {
			Name       string
			Soft, Hard int64
		}
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, fmt.Errorf(`want an object such as {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 2048}}, not %s`, short(raw))
		}
		var v []string
		for _, k := range sortedKeys(m) {
			v = append(v, fmt.Sprintf("%s=%d:%d", k, m[k].Soft, m[k].Hard))
		}
		return v, nil
	case size:
		var n int64
		if json.Unmarshal(raw, &n) == nil {
			return []string{strconv.FormatInt(n, 10)}, nil
		}
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("want a string, not %s", short(raw))
	}
	return []string{s}, nil
}

func short(raw json.RawMessage) string {
	if len(raw) > 40 {
		return string(raw[:40]) + "…"
	}
	return string(raw)
}

// lineOf returns the number of the line, from 1, in which the byte before offset stands.
func lineOf(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:min(max(offset-1, 0), int64(len(data)))], []byte("\n"))
}
