package daemon

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"gantry/internal/disk"
	"gantry/internal/image"
)

// tidyEvery is how often what belongs to nobody is looked for.
const tidyEvery = time.Hour

// usage measures the data root: the rooms tell what is theirs.
func (e *engine) usage(ctx context.Context) (*disk.Usage, error) {
	top := disk.Part{Of: func(name string) (disk.Owner, bool) {
		if strings.Contains(name, "/") {
			return disk.Owner{}, false
		}
		switch name {
		case "state.db", "engine-id", "content", "layers", "containers", "networks":
			return disk.Owner{Kind: disk.State}, true
		case "volumes":
			return disk.Owner{Kind: disk.Volumes}, true
		case "build":
			return disk.Owner{Kind: disk.BuildCache}, true
		case "trash":
			return disk.Owner{Kind: disk.Trash}, true
		}
		return disk.Owner{Kind: disk.Other, Name: name}, true
	}}
	parts := append([]disk.Part{top}, e.images.DiskParts()...)
	return disk.Measure(ctx, e.dataRoot, append(append(parts, e.containers.DiskParts()...), e.volumes.DiskParts()...))
}

// check reads everything there is, and mends what can be.
func (e *engine) check(ctx context.Context, repair bool, say func(image.Finding)) (image.Checked, error) {
	if err := e.state.Check(); err != nil {
		say(image.Finding{Kind: "state", Name: "state.db", Problem: err.Error(), Advice: "stop the engine, and bring state.db back from a backup"})
	}
	u, err := e.usage(ctx)
	if err != nil {
		return image.Checked{}, err
	}
	mended := ""
	if repair {
		if err := e.tidy(ctx); err != nil {
			return image.Checked{}, err
		}
		mended = "deleted"
	}
	for _, t := range u.Things {
		if t.Kind == disk.Orphans {
			say(image.Finding{Kind: "orphan", Name: t.Path, Problem: "it belongs to nobody", Mended: mended, Advice: "it is deleted within the hour"})
		}
	}
	return e.images.Check(ctx, repair, e.runsOn, say)
}

// runsOn names a container that runs on a layer.
func (e *engine) runsOn(chain digest.Digest) string {
	for _, c := range e.containers.Running() {
		list, err := e.layers.Chain(c.Image.ChainID)
		if err != nil {
			continue
		}
		for _, l := range list {
			if l.ChainID == chain {
				return c.Name
			}
		}
	}
	return ""
}

// tidy deletes what belongs to nobody.
func (e *engine) tidy(ctx context.Context) error {
	_, cerr := e.containers.CollectOrphans()
	_, lerr := e.layers.CollectOrphans()
	_, ierr := e.images.Collect(ctx)
	return errors.Join(cerr, lerr, ierr, e.blobs.CollectPartials())
}

// tidyUp does that now and then until ctx ends.
func (e *engine) tidyUp(ctx context.Context) {
	t := time.NewTicker(tidyEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := e.tidy(ctx); err != nil && ctx.Err() == nil {
				e.log.Warn("collecting what belongs to nobody failed", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}
