package daemon

import (
	"context"

	"gantry/internal/container"
	"gantry/internal/volume"
)

// volumes is what containers need of the volume service.
type volumes struct{ *volume.Service }

func (s volumes) Hold(ctx context.Context, id string, want []container.VolumeRequest, behind bool) error {
	list := make([]volume.Request, len(want))
	for i, w := range want {
		list[i] = volume.Request{Name: w.Name, Driver: w.Driver, Labels: w.Labels, Options: w.Options, Anonymous: w.Anonymous}
	}
	return s.Service.Hold(ctx, id, list, behind)
}

func (s volumes) Mount(ctx context.Context, id string, uses []container.VolumeUse) ([]container.VolumeSource, error) {
	list := make([]volume.Use, len(uses))
	for i, u := range uses {
		list[i] = volume.Use(u)
	}
	found, err := s.Service.Mount(ctx, id, list)
	return sources(found), err
}

func (s volumes) Sources(names []string) []container.VolumeSource {
	return sources(s.Service.Sources(names))
}

func sources(found []volume.Source) []container.VolumeSource {
	out := make([]container.VolumeSource, len(found))
	for i, f := range found {
		out[i] = container.VolumeSource(f)
	}
	return out
}
