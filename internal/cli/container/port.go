package container

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"

	"github.com/moby/moby/api/types/network"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
)

// Port is `port`.
var Port = &command.Command{
	Name: "port", Top: "port", Args: "CONTAINER [PRIVATE_PORT[/PROTO]]", Short: "Show where a container's ports are published",
	Min: 1, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run { return showPorts },
}

func showPorts(ctx context.Context, env *command.Env, args []string) error {
	c, err := env.Client()
	if err != nil {
		return err
	}
	raw, err := c.InspectRaw(ctx, "containers", args[0], false)
	if err != nil {
		return err
	}
	var x struct {
		NetworkSettings struct {
			Ports map[network.Port][]struct{ HostIp, HostPort string } //nolint:revive // Docker's spelling
		}
	}
	if err := json.Unmarshal(raw, &x); err != nil {
		return err
	}
	ports := x.NetworkSettings.Ports
	if len(args) == 2 {
		p, err := network.ParsePort(args[1])
		if err != nil {
			return err
		}
		if len(ports[p]) == 0 {
			return fmt.Errorf("no public port '%s' published for %s", args[1], args[0])
		}
		for _, b := range ports[p] {
			fmt.Fprintln(env.IO.Out, net.JoinHostPort(b.HostIp, b.HostPort))
		}
		return nil
	}
	keys := make([]network.Port, 0, len(ports))
	for p := range ports {
		keys = append(keys, p)
	}
	slices.SortFunc(keys, func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(a.Proto(), b.Proto()))
	})
	for _, p := range keys {
		for _, b := range ports[p] {
			fmt.Fprintf(env.IO.Out, "%s -> %s\n", p, net.JoinHostPort(b.HostIp, b.HostPort))
		}
	}
	return nil
}
