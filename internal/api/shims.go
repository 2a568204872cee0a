package api

import (
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	types "github.com/moby/moby/api/types/container"
	eventtypes "github.com/moby/moby/api/types/events"
	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/storage"
	"github.com/moby/moby/api/types/system"

	"gantry/internal/errs"
	"gantry/internal/ids"
)

// A shim makes of today's value what versions below its own said or meant. The tables below are the only
// place that knows; moby's docs/CHANGELOG.md and its published description of each version are
// their source. Fields that moby/api has dropped live in the small types here: embedded as a nil
// pointer they cost nothing and are not written.
type shim[T any] struct {
	below version
	what  string // for the reader, and for the test's name
	apply func(*T)
}

// shape applies to x all shims for a client of version have.
func shape[T any](have version, x *T, table []shim[T]) {
	for i := range table {
		if have < table[i].below {
			table[i].apply(x)
		}
	}
}

// containerInspect is GET /containers/{id}/json.
type containerInspect struct {
	types.InspectResponse
	Config          *inspectConfig   // instead of InspectResponse's
	NetworkSettings *networkSettings // instead of InspectResponse's
	HostConfig      *hostConfig      // instead of InspectResponse's
}

type inspectConfig struct {
	*types.Config
	OnBuild    *[]string `json:",omitempty"` // instead of Config's
	MacAddress string    `json:",omitempty"`
}

type hostConfig struct {
	*types.HostConfig
	*legacyHostConfig
}

type legacyHostConfig struct{ KernelMemory, KernelMemoryTCP int64 }

type networkSettings struct {
	types.NetworkSettings
	*legacyNetwork
}

// legacyNetwork is what NetworkSettings said before networks had names: the default bridge's endpoint.
type legacyNetwork struct {
	Bridge                 string
	HairpinMode            bool
	LinkLocalIPv6Address   string
	LinkLocalIPv6PrefixLen int
	SecondaryIPAddresses   []string
	SecondaryIPv6Addresses []string
	EndpointID             string
	Gateway                string
	GlobalIPv6Address      string
	GlobalIPv6PrefixLen    int
	IPAddress              string
	IPPrefixLen            int
	IPv6Gateway            string
	MacAddress             string
}

var containerInspectShims = []shim[containerInspect]{
	{v(52), "NetworkSettings repeats the bridge's endpoint", func(x *containerInspect) {
		l := &legacyNetwork{}
		if e := x.NetworkSettings.Networks["bridge"]; e != nil {
			l.EndpointID, l.MacAddress = e.EndpointID, e.MacAddress.String()
			l.IPPrefixLen, l.GlobalIPv6PrefixLen = e.IPPrefixLen, e.GlobalIPv6PrefixLen
			l.IPAddress, l.Gateway = addr(e.IPAddress), addr(e.Gateway)
			l.GlobalIPv6Address, l.IPv6Gateway = addr(e.GlobalIPv6Address), addr(e.IPv6Gateway)
		}
		x.NetworkSettings.legacyNetwork = l
	}},
	{v(52), "Config.MacAddress", func(x *containerInspect) {
		if e := x.NetworkSettings.Networks["bridge"]; e != nil {
			x.Config.MacAddress = e.MacAddress.String()
		}
	}},
	{v(52), "Config.OnBuild even where it is empty", func(x *containerInspect) { x.Config.OnBuild = &x.Config.Config.OnBuild }},
	{v(52), "GraphDriver where Storage is now", func(x *containerInspect) {
		if x.GraphDriver == nil {
			x.GraphDriver = &storage.DriverData{Name: driverName, Data: map[string]string{}}
		}
		x.Storage = nil
	}},
	{v(48), "no ImageManifestDescriptor", func(x *containerInspect) { x.ImageManifestDescriptor = nil }},
	{v(45), "Aliases hold the short ID and the host name", func(x *containerInspect) {
		for name, e := range x.NetworkSettings.Networks {
			if userDefined(name) {
				cp := *e
				cp.Aliases = slices.Compact(append(append([]string(nil), e.Aliases...), ids.Short(x.ID), x.Config.Hostname))
				x.NetworkSettings.Networks[name] = &cp
			}
		}
	}},
	{v(42), "HostConfig.KernelMemory", func(x *containerInspect) { x.HostConfig.legacyHostConfig = &legacyHostConfig{} }},
}

