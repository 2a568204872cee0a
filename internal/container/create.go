package container

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/ids"
	"gantry/internal/runtime"
	"gantry/internal/state"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// Create reserves the name and records the container; it returns the ID and warnings for the user.
func (s *Service) Create(ctx context.Context, r CreateRequest) (string, []string, error) {
	if r.Config == nil {
		return "", nil, errs.Invalid.Errorf("config cannot be empty in order to create a container")
	}
	now, volumes, warnings, err := s.plan(ctx, &r)
	if err != nil {
		return "", nil, err
	}
	c, err := s.create(ctx, now, volumes)
	if err != nil {
		return "", nil, err
	}
	s.event(c.snap.Load(), "create")
	return now.ID, warnings, nil
}

// plan decides everything about the new container, and changes nothing.
func (s *Service) plan(ctx context.Context, r *CreateRequest) (*Snapshot, []VolumeRequest, []string, error) {
	name := ""
	if r.Name != "" {
		var err error
		if name, err = checkName(r.Name); err != nil {
			return nil, nil, nil, err
		}
	}
	user := *r.Config
	if err := checkConfig(&user); err != nil {
		return nil, nil, nil, err
	}
	host := fillHostConfig(r.HostConfig, &s.Defaults)
	if err := checkHostConfig(host); err != nil {
		return nil, nil, nil, err
	}
	if host.NetworkMode.IsDefault() && s.Networks != nil {
		name, err := s.Connector.Name("default")
		if err != nil {
			return nil, nil, nil, err
		}
		host.NetworkMode = api.NetworkMode(name)
	}
	endpoints, err := s.endpoints(host, r.Networking)
	if err != nil {
		return nil, nil, nil, err
	}
	if endpoints, err = s.named(endpoints); err != nil {
		return nil, nil, nil, err
	}
	img, err := s.Images.Image(ctx, user.Image)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := checkPlatform(r.Platform, &img); err != nil {
		return nil, nil, nil, err
	}
	config, err := mergeConfig(&user, &img.Config.Config)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := checkConfig(config); err != nil { // an image's own settings may be as wrong as a user's
		return nil, nil, nil, err
	}
	mounts, err := s.mountPlan(ctx, host, config)
	if err != nil {
		return nil, nil, nil, err
	}
	if err := s.resolveJoins(host); err != nil {
		return nil, nil, nil, err
	}
	links, err := s.resolveLinks(host)
	if err != nil {
		return nil, nil, nil, err
	}
	warnings, err := s.Builder.Validate(config, host)
	if err != nil {
		return nil, nil, nil, err
	}
	res, err := runtime.Resources(host)
	if err != nil {
		return nil, nil, nil, err
	}
	_, more, err := s.Cgroups.Check(res)
	if err != nil {
		return nil, nil, nil, err
	}
	warnings = append(warnings, more...)
	if host.NetworkMode.IsHost() && len(host.PortBindings) > 0 {
		warnings = append(warnings, "Published ports are discarded when using host network mode")
	}
	id := ids.New()
	switch {
	case host.NetworkMode.IsHost() || host.UTSMode.IsHost():
		if host.UTSMode.IsHost() && config.Hostname != "" {
			return nil, nil, nil, errs.Invalid.Errorf("conflicting options: hostname and the UTS mode")
		}
		if config.Hostname == "" {
			config.Hostname, _ = os.Hostname()
		}
	case host.NetworkMode.IsContainer():
		if config.Hostname != "" {
			return nil, nil, nil, errs.Invalid.Errorf("conflicting options: hostname and the network mode")
		}
		if other, err := s.Get(host.NetworkMode.ConnectedContainer()); err == nil {
			config.Hostname, config.Domainname = other.Config.Hostname, other.Config.Domainname
		}
	case config.Hostname == "":
		config.Hostname = ids.Short(id)
	}
	argv := append(append([]string(nil), config.Entrypoint...), config.Cmd...)
	img.Config = platformOnly(&img.Config)
	snap := &Snapshot{ID: id, Name: name, Created: time.Now().UTC(), Image: img, Config: config, HostConfig: host,
		Path: argv[0], Args: argv[1:], Status: Created, Mounts: mounts.points, MountOptions: mounts.options, Wanted: endpoints, Links: links}
	if _, err := logAttrs(snap); err != nil {
		return nil, nil, nil, err
	}
	if s.private(snap) {
		if err := s.Networks.Check(snap.request()); err != nil {
			return nil, nil, nil, err
		}
	} else if err := checkNoAddress(endpoints); err != nil {
		return nil, nil, nil, err
	}
	return snap, mounts.volumes, warnings, nil
}

