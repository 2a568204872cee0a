package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/errs"
)

// maxHostsFile bounds hosts.toml, in bytes.
const maxHostsFile = 1 << 20

// hostsFile is a hosts.toml, as containerd reads it (docs/hosts.md there): the registry itself, and hosts that
// are asked before it.
type hostsFile struct {
	server *hostEntry
	hosts  []*hostEntry
}

type hostEntry struct {
	url                 *url.URL
	pull, resolve, push bool
	skipVerify          bool
	overridePath        bool
	ca                  []string
	client              [][2]string
	header              http.Header
}

// tls names the entry's certificates; paths are relative to the file's folder. Nil if it names none.
func (h *hostEntry) tls(dir string) *tlsFiles {
	if len(h.ca)+len(h.client) == 0 {
		return nil
	}
	at := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	t := &tlsFiles{}
	for _, p := range h.ca {
		t.authorities = append(t.authorities, at(p))
	}
	for _, p := range h.client {
		key := p[1]
		if key == "" { // both in one file
			key = p[0]
		}
		t.pairs = append(t.pairs, [2]string{at(p[0]), at(key)})
	}
	return t
}

// readHosts reads the hosts.toml for a host, or the one in _default; nil if there is none.
func (c *Client) readHosts(host string) (*hostsFile, string, error) {
	for _, name := range []string{host, "_default"} {
		for _, root := range c.o.CertDirs {
			dir, err := hostDir(root, name)
			if err != nil {
				return nil, "", err
			}
			if dir == "" {
				continue
			}
			path := filepath.Join(dir, "hosts.toml")
			data, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, "", fmt.Errorf("read mirrors of %s: %w", host, err)
			}
			f, err := parseHosts(data)
			if err != nil {
				return nil, "", errs.Invalid.Errorf("read mirrors of %s: %s: %w", host, path, err)
			}
			return f, dir, nil
		}
	}
	return nil, "", nil
}

func parseHosts(data []byte) (*hostsFile, error) {
	if len(data) > maxHostsFile {
		return nil, fmt.Errorf("larger than %d bytes", maxHostsFile)
	}
	doc, err := parseTOML(string(data))
	if err != nil {
		return nil, err
	}
	f := &hostsFile{server: &hostEntry{}}
	if err := f.server.read(doc); err != nil {
		return nil, err
	}
	if v, ok := doc.get("server"); ok {
		s, ok := v.(string)
		if !ok {
			return nil, errors.New("server: want a string")
		}
		if f.server.url, err = parseHostURL(s); err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
	}
	v, ok := doc.get("host")
	if !ok {
		return f, nil
	}
	hosts, ok := v.(*table)
	if !ok {
		return nil, errors.New("host: want tables")
	}
	for _, name := range hosts.keys {
		t, ok := hosts.values[name].(*table)
		if !ok {
			return nil, fmt.Errorf("host %q: want a table", name)
		}
		h := &hostEntry{}
		if h.url, err = parseHostURL(name); err == nil {
			err = h.read(t)
		}
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", name, err)
		}
		f.hosts = append(f.hosts, h)
	}
	return f, nil
}

func parseHostURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := parseMirror(s)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// read takes in what a table says. Unknown keys are containerd's of another version, and are left alone.
func (h *hostEntry) read(t *table) error {
	h.pull, h.resolve, h.push = true, true, true
	if v, ok := t.get("capabilities"); ok {
		list, ok := stringList(v)
		if !ok {
			return errors.New("capabilities: want an array of strings")
		}
		h.pull, h.resolve, h.push = false, false, false
		for _, c := range list {
			switch strings.ToLower(c) {
			case "pull":
				h.pull = true
			case "resolve":
				h.resolve = true
			case "push":
				h.push = true
			default:
				return fmt.Errorf("unknown capability %q", c)
			}
		}
	}
	for key, at := range map[string]*bool{"skip_verify": &h.skipVerify, "override_path": &h.overridePath} {
		if v, ok := t.get(key); ok {
			if *at, ok = v.(bool); !ok {
				return fmt.Errorf("%s: want true or false", key)
			}
		}
	}
	if v, ok := t.get("ca"); ok {
		if h.ca, ok = stringList(v); !ok {
			return errors.New("ca: want a path or an array of paths")
		}
	}
	if v, ok := t.get("client"); ok {
		list, isList := v.([]any)
		if s, one := v.(string); one {
			list, isList = []any{s}, true
		}
		if !isList {
			return errors.New("client: want a path, or an array of pairs of paths")
		}
		for _, v := range list {
			pair, ok := stringList(v)
			if !ok || len(pair) < 1 || len(pair) > 2 {
				return errors.New("client: want a path, or an array of pairs of paths")
			}
			h.client = append(h.client, [2]string{pair[0], append(pair, "")[1]})
		}
	}
	if v, ok := t.get("header"); ok {
		headers, ok := v.(*table)
		if !ok {
			return errors.New("header: want a table")
		}
		h.header = http.Header{}
		for _, k := range headers.keys {
			list, ok := stringList(headers.values[k])
			if !ok || strings.ContainsAny(k+strings.Join(list, ""), "\r\n") {
				return fmt.Errorf("header %q: want a string or an array of strings", k)
			}
			for _, v := range list {
				h.header.Add(k, v)
			}
		}
	}
	return nil
}

func stringList(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		return []string{v}, true
	case []any:
		out := make([]string, 0, len(v))
		for _, x := range v {
			s, ok := x.(string)
			if !ok {
				return nil, false
			}
			out = append(out, s)
		}
		return out, true
	}
	return nil, false
}
