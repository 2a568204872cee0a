package client

import (
	"context"
	"io"
	"net/url"

	"github.com/moby/moby/api/types/image"
)

// ImageList lists images.
func (c *Client) ImageList(ctx context.Context, all bool, f Filters) (out []image.Summary, err error) {
	q := url.Values{}
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

// ImagePull asks the engine to pull an image; the response is a stream of JSON messages.
func (c *Client) ImagePull(ctx context.Context, repo, tag, platform string) (*Response, error) {
	q := url.Values{"fromImage": {repo}}
	set(q, "tag", tag)
	set(q, "platform", platform)
	return c.Do(ctx, Request{Method: "POST", Path: "/images/create", Query: q})
}
