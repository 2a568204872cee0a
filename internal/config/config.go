// Package config reads how the engine is to run: dockerd's flags, and the keys of its daemon.json, for what
// exists here.
//
// One table (options.go) holds every setting with its flag, its key and how its value is read, so that flag and
// file cannot drift apart. What is not in it is refused at the start, with the place where it stands and the nearest
// name there is: a setting that is silently ignored is found out months later. As with dockerd, one that is given
// both by flag and in the file is refused too.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"gantry/internal/network/ipam"
)

// DefaultFile is read when it exists; a file named by --config-file must.
const DefaultFile = "/etc/gantry/daemon.json"

// Proxies are URLs for registries of a scheme, and who is reached without one.
type Proxies struct{ HTTP, HTTPS, No string }

// Config is how the engine is to run.
type Config struct {
	File     string
	Hosts    []string // unix:///path, tcp://host:port, fd://
	DataRoot string
	ExecRoot string
	Pidfile  string
	Group    string // owns the unix sockets, where it exists

	Debug    bool
	LogLevel string // debug, info, warn, error, fatal
	Labels   []string

	CgroupParent string
	Ulimits      map[string]Ulimit
	LogDriver    string
	LogOpts      map[string]string
	Init         bool
	ShmSize      int64 // bytes
	IpcMode      string
	CgroupnsMode string // empty: private on cgroup v2, host on v1
	LiveRestore  bool
	Trash        time.Duration // how long what is removed can be brought back; 0: not at all

	Bridge       string       // interface of the default network; "": the engine's own, "none": no default network
	BIP          netip.Prefix // its address and subnet; invalid: chosen
	MTU          int          // bytes; 0: the uplink's
	ICC          bool         // containers of the default network reach each other
	Masquerade   bool         // what goes out of the default network gets the host's address
	HostIP       netip.Addr   // where ports are published by default; invalid: everywhere
	Relayed      bool         // publish-policy "firewall"
	AddressPools []ipam.Pool  // nil: Docker's

	groupFromUser bool

	InsecureRegistries []string            // hosts and networks that plain HTTP will do for
	RegistryMirrors    []string            // of Docker Hub
	Mirrors            map[string][]string // of any registry, by its host
	Proxies            Proxies             // to registries
}

// GroupRequired reports whether the group was asked for: then it must exist.
func (c *Config) GroupRequired() bool { return c.groupFromUser }

// Ulimit is one default limit of containers.
type Ulimit struct {
	Soft, Hard int64 // -1: unlimited
}

func defaults() *Config {
	return &Config{
		File: DefaultFile, DataRoot: "/var/lib/gantry", ExecRoot: DefaultExecRoot, Pidfile: "/run/gantry.pid", Group: "gantry",
		LogLevel: "info", LogDriver: "json-file", ShmSize: 64 << 20, IpcMode: "private", LiveRestore: true, ICC: true, Masquerade: true, Trash: 10 * time.Minute,
		Ulimits: map[string]Ulimit{}, LogOpts: map[string]string{}, Mirrors: map[string][]string{},
	}
}

// DefaultExecRoot is where execution state is kept.
const DefaultExecRoot = "/run/gantry"

// DefaultHost is listened on when no host is given.
const DefaultHost = "unix:///run/gantry.sock"

// ErrHelp is returned for --help: Usage is to be printed.
var ErrHelp = errors.New("help requested")

// ErrVersion is returned for --version.
var ErrVersion = errors.New("version requested")

// Load reads the command line (what follows `daemon`) and the configuration file.
func Load(args []string) (*Config, error) {
	flags, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	c := defaults()
	required := false
	for _, s := range flags {
		if s.opt.key == "" && s.opt.flag == "config-file" {
			c.File, required = s.values[0], true
		}
	}
	var file []setting
	if c.File != "" {
		data, err := os.ReadFile(c.File)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !required:
		case err != nil:
			return nil, fmt.Errorf("unable to configure the engine with file %s: %w", c.File, err)
		default:
			if file, err = parseFile(c.File, data); err != nil {
				return nil, err
			}
		}
	}
	if err := conflicts(flags, file, c.File); err != nil {
		return nil, err
	}
	for _, s := range slices.Concat(file, flags) {
		if err := s.apply(c); err != nil {
			return nil, err
		}
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{DefaultHost}
	}
	return c, c.check()
}

// Reload reads the file again and returns the settings that may change while the engine runs (debug,
// log-level, labels and what concerns registries), with the rest as they were.
func (c *Config) Reload(args []string) (*Config, error) {
	n, err := Load(args)
	if err != nil {
		return nil, err
	}
	r := *c
	r.Debug, r.LogLevel, r.Labels = n.Debug, n.LogLevel, n.Labels
	r.InsecureRegistries, r.RegistryMirrors, r.Mirrors, r.Proxies = n.InsecureRegistries, n.RegistryMirrors, n.Mirrors, n.Proxies
	return &r, nil
}

func (c *Config) check() error {
	for _, p := range []struct{ name, path string }{{"data-root", c.DataRoot}, {"exec-root", c.ExecRoot}} {
		if !strings.HasPrefix(p.path, "/") {
			return fmt.Errorf("%s must be an absolute path: %q", p.name, p.path)
		}
	}
	if c.DataRoot == c.ExecRoot {
		return fmt.Errorf("data-root and exec-root must not be the same: %q", c.DataRoot)
	}
	seen := map[string]bool{}
	for _, h := range c.Hosts {
		if seen[h] {
			return fmt.Errorf("host %q is given twice", h)
		}
		seen[h] = true
	}
	return nil
}

// conflicts refuses what is given in both places, in dockerd's words.
func conflicts(flags, file []setting, path string) error {
	var both []string
	for _, s := range file {
		for _, f := range flags {
			if f.opt == s.opt {
				both = append(both, fmt.Sprintf("%s: (from flag: %s, from file: %s)", s.opt.key, f.text(), s.text()))
				break
			}
		}
	}
	if both == nil {
		return nil
	}
	return fmt.Errorf("unable to configure the engine with file %s: the following directives are specified both as a flag and in the configuration file: %s",
		path, strings.Join(both, ", "))
}
