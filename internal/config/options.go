package config

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/internal/nearest"
	"gantry/internal/network/ipam"
)

// kind is how a setting's value is written.
type kind uint8

const (
	text kind = iota
	boolean
	list    // flag: several times; file: array of strings
	pairs   // flag: several times k=v; file: object of strings
	ulimits // flag: name=soft[:hard]; file: object of {"Name", "Soft", "Hard"}
	pools   // flag: base=prefix,size=bits; file: array of {"base", "size"}
	size    // flag: 64m; file: the same, or a number of bytes
)

// option is one setting.
type option struct {
	flag  string
	short byte
	key   string // in the file; empty: not there
	kind  kind
	arg   string // in the usage
	help  string
	set   func(c *Config, values []string) error
}

// setting is an option with what it was given, and where.
type setting struct {
	opt    *option
	values []string
	where  string // "--flag" or "file:line"
}

func (s *setting) apply(c *Config) error {
	if err := s.opt.set(c, s.values); err != nil {
		return fmt.Errorf("%s: %w", s.where, err)
	}
	return nil
}

func (s *setting) text() string {
	if s.opt.kind == text || s.opt.kind == boolean || s.opt.kind == size {
		return s.values[0]
	}
	return "[" + strings.Join(s.values, " ") + "]"
}

func str(at func(*Config) *string) func(*Config, []string) error {
	return func(c *Config, v []string) error { *at(c) = v[0]; return nil }
}

func path(at func(*Config) *string) func(*Config, []string) error {
	return func(c *Config, v []string) error {
		if v[0] == "" {
			return fmt.Errorf("must not be empty")
		}
		*at(c) = filepath.Clean(v[0])
		return nil
	}
}

func flag(at func(*Config) *bool) func(*Config, []string) error {
	return func(c *Config, v []string) error {
		b, err := strconv.ParseBool(v[0])
		if err != nil {
			return fmt.Errorf("invalid boolean value %q: want true or false", v[0])
		}
		*at(c) = b
		return nil
	}
}

func oneOf(what string, at func(*Config) *string, valid ...string) func(*Config, []string) error {
	return func(c *Config, v []string) error {
		if !slices.Contains(valid, v[0]) {
			return fmt.Errorf("invalid %s: %s%s; valid are %s", what, v[0], suggest(v[0], valid), strings.Join(valid, ", "))
		}
		*at(c) = v[0]
		return nil
	}
}

