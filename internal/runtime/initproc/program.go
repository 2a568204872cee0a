package initproc

import (
	"strings"
	"syscall"
	"unsafe"

	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// The last steps before execve(2) are a program: a list of system calls whose arguments were prepared
// beforehand. A container's first process runs it on the main thread. An exec runs its second half in a
// child that has one thread and a copy of a Go heap whose locks may be held by nobody: there is no
// allocation, no growing of the stack and no scheduler there, so the interpreter below is all the code that runs.
//
// Credentials are per thread in the kernel. Only the main thread changes its own, and execve(2) ends the others.

// op is one step of a program.
type op struct {
	kind kind
	trap uintptr // system call number
	args [6]uintptr
	// fail is the index in program.heads of what to report; noFail ignores an error.
	fail int
}

type kind uint8

const (
	opCall       kind = iota // a system call that must succeed (or not, with noFail)
	opChdir                  // chdir(2) that may fail with EACCES: it is then tried again by opChdirAgain
	opChdirAgain             // as the container's user (root may be refused where its user is not: NFS, FUSE)
	opCwd                    // the working directory must lie inside the root
	opFork                   // args[0]: clone flags; the parent reports the pid and exits, the child goes on
	opSignals                // default dispositions and an empty mask
	opExec                   // execve(2) of the candidates
)

const noFail = -1

type program struct {
	ops   []op
	heads [][]byte // beginnings of Failure messages, as JSON
	keep  []any    // holds what args point to, for the collector does not see a uintptr

	// of opExec
	paths     []*byte // candidates in order
	argv      []*byte
	envv      []*byte
	fd        int // if >= 0, execveat(2) of this descriptor, the reaper, which then execs
	empty     byte
	search    bool   // the candidates came from PATH: no error is worth telling but "not found"
	execHead  int    // "exec /x: " and the errno's text
	notFound  []byte // whole Failure messages
	noInterp  []byte
	forbidden []byte
	isDir     []byte
	noCwd     []byte

	errnos      [unix.EHWPOISON + 1]string
	chdirFailed bool
	sigaction   [4]uintptr
	sigset      uint64
	cwd         [unix.PathMax]byte
	stat        unix.Stat_t
	out         [spec.StatusMax]byte
	n           int
}

func newProgram() *program {
	p := &program{fd: -1}
	for i := range p.errnos {
		p.errnos[i] = unix.Errno(i).Error() // a constant of package syscall, not a copy
	}
	return p
}

// head registers the beginning of a failure message and returns its index.
func (p *program) head(stage string, code int, text string) int {
	b := appendHead(nil, stage, code)
	p.heads = append(p.heads, appendQuoted(b, text+": "))
	return len(p.heads) - 1
}

// whole renders a failure that needs no errno's text.
func whole(stage string, code int, errno unix.Errno, text string) []byte {
	b := appendQuoted(appendHead(nil, stage, code), text)
	b = append(b, `","errno":`...)
	return append(appendInt(b, int(errno)), '}')
}

func appendInt(b []byte, n int) []byte {
	if n >= 10 {
		b = appendInt(b, n/10)
	}
	return append(b, byte('0'+n%10))
}

// call adds a system call; what names it in a failure.
func (p *program) call(stage, what string, trap uintptr, args ...uintptr) {
	o := op{kind: opCall, trap: trap, fail: p.head(stage, codeFailed, what)}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
}

// try adds a system call whose failure does not matter.
func (p *program) try(trap uintptr, args ...uintptr) {
	o := op{kind: opCall, trap: trap, fail: noFail}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
}

// add adds a step of another kind.
func (p *program) add(k kind, args ...uintptr) {
	o := op{kind: k, fail: noFail}
	copy(o.args[:], args)
	p.ops = append(p.ops, o)
}

// ptr keeps v for the program's life and returns its address as an argument.
func ptr[T any](p *program, v *T) uintptr {
	p.keep = append(p.keep, v)
	return uintptr(unsafe.Pointer(v))
}

func (p *program) cstring(s string) uintptr { return ptr(p, cstr(s)) }

// cstr returns s with a final NUL; it ends early at a NUL inside.
func cstr(s string) *byte {
	if i := strings.IndexByte(s, 0); i >= 0 {
		s = s[:i]
	}
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}

func cstrs(s []string) []*byte {
	v := make([]*byte, len(s)+1)
	for i := range s {
		v[i] = cstr(s[i])
	}
	return v
}

// chdir adds the change of the working directory.
func (p *program) chdir(dir string) {
	text := `chdir to cwd ("` + dir + `") set in config.json failed`
	p.noCwd = whole("chdir", codeFailed, unix.ENOENT, "current working directory is outside of container mount namespace root -- possible container breakout detected")
	o := op{kind: opChdir, fail: p.head("chdir", codeCannotRun, text)}
	o.args[0] = p.cstring(dir)
	p.ops = append(p.ops, o)
}

// chdirAgain adds the second try.
func (p *program) chdirAgain() {
	for _, o := range p.ops {
		if o.kind == opChdir {
			o.kind = opChdirAgain
			p.ops = append(p.ops, o)
			break
		}
	}
	p.add(opCwd)
}

// exec prepares the end, opExec.
func (p *program) exec(args, env []string) {
	name := args[0]
	quoted := `exec: "` + name + `": `
	p.argv, p.envv = cstrs(args), cstrs(env)
	if strings.IndexByte(name, '/') >= 0 {
		p.paths = []*byte{cstr(name)}
		p.notFound = whole("exec", codeNotFound, unix.ENOENT, quoted+"stat "+name+": no such file or directory")
	} else {
		p.search = true
		for _, dir := range searchPath(env) {
			p.paths = append(p.paths, cstr(dir+"/"+name))
		}
		p.notFound = whole("exec", codeNotFound, unix.ENOENT, quoted+"executable file not found in $PATH")
	}
	p.forbidden = whole("exec", codeCannotRun, unix.EACCES, quoted+"permission denied")
	p.noInterp = whole("exec", codeNotFound, unix.ENOENT, "exec "+name+": no such file or directory (its interpreter is missing)")
	p.isDir = whole("exec", codeCannotRun, unix.EISDIR, quoted+"is a directory")
	p.execHead = p.head("exec", codeCannotRun, "exec "+name)
}

// searchPath returns the directories of PATH in env; an empty one means the working directory.
func searchPath(env []string) []string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], "PATH="); ok {
			dirs := strings.Split(v, ":")
			for i, d := range dirs {
				if d == "" {
					dirs[i] = "."
				}
			}
			return dirs
		}
	}
	return nil
}

