package daemon

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/network"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"gantry/internal/build"
	"gantry/internal/build/builder"
	"gantry/internal/build/executor"
	"gantry/internal/build/session"
	"gantry/internal/build/solve"
	"gantry/internal/build/source"
	"gantry/internal/config"
	"gantry/internal/content"
	"gantry/internal/image"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/layer"
	"gantry/internal/network"
	"gantry/internal/remote"
	"gantry/internal/runtime"
	"gantry/internal/state"
)

// maxBuildFiles bounds what is kept of builds' contexts, in bytes: only what has changed since travels again.
const maxBuildFiles = 2 << 30

// openBuilds opens the builder.
func (e *engine) openBuilds(cfg *config.Config, st *state.Store, blobs *content.Store, layers *layer.Store, cache *solve.Cache, specs *runtime.Builder, home *cgroup.Group, log *slog.Logger) error {
	d := defaults(cfg, e.cgroups)
	o := executor.Options{
		Dir: filepath.Join(cfg.ExecRoot, "build"), Processes: e.keeper, Cgroups: e.cgroups, Home: home, Builder: specs,
		CgroupParent: d.CgroupParent, CgroupnsMode: d.CgroupnsMode, Ulimits: d.Ulimits, Log: log,
	}
	if e.networks != nil {
		o.Networks = buildNetworks{e.networks}
	}
	x, err := executor.Open(o)
	if err != nil {
		return err
	}
	e.closing(func() error { x.Close(); return nil })
	e.builds, err = builder.Open(builder.Options{
		State: st, Layers: layers, Images: buildImages{e.images}, Cache: cache, Runner: x, Dir: filepath.Join(cfg.DataRoot, "build"), Log: log,
		Fetch: source.NewFetcher(filepath.Join(cfg.DataRoot, "build", "tmp")), Content: blobs, Remote: e.remote,
	})
	if err != nil {
		return err
	}
	e.closing(func() error { e.builds.Close(); return nil })
	e.buildFiles, err = session.OpenFiles(filepath.Join(cfg.DataRoot, "build", "files"), maxBuildFiles)
	return err
}

// buildImages is what builds need of the image service.
type buildImages struct{ s *image.Service }

func (b buildImages) Get(ctx context.Context, ref string) (builder.Image, error) {
	i, err := b.s.Get(ctx, ref)
	if err != nil {
		return builder.Image{}, err
	}
	return builder.Image{ID: i.ID, Target: i.Target.Digest, Config: i.Config, Chain: i.ChainID, Platform: i.Config.Platform}, nil
}

func (b buildImages) Pull(ctx context.Context, ref string, p *ocispec.Platform, a remote.Access, report func(build.Status)) error {
	return b.s.Pull(ctx, ref, image.PullOptions{Platform: p, Access: a}, func(m image.Progress) {
		report(build.Status{ID: m.ID, Action: m.Status, Current: m.Current, Total: m.Total})
	})
}

func (b buildImages) Make(ctx context.Context, config dockerspec.DockerOCIImage, chain digest.Digest, names []string, cache []byte) (id, manifest digest.Digest, err error) {
	return b.s.Make(ctx, config, chain, names, cache)
}

func (b buildImages) Load(ctx context.Context, r io.Reader) (digest.Digest, error) {
	list, err := b.s.Load(ctx, r, nil)
	if err != nil || len(list) == 0 {
		return "", err
	}
	return list[0].ID, nil
}

func (b buildImages) Archive(ctx context.Context, l *content.Lease, diff digest.Digest) (ocispec.Descriptor, error) {
	return b.s.Archive(ctx, l, diff)
}

func (b buildImages) Field(ctx context.Context, ref, name string) (json.RawMessage, error) {
	return b.s.Field(ctx, ref, name)
}

func (b buildImages) Chains(ctx context.Context) (map[digest.Digest]bool, error) {
	list, err := b.s.List(ctx, image.ListOptions{All: true})
	chains := map[digest.Digest]bool{}
	for _, i := range list {
		chains[i.ChainID] = true
	}
	return chains, err
}

func (b buildImages) Collect(ctx context.Context) error {
	_, err := b.s.Collect(ctx)
	return err
}

// buildNetworks is what builds need of the network service.
type buildNetworks struct{ s *network.Service }

func (b buildNetworks) Join(ctx context.Context, id, hostname, name string, upstream []netip.Addr) (*executor.Connection, error) {
	if name == "" {
		name = network.Bridge
	}
	j, err := b.s.Join(ctx, &network.JoinRequest{
		ID: id, Name: "build-" + hostname, Hostname: hostname, First: name, Upstream: upstream,
		Endpoints: map[string]*types.EndpointSettings{name: {}},
	})
	if err != nil {
		return nil, err
	}
	c := &executor.Connection{Path: j.Path, Done: j.Done, Resolver: j.Resolver}
	for _, ep := range j.Endpoints {
		for _, a := range []netip.Addr{ep.IPAddress, ep.GlobalIPv6Address} {
			if a.IsValid() {
				c.Addrs = append(c.Addrs, a)
			}
		}
	}
	return c, nil
}

func (b buildNetworks) Leave(id string)                  { b.s.Leave(id) }
func (b buildNetworks) HostGateway() (netip.Addr, error) { return b.s.HostGateway() }
