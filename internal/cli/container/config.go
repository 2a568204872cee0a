package container

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/cli/parse"
)

func checkIP(s string) (string, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return "", fmt.Errorf("IP address is not correctly formatted: %s", s)
	}
	return a.String(), nil
}

func addrs(list []string) []netip.Addr {
	out := make([]netip.Addr, 0, len(list)) // never null: engines before 1.20 choke on it
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// emptyIfNil makes [] of what would be null in JSON: tools that read it back expect a list.
func emptyIfNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// capabilities writes names as the engine does (CAP_KILL, ALL), sorts them, and lets an addition win over a drop of the same.
func capabilities(add, drop []string) (added, dropped []string) {
	set := func(list []string) map[string]bool {
		m := map[string]bool{}
		for _, c := range list {
			c = strings.ToUpper(strings.TrimSpace(c))
			if c != "ALL" && c != "RESET" && !strings.HasPrefix(c, "CAP_") {
				c = "CAP_" + c
			}
			m[c] = true
		}
		if m["ALL"] {
			return map[string]bool{"ALL": true}
		}
		return m
	}
	a, d := set(add), set(drop)
	for c := range a {
		added = append(added, c)
	}
	for c := range d {
		if !a[c] {
			dropped = append(dropped, c)
		}
	}
	slices.Sort(added)
	slices.Sort(dropped)
	return added, dropped
}

func has(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// request turns the flags and the arguments IMAGE [COMMAND] [ARG...] into what POST /containers/create takes.
func (o *options) request(args []string) (*container.CreateRequest, error) {
	if o.mac != "" {
		if _, err := net.ParseMAC(strings.TrimSpace(o.mac)); err != nil {
			return nil, fmt.Errorf("%s is not a valid mac address", o.mac)
		}
	}
	if o.swappiness < -1 || o.swappiness > 100 {
		return nil, fmt.Errorf("invalid value: %d. Valid memory swappiness range is 0-100", o.swappiness)
	}
	cfg := &container.Config{
		Hostname:     o.hostname,
		Domainname:   o.domainname,
		User:         o.user,
		Tty:          o.tty,
		OpenStdin:    o.stdin,
		AttachStdin:  o.stdin || has(o.attach.Values, "stdin"),
		AttachStdout: len(o.attach.Values) == 0 || has(o.attach.Values, "stdout"),
		AttachStderr: len(o.attach.Values) == 0 || has(o.attach.Values, "stderr"),
		Image:        args[0],
		WorkingDir:   o.workdir,
		StopSignal:   o.stopSignal,
	}
	if len(args) > 1 {
		cfg.Cmd = args[1:]
	}
	// When the one attached client goes away, so does the container's stdin.
	cfg.StdinOnce = cfg.OpenStdin && cfg.AttachStdin
	if o.entrypoint != "" || o.fs.Changed("entrypoint") {
		cfg.Entrypoint = []string{o.entrypoint} // "" resets the image's
	}
	if o.fs.Changed("stop-timeout") {
		cfg.StopTimeout = &o.stopTimeout
	}

	binds, volumes, err := o.binds()
	if err != nil {
		return nil, err
	}
	cfg.Volumes = volumes
	tmpfs := map[string]string{}
	for _, t := range o.tmpfs.Values {
		path, opts, _ := strings.Cut(t, ":")
		tmpfs[path] = opts
	}

	ports := network.PortMap{}
	for _, p := range o.publish.Values {
		if err := parse.Publish(p, ports); err != nil {
			return nil, err
		}
	}
	cfg.ExposedPorts = network.PortSet{}
	for p := range ports {
		cfg.ExposedPorts[p] = struct{}{}
	}
	for _, e := range o.expose.Values {
		if strings.Contains(e, ":") {
			return nil, fmt.Errorf("invalid port format for --expose: %s", e)
		}
		r, err := network.ParsePortRange(e)
		if err != nil {
			first, _, _ := strings.Cut(e, "/")
			first, _, _ = strings.Cut(first, "-")
			_, nerr := strconv.ParseUint(first, 10, 16)
			if nerr == nil {
				nerr = err
			}
			return nil, fmt.Errorf("invalid range format for --expose: %s, error: %w", e, nerr)
		}
		for p := range r.All() {
			cfg.ExposedPorts[p] = struct{}{}
		}
	}

	res, err := o.resources()
	if err != nil {
		return nil, err
	}
	if cfg.Env, err = parse.KeyValues(o.envFile.Values, o.env.Values, os.LookupEnv); err != nil {
		return nil, err
	}
	labels, err := parse.KeyValues(o.labelFile.Values, o.labels.Values, nil)
	if err != nil {
		return nil, err
	}
	cfg.Labels = parse.Map(labels)

	capAdd, capDrop := capabilities(o.capAdd.Values, o.capDrop.Values)
	host := &container.HostConfig{
		Binds:           binds,
		ContainerIDFile: o.cidFile,
		OomScoreAdj:     o.oomScore,
		AutoRemove:      o.autoRemove,
		Privileged:      o.privileged,
		PortBindings:    ports,
		Links:           o.links.Values,
		PublishAllPorts: o.publishAll,
		DNS:             addrs(o.dns.Values),
		DNSSearch:       emptyIfNil(o.dnsSearch.Values),
		DNSOptions:      emptyIfNil(o.dnsOpts.Values),
		ExtraHosts:      o.extraHosts.Values,
		VolumesFrom:     o.volumesFrom.Values,
		IpcMode:         container.IpcMode(o.ipc),
		PidMode:         container.PidMode(o.pid),
		UTSMode:         container.UTSMode(o.uts),
		UsernsMode:      container.UsernsMode(o.userns),
		CgroupnsMode:    container.CgroupnsMode(o.cgroupns),
		CapAdd:          capAdd,
		CapDrop:         capDrop,
		GroupAdd:        o.groupAdd.Values,
		ReadonlyRootfs:  o.readOnly,
		VolumeDriver:    o.volumeDriver,
		Isolation:       container.Isolation(o.isolation),
		ShmSize:         o.shmSize.N,
		Resources:       res,
		Tmpfs:           tmpfs,
		Sysctls:         o.sysctls.Values,
		Runtime:         o.runtime,
		Mounts:          o.mounts,
		Annotations:     o.annotations.Values,
		LogConfig:       container.LogConfig{Type: o.logDriver, Config: parse.Map(o.logOpts.Values)},
	}
	switch {
	case !host.PidMode.Valid():
		return nil, errors.New("--pid: invalid PID mode")
	case !host.UTSMode.Valid():
		return nil, errors.New("--uts: invalid UTS mode")
	case !host.UsernsMode.Valid():
		return nil, errors.New("--userns: invalid USER mode")
	case !host.CgroupnsMode.Valid():
		return nil, errors.New("--cgroupns: invalid CGROUP mode")
	}
	if host.RestartPolicy, err = parse.Restart(o.restart); err != nil {
		return nil, err
	}
	if o.logDriver == "none" && len(o.logOpts.Values) > 0 {
		return nil, errors.New("invalid logging opts for driver none")
	}
	if err := o.security(host); err != nil {
		return nil, err
	}
	if len(o.storageOpt.Values) > 0 {
		for _, s := range o.storageOpt.Values {
			if !strings.Contains(s, "=") {
				return nil, errors.New("invalid storage option")
			}
		}
		host.StorageOpt = parse.Map(o.storageOpt.Values)
	}
	if cfg.Healthcheck, err = o.health(); err != nil {
		return nil, err
	}
	if o.autoRemove && !host.RestartPolicy.IsNone() {
		return nil, errors.New("conflicting options: cannot specify both --restart and --rm")
	}
	if o.fs.Changed("init") {
		host.Init = &o.init
	}
	endpoints, err := o.endpoints(host)
	if err != nil {
		return nil, err
	}
	return &container.CreateRequest{Config: cfg, HostConfig: host, NetworkingConfig: &network.NetworkingConfig{EndpointsConfig: endpoints}}, nil
}

func (o *options) binds() (binds []string, volumes map[string]struct{}, err error) {
	volumes = map[string]struct{}{}
	seen := map[string]bool{}
	for _, v := range o.volumes.Values {
		spec, bind, err := parse.Volume(v)
		switch {
		case err != nil:
			return nil, nil, err
		case !bind:
			volumes[spec] = struct{}{}
		case !seen[spec]:
			seen[spec] = true
			binds = append(binds, spec)
		}
	}
	return binds, volumes, nil
}

func (o *options) resources() (r container.Resources, err error) {
	r = container.Resources{
		CgroupParent:         o.cgroupParent,
		Memory:               o.memory.N,
		MemoryReservation:    o.memoryReservation.N,
		MemorySwap:           o.memorySwap.N,
		MemorySwappiness:     &o.swappiness,
		OomKillDisable:       &o.oomKillDisable,
		NanoCPUs:             o.cpus.Nano,
		CPUShares:            o.cpuShares,
		CPUPeriod:            o.cpuPeriod,
		CPUQuota:             o.cpuQuota,
		CPURealtimePeriod:    o.cpuRtPeriod,
		CPURealtimeRuntime:   o.cpuRtRuntime,
		CpusetCpus:           o.cpusetCpus,
		CpusetMems:           o.cpusetMems,
		PidsLimit:            &o.pidsLimit,
		BlkioWeight:          o.blkioWeight,
		BlkioWeightDevice:    emptyIfNil(o.blkioWeightDevice),
		BlkioDeviceReadBps:   emptyIfNil(o.readBps),
		BlkioDeviceWriteBps:  emptyIfNil(o.writeBps),
		BlkioDeviceReadIOps:  emptyIfNil(o.readIOps),
		BlkioDeviceWriteIOps: emptyIfNil(o.writeIOps),
		Ulimits:              o.ulimits.Values,
		DeviceCgroupRules:    o.deviceRules.Values,
		Devices:              []container.DeviceMapping{},
	}
	var cdi []string
	for _, d := range o.devices.Values {
		if parse.CDIName(d) {
			cdi = append(cdi, d)
			continue
		}
		m, err := parse.Device(d)
		if err != nil {
			return r, err
		}
		r.Devices = append(r.Devices, m)
	}
	for _, g := range o.gpus.Values {
		q, err := gpus(g)
		if err != nil {
			return r, err
		}
		r.DeviceRequests = append(r.DeviceRequests, q)
	}
	if len(cdi) > 0 {
		r.DeviceRequests = append(r.DeviceRequests, container.DeviceRequest{Driver: "cdi", DeviceIDs: cdi})
	}
	return r, nil
}

// gpus reads one --gpus: all, a number, or fields in CSV.
func gpus(s string) (q container.DeviceRequest, err error) {
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return q, err
	}
	q.Options = map[string]string{}
	counted := false
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			if counted {
				return q, fmt.Errorf("gpu request key '%s' must be key=value", k)
			}
			k, v = "count", k
		}
		switch k {
		case "driver":
			q.Driver = v
		case "count":
			counted = true
			if v == "all" {
				q.Count = -1
			} else if q.Count, err = strconv.Atoi(v); err != nil {
				return q, fmt.Errorf("invalid count (%s): value must be either \"all\" or an integer: %w", v, err)
			}
		case "device":
			q.DeviceIDs = strings.Split(v, ",")
		case "capabilities":
			q.Capabilities = [][]string{append(strings.Split(v, ","), "gpu")}
		case "options":
			for kv := range strings.SplitSeq(v, ",") {
				a, b, _ := strings.Cut(kv, "=")
				q.Options[a] = b
			}
		default:
			return q, fmt.Errorf("unexpected key '%s' in '%s'", k, f)
		}
	}
	if !counted && q.DeviceIDs == nil {
		q.Count = 1
	}
	if q.Capabilities == nil {
		q.Capabilities = [][]string{{"gpu"}}
	}
	return q, nil
}

