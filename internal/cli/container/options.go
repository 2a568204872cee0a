package container

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/mount"
	"github.com/spf13/pflag"

	"gantry/internal/cli/flags"
	"gantry/internal/cli/parse"
)

// options are the flags that run and create share.
type options struct {
	fs *pflag.FlagSet

	name, platform, pull string
	quiet                bool

	attach, env, envFile, labels, labelFile, volumes, tmpfs, publish, expose, devices, deviceRules *flags.List
	capAdd, capDrop, groupAdd, securityOpt, storageOpt, volumesFrom, links, extraHosts             *flags.List
	dns, dnsOpts, dnsSearch, aliases, linkLocal, logOpts, networks, gpus                           *flags.List
	mounts                                                                                         []mount.Mount
	sysctls, annotations                                                                           flags.Map
	ulimits                                                                                        flags.Ulimits
	memory, memoryReservation, shmSize, kernelMemory                                               flags.Bytes
	memorySwap                                                                                     flags.Bytes
	cpus                                                                                           flags.CPUs

	stdin, tty, privileged, autoRemove, publishAll, readOnly, init, oomKillDisable, noHealth, apiSocket bool
	hostname, domainname, user, workdir, entrypoint, stopSignal, cidFile, restart, runtime, isolation   string
	pid, ipc, uts, userns, cgroupns, cgroupParent, cpusetCpus, cpusetMems, logDriver, volumeDriver      string
	ip, ip6, mac, healthCmd                                                                             string
	healthInterval, healthTimeout, healthStart, healthStartInterval                                     time.Duration
	healthRetries, stopTimeout, oomScore                                                                int
	swappiness, pidsLimit, cpuShares, cpuPeriod, cpuQuota, cpuRtPeriod, cpuRtRuntime                    int64
	blkioWeight                                                                                         uint16
	blkioWeightDevice                                                                                   []*blkiodev.WeightDevice
	readBps, writeBps, readIOps, writeIOps                                                              []*blkiodev.ThrottleDevice
}

func checkAttach(s string) (string, error) {
	switch s = strings.ToLower(s); s {
	case "stdin", "stdout", "stderr":
		return s, nil
	}
	return s, fmt.Errorf("valid streams are STDIN, STDOUT and STDERR")
}

func checkEnv(s string) (string, error) { return parse.Env(s, os.LookupEnv) }

func checkLink(s string) (string, error) {
	switch {
	case s == "":
		return s, fmt.Errorf("empty string specified for links")
	case strings.Count(s, ":") > 1:
		return s, fmt.Errorf("bad format for links: %s", s)
	}
	return s, nil
}

func checkExtraHost(s string) (string, error) {
	name, ip, ok := strings.Cut(s, "=")
	if !ok || strings.Contains(name, ":") && !strings.Contains(s[:strings.IndexByte(s, '=')], ":") {
		name, ip, ok = strings.Cut(s, ":")
	}
	if !ok || name == "" {
		return s, fmt.Errorf("bad format for add-host: %q", s)
	}
	if ip == "host-gateway" {
		return name + ":" + ip, nil
	}
	if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
		ip = ip[1 : len(ip)-1]
	}
	if _, err := checkIP(ip); err != nil {
		return s, fmt.Errorf("invalid IP address in add-host: %q", ip)
	}
	return name + ":" + ip, nil
}

func checkSysctl(s string) error {
	k, _, ok := strings.Cut(s, "=")
	if ok {
		for _, p := range []string{"kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue.", "net."} {
			if strings.HasPrefix(k, p) {
				return nil
			}
		}
		if k == "kernel.domainname" || k == "kernel.hostname" {
			return nil
		}
	}
	return fmt.Errorf("sysctl '%s' is not allowed", s)
}

func checkDomain(s string) (string, error) {
	t := strings.Trim(s, " ")
	if t == "." {
		return t, nil
	}
	if t == "" || len(t) > 255 || strings.ContainsAny(t, " \t/\\:") || strings.HasPrefix(t, ".") || strings.Contains(t, "..") {
		return s, fmt.Errorf("%s is not a valid domain", s)
	}
	return t, nil
}