// options is every setting there is. Names, letters and keys are dockerd's.
var options = []*option{
	{flag: "config-file", arg: "file", help: "Engine configuration file (default " + DefaultFile + ")", set: func(*Config, []string) error { return nil }},
	{flag: "host", short: 'H', key: "hosts", kind: list, arg: "list", help: "Socket(s) to listen on: unix:///path, tcp://host:port, fd://", set: setHosts},
	{flag: "data-root", key: "data-root", arg: "dir", help: "Root directory of persistent state (default /var/lib/gantry)", set: path(func(c *Config) *string { return &c.DataRoot })},
	{flag: "exec-root", key: "exec-root", arg: "dir", help: "Root directory of execution state (default /run/gantry)", set: path(func(c *Config) *string { return &c.ExecRoot })},
	{flag: "pidfile", short: 'p', key: "pidfile", arg: "file", help: "Path of the PID file (default /run/gantry.pid)", set: str(func(c *Config) *string { return &c.Pidfile })},
	{flag: "group", short: 'G', key: "group", arg: "name", help: "Group that owns the unix sockets (default gantry, where it exists)", set: func(c *Config, v []string) error {
		c.Group, c.groupFromUser = v[0], v[0] != ""
		return nil
	}},
	{flag: "debug", short: 'D', key: "debug", kind: boolean, help: "Enable debug mode", set: flag(func(c *Config) *bool { return &c.Debug })},
	{flag: "log-level", short: 'l', key: "log-level", arg: "level", help: "Logging level: debug, info, warn, error, fatal (default info)",
		set: oneOf("logging level", func(c *Config) *string { return &c.LogLevel }, "debug", "info", "warn", "error", "fatal")},
	{flag: "label", key: "labels", kind: list, arg: "list", help: "Key=value labels of the engine", set: func(c *Config, v []string) error { c.Labels = v; return nil }},
	{flag: "cgroup-parent", key: "cgroup-parent", arg: "path", help: "Parent cgroup of all containers", set: str(func(c *Config) *string { return &c.CgroupParent })},
	{flag: "default-ulimit", key: "default-ulimits", kind: ulimits, arg: "list", help: "Default ulimits of containers: name=soft[:hard]", set: setUlimits},
	{flag: "log-driver", key: "log-driver", arg: "name", help: "Default driver of container logs: json-file, none (default json-file)",
		set: oneOf("log driver", func(c *Config) *string { return &c.LogDriver }, "json-file", "none")},
	{flag: "log-opt", key: "log-opts", kind: pairs, arg: "map", help: "Default log driver options of containers", set: func(c *Config, v []string) error {
		for _, p := range v {
			k, val, _ := strings.Cut(p, "=")
			c.LogOpts[k] = val
		}
		return nil
	}},
	{flag: "insecure-registry", key: "insecure-registries", kind: list, arg: "list", help: "Registries, or networks of them, that plain HTTP will do for",
		set: func(c *Config, v []string) error { c.InsecureRegistries = v; return nil }},
	{flag: "registry-mirror", key: "registry-mirrors", kind: list, arg: "list", help: "Mirrors of Docker Hub that are asked first",
		set: func(c *Config, v []string) error { c.RegistryMirrors = v; return nil }},
	{flag: "mirror", key: "mirrors", kind: pairs, arg: "map", help: "Mirrors of any registry: host=URL[,URL...]", set: func(c *Config, v []string) error {
		for _, p := range v {
			host, urls, _ := strings.Cut(p, "=")
			for u := range strings.SplitSeq(urls, ",") {
				if u = strings.TrimSpace(u); u != "" {
					c.Mirrors[host] = append(c.Mirrors[host], u)
				}
			}
		}
		return nil
	}},
	{flag: "proxy", key: "proxies", kind: pairs, arg: "map", help: "Proxies to registries: http-proxy=URL, https-proxy=URL, no-proxy=HOST[,HOST...]", set: func(c *Config, v []string) error {
		for _, p := range v {
			name, value, _ := strings.Cut(p, "=")
			at, ok := map[string]*string{"http-proxy": &c.Proxies.HTTP, "https-proxy": &c.Proxies.HTTPS, "no-proxy": &c.Proxies.No}[name]
			if !ok {
				return fmt.Errorf("unknown proxy setting %q: want http-proxy, https-proxy or no-proxy", name)
			}
			*at = value
		}
		return nil
	}},
	{flag: "init", key: "init", kind: boolean, help: "Run an init in every container that forwards signals and reaps processes", set: flag(func(c *Config) *bool { return &c.Init })},
	{flag: "default-shm-size", key: "default-shm-size", kind: size, arg: "bytes", help: "Default size of /dev/shm (default 64MiB)", set: func(c *Config, v []string) error {
		n, err := parseSize(v[0])
		if err == nil && n <= 0 {
			err = fmt.Errorf("invalid size: '%s'", v[0])
		}
		c.ShmSize = n
		return err
	}},
	{flag: "default-ipc-mode", key: "default-ipc-mode", arg: "mode", help: "Default IPC mode of containers: shareable, private (default private)",
		set: oneOf("default IPC mode", func(c *Config) *string { return &c.IpcMode }, "private", "shareable")},
	{flag: "default-cgroupns-mode", key: "default-cgroupns-mode", arg: "mode", help: "Default cgroup namespace mode of containers: host, private",
		set: oneOf("default cgroup namespace mode", func(c *Config) *string { return &c.CgroupnsMode }, "host", "private")},
	{flag: "trash", key: "trash", arg: "duration", help: "How long what is removed can be brought back by `gantry undo`; 0s: not at all (default 10m)", set: func(c *Config, v []string) error {
		d, err := time.ParseDuration(v[0])
		if err != nil || d < 0 {
			return fmt.Errorf("invalid duration %q: want one such as 10m, or 0s for no trash", v[0])
		}
		c.Trash = d
		return nil
	}},
	{flag: "bridge", short: 'b', key: "bridge", arg: "name", help: "Bridge of the default network; \"none\" is to have none", set: str(func(c *Config) *string { return &c.Bridge })},
	{flag: "bip", key: "bip", arg: "cidr", help: "Address and subnet of the default network's bridge", set: func(c *Config, v []string) (err error) {
		c.BIP = netip.Prefix{}
		if v[0] != "" {
			c.BIP, err = netip.ParsePrefix(v[0])
		}
		return err
	}},
	{flag: "mtu", key: "mtu", kind: size, arg: "bytes", help: "MTU of containers' interfaces (default that of the host's uplink)", set: func(c *Config, v []string) error {
		n, err := strconv.Atoi(v[0])
		if err != nil || n < 0 || n > 65535 {
			return fmt.Errorf("invalid MTU: %s", v[0])
		}
		c.MTU = n
		return nil
	}},
	{flag: "icc", key: "icc", kind: boolean, help: "Containers of the default network reach each other, and not only by published ports and links (default true)", set: flag(func(c *Config) *bool { return &c.ICC })},
	{flag: "ip-masq", key: "ip-masq", kind: boolean, help: "What goes out of the default network gets the host's address (default true)", set: flag(func(c *Config) *bool { return &c.Masquerade })},
	{flag: "ip", key: "ip", arg: "ip", help: "Address of the host where ports are published by default (default 0.0.0.0 and [::])", set: func(c *Config, v []string) (err error) {
		if c.HostIP, err = netip.ParseAddr(v[0]); err == nil && c.HostIP.IsUnspecified() {
			c.HostIP = netip.Addr{}
		}
		return err
	}},
	{flag: "publish-policy", key: "publish-policy", arg: "string", help: "Who reaches published ports: \"forward\": everyone; \"firewall\": whom the host's rules for incoming packets let in (default forward)", set: func(c *Config, v []string) error {
		switch v[0] {
		case "forward", "firewall":
			c.Relayed = v[0] == "firewall"
			return nil
		}
		return fmt.Errorf("invalid publish policy %q: want forward or firewall", v[0])
	}},
	{flag: "default-address-pool", key: "default-address-pools", kind: pools, arg: "list", help: "Where networks get their subnets from: base=10.10.0.0/16,size=24", set: func(c *Config, v []string) error {
		c.AddressPools = nil
		for _, s := range v {
			p, err := ipam.ParsePool(s)
			if err != nil {
				return err
			}
			c.AddressPools = append(c.AddressPools, p)
		}
		return nil
	}},
	{flag: "live-restore", key: "live-restore", kind: boolean, help: "Accepted for dockerd's sake: containers always outlive the engine", set: func(c *Config, v []string) error {
		err := flag(func(c *Config) *bool { return &c.LiveRestore })(c, v)
		if err == nil && !c.LiveRestore {
			return fmt.Errorf("live-restore can't be turned off: containers always outlive the engine (stop them before it with `gantry stop`)")
		}
		return err
	}},
}

