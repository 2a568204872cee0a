package formatter

import (
	"fmt"
	"io"
	"strconv"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
)

// DiskUsage prints a line for each kind of thing that takes disk.
func DiskUsage(w io.Writer, f Format, u *system.DiskUsage) error {
	var rows []*DiskUsageContext
	add := func(kind string, total, active, size, reclaimable int64) {
		rows = append(rows, &DiskUsageContext{kind, total, active, size, reclaimable})
	}
	if x := u.ImageUsage; x != nil {
		add("Images", x.TotalCount, x.ActiveCount, x.TotalSize, x.Reclaimable)
	}
	if x := u.ContainerUsage; x != nil {
		add("Containers", x.TotalCount, x.ActiveCount, x.TotalSize, x.Reclaimable)
	}
	if x := u.VolumeUsage; x != nil {
		add("Local Volumes", x.TotalCount, x.ActiveCount, x.TotalSize, x.Reclaimable)
	}
	if x := u.BuildCacheUsage; x != nil {
		add("Build Cache", x.TotalCount, x.ActiveCount, x.TotalSize, x.Reclaimable)
	}
	columns := []Column{{"TYPE", "Type"}, {"TOTAL", "TotalCount"}, {"ACTIVE", "Active"}, {"SIZE", "Size"}, {"RECLAIMABLE", "Reclaimable"}}
	headers := map[string]string{"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
	return Write(w, f, columns, headers, rows, func(c *DiskUsageContext, field string) string {
		switch field {
		case "Type":
			return c.Type()
		case "TotalCount":
			return c.TotalCount()
		case "Active":
			return c.Active()
		case "Size":
			return c.Size()
		}
		return c.Reclaimable()
	})
}

// DiskUsageContext is one kind of thing in a template of system df.
type DiskUsageContext struct {
	kind                             string
	total, active, size, reclaimable int64
}

// MarshalJSON is what --format json prints.
func (c *DiskUsageContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// Type is the kind.
func (c *DiskUsageContext) Type() string { return c.kind }

// TotalCount is how many there are.
func (c *DiskUsageContext) TotalCount() string { return strconv.FormatInt(c.total, 10) }

// Active is how many are in use.
func (c *DiskUsageContext) Active() string { return strconv.FormatInt(c.active, 10) }

// Size is what they take.
func (c *DiskUsageContext) Size() string { return units.HumanSizeWithPrecision(float64(c.size), 4) }

// Reclaimable is what would be free without those that are not in use.
func (c *DiskUsageContext) Reclaimable() string {
	s := units.HumanSizeWithPrecision(float64(c.reclaimable), 4)
	if c.size > 0 && c.kind != "Build Cache" {
		return fmt.Sprintf("%s (%d%%)", s, c.reclaimable*100/c.size)
	}
	return s
}
