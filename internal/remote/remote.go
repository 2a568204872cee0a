// Package remote is the client of registries: the OCI distribution specification, and what Docker's registries do
// beside it.
//
// A [Client] knows how to reach hosts: their mirrors, certificates, whether plain HTTP will do (hosts.go, endpoint.go),
// and remembers which ones are dead and which tokens it has. A [Repository] is one name with one user's
// credentials. Reading asks its endpoints in order, mirrors before the registry itself; writing goes to the registry.
// Every request passes the same gate (request.go): it authenticates when asked to, follows redirects without
// taking credentials along, and tries again what a later try may mend.
//
// Nothing here trusts what comes: sizes are bounded, silence ends a request, and bytes count for what they
// hash to.
package remote

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"

	"gantry/internal/errs"
)

// Options are a Client's settings that do not change.
type Options struct {
	UserAgent string
	CertDirs  []string // folders with a folder for each host: certificates and hosts.toml; earlier ones win
	Log       *slog.Logger
	Patience  Patience
	Segment   int64 // bytes of a large blob that one request asks for; 4 MiB
}

// Patience says how long to wait. A zero field means the default.
type Patience struct {
	Silence time.Duration // without a byte either way, until a request is given up; 30 s
	Reply   time.Duration // until a request that was sent is answered; 2 min
	Backoff time.Duration // before the second try; it doubles; 500 ms
	Tries   int           // of a request, and in a row of a blob that does not get on; 5
	Longest time.Duration // a registry's Retry-After beyond this is not waited for; 1 min
}

func (p Patience) orDefault() Patience {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&p.Silence, 30*time.Second)
	def(&p.Reply, 2*time.Minute)
	def(&p.Backoff, 500*time.Millisecond)
	def(&p.Longest, time.Minute)
	if p.Tries <= 0 {
		p.Tries = 5
	}
	return p
}

// Config is what the user set, and may change while we run.
type Config struct {
	Insecure []string            // hosts (with port), or networks in CIDR form, that plain HTTP and unknown certificates will do for
	Mirrors  map[string][]string // URLs of mirrors, by the registry's host
	Proxies  Proxies
}

// Client reaches registries. Its methods may be called from any goroutine.
type Client struct {
	o Options

	mu         sync.Mutex
	cfg        settings
	transports map[string]*http.Transport // by what they are made of
	schemes    map[string]string          // what a host was found to speak, when it had the choice
	dead       map[string]time.Time       // base URL → when to try again
	failed     map[string]int             // base URL → how often in a row it was dead
	challenges map[string][]challenge     // base URL → what it last asked for
	tokens     map[tokenKey]token
}

// New makes a client without configuration: no mirrors, TLS everywhere but on loopback.
func New(o Options) *Client {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Patience = o.Patience.orDefault()
	if o.Segment <= 0 {
		o.Segment = defaultSegment
	}
	return &Client{
		o: o, transports: map[string]*http.Transport{}, schemes: map[string]string{}, dead: map[string]time.Time{}, failed: map[string]int{},
		challenges: map[string][]challenge{}, tokens: map[tokenKey]token{},
	}
}

// Configure replaces the configuration; what runs goes on with the old one. What is wrong with it is errs.Invalid, and
// leaves the old one.
func (c *Client) Configure(cfg Config) error {
	s, err := parseConfig(cfg)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cfg = s
	clear(c.schemes)
	clear(c.dead)
	clear(c.failed)
	return nil
}

// Configured is what the configuration says, for whoever shows it.
type Configured struct {
	Networks []netip.Prefix      // whose hosts are insecure
	Insecure []string            // hosts
	Mirrors  map[string][]string // URLs, with a slash at the end, by host
	Proxies  Proxies             // what counts, with the environment's, and without passwords
}

// Configured returns what counts now.
func (c *Client) Configured() Configured {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Configured{Networks: slices.Clone(c.cfg.networks), Insecure: slices.Sorted(maps.Keys(c.cfg.insecure)), Mirrors: map[string][]string{}, Proxies: c.cfg.shown}
	for host, list := range c.cfg.mirrors {
		for _, u := range list {
			out.Mirrors[host] = append(out.Mirrors[host], strings.TrimRight(u.String(), "/")+"/")
		}
	}
	return out
}

// Close closes idle connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.transports {
		t.CloseIdleConnections()
	}
}