func setHosts(c *Config, v []string) error {
	c.Hosts = nil
	for _, h := range v {
		n, err := parseHost(h)
		if err != nil {
			return err
		}
		c.Hosts = append(c.Hosts, n)
	}
	return nil
}

// parseHost completes and checks a socket's address as dockerd does: a bare path is refused, a bare host:port is tcp.
func parseHost(h string) (string, error) {
	h = strings.TrimSpace(h)
	scheme, rest, ok := strings.Cut(h, "://")
	if !ok {
		scheme, rest = "tcp", h
		if h == "" {
			return DefaultHost, nil
		}
		if strings.HasPrefix(h, "/") {
			return "", fmt.Errorf("invalid bind address %q: did you mean unix://%s?", h, h)
		}
	}
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return "", fmt.Errorf("invalid bind address %q: the path must be absolute", h)
		}
		return "unix://" + filepath.Clean(rest), nil
	case "fd":
		return h, nil
	case "tcp":
		i := strings.LastIndexByte(rest, ':')
		if i < 0 || strings.HasSuffix(rest, "]") {
			rest, i = rest+":2375", len(rest)
		}
		if n, err := strconv.ParseUint(rest[i+1:], 10, 16); err != nil || (n == 0 && rest[i+1:] != "0") {
			return "", fmt.Errorf("invalid bind address %q: bad port %q", h, rest[i+1:])
		}
		return "tcp://" + rest, nil
	}
	return "", fmt.Errorf("invalid bind address %q: unsupported scheme%s; valid are unix, tcp, fd", h, suggest(scheme, []string{"unix", "tcp", "fd"}))
}

