package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	registrytypes "github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/errs"
	"gantry/internal/remote"
)

// Registries is what the API needs of registries besides pulling and pushing.
type Registries interface {
	// Login checks credentials against the registry of that address. It returns a token to be kept instead of
	// the password, if the registry gave one.
	Login(ctx context.Context, address string, a remote.Access) (token string, err error)
	// Search looks for repositories: in HOST/TERM at that host, else at Docker Hub.
	Search(ctx context.Context, term string, limit int, a remote.Access) ([]remote.Result, error)
	// Configured says what insecure registries and mirrors are set.
	Configured() remote.Configured
}

// proxies is what /info says of the ways to registries.
func (s *Server) proxies() remote.Proxies {
	if s.deps.Registries == nil {
		return remote.Proxies{}
	}
	return s.deps.Registries.Configured().Proxies
}

// registrySettings is what /info says of registries.
func (s *Server) registrySettings() *registrytypes.ServiceConfig {
	var set remote.Configured
	if s.deps.Registries != nil {
		set = s.deps.Registries.Configured()
	}
	c := &registrytypes.ServiceConfig{
		InsecureRegistryCIDRs: append(slices.Clone(set.Networks), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")),
		IndexConfigs:          map[string]*registrytypes.IndexInfo{},
		Mirrors:               orEmpty(set.Mirrors["docker.io"]),
	}
	for _, host := range set.Insecure {
		c.IndexConfigs[host] = &registrytypes.IndexInfo{Name: host, Mirrors: orEmpty(set.Mirrors[host])}
	}
	for host, mirrors := range set.Mirrors { // of other registries than Docker Hub: Docker knows none, but the field fits
		if c.IndexConfigs[host] == nil && host != "*" {
			c.IndexConfigs[host] = &registrytypes.IndexInfo{Name: host, Mirrors: orEmpty(mirrors), Secure: true}
		}
	}
	c.IndexConfigs["docker.io"] = &registrytypes.IndexInfo{Name: "docker.io", Mirrors: c.Mirrors, Secure: true, Official: true}
	return c
}

// maxAuthHeader bounds X-Registry-Auth, in bytes.
const maxAuthHeader = 64 << 10

// access reads who asks a registry. As in Docker a header that can't be read counts as none: clients send "" and "null".
func (c *call) access() (remote.Access, error) {
	a := remote.Access{Insecure: c.flag("insecure")}
	h := c.r.Header.Get(registrytypes.AuthHeader)
	if h == "" {
		return a, nil
	}
	if len(h) > maxAuthHeader {
		return a, errs.Invalid.Errorf("%s is larger than %d bytes", registrytypes.AuthHeader, maxAuthHeader)
	}
	var x registrytypes.AuthConfig
	data, err := base64.URLEncoding.DecodeString(h)
	if err != nil {
		// Some clients leave the padding out, some use the other alphabet.
		data, err = base64.RawURLEncoding.DecodeString(strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(h))
	}
	if err == nil && len(bytes.TrimSpace(data)) > 0 {
		err = json.Unmarshal(data, &x)
	}
	if err != nil {
		return a, errs.Invalid.Errorf("invalid %s header: %w", registrytypes.AuthHeader, err)
	}
	a.Credentials = credentials(x)
	return a, nil
}

func credentials(x registrytypes.AuthConfig) remote.Credentials {
	c := remote.Credentials{Username: x.Username, Password: x.Password, IdentityToken: x.IdentityToken, RegistryToken: x.RegistryToken}
	if c.Username == "" && x.Auth != "" {
		if data, err := base64.StdEncoding.DecodeString(x.Auth); err == nil {
			c.Username, c.Password, _ = strings.Cut(strings.TrimRight(string(data), "\x00"), ":")
		}
	}
	return c
}

// auth is POST /auth: a login.
func (s *Server) auth(c *call) error {
	var x registrytypes.AuthConfig
	if err := c.decode(&x); err != nil {
		return err
	}
	if s.deps.Registries == nil {
		return errs.NotImplemented.Errorf("this engine talks to no registries")
	}
	token, err := s.deps.Registries.Login(c.r.Context(), x.ServerAddress, remote.Access{Credentials: credentials(x), Insecure: c.flag("insecure")})
	if err != nil {
		return err
	}
	return c.reply(200, registrytypes.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}

// Bounds of a search, Docker's.
const (
	defaultSearch = 25
	maxSearch     = 100
)

// imageSearch is GET /images/search.
func (s *Server) imageSearch(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	limit := defaultSearch
	if l := c.str("limit"); l != "" {
		if limit, err = strconv.Atoi(l); err != nil {
			return errs.Invalid.Errorf("invalid limit specified: %w", err)
		}
		if limit == 0 {
			limit = defaultSearch
		}
	}
	if limit < 1 || limit > maxSearch {
		return errs.Invalid.Errorf("limit %d is outside the range of [1, 100]", limit)
	}
	keep, err := searchFilter(filters)
	if err != nil {
		return err
	}
	a, err := c.access()
	if err != nil {
		return err
	}
	if s.deps.Registries == nil {
		return errs.NotImplemented.Errorf("this engine talks to no registries")
	}
	found, err := s.deps.Registries.Search(c.r.Context(), c.str("term"), limit, a)
	if err != nil {
		return err
	}
	out := []registrytypes.SearchResult{}
	for _, x := range found {
		if keep(x) && len(out) < limit {
			out = append(out, registrytypes.SearchResult{Name: x.Name, Description: x.Description, StarCount: x.Stars, IsOfficial: x.Official})
		}
	}
	return c.reply(200, out)
}

func searchFilter(filters map[string][]string) (func(remote.Result) bool, error) {
	var tests []func(remote.Result) bool
	for name, values := range filters {
		if !slices.Contains([]string{"is-automated", "is-official", "stars"}, name) {
			return nil, errs.Invalid.Errorf("invalid filter '%s'", name)
		}
		for _, v := range values {
			if name == "stars" {
				n, err := strconv.Atoi(v)
				if err != nil {
					return nil, errs.Invalid.Errorf("invalid filter 'stars=[%s]'", v)
				}
				tests = append(tests, func(x remote.Result) bool { return x.Stars >= n })
				continue
			}
			want, ok := map[string]bool{"true": true, "1": true, "false": false, "0": false}[v]
			if !ok {
				return nil, errs.Invalid.Errorf("invalid filter '%s=[%s]'", name, v)
			}
			tests = append(tests, func(x remote.Result) bool {
				if name == "is-automated" {
					return !want // nothing is any more
				}
				return x.Official == want
			})
		}
	}
	return func(x remote.Result) bool {
		return !slices.ContainsFunc(tests, func(t func(remote.Result) bool) bool { return !t(x) })
	}, nil
}

// RemoteManifest is an index or a manifest as its registry has it. Docker's command line asks the registry itself; through the engine
// its mirrors, certificates and settings count.
type RemoteManifest struct {
	Descriptor ocispec.Descriptor
	Raw        []byte
}

// remoteManifest is GET /gantry/manifest?ref=NAME.
func (s *Server) remoteManifest(c *call) error {
	a, err := c.access()
	if err != nil {
		return err
	}
	d, raw, err := s.deps.Images.Manifest(c.r.Context(), c.str("ref"), a)
	if err != nil {
		return err
	}
	return c.reply(200, RemoteManifest{d, raw})
}

// distribution is GET /distribution/{name}/json.
func (s *Server) distribution(c *call) error {
	a, err := c.access()
	if err != nil {
		return err
	}
	d, platforms, err := s.deps.Images.Distribution(c.r.Context(), c.name, a)
	if err != nil {
		return err
	}
	return c.reply(200, registrytypes.DistributionInspect{Descriptor: d, Platforms: orEmpty(platforms)})
}
