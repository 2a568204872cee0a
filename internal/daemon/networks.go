package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	types "github.com/moby/moby/api/types/network"

	"gantry/internal/config"
	"gantry/internal/container"
	"gantry/internal/kernel/netns"
	"gantry/internal/network"
	"gantry/internal/network/relay"
	"gantry/internal/runtime/programs"
	"gantry/internal/runtime/spec"
	"gantry/internal/state"
)

// openNetworks opens the networks and tells them which containers run. An engine that may not touch the network goes
// on without.
func (e *engine) openNetworks(ctx context.Context, cfg *config.Config, st *state.Store, embedded map[string][]byte, log *slog.Logger) error {
	host, err := netns.Current()
	if err != nil {
		log.Warn("no networks can be made here; containers have --network none, host and container:NAME", "err", err)
		return nil
	}
	e.closing(host.Close)
	// Engines live side by side: what the host shows of one is named after its exec-root.
	table, bridge := "gantry", "gantry0"
	if cfg.ExecRoot != config.DefaultExecRoot {
		sum := sha256.Sum256([]byte(cfg.ExecRoot))
		table, bridge = "gantry-"+hex.EncodeToString(sum[:4]), "gantry-"+hex.EncodeToString(sum[:3])
	}
	if cfg.Bridge != "" {
		bridge = cfg.Bridge
	}
	opts := network.Options{Run: filepath.Join(cfg.ExecRoot, "network"), State: st, Events: e.events, Log: log, Host: host,
		Table: table, Bridge: bridge, Foreign: cfg.Bridge != "", BIP: cfg.BIP, Pools: cfg.AddressPools, Relayed: cfg.Relayed, Apart: !cfg.ICC, Unmasked: !cfg.Masquerade, HostIP: cfg.HostIP, MTU: cfg.MTU}
	set := &programs.Set{Embedded: embedded}
	opts.Relay = relay.Options{
		Dir: cfg.ExecRoot,
		// In a cgroup of its own, as the supervisor.
		Cgroup: func() (spec.Cgroup, error) {
			g, err := ownGroup(cfg, e.cgroups, "relay")
			if err != nil {
				return spec.Cgroup{}, err
			}
			return spec.Cgroup(g.Join(e.cgroups.Own())), nil
		},
		Program: func() (*os.File, error) { return set.Open(programs.Relay) },
		Build:   sync.OnceValues(func() (string, error) { return set.Build(programs.Relay) }),
	}
	id := sha256.Sum256([]byte(engineID(cfg.DataRoot, log)))
	copy(opts.ULA[:], id[:])
	n, err := network.Open(ctx, opts)
	if err != nil {
		return err
	}
	e.networks = n
	e.closing(func() error { n.Close(); return nil })
	runs := map[string]int{}
	for _, p := range e.keeper.Processes() {
		if p.Exit == nil {
			runs[p.ID] = p.Pid
		}
	}
	return n.Keep(func(id string) int { return runs[id] })
}

// networks is what containers need of the network service.
type networks struct{ *network.Service }

func (s networks) Check(r *container.NetworkRequest) error {
	return s.Service.Check((*network.JoinRequest)(r))
}

func (s networks) Join(ctx context.Context, r *container.NetworkRequest) (*container.Connection, error) {
	j, err := s.Service.Join(ctx, (*network.JoinRequest)(r))
	return (*container.Connection)(j), err
}

func (s networks) Of(id string) *container.Connection {
	return (*container.Connection)(s.Service.Of(id))
}

func (s networks) Connect(ctx context.Context, r *container.NetworkRequest, ref string, want *types.EndpointSettings, path string) (*container.Connection, error) {
	j, err := s.Service.Connect(ctx, (*network.JoinRequest)(r), ref, want, path)
	return (*container.Connection)(j), err
}

func (s networks) Disconnect(ctx context.Context, id, ref, path string) (*container.Connection, error) {
	j, err := s.Service.Disconnect(ctx, id, ref, path)
	return (*container.Connection)(j), err
}

func (s networks) Rename(id, name string) (*container.Connection, error) {
	j, err := s.Service.Rename(id, name)
	return (*container.Connection)(j), err
}

func (s networks) HostGateway() (netip.Addr, error) { return s.Service.HostGateway() }
