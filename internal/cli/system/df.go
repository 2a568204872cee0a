package system

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// DiskUsage is `system df`.
var DiskUsage = &command.Command{
	Name: "df", Args: "[OPTIONS]", Short: "Show what takes how much of the disk",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		verbose := fs.BoolP("verbose", "v", false, "Each thing by itself")
		format := fs.String("format", "", "table, json, or a Go template; table TEMPLATE has headers")
		return func(ctx context.Context, env *command.Env, args []string) error {
			c, err := env.Client()
			if err != nil {
				return err
			}
			u, err := c.DiskUsage(ctx, *verbose)
			if err != nil {
				return err
			}
			if *verbose {
				showEach(env, &u)
				return nil
			}
			return formatter.DiskUsage(env.IO.Out, formatter.Format(*format), &u)
		}
	},
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 4) }

// showEach prints a table for each kind of thing.
func showEach(env *command.Env, u *system.DiskUsage) {
	w := env.IO.Out
	ago := func(sec int64) string {
		return units.HumanDuration(time.Since(time.Unix(sec, 0))) + " ago"
	}
	fmt.Fprint(w, "Images space usage:\n\n")
	lines := [][]string{{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE", "CONTAINERS"}}
	if x := u.ImageUsage; x != nil {
		for _, i := range x.Items {
			tags := i.RepoTags
			if len(tags) == 0 {
				tags = []string{"<none>:<none>"}
			}
			for _, t := range tags {
				at := strings.LastIndexByte(t, ':')
				lines = append(lines, []string{t[:at], t[at+1:], formatter.ShortID(i.ID), ago(i.Created), size(i.Size), size(i.SharedSize), size(i.Size - i.SharedSize), strconv.FormatInt(i.Containers, 10)})
			}
		}
	}
	formatter.Table(w, lines)
	fmt.Fprint(w, "\nContainers space usage:\n\n")
	lines = [][]string{{"CONTAINER ID", "IMAGE", "COMMAND", "LOCAL VOLUMES", "SIZE", "CREATED", "STATUS", "NAMES"}}
	if x := u.ContainerUsage; x != nil {
		for _, c := range x.Items {
			volumes := 0
			for _, m := range c.Mounts {
				if m.Type == "volume" {
					volumes++
				}
			}
			var names []string
			for _, n := range c.Names {
				names = append(names, strings.TrimPrefix(n, "/"))
			}
			lines = append(lines, []string{formatter.ShortID(c.ID), c.Image, strconv.Quote(formatter.Truncate(c.Command, 20)), strconv.Itoa(volumes), size(c.SizeRw), ago(c.Created), c.Status, strings.Join(names, ",")})
		}
	}
	formatter.Table(w, lines)
	fmt.Fprint(w, "\nLocal Volumes space usage:\n\n")
	lines = [][]string{{"VOLUME NAME", "LINKS", "SIZE"}}
	if x := u.VolumeUsage; x != nil {
		for _, v := range x.Items {
			links, n := "N/A", "N/A"
			if v.UsageData != nil {
				links, n = strconv.FormatInt(v.UsageData.RefCount, 10), size(v.UsageData.Size)
			}
			lines = append(lines, []string{v.Name, links, n})
		}
	}
	formatter.Table(w, lines)
	cache := int64(0)
	if u.BuildCacheUsage != nil {
		cache = u.BuildCacheUsage.TotalSize
	}
	fmt.Fprintf(w, "\nBuild cache usage: %s\n\n", size(cache))
	formatter.Table(w, [][]string{{"CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"}})
}
