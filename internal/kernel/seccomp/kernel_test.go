package seccomp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/kernel/caps"
)

// The tests here load filters into the kernel, in a copy of the test program that then makes system calls. No root is
// needed: without new privileges anybody may load a filter.

const probeEnv = "SECCOMP_TEST_PROBE"

// addrNoRandomize is ADDR_NO_RANDOMIZE of linux/personality.h, which the profile does not allow to be set.
const addrNoRandomize = 0x0040000

// probe is what the copy is to do.
type probe struct {
	Filter []byte
	Calls  []probeCall
	Exec   string // execute this at last
}

type probeCall struct {
	Nr   uintptr
	Args [6]uintptr
}

func TestMain(m *testing.M) {
	if os.Getenv(probeEnv) == "" {
		os.Exit(m.Run())
	}
	if err := runProbe(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	os.Exit(0)
}

// runProbe reads a probe from stdin, loads its filter and writes the errno of every call.
func runProbe() error {
	var p probe
	if err := json.NewDecoder(os.Stdin).Decode(&p); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := load(p.Filter); err != nil {
		return err
	}
	results := make([]int, len(p.Calls))
	for i, c := range p.Calls {
		_, _, errno := unix.RawSyscall6(c.Nr, c.Args[0], c.Args[1], c.Args[2], c.Args[3], c.Args[4], c.Args[5])
		results[i] = int(errno)
	}
	if p.Exec != "" {
		return fmt.Errorf("execute: %w", syscall.Exec(p.Exec, []string{p.Exec}, nil))
	}
	return json.NewEncoder(os.Stdout).Encode(results)
}

func load(filter []byte) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	prog := unix.SockFprog{Len: uint16(len(filter) / 8), Filter: (*unix.SockFilter)(unsafe.Pointer(&filter[0]))}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(&prog)
	if errno != 0 {
		return fmt.Errorf("load the filter: %w", errno)
	}
	return nil
}

func (p probe) run(t *testing.T) ([]int, error) {
	t.Helper()
	in, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), probeEnv+"=1")
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	if p.Exec != "" {
		return nil, nil
	}
	var results []int
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return results, nil
}

// native is the test machine's column in the tables.
func native(t *testing.T) int {
	switch runtime.GOARCH {
	case "amd64":
		return archAMD64
	case "arm64":
		return archARM64
	}
	t.Skipf("no filters for %s", runtime.GOARCH)
	return 0
}

// expectation is a call and the errno that it is to end with.
type expectation struct {
	call string // a name, or a number
	args [6]uintptr
	want syscall.Errno
}

func (e expectation) nr(t *testing.T, arch int) uintptr {
	t.Helper()
	if n, err := strconv.ParseUint(e.call, 0, 32); err == nil {
		return uintptr(n)
	}
	n, ok := lookup(e.call, arch)
	if !ok {
		t.Fatalf("no call %s", e.call)
	}
	if arch == archX32 {
		n |= x32Bit
	}
	return uintptr(n)
}

func expect(t *testing.T, filter []byte, arch int, list []expectation) {
	t.Helper()
	p := probe{Filter: filter}
	for _, e := range list {
		p.Calls = append(p.Calls, probeCall{e.nr(t, arch), e.args})
	}
	got, err := p.run(t)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range list {
		if got[i] != int(e.want) {
			t.Errorf("%s%x: %v, want %v", e.call, e.args, syscall.Errno(got[i]), e.want)
		}
	}
}

