package client

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
)

// Disk is what takes how much of the data root.
type Disk struct {
	Bytes  int64
	Shares []struct {
		Kind   string
		Things int
		Bytes  int64
	}
	Things []struct {
		Kind, Name, Path string
		Bytes            int64
	}
}

// Disk measures the engine's data root; an engine that is not Gantry has no such thing.
func (c *Client) Disk(ctx context.Context) (out Disk, err error) {
	err = c.JSON(ctx, Request{Method: "GET", Path: "/gantry/disk"}, &out)
	return out, err
}

// Finding is something that a check found wrong.
type Finding struct{ Kind, Name, Problem, Mended, Advice string }

// Checked counts what was read.
type Checked struct {
	Blobs, Layers, Images int
	Bytes                 int64
}

// Check has the engine read all blobs and layers, and with repair mend what can be. say is told what is wrong.
func (c *Client) Check(ctx context.Context, repair bool, say func(Finding)) (done Checked, err error) {
	q := url.Values{}
	setTrue(q, "repair", repair)
	resp, err := c.Do(ctx, Request{Method: "POST", Path: "/gantry/check", Query: q})
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var l struct {
			Finding *Finding
			Checked *Checked
			Error   string
		}
		if err := d.Decode(&l); err != nil {
			return done, err
		}
		switch {
		case l.Error != "":
			return done, errors.New(l.Error)
		case l.Finding != nil:
			say(*l.Finding)
		case l.Checked != nil:
			return *l.Checked, nil
		}
	}
}
