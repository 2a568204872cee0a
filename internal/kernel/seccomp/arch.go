package seccomp

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run gen_tables.go

// The architectures in the tables, in their columns' order.
const (
	archAMD64 = iota
	arch386
	archX32
	archARM64
	archARM
	archCount
)

// row is one row of the tables.
type row struct {
	name string
	nr   [archCount]int32
}

// lookup returns the number of a system call on an architecture, for x32 without its bit.
func lookup(name string, arch int) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(syscalls[:], name, func(r row, name string) int { return strings.Compare(r.name, name) })
	if !ok || syscalls[i].nr[arch] < 0 {
		return 0, false
	}
	return uint32(syscalls[i].nr[arch]), true
}

// AUDIT_ARCH_* of linux/audit.h, what seccomp_data.arch holds. x32 shares amd64's.
const (
	auditAMD64 = 0xc000003e
	audit386   = 0x40000003
	auditARM64 = 0xc00000b7
	auditARM   = 0x40000028
)

// x32Bit in a system call's number says that it is one of x32 (__X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// armPrivate is where the private calls of 32-bit ARM begin (__ARM_NR_BASE), armPrivateLast the last of them.
const (
	armPrivate     = 0xf0000
	armPrivateLast = 0xf0006
)

// narrow reports whether arguments are 32 bits wide. On x32 the kernel shows the whole registers to the filter; as in
// libseccomp only the lower halves count there.
func narrow(arch int) bool { return arch != archAMD64 && arch != archARM64 }

// arches are the names that a profile may use, with the tables they stand for. Those of other machines are known
// and do nothing: no system call on this machine comes from them.
var arches = map[specs.Arch]int{
	specs.ArchX86_64:  archAMD64,
	specs.ArchX86:     arch386,
	specs.ArchX32:     archX32,
	specs.ArchAARCH64: archARM64,
	specs.ArchARM:     archARM,

	specs.ArchMIPS:        foreign,
	specs.ArchMIPS64:      foreign,
	specs.ArchMIPS64N32:   foreign,
	specs.ArchMIPSEL:      foreign,
	specs.ArchMIPSEL64:    foreign,
	specs.ArchMIPSEL64N32: foreign,
	specs.ArchPPC:         foreign,
	specs.ArchPPC64:       foreign,
	specs.ArchPPC64LE:     foreign,
	specs.ArchRISCV64:     foreign,
	specs.ArchS390:        foreign,
	specs.ArchS390X:       foreign,
	specs.ArchLOONGARCH64: foreign,
}

const foreign = -1

// multiplexed says by which call and subcall a system call can also be made on i386: socketcall(2) and ipc(2). Old
// C libraries make sockets in no other way, so a rule for connect(2) is a rule for socketcall(SYS_CONNECT) too, as
// in libseccomp. The subcall is argument 0; the real arguments lie in memory, where a filter cannot look, so a
// condition on argument 0 is dropped there.
func multiplexed(name string) (call string, sub uint32, ok bool) {
	if i := slices.Index(socketcalls[:], name); i >= 0 {
		return "socketcall", uint32(i) + 1, true
	}
	for i, group := range ipcs {
		if j := slices.Index(group[:], name); j >= 0 {
			return "ipc", uint32(10*i+j) + 1, true
		}
	}
	return "", 0, false
}

var (
	// socketcalls are SYS_SOCKET = 1 and following (linux/net.h).
	socketcalls = [...]string{"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send",
		"recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg"}
	// ipcs are SEMOP = 1, MSGSND = 11, SHMAT = 21 and following (linux/ipc.h).
	ipcs = [...][4]string{
		{"semop", "semget", "semctl", "semtimedop"},
		{"msgsnd", "msgrcv", "msgget", "msgctl"},
		{"shmat", "shmdt", "shmget", "shmctl"},
	}
)