// run interprets the program. It does not return.
//
//go:nosplit
//go:norace
func (p *program) run() {
	forked := false
	for i := range p.ops {
		o := &p.ops[i]
		switch o.kind {
		case opCall:
			if _, _, e := syscall.RawSyscall6(o.trap, o.args[0], o.args[1], o.args[2], o.args[3], o.args[4], o.args[5]); e != 0 && o.fail != noFail {
				p.report(o.fail, e)
				return
			}
		case opChdir, opChdirAgain:
			if o.kind == opChdirAgain && !p.chdirFailed {
				continue
			}
			_, _, e := syscall.RawSyscall(unix.SYS_CHDIR, o.args[0], 0, 0)
			p.chdirFailed = e == unix.EACCES && o.kind == opChdir
			if e != 0 && !p.chdirFailed {
				p.report(o.fail, e)
				return
			}
		case opCwd:
			// A path that begins with "(unreachable)" is outside: getcwd(2).
			_, _, e := syscall.RawSyscall(unix.SYS_GETCWD, uintptr(unsafe.Pointer(&p.cwd)), unix.PathMax, 0)
			if e == unix.ENOENT || e == 0 && p.cwd[0] != '/' {
				p.write(p.noCwd)
				exit(1)
			}
		case opFork:
			// In a child of the first fork there is one thread, and the runtime need not be asked again.
			if !forked {
				beforeFork()
			}
			pid, _, e := syscall.RawSyscall6(unix.SYS_CLONE, o.args[0], 0, 0, 0, 0, 0)
			if e == 0 && pid == 0 {
				if !forked {
					afterForkInChild()
				}
				forked = true
				continue
			}
			if !forked {
				afterFork()
			}
			if e != 0 {
				p.report(o.fail, e)
				return
			}
			if o.args[1] != 0 {
				p.reportPID(pid)
			}
			exit(0)
		case opSignals:
			for s := uintptr(1); s < 65; s++ {
				syscall.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&p.sigaction)), 0, 8, 0, 0)
			}
			syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&p.sigset)), 0, 8, 0, 0)
		case opExec:
			p.doExec()
			exit(1)
		}
	}
	exit(1)
}

