package system

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
	"gantry/internal/client"
)

// Prune is `system prune`.
var Prune = &command.Command{
	Name: "prune", Args: "[OPTIONS]", Short: "Remove everything that is not used",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		var p pruning
		var given []string
		fs.BoolVarP(&p.all, "all", "a", false, "All images that no container uses, not only those without a name")
		fs.BoolVar(&p.volumes, "volumes", false, "Volumes, too")
		force := fs.BoolP("force", "f", false, "Do not ask")
		filter := &flags.Each{Kind: "filter", Parse: func(s string) error {
			given = append(given, s)
			return parse.Filter(s, p.filters.Add)
		}}
		fs.Var(filter, "filter", "Only those that meet a condition (e.g. \"label=<key>=<value>\")")
		choose := command.Removal(fs, env)
		return func(ctx context.Context, env *command.Env, args []string) error {
			if _, until := p.filters["until"]; until && p.volumes {
				return errors.New(`ERROR: The "until" filter is not supported with "--volumes"`) //nolint:staticcheck // Docker's words
			}
			c, err := env.Client()
			if err != nil {
				return err
			}
			if !*force {
				var kinds []string
				for _, s := range p.steps() {
					kinds = append(kinds, s.kind)
				}
				command.ShowPrunable(ctx, env, c, p.filters, kinds...)
				if !command.Confirm(env, p.question(given)) {
					return nil
				}
			}
			return p.run(choose(ctx), env, c)
		}
	},
}

// pruning is what one call of `system prune` removes.
type pruning struct {
	all, volumes bool
	filters      client.Filters
}

// step prunes one kind of things, and tells what went.
type step struct {
	kind, warning, title string
	run                  func(ctx context.Context, c *client.Client) (gone []string, freed uint64, err error)
}

func (p *pruning) steps() []step {
	imageWarning, cacheWarning, imageKind := "all dangling images", "all dangling build cache", "images"
	if p.all {
		imageWarning, cacheWarning, imageKind = "all images without at least one container associated to them", "all build cache", "all-images"
	}
	steps := []step{
		{"containers", "all stopped containers", "Deleted Containers:", func(ctx context.Context, c *client.Client) ([]string, uint64, error) {
			var out container.PruneReport
			err := c.Prune(ctx, "containers", p.filters, &out)
			return out.ContainersDeleted, out.SpaceReclaimed, err
		}},
		{"networks", "all networks not used by at least one container", "Deleted Networks:", func(ctx context.Context, c *client.Client) ([]string, uint64, error) {
			out, err := c.NetworkPrune(ctx, p.filters)
			return out.NetworksDeleted, 0, err
		}},
	}
	if p.volumes {
		steps = append(steps, step{"volumes", "all anonymous volumes not used by at least one container", "Deleted Volumes:", func(ctx context.Context, c *client.Client) ([]string, uint64, error) {
			var out volume.PruneReport
			err := c.Prune(ctx, "volumes", p.filters, &out)
			return out.VolumesDeleted, out.SpaceReclaimed, err
		}})
	}
	return append(steps,
		step{imageKind, imageWarning, "Deleted Images:", func(ctx context.Context, c *client.Client) ([]string, uint64, error) {
			f := p.clone()
			f.Add("dangling", fmt.Sprint(!p.all))
			var out image.PruneReport
			err := c.Prune(ctx, "images", f, &out)
			return command.Gone(out), out.SpaceReclaimed, err
		}},
		step{"build cache", cacheWarning, "Deleted build cache objects:", func(ctx context.Context, c *client.Client) ([]string, uint64, error) {
			var out build.CachePruneReport
			q := url.Values{}
			if p.all {
				q.Set("all", "1")
			}
			if f := p.filters.Encode(); f != "" {
				q.Set("filters", f)
			}
			err := c.JSON(ctx, client.Request{Method: "POST", Path: "/build/prune", Query: q}, &out)
			return out.CachesDeleted, out.SpaceReclaimed, err
		}})
}

func (p *pruning) clone() client.Filters {
	var f client.Filters
	for k, values := range p.filters {
		for v := range values {
			f.Add(k, v)
		}
	}
	return f
}

// question is Docker's.
func (p *pruning) question(filters []string) string {
	var b strings.Builder
	b.WriteString("WARNING! This will remove:\n")
	for _, s := range p.steps() {
		fmt.Fprintf(&b, "  - %s\n", s.warning)
	}
	if len(filters) > 0 {
		slices.Sort(filters)
		b.WriteString("\n  Items to be pruned will be filtered with:\n")
		for _, f := range filters {
			fmt.Fprintf(&b, "  - %s\n", f)
		}
	}
	return b.String()
}

func (p *pruning) run(ctx context.Context, env *command.Env, c *client.Client) error {
	var freed uint64
	for _, s := range p.steps() {
		gone, n, err := s.run(ctx, c)
		if err != nil {
			return err
		}
		freed += n
		command.Removed(env, s.title, gone)
	}
	command.Reclaimed(env, freed)
	return nil
}
