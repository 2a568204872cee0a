package build

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	types "github.com/moby/moby/api/types/build"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/client"
)

// Prune is `builder prune`.
func Prune(fs *pflag.FlagSet, _ *command.Env) command.Run {
	all := fs.BoolP("all", "a", false, "Also what images are made of, or a build may need again soon")
	force := fs.BoolP("force", "f", false, "Do not ask")
	var keep flags.Bytes
	fs.Var(&keep, "keep-storage", "How much may stay")
	fs.Var(&keep, "max-used-space", "How much may stay")
	var filters client.Filters
	command.Filters(fs, &filters, "", "Only what matches: until=24h, unused-for=24h, type=…, id=…")
	return func(ctx context.Context, env *command.Env, _ []string) error {
		what := "WARNING! This will remove all dangling build cache."
		if *all {
			what = "WARNING! This will remove all build cache."
		}
		if !*force && !command.Confirm(env, what) {
			return nil
		}
		c, err := env.Client()
		if err != nil {
			return err
		}
		q := url.Values{}
		if *all {
			q.Set("all", "1")
		}
		if keep.N > 0 {
			q.Set("keep-storage", fmt.Sprint(keep.N))
			q.Set("max-used-space", fmt.Sprint(keep.N))
		}
		if s := filters.Encode(); s != "" {
			q.Set("filters", s)
		}
		var r types.CachePruneReport
		if err := c.JSON(ctx, client.Request{Method: "POST", Path: "/build/prune", Query: q}, &r); err != nil {
			return err
		}
		command.Removed(env, "Deleted build cache objects:", r.CachesDeleted)
		command.Reclaimed(env, r.SpaceReclaimed)
		return nil
	}
}

// DiskUsage is `builder du`.
func DiskUsage(fs *pflag.FlagSet, _ *command.Env) command.Run {
	verbose := fs.Bool("verbose", false, "All that is known of each")
	return func(ctx context.Context, env *command.Env, _ []string) error {
		c, err := env.Client()
		if err != nil {
			return err
		}
		var usage struct {
			BuildCache      []types.CacheRecord
			BuildCacheUsage struct{ Items []types.CacheRecord }
		}
		q := url.Values{"type": {"build-cache"}, "verbose": {"1"}}
		if err := c.JSON(ctx, client.Request{Method: "GET", Path: "/system/df", Query: q}, &usage); err != nil {
			return err
		}
		records := usage.BuildCache
		if len(records) == 0 {
			records = usage.BuildCacheUsage.Items
		}
		slices.SortStableFunc(records, func(a, b types.CacheRecord) int { return int(b.Size>>1 - a.Size>>1) })
		var total, free, shared int64
		w := tabwriter.NewWriter(env.IO.Out, 0, 0, 3, ' ', 0)
		if !*verbose {
			fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED")
		}
		for _, r := range records {
			total += r.Size
			if !r.InUse {
				free += r.Size
			}
			if r.Shared {
				shared += r.Size
			}
			used := "never"
			if r.LastUsedAt != nil {
				used = units.HumanDuration(time.Since(*r.LastUsedAt)) + " ago"
			}
			if *verbose {
				fmt.Fprintf(w, "ID:\t%s\nType:\t%s\nDescription:\t%s\nReclaimable:\t%v\nShared:\t%v\nSize:\t%s\nUsage count:\t%d\nLast used:\t%s\n\n",
					r.ID, r.Type, r.Description, !r.InUse, r.Shared, units.HumanSize(float64(r.Size)), r.UsageCount, used)
				continue
			}
			fmt.Fprintf(w, "%s\t%v\t%s\t%s\n", r.ID, !r.InUse, units.HumanSize(float64(r.Size)), used)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		w = tabwriter.NewWriter(env.IO.Out, 0, 0, 3, ' ', 0)
		if shared > 0 {
			fmt.Fprintf(w, "Shared:\t%s\nPrivate:\t%s\n", units.HumanSize(float64(shared)), units.HumanSize(float64(total-shared)))
		}
		fmt.Fprintf(w, "Reclaimable:\t%s\nTotal:\t%s\n", units.HumanSize(float64(free)), units.HumanSize(float64(total)))
		return w.Flush()
	}
}
