package cgroup

import (
	"math"
	"slices"
	"strconv"

	"gantry/internal/errs"
)

// Resources are the limits of a group. The zero value of a field sets nothing. Package runtime fills it from
// Docker's container.Resources; fields of the same name and type are copied, and the others so:
//
//	CPUQuota, CPUPeriod  ← CPUQuota, CPUPeriod (NanoCPUs is given as it is, and converted here)
//	Swappiness           ← MemorySwappiness; nil and -1 both mean the host's default
//	OOMKillDisable       ← OomKillDisable, false for nil
//	PidsLimit            ← PidsLimit: nil is 0 here; 0 and below are -1 (Docker's "unlimited")
//	Devices              ← AllDevices() if privileged; else DefaultDevices(), one rule for each of Devices
//	                       (DeviceRule of its node's type and numbers, CgroupPermissions through ParseAccess),
//	                       then ParseDeviceRule of each of DeviceCgroupRules
//	BlkioWeightDevice …  ← the same, with stat(2)'s st_rdev of each Path as Major and Minor
//	KernelMemory…        ← ignored, as runc has done since the kernel dropped it
type Resources struct {
	Memory            int64  // bytes; -1 unlimited
	MemoryReservation int64  // bytes: soft limit (v1), memory.low (v2); -1 none
	MemorySwap        int64  // bytes of memory and swap together; -1 unlimited swap; 0 twice Memory, if that is set
	Swappiness        *int64 // 0 to 100; v1 only
	OOMKillDisable    bool   // v1 only

	CPUShares          int64  // relative weight, 2 to 262144, of which 1024 is the default
	NanoCPUs           int64  // 1e-9 CPUs; excludes quota and period
	CPUQuota           int64  // µs per period; -1 unlimited
	CPUPeriod          int64  // µs; 0 is the kernel's 100000
	CPURealtimePeriod  int64  // µs; v1 only
	CPURealtimeRuntime int64  // µs; v1 only
	CpusetCpus         string // a list such as "0-2,7"; "" the parent's
	CpusetMems         string // the same for NUMA nodes

	PidsLimit int64 // processes and threads; -1 unlimited

	BlkioWeight          uint16 // 10 to 1000
	BlkioWeightDevice    []DeviceLimit
	BlkioDeviceReadBps   []DeviceLimit // bytes per second
	BlkioDeviceWriteBps  []DeviceLimit
	BlkioDeviceReadIOps  []DeviceLimit // operations per second
	BlkioDeviceWriteIOps []DeviceLimit

	// Devices says which device nodes may be made and opened; the last rule that matches decides, and what no
	// rule matches is denied. nil is DefaultDevices(). They are fixed when the group is made.
	Devices []DeviceRule
}

// DeviceLimit is a number for one block device.
type DeviceLimit struct {
	Major, Minor uint32
	Value        uint64
}

// Support says what a host can limit, in the terms of Docker's /info.
type Support struct {
	MemoryLimit       bool
	SwapLimit         bool
	MemoryReservation bool
	Swappiness        bool
	OOMKillDisable    bool
	CPUShares         bool
	CPUCfs            bool // quota and period
	CPURealtime       bool
	Cpuset            bool
	PidsLimit         bool
	Blkio             bool // throttling
	BlkioWeight       bool
	Freezer           bool
	Devices           bool
}

// Docker's words where the host can't do what was asked; tools show them as they are.
const (
	warnMemory      = "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded."
	warnSwap        = "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap."
	warnReservation = "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded."
	warnSwappiness  = "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded."
	warnOOM         = "Your kernel does not support OomKillDisable. OomKillDisable discarded."
	warnOOMNoLimit  = "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
	warnPids        = "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded."
	warnShares      = "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded."
	warnCfs         = "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded."
	warnCpuset      = "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded."
	warnWeight      = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
	warnWeightDev   = "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
	warnReadBps     = "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded."
	warnWriteBps    = "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded."
	warnReadIOps    = "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded."
	warnWriteIOps   = "Your kernel does not support IOPS Block I/O write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded."
)

// silently stands for a warning where nothing is lost with the file: no limit was asked for.
const silently = "\x00"

