package image

import (
	"fmt"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/image"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// showTree prints every image with the platforms that are here of it: what each takes unpacked and as it travels, and
// whether a container uses it.
func showTree(env *command.Env, list []image.Summary) {
	lines := [][]string{{"IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA"}}
	for _, x := range list {
		names := slices.Clone(x.RepoTags)
		if len(names) == 0 {
			names = append(names, "<untagged>")
		}
		usage, content, used := int64(0), int64(0), false
		var platforms [][]string
		for _, m := range x.Manifests {
			if m.ImageData == nil {
				continue
			}
			p := m.ImageData.Platform.OS + "/" + m.ImageData.Platform.Architecture
			if v := m.ImageData.Platform.Variant; v != "" {
				p += "/" + v
			}
			extra := ""
			if len(m.ImageData.Containers) > 0 {
				extra, used = "U", true
			}
			usage += m.Size.Total
			content += m.Size.Content
			platforms = append(platforms, []string{p, formatter.ShortID(m.ID), units.HumanSizeWithPrecision(float64(m.Size.Total), 3), units.HumanSizeWithPrecision(float64(m.Size.Content), 3), extra})
		}
		if usage == 0 {
			usage = x.Size
		}
		extra := ""
		if used || x.Containers > 0 {
			extra = "U"
		}
		lines = append(lines, []string{strings.Join(names, ", "), formatter.ShortID(x.ID), units.HumanSizeWithPrecision(float64(usage), 3), units.HumanSizeWithPrecision(float64(content), 3), extra})
		for i, p := range platforms {
			branch := "├─ "
			if i == len(platforms)-1 {
				branch = "└─ "
			}
			p[0] = branch + p[0]
			lines = append(lines, p)
		}
	}
	formatter.Table(env.IO.Out, lines)
	fmt.Fprintln(env.IO.Out, "\nU: in use by a container")
}
