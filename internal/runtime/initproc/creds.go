package initproc

import (
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// secure adds the steps that make the process the container's: its user, groups, capabilities and seccomp
// filter. newUser: it has entered, or will have entered by then, a user namespace of the container's.
func (p *program) secure(e *spec.Exec, a account, newUser bool) {
	last, have := capabilities()
	if newUser {
		have = 1<<(last+1) - 1 // what one has there after entering: user_namespaces(7)
	}
	c := e.Caps
	c.Permitted &= have
	c.Effective &= c.Permitted
	c.Inheritable &= have
	c.Ambient &= c.Permitted & c.Inheritable

	// The session keyring would be the supervisor's. Some kernels and filters have no keyrings.
	p.try(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING)
	for n := uint(0); n <= last; n++ {
		if c.Bounding>>n&1 == 0 && (newUser || boundingHas(n)) {
			p.call("capabilities", "drop capability from the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(n))
		}
	}
	p.call("user", "keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1)
	if len(a.groups) > 0 {
		p.call("user", "set groups", unix.SYS_SETGROUPS, uintptr(len(a.groups)), ptr(p, &a.groups[0]))
	} else {
		p.call("user", "set groups", unix.SYS_SETGROUPS, 0, 0)
	}
	p.call("user", "set gid", unix.SYS_SETRESGID, uintptr(a.gid), uintptr(a.gid), uintptr(a.gid))
	p.call("user", "set uid", unix.SYS_SETRESUID, uintptr(a.uid), uintptr(a.uid), uintptr(a.uid))
	if len(e.Seccomp) > 0 && !e.NoNewPrivileges {
		// Loading a filter without no_new_privs needs CAP_SYS_ADMIN, so it comes before the capabilities
		// go; leaving root has emptied the effective set.
		if a.uid != 0 {
			p.capset(have, have, 0)
		}
		p.seccomp(e.Seccomp)
	}
	p.capset(c.Effective, c.Permitted, c.Inheritable)
	p.try(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL)
	for n := uint(0); n <= last; n++ {
		if c.Ambient>>n&1 != 0 {
			p.call("capabilities", "raise ambient capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n))
		}
	}
	if e.NoNewPrivileges {
		p.call("no-new-privileges", "set no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1)
		if len(e.Seccomp) > 0 {
			p.seccomp(e.Seccomp)
		}
	}
}

func (p *program) capset(effective, permitted, inheritable uint64) {
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(effective), Permitted: uint32(permitted), Inheritable: uint32(inheritable)},
		{Effective: uint32(effective >> 32), Permitted: uint32(permitted >> 32), Inheritable: uint32(inheritable >> 32)},
	}
	p.call("capabilities", "set capabilities", unix.SYS_CAPSET, ptr(p, hdr), ptr(p, data))
}

// seccomp adds the loading of a filter, an array of struct sock_filter in host byte order.
func (p *program) seccomp(filter []byte) {
	const size = 8 // of struct sock_filter
	prog := make([]unix.SockFilter, len(filter)/size)
	for i := range prog {
		f := filter[i*size:]
		prog[i] = unix.SockFilter{
			Code: uint16(f[0]) | uint16(f[1])<<8, Jt: f[2], Jf: f[3],
			K: uint32(f[4]) | uint32(f[5])<<8 | uint32(f[6])<<16 | uint32(f[7])<<24,
		}
	}
	p.keep = append(p.keep, prog)
	fprog := &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	// As runc does: else kernels before 5.16 would turn off speculation for the process, which costs much.
	p.call("seccomp", "load seccomp filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, ptr(p, fprog))
}

// capabilities returns the highest capability this kernel knows and the permitted set of the caller.
func capabilities() (last uint, permitted uint64) {
	for last = 63; last > 0; last-- {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(last), 0, 0, 0); err == nil {
			break
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return last, 0
	}
	return last, uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

func boundingHas(n uint) bool {
	v, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
	return err == nil && v == 1
}