// ulimitNames are the limits of setrlimit(2) in Docker's spelling.
var ulimitNames = []string{"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}

func setUlimits(c *Config, v []string) error {
	for _, u := range v {
		name, limits, ok := strings.Cut(u, "=")
		if !ok {
			return fmt.Errorf("invalid ulimit argument: %s", u)
		}
		if !slices.Contains(ulimitNames, name) {
			return fmt.Errorf("invalid ulimit type: %s%s", name, suggest(name, ulimitNames))
		}
		s, h, both := strings.Cut(limits, ":")
		soft, err := strconv.ParseInt(s, 10, 64)
		hard := soft
		if err == nil && both {
			hard, err = strconv.ParseInt(h, 10, 64)
		}
		if err != nil || soft < -1 || hard < -1 {
			return fmt.Errorf("invalid ulimit argument: %s", u)
		}
		if hard != -1 && (soft > hard || soft == -1) {
			return fmt.Errorf("ulimit soft limit must be less than or equal to hard limit: %d > %d", soft, hard)
		}
		c.Ulimits[name] = Ulimit{soft, hard}
	}
	return nil
}

// parseSize reads a number of bytes with an optional binary unit.
func parseSize(s string) (int64, error) {
	num := strings.TrimRight(s, "bBiIkKmMgGtTpP ")
	unit := strings.ToLower(strings.TrimSpace(s[len(num):]))
	shift := 0
	if unit != "" && unit != "b" {
		i := strings.IndexByte("kmgtp", unit[0])
		if rest := unit[1:]; i < 0 || (rest != "" && rest != "b" && rest != "ib") {
			return 0, fmt.Errorf("invalid size: '%s'", s)
		}
		shift = 10 * (i + 1)
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || f < 0 || f*float64(int64(1)<<shift) >= 1<<62 {
		return 0, fmt.Errorf("invalid size: '%s'", s)
	}
	return int64(f * float64(int64(1)<<shift)), nil
}

func keys() (all []string) {
	for _, o := range options {
		if o.key != "" {
			all = append(all, o.key)
		}
	}
	return all
}

// Usage is the help text of `gantry daemon`.
func Usage() string {
	var b strings.Builder
	b.WriteString("Usage:  gantry daemon [OPTIONS]\n\nThe container engine: serves Docker's API.\n\nOptions:\n")
	sorted := slices.SortedFunc(slices.Values(options), func(a, b *option) int { return strings.Compare(a.flag, b.flag) })
	for _, o := range sorted {
		short := "    "
		if o.short != 0 {
			short = "-" + string(o.short) + ", "
		}
		fmt.Fprintf(&b, "  %s--%-31s %s\n", short, strings.TrimRight(o.flag+" "+o.arg, " "), o.help)
	}
	fmt.Fprintf(&b, "      --%-31s %s\n  -v, --%-31s %s\n", "help", "Print usage", "version", "Print version information and quit")
	return b.String()
}

func suggest(s string, valid []string) string {
	if n := nearest.To(s, slices.Sorted(slices.Values(valid))); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
