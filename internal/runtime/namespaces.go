package runtime

import (
	"strings"

	"gantry/internal/errs"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// spaces says which namespaces a container gets: new ones, those of another container, or the host's.
type spaces struct {
	clone   uintptr
	cgroup  bool // new, made by init
	join    []spec.Join
	joinPID *spec.Process
	ipcOf   *spec.Process // whose /dev/shm is shared
}

// joined are the options by which a container joins another's namespaces.
func namespaces(in *Input) (*spaces, error) {
	h := in.HostConfig
	ns := &spaces{clone: unix.CLONE_NEWNS}
	if in.userns() {
		if err := checkUserns(in); err != nil {
			return nil, err
		}
		ns.clone |= unix.CLONE_NEWUSER
	}
	switch net := h.NetworkMode; {
	case in.Config.NetworkDisabled:
		ns.clone |= unix.CLONE_NEWNET
	case net.IsHost():
	case net.IsContainer():
		p, err := in.of(net.ConnectedContainer())
		if err != nil {
			return nil, err
		}
		ns.join = append(ns.join, spec.Join{Type: "net", Of: p})
	case in.Netns != "":
		ns.join = append(ns.join, spec.Join{Type: "net", Path: in.Netns})
	default:
		ns.clone |= unix.CLONE_NEWNET
	}
	switch ipc := h.IpcMode; {
	case !ipc.Valid():
		return nil, errs.Invalid.Errorf("invalid IPC mode: %v", ipc)
	case ipc.IsHost():
	case ipc.IsContainer():
		p, err := in.of(ipc.Container())
		if err != nil {
			return nil, errs.KindOf(err).Errorf("failed to join IPC namespace: %w", err)
		}
		ns.join = append(ns.join, spec.Join{Type: "ipc", Of: p})
		ns.ipcOf = &p
	default:
		ns.clone |= unix.CLONE_NEWIPC
	}
	switch pid := h.PidMode; {
	case !pid.Valid():
		return nil, errs.Invalid.Errorf("invalid PID mode: %v", pid)
	case pid.IsHost():
	case pid.IsContainer():
		p, err := in.of(pid.Container())
		if err != nil {
			return nil, errs.KindOf(err).Errorf("failed to join PID namespace: %w", err)
		}
		ns.joinPID = &p
	default:
		ns.clone |= unix.CLONE_NEWPID
	}
	switch {
	case !h.UTSMode.Valid():
		return nil, errs.Invalid.Errorf("invalid UTS mode: %v", h.UTSMode)
	case !h.UTSMode.IsHost():
		ns.clone |= unix.CLONE_NEWUTS
	}
	if !h.CgroupnsMode.Valid() {
		return nil, errs.Invalid.Errorf("invalid cgroup namespace mode: %v", h.CgroupnsMode)
	}
	ns.cgroup = h.CgroupnsMode.IsPrivate()
	return ns, nil
}

func (in *Input) of(ref string) (spec.Process, error) {
	if in.Of == nil {
		return spec.Process{}, errs.NotFound.Errorf("No such container: %s", ref)
	}
	return in.Of(ref)
}

// checkUserns refuses what a container with a user namespace of its own cannot have.
func checkUserns(in *Input) error {
	h := in.HostConfig
	switch {
	case h.Privileged:
		return errs.Invalid.Errorf("privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode")
	case h.NetworkMode.IsHost():
		return errs.Invalid.Errorf("cannot share the host's network namespace when user namespaces are enabled")
	case h.PidMode.IsHost():
		return errs.Invalid.Errorf("cannot share the host PID namespace when user namespaces are enabled")
	case h.NetworkMode.IsContainer() || h.IpcMode.IsContainer() || h.PidMode.IsContainer():
		return errs.NotImplemented.Errorf("joining another container's namespaces is not supported with user namespaces: run both with --userns host")
	}
	return nil
}

// ipcSysctls live in the IPC namespace (ipc_namespaces(7)).
var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true, "kernel.shmall": true,
	"kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}

// sysctls are Docker's for a network namespace of one's own, and the user's. Those that no namespace holds are
// refused, and those whose namespace is the host's. The words are runc's.
func sysctls(in *Input, ns *spaces) (map[string]string, error) {
	out := make(map[string]string)
	h := in.HostConfig
	if h.NetworkMode.IsPrivate() {
		// As Docker: pings and ports below 1024 for users without capabilities. Not pings in a user
		// namespace, which does not map all groups.
		if !in.userns() && exists("/proc/sys/net/ipv4/ping_group_range") {
			out["net.ipv4.ping_group_range"] = "0 2147483647"
		}
		if exists("/proc/sys/net/ipv4/ip_unprivileged_port_start") {
			out["net.ipv4.ip_unprivileged_port_start"] = "0"
		}
	}
	for name, v := range h.Sysctls {
		key := normalizeSysctl(name)
		switch {
		case ipcSysctls[key] || strings.HasPrefix(key, "fs.mqueue."):
			if h.IpcMode.IsHost() {
				return nil, errs.Invalid.Errorf("sysctl %q is not allowed in the hosts ipc namespace", name)
			}
		case strings.HasPrefix(key, "net."):
			if h.NetworkMode.IsHost() {
				return nil, errs.Invalid.Errorf("sysctl %q not allowed in host network namespace", name)
			}
		case key == "kernel.domainname" && ns.clone&unix.CLONE_NEWUTS != 0:
		case key == "kernel.hostname" && ns.clone&unix.CLONE_NEWUTS != 0:
			return nil, errs.Invalid.Errorf("sysctl %q is not allowed as it conflicts with the OCI %q field", name, "hostname")
		default:
			return nil, errs.Invalid.Errorf("sysctl %q is not in a separate kernel namespace", name)
		}
		if key != name {
			delete(out, key)
		}
		out[key] = v
	}
	return out, nil
}

// normalizeSysctl writes a name with dots between its parts, whichever of "." and "/" came first (sysctl(8)).
func normalizeSysctl(name string) string {
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}
