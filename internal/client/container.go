package client

import (
	"context"
	"net/url"
	"strconv"

	"github.com/moby/moby/api/types/container"
)

func esc(id string) string { return url.PathEscape(id) }

// set adds key=value to q unless value is empty.
func set(q url.Values, key, value string) {
	if value != "" {
		q.Set(key, value)
	}
}

func setTrue(q url.Values, key string, on bool) {
	if on {
		q.Set(key, "1")
	}
}

// ContainerCreate creates a container and returns its ID and the engine's warnings.
func (c *Client) ContainerCreate(ctx context.Context, name, platform string, req container.CreateRequest) (out container.CreateResponse, err error) {
	err = c.JSON(ctx, createRequest(name, platform, req), &out)
	return out, err
}

func createRequest(name, platform string, req container.CreateRequest) Request {
	q := url.Values{}
	set(q, "name", name)
	set(q, "platform", platform)
	return Request{Method: "POST", Path: "/containers/create", Query: q, Body: req}
}

// ContainerStart starts a container.
func (c *Client) ContainerStart(ctx context.Context, id, detachKeys string) error {
	q := url.Values{}
	set(q, "detachKeys", detachKeys)
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/start", Query: q}, nil)
}

// StopOptions say how to end a container: the signal ("" the container's own) and the seconds until SIGKILL (nil the container's own).
type StopOptions struct {
	Signal  string
	Timeout *int
}

func (o StopOptions) query() url.Values {
	q := url.Values{}
	set(q, "signal", o.Signal)
	if o.Timeout != nil {
		q.Set("t", strconv.Itoa(*o.Timeout))
	}
	return q
}

// ContainerStop stops a container.
func (c *Client) ContainerStop(ctx context.Context, id string, o StopOptions) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/stop", Query: o.query()}, nil)
}

// ContainerRestart stops and starts a container.
func (c *Client) ContainerRestart(ctx context.Context, id string, o StopOptions) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/restart", Query: o.query()}, nil)
}

// ContainerKill sends signal ("" is SIGKILL) to the container's first process.
func (c *Client) ContainerKill(ctx context.Context, id, signal string) error {
	q := url.Values{}
	set(q, "signal", signal)
	return c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(id) + "/kill", Query: q}, nil)
}

// RemoveOptions say what goes with a container.
type RemoveOptions struct{ Force, Volumes, Link bool }

// ContainerRemove removes a container.
func (c *Client) ContainerRemove(ctx context.Context, id string, o RemoveOptions) error {
	q := url.Values{}
	setTrue(q, "v", o.Volumes)
	setTrue(q, "link", o.Link)
	setTrue(q, "force", o.Force)
	setRemoval(ctx, q)
	return c.JSON(ctx, Request{Method: "DELETE", Path: "/containers/" + esc(id), Query: q}, nil)
}

// ListOptions choose containers.
type ListOptions struct {
	All, Size bool
	Limit     int // <= 0: no limit
	Filters   Filters
}

