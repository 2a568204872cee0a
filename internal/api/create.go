package api

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"

	types "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/container"
	"gantry/internal/errs"
	"gantry/internal/runstream"
)

// containerCreate is POST /containers/create.
func (s *Server) containerCreate(c *call) error {
	if err := c.wantJSON(); err != nil {
		return err
	}
	x := containerCreate{}
	if c.r.ContentLength == 0 {
		// Here an empty body is an error, unlike elsewhere; the phrase is Docker's.
		return errs.Invalid.Errorf("invalid JSON: got EOF while reading request body")
	}
	if err := c.decode(&x); err != nil {
		return err
	}
	r, warnings, err := x.request(c.version)
	if err != nil {
		return err
	}
	r.Name = c.str("name")
	if c.version >= v(41) {
		r.Platform = c.str("platform")
	}
	id, more, err := s.deps.Containers.Create(c.r.Context(), r)
	if err != nil {
		return err
	}
	created := types.CreateResponse{ID: id, Warnings: orEmpty(append(more, warnings...))}
	if run := c.r.Header.Get(runstream.Header); run != "" && c.r.ProtoMajor == 1 {
		return s.run(c, run, created)
	}
	return c.reply(201, created)
}

// request makes of the body what the service wants.
func (x *containerCreate) request(have version) (container.CreateRequest, []string, error) {
	if x.Config == nil {
		return container.CreateRequest{}, nil, errs.Invalid.Errorf("Config cannot be empty in order to create a container")
	}
	x.Config.Cmd, x.Config.Entrypoint = x.Cmd, x.Entrypoint
	if x.HostConfig == nil {
		x.HostConfig = &createHostConfig{}
	}
	if x.HostConfig.HostConfig == nil {
		x.HostConfig.HostConfig = &types.HostConfig{}
	}
	if x.NetworkingConfig == nil {
		x.NetworkingConfig = &network.NetworkingConfig{}
	}
	for _, m := range x.HostConfig.Mounts {
		if have < v(42) {
			break // was not checked then; the shim ignores them
		}
		switch {
		case m.VolumeOptions != nil && m.Type != mount.TypeVolume:
			x.fail("VolumeOptions must not be specified on mount type %q", m.Type)
		case m.BindOptions != nil && m.Type != mount.TypeBind:
			x.fail("BindOptions must not be specified on mount type %q", m.Type)
		case m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs:
			x.fail("TmpfsOptions must not be specified on mount type %q", m.Type)
		}
	}
	shape(have, x, containerCreateShims)
	x.checkSysctls()
	if x.err != nil {
		return container.CreateRequest{}, nil, x.err
	}
	return container.CreateRequest{
		Config:     x.Config,
		HostConfig: x.HostConfig.HostConfig,
		Networking: x.NetworkingConfig,
	}, x.warnings, nil
}

// words is a list of strings that may also come as one string: Cmd and Entrypoint until 1.52.
type words []string

// UnmarshalJSON reads either form.
func (w *words) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		*w = words{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(w))
}

// addr returns an address as text, empty where there is none.
func addr(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// keys returns a map's keys, sorted, for a message.
func keys[T any](m map[string]T) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}
