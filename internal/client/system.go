package client

import (
	"context"
	"net/url"

	"github.com/moby/moby/api/types/system"
)

// Ping is what an engine says of itself without being asked for a version.
type Ping struct{ APIVersion, OSType, Builder string }

// Ping asks whether the engine is there.
func (c *Client) Ping(ctx context.Context) (Ping, error) {
	r := Request{Method: "HEAD", Path: "/_ping", Unversioned: true}
	resp, err := c.once(ctx, &r)
	if err != nil {
		return Ping{}, err
	}
	defer resp.Body.Close()
	return Ping{resp.Header("Api-Version"), resp.Header("Ostype"), resp.Header("Builder-Version")}, nil
}

// ServerVersion returns the engine's versions.
func (c *Client) ServerVersion(ctx context.Context) (out system.VersionResponse, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/version"}, &out)
	return out, err
}

// Info returns what the engine knows of itself and its host, as JSON.
func (c *Client) Info(ctx context.Context) (raw []byte, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/info"}, &raw)
	return raw, err
}

// Events streams the engine's events as JSON messages. Times are as in LogsOptions.
func (c *Client) Events(ctx context.Context, since, until string, f Filters) (*Response, error) {
	q := url.Values{}
	set(q, "since", since)
	set(q, "until", until)
	set(q, "filters", f.Encode())
	return c.Do(ctx, Request{Method: "GET", Path: "/events", Query: q})
}
