package api

import (
	"cmp"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"gantry/internal/container"
	"gantry/internal/image"
)

// ping answers GET and HEAD /_ping, the first thing that every client asks.
func (s *Server) ping(c *call) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-cache, no-store, must-revalidate")
	h.Set("Pragma", "no-cache")
	h.Set("Builder-Version", "1") // no BuildKit yet: the CLI then offers the classic builder
	h.Set("Swarm", "inactive")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if c.r.Method == "HEAD" {
		h.Set("Content-Length", "0")
		return nil
	}
	_, _ = c.w.Write([]byte("OK"))
	return nil
}

func (s *Server) showVersion(c *call) error {
	h := &s.deps.Host
	v := system.VersionResponse{
		Platform:      system.PlatformInfo{Name: "Gantry"},
		Version:       h.Version,
		APIVersion:    maxVersion.String(),
		MinAPIVersion: minVersion.String(),
		Os:            runtime.GOOS,
		Arch:          runtime.GOARCH,
		GitCommit:     h.GitCommit,
		GoVersion:     runtime.Version(),
		KernelVersion: h.KernelVersion,
		BuildTime:     h.BuildTime,
		Components: []system.ComponentVersion{{
			Name:    "Engine",
			Version: h.Version,
			Details: map[string]string{
				"ApiVersion":    maxVersion.String(),
				"MinAPIVersion": minVersion.String(),
				"Arch":          runtime.GOARCH,
				"BuildTime":     h.BuildTime,
				"Experimental":  "false",
				"GitCommit":     h.GitCommit,
				"GoVersion":     runtime.Version(),
				"KernelVersion": h.KernelVersion,
				"Os":            runtime.GOOS,
			},
		}},
	}
	if s.deps.Supervisor != nil {
		pid, build, err := s.deps.Supervisor(c.r.Context())
		if err != nil {
			return err
		}
		v.Components = append(v.Components, system.ComponentVersion{
			Name: "supervisor", Version: h.Version, Details: map[string]string{"Pid": strconv.Itoa(pid), "Build": build},
		})
	}
	if s.deps.Relay != nil {
		if pid, build := s.deps.Relay(); pid != 0 {
			v.Components = append(v.Components, system.ComponentVersion{
				Name: "relay", Version: h.Version, Details: map[string]string{"Pid": strconv.Itoa(pid), "Build": build},
			})
		}
	}
	return c.reply(200, v)
}

// runtimeName is what Runtimes calls our launcher: tools ask for "runc" by name and take its absence for
// a broken engine.
const runtimeName = "runc"

// driverName is what clients know overlayfs by.
const driverName = "overlay2"

func (s *Server) info(c *call) error {
	h := &s.deps.Host
	proxies := s.proxies()
	x := info{Info: system.Info{
		ID:           h.ID,
		Driver:       driverName,
		DriverStatus: [][2]string{{"Backing Filesystem", h.BackingFS}, {"Supports d_type", "true"}},
		Plugins: system.PluginsInfo{
			Volume:  []string{"local"},
			Network: s.networkDrivers(),
			Log:     []string{"json-file", "none"},
		},
		MemoryLimit:        h.MemoryLimit,
		SwapLimit:          h.SwapLimit,
		CPUCfsPeriod:       h.CPUCfs,
		CPUCfsQuota:        h.CPUCfs,
		CPUShares:          h.CPUShares,
		CPUSet:             h.CPUSet,
		PidsLimit:          h.PidsLimit,
		OomKillDisable:     h.OomKillDisable,
		IPv4Forwarding:     forwarding(),
		Debug:              h.Debug,
		NGoroutines:        runtime.NumGoroutine(),
		NFd:                openFiles(),
		NEventsListener:    s.deps.Events.Listeners(),
		SystemTime:         time.Now().Format(time.RFC3339Nano),
		LoggingDriver:      cmp.Or(h.LoggingDriver, "json-file"),
		CgroupDriver:       cmp.Or(h.CgroupDriver, "cgroupfs"),
		CgroupVersion:      h.CgroupVersion,
		KernelVersion:      h.KernelVersion,
		OperatingSystem:    h.OS,
		OSVersion:          h.OSVersion,
		OSType:             runtime.GOOS,
		Architecture:       h.Arch,
		IndexServerAddress: "https://index.docker.io/v1/",
		RegistryConfig:     s.registrySettings(),
		HTTPProxy:          proxies.HTTP,
		HTTPSProxy:         proxies.HTTPS,
		NoProxy:            proxies.No,
		NCPU:               h.NCPU,
		MemTotal:           h.MemTotal,
		DockerRootDir:      h.DataRoot,
		Name:               h.Name,
		Labels:             orEmpty(h.Labels),
		ServerVersion:      h.Version,
		Runtimes:           map[string]system.RuntimeWithStatus{runtimeName: {Runtime: system.Runtime{Path: "gantry"}}},
		DefaultRuntime:     runtimeName,
		Swarm:              swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive, RemoteManagers: []swarm.Peer{}},
		LiveRestoreEnabled: true, // containers outlive the engine, always
		InitBinary:         cmp.Or(h.InitBinary, "docker-init"),
		SecurityOptions:    []string{},
		CDISpecDirs:        []string{},
		Warnings:           h.Warnings,
	}}
	x.RegistryConfig = &registryConfig{ServiceConfig: x.Info.RegistryConfig}
	if h.AppArmor {
		x.SecurityOptions = append(x.SecurityOptions, "name=apparmor")
	}
	if h.Seccomp {
		x.SecurityOptions = append(x.SecurityOptions, "name=seccomp,profile=builtin")
	}
	if h.CgroupNS && h.CgroupVersion == "2" { // Docker says it where a private namespace is the default
		x.SecurityOptions = append(x.SecurityOptions, "name=cgroupns")
	}
	all, err := s.deps.Containers.List(container.ListOptions{All: true})
	if err != nil {
		return err
	}
	for i := range all {
		switch all[i].Status {
		case container.Running, container.Restarting:
			x.ContainersRunning++
		case container.Paused:
			x.ContainersPaused++
		default:
			x.ContainersStopped++
		}
	}
	x.Containers = len(all)
	images, err := s.deps.Images.List(c.r.Context(), image.ListOptions{})
	if err != nil {
		return err
	}
	x.Images = len(images)
	shape(c.version, &x, infoShims)
	return c.reply(200, &x)
}

func forwarding() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	return err == nil && len(b) > 0 && b[0] == '1'
}

// openFiles counts this process's file descriptors.
func openFiles() int {
	d, err := os.Open("/proc/self/fd")
	if err != nil {
		return -1
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return -1
	}
	return len(names) - 1 // less d's own
}

// orEmpty makes a nil slice an empty one: [] in JSON, over which clients may iterate, instead of null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
