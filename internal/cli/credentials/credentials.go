// Package credentials keeps what users show registries, where Docker keeps it: in ~/.docker/config.json, or with the
// helper programs that it names (credHelpers for one registry, credsStore for all others).
package credentials

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"gantry/internal/cli/command"
)

// Hub is the key of Docker Hub's credentials.
const Hub = "https://index.docker.io/v1/"

// Auth is what is kept for a registry. It is also what the engine is sent (the API's AuthConfig).
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	ServerAddress string `json:"serveraddress,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// Header is the value of X-Registry-Auth; empty if there is nothing to show.
func (a Auth) Header() string {
	if a.Username == "" && a.IdentityToken == "" && a.RegistryToken == "" {
		return ""
	}
	b, err := json.Marshal(a)
	if err != nil {
		return ""
	}
	return base64.URLEncoding.EncodeToString(b)
}

// Store is one user's config.json.
type Store struct {
	path   string
	all    map[string]json.RawMessage // what is not ours is written back as it was
	auths  map[string]entry
	helper map[string]string // by registry
	common string            // credsStore
}

type entry struct {
	Auth          string `json:"auth,omitempty"`
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

// maxConfig bounds config.json, in bytes.
const maxConfig = 16 << 20

// Open reads the user's config.json; a missing one is empty.
func Open(env *command.Env) (*Store, error) {
	dir := env.ConfigDir
	if dir == "" {
		dir = env.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home := env.Getenv("HOME")
		if home == "" {
			return &Store{}, nil
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	s.path = path
	return s, nil
}

func parse(data []byte) (*Store, error) {
	s := &Store{all: map[string]json.RawMessage{}, auths: map[string]entry{}, helper: map[string]string{}}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("larger than %d bytes", maxConfig)
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(data, &s.all); err != nil {
		return nil, err
	}
	for key, at := range map[string]any{"auths": &s.auths, "credHelpers": &s.helper, "credsStore": &s.common} {
		if raw, ok := s.all[key]; ok {
			if err := json.Unmarshal(raw, at); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
	}
	if s.all == nil { // the file says null
		s.all = map[string]json.RawMessage{}
	}
	if s.auths == nil {
		s.auths = map[string]entry{}
	}
	return s, nil
}

// Path is the file that credentials without a helper are in.
func (s *Store) Path() string { return s.path }

// Key is what a registry's credentials are kept under: its host, and Docker Hub's old address for that.
func Key(registry string) string {
	switch host := hostname(registry); host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return Hub
	default:
		return host
	}
}

func hostname(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	return s
}

// Host is the registry of an image reference.
func Host(ref string) string {
	first, _, ok := strings.Cut(ref, "/")
	if !ok || !strings.ContainsAny(first, ".:") && first != "localhost" && strings.ToLower(first) == first {
		return "docker.io"
	}
	return first
}

// helperFor is the helper program that keeps a registry's credentials; empty for the file.
func (s *Store) helperFor(key string) string {
	if h := s.helper[key]; h != "" {
		return h
	}
	if h := s.helper[hostname(key)]; h != "" {
		return h
	}
	return s.common
}

// Get returns what is kept for a registry; nothing is no error.
func (s *Store) Get(ctx context.Context, registry string) (Auth, error) {
	key := Key(registry)
	if h := s.helperFor(key); h != "" {
		return askHelper(ctx, h, key)
	}
	e, ok := s.auths[key]
	for k, other := range s.auths { // older versions kept http://host/v1/ and the like
		if !ok && hostname(k) == hostname(key) {
			e, ok = other, true
		}
	}
	a := Auth{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken, ServerAddress: key}
	if e.Auth != "" {
		data, err := base64.StdEncoding.DecodeString(e.Auth)
		user, password, ok := strings.Cut(string(data), ":")
		if err != nil || !ok {
			return Auth{}, fmt.Errorf("%s: the credentials of %s can't be read: log in again", s.path, key)
		}
		a.Username, a.Password = user, strings.Trim(password, "\x00")
	}
	return a, nil
}

// Put keeps credentials. plain tells that they lie in the file as good as readable.
func (s *Store) Put(ctx context.Context, registry string, a Auth) (plain bool, err error) {
	key := Key(registry)
	if h := s.helperFor(key); h != "" {
		if err := tellHelper(ctx, h, key, a); err != nil {
			return false, err
		}
		s.auths[key] = entry{} // so that it is known who is logged in where
		return false, s.write()
	}
	e := entry{Auth: base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + a.Password)), IdentityToken: a.IdentityToken}
	if a.IdentityToken != "" {
		e.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":"))
	}
	s.auths[key] = e
	return true, s.write()
}

// Remove forgets a registry's credentials, and reports whether there were any.
func (s *Store) Remove(ctx context.Context, registry string) (bool, error) {
	key := Key(registry)
	found := false
	if h := s.helperFor(key); h != "" {
		a, err := askHelper(ctx, h, key)
		if err != nil {
			return false, err
		}
		if a.Header() != "" {
			found = true
			if err := runHelper(ctx, h, "erase", key, nil); err != nil {
				return true, err
			}
		}
	}
	for k := range s.auths {
		if k == key || hostname(k) == hostname(key) {
			delete(s.auths, k)
			found = true
		}
	}
	if !found {
		return false, nil
	}
	return true, s.write()
}

// write replaces the file. It is read by its owner only.
func (s *Store) write() error {
	if s.path == "" {
		return errors.New("there is no home to keep credentials in: set HOME or DOCKER_CONFIG")
	}
	raw, err := json.Marshal(s.auths)
	if err != nil {
		return err
	}
	s.all["auths"] = raw
	data, err := json.MarshalIndent(s.all, "", "\t")
	if err != nil {
		return err
	}
	path := s.path
	if to, err := filepath.EvalSymlinks(path); err == nil {
		path = to
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "config.json") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// The protocol of helpers: docker-credential-NAME get|store|erase, the registry on stdin, JSON on stdout.

func askHelper(ctx context.Context, helper, key string) (Auth, error) {
	var out bytes.Buffer
	err := runHelper(ctx, helper, "get", key, &out)
	if err != nil {
		if strings.Contains(err.Error(), "credentials not found in native keychain") || strings.Contains(err.Error(), "no credentials") {
			return Auth{ServerAddress: key}, nil
		}
		return Auth{}, err
	}
	var reply struct{ Username, Secret string }
	if err := json.Unmarshal(out.Bytes(), &reply); err != nil {
		return Auth{}, fmt.Errorf("docker-credential-%s: what it says is no JSON: %w", helper, err)
	}
	if reply.Username == "<token>" {
		return Auth{IdentityToken: reply.Secret, ServerAddress: key}, nil
	}
	return Auth{Username: reply.Username, Password: reply.Secret, ServerAddress: key}, nil
}

func tellHelper(ctx context.Context, helper, key string, a Auth) error {
	x := struct{ ServerURL, Username, Secret string }{key, a.Username, a.Password}
	if a.IdentityToken != "" {
		x.Username, x.Secret = "<token>", a.IdentityToken
	}
	data, err := json.Marshal(x)
	if err != nil {
		return err
	}
	return runHelper(ctx, helper, "store", string(data), nil)
}

func runHelper(ctx context.Context, helper, verb, input string, out *bytes.Buffer) error {
	if helper == "" || strings.Trim(helper, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
		return fmt.Errorf("invalid name of a credential helper: %q", helper)
	}
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, verb)
	cmd.Stdin = strings.NewReader(input)
	var both bytes.Buffer
	if out == nil {
		out = &both
	}
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("error getting credentials - err: %w, out: ``", err)
		}
		return fmt.Errorf("error getting credentials - err: %w, out: `%s`", err, strings.TrimSpace(out.String()))
	}
	return nil
}

// Header is the value of X-Registry-Auth for a registry; empty if nothing is kept for it. What can't be read is
// said on stderr, and counts as none: the registry may let everyone in.
func Header(ctx context.Context, env *command.Env, registry string) string {
	s, err := Open(env)
	var a Auth
	if err == nil {
		a, err = s.Get(ctx, registry)
	}
	if err != nil {
		fmt.Fprintf(env.IO.Err, "WARNING: %v\n", err)
		return ""
	}
	return a.Header()
}

// All are the credentials of every registry that the file names. What can't be had is left out, and said in the error.
func (s *Store) All(ctx context.Context) (map[string]Auth, error) {
	all := map[string]Auth{}
	var errs []error
	for key := range s.auths {
		all[key] = Auth{}
	}
	for key := range s.helper {
		all[key] = Auth{}
	}
	for key := range all {
		a, err := s.Get(ctx, key)
		if err != nil {
			errs = append(errs, err)
		}
		if err != nil || a.Header() == "" {
			delete(all, key)
			continue
		}
		all[key] = a
	}
	return all, errors.Join(errs...)
}
