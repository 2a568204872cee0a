package client

import (
	"context"
	"net/url"

	"github.com/moby/moby/api/types/network"
)

// NetworkList lists networks.
func (c *Client) NetworkList(ctx context.Context, f Filters) (out []network.Network, err error) {
	q := url.Values{}
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "GET", Path: "/networks", Query: q}, &out)
	return out, err
}

// NetworkCreate makes a network.
func (c *Client) NetworkCreate(ctx context.Context, r *network.CreateRequest) (out network.CreateResponse, err error) {
	err = c.JSON(ctx, Request{Method: "POST", Path: "/networks/create", Body: r}, &out)
	return out, err
}

// NetworkRemove removes a network.
func (c *Client) NetworkRemove(ctx context.Context, ref string) error {
	return c.JSON(ctx, Request{Method: "DELETE", Path: "/networks/" + esc(ref)}, nil)
}

// NetworkPrune removes networks that no container is meant for.
func (c *Client) NetworkPrune(ctx context.Context, f Filters) (out network.PruneReport, err error) {
	q := url.Values{}
	set(q, "filters", f.Encode())
	err = c.JSON(ctx, Request{Method: "POST", Path: "/networks/prune", Query: q}, &out)
	return out, err
}

// NetworkConnect connects a container.
func (c *Client) NetworkConnect(ctx context.Context, ref string, r *network.ConnectRequest) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/networks/" + esc(ref) + "/connect", Body: r}, nil)
}

// NetworkDisconnect takes a container off a network.
func (c *Client) NetworkDisconnect(ctx context.Context, ref string, r *network.DisconnectRequest) error {
	return c.JSON(ctx, Request{Method: "POST", Path: "/networks/" + esc(ref) + "/disconnect", Body: r}, nil)
}

// PortExplanation says who reaches a port of the host, and by which rule.
type PortExplanation struct {
	Port      int
	Proto     string
	Policy    string
	Published []struct {
		Container, ID, Network, Host, Target, By, Rule string
		Relay                                          int
	}
	Holders []struct {
		Addr, Command, Container string
		Pid                      int
	}
	Ways []struct {
		From    string
		To      []string
		Reached string
		Why     []string
	}
	Notes []string
}

// ExplainPort asks who reaches a port, and by which rule; an engine that is not Gantry cannot say.
func (c *Client) ExplainPort(ctx context.Context, port, proto string) (out PortExplanation, err error) {
	q := url.Values{}
	set(q, "proto", proto)
	err = c.JSON(ctx, Request{Method: "GET", Path: "/gantry/ports/" + esc(port), Query: q}, &out)
	return out, err
}
