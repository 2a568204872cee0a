package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gantry/internal/cli/iostreams"
	"gantry/internal/client"
)

// DefaultHost is where the engine listens when nobody says otherwise.
const DefaultHost = "unix:///run/gantry.sock"

// Env is what a command has around it.
type Env struct {
	IO     *iostreams.Streams
	Prog   string // the name the program was called by: gantry, or docker through a link
	Path   string // the command as it was called: "run", "container run"
	Getenv func(string) string

	Hosts     []string // -H
	ConfigDir string   // --config
	Debug     bool
	Context   string // --context, for messages only
	TLS       bool   // any of the TLS flags

	Version, Commit, Built string

	// StartEngine starts the engine when root uses the default socket and nobody listens; nil never does.
	StartEngine func(ctx context.Context, env *Env) error

	client *client.Client
	config *Config
}

// AsDocker reports whether the program was called through a link named docker; it then says nothing that Docker's would not.
func (e *Env) AsDocker() bool { return e.Prog == "docker" }

// Config is what is honoured of Docker's config.json.
type Config struct {
	DetachKeys   string `json:"detachKeys"`
	PsFormat     string `json:"psFormat"`
	ImagesFormat string `json:"imagesFormat"`
}

// Config reads the user's config.json. A missing one is empty; a broken one is said once on stderr, as Docker does.
func (e *Env) Config() *Config {
	if e.config != nil {
		return e.config
	}
	e.config = &Config{}
	dir := e.ConfigDir
	if dir == "" {
		dir = e.Getenv("DOCKER_CONFIG")
	}
	if dir == "" {
		home := e.Getenv("HOME")
		if home == "" {
			return e.config
		}
		dir = filepath.Join(home, ".docker")
	}
	path := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, e.config)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(e.IO.Err, "WARNING: Error loading config file: %s: %v\n", path, err)
	}
	return e.config
}

// DetachKeys returns the sequence given by a flag, or the configured one; "" is the default sequence.
func (e *Env) DetachKeys(flag string) string {
	if flag != "" {
		return flag
	}
	return e.Config().DetachKeys
}

// Host returns the engine's address and whether the user named it.
func (e *Env) Host() (host string, given bool, err error) {
	switch {
	case len(e.Hosts) > 1:
		return "", true, errors.New("specify only one -H")
	case len(e.Hosts) == 1:
		host = e.Hosts[0]
	case e.Getenv("GANTRY_HOST") != "":
		host = e.Getenv("GANTRY_HOST")
	default:
		host = e.Getenv("DOCKER_HOST")
	}
	if strings.TrimSpace(host) == "" {
		return DefaultHost, false, nil
	}
	host, err = ParseHost(strings.TrimSpace(host))
	return host, true, err
}

// ParseHost completes what users give as an engine's address.
func ParseHost(s string) (string, error) {
	proto, rest, ok := strings.Cut(s, "://")
	if !ok {
		if strings.HasPrefix(s, "/") {
			return "", fmt.Errorf("invalid bind address format: %s", s)
		}
		proto, rest = "tcp", s
	}
	switch proto {
	case "unix":
		if rest == "" {
			return DefaultHost, nil
		}
		return s, nil
	case "tcp":
		if rest == "" {
			return "tcp://localhost:2375", nil
		}
		if strings.HasPrefix(rest, ":") {
			rest = "localhost" + rest
		}
		host, path, _ := strings.Cut(rest, "/")
		if i := strings.LastIndexByte(host, ':'); i < 0 || strings.HasSuffix(host, "]") {
			host += ":2375"
		}
		if path != "" {
			path = "/" + path
		}
		return "tcp://" + host + path, nil
	case "http":
		return s, nil
	case "ssh", "npipe", "fd":
		return "", fmt.Errorf("invalid bind address format: %s", s)
	}
	return "", fmt.Errorf("invalid bind address format: %s", s)
}

// Client returns the client of the engine, which it does not connect yet.
func (e *Env) Client() (*client.Client, error) {
	if e.client != nil {
		return e.client, nil
	}
	host, given, err := e.Host()
	if err != nil {
		return nil, &Hint{fmt.Errorf("Failed to initialize: unable to resolve docker endpoint: %w", err), //nolint:staticcheck // Docker's words
			"An engine's address is unix:///path/of.sock or tcp://host:port."}
	}
	if e.TLS || e.Getenv("DOCKER_TLS_VERIFY") != "" || e.Getenv("DOCKER_TLS") != "" {
		return nil, errors.New("TLS connections to an engine are not supported yet: use its unix socket, or a tunnel to it")
	}
	ua := "Gantry-Client/" + e.Version + " (linux)"
	c, err := client.New(host, e.Getenv("DOCKER_API_VERSION"), ua)
	if err != nil {
		return nil, err
	}
	if !given && e.StartEngine != nil {
		c.Revive = func(ctx context.Context) error { return e.StartEngine(ctx, e) }
	}
	e.client = c
	return c, nil
}

// Explain adds to an engine that can't be reached how to start one.
func Explain(env *Env, err error) error {
	var c *client.ConnectionError
	var h *Hint
	if !errors.As(err, &c) || errors.As(err, &h) {
		return err
	}
	if errors.Is(err, os.ErrPermission) {
		return &Hint{err, "Ask as root, or join the group that owns the socket: sudo usermod -aG gantry $USER, then log in again."}
	}
	if _, given, _ := env.Host(); given {
		flag := ""
		if strings.HasPrefix(c.Host, "unix://") {
			flag = " -H " + c.Host
		}
		return &Hint{err, "Start one there with: sudo gantry daemon" + flag}
	}
	return &Hint{err, "Start it with: sudo systemctl start gantry   (or without systemd: sudo gantry daemon)"}
}
