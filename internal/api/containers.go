package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/storage"

	"gantry/internal/container"
	"gantry/internal/errs"
)

// containerList is GET /containers/json.
func (s *Server) containerList(c *call) error {
	o := container.ListOptions{All: c.flag("all"), Size: c.flag("size")}
	var err error
	if o.Filters, err = c.filters(); err != nil {
		return err
	}
	if n := c.str("limit"); n != "" {
		if o.Limit, err = strconv.Atoi(n); err != nil {
			return errs.Invalid.Wrap(err)
		}
	}
	found, err := s.deps.Containers.List(o)
	if err != nil {
		return err
	}
	now := time.Now()
	links, names := s.deps.Containers.LinkNames(), imageNames{s: s}
	out := make([]types.Summary, len(found))
	for i := range found {
		out[i] = summarize(&found[i], now)
		out[i].Image = names.of(&found[i])
		for _, name := range links[found[i].ID] {
			out[i].Names = append(out[i].Names, "/"+name)
		}
		if o.Size {
			out[i].SizeRw, out[i].SizeRootFs, err = s.deps.Containers.Sizes(c.r.Context(), found[i].ID)
			if err != nil && !errs.NotFound.Is(err) { // removed meanwhile
				return err
			}
		}
		shape(c.version, &out[i], containerSummaryShims)
	}
	return c.reply(200, out)
}

// imageNames tells by which name a container's image is shown: the user's, unless that leads to another image now, or to none.
type imageNames struct {
	s     *Server
	known map[string]string // IDs
}

func (n *imageNames) of(x *container.Snapshot) string {
	if n.s.deps.Images == nil {
		return x.Config.Image
	}
	id, ok := n.known[x.Config.Image]
	if !ok {
		if i, err := n.s.deps.Images.Find(x.Config.Image); err == nil {
			id = i.ID.String()
		}
		if n.known == nil {
			n.known = map[string]string{}
		}
		n.known[x.Config.Image] = id
	}
	if id != x.Image.ID.String() {
		return x.Image.ID.String()
	}
	return x.Config.Image
}

