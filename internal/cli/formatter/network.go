package formatter

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// Network is what inspect decodes a network into: addresses that are not there come as "".
type Network struct {
	network.Network
	Containers map[string]struct{ Name, EndpointID, MacAddress, IPv4Address, IPv6Address string }
}

// Networks prints a list of networks.
func Networks(w io.Writer, f Format, noTrunc bool, list []network.Network) error {
	rows := make([]*NetworkContext, len(list))
	for i := range list {
		rows[i] = &NetworkContext{&list[i], !noTrunc}
	}
	if f == "raw" {
		f = `network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n`
	}
	columns := []Column{{"NETWORK ID", "ID"}, {"NAME", "Name"}, {"DRIVER", "Driver"}, {"SCOPE", "Scope"}}
	headers := map[string]string{"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
		"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"}
	return Write(w, f, columns, headers, rows, func(c *NetworkContext, field string) string {
		switch field {
		case "ID":
			return c.ID()
		case "Name":
			return c.Name()
		case "Driver":
			return c.Driver()
		}
		return c.Scope()
	})
}

// NetworkContext is one network in a template of networks.
type NetworkContext struct {
	n     *network.Network
	trunc bool
}

// MarshalJSON is what --format json prints.
func (c *NetworkContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// ID is the network's ID, short unless --no-trunc.
func (c *NetworkContext) ID() string {
	if c.trunc {
		return ShortID(c.n.ID)
	}
	return c.n.ID
}

// Name is the network's name.
func (c *NetworkContext) Name() string { return c.n.Name }

// Driver is what makes the network: bridge, macvlan, …
func (c *NetworkContext) Driver() string { return c.n.Driver }

// Scope is local.
func (c *NetworkContext) Scope() string { return c.n.Scope }

// IPv4 is whether it has IPv4 addresses.
func (c *NetworkContext) IPv4() string { return strconv.FormatBool(c.n.EnableIPv4) }

// IPv6 is whether it has IPv6 addresses.
func (c *NetworkContext) IPv6() string { return strconv.FormatBool(c.n.EnableIPv6) }

// Internal is whether it is closed.
func (c *NetworkContext) Internal() string { return strconv.FormatBool(c.n.Internal) }

// CreatedAt is when the network was made.
func (c *NetworkContext) CreatedAt() string { return c.n.Created.String() }

// Labels are all labels, as k=v separated by commas.
func (c *NetworkContext) Labels() string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(c.n.Labels)) {
		list = append(list, k+"="+c.n.Labels[k])
	}
	return strings.Join(list, ",")
}

// Label is the value of one label.
func (c *NetworkContext) Label(name string) string { return c.n.Labels[name] }
