package container

import (
	"net/netip"
	"runtime"
	"strconv"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
)

// minMemory is the least limit Docker accepts: below it nothing can start.
const minMemory = 6 << 20

// Defaults are what a container gets where its creator said nothing; the daemon's configuration sets them.
type Defaults struct {
	ShmSize      int64 // bytes
	IpcMode      api.IpcMode
	CgroupnsMode api.CgroupnsMode
	LogConfig    api.LogConfig
	Ulimits      []*api.Ulimit
	CgroupParent string
	Init         bool
}

// What Docker hides from containers and what it lets them only read (moby, oci/defaults.go).
var (
	maskedPaths = []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap"}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// fillHostConfig returns h with Docker's and the daemon's defaults put in. h is not changed.
func fillHostConfig(h *api.HostConfig, d *Defaults) *api.HostConfig {
	c := api.HostConfig{}
	if h != nil {
		c = *h
	}
	if c.NetworkMode == "" {
		c.NetworkMode = "default"
	}
	if c.Memory > 0 && c.MemorySwap == 0 {
		c.MemorySwap = 2 * c.Memory
	}
	if c.ShmSize == 0 {
		c.ShmSize = d.ShmSize
	}
	if c.IpcMode == "" {
		c.IpcMode = d.IpcMode
	}
	if c.CgroupnsMode == "" {
		c.CgroupnsMode = d.CgroupnsMode
	}
	if c.OomKillDisable == nil {
		c.OomKillDisable = new(bool)
	}
	if c.MemorySwappiness != nil && *c.MemorySwappiness == -1 {
		c.MemorySwappiness = nil
	}
	if c.PidsLimit != nil && *c.PidsLimit <= 0 {
		c.PidsLimit = nil // 0 and -1 both mean: no limit
	}
	if c.LogConfig.Type == "" {
		c.LogConfig.Type = d.LogConfig.Type
	}
	if c.LogConfig.Type == d.LogConfig.Type {
		opts := map[string]string{}
		for k, v := range d.LogConfig.Config {
			opts[k] = v
		}
		for k, v := range c.LogConfig.Config {
			opts[k] = v
		}
		c.LogConfig.Config = opts
	} else if c.LogConfig.Config == nil {
		c.LogConfig.Config = map[string]string{}
	}
	if c.Runtime == "" {
		c.Runtime = "runc"
	}
	// `--security-opt systempaths=unconfined` arrives as empty lists, which stay.
	if c.MaskedPaths == nil && !c.Privileged {
		c.MaskedPaths = maskedPaths
	}
	if c.ReadonlyPaths == nil && !c.Privileged {
		c.ReadonlyPaths = readonlyPaths
	}
	return &c
}

// checkHostConfig refuses what Docker refuses, in its words, and what Gantry does not know yet, in its own.
func checkHostConfig(h *api.HostConfig) error {
	bad := errs.Invalid.Errorf
	if h.AutoRemove && !h.RestartPolicy.IsNone() {
		return bad("can't create 'AutoRemove' container with restart policy")
	}
	if err := api.ValidateRestartPolicy(h.RestartPolicy); err != nil {
		return errs.Invalid.Wrap(err)
	}
	if err := checkResources(&h.Resources); err != nil {
		return err
	}
	for _, e := range h.ExtraHosts {
		if _, err := parseExtraHost(e); err != nil {
			return err
		}
	}
	switch {
	case !h.IpcMode.Valid():
		return bad("invalid IPC mode: %v", h.IpcMode)
	case !h.PidMode.Valid():
		return bad("invalid PID mode: %v", h.PidMode)
	case !h.UTSMode.Valid():
		return bad("invalid UTS mode: %v", h.UTSMode)
	case !h.UsernsMode.Valid():
		return bad("invalid USER mode: %v", h.UsernsMode)
	case !h.CgroupnsMode.Valid():
		return bad("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	case h.ShmSize < 0:
		return bad("SHM size can not be less than 0")
	case h.OomScoreAdj < -1000 || h.OomScoreAdj > 1000:
		return bad("Invalid value %d, range for oom score adj is [-1000, 1000]", h.OomScoreAdj)
	case h.Runtime != "runc" && h.Runtime != "io.containerd.runc.v2":
		return bad("unknown or invalid runtime name: %s", h.Runtime)
	case !h.Isolation.IsDefault():
		return bad("invalid isolation '%s' on linux", h.Isolation)
	case len(h.StorageOpt) > 0:
		return checkStorage(h.StorageOpt)
	case len(h.DeviceRequests) > 0:
		d := h.DeviceRequests[0]
		return bad("could not select device driver %q with capabilities: %v", d.Driver, d.Capabilities)
	}
	switch h.LogConfig.Type {
	case "json-file", "none":
	default:
		return bad("logger: no log driver named '%s' is registered", h.LogConfig.Type)
	}
	if _, err := logSpec(h.LogConfig, "", nil); err != nil {
		return err
	}
	return checkNetwork(h)
}

// checkStorage refuses --storage-opt: a size that nobody holds a container to is worse than an error.
func checkStorage(options map[string]string) error {
	for k := range options {
		if !strings.EqualFold(k, "size") {
			return errs.Invalid.Errorf("Unknown option %s", k)
		}
	}
	return errs.Invalid.Errorf("--storage-opt is supported only for overlay over xfs with 'pquota' mount option\n" +
		"Gantry holds no container's own files to a size; a volume can have one: volume create --opt size=SIZE")
}

func checkNetwork(h *api.HostConfig) error {
	switch m := h.NetworkMode; {
	case m == "none" || m == "host" || m == "default":
	case m.IsContainer():
		if m.ConnectedContainer() == "" {
			return errs.Invalid.Errorf("Invalid network mode: invalid container format container:<name|id>")
		}
	}
	if m := h.NetworkMode; m.IsContainer() && (len(h.PortBindings) > 0 || h.PublishAllPorts) {
		return errs.Invalid.Errorf("conflicting options: port publishing and the container type network mode")
	}
	if m := h.NetworkMode; m.IsContainer() && (len(h.ExtraHosts) > 0 || len(h.DNS) > 0) {
		if len(h.ExtraHosts) > 0 {
			return errs.Invalid.Errorf("conflicting options: custom host-to-IP mapping and the network mode")
		}
		return errs.Invalid.Errorf("conflicting options: dns and the network mode")
	}
	return nil
}

func checkResources(r *api.Resources) error {
	bad := errs.Invalid.Errorf
	switch {
	case r.Memory != 0 && r.Memory < minMemory:
		return bad("Minimum memory limit allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return bad("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < 0 || *r.MemorySwappiness > 100):
		return bad("Invalid value: %v, valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return bad("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return bad("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return bad("Conflicting options: Nano CPUs and CPU Period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return bad("Conflicting options: Nano CPUs and CPU Quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > int64(runtime.NumCPU())*1e9:
		return bad("range of CPUs is from 0.01 to %[1]d.00, as there are only %[1]d CPUs available", runtime.NumCPU())
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPUShares < 0:
		return bad("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return bad("Range of blkio weight is from 10 to 1000")
	}
	for _, s := range []struct{ what, list string }{{"cpus", r.CpusetCpus}, {"mems", r.CpusetMems}} {
		if err := checkSet(s.what, s.list); err != nil {
			return err
		}
	}
	return nil
}

// checkSet reads a list such as "0-3,7" (cpuset(7), "List format"). Whether they exist, the kernel tells.
func checkSet(what, list string) error {
	if list == "" {
		return nil
	}
	const highest = 8192
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, ranged := strings.Cut(part, "-")
		a, err1 := strconv.ParseUint(lo, 10, 32)
		b, err2 := a, error(nil)
		if ranged {
			b, err2 = strconv.ParseUint(hi, 10, 32)
		}
		if err1 != nil || err2 != nil || a > b || b > highest {
			return errs.Invalid.Errorf("Invalid value %s for cpuset %s: invalid format: %s", list, what, list)
		}
		if what == "cpus" && int(b) >= runtime.NumCPU() && !onlineCPU(int(b)) {
			return errs.Invalid.Errorf("Requested CPUs are not available - requested %s, available: 0-%d", list, runtime.NumCPU()-1)
		}
	}
	return nil
}

// onlineCPU guards against a daemon that is itself confined to fewer CPUs than there are: those it cannot
// use may still exist, and then the kernel decides.
func onlineCPU(n int) bool { return n < maxOnlineCPU() }

// host is one line of /etc/hosts.
type host struct {
	addr netip.Addr
	name string
}

// parseExtraHost reads one --add-host: name:address; the address may stand in brackets.
func parseExtraHost(s string) (host, error) {
	name, ip, ok := strings.Cut(s, ":")
	if !ok {
		name, ip, ok = strings.Cut(s, "=")
	}
	if !ok || name == "" {
		return host{}, errs.Invalid.Errorf("bad format for add-host: %q", s)
	}
	if strings.ContainsAny(name, " \t\r\n#") {
		return host{}, errs.Invalid.Errorf("bad format for add-host: %q", s)
	}
	if ip == "host-gateway" {
		return host{name: name}, nil // its address is known when the container starts
	}
	if strings.HasPrefix(ip, "[") && strings.HasSuffix(ip, "]") {
		ip = ip[1 : len(ip)-1]
	}
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return host{}, errs.Invalid.Errorf("invalid IP address in add-host: %q", ip)
	}
	return host{a, name}, nil
}
