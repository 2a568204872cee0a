package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher/ignorefile"

	"gantry/internal/build/session/offer"
	"gantry/internal/cli/command"
	"gantry/internal/cli/container"
)

// maxDockerfile bounds a Dockerfile, in bytes.
const maxDockerfile = 4 << 20

// fields takes "a=1,b=2" apart, with quotes as in a CSV line.
func fields(s string) (map[string]string, error) {
	record, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, fmt.Errorf("%q: %w", s, err)
	}
	m := map[string]string{}
	for _, f := range record {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("%q: %q should be key=value", s, f)
		}
		m[strings.ToLower(strings.TrimSpace(k))] = v
	}
	return m, nil
}

// addSecrets offers what --secret names.
func (p *plan) addSecrets() error {
	for _, s := range p.o.secrets.Values {
		m, err := fields(s)
		if err != nil {
			return fmt.Errorf("invalid --secret %w", err)
		}
		id, file, variable := m["id"], m["src"], m["env"]
		if file == "" {
			file = m["source"]
		}
		switch kind := m["type"]; {
		case kind != "" && kind != "file" && kind != "env":
			return fmt.Errorf("invalid --secret %q: unsupported type %q", s, kind)
		case kind == "env" && variable == "":
			file, variable = "", file
		}
		for k := range m {
			if k != "id" && k != "src" && k != "source" && k != "env" && k != "type" {
				return fmt.Errorf("invalid --secret %q: unexpected key %q", s, k)
			}
		}
		switch {
		case id == "" && file == "" && variable == "":
			return fmt.Errorf("invalid --secret %q: it has no id", s)
		case id == "" && file != "":
			id = filepath.Base(file)
		case id == "":
			id = variable
		case file == "" && variable == "":
			// As with Docker: a variable of that name, or a file.
			if _, ok := os.LookupEnv(id); ok {
				variable = id
			} else {
				file = id
			}
		}
		if variable != "" {
			value, ok := os.LookupEnv(variable)
			p.offer.Secrets[id] = func() ([]byte, error) {
				if !ok {
					return nil, fmt.Errorf("secret %s: the environment has no %s", id, variable)
				}
				return []byte(value), nil
			}
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return fmt.Errorf("invalid --secret %q: %w", s, err)
		}
		p.offer.Secrets[id] = func() ([]byte, error) { return os.ReadFile(file) }
	}
	return nil
}

// addAgents offers what --ssh names.
func (p *plan) addAgents() error {
	for _, s := range p.o.ssh.Values {
		id, socket, ok := strings.Cut(s, "=")
		if !ok || socket == "" {
			if socket = os.Getenv("SSH_AUTH_SOCK"); socket == "" {
				return fmt.Errorf("invalid --ssh %q: no SSH agent: SSH_AUTH_SOCK is not set (eval $(ssh-agent) starts one)", s)
			}
		}
		if id == "" {
			id = "default"
		}
		info, err := os.Stat(socket)
		if err != nil {
			return fmt.Errorf("invalid --ssh %q: %w", s, err)
		}
		if info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("invalid --ssh %q: %s is not an agent's socket: keys are given through one (ssh-add %s)", s, socket, socket)
		}
		p.offer.Agents[id] = socket
	}
	return nil
}

// addContexts offers the folders of --build-context.
func (p *plan) addContexts() (err error) {
	p.request.Contexts = map[string]string{}
	for _, s := range p.o.contexts.Values {
		name, at, ok := strings.Cut(s, "=")
		if !ok || name == "" || at == "" {
			return fmt.Errorf("invalid --build-context %q: it should be name=source", s)
		}
		name = strings.ToLower(name)
		if name == "context" || name == "dockerfile" {
			return fmt.Errorf("invalid --build-context %q: the name is taken", s)
		}
		if address(at) || strings.HasPrefix(at, "docker-image://") || strings.HasPrefix(at, "target:") {
			p.request.Contexts[name] = at
			continue
		}
		if path, ok := strings.CutPrefix(at, "oci-layout://"); ok {
			if p.request.Contexts[name], err = p.offerLayout("layout "+name, path); err != nil {
				return fmt.Errorf("invalid --build-context %q: %w", s, err)
			}
			continue
		}
		if info, err := os.Stat(at); err != nil {
			return fmt.Errorf("invalid --build-context %q: %w", s, err)
		} else if !info.IsDir() {
			return fmt.Errorf("invalid --build-context %q: %s is not a folder", s, at)
		}
		exclude, err := ignored(filepath.Join(at, ".dockerignore"))
		if err != nil {
			return err
		}
		p.offer.Folders[name] = offer.Folder{Path: at, Exclude: exclude}
		p.request.Contexts[name] = "local:" + name
	}
	return nil
}