// Check drops from r what this host cannot limit, and returns Docker's warning for each thing dropped. An
// error means that r contradicts itself (errs.Invalid), in Docker's words.
func (h *Host) Check(r Resources) (Resources, []string, error) { return h.support.check(r) }

func (s Support) check(r Resources) (Resources, []string, error) {
	var warnings []string
	drop := func(set, can bool, warning string) bool {
		if !set || can {
			return false
		}
		warnings = append(warnings, warning)
		return true
	}
	fail := func(format string, args ...any) (Resources, []string, error) {
		return r, warnings, errs.Invalid.Errorf(format, args...)
	}
	if drop(r.Memory > 0, s.MemoryLimit, warnMemory) {
		r.Memory, r.MemorySwap = 0, 0
	}
	if drop(r.Memory > 0 && r.MemorySwap != -1, s.SwapLimit, warnSwap) {
		r.MemorySwap = -1
	}
	if r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory {
		return fail("Minimum memoryswap limit should be larger than memory limit, see usage")
	}
	if r.Memory <= 0 && r.MemorySwap > 0 {
		return fail("You should always set the Memory limit when using Memoryswap limit, see usage")
	}
	if r.Swappiness != nil {
		if v := *r.Swappiness; v < -1 || v > 100 {
			return fail("Invalid value: %d, valid memory swappiness range is 0-100", v)
		}
		if *r.Swappiness == -1 || drop(true, s.Swappiness, warnSwappiness) {
			r.Swappiness = nil
		}
	}
	if drop(r.MemoryReservation > 0, s.MemoryReservation, warnReservation) {
		r.MemoryReservation = 0
	}
	if r.Memory > 0 && r.MemoryReservation > r.Memory {
		return fail("Minimum memory limit can not be less than memory reservation limit, see usage")
	}
	if drop(r.OOMKillDisable, s.OOMKillDisable, warnOOM) {
		r.OOMKillDisable = false
	}
	if r.OOMKillDisable && r.Memory <= 0 {
		warnings = append(warnings, warnOOMNoLimit)
	}
	if drop(r.PidsLimit > 0, s.PidsLimit, warnPids) {
		r.PidsLimit = 0
	}
	if r.NanoCPUs > 0 {
		if r.CPUPeriod > 0 || r.CPUQuota > 0 {
			return fail("Conflicting options: Nano CPUs and CPU Period cannot both be set")
		}
		if !s.CPUCfs {
			return fail("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted")
		}
	}
	if drop(r.CPUShares > 0, s.CPUShares, warnShares) {
		r.CPUShares = 0
	}
	if drop(r.CPUPeriod > 0 || r.CPUQuota > 0, s.CPUCfs, warnCfs) {
		r.CPUPeriod, r.CPUQuota = 0, 0
	}
	if r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000) {
		return fail("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	}
	if r.CPUQuota > 0 && r.CPUQuota < 1000 {
		return fail("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	}
	if (r.CPURealtimePeriod != 0 || r.CPURealtimeRuntime != 0) && !s.CPURealtime {
		return fail("Your kernel does not support CPU real-time scheduler")
	}
	if r.CPURealtimePeriod != 0 && r.CPURealtimeRuntime > r.CPURealtimePeriod {
		return fail("cpu real-time runtime cannot be higher than cpu real-time period")
	}
	if drop(r.CpusetCpus != "" || r.CpusetMems != "", s.Cpuset, warnCpuset) {
		r.CpusetCpus, r.CpusetMems = "", ""
	}
	if r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000) {
		return fail("Range of blkio weight is from 10 to 1000")
	}
	if drop(r.BlkioWeight > 0, s.BlkioWeight, warnWeight) {
		r.BlkioWeight = 0
	}
	for _, l := range []struct {
		list    *[]DeviceLimit
		can     bool
		warning string
	}{
		{&r.BlkioWeightDevice, s.BlkioWeight, warnWeightDev},
		{&r.BlkioDeviceReadBps, s.Blkio, warnReadBps},
		{&r.BlkioDeviceWriteBps, s.Blkio, warnWriteBps},
		{&r.BlkioDeviceReadIOps, s.Blkio, warnReadIOps},
		{&r.BlkioDeviceWriteIOps, s.Blkio, warnWriteIOps},
	} {
		if drop(len(*l.list) > 0, l.can, l.warning) {
			*l.list = nil
		}
	}
	return r, warnings, nil
}

// cfs returns quota and period in µs, NanoCPUs converted.
func (r Resources) cfs() (quota, period int64) {
	if r.NanoCPUs > 0 {
		return r.NanoCPUs / 10000, 100000 // nano × period / 1e9, which overflows for no number of CPUs this way
	}
	return r.CPUQuota, r.CPUPeriod
}

// swap returns what MemorySwap comes to when the group is made: Docker's default is twice the memory.
func (r Resources) swap() int64 {
	if r.MemorySwap == 0 && r.Memory > 0 {
		if r.Memory > math.MaxInt64/2 {
			return -1
		}
		return 2 * r.Memory
	}
	return r.MemorySwap
}

// weight converts shares to cpu.weight as runc and crun do today: a curve in log space, which maps 2, 1024 and
// 262144 to 1, 100 and 10000. (The straight line they used before made 39 of the default 1024.)
func weight(shares int64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// ioWeight converts 10…1000 to io.weight's 1…10000.
func ioWeight(w uint64) uint64 { return 1 + (w-10)*9999/990 }

// write is one control file to be written. If it does not exist, alt is tried, and then, if warning is
// set, the limit is dropped with it.
type write struct {
	controller string
	file       string
	values     []string
	alt        *write
	warning    string
}

func num[T ~int64 | ~uint64 | ~uint16](v T) string {
	if int64(v) < 0 {
		return "-1"
	}
	return strconv.FormatUint(uint64(v), 10)
}

func numOrMax(v int64) string {
	if v < 0 {
		return "max"
	}
	return strconv.FormatInt(v, 10)
}

func perDevice(list []DeviceLimit, key string, convert func(uint64) uint64) []string {
	var out []string
	for _, d := range list {
		v := d.Value
		if convert != nil {
			v = convert(v)
		}
		out = append(out, strconv.Itoa(int(d.Major))+":"+strconv.Itoa(int(d.Minor))+" "+key+strconv.FormatUint(v, 10))
	}
	return out
}

// plan is what is to be written, in that order.
type plan []write

func (p *plan) add(controller, file, warning string, values ...string) {
	if len(values) > 0 {
		*p = append(*p, write{controller: controller, file: file, values: values, warning: warning})
	}
}

// planV1 lists the version 1 files to write, in an order that the kernel accepts in a fresh group. pids.max is
// not among them: it is written after the fork, see [Group.Join].
func planV1(r Resources) plan {
	var p plan
	if r.CpusetCpus != "" {
		p.add("cpuset", "cpuset.cpus", "", r.CpusetCpus)
	}
	if r.CpusetMems != "" {
		p.add("cpuset", "cpuset.mems", "", r.CpusetMems)
	}
	if r.CPUShares > 0 {
		p.add("cpu", "cpu.shares", "", num(r.CPUShares))
	}
	if r.CPURealtimePeriod > 0 {
		p.add("cpu", "cpu.rt_period_us", "", num(r.CPURealtimePeriod))
	}
	if r.CPURealtimeRuntime > 0 {
		p.add("cpu", "cpu.rt_runtime_us", "", num(r.CPURealtimeRuntime))
	}
	quota, period := r.cfs()
	if period > 0 {
		p.add("cpu", "cpu.cfs_period_us", "", num(period))
	}
	if quota != 0 {
		p.add("cpu", "cpu.cfs_quota_us", "", num(quota))
	}
	if r.Memory != 0 {
		p.add("memory", "memory.limit_in_bytes", "", num(r.Memory))
	}
	if s := r.swap(); s > 0 || s < 0 && r.MemorySwap < 0 {
		// After memory.limit_in_bytes, for memsw may never be below it. An unlimited one needs no file.
		w := warnSwap
		if s < 0 {
			w = silently
		}
		p.add("memory", "memory.memsw.limit_in_bytes", w, num(s))
	}
	if r.MemoryReservation != 0 {
		p.add("memory", "memory.soft_limit_in_bytes", "", num(r.MemoryReservation))
	}
	if r.Swappiness != nil {
		p.add("memory", "memory.swappiness", warnSwappiness, num(*r.Swappiness))
	}
	if r.OOMKillDisable {
		p.add("memory", "memory.oom_control", "", "1")
	}
	if r.BlkioWeight > 0 {
		p = append(p, write{
			controller: "blkio", file: "blkio.weight", values: []string{num(r.BlkioWeight)},
			alt: &write{file: "blkio.bfq.weight", values: []string{num(r.BlkioWeight)}}, warning: warnWeight,
		})
	}
	if v := perDevice(r.BlkioWeightDevice, "", nil); v != nil {
		p = append(p, write{
			controller: "blkio", file: "blkio.weight_device", values: v,
			alt: &write{file: "blkio.bfq.weight_device", values: v}, warning: warnWeightDev,
		})
	}
	p.add("blkio", "blkio.throttle.read_bps_device", warnReadBps, perDevice(r.BlkioDeviceReadBps, "", nil)...)
	p.add("blkio", "blkio.throttle.write_bps_device", warnWriteBps, perDevice(r.BlkioDeviceWriteBps, "", nil)...)
	p.add("blkio", "blkio.throttle.read_iops_device", warnReadIOps, perDevice(r.BlkioDeviceReadIOps, "", nil)...)
	p.add("blkio", "blkio.throttle.write_iops_device", warnWriteIOps, perDevice(r.BlkioDeviceWriteIOps, "", nil)...)
	return p
}

// planV2 lists the version 2 files to write.
func planV2(r Resources) plan {
	var p plan
	if r.CpusetCpus != "" {
		p.add("cpuset", "cpuset.cpus", "", r.CpusetCpus)
	}
	if r.CpusetMems != "" {
		p.add("cpuset", "cpuset.mems", "", r.CpusetMems)
	}
	if r.CPUShares > 0 {
		p.add("cpu", "cpu.weight", "", num(weight(r.CPUShares)))
	}
	if quota, period := r.cfs(); quota != 0 || period != 0 {
		v := "max"
		if quota > 0 {
			v = num(quota)
		}
		if period > 0 {
			v += " " + num(period)
		}
		p.add("cpu", "cpu.max", "", v)
	}
	if r.Memory != 0 {
		p.add("memory", "memory.max", "", numOrMax(r.Memory))
	}
	switch s := r.swap(); {
	case s < 0 && r.MemorySwap < 0:
		p.add("memory", "memory.swap.max", silently, "max")
	case s > 0 && r.Memory > 0:
		p.add("memory", "memory.swap.max", warnSwap, num(s-r.Memory))
	}
	if r.MemoryReservation != 0 {
		v := r.MemoryReservation
		if v < 0 {
			v = 0
		}
		p.add("memory", "memory.low", "", num(v))
	}
	if r.PidsLimit != 0 {
		p.add("pids", "pids.max", "", numOrMax(r.PidsLimit))
	}
	if r.BlkioWeight > 0 {
		// BFQ's own file takes the value as it is; io.weight, of io.cost, has another scale.
		p = append(p, write{
			controller: "io", file: "io.bfq.weight", values: []string{num(r.BlkioWeight)},
			alt: &write{file: "io.weight", values: []string{num(ioWeight(uint64(r.BlkioWeight)))}}, warning: warnWeight,
		})
	}
	if len(r.BlkioWeightDevice) > 0 {
		p = append(p, write{
			controller: "io", file: "io.bfq.weight", values: perDevice(r.BlkioWeightDevice, "", nil),
			alt: &write{file: "io.weight", values: perDevice(r.BlkioWeightDevice, "", ioWeight)}, warning: warnWeightDev,
		})
	}
	p.add("io", "io.max", warnReadBps, slices.Concat(
		perDevice(r.BlkioDeviceReadBps, "rbps=", nil), perDevice(r.BlkioDeviceWriteBps, "wbps=", nil),
		perDevice(r.BlkioDeviceReadIOps, "riops=", nil), perDevice(r.BlkioDeviceWriteIOps, "wiops=", nil))...)
	return p
}