// userDefined reports whether a network is one that users made.
func userDefined(name string) bool {
	return name != "bridge" && name != "host" && name != "none" && name != "default"
}

var containerSummaryShims = []shim[types.Summary]{
	{v(52), "no Health", func(x *types.Summary) { x.Health = nil }},
	{v(48), "no ImageManifestDescriptor", func(x *types.Summary) { x.ImageManifestDescriptor = nil }},
	{v(46), "no HostConfig.Annotations", func(x *types.Summary) { x.HostConfig.Annotations = nil }},
}

// containerCreate is the body of POST /containers/create, with the shapes that older clients send.
type containerCreate struct {
	types.CreateRequest
	Cmd, Entrypoint words  // instead of Config's
	MacAddress      string // until 1.52
	HostConfig      *createHostConfig

	warnings []string
	err      error
}

type createHostConfig struct {
	*types.HostConfig
	Capabilities []string // an idea of 1.40, taken back in 1.41
}

const macDeprecated = "The container-wide MacAddress field is now deprecated. It should be specified in EndpointsConfig instead."

var containerCreateShims = []shim[containerCreate]{
	{maxVersion + 1, "a pids limit of 0 or less is none", func(x *containerCreate) {
		if n := x.HostConfig.PidsLimit; n != nil && *n <= 0 {
			x.HostConfig.PidsLimit = nil
		}
	}},
	{v(52), "a container-wide MAC address is that of the main network", func(x *containerCreate) {
		if x.MacAddress == "" {
			return
		}
		mode := x.HostConfig.NetworkMode
		if mode.IsContainer() {
			x.fail("conflicting options: mac-address and the network mode")
			return
		}
		if mode != "host" && mode != "none" {
			var mac network.HardwareAddr
			if err := mac.UnmarshalText([]byte(x.MacAddress)); err != nil {
				x.fail("invalid MAC address %q: %w", x.MacAddress, err)
				return
			}
			e := x.endpoint(string(mode))
			if len(e.MacAddress) > 0 && e.MacAddress.String() != mac.String() {
				x.fail("the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty")
				return
			}
			e.MacAddress = mac
		}
		x.warnings = append(x.warnings, macDeprecated)
	}},
	{v(44), "there was no other way to say it", func(x *containerCreate) {
		x.warnings = slices.DeleteFunc(x.warnings, func(w string) bool { return w == macDeprecated })
	}},
	{v(52), "HostConfig.Capabilities is refused, not ignored: it would have taken capabilities away", func(x *containerCreate) {
		if len(x.HostConfig.Capabilities) > 0 {
			x.fail("the HostConfig.Capabilities field is not supported by this daemon; use CapAdd and CapDrop to set capabilities")
		}
	}},
	{v(48), "no priorities of gateways, no image mounts", func(x *containerCreate) {
		for _, e := range x.NetworkingConfig.EndpointsConfig {
			if e != nil {
				e.GwPriority = 0
			}
		}
		for _, m := range x.HostConfig.Mounts {
			if m.Type == mount.TypeImage {
				x.fail(`Mount type "Image" needs API v1.48 or newer`)
			}
		}
	}},
	{v(47), "kernel parameters of eth0 are those of the first network's interface", (*containerCreate).moveSysctls},
	{v(45), "no VolumeOptions.Subpath", func(x *containerCreate) {
		for _, m := range x.HostConfig.Mounts {
			if m.VolumeOptions != nil && m.VolumeOptions.Subpath != "" {
				x.fail("VolumeOptions.Subpath needs API v1.45 or newer")
			}
		}
	}},
	{v(44), "no StartInterval; read-only binds are not recursive; one network", func(x *containerCreate) {
		if x.Healthcheck != nil {
			x.Healthcheck.StartInterval = 0
		}
		for i := range x.HostConfig.Mounts {
			m := &x.HostConfig.Mounts[i]
			if m.Type != mount.TypeBind {
				continue
			}
			if m.BindOptions == nil {
				m.BindOptions = &mount.BindOptions{}
			}
			if m.BindOptions.ReadOnlyForceRecursive {
				x.fail("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
			}
			m.BindOptions.ReadOnlyNonRecursive = true
		}
		if len(x.NetworkingConfig.EndpointsConfig) > 1 {
			x.fail("Container cannot be created with multiple network endpoints: %s", keys(x.NetworkingConfig.EndpointsConfig))
		}
	}},
	{v(43), "no Annotations", func(x *containerCreate) { x.HostConfig.Annotations = nil }},
	{v(42), "no ConsoleSize; options of another mount type are ignored", func(x *containerCreate) {
		x.HostConfig.ConsoleSize = [2]uint{}
		for i := range x.HostConfig.Mounts {
			m := &x.HostConfig.Mounts[i]
			if m.Type != mount.TypeVolume {
				m.VolumeOptions = nil
			}
			if m.Type != mount.TypeTmpfs {
				m.TmpfsOptions = nil
			}
			if m.BindOptions != nil {
				m.BindOptions.CreateMountpoint = false
			}
		}
	}},
	{v(40), "IPC is shareable by default; binds are recursive", func(x *containerCreate) {
		for _, m := range x.HostConfig.Mounts {
			if m.BindOptions != nil {
				m.BindOptions.NonRecursive = false
			}
		}
		if x.HostConfig.IpcMode == "" {
			x.HostConfig.IpcMode = types.IPCModeShareable
		}
	}},
}

// fail keeps the first error.
func (x *containerCreate) fail(format string, args ...any) {
	if x.err == nil {
		x.err = errs.Invalid.Errorf(format, args...)
	}
}

func (x *containerCreate) endpoint(name string) *network.EndpointSettings {
	m := x.NetworkingConfig.EndpointsConfig
	if m == nil {
		m = make(map[string]*network.EndpointSettings)
		x.NetworkingConfig.EndpointsConfig = m
	}
	if m[name] == nil {
		m[name] = &network.EndpointSettings{}
	}
	return m[name]
}

// imageInspect is GET /images/{name}/json.
type imageInspect struct {
	imagetypes.InspectResponse
	Config                                 any     // instead of InspectResponse's; an OCI image's or a legacyImageConfig
	Parent, Comment, DockerVersion, Author *string `json:",omitempty"`
	VirtualSize                            int64   `json:",omitempty"`
	*imageContainer
}

// imageContainer is the container that a build's last step ran in, while there was one.
type imageContainer struct {
	Container       string
	ContainerConfig *inspectConfig
}

func containerOf(volumes map[string]struct{}) *imageContainer {
	return &imageContainer{ContainerConfig: &inspectConfig{Config: &types.Config{Volumes: volumes}, OnBuild: new([]string)}}
}

// legacyImageConfig writes an image's fields even where they are empty, which the OCI type does not.
type legacyImageConfig struct {
	*dockerspec.DockerOCIImageConfig
	User       string
	Env        []string
	Cmd        []string
	Entrypoint []string
	Volumes    map[string]struct{}
	WorkingDir string
	Labels     map[string]string
	OnBuild    []string
	*legacyConfig
}

// legacyConfig holds fields of a container's configuration, always empty, that an image's had by accident.
type legacyConfig struct {
	Hostname, Domainname                    string
	AttachStdin, AttachStdout, AttachStderr bool
	Tty, OpenStdin, StdinOnce               bool
	Image                                   string
}

var imageInspectShims = []shim[imageInspect]{
	{v(52), "empty fields are written", func(x *imageInspect) {
		for _, f := range []**string{&x.Parent, &x.Comment, &x.DockerVersion, &x.Author} {
			if *f == nil {
				*f = new(string)
			}
		}
		o := x.InspectResponse.Config
		x.Config = &legacyImageConfig{
			DockerOCIImageConfig: o,
			User:                 o.User, Env: o.Env, Cmd: o.Cmd, Entrypoint: o.Entrypoint, Volumes: o.Volumes,
			WorkingDir: o.WorkingDir, Labels: o.Labels, OnBuild: o.OnBuild,
		}
	}},
	{v(52), "GraphDriver", func(x *imageInspect) {
		if x.GraphDriver == nil {
			x.GraphDriver = &storage.DriverData{Name: driverName, Data: map[string]string{}}
		}
	}},
	{v(50), "Config has a container's fields", func(x *imageInspect) {
		x.Config.(*legacyImageConfig).legacyConfig = &legacyConfig{}
	}},
	{v(48), "no Descriptor", func(x *imageInspect) { x.Descriptor = nil }},
	{v(45), "Container and ContainerConfig", func(x *imageInspect) {
		x.imageContainer = containerOf(nil)
	}},
	{v(44), "VirtualSize", func(x *imageInspect) { x.VirtualSize = x.Size }},
	{v(44), "an unknown Created is year 1", func(x *imageInspect) {
		if x.Created == "" {
			x.Created = time.Time{}.Format(time.RFC3339Nano)
		}
	}},
}

// imageSummary is one element of GET /images/json.
type imageSummary struct {
	imagetypes.Summary
	VirtualSize int64 `json:",omitempty"`
}

var imageSummaryShims = []shim[imageSummary]{
	{v(51), "Containers is not counted", func(x *imageSummary) { x.Containers = -1 }},
	{v(48), "no Descriptor", func(x *imageSummary) { x.Descriptor = nil }},
	{v(44), "VirtualSize", func(x *imageSummary) { x.VirtualSize = x.Size }},
	{v(43), "<none> for images without a name", func(x *imageSummary) {
		if len(x.RepoTags) == 0 && len(x.RepoDigests) == 0 {
			x.RepoTags, x.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
	}},
}

// event is one message of GET /events.
type event struct {
	*eventtypes.Message
	*legacyEvent
}

// legacyEvent repeats an event in the form of before 1.22; the CLI up to 25.0 panics without.
type legacyEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
}

var eventShims = []shim[event]{
	{v(52), "status, id and from", func(x *event) {
		switch x.Type {
		case eventtypes.ContainerEventType:
			x.legacyEvent = &legacyEvent{string(x.Action), x.Actor.ID, x.Actor.Attributes["image"]}
		case eventtypes.ImageEventType:
			x.legacyEvent = &legacyEvent{Status: string(x.Action), ID: x.Actor.ID}
		}
	}},
	{v(46), "no image create events", func(x *event) {
		if x.Type == eventtypes.ImageEventType && x.Action == eventtypes.ActionCreate {
			x.Message = nil // skipped
		}
	}},
}

// info is GET /info.
type info struct {
	system.Info
	ContainerdCommit commit // instead of Info's
	RuncCommit       commit
	InitCommit       commit
	RegistryConfig   *registryConfig // instead of Info's
	*bridgeInfo
	*kernelMemoryInfo
}

type registryConfig struct {
	*registry.ServiceConfig
	*nondistributable
}

// nondistributable are those allowed to be pushed foreign layers to: since Docker 28 all are.
type nondistributable struct {
	AllowNondistributableArtifactsCIDRs, AllowNondistributableArtifactsHostnames []string
}

type commit struct {
	ID       string
	Expected *string `json:",omitempty"`
}

type bridgeInfo struct{ BridgeNfIptables, BridgeNfIp6tables bool }

type kernelMemoryInfo struct{ KernelMemory, KernelMemoryTCP bool }

var infoShims = []shim[info]{
	{v(53), "no NRI", func(x *info) { x.NRI = nil }},
	{v(50), "BridgeNfIptables; no DiscoveredDevices", func(x *info) { x.bridgeInfo, x.DiscoveredDevices = &bridgeInfo{}, nil }},
	{v(49), "commits are compared with those expected; no FirewallBackend", func(x *info) {
		x.FirewallBackend = nil
		for _, k := range []*commit{&x.ContainerdCommit, &x.RuncCommit, &x.InitCommit} {
			k.Expected = &k.ID
		}
	}},
	{v(49), "RegistryConfig.AllowNondistributableArtifacts…", func(x *info) {
		x.RegistryConfig.nondistributable = &nondistributable{[]string{}, []string{}}
	}},
	{v(46), "no Containerd", func(x *info) { x.Containerd = nil }},
	{v(44), "no status of runtimes", func(x *info) {
		for k, r := range x.Runtimes {
			r.Status = nil
			x.Runtimes[k] = r
		}
	}},
	{v(42), "KernelMemory", func(x *info) { x.kernelMemoryInfo = &kernelMemoryInfo{} }},
}
