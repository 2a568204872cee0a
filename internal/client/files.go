package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
)

func archivePath(id string) string { return "/containers/" + esc(id) + "/archive" }

func pathStat(r *Response) (st container.PathStat, err error) {
	b, err := base64.StdEncoding.DecodeString(r.Header("X-Docker-Container-Path-Stat"))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, fmt.Errorf("unable to decode container path stat header: %w", err)
	}
	return st, nil
}

// ContainerStatPath describes a path in a container.
func (c *Client) ContainerStatPath(ctx context.Context, id, path string) (container.PathStat, error) {
	resp, err := c.Do(ctx, Request{Method: "HEAD", Path: archivePath(id), Query: url.Values{"path": {path}}})
	if err != nil {
		return container.PathStat{}, err
	}
	defer resp.Body.Close()
	return pathStat(resp)
}

// ContainerCopyOut returns a path of a container as a tar stream.
func (c *Client) ContainerCopyOut(ctx context.Context, id, path string) (io.ReadCloser, container.PathStat, error) {
	resp, err := c.Do(ctx, Request{Method: "GET", Path: archivePath(id), Query: url.Values{"path": {path}}})
	if err != nil {
		return nil, container.PathStat{}, err
	}
	st, err := pathStat(resp)
	if err != nil {
		resp.Body.Close()
		return nil, st, err
	}
	return resp.Body, st, nil
}

// ContainerCopyIn extracts a tar stream into a directory of a container. own gives what is made to the container's user.
func (c *Client) ContainerCopyIn(ctx context.Context, id, path string, archive io.Reader, own bool) error {
	q := url.Values{"path": {path}, "noOverwriteDirNonDir": {"true"}}
	if own {
		q.Set("copyUIDGID", "true")
	}
	resp, err := c.Do(ctx, Request{Method: "PUT", Path: archivePath(id), Query: q, Stream: archive, Type: "application/x-tar"})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// ContainerExport returns a container's file system as a tar stream.
func (c *Client) ContainerExport(ctx context.Context, id string) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: "GET", Path: "/containers/" + esc(id) + "/export"})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ContainerDiff lists what a container has changed of its image.
func (c *Client) ContainerDiff(ctx context.Context, id string) (out []container.FilesystemChange, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/containers/" + esc(id) + "/changes"}, &out)
	return out, err
}

// CommitOptions say what an image of a container gets.
type CommitOptions struct {
	Repo, Tag, Comment, Author string
	Changes                    []string
	NoPause                    bool
}

// ContainerCommit makes an image of a container and returns its ID.
func (c *Client) ContainerCommit(ctx context.Context, id string, o CommitOptions) (string, error) {
	q := url.Values{"container": {id}}
	set(q, "repo", o.Repo)
	set(q, "tag", o.Tag)
	set(q, "comment", o.Comment)
	set(q, "author", o.Author)
	for _, ch := range o.Changes {
		q.Add("changes", ch)
	}
	if o.NoPause {
		q.Set("pause", "0")
	}
	var out container.CommitResponse
	err := c.JSON(ctx, Request{Method: "POST", Path: "/commit", Query: q}, &out)
	return out.ID, err
}

// ContainerDo is a POST without body or answer: pause, unpause.
func (c *Client) ContainerDo(ctx context.Context, id, verb string) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/" + verb}, nil)
}

// ContainerRename gives a container another name.
func (c *Client) ContainerRename(ctx context.Context, id, name string) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/rename", Query: url.Values{"name": {name}}}, nil)
}

// Prune removes what is not used: kind is "containers", "images" or "volumes". out is that kind's report.
func (c *Client) Prune(ctx context.Context, kind string, f Filters, out any) error {
	q := url.Values{}
	set(q, "filters", f.Encode())
	setRemoval(ctx, q)
	return c.JSON(ctx, Request{Method: "POST", Path: "/" + kind + "/prune", Query: q}, out)
}

// ImageSave returns images as an archive.
func (c *Client) ImageSave(ctx context.Context, names []string) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: "GET", Path: "/images/get", Query: url.Values{"names": names}})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ImageHistory tells how an image was made.
func (c *Client) ImageHistory(ctx context.Context, name string) (out []image.HistoryResponseItem, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/images/" + esc(name) + "/history"}, &out)
	return out, err
}

// ImportOptions say what an imported archive becomes.
type ImportOptions struct {
	Source, Ref, Message, Platform string // Source is "-" for a stream, or a URL
	Changes                        []string
}

// ImageImport makes an image of an archive of files; the response is a stream of JSON messages.
func (c *Client) ImageImport(ctx context.Context, r io.Reader, o ImportOptions) (*Response, error) {
	q := url.Values{"fromSrc": {o.Source}}
	repo, tag := o.Ref, ""
	if i := strings.LastIndexByte(repo, ':'); i > strings.LastIndexByte(repo, '/') {
		repo, tag = repo[:i], repo[i+1:]
	}
	set(q, "repo", repo)
	set(q, "tag", tag)
	set(q, "message", o.Message)
	set(q, "platform", strings.ToLower(o.Platform))
	for _, ch := range o.Changes {
		q.Add("changes", ch)
	}
	return c.Do(ctx, Request{Method: "POST", Path: "/images/create", Query: q, Stream: r, Type: "text/plain"})
}

// ContainerTop lists the processes of a container by the host's ps(1).
func (c *Client) ContainerTop(ctx context.Context, id string, args []string) (out container.TopResponse, err error) {
	q := url.Values{}
	set(q, "ps_args", strings.Join(args, " "))
	err = c.JSON(ctx, Request{Method: "GET", Path: "/containers/" + esc(id) + "/top", Query: q}, &out)
	return out, err
}

// DiskUsage tells what takes how much of the disk, verbosely each thing by itself.
func (c *Client) DiskUsage(ctx context.Context, verbose bool) (out system.DiskUsage, err error) {
	q := url.Values{}
	setTrue(q, "verbose", verbose)
	err = c.JSON(ctx, Request{Method: "GET", Path: "/system/df", Query: q}, &out)
	return out, err
}