// security reads --security-opt. What a seccomp profile's file says goes to the engine, which may not see the file.
func (o *options) security(h *container.HostConfig) error {
	for _, s := range o.securityOpt.Values {
		if s == "systempaths=unconfined" {
			h.MaskedPaths, h.ReadonlyPaths = []string{}, []string{}
			continue
		}
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			k, v, ok = strings.Cut(s, ":") // as it was written before 1.11
		}
		if !ok && k != "no-new-privileges" {
			return fmt.Errorf("Invalid --security-opt: %q", s) //nolint:staticcheck // Docker's words
		}
		if k == "seccomp" && v != "unconfined" && v != "builtin" {
			b, err := os.ReadFile(v)
			if err != nil {
				return fmt.Errorf("opening seccomp profile (%s) failed: %w", v, err)
			}
			var c bytes.Buffer
			if err := json.Compact(&c, b); err != nil {
				return fmt.Errorf("compacting json for seccomp profile (%s) failed: %w", v, err)
			}
			s = "seccomp=" + c.String()
		}
		h.SecurityOpt = append(h.SecurityOpt, s)
	}
	return nil
}

func (o *options) health() (*container.HealthConfig, error) {
	any := o.healthCmd != "" || o.healthInterval != 0 || o.healthTimeout != 0 || o.healthStart != 0 || o.healthStartInterval != 0 || o.healthRetries != 0
	switch {
	case o.noHealth && any:
		return nil, errors.New("--no-healthcheck conflicts with --health-* options")
	case o.noHealth:
		return &container.HealthConfig{Test: []string{"NONE"}}, nil
	case !any:
		return nil, nil
	case o.healthInterval < 0:
		return nil, errors.New("--health-interval cannot be negative")
	case o.healthTimeout < 0:
		return nil, errors.New("--health-timeout cannot be negative")
	case o.healthRetries < 0:
		return nil, errors.New("--health-retries cannot be negative")
	case o.healthStart < 0:
		return nil, errors.New("--health-start-period cannot be negative")
	case o.healthStartInterval < 0:
		return nil, errors.New("--health-start-interval cannot be negative")
	}
	h := &container.HealthConfig{Interval: o.healthInterval, Timeout: o.healthTimeout, StartPeriod: o.healthStart, StartInterval: o.healthStartInterval, Retries: o.healthRetries}
	if o.healthCmd != "" {
		h.Test = []string{"CMD-SHELL", o.healthCmd}
	}
	return h, nil
}

