package command

import (
	"context"
	"fmt"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"

	"gantry/internal/client"
)

// ShowPrunable lists what a prune of these kinds would take, before it is asked whether it shall. Called as docker, or where the
// engine cannot tell, it says nothing.
func ShowPrunable(ctx context.Context, env *Env, c *client.Client, f client.Filters, kinds ...string) {
	if env.AsDocker() {
		return
	}
	for _, kind := range kinds {
		list, err := c.Prunable(ctx, kind, f)
		if err != nil {
			continue
		}
		for _, x := range list {
			fmt.Fprintf(env.IO.Out, "%-10s %s", x.Kind, x.Name)
			if x.Size > 0 {
				fmt.Fprintf(env.IO.Out, " (%s)", units.HumanSize(float64(x.Size)))
			}
			fmt.Fprintln(env.IO.Out)
		}
	}
}

// Gone names the images that a prune removed, as Docker's do.
func Gone(report image.PruneReport) (lines []string) {
	for _, d := range report.ImagesDeleted {
		if d.Untagged != "" {
			lines = append(lines, "untagged: "+d.Untagged)
		} else {
			lines = append(lines, "deleted: "+d.Deleted)
		}
	}
	return lines
}