// address reports whether a context is to be fetched by the engine.
func address(s string) bool {
	for _, prefix := range []string{"http://", "https://", "git://", "git@", "ssh://", "github.com/"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return false
}

// addContext finds the context and the Dockerfile, wherever they are.
func (p *plan) addContext(env *command.Env, where string) error {
	r := &p.request
	r.File = filepath.ToSlash(p.o.file)
	switch {
	case where == "-" && p.o.file == "-":
		return errors.New("invalid argument: can't use stdin for both build context and dockerfile")
	case where == "-":
		return p.fromStdin(env)
	case address(where):
		r.Remote = where
		if p.o.file == "-" {
			return p.dockerfileFromStdin(env)
		}
		return nil
	}
	info, err := os.Stat(where)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unable to prepare context: path %q not found", where)
	} else if err != nil {
		return fmt.Errorf("unable to prepare context: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("unable to prepare context: %q is not a folder (-f names a Dockerfile)", where)
	}
	file := p.o.file
	if file == "-" {
		if err := p.dockerfileFromStdin(env); err != nil {
			return err
		}
		file = ""
	} else {
		if file == "" {
			file = filepath.Join(where, "Dockerfile")
			if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
				if _, err := os.Lstat(filepath.Join(where, "dockerfile")); err == nil { // as Docker has it, for file systems of other systems
					file = filepath.Join(where, "dockerfile")
				}
			}
			r.File = filepath.Base(file)
		}
		if err := p.dockerfile(file); err != nil {
			return err
		}
	}
	exclude, err := ignored(file + ".dockerignore")
	if file == "" || err == nil && exclude == nil {
		exclude, err = ignored(filepath.Join(where, ".dockerignore"))
	}
	if err != nil {
		return err
	}
	p.request.Ignore = exclude
	p.offer.Folders["context"] = offer.Folder{Path: where, Exclude: exclude}
	return nil
}

func (p *plan) dockerfile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	defer file.Close()
	p.request.Dockerfile, err = bounded(file, maxDockerfile)
	if err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	return nil
}

func (p *plan) dockerfileFromStdin(env *command.Env) (err error) {
	p.request.File = "Dockerfile"
	if p.request.Dockerfile, err = bounded(env.IO.In, maxDockerfile); err != nil {
		return fmt.Errorf("failed to read dockerfile from stdin: %w", err)
	}
	return nil
}

func bounded(r io.Reader, n int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, n+1))
	if err == nil && int64(len(data)) > n {
		err = fmt.Errorf("it is longer than %d bytes", n)
	}
	if data == nil {
		data = []byte{}
	}
	return data, err
}

// fromStdin takes an archive as the context, or else a Dockerfile without one.
func (p *plan) fromStdin(env *command.Env) error {
	if env.IO.InIsTerminal() {
		return errors.New("stdin is a terminal: pipe a Dockerfile or an archive into it")
	}
	in := bufio.NewReaderSize(env.IO.In, 4096)
	head, err := in.Peek(512)
	if err != nil && err != io.EOF {
		return fmt.Errorf("failed to read context from stdin: %w", err)
	}
	dir, err := os.MkdirTemp("", "gantry-build-")
	if err != nil {
		return err
	}
	p.clean = append(p.clean, func() { os.RemoveAll(dir) })
	p.offer.Folders["context"] = offer.Folder{Path: dir}
	var r io.Reader = in
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		if r, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("failed to read context from stdin: %w", err)
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		r = bzip2.NewReader(in)
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}), bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return errors.New("failed to read context from stdin: unpack the archive first (xz -d, zstd -d): gzip and bzip2 are understood here")
	default:
		if _, err := tar.NewReader(bytes.NewReader(head)).Next(); err != nil {
			if p.o.file != "" {
				return errors.New("failed to read context from stdin: it is not an archive, and a Dockerfile from stdin cannot have -f")
			}
			p.request.Dockerfile, err = bounded(in, maxDockerfile)
			return err
		}
	}
	if err := container.Unpack(context.Background(), r, dir); err != nil {
		return fmt.Errorf("failed to read context from stdin: %w", err)
	}
	name := p.o.file
	if name == "" {
		name = "Dockerfile"
	}
	root, err := os.OpenRoot(dir) // the archive's links lead nowhere else
	if err != nil {
		return err
	}
	defer root.Close()
	file, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	defer file.Close()
	if p.request.Dockerfile, err = bounded(file, maxDockerfile); err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	p.request.File = name
	exclude, err := ignoredIn(root, name+".dockerignore")
	if err == nil && exclude == nil {
		exclude, err = ignoredIn(root, ".dockerignore")
	}
	if err != nil {
		return err
	}
	p.offer.Folders["context"] = offer.Folder{Path: dir, Exclude: exclude}
	return nil
}

// ignored reads a .dockerignore; nil without one.
func ignored(name string) ([]string, error) {
	file, err := os.Open(name)
	return readIgnored(file, err)
}

func ignoredIn(root *os.Root, name string) ([]string, error) {
	file, err := root.Open(filepath.FromSlash(name))
	return readIgnored(file, err)
}

func readIgnored(file *os.File, err error) ([]string, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	defer file.Close()
	data, err := bounded(file, maxDockerfile)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	list, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	if list == nil {
		list = []string{}
	}
	return list, nil
}
