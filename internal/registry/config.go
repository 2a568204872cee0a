package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is a registry's configuration, as its one YAML file has it. The zero value serves everyone, without TLS, and
// collects each hour.
type Config struct {
	// Listen is the address to serve at.
	Listen string `yaml:"listen"`
	// Data is the folder of everything.
	Data string `yaml:"data"`
	TLS  TLS    `yaml:"tls"`
	Auth Auth   `yaml:"auth"`
	GC   GC     `yaml:"gc"`
	// Retention rules delete tags, at each collection.
	Retention []Retention `yaml:"retention"`
	// Immutable tags, once pushed, stay.
	Immutable []TagPattern `yaml:"immutable"`
	// Proxy makes the registry a cache of others.
	Proxy  Proxy  `yaml:"proxy"`
	Limits Limits `yaml:"limits"`
	// Sparse takes manifests of which not everything is here: for copies of one platform of many. A tag of such a
	// manifest may have holes.
	Sparse bool `yaml:"sparse"`
}

// TLS says how to serve HTTPS.
type TLS struct {
	// Mode is "off", "auto" (a certificate of a small authority of our own, made on the first start) or "files".
	Mode string `yaml:"mode"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// Names are further names and addresses of an automatic certificate.
	Names []string `yaml:"names"`
	// Trust is a folder of trusted authorities, as HOST:PORT/ca.crt ("/etc/docker/certs.d"). With an automatic
	// certificate ours is put there, for this host's names, so that engines here trust it.
	Trust string `yaml:"trust"`
}

// Auth says who may do what.
type Auth struct {
	// Htpasswd is a file of user:bcrypt lines. Without it nobody can log in.
	Htpasswd string `yaml:"htpasswd"`
	// Mode is "token" (the registry issues bearer tokens, as clients of today expect) or "basic". A password at each
	// request is taken in both.
	Mode string `yaml:"mode"`
	// Rules give rights; what none gives is not allowed. Without rules, whoever can log in may do everything, and
	// without a Htpasswd everyone.
	Rules []Rule `yaml:"rules"`
	// URL is how clients reach us, if what they say in their requests is not it ("https://registry.example.org").
	URL string `yaml:"url"`
	// TokenLife is how long a token is good for.
	TokenLife Duration `yaml:"token-life"`
}

// Rule gives some users some rights in some repositories.
type Rule struct {
	// Users are names, "*" for everyone who logged in, "anonymous" for everyone.
	Users []string `yaml:"users"`
	// Repositories are patterns: "*" is a part of a path component, "**" any number of them.
	Repositories []string `yaml:"repositories"`
	// Allow has "pull", "push", "delete" and "admin".
	Allow []string `yaml:"allow"`
}

// GC says when to collect, and what is left alone.
type GC struct {
	// Every is the time between collections; negative for never.
	Every Duration `yaml:"every"`
	// Grace is how long a blob that no manifest has is kept after its last use: longer than a push takes.
	Grace Duration `yaml:"grace"`
	// Untagged is how long a manifest without a tag is kept; negative for ever. Deleting its last tag cuts it short.
	Untagged Duration `yaml:"untagged"`
	// Uploads is how long an upload may rest.
	Uploads Duration `yaml:"uploads"`
}

// TagPattern chooses tags.
type TagPattern struct {
	Repositories []string `yaml:"repositories"`
	Tags         []string `yaml:"tags"`
}

func (p TagPattern) match(repo, tag string) bool {
	return (len(p.Repositories) == 0 || matchAny(p.Repositories, repo)) && (len(p.Tags) == 0 || matchAny(p.Tags, tag))
}

// Retention deletes the tags that it chooses, but for the last pushed ones and the young ones.
type Retention struct {
	TagPattern  `yaml:",inline"`
	KeepLast    int      `yaml:"keep-last"`
	KeepYounger Duration `yaml:"keep-younger"`
}

// Proxy says which registries we are a cache of. Their repositories are here as HOST/NAME, or NAME with ?ns=HOST.
type Proxy struct {
	// Upstreams by the host that clients name.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	// Default is the upstream of names without a host that are not ours ("docker.io" for dockerd's registry-mirrors).
	Default string `yaml:"default"`
	// Fresh is how long a tag is served without asking upstream.
	Fresh Duration `yaml:"fresh"`
	// Keep is how long what nobody asks for stays.
	Keep Duration `yaml:"keep"`
}

// Upstream is a registry that we are a cache of.
type Upstream struct {
	// URL is where it is; https://HOST without one.
	URL string `yaml:"url"`
	// Username and PasswordFile log in. Password is instead of the file for who has it from the environment; a
	// configuration file holds no passwords.
	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password-file"`
	Password     string `yaml:"-"`
	// CA is a file of certificates to trust instead of the system's.
	CA string `yaml:"ca"`
}

// Limits bound what clients can cost.
type Limits struct {
	// Blob is the largest blob; 0 for any.
	Blob Size `yaml:"blob"`
	// Stall is how long a client may send or take nothing.
	Stall Duration `yaml:"stall"`
}

// Duration is a time.Duration that is also written in days ("30d").
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	s := n.Value
	switch s {
	case "never", "forever":
		*d = -1
		return nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		f, err := strconv.ParseFloat(days, 64)
		if err != nil || f < 0 || f > 36500 {
			return fmt.Errorf("line %d: invalid duration %q", n.Line, s)
		}
		*d = Duration(f * float64(24*time.Hour))
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("line %d: invalid duration %q (30s, 15m, 2h, 7d, never)", n.Line, s)
	}
	*d = Duration(v)
	return nil
}

