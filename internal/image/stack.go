package image

import (
	"context"
	"io"
	"runtime"
	"sync"

	"github.com/opencontainers/go-digest"

	"gantry/internal/layer"
)

// unpackers is how many layers of one image are unpacked at a time: as many as there are processors, and one that
// waits, for the network or for the layers below it.
func unpackers() int { return min(runtime.GOMAXPROCS(0)+1, 8) }

// sideBySide makes the n layers of an image, a few at a time, the lower ones begun first. one makes layer i; below
// waits until the layer under it is made. The first error ends the others, and is returned.
func sideBySide(ctx context.Context, n int, one func(ctx context.Context, i int, below func(context.Context) error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, unpackers())
	under := make(chan struct{}) // closed when the layer under the next one is made
	close(under)
	var wg sync.WaitGroup
	for i := range n {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			wg.Wait()
			return context.Cause(ctx)
		}
		made, wait := make(chan struct{}), under
		under = made
		wg.Go(func() {
			defer func() { <-slots }()
			err := one(ctx, i, func(ctx context.Context) error {
				select {
				case <-wait:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			if err != nil {
				cancel(err)
				return
			}
			close(made)
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// restore unpacks again what had not reached the disk when the machine went down. What can't be is found, and told, by whoever
// looks at the image next.
func (s *Service) restore(ctx context.Context) error {
	lost := map[digest.Digest]bool{}
	for _, c := range s.layers.Lost() {
		lost[c] = true
	}
	if len(lost) == 0 {
		return nil
	}
	s.log.Warn("the machine went down before all layers were on the disk: unpacking them again", "layers", len(lost))
	l := s.layers.Lease()
	defer l.Release()
	for _, r := range s.refs {
		x, err := s.resolveAny(r.Target)
		if err != nil {
			continue
		}
		var parent digest.Digest
		for i, diff := range x.config.RootFS.DiffIDs {
			chain := layer.ChainID(parent, diff)
			if lost[chain] && i < len(x.layers) {
				_, err := s.layers.Make(ctx, l, layer.Recipe{Parent: parent, Diff: diff, Kept: true, Open: func() (io.ReadCloser, error) {
					return s.content.Open(x.layers[i].Digest)
				}})
				if err != nil {
					s.log.Error("unpack a layer again", "image", x.id, "layer", chain, "error", err)
					break
				}
			}
			parent = chain
		}
	}
	return ctx.Err()
}
