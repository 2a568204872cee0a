package remote

import (
	"context"
	"strings"

	"github.com/distribution/reference"

	"gantry/internal/errs"
)

// hostOf reads what users log in to: a host, or the address that Docker's configuration has for its Hub.
func hostOf(address string) string {
	host := strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", hubHost, "index.docker.io", "registry-1.docker.io":
		return hubHost
	}
	return host
}

// probe is a repository of which only the host counts.
func (c *Client) probe(host string, a Access) (*Repository, error) {
	named, err := reference.WithName(host + "/probe")
	if err != nil {
		return nil, errs.Invalid.Errorf("invalid registry address %q: %w", host, err)
	}
	return c.Repository(named, a)
}

// Login checks credentials against the registry of that address. There is no token to keep: those that
// registries give are asked for anew each time.
func (c *Client) Login(ctx context.Context, address string, a Access) (token string, err error) {
	host := hostOf(address)
	r, err := c.probe(host, a)
	if err != nil {
		return "", err
	}
	// What was remembered of an earlier login says nothing of this one.
	if err := r.settle(ctx, r.registry()); err != nil {
		return "", err
	}
	if err := r.Ping(ctx); err != nil {
		if refused := As(err); refused != nil && errs.Unauthorized.Is(err) && !a.Credentials.empty() {
			return "", errs.Unauthorized.Errorf("Get %q: %w", redacted(r.registry().base)+"/", err)
		}
		return "", err
	}
	return "", nil
}

// Search looks for repositories: HOST/TERM at that host, as Docker splits it, everything else at Docker Hub.
func (c *Client) Search(ctx context.Context, term string, limit int, a Access) ([]Result, error) {
	if strings.Contains(term, "://") {
		return nil, errs.Invalid.Errorf("invalid repository name: repository name (%s) should not have a scheme", term)
	}
	host := hubHost
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, term = first, rest
		if host == "index.docker.io" {
			host = hubHost
		}
	}
	if host == hubHost {
		term = strings.TrimPrefix(term, "library/")
	}
	r, err := c.probe(host, a)
	if err != nil {
		return nil, err
	}
	return r.Search(ctx, term, limit)
}
