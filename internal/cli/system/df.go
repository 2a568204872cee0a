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
	"gantry/internal/client"
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
			var d *client.Disk
			if !env.AsDocker() && *format == "" {
				if all, err := c.Disk(ctx); err == nil { // a Docker has no such thing
					d = &all
				}
			}
			if *verbose {
				showEach(env, &u)
				showRest(env, d)
				return nil
			}
			if d != nil {
				return showDisk(env, &u, d)
			}
			return formatter.DiskUsage(env.IO.Out, formatter.Format(*format), &u)
		}
	},
}

func size(n int64) string { return units.HumanSizeWithPrecision(float64(n), 4) }

// showDisk prints Docker's table with what is really on the disk, and the rest of the data root below it.
func showDisk(env *command.Env, u *system.DiskUsage, d *client.Disk) error {
	bytes := map[string]int64{}
	things := map[string]int{}
	for _, s := range d.Shares {
		bytes[s.Kind], things[s.Kind] = s.Bytes, s.Things
	}
	lines := [][]string{{"TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"}}
	add := func(name, kind string, total, active, reclaimable int64) {
		n := bytes[kind]
		free := size(min(max(reclaimable, 0), n))
		if n > 0 {
			free += fmt.Sprintf(" (%d%%)", min(max(reclaimable, 0), n)*100/n)
		}
		lines = append(lines, []string{name, strconv.FormatInt(total, 10), strconv.FormatInt(active, 10), size(n), free})
	}
	if x := u.ImageUsage; x != nil {
		add("Images", "images", x.TotalCount, x.ActiveCount, x.Reclaimable)
	}
	if x := u.ContainerUsage; x != nil {
		add("Containers", "containers", x.TotalCount, x.ActiveCount, x.Reclaimable)
	}
	if x := u.VolumeUsage; x != nil {
		add("Local Volumes", "volumes", x.TotalCount, x.ActiveCount, x.Reclaimable)
	}
	if x := u.BuildCacheUsage; x != nil {
		add("Build Cache", "build cache", x.TotalCount, x.ActiveCount, x.Reclaimable)
	}
	for _, k := range []struct {
		name, kind string
		free       bool
	}{{"Trash", "trash", true}, {"Logs", "logs", false}, {"Partial downloads", "partial", true}, {"Orphans", "orphans", true}, {"Other files", "other", false}, {"State", "state", false}} {
		if bytes[k.kind] == 0 && k.kind != "trash" {
			continue
		}
		reclaimable := int64(0)
		if k.free {
			reclaimable = bytes[k.kind]
		}
		add(k.name, k.kind, int64(things[k.kind]), 0, reclaimable)
	}
	lines = append(lines, []string{"All of it", "", "", size(d.Bytes), ""})
	formatter.Table(env.IO.Out, lines)
	return nil
}

// showRest prints what of the data root is no thing of Docker's.
func showRest(env *command.Env, d *client.Disk) {
	if d == nil {
		return
	}
	fmt.Fprint(env.IO.Out, "\nWhat else takes disk:\n\n")
	lines := [][]string{{"TYPE", "NAME", "SIZE"}}
	for _, s := range d.Shares {
		switch s.Kind {
		case "images", "containers", "volumes", "build cache":
			continue
		}
		named := int64(0)
		for _, t := range d.Things {
			if t.Kind == s.Kind {
				named += t.Bytes
				name := t.Name
				if len(name) == 64 {
					name = formatter.ShortID(name)
				}
				lines = append(lines, []string{s.Kind, name, size(t.Bytes)})
			}
		}
		if rest := s.Bytes - named; rest > 0 {
			lines = append(lines, []string{s.Kind, "-", size(rest)})
		}
	}
	lines = append(lines, []string{"all", "", size(d.Bytes)})
	formatter.Table(env.IO.Out, lines)
}

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
