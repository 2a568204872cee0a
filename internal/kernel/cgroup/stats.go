package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// Stats is what a group has used. A part whose controller the host lacks stays zero.
type Stats struct {
	Read   time.Time
	CPU    CPUStats
	Memory MemoryStats
	Pids   PidsStats
	Blkio  BlkioStats
}

// CPUStats holds times in nanoseconds since the group was made.
type CPUStats struct {
	Usage, User, System uint64
	PerCPU              []uint64 // version 1 only
	Periods             uint64   // how many periods have passed with a quota
	ThrottledPeriods    uint64   // in how many of them the quota was used up
	ThrottledTime       uint64
}

// MemoryStats holds bytes; a limit of 1<<63 or more is none.
type MemoryStats struct {
	Usage     uint64
	MaxUsage  uint64 // version 1; since Linux 5.19 version 2 too
	Limit     uint64
	FailCount uint64 // how often the limit was met
	// Detail is memory.stat; its keys differ by version, and Docker hands them on as they are.
	Detail map[string]uint64
}

// PidsStats counts processes and threads; Limit is the largest number for none.
type PidsStats struct{ Current, Limit uint64 }

// BlkioStats counts by block device and operation.
type BlkioStats struct{ ServiceBytes, Serviced []BlkioEntry }

// BlkioEntry is one counter. Op is "Read", "Write", "Sync", "Async", "Discard", "Total" on version 1;
// "read", "write" on version 2.
type BlkioEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// Stats reads the group's counters. Of a group that is gone, it is errs.Internal with fs.ErrNotExist in it.
func (g *Group) Stats() (Stats, error) {
	s := Stats{Read: time.Now()}
	read := g.statsV1
	if g.host.kind == V2 {
		read = g.statsV2
	}
	return s, read(&s)
}

// optional forgets that a file does not exist, for those that only some kernels have.
func optional[T any](v T, err error) (T, error) {
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return v, err
}

type statReader struct{ err error }

func (r *statReader) uint(path string) uint64 {
	if r.err != nil {
		return 0
	}
	v, err := optional(readUint(path))
	r.err = err
	return v
}

func (r *statReader) keyed(path string) map[string]uint64 {
	if r.err != nil {
		return nil
	}
	m, err := optional(readKeyed(path))
	r.err = err
	return m
}

func (r *statReader) bytes(path string) []byte {
	if r.err != nil {
		return nil
	}
	b, err := optional(readFile(path))
	r.err = err
	return b
}

func (g *Group) statsV1(s *Stats) error {
	if !exists(g.procsDir()) {
		return &fs.PathError{Op: "stat", Path: g.procsDir(), Err: fs.ErrNotExist}
	}
	var r statReader
	if d := g.Path("cpuacct"); d != "" {
		s.CPU.Usage = r.uint(d + "/cpuacct.usage")
		// In ticks of USER_HZ, which is 100 on every architecture here.
		m := r.keyed(d + "/cpuacct.stat")
		s.CPU.User, s.CPU.System = m["user"]*10_000_000, m["system"]*10_000_000
		for f := range strings.FieldsSeq(string(r.bytes(d + "/cpuacct.usage_percpu"))) {
			v, _ := strconv.ParseUint(f, 10, 64)
			s.CPU.PerCPU = append(s.CPU.PerCPU, v)
		}
	}
	if d := g.Path("cpu"); d != "" {
		m := r.keyed(d + "/cpu.stat")
		s.CPU.Periods, s.CPU.ThrottledPeriods, s.CPU.ThrottledTime = m["nr_periods"], m["nr_throttled"], m["throttled_time"]
	}
	if d := g.Path("memory"); d != "" {
		s.Memory.Usage = r.uint(d + "/memory.usage_in_bytes")
		s.Memory.MaxUsage = r.uint(d + "/memory.max_usage_in_bytes")
		s.Memory.Limit = r.uint(d + "/memory.limit_in_bytes")
		s.Memory.FailCount = r.uint(d + "/memory.failcnt")
		s.Memory.Detail = r.keyed(d + "/memory.stat")
	}
	if d := g.Path("pids"); d != "" {
		s.Pids.Current = r.uint(d + "/pids.current")
		s.Pids.Limit = r.uint(d + "/pids.max")
	}
	if d := g.Path("blkio"); d != "" {
		s.Blkio.ServiceBytes = parseBlkioV1(r.bytes(d + "/blkio.throttle.io_service_bytes_recursive"))
		s.Blkio.Serviced = parseBlkioV1(r.bytes(d + "/blkio.throttle.io_serviced_recursive"))
	}
	return r.err
}

// parseBlkioV1 reads lines "8:0 Read 4096"; the sum at the end, "Total 4096", names no device.
func parseBlkioV1(b []byte) []BlkioEntry {
	var out []BlkioEntry
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) != 3 {
			continue
		}
		major, minor, ok := parseDev(f[0])
		v, err := strconv.ParseUint(f[2], 10, 64)
		if ok && err == nil {
			out = append(out, BlkioEntry{major, minor, f[1], v})
		}
	}
	return out
}

func parseDev(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	if !ok {
		return 0, 0, false
	}
	major, err1 := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, err1 == nil && err2 == nil
}

func (g *Group) statsV2(s *Stats) error {
	d := g.Path("")
	if !exists(d) {
		return &fs.PathError{Op: "stat", Path: d, Err: fs.ErrNotExist}
	}
	var r statReader
	m := r.keyed(d + "/cpu.stat")
	s.CPU = CPUStats{
		Usage: m["usage_usec"] * 1000, User: m["user_usec"] * 1000, System: m["system_usec"] * 1000,
		Periods: m["nr_periods"], ThrottledPeriods: m["nr_throttled"], ThrottledTime: m["throttled_usec"] * 1000,
	}
	if _, ok := g.host.where["memory"]; ok {
		s.Memory.Usage = r.uint(d + "/memory.current")
		s.Memory.MaxUsage = r.uint(d + "/memory.peak")
		s.Memory.Limit = r.uint(d + "/memory.max")
		s.Memory.FailCount = r.keyed(d + "/memory.events")["max"]
		s.Memory.Detail = r.keyed(d + "/memory.stat")
	}
	if _, ok := g.host.where["pids"]; ok {
		s.Pids.Current = r.uint(d + "/pids.current")
		s.Pids.Limit = r.uint(d + "/pids.max")
	}
	if _, ok := g.host.where["io"]; ok {
		s.Blkio = parseIOStat(r.bytes(d + "/io.stat"))
	}
	return r.err
}

// parseIOStat reads lines "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0".
func parseIOStat(b []byte) BlkioStats {
	var s BlkioStats
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		major, minor, ok := parseDev(f[0])
		if !ok {
			continue
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				continue
			}
			switch k {
			case "rbytes":
				s.ServiceBytes = append(s.ServiceBytes, BlkioEntry{major, minor, "read", n})
			case "wbytes":
				s.ServiceBytes = append(s.ServiceBytes, BlkioEntry{major, minor, "write", n})
			case "rios":
				s.Serviced = append(s.Serviced, BlkioEntry{major, minor, "read", n})
			case "wios":
				s.Serviced = append(s.Serviced, BlkioEntry{major, minor, "write", n})
			}
		}
	}
	return s
}
