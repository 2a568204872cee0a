package client

import (
	"context"
	"io"
	"net/url"
	"time"

	"github.com/moby/moby/api/types/volume"
)

func volumePath(name string) string { return "/volumes/" + esc(name) }

// VolumeList lists volumes.
func (c *Client) VolumeList(ctx context.Context, f Filters) (out volume.ListResponse, err error) {
	q := url.Values{}
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/volumes", Query: q}, &out)
	return out, err
}

// VolumeInspect describes one volume.
func (c *Client) VolumeInspect(ctx context.Context, name string) (out volume.Volume, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: volumePath(name)}, &out)
	return out, err
}

// VolumeCreate makes a volume.
func (c *Client) VolumeCreate(ctx context.Context, r *volume.CreateRequest, protect bool) (out volume.Volume, err error) {
	q := url.Values{}
	setTrue(q, "protect", protect)
	err = c.JSON(ctx, Request{Method: "POST", Path: "/volumes/create", Query: q, Body: r}, &out)
	return out, err
}

// VolumeRemove removes a volume.
func (c *Client) VolumeRemove(ctx context.Context, name string, force bool) error {
	q := url.Values{}
	setTrue(q, "force", force)
	setRemoval(ctx, q)
	return c.JSON(ctx, Request{Method: "DELETE", Path: volumePath(name), Query: q}, nil)
}

// VolumeProtect keeps a volume from rm and prune, or does so no longer.
func (c *Client) VolumeProtect(ctx context.Context, name string, on bool) error {
	q := url.Values{}
	setTrue(q, "on", on)
	return c.JSON(ctx, Request{Method: "POST", Path: volumePath(name) + "/protect", Query: q}, nil)
}

// VolumeCopied is what the engine says of a clone or a snapshot: how many bytes its files have, whose blocks of these are
// shared with the original, and which containers may have been writing meanwhile.
type VolumeCopied struct {
	Name          string
	Created       time.Time
	Bytes, Shared int64
	Running       []string
}

// VolumeClone makes a volume with the files of another.
func (c *Client) VolumeClone(ctx context.Context, name, to string) (out VolumeCopied, err error) {
	err = c.JSON(ctx, Request{Method: "POST", Path: volumePath(name) + "/clone", Query: url.Values{"to": {to}}}, &out)
	return out, err
}

// VolumeExport returns a volume's files as a tar stream.
func (c *Client) VolumeExport(ctx context.Context, name string) (io.ReadCloser, error) {
	resp, err := c.Do(ctx, Request{Method: "GET", Path: volumePath(name) + "/export"})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// VolumeImport unpacks a tar stream, plain or compressed, into a volume that is new or empty.
func (c *Client) VolumeImport(ctx context.Context, name string, archive io.Reader) error {
	resp, err := c.Do(ctx, Request{Method: "POST", Path: volumePath(name) + "/import", Stream: archive, Type: "application/x-tar"})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// SnapshotCreate keeps what a volume holds now.
func (c *Client) SnapshotCreate(ctx context.Context, volume, name string) (out VolumeCopied, err error) {
	q := url.Values{}
	set(q, "name", name)
	err = c.JSON(ctx, Request{Method: "POST", Path: volumePath(volume) + "/snapshots", Query: q}, &out)
	return out, err
}

// SnapshotList lists a volume's snapshots, oldest first.
func (c *Client) SnapshotList(ctx context.Context, volume string) (out []VolumeCopied, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: volumePath(volume) + "/snapshots"}, &out)
	return out, err
}

// SnapshotRemove deletes a snapshot.
func (c *Client) SnapshotRemove(ctx context.Context, volume, name string) error {
	return c.JSON(ctx, Request{Method: "DELETE", Path: volumePath(volume) + "/snapshots", Query: url.Values{"name": {name}}}, nil)
}

// VolumeRestore puts a snapshot's files in the place of the volume's.
func (c *Client) VolumeRestore(ctx context.Context, volume, snapshot string) error {
	return c.JSON(ctx, Request{Method: "POST", Path: volumePath(volume) + "/restore", Query: url.Values{"snapshot": {snapshot}}}, nil)
}
