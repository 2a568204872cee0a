package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
)

// Create is `network create`.
var Create = &command.Command{
	Name: "create", Args: "[OPTIONS] NETWORK", Short: "Create a network",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		r := &network.CreateRequest{}
		var w wishes
		fs.StringVarP(&r.Driver, "driver", "d", "bridge", "What makes the network: bridge, macvlan or ipvlan")
		fs.StringVar(&r.Scope, "scope", "", "Accepted for docker's sake: local")
		fs.BoolVar(&r.Internal, "internal", false, "Closed: no way in or out")
		fs.BoolVar(&r.Attachable, "attachable", false, "Accepted for docker's sake: it is said of swarm's networks")
		fs.BoolVar(&r.Ingress, "ingress", false, "Accepted for docker's sake: it is said of swarm's networks")
		fs.BoolVar(&r.ConfigOnly, "config-only", false, "Only a configuration for others")
		from := fs.String("config-from", "", "Take the configuration of another")
		ipv4 := fs.Bool("ipv4", true, "With IPv4 addresses")
		ipv6 := fs.Bool("ipv6", false, "With IPv6 addresses")
		list := func(name, short, help string) *flags.List {
			l := flags.NewList("list", nil)
			fs.VarP(l, name, short, help)
			return l
		}
		labels, options := list("label", "", "Label"), list("opt", "o", "Driver option")
		w.subnets, w.ranges = list("subnet", "", "Subnet in CIDR format"), list("ip-range", "", "Give containers addresses of this part of the subnet")
		w.gateways, w.aux = list("gateway", "", "The host's address in a subnet"), list("aux-address", "", "Addresses that containers do not get: name=address")
		ipamDriver := fs.String("ipam-driver", "default", "What gives out addresses")
		ipamOptions := list("ipam-opt", "", "Its options")
		return func(ctx context.Context, env *command.Env, args []string) (err error) {
			r.Name = args[0]
			if fs.Changed("ipv4") {
				r.EnableIPv4 = ipv4
			}
			if fs.Changed("ipv6") {
				r.EnableIPv6 = ipv6
			}
			if *from != "" {
				r.ConfigFrom = &network.ConfigReference{Network: *from}
			}
			r.Labels, r.Options = parse.Pairs(labels.Values), parse.Pairs(options.Values)
			r.IPAM = &network.IPAM{Driver: *ipamDriver, Options: parse.Pairs(ipamOptions.Values)}
			if r.IPAM.Config, err = w.config(); err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			out, err := c.NetworkCreate(ctx, r)
			if err != nil {
				return err
			}
			if out.Warning != "" {
				fmt.Fprintln(env.IO.Err, "WARNING:", out.Warning)
			}
			fmt.Fprintln(env.IO.Out, out.ID)
			return nil
		}
	},
}

// wishes are the addresses that the user gives. Which subnet each belongs to follows from the address itself.
type wishes struct{ subnets, ranges, gateways, aux *flags.List }

func (w *wishes) config() ([]network.IPAMConfig, error) {
	if len(w.subnets.Values) < len(w.ranges.Values) || len(w.subnets.Values) < len(w.gateways.Values) {
		return nil, errors.New("every ip-range or gateway must have a corresponding subnet")
	}
	var list []network.IPAMConfig
	for _, s := range w.subnets.Values {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid subnet %q: %w", s, err)
		}
		for _, have := range list {
			if have.Subnet.Overlaps(p) {
				return nil, errors.New("multiple overlapping subnet configuration is not supported")
			}
		}
		list = append(list, network.IPAMConfig{Subnet: p})
	}
	find := func(a netip.Addr) *network.IPAMConfig {
		for i := range list {
			if list[i].Subnet.Contains(a) {
				return &list[i]
			}
		}
		return nil
	}
	for _, s := range w.ranges.Values {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("invalid ip-range %q: %w", s, err)
		}
		c := find(p.Addr())
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for range %s", s)
		}
		if c.IPRange.IsValid() {
			return nil, fmt.Errorf("cannot configure multiple ranges (%s, %s) on the same subnet (%s)", s, c.IPRange, c.Subnet)
		}
		c.IPRange = p
	}
	for _, s := range w.gateways.Values {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("invalid gateway %q: %w", s, err)
		}
		c := find(a)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for gateway %s", s)
		}
		if c.Gateway.IsValid() {
			return nil, fmt.Errorf("cannot configure multiple gateways (%s, %s) for the same subnet (%s)", s, c.Gateway, c.Subnet)
		}
		c.Gateway = a
	}
	for _, s := range w.aux.Values {
		name, v, _ := strings.Cut(s, "=")
		a, err := netip.ParseAddr(v)
		if err != nil {
			return nil, fmt.Errorf("invalid aux-address %q: %w", s, err)
		}
		c := find(a)
		if c == nil {
			return nil, fmt.Errorf("no matching subnet for aux-address %s", v)
		}
		if c.AuxAddress == nil {
			c.AuxAddress = map[string]netip.Addr{}
		}
		c.AuxAddress[name] = a
	}
	return list, nil
}