func defaultFilter(t *testing.T, set caps.Set) []byte {
	t.Helper()
	var c Cache
	f, err := c.Default(set)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// defaults are calls under the default profile with the default capabilities. Those that are refused would fail with
// another errno, or not at all, if they came through to the kernel, and do no harm then.
func defaults() []expectation {
	return []expectation{
		{call: "getpid"},
		{"unshare", [6]uintptr{0}, unix.EPERM},
		{"unshare", [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_NEWNS}, unix.EPERM},
		{"clone", [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS}, unix.EPERM},
		{"clone", [6]uintptr{unix.CLONE_THREAD}, unix.EINVAL},
		{"clone3", [6]uintptr{}, unix.ENOSYS},
		{"setns", [6]uintptr{1 << 20}, unix.EPERM},
		{"keyctl", [6]uintptr{1 << 20}, unix.EPERM},
		{"add_key", [6]uintptr{}, unix.EPERM},
		{"mount", [6]uintptr{}, unix.EPERM},
		{"open_tree", [6]uintptr{}, unix.EPERM},
		{"bpf", [6]uintptr{1 << 20}, unix.EPERM},
		{"kexec_load", [6]uintptr{}, unix.EPERM},
		{"userfaultfd", [6]uintptr{1 << 20}, unix.EPERM},
		{"io_uring_setup", [6]uintptr{}, unix.EPERM},
		{"personality", [6]uintptr{0xffffffff}, 0},
		{"personality", [6]uintptr{0}, 0},
		{"personality", [6]uintptr{addrNoRandomize}, unix.EPERM},
		{"socket", [6]uintptr{unix.AF_UNIX, unix.SOCK_STREAM}, 0},
		{"socket", [6]uintptr{unix.AF_VSOCK, 1 << 16}, unix.EPERM},
		{"socket", [6]uintptr{unix.AF_ALG, 1 << 16}, unix.EPERM},
		{"socket", [6]uintptr{1 << 16, 0}, unix.EAFNOSUPPORT},
		// Numbers that no kernel has: programs must see what an old kernel says.
		{"500", [6]uintptr{}, unix.ENOSYS},
		{"5000", [6]uintptr{}, unix.ENOSYS},
		{"0x7fffffff", [6]uintptr{}, unix.ENOSYS},
	}
}

func TestDefaultInTheKernel(t *testing.T) {
	t.Parallel()
	arch := native(t)
	list := append(defaults(), expectation{"personality", [6]uintptr{1 << 32}, unix.EPERM}, expectation{"personality", [6]uintptr{1<<32 | 8}, unix.EPERM})
	expect(t, defaultFilter(t, caps.Default()), arch, list)
}

func TestCapabilitiesOpenCalls(t *testing.T) {
	t.Parallel()
	arch := native(t)
	expect(t, defaultFilter(t, caps.Default()|caps.Of(caps.SYS_ADMIN)), arch, []expectation{
		{"unshare", [6]uintptr{0}, 0},
		{"clone3", [6]uintptr{}, unix.EINVAL},
		{"keyctl", [6]uintptr{1 << 20}, unix.EPERM},
		{"kcmp", [6]uintptr{}, unix.EPERM},
	})
}

func TestX32InTheKernel(t *testing.T) {
	t.Parallel()
	if native(t) != archAMD64 {
		t.Skip("x32 is of amd64")
	}
	// Whether the kernel has x32 or not, what the filter refuses is refused; only EPERM is certain to come from it.
	expect(t, defaultFilter(t, caps.Default()), archX32, []expectation{
		{"unshare", [6]uintptr{0}, unix.EPERM},
		{"keyctl", [6]uintptr{1 << 20}, unix.EPERM},
		{"mount", [6]uintptr{}, unix.EPERM},
		{"kexec_load", [6]uintptr{}, unix.EPERM},
		{"personality", [6]uintptr{addrNoRandomize}, unix.EPERM},
		{"socket", [6]uintptr{unix.AF_VSOCK, 1 << 16}, unix.EPERM},
		{"0x4000000d", [6]uintptr{}, unix.EPERM}, // rt_sigaction has another number there
		{"0x40001388", [6]uintptr{}, unix.ENOSYS},
	})
}

// TestI386InTheKernel makes 32-bit calls, from a 32-bit program.
func TestI386InTheKernel(t *testing.T) {
	t.Parallel()
	if native(t) != archAMD64 {
		t.Skip("i386 is of amd64")
	}
	needI386(t)
	filter := defaultFilter(t, caps.Default())
	list := append(defaults(), expectation{"keyctl", [6]uintptr{1 << 20}, unix.EPERM}, expectation{"socketcall", [6]uintptr{1 << 20}, unix.EINVAL})
	for _, e := range list {
		nr := e.nr(t, arch386)
		_, err := probe{Filter: filter, Exec: program386(t, uint32(nr), e.args)}.run(t)
		if got := exitCode(t, err); got != int(e.want) {
			t.Errorf("%s%x: %v, want %v", e.call, e.args, syscall.Errno(got), e.want)
		}
	}
}

// TestForeignArchitectureIsKilled runs a 32-bit program under a profile for 64 bits only.
func TestForeignArchitectureIsKilled(t *testing.T) {
	t.Parallel()
	if native(t) != archAMD64 {
		t.Skip("i386 is of amd64")
	}
	needI386(t)
	var c Cache
	for profile, killed := range map[string]bool{
		`{"defaultAction":"SCMP_ACT_ALLOW"}`:                                                                                      true,
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"]}`:                                 false,
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_MIPS"]}`:                                true,
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"]}`:                                                    false,
		`{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}]}`: false,
	} {
		filter, err := c.FromJSON([]byte(profile), 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = probe{Filter: filter, Exec: program386(t, 20, [6]uintptr{})}.run(t)
		if signaled(err, unix.SIGSYS) != killed || !killed && err != nil {
			t.Errorf("%s: %v", profile, err)
		}
	}
}

func TestActionsInTheKernel(t *testing.T) {
	t.Parallel()
	arch := native(t)
	var c Cache
	filter, err := c.FromJSON([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["getppid"],"action":"SCMP_ACT_ERRNO","errnoRet":42},
		{"names":["getuid"],"action":"SCMP_ACT_ERRNO"},
		{"names":["getgid"],"action":"SCMP_ACT_LOG"},
		{"names":["getpgid"],"action":"SCMP_ACT_TRACE"},
		{"names":["dup"],"action":"SCMP_ACT_ERRNO","errnoRet":7,"args":[{"index":0,"value":4294967296,"op":"SCMP_CMP_GE"}]},
		{"names":["lseek"],"action":"SCMP_ACT_ERRNO","errnoRet":8,"args":[{"index":1,"value":18374686479671623680,"valueTwo":72057594037927936,"op":"SCMP_CMP_MASKED_EQ"},{"index":2,"value":3,"op":"SCMP_CMP_NE"}]},
		{"names":["sethostname"],"action":"SCMP_ACT_KILL_PROCESS"}]}`), 0)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, filter, arch, []expectation{
		{"getppid", [6]uintptr{}, 42},
		{"getuid", [6]uintptr{}, unix.EPERM},
		{"getgid", [6]uintptr{}, 0},
		{"getpgid", [6]uintptr{}, unix.ENOSYS}, // nobody traces
		{"dup", [6]uintptr{1 << 32}, 7},
		{"dup", [6]uintptr{1<<32 - 1}, unix.EBADF},
		{"lseek", [6]uintptr{1 << 20, 1<<56 | 5, 9}, 8},
		{"lseek", [6]uintptr{1 << 20, 1<<56 | 5, 3}, unix.EBADF},
		{"lseek", [6]uintptr{1 << 20, 3 << 56, 9}, unix.EBADF},
	})
	nr := expectation{call: "sethostname"}.nr(t, arch)
	if _, err := (probe{Filter: filter, Calls: []probeCall{{Nr: nr}}}).run(t); !signaled(err, unix.SIGSYS) {
		t.Errorf("killing: %v", err)
	}
}

// exitCode returns the code with which a program ended, and fails the test if it ended in another way.
func exitCode(t *testing.T, err error) int {
	t.Helper()
	var e *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e) && e.Exited():
		if e.ExitCode() == 99 {
			t.Fatal(err)
		}
		return e.ExitCode()
	}
	t.Fatal(err)
	return -1
}

func signaled(err error, sig syscall.Signal) bool {
	var e *exec.ExitError
	return errors.As(err, &e) && e.Sys().(syscall.WaitStatus).Signaled() && e.Sys().(syscall.WaitStatus).Signal() == sig
}

// needI386 skips where the kernel cannot run 32-bit programs (CONFIG_IA32_EMULATION).
func needI386(t *testing.T) {
	t.Helper()
	if err := exec.Command(program386(t, 20, [6]uintptr{})).Run(); errors.Is(err, unix.ENOEXEC) {
		t.Skip("this kernel runs no 32-bit programs")
	} else if err != nil {
		t.Fatal(err)
	}
}

// program386 writes a program for i386 that makes one call with five arguments and exits with its errno.
func program386(t *testing.T, nr uint32, args [6]uintptr) string {
	t.Helper()
	var code bytes.Buffer
	imm := func(op byte, v uint32) {
		code.WriteByte(op)
		code.Write(binary.LittleEndian.AppendUint32(nil, v))
	}
	imm(0xbb, uint32(args[0])) // mov ebx, …
	imm(0xb9, uint32(args[1])) // mov ecx, …
	imm(0xba, uint32(args[2])) // mov edx, …
	imm(0xbe, uint32(args[3])) // mov esi, …
	imm(0xbf, uint32(args[4])) // mov edi, …
	imm(0xb8, nr)              // mov eax, …
	code.Write([]byte{
		0xcd, 0x80, // int 0x80
		0x31, 0xdb, // xor ebx, ebx
		0x3d, 0x01, 0xf0, 0xff, 0xff, // cmp eax, -4095
		0x72, 0x04, // jb +4: no error
		0x29, 0xc3, // sub ebx, eax
		0x90, 0x90, // nop, nop
		0xb8, 1, 0, 0, 0, // mov eax, 1 (exit)
		0xcd, 0x80, // int 0x80
	})
	const base, headers = 0x08048000, 52 + 32
	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, v := range []any{
		uint16(2), uint16(3), uint32(1), uint32(base + headers), uint32(52), uint32(0), uint32(0), // EXEC, 386, entry, program headers
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(base), uint32(base), // LOAD, all of the file
		uint32(headers + code.Len()), uint32(headers + code.Len()), uint32(5), uint32(0x1000),
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.Write(code.Bytes())
	path := filepath.Join(t.TempDir(), "call")
	// A process forked while the file is open for writing would hold it open until it executes its own program, and
	// nobody may execute the file meanwhile (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}
