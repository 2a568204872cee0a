package client

import (
	"context"
	"io"
	"net/url"
	"strconv"

	"github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImageList lists images.
func (c *Client) ImageList(ctx context.Context, all bool, f Filters) (out []image.Summary, err error) {
	q := url.Values{}
	setTrue(q, "all", all)
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/images/json", Query: q}, &out)
	return out, err
}

// ImageManifests lists images with what there is of each for which platform.
func (c *Client) ImageManifests(ctx context.Context, all bool, f Filters) (out []image.Summary, err error) {
	q := url.Values{"manifests": {"1"}}
	setTrue(q, "all", all)
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/images/json", Query: q}, &out)
	return out, err
}

// ImageTag gives source the name repo:tag as well.
func (c *Client) ImageTag(ctx context.Context, source, repo, tag string) error {
	q := url.Values{"repo": {repo}}
	set(q, "tag", tag)
	return c.JSON(ctx, Request{Method: "POST", Path: "/images/" + esc(source) + "/tag", Query: q}, nil)
}

// ImageRemove removes a name, and the image if it was its last.
func (c *Client) ImageRemove(ctx context.Context, ref string, force, noPrune bool) (out []image.DeleteResponse, err error) {
	q := url.Values{}
	setTrue(q, "force", force)
	setTrue(q, "noprune", noPrune)
	setRemoval(ctx, q)
	err = c.JSON(ctx, Request{Method: "DELETE", Path: "/images/" + esc(ref), Query: q}, &out)
	return out, err
}

// ImageLoad sends an archive of images; the response is a stream of JSON messages.
func (c *Client) ImageLoad(ctx context.Context, r io.Reader, quiet bool, platforms []string) (*Response, error) {
	q := url.Values{"quiet": {"0"}}
	setTrue(q, "quiet", quiet)
	for _, p := range platforms {
		q.Add("platform", p)
	}
	return c.Do(ctx, Request{Method: "POST", Path: "/images/load", Query: q, Stream: r, Type: "application/x-tar"})
}

// PullOptions say what to pull.
type PullOptions struct {
	Repo, Tag string // no tag: all of them
	Platform  string // os/arch[/variant]
	Auth      string // X-Registry-Auth
	Insecure  bool
}

// ImagePull asks the engine to pull an image; the response is a stream of JSON messages.
func (c *Client) ImagePull(ctx context.Context, o PullOptions) (*Response, error) {
	q := url.Values{"fromImage": {o.Repo}}
	set(q, "tag", o.Tag)
	set(q, "platform", o.Platform)
	setTrue(q, "insecure", o.Insecure)
	return c.Do(ctx, Request{Method: "POST", Path: "/images/create", Query: q, Header: authHeader(o.Auth)})
}

func authHeader(auth string) map[string]string {
	if auth == "" {
		return nil
	}
	return map[string]string{"X-Registry-Auth": auth}
}

// PushOptions say what to push.
type PushOptions struct {
	Repo, Tag string // no tag: all of them
	Platform  string // JSON
	Auth      string // X-Registry-Auth
	Insecure  bool
}

// ImagePush asks the engine to push an image; the response is a stream of JSON messages.
func (c *Client) ImagePush(ctx context.Context, o PushOptions) (*Response, error) {
	q := url.Values{}
	set(q, "tag", o.Tag)
	set(q, "platform", o.Platform)
	setTrue(q, "insecure", o.Insecure)
	h := authHeader(o.Auth)
	if h == nil { // old engines refuse a push without one
		h = map[string]string{"X-Registry-Auth": "e30="}
	}
	return c.Do(ctx, Request{Method: "POST", Path: "/images/" + esc(o.Repo) + "/push", Query: q, Header: h})
}

// RemoteManifest is an index or a manifest as its registry has it.
type RemoteManifest struct {
	Descriptor ocispec.Descriptor
	Raw        []byte
}

// ManifestInspect gets what a reference leads to in its registry. Only Gantry's engines do that.
func (c *Client) ManifestInspect(ctx context.Context, ref string, insecure bool, auth string) (out RemoteManifest, err error) {
	q := url.Values{"ref": {ref}}
	setTrue(q, "insecure", insecure)
	err = c.JSON(ctx, Request{Method: "GET", Path: "/gantry/manifest", Query: q, Header: authHeader(auth)}, &out)
	return out, err
}

// SearchResult is a repository that a search found.
type SearchResult struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	StarCount   int    `json:"star_count"`
	IsOfficial  bool   `json:"is_official"`
}

// ImageSearch looks for repositories.
func (c *Client) ImageSearch(ctx context.Context, term string, limit int, f Filters, auth string) (out []SearchResult, err error) {
	q := url.Values{"term": {term}}
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/images/search", Query: q, Header: authHeader(auth)}, &out)
	return out, err
}

// LoginReply is what the engine says of a login.
type LoginReply struct{ Status, IdentityToken string }

// RegistryLogin asks the engine to check credentials, an AuthConfig of the API.
func (c *Client) RegistryLogin(ctx context.Context, auth any, insecure bool) (out LoginReply, err error) {
	q := url.Values{}
	setTrue(q, "insecure", insecure)
	err = c.JSON(ctx, Request{Method: "POST", Path: "/auth", Query: q, Body: auth}, &out)
	return out, err
}