// newOptions adds the flags to fs.
func newOptions(fs *pflag.FlagSet) *options {
	o := &options{fs: fs}
	list := func(p **flags.List, name, short, kind, usage string, check func(string) (string, error)) {
		*p = flags.NewList(kind, check)
		fs.VarP(*p, name, short, usage)
	}
	each := func(name, kind, usage string, parse func(string) error) {
		fs.Var(&flags.Each{Kind: kind, Parse: parse}, name, usage)
	}

	// The process.
	list(&o.attach, "attach", "a", "list", "Streams to attach to: STDIN, STDOUT, STDERR", checkAttach)
	fs.BoolVarP(&o.stdin, "interactive", "i", false, "Keep stdin open, attached or not")
	fs.BoolVarP(&o.tty, "tty", "t", false, "Give the process a terminal")
	list(&o.env, "env", "e", "list", "Set a variable NAME=value; a bare NAME takes the caller's value", checkEnv)
	list(&o.envFile, "env-file", "", "list", "Read variables from a file, one a line", nil)
	fs.StringVar(&o.entrypoint, "entrypoint", "", "Replace the image's entrypoint")
	fs.StringVarP(&o.user, "user", "u", "", "User to run as: <name|uid>[:<group|gid>]")
	list(&o.groupAdd, "group-add", "", "list", "Further groups of the process", nil)
	fs.StringVarP(&o.workdir, "workdir", "w", "", "Working directory in the container")
	fs.StringVar(&o.stopSignal, "stop-signal", "", "Signal that asks the container to stop")
	fs.IntVar(&o.stopTimeout, "stop-timeout", 0, "Seconds until a stopping container is killed")
	fs.BoolVar(&o.init, "init", false, "Run a small init as PID 1 that forwards signals and reaps processes")
	each("ulimit", "ulimit", "Resource limit name=soft[:hard]", o.ulimits.Set)
	fs.IntVar(&o.oomScore, "oom-score-adj", 0, "Preference of the OOM killer (-1000 to 1000)")

	// The container.
	fs.StringVarP(&o.hostname, "hostname", "h", "", "Host name inside")
	fs.StringVar(&o.domainname, "domainname", "", "NIS domain name inside")
	list(&o.labels, "label", "l", "list", "Metadata key=value", checkLabel)
	list(&o.labelFile, "label-file", "", "list", "Read labels from a file, one a line", nil)
	o.annotations = flags.Map{Kind: "map"}
	fs.Var(&o.annotations, "annotation", "Annotation key=value handed to the runtime")
	fs.StringVar(&o.cidFile, "cidfile", "", "Write the container's ID to this file")
	fs.StringVar(&o.restart, "restart", "no", "When to restart: no, always, unless-stopped, on-failure[:max-retries]")
	fs.BoolVar(&o.autoRemove, "rm", false, "Remove the container, and its anonymous volumes, when it exits")
	fs.StringVar(&o.runtime, "runtime", "", "Runtime of this container")
	fs.StringVar(&o.isolation, "isolation", "", "Isolation technology")
	fs.StringVar(&o.logDriver, "log-driver", "", "Where the log goes")
	list(&o.logOpts, "log-opt", "", "list", "Option key=value of the log driver", nil)

	// Health.
	fs.StringVar(&o.healthCmd, "health-cmd", "", "Command that tells health")
	fs.DurationVar(&o.healthInterval, "health-interval", 0, "Time between checks (ms|s|m|h)")
	fs.IntVar(&o.healthRetries, "health-retries", 0, "Failures in a row that mean unhealthy")
	fs.DurationVar(&o.healthTimeout, "health-timeout", 0, "Time a check may take (ms|s|m|h)")
	fs.DurationVar(&o.healthStart, "health-start-period", 0, "Time to come up before failures count (ms|s|m|h)")
	fs.DurationVar(&o.healthStartInterval, "health-start-interval", 0, "Time between checks while coming up (ms|s|m|h)")
	fs.BoolVar(&o.noHealth, "no-healthcheck", false, "Do not check health, whatever the image says")

	// Files.
	list(&o.volumes, "volume", "v", "list", "Bind a folder or a file, or mount a volume: /host:/container[:options] or name:/container[:options]", nil)
	list(&o.tmpfs, "tmpfs", "", "list", "Mount a tmpfs: /path[:options]", nil)
	each("mount", "mount", "Mount type=bind|volume|tmpfs|image,src=…,dst=…[,…]", func(s string) error {
		m, err := parse.Mount(s)
		if err == nil {
			o.mounts = append(o.mounts, m)
		}
		return err
	})
	list(&o.volumesFrom, "volumes-from", "", "list", "Mount what another container mounts: name[:ro|rw]", nil)
	fs.Var(fs.Lookup("volumes-from").Value, "volume-from", "The same, as a course writes it that many learn from")
	fs.Lookup("volume-from").Hidden = true
	fs.StringVar(&o.volumeDriver, "volume-driver", "", "Driver of the container's volumes")
	list(&o.storageOpt, "storage-opt", "", "list", "Option key=value of the storage driver", nil)
	fs.BoolVar(&o.readOnly, "read-only", false, "Mount the root filesystem read-only")
	fs.Var(&o.shmSize, "shm-size", "Size of /dev/shm")
	fs.BoolVar(&o.apiSocket, "use-api-socket", false, "Bind the engine's API socket in")
	fs.Lookup("use-api-socket").Hidden = true

	// Network.
	list(&o.networks, "network", "", "network", "Network to join, none, host or container:NAME", func(s string) (string, error) {
		_, _, err := networkSpec(s)
		return s, err
	})
	fs.Var(o.networks, "net", "Same as --network")
	fs.Lookup("net").Hidden = true
	list(&o.aliases, "network-alias", "", "list", "Name of the container in its network", nil)
	fs.Var(o.aliases, "net-alias", "Same as --network-alias")
	fs.Lookup("net-alias").Hidden = true
	list(&o.publish, "publish", "p", "list", "Publish a port: [[ip:]host:]container[/protocol]", nil)
	fs.BoolVarP(&o.publishAll, "publish-all", "P", false, "Publish every exposed port on a free one")
	list(&o.expose, "expose", "", "list", "Expose a port or a range of ports", nil)
	list(&o.extraHosts, "add-host", "", "list", "Line of /etc/hosts as name:ip", checkExtraHost)
	list(&o.dns, "dns", "", "list", "Address of a DNS server", checkIP)
	list(&o.dnsOpts, "dns-option", "", "list", "Option of resolv.conf", nil)
	fs.Var(o.dnsOpts, "dns-opt", "Same as --dns-option")
	fs.Lookup("dns-opt").Hidden = true
	list(&o.dnsSearch, "dns-search", "", "list", "Domain to search names in", checkDomain)
	list(&o.links, "link", "", "list", "Link to another container", checkLink)
	fs.StringVar(&o.ip, "ip", "", "IPv4 address")
	fs.StringVar(&o.ip6, "ip6", "", "IPv6 address")
	list(&o.linkLocal, "link-local-ip", "", "list", "Link-local address", checkIP)
	fs.StringVar(&o.mac, "mac-address", "", "MAC address")

	// Rights.
	fs.BoolVar(&o.privileged, "privileged", false, "Give the container nearly all the host's rights")
	list(&o.capAdd, "cap-add", "", "list", "Add a capability", nil)
	list(&o.capDrop, "cap-drop", "", "list", "Drop a capability", nil)
	list(&o.securityOpt, "security-opt", "", "list", "Security option: seccomp=…, apparmor=…, label=…, no-new-privileges", nil)
	list(&o.devices, "device", "", "list", "Give a device: host[:container][:rwm]", nil)
	list(&o.deviceRules, "device-cgroup-rule", "", "list", "Rule of the device cgroup, such as \"c 42:* rmw\"", func(s string) (string, error) { return s, parse.DeviceRule(s) })
	list(&o.gpus, "gpus", "", "gpu-request", "GPUs: all, a number, or device=…", nil)
	fs.StringVar(&o.pid, "pid", "", "PID namespace: host or container:NAME")
	fs.StringVar(&o.ipc, "ipc", "", "IPC namespace: none, private, shareable, host or container:NAME")
	fs.StringVar(&o.uts, "uts", "", "UTS namespace: host")
	fs.StringVar(&o.userns, "userns", "", "User namespace: host")
	fs.StringVar(&o.cgroupns, "cgroupns", "", "Cgroup namespace: host or private")
	o.sysctls = flags.Map{Kind: "map", Check: checkSysctl}
	fs.Var(&o.sysctls, "sysctl", "Kernel parameter of the container's namespaces")

	// Limits.
	fs.VarP(&o.memory, "memory", "m", "Memory limit")
	fs.Var(&o.memoryReservation, "memory-reservation", "Memory soft limit")
	o.memorySwap.Minus = true
	fs.Var(&o.memorySwap, "memory-swap", "Limit of memory and swap together; -1 for no limit")
	fs.Int64Var(&o.swappiness, "memory-swappiness", -1, "Readiness to swap (0 to 100)")
	fs.BoolVar(&o.oomKillDisable, "oom-kill-disable", false, "Do not kill on out of memory")
	fs.Var(&o.cpus, "cpus", "Number of CPUs")
	fs.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "Weight among containers that want CPU")
	fs.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Period of the CPU quota, in microseconds")
	fs.Int64Var(&o.cpuQuota, "cpu-quota", 0, "CPU time a period, in microseconds")
	fs.Int64Var(&o.cpuRtPeriod, "cpu-rt-period", 0, "Period of real-time CPU, in microseconds")
	fs.Int64Var(&o.cpuRtRuntime, "cpu-rt-runtime", 0, "Real-time CPU time a period, in microseconds")
	fs.StringVar(&o.cpusetCpus, "cpuset-cpus", "", "CPUs to run on (0-3, 0,1)")
	fs.StringVar(&o.cpusetMems, "cpuset-mems", "", "Memory nodes to use (0-3, 0,1)")
	fs.Int64Var(&o.pidsLimit, "pids-limit", 0, "Most processes; -1 for no limit")
	fs.StringVar(&o.cgroupParent, "cgroup-parent", "", "Parent cgroup")
	fs.Uint16Var(&o.blkioWeight, "blkio-weight", 0, "Block IO weight (10 to 1000, 0 to disable)")
	each("blkio-weight-device", "list", "Block IO weight of a device", func(s string) error {
		path, n, err := flags.Throttle(s, false)
		if err != nil && strings.HasPrefix(err.Error(), "bad format") {
			return err
		}
		if err != nil || n > 0 && (n < 10 || n > 1000) {
			return fmt.Errorf("invalid weight for device: %s", s)
		}
		o.blkioWeightDevice = append(o.blkioWeightDevice, &blkiodev.WeightDevice{Path: path, Weight: uint16(n)})
		return nil
	})
	throttle := func(to *[]*blkiodev.ThrottleDevice, size bool) func(string) error {
		return func(s string) error {
			path, rate, err := flags.Throttle(s, size)
			if err == nil {
				*to = append(*to, &blkiodev.ThrottleDevice{Path: path, Rate: rate})
			}
			return err
		}
	}
	each("device-read-bps", "list", "Read rate of a device, in bytes a second", throttle(&o.readBps, true))
	each("device-write-bps", "list", "Write rate of a device, in bytes a second", throttle(&o.writeBps, true))
	each("device-read-iops", "list", "Read rate of a device, in operations a second", throttle(&o.readIOps, false))
	each("device-write-iops", "list", "Write rate of a device, in operations a second", throttle(&o.writeIOps, false))
	fs.Var(&o.kernelMemory, "kernel-memory", "No longer does anything")
	fs.Lookup("kernel-memory").Hidden = true

	// How it comes to be.
	fs.StringVar(&o.name, "name", "", "Name of the container")
	fs.StringVar(&o.platform, "platform", os.Getenv("DOCKER_DEFAULT_PLATFORM"), "Platform of the image, os/arch[/variant]")
	fs.StringVar(&o.pull, "pull", "missing", `When to pull the image: always, missing, never`)
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Do not show the pull")
	fs.Bool("disable-content-trust", true, "No longer does anything")
	fs.Lookup("disable-content-trust").Hidden = true
	fs.Bool("help", false, "Show this help")
	return o
}

func checkLabel(s string) (string, error) {
	k, _, _ := strings.Cut(s, "=")
	if strings.TrimSpace(k) == "" {
		return "", fmt.Errorf("invalid label '%s': empty name", s)
	}
	return s, nil
}