// ContainerList lists containers, newest first.
func (c *Client) ContainerList(ctx context.Context, o ListOptions) (out []container.Summary, err error) {
	q := url.Values{}
	setTrue(q, "all", o.All)
	setTrue(q, "size", o.Size)
	if o.Limit > 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	set(q, "filters", o.Filters.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/containers/json", Query: q}, &out)
	return out, err
}

// InspectRaw returns the engine's JSON of a thing: kind is "containers", "images", "networks" or "volumes".
func (c *Client) InspectRaw(ctx context.Context, kind, id string, size bool) (raw []byte, err error) {
	q := url.Values{}
	setTrue(q, "size", size)
	path := "/" + kind + "/" + esc(id)
	if kind == "containers" || kind == "images" {
		path += "/json"
	}
	return raw, c.JSON(ctx, Request{Method: "GET", Path: path, Query: q}, &raw)
}

// ContainerInspect returns what the engine knows of a container.
func (c *Client) ContainerInspect(ctx context.Context, id string) (out container.InspectResponse, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/containers/" + esc(id) + "/json"}, &out)
	return out, err
}

// ContainerResize sets the size of a container's terminal.
func (c *Client) ContainerResize(ctx context.Context, id string, height, width uint) error {
	return c.resize(ctx, "/containers/"+esc(id)+"/resize", height, width)
}

// ExecResize sets the size of an exec's terminal.
func (c *Client) ExecResize(ctx context.Context, id string, height, width uint) error {
	return c.resize(ctx, "/exec/"+esc(id)+"/resize", height, width)
}

func (c *Client) resize(ctx context.Context, path string, height, width uint) error {
	q := url.Values{"h": {strconv.FormatUint(uint64(height), 10)}, "w": {strconv.FormatUint(uint64(width), 10)}}
	return c.JSON(ctx, Request{Method: "POST", Path: path, Query: q}, nil)
}

// WaitRequest is the request for a container's exit; it can be sent ahead of the start whose end it waits for.
func WaitRequest(id, condition string) Request {
	q := url.Values{}
	set(q, "condition", condition)
	return Request{Method: "POST", Path: "/containers/" + esc(id) + "/wait", Query: q}
}

// ContainerWait blocks until the container meets condition ("" is not-running).
func (c *Client) ContainerWait(ctx context.Context, id, condition string) (out container.WaitResponse, err error) {
	err = c.JSON(ctx, WaitRequest(id, condition), &out)
	return out, err
}

// AttachOptions choose the streams of an attach.
type AttachOptions struct {
	Stdin, Stdout, Stderr, Logs bool
	DetachKeys                  string
}

func attachRequest(id string, o AttachOptions) Request {
	q := attachQuery(o)
	q.Set("stream", "1")
	return Request{Method: "POST", Path: "/containers/" + esc(id) + "/attach", Query: q}
}

// ContainerAttach joins a container's streams.
func (c *Client) ContainerAttach(ctx context.Context, id string, o AttachOptions) (*Stream, error) {
	return c.Upgrade(ctx, attachRequest(id, o))
}

func attachQuery(o AttachOptions) url.Values {
	q := url.Values{}
	setTrue(q, "stdin", o.Stdin)
	setTrue(q, "stdout", o.Stdout)
	setTrue(q, "stderr", o.Stderr)
	setTrue(q, "logs", o.Logs)
	set(q, "detachKeys", o.DetachKeys)
	return q
}

// AttachAndWait sends an attach and a wait at once and returns when the engine has taken both: the container can then be started
// without missing a byte or its exit. ctx bounds both.
func (c *Client) AttachAndWait(ctx context.Context, id string, o AttachOptions, condition string) (*Stream, *Response, error) {
	ar, wr := attachRequest(id, o), WaitRequest(id, condition)
	ap, err := c.send(ctx, &ar, true)
	if err != nil {
		return nil, nil, err
	}
	wp, err := c.send(ctx, &wr, false)
	if err != nil {
		ap.Discard()
		return nil, nil, err
	}
	s, err := ap.Stream()
	if err != nil {
		wp.Discard()
		return nil, nil, err
	}
	w, err := wp.Receive()
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, w, nil
}

// LogsOptions choose log lines. Times are as Docker's API takes them: seconds with a fraction, or RFC 3339.
type LogsOptions struct {
	Stdout, Stderr, Follow, Timestamps, Details bool
	Since, Until, Tail                          string
}

// ContainerLogs streams a container's log: raw if it has a terminal, frames (Demux) if not.
func (c *Client) ContainerLogs(ctx context.Context, id string, o LogsOptions) (*Response, error) {
	q := url.Values{}
	setTrue(q, "stdout", o.Stdout)
	setTrue(q, "stderr", o.Stderr)
	setTrue(q, "follow", o.Follow)
	setTrue(q, "timestamps", o.Timestamps)
	setTrue(q, "details", o.Details)
	set(q, "since", o.Since)
	set(q, "until", o.Until)
	set(q, "tail", o.Tail)
	return c.Do(ctx, Request{Method: "GET", Path: "/containers/" + esc(id) + "/logs", Query: q})
}

// ExecCreate prepares a process in a running container and returns its ID.
func (c *Client) ExecCreate(ctx context.Context, in string, req container.ExecCreateRequest) (id string, err error) {
	var out struct {
		ID string `json:"Id"`
	}
	err = c.JSON(ctx, Request{Method: "POST", Path: "/containers/" + esc(in) + "/exec", Body: req}, &out)
	return out.ID, err
}

// ExecStart runs a prepared process without any streams.
func (c *Client) ExecStart(ctx context.Context, id string, req container.ExecStartRequest) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/exec/" + esc(id) + "/start", Body: req}, nil)
}

// ExecAttach runs a prepared process and joins its streams.
func (c *Client) ExecAttach(ctx context.Context, id string, req container.ExecStartRequest) (*Stream, error) {
	return c.Upgrade(ctx, Request{Method: "POST", Path: "/exec/" + esc(id) + "/start", Body: req})
}

// ExecInspect returns an exec's state.
func (c *Client) ExecInspect(ctx context.Context, id string) (out container.ExecInspectResponse, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/exec/" + esc(id) + "/json"}, &out)
	return out, err
}
