package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/parse"
)

// Tag is `image tag`.
var Tag = &command.Command{
	Name: "tag", Top: "tag", Args: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", Short: "Give an image one more name",
	Min: 2, Max: 2,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run { return tag },
}

func tag(ctx context.Context, env *command.Env, args []string) error {
	if args[0] == "" {
		return fmt.Errorf("Error parsing reference: %q is not a valid repository/tag: invalid reference format", args[0]) //nolint:staticcheck // Docker's words
	}
	repo, t, err := parse.Reference(args[1])
	if err != nil {
		return fmt.Errorf("Error parsing reference: %q is not a valid repository/tag: %w", args[1], err) //nolint:staticcheck // Docker's words
	}
	if strings.Contains(args[1], "@") {
		return fmt.Errorf("refusing to create a tag with a digest reference")
	}
	c, err := env.Client()
	if err != nil {
		return err
	}
	return c.ImageTag(ctx, args[0], repo, t)
}
