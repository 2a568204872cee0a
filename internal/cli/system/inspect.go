// Package system is the verbs of the engine itself, and those that belong to no noun.
package system

import (
	"context"
	"fmt"
	"strings"

	"github.com/moby/moby/api/types/image"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Inspect is `inspect`, which finds out what a name means.
var Inspect = &command.Command{
	Name: "inspect", Args: "[OPTIONS] NAME|ID [NAME|ID...]", Short: "Show all that is known of containers, images and the like",
	Min: 1, Max: -1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		kind := fs.String("type", "", "Only things of this type")
		size := fs.BoolP("size", "s", false, "Sizes of files, too, of containers")
		return func(ctx context.Context, env *command.Env, args []string) error {
			if fs.Changed("type") && *kind == "" {
				return fmt.Errorf(`type is empty: must be one of "config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"`)
			}
			kinds := kinds()
			if *kind != "" {
				kinds = nil
				for _, k := range []string{"config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"} {
					if k == *kind {
						kinds = []string{k}
					}
				}
				if kinds == nil {
					return fmt.Errorf(`unknown type: %q: must be one of "config", "container", "image", "network", "node", "plugin", "secret", "service", "task", "volume"`, *kind)
				}
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			return formatter.Inspect(env.IO.Out, *format, args, func(name string) (any, []byte, error) {
				for _, k := range kinds {
					raw, err := c.InspectRaw(ctx, k+"s", name, *size && k == "container")
					if err == nil {
						return typed(k), raw, nil
					}
					// An engine without networks or volumes says "page not found", which is no such thing, too.
					if *kind != "" && k == *kind && !client.IsNotFound(err) || len(kinds) > 1 && !client.IsNotFound(err) && !strings.Contains(err.Error(), "page not found") {
						return nil, nil, err
					}
					if *kind != "" {
						return nil, nil, err
					}
				}
				return nil, nil, fmt.Errorf("Error: No such object: %s", name) //nolint:staticcheck // Docker's words
			})
		}
	},
}

// kinds is the order in which a name is looked for.
func kinds() []string { return []string{"container", "image", "network", "volume"} }

func typed(kind string) any {
	switch kind {
	case "container":
		return &formatter.Container{}
	case "image":
		return &image.InspectResponse{}
	case "network":
		return &formatter.Network{}
	}
	return new(struct{}) // templates go by the JSON
}