// platformOnly drops what has been merged into the container's own configuration: ten thousand containers
// need not each keep their image's history.
func platformOnly(c *dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	return dockerspec.DockerOCIImage{Image: ocispec.Image{Platform: c.Platform}}
}

// checkPlatform compares the image with the platform that the user asked for.
func checkPlatform(want string, img *Image) error {
	if want == "" {
		return nil
	}
	parts := strings.Split(want, "/")
	osName, arch := "linux", ""
	if len(parts) > 1 {
		osName, arch = parts[0], parts[1]
	} else if parts[0] != "linux" {
		arch = parts[0]
	}
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	p := img.Config.Platform
	if osName != p.OS || (arch != "" && arch != p.Architecture) {
		return errs.NotFound.Errorf("image with reference %s was found but its platform (%s/%s) does not match the specified platform (%s)", img.Name, p.OS, p.Architecture, want)
	}
	return nil
}

// resolveJoins turns container:NAME into container:ID, so that a later rename breaks nothing, and refuses
// what is not there. That is not of the kind "not found": Docker's command line would take it for the image, and pull.
func (s *Service) resolveJoins(h *api.HostConfig) error {
	if h.NetworkMode.IsContainer() {
		c, err := s.find(h.NetworkMode.ConnectedContainer())
		if err != nil {
			return errs.Invalid.Wrap(err)
		}
		h.NetworkMode = api.NetworkMode("container:" + c.id)
	}
	if h.PidMode.IsContainer() {
		c, err := s.find(h.PidMode.Container())
		if err != nil {
			return errs.Invalid.Wrap(err)
		}
		h.PidMode = api.PidMode("container:" + c.id)
	}
	if h.IpcMode.IsContainer() {
		c, err := s.find(h.IpcMode.Container())
		if err != nil {
			return errs.Invalid.Wrap(err)
		}
		if m := c.get().HostConfig.IpcMode; !m.IsShareable() && !m.IsHost() {
			return errs.Invalid.Errorf("non-shareable IPC (hint: use IpcMode:shareable for the donor container): can't join IPC of container %s", c.id)
		}
		h.IpcMode = api.IpcMode("container:" + c.id)
	}
	return nil
}

// create carries out a plan in recorded steps.
func (s *Service) create(ctx context.Context, now *Snapshot, volumes []VolumeRequest) (*container, error) {
	name, err := s.reserveName(now.Name, now.ID)
	if err != nil {
		return nil, err
	}
	now.Name = name
	r := newRecord(now, false)
	f, err := freeze(r)
	if err != nil {
		s.releaseName(name, now.ID)
		return nil, err
	}
	j, err := begin(s.journals(), intent{Op: opCreate, ID: now.ID, Record: r})
	if err != nil {
		s.releaseName(name, now.ID)
		return nil, err
	}
	// A container that is removed when it ends would not outlive a power cut anyway: its record follows the reply.
	// Until it is on disk the journal has it, which a crash of the daemon leaves.
	behind := now.HostConfig.AutoRemove
	var recorded func() error
	err = j.run([]step{
		{"dir", func() error {
			if err := s.Layers.CreateWritable(now.Image.ChainID, now.ID); err != nil {
				return err
			}
			return os.Mkdir(filepath.Join(s.Root, now.ID, "rootfs"), 0o755)
		}, func() { s.removeDir(now.ID) }},
		{"volumes", func() error { return s.takeVolumes(ctx, now, volumes, behind) }, func() { s.leaveVolumes(now.ID, now.volumeNames(true), nil) }},
		{"record", func() error {
			if behind {
				recorded = s.State.Later(f.reserve)
				return nil
			}
			return s.State.Update(f.reserve)
		}, func() {
			s.State.Submit(func(tx state.Tx) error { return erase(tx, now.ID, name) })
		}},
	})
	if err != nil {
		s.releaseName(name, now.ID)
		return nil, err
	}
	c := s.newContainer(*now)
	s.mu.Lock()
	s.byID[now.ID] = c
	s.mu.Unlock()
	if !behind {
		j.end()
		return c, nil
	}
	// The start that follows has a journal of its own; this one must not stand in its place.
	if err := j.setAside(); err != nil {
		s.Log.Warn("setting a journal aside failed", "container", now.ID, "err", err)
	}
	s.work.Go(func() {
		if err := recorded(); err != nil {
			s.Log.Error("recording a new container failed", "container", now.ID, "err", err)
			return
		}
		j.end()
	})
	return c, nil
}

// removeDir throws a container's directory away; what can't be thrown away now is found at the next start.
func (s *Service) removeDir(id string) {
	if err := s.Layers.RemoveDir(id); err != nil {
		s.Log.Warn("removing a container's directory failed", "container", id, "err", err)
	}
}
