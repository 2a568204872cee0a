package formatter

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/volume"
)

// Volumes prints a list of volumes.
func Volumes(w io.Writer, f Format, list []volume.Volume) error {
	rows := make([]*VolumeContext, len(list))
	for i := range list {
		rows[i] = &VolumeContext{&list[i]}
	}
	if f == "raw" {
		f = `name: {{.Name}}\ndriver: {{.Driver}}\n`
	}
	columns := []Column{{"DRIVER", "Driver"}, {"VOLUME NAME", "Name"}}
	headers := map[string]string{"Name": "VOLUME NAME", "Driver": "DRIVER", "Scope": "SCOPE", "Labels": "LABELS", "Mountpoint": "MOUNTPOINT",
		"Links": "LINKS", "Size": "SIZE", "Availability": "AVAILABILITY", "Group": "GROUP", "Status": "STATUS"}
	return Write(w, f, columns, headers, rows, func(c *VolumeContext, field string) string {
		if field == "Driver" {
			return c.Driver()
		}
		return c.Name()
	})
}

// VolumeContext is one volume in a template of volumes.
type VolumeContext struct{ v *volume.Volume }

// MarshalJSON is what --format json prints.
func (c *VolumeContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// Name is the volume's name.
func (c *VolumeContext) Name() string { return c.v.Name }

// Driver is local.
func (c *VolumeContext) Driver() string { return c.v.Driver }

// Scope is local.
func (c *VolumeContext) Scope() string { return c.v.Scope }

// Mountpoint is where its files are.
func (c *VolumeContext) Mountpoint() string { return c.v.Mountpoint }

// Labels are all labels, as k=v separated by commas.
func (c *VolumeContext) Labels() string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(c.v.Labels)) {
		list = append(list, k+"="+c.v.Labels[k])
	}
	return strings.Join(list, ",")
}

// Label is the value of one label.
func (c *VolumeContext) Label(name string) string { return c.v.Labels[name] }

// Links is how many containers use it; only system df knows.
func (c *VolumeContext) Links() string {
	if c.v.UsageData == nil {
		return "N/A"
	}
	return strconv.FormatInt(c.v.UsageData.RefCount, 10)
}

// Size is what its files take; only system df knows.
func (c *VolumeContext) Size() string {
	if c.v.UsageData == nil {
		return "N/A"
	}
	return units.HumanSize(float64(c.v.UsageData.Size))
}

// Group is said of swarm's volumes.
func (c *VolumeContext) Group() string { return "N/A" }

// Availability is said of swarm's volumes.
func (c *VolumeContext) Availability() string { return "N/A" }

// Status is said of swarm's volumes.
func (c *VolumeContext) Status() string { return "N/A" }
