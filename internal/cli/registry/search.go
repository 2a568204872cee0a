package registry

import (
	"context"
	"strings"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/credentials"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Search is `search`.
var Search = &command.Command{
	Name: "search", Args: "[OPTIONS] TERM", Short: "Search for repositories: at Docker Hub, or HOST[:PORT]/TERM",
	Min: 1, Max: 1,
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var filters client.Filters
		command.Filters(fs, &filters, "f", "Only those that meet a condition: is-official=true, stars=3")
		format := fs.String("format", "", "table, json, or a Go template")
		limit := fs.Int("limit", 0, "No more than this, of at most 100")
		noTrunc := fs.Bool("no-trunc", false, "Do not shorten descriptions")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			host := "docker.io"
			if first, _, ok := strings.Cut(args[0], "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
				host = first
			}
			list, err := c.ImageSearch(ctx, args[0], *limit, filters, credentials.Header(ctx, env, host))
			if err != nil {
				return err
			}
			rows := make([]*formatter.SearchResult, len(list))
			for i, x := range list {
				d := strings.Join(strings.Fields(x.Description), " ")
				if !*noTrunc {
					d = formatter.Truncate(d, 45)
				}
				rows[i] = formatter.NewSearchResult(x.Name, d, x.StarCount, x.IsOfficial)
			}
			return formatter.Search(env.IO.Out, formatter.Format(*format), rows)
		}
	},
}
