package registry

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// htpasswd is a file of users, read again when it changes.
type htpasswd struct {
	path string

	mu     sync.Mutex
	users  map[string][]byte
	read   os.FileInfo
	looked time.Time
}

func openHtpasswd(path string) (*htpasswd, error) {
	h := &htpasswd{path: path}
	return h, h.load()
}

func (h *htpasswd) load() error {
	fi, err := os.Stat(h.path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(h.path)
	if err != nil {
		return err
	}
	users, err := parseHtpasswd(b)
	if err != nil {
		return fmt.Errorf("%s: %w", h.path, err)
	}
	h.users, h.read = users, fi
	return nil
}

// get returns the hash of a user's password. A file that can't be read, or is wrong, changes nothing: the last good
// one holds, for an editor's half-written file must not lock everybody out.
func (h *htpasswd) get(user string) ([]byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := time.Now(); now.Sub(h.looked) > time.Second {
		h.looked = now
		if fi, err := os.Stat(h.path); err == nil && (!fi.ModTime().Equal(h.read.ModTime()) || fi.Size() != h.read.Size() || !os.SameFile(fi, h.read)) {
			_ = h.load()
		}
	}
	hash, ok := h.users[user]
	return hash, ok
}

// parseHtpasswd reads user:hash lines. Only bcrypt is taken (htpasswd -B): the other kinds can be guessed fast.
func parseHtpasswd(b []byte) (map[string][]byte, error) {
	users := map[string][]byte{}
	n := 0
	for line := range bytes.Lines(b) {
		n++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(text, ":")
		if !ok || user == "" {
			return nil, fmt.Errorf("line %d: want user:hash", n)
		}
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || !strings.HasPrefix(hash, "$2") {
			return nil, fmt.Errorf("line %d: the password of %q is not hashed by bcrypt: make it by htpasswd -B", n, user)
		}
		users[user] = []byte(hash)
	}
	return users, nil
}
