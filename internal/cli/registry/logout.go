package registry

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
)

// Logout is `logout`.
var Logout = &command.Command{
	Name: "logout", Args: "[SERVER]", Short: "Log out from a registry",
	Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		return func(ctx context.Context, env *command.Env, args []string) error {
			server := ""
			if len(args) > 0 {
				server = args[0]
			}
			store, err := credentials.Open(env)
			if err != nil {
				return err
			}
			fmt.Fprintf(env.IO.Out, "Removing login credentials for %s\n", credentials.Key(server))
			found, err := store.Remove(ctx, server)
			if err != nil {
				return fmt.Errorf("could not erase credentials: %w", err)
			}
			if !found {
				fmt.Fprintf(env.IO.Err, "Not logged in to %s\n", credentials.Key(server))
			}
			return nil
		}
	},
}
