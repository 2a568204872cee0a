// Package caps knows Linux capabilities: their names and numbers, the sets that containers get, and how
// --cap-add, --cap-drop and --privileged change them.
//
// The engine turns a container's options into one Set with Tweak, bounded by what Host says can be given at
// all; the init program gets the finished bit mask and needs nothing of this package. It imports little, so
// that the smallest programs could.
package caps

import (
	"math/bits"
	"strconv"
	"strings"
)

// Set is a set of capabilities: bit n is capability n of linux/capability.h.
type Set uint64

// Cap is the number of one capability (linux/capability.h).
type Cap uint8

// The capabilities of linux/capability.h, named as in capabilities(7).
const (
	CHOWN Cap = iota
	DAC_OVERRIDE
	DAC_READ_SEARCH
	FOWNER
	FSETID
	KILL
	SETGID
	SETUID
	SETPCAP
	LINUX_IMMUTABLE
	NET_BIND_SERVICE
	NET_BROADCAST
	NET_ADMIN
	NET_RAW
	IPC_LOCK
	IPC_OWNER
	SYS_MODULE
	SYS_RAWIO
	SYS_CHROOT
	SYS_PTRACE
	SYS_PACCT
	SYS_ADMIN
	SYS_BOOT
	SYS_NICE
	SYS_RESOURCE
	SYS_TIME
	SYS_TTY_CONFIG
	MKNOD
	LEASE
	AUDIT_WRITE
	AUDIT_CONTROL
	SETFCAP
	MAC_OVERRIDE
	MAC_ADMIN
	SYSLOG
	WAKE_ALARM
	BLOCK_SUSPEND
	AUDIT_READ
	PERFMON            // Linux 5.8
	BPF                // Linux 5.8
	CHECKPOINT_RESTORE // Linux 5.9
)

// Last is the highest capability known here. The newest kernels have no higher one.
const Last = CHECKPOINT_RESTORE

// All is every capability known here.
const All Set = 1<<(Last+1) - 1

var names = [Last + 1]string{
	CHOWN:              "CAP_CHOWN",
	DAC_OVERRIDE:       "CAP_DAC_OVERRIDE",
	DAC_READ_SEARCH:    "CAP_DAC_READ_SEARCH",
	FOWNER:             "CAP_FOWNER",
	FSETID:             "CAP_FSETID",
	KILL:               "CAP_KILL",
	SETGID:             "CAP_SETGID",
	SETUID:             "CAP_SETUID",
	SETPCAP:            "CAP_SETPCAP",
	LINUX_IMMUTABLE:    "CAP_LINUX_IMMUTABLE",
	NET_BIND_SERVICE:   "CAP_NET_BIND_SERVICE",
	NET_BROADCAST:      "CAP_NET_BROADCAST",
	NET_ADMIN:          "CAP_NET_ADMIN",
	NET_RAW:            "CAP_NET_RAW",
	IPC_LOCK:           "CAP_IPC_LOCK",
	IPC_OWNER:          "CAP_IPC_OWNER",
	SYS_MODULE:         "CAP_SYS_MODULE",
	SYS_RAWIO:          "CAP_SYS_RAWIO",
	SYS_CHROOT:         "CAP_SYS_CHROOT",
	SYS_PTRACE:         "CAP_SYS_PTRACE",
	SYS_PACCT:          "CAP_SYS_PACCT",
	SYS_ADMIN:          "CAP_SYS_ADMIN",
	SYS_BOOT:           "CAP_SYS_BOOT",
	SYS_NICE:           "CAP_SYS_NICE",
	SYS_RESOURCE:       "CAP_SYS_RESOURCE",
	SYS_TIME:           "CAP_SYS_TIME",
	SYS_TTY_CONFIG:     "CAP_SYS_TTY_CONFIG",
	MKNOD:              "CAP_MKNOD",
	LEASE:              "CAP_LEASE",
	AUDIT_WRITE:        "CAP_AUDIT_WRITE",
	AUDIT_CONTROL:      "CAP_AUDIT_CONTROL",
	SETFCAP:            "CAP_SETFCAP",
	MAC_OVERRIDE:       "CAP_MAC_OVERRIDE",
	MAC_ADMIN:          "CAP_MAC_ADMIN",
	SYSLOG:             "CAP_SYSLOG",
	WAKE_ALARM:         "CAP_WAKE_ALARM",
	BLOCK_SUSPEND:      "CAP_BLOCK_SUSPEND",
	AUDIT_READ:         "CAP_AUDIT_READ",
	PERFMON:            "CAP_PERFMON",
	BPF:                "CAP_BPF",
	CHECKPOINT_RESTORE: "CAP_CHECKPOINT_RESTORE",
}

// String returns the capability's name, "CAP_CHOWN"; an unknown number is shown as "CAP_41".
func (c Cap) String() string {
	if c <= Last {
		return names[c]
	}
	return "CAP_" + strconv.Itoa(int(c))
}

// Of returns the set of the given capabilities.
func Of(caps ...Cap) Set {
	var s Set
	for _, c := range caps {
		s |= 1 << c
	}
	return s
}

// Default returns the 14 capabilities that Docker gives to a container which asks for nothing.
func Default() Set {
	return Of(CHOWN, DAC_OVERRIDE, FSETID, FOWNER, MKNOD, NET_RAW, SETGID, SETUID, SETFCAP, SETPCAP,
		NET_BIND_SERVICE, SYS_CHROOT, KILL, AUDIT_WRITE)
}

// Has reports whether c is in the set.
func (s Set) Has(c Cap) bool { return s&(1<<c) != 0 }

// Len returns the number of capabilities in the set.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Names returns the names of the capabilities in the set, in the order of their numbers. Bits above Last,
// which only a newer kernel can have set, have no name and are left out.
func (s Set) Names() []string {
	out := make([]string, 0, s.Len())
	for c, name := range names {
		if s.Has(Cap(c)) {
			out = append(out, name)
		}
	}
	return out
}

// String returns the names, separated by commas.
func (s Set) String() string { return strings.Join(s.Names(), ",") }

// Lookup finds a capability by its name in any case, with or without "CAP_".
func Lookup(name string) (Cap, bool) {
	full := normal(name)
	for c, n := range names {
		if n == full {
			return Cap(c), true
		}
	}
	return 0, false
}

// normal is the name as Docker prints it: upper case, with the prefix.
func normal(name string) string {
	name = strings.ToUpper(name)
	if !strings.HasPrefix(name, "CAP_") {
		name = "CAP_" + name
	}
	return name
}
