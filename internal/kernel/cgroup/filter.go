package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Version 2 has no device controller; a BPF program attached to the group decides (BPF_PROG_TYPE_CGROUP_DEVICE,
// bpf(2)). The program is a dozen instruction forms and three commands, so it is assembled and loaded here: a BPF
// library probes features at start, for programs that we do not have.

// insn is struct bpf_insn in little endian: op, registers (source<<4 | destination), offset, immediate.
type insn struct {
	op   uint8
	regs uint8
	off  int16
	imm  int32
}

// The registers: context and its parts, and the result.
const (
	r0 = iota
	r1 // struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }
	r2 // type: 1 block, 2 character
	r3 // the access bits that no rule has decided yet
	r4 // major
	r5 // minor
	r6 // scratch
)

const (
	devBlock = 1
	devChar  = 2
)

const (
	opLoad32 = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMovReg = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X // 32 bits wide, as all numbers here
	opMovImm = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAndImm = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opRshImm = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	opJneImm = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJeqImm = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	opExit   = unix.BPF_JMP | unix.BPF_EXIT
)

// compile makes a program that returns 1 where rules allow an access. Each bit of the access (read, write,
// mknod) is decided by the last rule that speaks of it and matches the node; all must be allowed, and a
// bit of which no rule speaks is denied. So the rules are walked from the last to the first, with the bits
// that are still open in a register.
func compile(rules []DeviceRule) []insn {
	p := []insn{
		{op: opLoad32, regs: r1<<4 | r2, off: 0},
		{op: opMovReg, regs: r2<<4 | r3},
		{op: opAndImm, regs: r2, imm: 0xffff},
		{op: opRshImm, regs: r3, imm: 16},
		{op: opLoad32, regs: r1<<4 | r4, off: 4},
		{op: opLoad32, regs: r1<<4 | r5, off: 8},
	}
	for i := len(rules) - 1; i >= 0; i-- {
		r := rules[i]
		var body []insn
		if r.Allow {
			body = []insn{
				{op: opAndImm, regs: r3, imm: int32(^uint32(r.Access))},
				{op: opJneImm, regs: r3, imm: 0, off: 2},
				{op: opMovImm, regs: r0, imm: 1},
				{op: opExit},
			}
		} else {
			// Denied if an open bit is among the rule's; all that a deny can do is end it.
			body = []insn{
				{op: opMovReg, regs: r3<<4 | r6},
				{op: opAndImm, regs: r6, imm: int32(r.Access)},
				{op: opJeqImm, regs: r6, imm: 0, off: 2},
				{op: opMovImm, regs: r0, imm: 0},
				{op: opExit},
			}
		}
		var tests []insn
		if r.Type != 'a' {
			kind := int32(devChar)
			if r.Type == 'b' {
				kind = devBlock
			}
			tests = append(tests, insn{op: opJneImm, regs: r2, imm: kind})
		}
		if r.Major != Any {
			tests = append(tests, insn{op: opJneImm, regs: r4, imm: int32(uint32(r.Major))})
		}
		if r.Minor != Any {
			tests = append(tests, insn{op: opJneImm, regs: r5, imm: int32(uint32(r.Minor))})
		}
		for j := range tests {
			tests[j].off = int16(len(tests) - j - 1 + len(body))
		}
		p = append(append(p, tests...), body...)
	}
	return append(p, insn{op: opMovImm, regs: r0, imm: 0}, insn{op: opExit})
}

// encode returns the program as the kernel wants it, in the host's byte order; amd64 and arm64 are little endian.
func encode(p []insn) []byte {
	b := make([]byte, 0, 8*len(p))
	for _, i := range p {
		b = append(b, i.op, i.regs)
		b = binary.NativeEndian.AppendUint16(b, uint16(i.off))
		b = binary.NativeEndian.AppendUint32(b, uint32(i.imm))
	}
	return b
}

// maxRules keeps a program below the 4096 instructions that kernels accept from anyone.
const maxRules = 400

// attachFilter loads the program for rules, or takes the loaded one of a group before with the same rules (nearly
// all containers have Docker's default), and attaches it to the group dir.
func (h *Host) attachFilter(dir string, rules []DeviceRule) error {
	if len(rules) > maxRules {
		return fmt.Errorf("limit devices: more than %d rules", maxRules)
	}
	prog, release, err := h.filter(rules)
	if err != nil {
		return err
	}
	defer release()
	fd, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// BPF_PROG_ATTACH. ALLOW_MULTI, so that a container may attach stricter ones of its own below.
	attr := struct{ target, prog, kind, flags uint32 }{uint32(fd), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("attach device filter to cgroup %s: %w", dir, err)
	}
	return nil
}

// maxFilters bounds the programs that are kept loaded. Attached ones live on with their groups.
const maxFilters = 64

// filter returns a loaded program and what to call when it is attached.
func (h *Host) filter(rules []DeviceRule) (fd int, release func(), err error) {
	key := filterKey(rules)
	h.mu.Lock()
	defer h.mu.Unlock()
	if fd, ok := h.filters[key]; ok {
		return fd, func() {}, nil
	}
	fd, err = load(encode(compile(rules)))
	if err != nil {
		return -1, nil, err
	}
	if len(h.filters) >= maxFilters {
		return fd, func() { unix.Close(fd) }, nil
	}
	h.filters[key] = fd
	return fd, func() {}, nil
}

func load(code []byte) (int, error) {
	license := []byte("Apache-2.0\x00") // no helper is called that asks for another
	attr := struct {
		kind, count        uint32
		insns, license     uint64
		logLevel, logSize  uint32
		log                uint64
		kernVersion, flags uint32
		name               [16]byte
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code) / 8)}
	attr.insns = uint64(uintptr(unsafe.Pointer(&code[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&license[0])))
	copy(attr.name[:], "gantry_devices")
	var pin runtime.Pinner
	pin.Pin(&code[0])
	pin.Pin(&license[0])
	defer pin.Unpin()
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if errors.Is(err, unix.EPERM) {
		// Before 5.11 programs count against RLIMIT_MEMLOCK, which is 64 KiB on many hosts.
		inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &inf) == nil {
			fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		}
	}
	if err != nil {
		return -1, fmt.Errorf("load device filter: bpf(2): %w", err)
	}
	return fd, nil
}

// bpf is bpf(2). It takes an EAGAIN for a signal that came while the program was verified.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for range 10 {
		fd, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch errno {
		case 0:
			return int(fd), nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return -1, errno
		}
	}
	return -1, unix.EAGAIN
}