// endpoints reads --network in both its forms and the flags that say more of the first network.
func (o *options) endpoints(h *container.HostConfig) (map[string]*network.EndpointSettings, error) {
	out := map[string]*network.EndpointSettings{}
	list := o.networks.Values
	if len(list) == 0 {
		list = []string{"default"}
	}
	var user, builtin bool
	for i, n := range list {
		name, ep, err := networkSpec(n)
		if err != nil {
			return nil, err
		}
		mode := container.NetworkMode(name)
		userDefined := mode.IsUserDefined()
		user, builtin = user || userDefined, builtin || !userDefined
		if i == 0 {
			h.NetworkMode = mode
			if len(o.links.Values) > 0 && (mode.IsHost() || mode.IsContainer()) {
				kind := "host type networking"
				if mode.IsContainer() {
					kind = "container type network"
				}
				return nil, fmt.Errorf("conflicting options: %s can't be used with links. This would result in undefined behavior", kind)
			}
			if err := o.firstEndpoint(ep, userDefined); err != nil {
				return nil, err
			}
		}
		if !userDefined && len(ep.Aliases) > 0 {
			return nil, errors.New("network-scoped aliases are only supported for user-defined networks")
		}
		if !userDefined && len(ep.Links) > 0 {
			return nil, errors.New("links are only supported for user-defined networks")
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("network %q is specified multiple times", name)
		}
		if len(o.networks.Values) == 1 && reflect.ValueOf(*ep).IsZero() {
			continue // the engine makes it itself
		}
		out[name] = ep
	}
	if user && builtin {
		return nil, errors.New("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
	}
	return out, nil
}

func (o *options) firstEndpoint(ep *network.EndpointSettings, userDefined bool) error {
	if len(ep.Aliases) > 0 && len(o.aliases.Values) > 0 {
		return errors.New("conflicting options: cannot specify both --network-alias and per-network alias")
	}
	ep.Aliases = append(ep.Aliases, o.aliases.Values...)
	if userDefined {
		ep.Links = append(ep.Links, o.links.Values...)
	}
	ipam := func() *network.EndpointIPAMConfig {
		if ep.IPAMConfig == nil {
			ep.IPAMConfig = &network.EndpointIPAMConfig{}
		}
		return ep.IPAMConfig
	}
	for _, a := range []struct {
		value, flag string
		to          func() *netip.Addr
	}{{o.ip, "ip", func() *netip.Addr { return &ipam().IPv4Address }}, {o.ip6, "ip6", func() *netip.Addr { return &ipam().IPv6Address }}} {
		if a.value == "" {
			continue
		}
		ip, err := netip.ParseAddr(a.value)
		if err != nil {
			return fmt.Errorf("invalid argument %q for \"--%s\" flag: invalid string being converted to IP address: %s", a.value, a.flag, a.value)
		}
		*a.to() = ip
	}
	if len(o.linkLocal.Values) > 0 {
		ipam().LinkLocalIPs = addrs(o.linkLocal.Values)
	}
	if o.mac != "" {
		mac, _ := net.ParseMAC(strings.TrimSpace(o.mac))
		ep.MacAddress = network.HardwareAddr(mac)
	}
	return nil
}

// networkSpec reads a --network: a name, or name=…,alias=…,ip=… and so on.
func networkSpec(s string) (string, *network.EndpointSettings, error) {
	ep := &network.EndpointSettings{}
	if s == "" {
		return "", nil, errors.New("no name set for network")
	}
	if !strings.Contains(s, "=") {
		return s, ep, nil
	}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return "", nil, err
	}
	name := ""
	ipam := func() *network.EndpointIPAMConfig {
		if ep.IPAMConfig == nil {
			ep.IPAMConfig = &network.EndpointIPAMConfig{}
		}
		return ep.IPAMConfig
	}
	for _, f := range fields {
		k, v, ok := strings.Cut(strings.ToLower(f), "=")
		if !ok || k == "" {
			return "", nil, fmt.Errorf("invalid field %s", f)
		}
		switch k = strings.TrimSpace(k); k {
		case "name":
			name = v
		case "alias":
			ep.Aliases = append(ep.Aliases, v)
		case "driver-opt":
			if ep.DriverOpts == nil {
				ep.DriverOpts = map[string]string{}
			}
			a, b, ok := strings.Cut(v, "=")
			if !ok {
				return "", nil, errors.New("invalid key value pair format in driver options")
			}
			ep.DriverOpts[a] = b
		case "ip":
			if ipam().IPv4Address, err = netip.ParseAddr(v); err != nil {
				return "", nil, err
			}
		case "ip6":
			if ipam().IPv6Address, err = netip.ParseAddr(v); err != nil {
				return "", nil, err
			}
		case "mac-address":
			mac, err := net.ParseMAC(v)
			if err != nil {
				return "", nil, fmt.Errorf("%s is not a valid mac address", v)
			}
			ep.MacAddress = network.HardwareAddr(mac)
		case "link-local-ip":
			a, err := netip.ParseAddr(v)
			if err != nil {
				return "", nil, err
			}
			ipam().LinkLocalIPs = append(ipam().LinkLocalIPs, a)
		case "gw-priority":
			if ep.GwPriority, err = strconv.Atoi(v); err != nil {
				return "", nil, fmt.Errorf("invalid gw-priority (%s)", v)
			}
		default:
			return "", nil, fmt.Errorf("invalid field key %s", k)
		}
	}
	if name == "" {
		return "", nil, errors.New("network name/id is not specified")
	}
	return name, ep, nil
}