//go:nosplit
//go:norace
func (p *program) doExec() {
	if p.fd >= 0 {
		p.execReaper()
		return
	}
	for i := range p.paths {
		path := uintptr(unsafe.Pointer(p.paths[i]))
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, path, uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.envv[0])))
		// ENOENT and EACCES may be those of an interpreter, which is worth another text.
		_, _, statErr := syscall.RawSyscall6(unix.SYS_FACCESSAT, atFdcwd, path, unix.F_OK, 0, 0, 0)
		switch {
		case (e == unix.ENOENT || e == unix.ENOTDIR) && statErr != 0:
			if !p.search && e == unix.ENOTDIR {
				p.report(p.execHead, e)
				return
			}
			continue
		case e == unix.ENOENT:
			p.write(p.noInterp)
			return
		case e == unix.EACCES:
			if p.search {
				continue
			}
			_, _, e := syscall.RawSyscall6(sysFstatat, atFdcwd, path, uintptr(unsafe.Pointer(&p.stat)), 0, 0, 0)
			if e == 0 && p.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				p.write(p.isDir)
			} else {
				p.write(p.forbidden)
			}
			return
		case p.search && e == unix.ELOOP:
			continue
		}
		p.report(p.execHead, e)
		return
	}
	p.write(p.notFound)
}

// execReaper starts the reaper if one of the candidates looks as if it could be executed: once it runs, a
// failure to start the program could no longer be told from the program's own exit code.
//
//go:nosplit
//go:norace
func (p *program) execReaper() {
	for i := range p.paths {
		path := uintptr(unsafe.Pointer(p.paths[i]))
		_, _, e := syscall.RawSyscall6(unix.SYS_FACCESSAT, atFdcwd, path, unix.X_OK, 0, 0, 0)
		if e == 0 {
			_, _, e = syscall.RawSyscall6(sysFstatat, atFdcwd, path, uintptr(unsafe.Pointer(&p.stat)), 0, 0, 0)
			if e == 0 && p.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
				e = unix.EISDIR
			}
		}
		switch {
		case e == 0:
			_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(p.fd), uintptr(unsafe.Pointer(&p.empty)),
				uintptr(unsafe.Pointer(&p.argv[0])), uintptr(unsafe.Pointer(&p.envv[0])), unix.AT_EMPTY_PATH, 0)
			p.report(p.execHead, e)
			return
		case e == unix.ENOENT || p.search:
			continue
		case e == unix.EACCES:
			p.write(p.forbidden)
		case e == unix.EISDIR:
			p.write(p.isDir)
		default:
			p.report(p.execHead, e)
		}
		return
	}
	p.write(p.notFound)
}

// atFdcwd is AT_FDCWD as a register holds it.
const atFdcwd = ^uintptr(99)

// report sends the failure that begins with heads[head] and ends with e's text, and exits.
//
//go:nosplit
//go:norace
func (p *program) report(head int, e unix.Errno) {
	p.n = 0
	p.append(p.heads[head])
	text := "unknown error"
	if int(e) < len(p.errnos) {
		text = p.errnos[e]
	}
	for i := 0; i < len(text); i++ {
		p.put(text[i])
	}
	const tail = `","errno":`
	for i := 0; i < len(tail); i++ {
		p.put(tail[i])
	}
	p.putInt(uintptr(e))
	p.put('}')
	p.flush()
	exit(1)
}

//go:nosplit
//go:norace
func (p *program) reportPID(pid uintptr) {
	p.n = 0
	for i := 0; i < len(spec.StatusPID); i++ {
		p.put(spec.StatusPID[i])
	}
	p.putInt(pid)
	p.flush()
}

//go:nosplit
//go:norace
func (p *program) putInt(n uintptr) {
	div := uintptr(1)
	for n/div >= 10 {
		div *= 10
	}
	for ; div > 0; div /= 10 {
		p.put(byte('0' + n/div%10))
	}
}

//go:nosplit
//go:norace
func (p *program) append(b []byte) {
	for i := 0; i < len(b); i++ {
		p.put(b[i])
	}
}

//go:nosplit
//go:norace
func (p *program) put(c byte) {
	if p.n < len(p.out) {
		p.out[p.n] = c
		p.n++
	}
}

//go:nosplit
//go:norace
func (p *program) write(b []byte) {
	p.n = 0
	p.append(b)
	p.flush()
}

// flush writes with write(2) and not sendto(2): a seccomp filter hardly ever forbids it.
//
//go:nosplit
//go:norace
func (p *program) flush() {
	syscall.RawSyscall(unix.SYS_WRITE, spec.FdStatus, uintptr(unsafe.Pointer(&p.out)), uintptr(p.n))
}

//go:nosplit
//go:norace
func exit(code uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}

// The three calls by which package syscall tells the runtime of a fork. The runtime keeps their names and
// types for those outside the standard library who need them (see its comments).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()