// Credentials are what a user shows a registry. The zero value shows nothing.
type Credentials struct {
	Username, Password string
	IdentityToken      string // for a token server, instead of a password
	RegistryToken      string // shown as it is
}

func (c Credentials) empty() bool { return c == Credentials{} }

// Access is how one operation reaches its registry.
type Access struct {
	Credentials Credentials
	Insecure    bool // as if the host were among the insecure ones
}

// Repository is a name in a registry, as one user sees it.
type Repository struct {
	c         *Client
	name      reference.Named
	path      string // in the registry: library/debian
	access    Access
	endpoints []*endpoint // in the order of reading; the last is the registry itself
}

// Repository returns the repository of a name; tag and digest do not count.
func (c *Client) Repository(name reference.Named, a Access) (*Repository, error) {
	host := reference.Domain(name)
	ends, err := c.endpoints(host, a.Insecure)
	if err != nil {
		return nil, err
	}
	return &Repository{c: c, name: reference.TrimNamed(name), path: reference.Path(name), access: a, endpoints: ends}, nil
}

// Host is the registry's, as references name it.
func (r *Repository) Host() string { return reference.Domain(r.name) }

// registry is the endpoint that is not a mirror.
func (r *Repository) registry() *endpoint { return r.endpoints[len(r.endpoints)-1] }

// deadFor is how long a mirror that could not be reached is left alone; if it can't be reached again, one time longer, up to
// deadTimes as long.
const (
	deadFor   = time.Minute
	deadTimes = 10
)

func (c *Client) bury(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	base := e.base.String()
	c.failed[base] = min(c.failed[base]+1, deadTimes)
	c.dead[base] = time.Now().Add(time.Duration(c.failed[base]) * deadFor)
}

func (c *Client) answered(e *endpoint) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.failed, e.base.String())
}

// byHealth is the endpoints in the order of reading: mirrors as they are configured, but after those that answered when last
// asked the others; the registry itself at the end.
func (r *Repository) byHealth() []*endpoint {
	all := slices.Clone(r.endpoints)
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if len(r.c.failed) > 0 {
		slices.SortStableFunc(all[:len(all)-1], func(a, b *endpoint) int { return r.c.failed[a.base.String()] - r.c.failed[b.base.String()] })
	}
	return all
}

func (c *Client) isDead(e *endpoint) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.dead[e.base.String()]
	return ok && time.Now().Before(t)
}

// reading calls f with each endpoint that may have what is read, until one has it. Mirrors are tried first, those
// that did not answer lately not at all; what the registry itself says counts.
func (r *Repository) reading(resolve bool, f func(e *endpoint) error) error {
	var mirrors []string // and what they said
	for _, e := range r.byHealth() {
		if !e.mirror {
			err := f(e)
			if errs.Unavailable.Is(err) && len(mirrors) > 0 { // else its word counts, and what a mirror says does not
				err = errs.Unavailable.Wrap(&hint{err, strings.Join(mirrors, "\n")})
			}
			return err
		}
		if resolve && !e.resolve || !e.pull {
			continue
		}
		at := e.base.Scheme + "://" + e.base.Host
		if r.c.isDead(e) {
			mirrors = append(mirrors, fmt.Sprintf("Its mirror %s was not asked: it did not answer a moment ago", at))
			continue
		}
		err := f(e)
		if errs.Canceled.Is(err) {
			return err
		}
		if errs.Unavailable.Is(err) {
			r.c.bury(e)
		} else {
			r.c.answered(e)
		}
		if err == nil {
			return nil
		}
		said, _, _ := strings.Cut(err.Error(), "\n")
		mirrors = append(mirrors, fmt.Sprintf("Its mirror %s was asked before: %s", at, said))
		r.c.o.Log.Info("mirror did not have it", "mirror", e.base.Redacted(), "repository", r.name.Name(), "err", err)
	}
	return errs.Unavailable.Errorf("no endpoint serves %s", r.name.Name())
}

// transport returns the transport for a TLS configuration, known by key.
func (c *Client) transport(key string, make func() (*tls.Config, error)) (*http.Transport, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.transports[key]; t != nil {
		return t, nil
	}
	cfg, err := make()
	if err != nil {
		return nil, err
	}
	t := newTransport(cfg, c.o.Patience, c.proxy)
	c.transports[key] = t
	return t, nil
}
