package cgroup

import (
	"math"
	"slices"
	"strings"
	"testing"

	"gantry/internal/errs"
)

var everything = Support{true, true, true, true, true, true, true, true, true, true, true, true, true, true}

func ptr[T any](v T) *T { return &v }

func lines(plan []write) []string {
	var out []string
	for _, w := range plan {
		for _, v := range w.values {
			out = append(out, w.controller+" "+w.file+"="+v)
		}
		if w.alt != nil {
			out = append(out, "  or "+w.alt.file+"="+strings.Join(w.alt.values, ","))
		}
	}
	return out
}

func TestPlans(t *testing.T) {
	t.Parallel()
	disk := []DeviceLimit{{8, 0, 300}}
	for _, c := range []struct {
		name   string
		r      Resources
		v1, v2 []string
	}{
		{"nothing", Resources{}, nil, nil},
		{
			"memory alone doubles for swap", Resources{Memory: 1000},
			[]string{"memory memory.limit_in_bytes=1000", "memory memory.memsw.limit_in_bytes=2000"},
			[]string{"memory memory.max=1000", "memory memory.swap.max=1000"},
		},
		{
			"no swap", Resources{Memory: 1000, MemorySwap: 1000},
			[]string{"memory memory.limit_in_bytes=1000", "memory memory.memsw.limit_in_bytes=1000"},
			[]string{"memory memory.max=1000", "memory memory.swap.max=0"},
		},
		{
			"unlimited swap", Resources{Memory: 1000, MemorySwap: -1},
			[]string{"memory memory.limit_in_bytes=1000", "memory memory.memsw.limit_in_bytes=-1"},
			[]string{"memory memory.max=1000", "memory memory.swap.max=max"},
		},
		{
			"memory taken off", Resources{Memory: -1, MemoryReservation: -1},
			[]string{"memory memory.limit_in_bytes=-1", "memory memory.soft_limit_in_bytes=-1"},
			[]string{"memory memory.max=max", "memory memory.low=0"},
		},
		{
			"huge memory does not overflow", Resources{Memory: math.MaxInt64 - 1},
			[]string{"memory memory.limit_in_bytes=9223372036854775806"},
			[]string{"memory memory.max=9223372036854775806"},
		},
		{
			"reservation, swappiness, oom", Resources{MemoryReservation: 500, Swappiness: ptr(int64(0)), OOMKillDisable: true},
			[]string{"memory memory.soft_limit_in_bytes=500", "memory memory.swappiness=0", "memory memory.oom_control=1"},
			[]string{"memory memory.low=500"},
		},
		{
			"cpus", Resources{NanoCPUs: 1.5e9, CPUShares: 1024, CpusetCpus: "0-1", CpusetMems: "0"},
			[]string{"cpuset cpuset.cpus=0-1", "cpuset cpuset.mems=0", "cpu cpu.shares=1024", "cpu cpu.cfs_period_us=100000", "cpu cpu.cfs_quota_us=150000"},
			[]string{"cpuset cpuset.cpus=0-1", "cpuset cpuset.mems=0", "cpu cpu.weight=100", "cpu cpu.max=150000 100000"},
		},
		{
			"period alone", Resources{CPUPeriod: 50000},
			[]string{"cpu cpu.cfs_period_us=50000"}, []string{"cpu cpu.max=max 50000"},
		},
		{
			"quota alone", Resources{CPUQuota: 20000},
			[]string{"cpu cpu.cfs_quota_us=20000"}, []string{"cpu cpu.max=20000"},
		},
		{
			"quota taken off", Resources{CPUQuota: -1},
			[]string{"cpu cpu.cfs_quota_us=-1"}, []string{"cpu cpu.max=max"},
		},
		{
			"real time", Resources{CPURealtimePeriod: 1000000, CPURealtimeRuntime: 9000},
			[]string{"cpu cpu.rt_period_us=1000000", "cpu cpu.rt_runtime_us=9000"}, nil,
		},
		{"pids", Resources{PidsLimit: 10}, nil, []string{"pids pids.max=10"}},
		{"pids taken off", Resources{PidsLimit: -1}, nil, []string{"pids pids.max=max"}},
		{
			"blkio", Resources{
				BlkioWeight: 1000, BlkioWeightDevice: []DeviceLimit{{8, 16, 10}},
				BlkioDeviceReadBps: disk, BlkioDeviceWriteBps: disk, BlkioDeviceReadIOps: disk, BlkioDeviceWriteIOps: disk,
			},
			[]string{
				"blkio blkio.weight=1000", "  or blkio.bfq.weight=1000", "blkio blkio.weight_device=8:16 10", "  or blkio.bfq.weight_device=8:16 10",
				"blkio blkio.throttle.read_bps_device=8:0 300", "blkio blkio.throttle.write_bps_device=8:0 300",
				"blkio blkio.throttle.read_iops_device=8:0 300", "blkio blkio.throttle.write_iops_device=8:0 300",
			},
			[]string{
				"io io.bfq.weight=1000", "  or io.weight=10000", "io io.bfq.weight=8:16 10", "  or io.weight=8:16 1",
				"io io.max=8:0 rbps=300", "io io.max=8:0 wbps=300", "io io.max=8:0 riops=300", "io io.max=8:0 wiops=300",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := lines(planV1(c.r)); !slices.Equal(got, c.v1) {
				t.Errorf("v1: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.v1, "\n"))
			}
			if got := lines(planV2(c.r)); !slices.Equal(got, c.v2) {
				t.Errorf("v2: got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.v2, "\n"))
			}
		})
	}
}

func TestWeight(t *testing.T) {
	t.Parallel()
	for shares, want := range map[int64]uint64{1: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("%d shares: got %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := int64(2); s <= 262144; s++ {
		w := weight(s)
		if w < last || w > 10000 {
			t.Fatalf("%d shares: %d after %d", s, w, last)
		}
		last = w
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	full := Resources{
		Memory: 8 << 20, MemoryReservation: 1 << 20, Swappiness: ptr(int64(5)), OOMKillDisable: true, CPUShares: 5, CPUQuota: 5000, CpusetCpus: "0", PidsLimit: 5,
		BlkioWeight: 10, BlkioWeightDevice: make([]DeviceLimit, 1), BlkioDeviceReadBps: make([]DeviceLimit, 1), BlkioDeviceWriteBps: make([]DeviceLimit, 1),
		BlkioDeviceReadIOps: make([]DeviceLimit, 1), BlkioDeviceWriteIOps: make([]DeviceLimit, 1),
	}
	if _, w, err := everything.check(full); err != nil || len(w) != 0 {
		t.Errorf("on a host that can do all: %v, %v", w, err)
	}
	r, w, err := Support{}.check(full)
	if err != nil || len(w) != 14 { // the swap that goes with the memory limit is not worth a second one
		t.Errorf("on a host that can do nothing: %d warnings %q, %v", len(w), w, err)
	}
	if len(planV1(r))+len(planV2(r)) != 0 {
		t.Errorf("what was discarded is still planned: %v", lines(planV2(r)))
	}
	_, w, _ = everything.check(Resources{OOMKillDisable: true})
	if !slices.Equal(w, []string{warnOOMNoLimit}) {
		t.Errorf("got %q", w)
	}
	noSwap := everything
	noSwap.SwapLimit = false
	r, w, _ = noSwap.check(Resources{Memory: 1 << 30})
	if !slices.Equal(w, []string{warnSwap}) || len(planV1(r)) != 2 || planV1(r)[1].warning != silently {
		t.Errorf("got %q, %v", w, lines(planV1(r)))
	}
	for want, r := range map[string]Resources{
		"Minimum memoryswap limit should be larger than memory limit, see usage":               {Memory: 10, MemorySwap: 9},
		"You should always set the Memory limit when using Memoryswap limit, see usage":        {MemorySwap: 9},
		"Minimum memory limit can not be less than memory reservation limit, see usage":        {Memory: 10, MemoryReservation: 11},
		"Invalid value: 101, valid memory swappiness range is 0-100":                           {Swappiness: ptr(int64(101))},
		"Conflicting options: Nano CPUs and CPU Period cannot both be set":                     {NanoCPUs: 1, CPUPeriod: 5000},
		"CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)": {CPUPeriod: 999},
		"CPU cfs quota can not be less than 1ms (i.e. 1000)":                                   {CPUQuota: 999},
		"cpu real-time runtime cannot be higher than cpu real-time period":                     {CPURealtimePeriod: 5, CPURealtimeRuntime: 6},
		"Range of blkio weight is from 10 to 1000":                                             {BlkioWeight: 9},
	} {
		if _, _, err := everything.check(r); err == nil || err.Error() != want || !errs.Invalid.Is(err) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
