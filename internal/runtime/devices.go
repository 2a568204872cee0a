package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	api "github.com/moby/moby/api/types/container"

	"gantry/internal/errs"
	"gantry/internal/kernel/cgroup"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// maxDevices bounds how many nodes one --device directory, or a privileged container, brings.
const maxDevices = 4096

var errNotDevice = errors.New("not a device node")

// standardDevices are the nodes of every /dev (OCI runtime-spec, config-linux.md, "Default Devices"); init adds
// console, ptmx and the links.
func standardDevices() []spec.Device {
	var out []spec.Device
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}} {
		out = append(out, spec.Device{Path: "/dev/" + d.name, Host: "/dev/" + d.name, Type: 'c', Major: d.major, Minor: d.minor, Mode: 0o666})
	}
	return out
}

// devices lists the nodes to make.
func devices(h *api.HostConfig) ([]spec.Device, error) {
	out := standardDevices()
	if h.Privileged {
		out = append(out, hostDevices()...)
	}
	for _, m := range h.Devices {
		if h.Privileged && m.PathOnHost == m.PathInContainer {
			continue // it is there already
		}
		d, err := mappedDevices(m)
		if err != nil {
			return nil, err
		}
		out = append(out, d...)
	}
	// Later ones win, as they would by being mounted over: --device /dev/zero:/dev/null.
	at := make(map[string]int, len(out))
	kept := out[:0]
	for _, d := range out {
		if i, ok := at[d.Path]; ok {
			kept[i] = d
			continue
		}
		at[d.Path] = len(kept)
		kept = append(kept, d)
	}
	return kept, nil
}

// hostDevices lists the nodes below the host's /dev, for a privileged container.
func hostDevices() []spec.Device {
	var out []spec.Device
	filepath.WalkDir("/dev", func(path string, e fs.DirEntry, err error) error {
		if err != nil || len(out) >= maxDevices {
			return nil // the tree is alive: what vanished meanwhile is not missed
		}
		if e.IsDir() {
			switch e.Name() {
			// A container has these of its own, or they are none of its business.
			case "pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev":
				return filepath.SkipDir
			}
			return nil
		}
		if e.Type()&fs.ModeDevice == 0 || e.Name() == "console" {
			return nil
		}
		if d, err := device(path, path); err == nil {
			out = append(out, d)
		}
		return nil
	})
	return out
}

// mappedDevices reads one --device: a node, or a directory of nodes.
func mappedDevices(m api.DeviceMapping) ([]spec.Device, error) {
	target := m.PathInContainer
	if target == "" {
		target = m.PathOnHost
	}
	fail := func(err error) ([]spec.Device, error) {
		var p *fs.PathError
		if errors.As(err, &p) {
			err = p.Err
		}
		return nil, errs.Invalid.Errorf("error gathering device information while adding custom device %q: %w", m.PathOnHost, err)
	}
	if !filepath.IsAbs(target) {
		return fail(errors.New("path in container must be absolute: " + target))
	}
	source, err := filepath.EvalSymlinks(m.PathOnHost)
	if err != nil {
		return fail(err)
	}
	d, err := device(source, filepath.Clean(target))
	if err == nil {
		return []spec.Device{d}, nil
	}
	if !errors.Is(err, errNotDevice) {
		return fail(err)
	}
	var out []spec.Device
	filepath.WalkDir(source, func(path string, e fs.DirEntry, walkErr error) error {
		if walkErr != nil || e.IsDir() || len(out) >= maxDevices {
			return nil
		}
		if d, err := device(path, filepath.Clean(target)+strings.TrimPrefix(path, source)); err == nil {
			out = append(out, d)
		}
		return nil
	})
	if len(out) == 0 {
		return fail(err)
	}
	return out, nil
}

// device describes the node at path, to be made at target.
func device(path, target string) (spec.Device, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return spec.Device{}, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	d := spec.Device{
		Path: target, Host: path, Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev),
		Mode: st.Mode & 0o777, UID: st.Uid, GID: st.Gid,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = 'c'
	case unix.S_IFBLK:
		d.Type = 'b'
	default:
		return d, errNotDevice
	}
	return d, nil
}

// deviceRules say which devices the container may open.
func deviceRules(h *api.HostConfig) ([]cgroup.DeviceRule, error) {
	if h.Privileged {
		return cgroup.AllDevices(), nil
	}
	rules := cgroup.DefaultDevices()
	for _, m := range h.Devices {
		list, err := mappedDevices(m)
		if err != nil {
			return nil, err
		}
		access := cgroup.Read | cgroup.Write | cgroup.Mknod
		if m.CgroupPermissions != "" {
			if access, err = cgroup.ParseAccess(m.CgroupPermissions); err != nil {
				return nil, errs.Invalid.Errorf("invalid device mode: %s", m.CgroupPermissions)
			}
		}
		for _, d := range list {
			rules = append(rules, cgroup.DeviceRule{Allow: true, Type: d.Type, Major: int64(d.Major), Minor: int64(d.Minor), Access: access})
		}
	}
	for _, s := range h.DeviceCgroupRules {
		r, err := cgroup.ParseDeviceRule(s)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// Resources maps a container's limits to those of its cgroup.
func Resources(h *api.HostConfig) (cgroup.Resources, error) {
	r := cgroup.Resources{
		Memory: h.Memory, MemoryReservation: h.MemoryReservation, MemorySwap: h.MemorySwap, Swappiness: h.MemorySwappiness,
		OOMKillDisable: h.OomKillDisable != nil && *h.OomKillDisable,
		CPUShares:      h.CPUShares, NanoCPUs: h.NanoCPUs, CPUQuota: h.CPUQuota, CPUPeriod: h.CPUPeriod,
		CPURealtimePeriod: h.CPURealtimePeriod, CPURealtimeRuntime: h.CPURealtimeRuntime,
		CpusetCpus: h.CpusetCpus, CpusetMems: h.CpusetMems,
		BlkioWeight: h.BlkioWeight,
	}
	if h.PidsLimit != nil {
		if r.PidsLimit = *h.PidsLimit; r.PidsLimit <= 0 {
			r.PidsLimit = -1
		}
	}
	var err error
	if r.Devices, err = deviceRules(h); err != nil {
		return r, err
	}
	for _, d := range h.BlkioWeightDevice {
		l, err := blockDevice(d.Path, uint64(d.Weight))
		if err != nil {
			return r, err
		}
		r.BlkioWeightDevice = append(r.BlkioWeightDevice, l)
	}
	for _, t := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]cgroup.DeviceLimit
	}{
		{h.BlkioDeviceReadBps, &r.BlkioDeviceReadBps}, {h.BlkioDeviceWriteBps, &r.BlkioDeviceWriteBps},
		{h.BlkioDeviceReadIOps, &r.BlkioDeviceReadIOps}, {h.BlkioDeviceWriteIOps, &r.BlkioDeviceWriteIOps},
	} {
		for _, d := range t.from {
			l, err := blockDevice(d.Path, d.Rate)
			if err != nil {
				return r, err
			}
			*t.to = append(*t.to, l)
		}
	}
	return r, nil
}

func blockDevice(path string, v uint64) (cgroup.DeviceLimit, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return cgroup.DeviceLimit{}, errs.Invalid.Wrap(&os.PathError{Op: "stat", Path: path, Err: err})
	}
	return cgroup.DeviceLimit{Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), Value: v}, nil
}
