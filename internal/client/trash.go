package client

import (
	"context"
	"net/url"
	"strconv"
	"time"
)

// Removal says what becomes of what is removed; an engine that is not Gantry takes no notice.
type Removal struct {
	Now       bool   // not into the trash
	Operation string // what is removed under the same one is undone together
}

type removalKey struct{}

// WithRemoval has the removals under ctx follow r.
func WithRemoval(ctx context.Context, r Removal) context.Context {
	return context.WithValue(ctx, removalKey{}, r)
}

func setRemoval(ctx context.Context, q url.Values) {
	r, _ := ctx.Value(removalKey{}).(Removal)
	setTrue(q, "now", r.Now)
	set(q, "operation", r.Operation)
}

// Prunable is a thing that a prune would take.
type Prunable struct {
	Kind, ID, Name string
	Size           int64
}

// Prunable lists what a prune would take: kind is "containers", "images", "all-images", "networks" or "volumes".
func (c *Client) Prunable(ctx context.Context, kind string, f Filters) (out []Prunable, err error) {
	q := url.Values{}
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/gantry/prunable/" + esc(kind), Query: q}, &out)
	return out, err
}

// Removed is a thing in the trash.
type Removed struct {
	ID, Kind, Key  string
	Names          []string
	Operation      string
	Removed, Until time.Time
	Size           int64
}

// Trash lists what can be brought back, what was removed last first.
func (c *Client) Trash(ctx context.Context) (out []Removed, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/gantry/trash"}, &out)
	return out, err
}

// Emptied says what EmptyTrash deleted.
type Emptied struct {
	Things         int
	SpaceReclaimed int64
}

// EmptyTrash deletes for good what ref names, or everything.
func (c *Client) EmptyTrash(ctx context.Context, ref string) (out Emptied, err error) {
	q := url.Values{}
	set(q, "ref", ref)
	err = c.JSON(ctx, Request{Method: "DELETE", Path: "/gantry/trash", Query: q}, &out)
	return out, err
}

// Undone is what Undo brought back, and what it could not.
type Undone struct {
	Restored []struct{ Kind, ID, Name string }
	Failed   []string
}

// Undo brings back what ref names, or what the last removal took; as is another name for it.
func (c *Client) Undo(ctx context.Context, ref, as string) (out Undone, err error) {
	q := url.Values{}
	set(q, "ref", ref)
	set(q, "as", as)
	err = c.JSON(ctx, Request{Method: "POST", Path: "/gantry/undo", Query: q}, &out)
	return out, err
}

// Protect keeps a thing of a kind ("images", "volumes") from removal, or ends that.
func (c *Client) Protect(ctx context.Context, kind, name string, on bool) error {
	q := url.Values{"on": {strconv.FormatBool(on)}}
	return c.JSON(ctx, Request{Method: "POST", Path: "/gantry/" + kind + "/" + esc(name) + "/protect", Query: q}, nil)
}
