package formatter

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Containers prints a list of containers.
func Containers(w io.Writer, f Format, size, noTrunc bool, list []container.Summary) error {
	rows := make([]*ContainerContext, len(list))
	for i := range list {
		rows[i] = &ContainerContext{c: &list[i], trunc: !noTrunc}
	}
	columns := []Column{{"CONTAINER ID", "ID"}, {"IMAGE", "Image"}, {"COMMAND", "Command"}, {"CREATED", "RunningFor"}, {"STATUS", "Status"}, {"PORTS", "Ports"}, {"NAMES", "Names"}}
	if size {
		columns = append(columns, Column{"SIZE", "Size"})
	}
	if f == "raw" {
		f = `container_id: {{.ID}}\nimage: {{.Image}}\ncommand: {{.Command}}\ncreated_at: {{.CreatedAt}}\nstate: {{- pad .State 1 0}}\nstatus: {{- pad .Status 1 0}}\nnames: {{.Names}}\nlabels: {{- pad .Labels 1 0}}\nports: {{- pad .Ports 1 0}}\n`
		if size {
			f += `size: {{.Size}}\n`
		}
	}
	return Write(w, f, columns, containerHeaders(), rows, func(c *ContainerContext, field string) string {
		switch field {
		case "ID":
			return c.ID()
		case "Image":
			return c.Image()
		case "Command":
			return c.Command()
		case "RunningFor":
			return c.RunningFor()
		case "Status":
			return c.Status()
		case "Ports":
			return c.Ports()
		case "Names":
			return c.Names()
		}
		return c.Size()
	})
}

// UsesSize reports whether a format asks for sizes, which cost the engine a walk over files, and whether it can be
// executed at all: better said before anything is asked.
func UsesSize(f Format) (bool, error) {
	text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(f)), "table"))
	if text == "" || text == "json" || text == "raw" || f == "{{.ID}}" {
		return false, nil
	}
	t, err := Template("").Parse(text)
	if err != nil {
		return false, fmt.Errorf("failed to parse template: %w", err)
	}
	probe := &ContainerContext{c: &container.Summary{}}
	if err := t.Execute(io.Discard, probe); err != nil {
		return false, fmt.Errorf("failed to execute template: %w", err)
	}
	return probe.sized, nil
}

func containerHeaders() map[string]string {
	return map[string]string{
		"ID": "CONTAINER ID", "Names": "NAMES", "Image": "IMAGE", "Command": "COMMAND", "CreatedAt": "CREATED AT", "RunningFor": "CREATED", "Ports": "PORTS",
		"State": "STATE", "Status": "STATUS", "Size": "SIZE", "Labels": "LABELS", "Mounts": "MOUNTS", "LocalVolumes": "LOCAL VOLUMES", "Networks": "NETWORKS",
		"Platform": "PLATFORM", "HealthStatus": "HEALTH",
	}
}

// ContainerContext is a container in a template of ps.
type ContainerContext struct {
	c     *container.Summary
	trunc bool
	sized bool // Size was asked for
}

// MarshalJSON is what --format json prints.
func (c *ContainerContext) MarshalJSON() ([]byte, error) { return marshal(c) }

// ID is the container's ID, short unless --no-trunc.
func (c *ContainerContext) ID() string {
	if c.trunc {
		return ShortID(c.c.ID)
	}
	return c.c.ID
}

// ShortID is the first twelve digits of an ID, without the name of its algorithm.
func ShortID(id string) string {
	if i := strings.IndexByte(id, ':'); i >= 0 {
		id = id[i+1:]
	}
	return id[:min(len(id), 12)]
}

// Names are the container's names, without those it has through links.
func (c *ContainerContext) Names() string {
	names := make([]string, 0, len(c.c.Names))
	for _, n := range c.c.Names {
		n = strings.TrimPrefix(n, "/")
		if c.trunc && strings.Contains(n, "/") {
			continue
		}
		names = append(names, n)
	}
	return strings.Join(names, ",")
}

// Image is the image as the user named it.
func (c *ContainerContext) Image() string {
	if c.c.Image == "" {
		return "<no image>"
	}
	if c.trunc {
		if ShortID(c.c.ImageID) == ShortID(c.c.Image) {
			return ShortID(c.c.Image)
		}
		// A digest says little to people; the tag beside it does.
		if name, _, ok := strings.Cut(c.c.Image, "@"); ok && strings.LastIndexByte(name, ':') > strings.LastIndexByte(name, '/') {
			return name
		}
	}
	return c.c.Image
}