func summarize(x *container.Snapshot, now time.Time) types.Summary {
	out := types.Summary{
		ID:              x.ID,
		Names:           []string{"/" + x.Name},
		Image:           x.Config.Image,
		ImageID:         x.Image.ID.String(),
		Command:         commandLine(x.Path, x.Args),
		Created:         x.Created.Unix(),
		Ports:           portSummary(x),
		Labels:          x.Config.Labels,
		State:           types.ContainerState(x.Status.String()),
		Status:          x.StatusText(now),
		Mounts:          orEmpty(x.Mounts),
		NetworkSettings: &types.NetworkSettingsSummary{Networks: networks(x)},
		Health:          &types.HealthSummary{Status: types.NoHealthcheck},
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	out.HostConfig.NetworkMode = string(x.HostConfig.NetworkMode)
	out.HostConfig.Annotations = x.HostConfig.Annotations
	return out
}

// commandLine shows a command as Docker does: arguments with spaces in quotes, nothing else escaped.
func commandLine(path string, args []string) string {
	var b strings.Builder
	b.WriteString(path)
	for _, a := range args {
		b.WriteByte(' ')
		if strings.Contains(a, " ") {
			b.WriteString("'" + a + "'")
		} else {
			b.WriteString(a)
		}
	}
	return b.String()
}

// networks returns the container's endpoints by the network's name.
func networks(x *container.Snapshot) map[string]*network.EndpointSettings {
	out := map[string]*network.EndpointSettings{}
	for name, e := range x.Connected() {
		if e == nil {
			e = &network.EndpointSettings{}
		}
		out[name] = e
	}
	return out
}

// portMap is what is published, and with null what could be: the ports exposed by a container that runs.
func portMap(x *container.Snapshot) network.PortMap {
	out := network.PortMap{}
	if !x.Status.Alive() {
		return out
	}
	if !x.HostConfig.NetworkMode.IsHost() && !x.HostConfig.NetworkMode.IsContainer() && !x.HostConfig.NetworkMode.IsNone() {
		for p := range x.Config.ExposedPorts {
			out[p] = nil
		}
	}
	maps.Copy(out, x.Ports)
	return out
}

// portSummary is portMap as `ps` shows it.
func portSummary(x *container.Snapshot) []types.PortSummary {
	out := []types.PortSummary{}
	for p, bindings := range portMap(x) {
		if len(bindings) == 0 {
			out = append(out, types.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			host, _ := strconv.ParseUint(b.HostPort, 10, 16)
			out = append(out, types.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: uint16(host), Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b types.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP), cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return out
}

// stamp is how Docker writes a time; the zero time is year 1, which clients test for.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// containerInspect is GET /containers/{id}/json.
func (s *Server) containerInspect(c *call) error {
	x, err := s.deps.Containers.Get(c.name)
	if err != nil {
		return err
	}
	out := inspect(&x)
	h := *x.HostConfig
	h.Links = s.deps.Containers.Linked(&x)
	out.HostConfig.HostConfig = &h
	if c.flag("size") {
		rw, root, err := s.deps.Containers.Sizes(c.r.Context(), x.ID)
		if err != nil {
			return err
		}
		out.SizeRw, out.SizeRootFs = &rw, &root
	}
	shape(c.version, out, containerInspectShims)
	return c.reply(200, out)
}

func inspect(x *container.Snapshot) *containerInspect {
	out := &containerInspect{
		InspectResponse: types.InspectResponse{
			ID:      x.ID,
			Created: stamp(x.Created),
			Path:    x.Path,
			Args:    orEmpty(x.Args),
			State: &types.State{
				Status:     types.ContainerState(x.Status.String()),
				Running:    x.Status.Alive(),
				Paused:     x.Status == container.Paused,
				Restarting: x.Status == container.Restarting,
				OOMKilled:  x.OOMKilled,
				Dead:       x.Status == container.Dead,
				Pid:        x.Pid,
				ExitCode:   x.ExitCode,
				Error:      x.Error,
				StartedAt:  stamp(x.StartedAt),
				FinishedAt: stamp(x.FinishedAt),
			},
			Image:           x.Image.ID.String(),
			LogPath:         x.LogPath,
			Name:            "/" + x.Name,
			RestartCount:    x.RestartCount,
			Driver:          driverName,
			Platform:        "linux",
			AppArmorProfile: x.AppArmor,
			ExecIDs:         x.Execs, // null without any, as Docker
			GraphDriver:     &storage.DriverData{Name: driverName, Data: map[string]string{"ID": x.ID}},
			Mounts:          orEmpty(x.Mounts),
		},
		Config:     &inspectConfig{Config: x.Config},
		HostConfig: &hostConfig{HostConfig: x.HostConfig},
		NetworkSettings: &networkSettings{NetworkSettings: types.NetworkSettings{
			SandboxID:  sandboxID(x),
			SandboxKey: sandboxKey(x),
			Ports:      portMap(x),
			Networks:   networks(x),
		}},
	}
	if len(x.Config.OnBuild) > 0 {
		out.Config.OnBuild = &x.Config.OnBuild
	}
	if x.Dir != "" {
		out.HostnamePath = filepath.Join(x.Dir, "hostname")
		out.HostsPath = filepath.Join(x.Dir, "hosts")
		out.ResolvConfPath = filepath.Join(x.Dir, "resolv.conf")
		// No MergedDir: the overlay is mounted in the container's own mount namespace.
		out.GraphDriver.Data["UpperDir"] = filepath.Join(x.Dir, "upper")
		out.GraphDriver.Data["WorkDir"] = filepath.Join(x.Dir, "work")
	}
	return out
}

// sandboxID names the network namespace of a container that runs and has not joined another's: a new one with each start.
func sandboxID(x *container.Snapshot) string {
	if sandboxKey(x) == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(x.ID + x.StartedAt.Format(time.RFC3339Nano)))
	return hex.EncodeToString(sum[:])
}

// sandboxKey is a path to it, as `nsenter --net=` takes it. Docker's is a mount, which we have none of.
func sandboxKey(x *container.Snapshot) string {
	if x.Pid == 0 || x.HostConfig.NetworkMode.IsContainer() {
		return ""
	}
	return "/proc/" + strconv.Itoa(x.Pid) + "/ns/net"
}

func (s *Server) containerStart(c *call) error {
	// A body of more than "{}" and some space was a HostConfig, until 1.23.
	if c.r.ContentLength > 7 || c.r.ContentLength == -1 && !emptyBody(c) {
		return errs.Invalid.Errorf("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
	}
	if c.str("checkpoint") != "" {
		return errs.NotImplemented.Errorf("checkpoint is not implemented yet in Gantry")
	}
	if err := s.deps.Containers.Start(c.r.Context(), c.name); err != nil {
		return err
	}
	return c.ok(204)
}

// emptyBody reports whether a body of unknown length (chunked, or HTTP/2) ends at once.
func emptyBody(c *call) bool {
	var b [8]byte
	n, _ := c.r.Body.Read(b[:])
	return n == 0
}

func (s *Server) containerStop(c *call) error {
	signal, t, err := c.stopping()
	if err != nil {
		return err
	}
	if err := s.deps.Containers.Stop(c.r.Context(), c.name, signal, t); err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) containerRestart(c *call) error {
	signal, t, err := c.stopping()
	if err != nil {
		return err
	}
	if err := s.deps.Containers.Restart(c.r.Context(), c.name, signal, t); err != nil {
		return err
	}
	return c.ok(204)
}

// stopping reads what stop and restart share.
func (c *call) stopping() (signal string, t *int, err error) {
	if c.version >= v(42) {
		signal = c.str("signal")
	}
	t, err = c.seconds("t")
	return signal, t, err
}

func (s *Server) containerKill(c *call) error {
	err := s.deps.Containers.Kill(c.r.Context(), c.name, c.str("signal"))
	if errs.NotFound.Is(err) {
		return errs.NotFound.Errorf("Cannot kill container: %s: %w", c.name, err)
	}
	if err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) containerRemove(c *call) error {
	err := s.deps.Containers.Remove(c.removal(), c.name, c.flag("force"), c.flag("v"), c.flag("link"))
	if err != nil {
		return err
	}
	return c.ok(204)
}

func (s *Server) containerResize(c *call) error {
	h, w, err := c.hw()
	if err != nil {
		return err
	}
	if err := s.deps.Containers.Resize(c.r.Context(), c.name, h, w); err != nil {
		return err
	}
	return c.ok(200)
}

func (c *call) hw() (h, w uint16, err error) {
	if h, err = c.size("h"); err == nil {
		w, err = c.size("w")
	}
	return h, w, err
}

// containerWait is POST /containers/{id}/wait. The header goes out as soon as the wait is registered: `docker
// run` starts the container only then, so that it cannot miss the end.
func (s *Server) containerWait(c *call) error {
	condition := types.WaitConditionNotRunning
	if c.version >= v(30) {
		switch cond := types.WaitCondition(c.str("condition")); cond {
		case "":
		case types.WaitConditionNotRunning, types.WaitConditionNextExit, types.WaitConditionRemoved:
			condition = cond
		default:
			return errs.Invalid.Errorf("invalid condition: %q", string(cond))
		}
	}
	done, err := s.deps.Containers.Wait(c.r.Context(), c.name, condition)
	if err != nil {
		return err
	}
	c.w.Header()["Content-Type"] = typeJSON
	if c.version >= v(30) {
		c.w.WriteHeader(200)
		c.flush()
	}
	select {
	case res, ok := <-done:
		if !ok {
			return nil
		}
		if res.Err != nil && condition == types.WaitConditionRemoved && c.version < v(34) {
			return nil // such clients know no Error: an empty reply is one
		}
		_ = json.NewEncoder(c.w).Encode(waitResponse(res))
	case <-c.r.Context().Done():
	}
	return nil
}