// Size is a number of bytes, also written as "10GB" or "512MiB".
type Size int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (z *Size) UnmarshalYAML(n *yaml.Node) error {
	s := strings.ToUpper(strings.TrimSpace(n.Value))
	factor := int64(1)
	for i, unit := range []string{"KIB", "MIB", "GIB", "TIB", "KB", "MB", "GB", "TB", "K", "M", "G", "T", "B"} {
		if v, ok := strings.CutSuffix(s, unit); ok {
			s = strings.TrimSpace(v)
			switch {
			case i < 4:
				factor = 1 << (10 * (i + 1))
			case i < 12:
				factor = int64(math.Pow10(3 * ((i-4)%4 + 1)))
			}
			break
		}
	}
	v, ok := parseDecimal(s)
	if !ok || v > math.MaxInt64/factor {
		return fmt.Errorf("line %d: invalid size %q (10GB, 512MiB)", n.Line, n.Value)
	}
	*z = Size(v * factor)
	return nil
}

func (z Size) String() string { return strconv.FormatInt(int64(z), 10) + " bytes" }

func (c *Config) setDefaults() {
	def := func(d *Duration, v time.Duration) {
		if *d == 0 {
			*d = Duration(v)
		}
	}
	if c.Listen == "" {
		c.Listen = ":5000"
	}
	if c.Data == "" {
		c.Data = "/var/lib/registry"
	}
	if c.TLS.Mode == "" {
		c.TLS.Mode = "off"
		if c.TLS.Cert != "" {
			c.TLS.Mode = "files"
		}
	}
	if c.Auth.Mode == "" {
		c.Auth.Mode = "token"
	}
	def(&c.Auth.TokenLife, 5*time.Minute)
	def(&c.GC.Every, time.Hour)
	def(&c.GC.Grace, time.Hour)
	def(&c.GC.Untagged, 24*time.Hour)
	def(&c.GC.Uploads, 24*time.Hour)
	def(&c.Proxy.Fresh, time.Minute)
	def(&c.Proxy.Keep, 30*24*time.Hour)
	def(&c.Limits.Stall, time.Minute)
}

// Check finds what is wrong with a configuration, empty fields aside.
func (c Config) Check() error {
	c.setDefaults()
	return c.check()
}

func (c *Config) check() error {
	if !slices.Contains([]string{"off", "auto", "files"}, c.TLS.Mode) {
		return fmt.Errorf("tls: mode %q: want off, auto or files", c.TLS.Mode)
	}
	if c.TLS.Mode == "files" && (c.TLS.Cert == "" || c.TLS.Key == "") {
		return errors.New("tls: mode files needs cert and key")
	}
	if c.Auth.Mode != "token" && c.Auth.Mode != "basic" {
		return fmt.Errorf("auth: mode %q: want token or basic", c.Auth.Mode)
	}
	if c.Auth.Mode == "basic" && len(c.Auth.Rules) > 0 && c.Auth.Htpasswd == "" {
		return errors.New("auth: mode basic needs htpasswd")
	}
	if c.Auth.URL != "" {
		if u, err := url.Parse(c.Auth.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("auth: url %q: want http(s)://HOST[:PORT]", c.Auth.URL)
		}
	}
	for i, r := range c.Auth.Rules {
		if len(r.Users) == 0 || len(r.Repositories) == 0 || len(r.Allow) == 0 {
			return fmt.Errorf("auth: rule %d: users, repositories and allow are all needed", i+1)
		}
		for _, a := range r.Allow {
			if _, ok := actions[a]; !ok {
				return fmt.Errorf("auth: rule %d: allow %q: want pull, push, delete or admin", i+1, a)
			}
		}
	}
	for i, r := range c.Retention {
		if r.KeepLast <= 0 && r.KeepYounger <= 0 {
			return fmt.Errorf("retention: rule %d would delete everything: set keep-last or keep-younger", i+1)
		}
	}
	if _, ok := c.Proxy.Upstreams[c.Proxy.Default]; c.Proxy.Default != "" && !ok {
		return fmt.Errorf("proxy: default %q is none of the upstreams", c.Proxy.Default)
	}
	for host, u := range c.Proxy.Upstreams {
		if host == "" || !validName(nsComponent(host)) || strings.Contains(host, "/") {
			return fmt.Errorf("proxy: upstream %q: want HOST or HOST:PORT", host)
		}
		if u.URL != "" {
			if p, err := url.Parse(u.URL); err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" {
				return fmt.Errorf("proxy: upstream %s: url %q: want http(s)://HOST[:PORT]", host, u.URL)
			}
		}
		if (u.Username == "") != (u.PasswordFile == "" && u.Password == "") {
			return fmt.Errorf("proxy: upstream %s: username and password-file go together", host)
		}
	}
	return nil
}

func (c *Config) immutable(repo, tag string) bool {
	return slices.ContainsFunc(c.Immutable, func(p TagPattern) bool { return p.match(repo, tag) })
}

// ParseConfig reads a configuration file's text. Keys that it does not know are errors: a misspelled rule would be one
// that does not hold.
func ParseConfig(text []byte) (Config, error) {
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, err
	}
	return c, c.Check()
}

// ReadConfig reads a configuration file.
func ReadConfig(path string) (Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}
