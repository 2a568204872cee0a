package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
)

// Connect is `network connect`.
var Connect = &command.Command{
	Name: "connect", Args: "[OPTIONS] NETWORK CONTAINER", Short: "Connect a container to one more network",
	Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		ip := fs.String("ip", "", "IPv4 address (e.g., 172.30.100.104)")
		ip6 := fs.String("ip6", "", "IPv6 address (e.g., 2001:db8::33)")
		mac := fs.String("mac-address", "", "Hardware address")
		aliases, links := flags.NewList("strings", nil), flags.NewList("list", nil)
		options, linkLocal := flags.NewList("strings", nil), flags.NewList("strings", nil)
		fs.Var(aliases, "alias", "Further name of the container in this network")
		fs.Var(links, "link", "Another container, by CONTAINER or CONTAINER:ALIAS")
		fs.Var(options, "driver-opt", "Driver option of the connection")
		fs.Var(linkLocal, "link-local-ip", "Link-local address")
		priority := fs.Int("gw-priority", 0, "Which of the networks is the way out: that of the highest")
		return func(ctx context.Context, env *command.Env, args []string) error {
			e := &network.EndpointSettings{Aliases: aliases.Values, Links: links.Values, GwPriority: *priority, IPAMConfig: &network.EndpointIPAMConfig{}}
			var err error
			if e.IPAMConfig.IPv4Address, err = address(*ip); err != nil {
				return err
			}
			if e.IPAMConfig.IPv6Address, err = address(*ip6); err != nil {
				return err
			}
			for _, l := range linkLocal.Values {
				a, err := address(l)
				if err != nil {
					return err
				}
				e.IPAMConfig.LinkLocalIPs = append(e.IPAMConfig.LinkLocalIPs, a)
			}
			if *mac != "" {
				m, err := net.ParseMAC(*mac)
				if err != nil {
					return err
				}
				e.MacAddress = network.HardwareAddr(m)
			}
			if e.DriverOpts, err = keyValues(options.Values); err != nil {
				return err
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			return c.NetworkConnect(ctx, args[0], &network.ConnectRequest{Container: args[1], EndpointConfig: e})
		}
	},
}

// Disconnect is `network disconnect`.
var Disconnect = &command.Command{
	Name: "disconnect", Args: "[OPTIONS] NETWORK CONTAINER", Short: "Take a container off a network",
	Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		force := fs.BoolP("force", "f", false, "Though the container is not there any more")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			return c.NetworkDisconnect(ctx, args[0], &network.DisconnectRequest{Container: args[1], Force: *force})
		}
	},
}

func address(s string) (a netip.Addr, err error) {
	if s == "" {
		return a, nil
	}
	return netip.ParseAddr(s)
}

func keyValues(list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("invalid key/value pair format in driver options")
		}
		m[k] = v
	}
	return m, nil
}
