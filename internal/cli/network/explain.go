package network

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Explain is `network explain`.
var Explain = &command.Command{
	Name: "explain", Args: "[OPTIONS] PORT[/PROTO]", Short: "Say who reaches a port of the host, and by which rule",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.String("format", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			port, proto, _ := strings.Cut(args[0], "/")
			x, err := c.ExplainPort(ctx, port, proto)
			if client.IsNotFound(err) {
				return fmt.Errorf("this engine cannot explain ports: it is no Gantry, or an older one")
			}
			if err != nil {
				return err
			}
			if *format != "" && *format != "table" {
				return formatter.Write(env.IO.Out, formatter.Format(*format), nil, nil, []*client.PortExplanation{&x}, nil)
			}
			showExplanation(env, &x)
			return nil
		}
	},
}

func showExplanation(env *command.Env, x *client.PortExplanation) {
	out := env.IO.Out
	name := fmt.Sprintf("%d/%s", x.Port, x.Proto)
	for _, p := range x.Published {
		by := "by " + p.By
		if p.Relay > 0 {
			by += fmt.Sprintf(" (pid %d)", p.Relay)
		}
		fmt.Fprintf(out, "%s is published on %s by container %s (network %s), which has it at %s; %s\n", name, p.Host, p.Container, p.Network, p.Target, by)
	}
	for _, h := range x.Holders {
		who := "a socket of no process that can be seen"
		if h.Pid > 0 {
			who = fmt.Sprintf("pid %d (%s)", h.Pid, h.Command)
		}
		if h.Container != "" {
			who += " of container " + formatter.ShortID(h.Container)
		}
		fmt.Fprintf(out, "%s is held by %s, which listens on %s\n", name, who, h.Addr)
	}
	if len(x.Published)+len(x.Holders) == 0 {
		fmt.Fprintf(out, "%s: nobody has it\n", name)
	}
	for _, n := range x.Notes {
		fmt.Fprintln(out, "Note:", n)
	}
	if len(x.Published) > 0 {
		fmt.Fprintf(out, "publish-policy: %s\n", x.Policy)
	}
	for _, w := range x.Ways {
		fmt.Fprintf(out, "\n%s -> %s: %s\n", w.From, strings.Join(w.To, ", "), w.Reached)
		for _, y := range w.Why {
			fmt.Fprintln(out, "   ", y)
		}
	}
}
