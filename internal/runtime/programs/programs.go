// Package programs finds the small programs that the engine starts (the supervisor, init, the relay) and puts them into
// sealed memfds: what runs can then not be replaced under it, neither by an upgrade of the package nor
// from a container (CVE-2019-5736), and /run may be mounted noexec.
package programs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"gantry/internal/kernel/memfd"
)

// Names of the programs, as they are called beside the engine's executable.
const (
	Supervisor = "supervisor"
	Init       = "init"
	Relay      = "relay"
)

// Set is a source of programs. Its zero value looks beside the running executable.
type Set struct {
	// Embedded holds programs by name, where they are linked in (build tag embed).
	Embedded map[string][]byte
	// Dir is where the others are; empty: the directory of the running executable.
	Dir string

	mu   sync.Mutex
	open map[string]*os.File
}

// Open returns a sealed memfd with the program, ready to be executed; the caller closes it.
func (s *Set) Open(name string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.open[name]
	if f == nil {
		content, err := s.read(name)
		if err != nil {
			return nil, err
		}
		if f, err = memfd.New("gantry-"+name, content, true); err != nil {
			return nil, err
		}
		if s.open == nil {
			s.open = make(map[string]*os.File)
		}
		s.open[name] = f
	}
	// Opened anew, read-only: the caller's offset is its own.
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	g, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return g, nil
}

func (s *Set) read(name string) ([]byte, error) {
	if b, ok := s.Embedded[name]; ok {
		return b, nil
	}
	dir := s.Dir
	if dir == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, err
		}
		dir = filepath.Dir(exe)
	}
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("find the program %s: %w", name, err)
	}
	return b, nil
}

// Build returns the digest of programs that are exchanged together, by which one that runs is known to be another.
func (s *Set) Build(names ...string) (string, error) {
	h := sha256.New()
	for _, name := range names {
		b, err := s.read(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", name, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