// Command is the command in quotes.
func (c *ContainerContext) Command() string {
	s := c.c.Command
	if c.trunc {
		s = Truncate(s, 20)
	}
	return strconv.Quote(s)
}

// CreatedAt is the time of creation.
func (c *ContainerContext) CreatedAt() string { return time.Unix(c.c.Created, 0).String() }

// RunningFor is how long ago that is.
func (c *ContainerContext) RunningFor() string {
	return units.HumanDuration(time.Now().UTC().Sub(time.Unix(c.c.Created, 0))) + " ago"
}

// Ports are the published and exposed ports.
func (c *ContainerContext) Ports() string { return Ports(c.c.Ports) }

// Platform is that of the image, where the engine tells it.
func (c *ContainerContext) Platform() *ocispec.Platform {
	if c.c.ImageManifestDescriptor == nil {
		return nil
	}
	return c.c.ImageManifestDescriptor.Platform
}

// State is running, exited and so on.
func (c *ContainerContext) State() string { return string(c.c.State) }

// Status is the state with its age.
func (c *ContainerContext) Status() string { return c.c.Status }

// Size is what the container has written, and what it has with its image.
func (c *ContainerContext) Size() string {
	c.sized = true
	s := units.HumanSizeWithPrecision(float64(c.c.SizeRw), 3)
	if c.c.SizeRootFs > 0 {
		return fmt.Sprintf("%s (virtual %s)", s, units.HumanSizeWithPrecision(float64(c.c.SizeRootFs), 3))
	}
	return s
}

// Labels are all labels.
func (c *ContainerContext) Labels() string {
	out := make([]string, 0, len(c.c.Labels))
	for k, v := range c.c.Labels {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// Label is the value of one label.
func (c *ContainerContext) Label(name string) string { return c.c.Labels[name] }

// Mounts are the names of volumes and the sources of binds.
func (c *ContainerContext) Mounts() string {
	out := make([]string, 0, len(c.c.Mounts))
	for _, m := range c.c.Mounts {
		n := m.Name
		if n == "" {
			n = m.Source
		}
		if c.trunc {
			n = Truncate(n, 15)
		}
		out = append(out, n)
	}
	return strings.Join(out, ",")
}

// LocalVolumes is how many volumes of the local driver there are.
func (c *ContainerContext) LocalVolumes() string {
	n := 0
	for _, m := range c.c.Mounts {
		if m.Driver == "local" {
			n++
		}
	}
	return strconv.Itoa(n)
}

// Networks are the networks' names.
func (c *ContainerContext) Networks() string {
	if c.c.NetworkSettings == nil {
		return ""
	}
	var out []string
	for n := range c.c.NetworkSettings.Networks {
		out = append(out, n)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// Ports joins ports that follow each other: 0.0.0.0:8080-8081->80-81/tcp.
func Ports(list []container.PortSummary) string {
	type group struct{ first, last, private uint16 }
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort), cmp.Compare(a.Type, b.Type))
	})
	groups := map[string]*group{}
	var out, direct, order []string
	form := func(key string, g *group) string {
		ip, proto := key[:strings.LastIndexByte(key, '/')], key[strings.LastIndexByte(key, '/')+1:]
		span := func(a, b uint16) string {
			if a == b {
				return strconv.Itoa(int(a))
			}
			return fmt.Sprintf("%d-%d", a, b)
		}
		s := span(g.first, g.last)
		if ip != "" {
			s = ip + ":" + s + "->" + span(g.private, g.private+g.last-g.first)
		}
		return s + "/" + proto
	}
	for _, p := range list {
		current := p.PrivatePort
		key := "/" + p.Type
		if p.IP.IsValid() {
			host := p.IP.String()
			if p.IP.Is6() {
				host = "[" + host + "]"
			}
			if p.PublicPort != current {
				direct = append(direct, fmt.Sprintf("%s:%d->%d/%s", host, p.PublicPort, p.PrivatePort, p.Type))
				continue
			}
			current = p.PublicPort
			key = host + "/" + p.Type
		}
		g := groups[key]
		if g == nil {
			groups[key] = &group{current, current, p.PrivatePort}
			order = append(order, key)
			continue
		}
		if current == g.last+1 {
			g.last = current
			continue
		}
		if current == g.last {
			continue
		}
		out = append(out, form(key, g))
		*g = group{current, current, p.PrivatePort}
	}
	for _, k := range order {
		out = append(out, form(k, groups[k]))
	}
	return strings.Join(append(out, direct...), ", ")
}
