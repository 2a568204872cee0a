// Package initproc is the program that stands between the supervisor and a container's own first program:
// it finishes the namespaces from inside, becomes the container's user, and execs. It is run by cmd/init.
//
// It is started in one of three modes (package spec, handshake). In mode init it is born in the new
// namespaces: it mounts the root file system, everything in it and pivots into it (rootfs.go, mounts.go), opens the
// terminal (console.go), finds the user (user.go), and then runs a prepared list of system calls whose last
// is execve(2) (program.go, creds.go). In mode join it first gets itself into the PID namespace of
// another container. In mode exec it joins a running container: nothing is mounted, only the second half is done.
// With --init, what it execs is a reaper of a few hundred bytes (reaper.go).
//
// Everything in the root is hostile: images may hold any link anywhere, and volumes may be rewritten by
// another container meanwhile. Paths are resolved by openat2(2) inside the root, mounts are attached by file descriptor, and
// nothing is looked at first and used later.
//
// The program must be small and quick, for its start is part of every container's: x/sys/unix, no fmt, no
// encoding/json, no os.
package initproc

import (
	"errors"
	"runtime"
	"strconv"
	"unsafe"

	"gantry/internal/kernel/fs"
	"gantry/internal/runtime/spec"

	"golang.org/x/sys/unix"
)

// Main runs the program; args are the process's. It returns only to have the process exit with 1.
//
// The caller must be on the main thread and locked to it: namespaces and credentials are a thread's.
func Main(args []string) {
	runtime.LockOSThread()
	// Nobody may look into this process, not even through /proc (CVE-2019-5736), nor inherit what it has open.
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseRange(spec.FdPayload, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	unix.Umask(0)
	easeMonitor()
	if len(args) < 2 {
		failed("init", errors.New("no mode")).(*failure).send()
		return
	}
	payload, err := awaitPayload()
	if err == nil {
		switch args[1] {
		case spec.ModeInit:
			var s *spec.Init
			if s, err = decodeInit(payload); err == nil {
				err = start(s, nil)
			}
		case spec.ModeJoin:
			err = join(payload)
		case spec.ModeExec:
			err = enter(payload)
		default:
			err = errors.New("unknown mode " + args[1])
		}
	}
	failed("init", err).(*failure).send()
}

// easeMonitor has the runtime's monitor thread wait for its turn. It wakes ten thousand times a second, on the processor where the main
// thread works, and the kernel lets it in each time, 20 µs all told; a batch thread (sched(7)) does not displace others. It ends at the
// execve, and the container inherits nothing. The monitor is the first thread that the runtime starts, so here, where this process is the first of
// its PID namespace, it is the second of all; with other PID namespaces nobody knows its number, and all stays as it is.
func easeMonitor() {
	const batch = 3 // SCHED_BATCH
	if unix.Getpid() == 1 {
		var param struct{ priority int32 }
		unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 2, batch, uintptr(unsafe.Pointer(&param)))
	}
}

// launch is a container being started.
type launch struct {
	spec   *spec.Init
	joined *target // whose PID namespace it lives in, or nil
	root   fs.Root // its root file system, a mount
	null   int     // the host's /dev/null, O_PATH
	// mounted maps the targets mounted by us to their mounts' descriptors (O_PATH-like, at their roots).
	mounted map[string]int
	// fresh are those of them that are a tmpfs made here, in which everything was made by init.
	fresh map[string]bool

	ownProc         bool // what is mounted on /proc was made here, for this PID namespace
	probed, setattr bool // see mountSetattr
}

// start is mode init and, with the container whose PID namespace is joined, the rest of mode join: the
// container's process is then a child.
func start(s *spec.Init, joined *target) error {
	if len(s.Exec.Args) == 0 {
		return errors.New("no command specified")
	}
	l := &launch{spec: s, joined: joined, mounted: make(map[string]int), fresh: make(map[string]bool)}
	if s.User {
		// The maps are written, but the process may still be nobody in them.
		if err := becomeRoot(); err != nil {
			return failed("user namespace", err)
		}
	}
	for _, f := range []func() error{
		l.joinNamespaces, l.openNull, l.setNames, l.mountRoot, l.mountAll, l.makeDevices, l.openStdio,
		l.setSysctls, l.hide, l.setLimits, l.finishRoot,
	} {
		if err := f(); err != nil {
			return err
		}
	}
	return l.execute(joined != nil)
}

func (l *launch) openStdio() error {
	if l.spec.Exec.Terminal {
		return l.openConsole()
	}
	return ownNull(l.root)
}

// becomeRoot makes the caller root of its user namespace: uid 0 there, all groups dropped.
func becomeRoot() error {
	for _, c := range []func() error{
		func() error { return rawErr(unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0)) },
		func() error { return rawErr(unix.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0)) },
		func() error { return rawErr(unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)) },
	} {
		if err := c(); err != nil {
			return err
		}
	}
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	return nil
}

func rawErr(_, _ uintptr, e unix.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

// namespaceFlags names the namespaces of spec.Join.
var namespaceFlags = map[string]int{
	"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS, "cgroup": unix.CLONE_NEWCGROUP,
}

func (l *launch) joinNamespaces() error {
	for _, j := range l.spec.Join {
		if err := enterNamespace(j); err != nil {
			return explain("join "+j.Type, "join the "+j.Type+" namespace", err)
		}
	}
	if l.spec.CgroupNS {
		if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
			return explain("cgroup namespace", "unshare the cgroup namespace", err)
		}
	}
	return nil
}

func enterNamespace(j spec.Join) error {
	flag, ok := namespaceFlags[j.Type]
	if !ok {
		return errors.New("unknown type of namespace: " + j.Type)
	}
	if j.Path != "" {
		fd, err := unix.Open(j.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Setns(fd, flag)
	}
	dir, err := openProcess(j.Of)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return setnsAt(dir, j.Type, flag)
}

// openProcess opens the directory of p in the host's /proc. What is opened below it afterwards belongs to the
// same process or fails with ESRCH, whatever becomes of the number. (A pidfd cannot be had: in a new PID
// namespace the host's pids do not exist, while the host's /proc is still mounted.)
func openProcess(p spec.Process) (int, error) {
	proc, err := fs.HostProc()
	if err != nil {
		return -1, err
	}
	defer proc.Close()
	dir, err := proc.Open(strconv.Itoa(p.Pid), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, errGone
	}
	fd, err := unix.Openat(dir, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	var buf [1024]byte
	n := 0
	if err == nil {
		n, err = unix.Read(fd, buf[:])
		unix.Close(fd)
	}
	if t, ok := startTime(buf[:max(n, 0)]); err != nil || !ok || t != p.StartTime {
		unix.Close(dir)
		return -1, errGone
	}
	return dir, nil
}

func setnsAt(dir int, name string, flag int) error {
	fd, err := unix.Openat(dir, "ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Setns(fd, flag)
}

var errGone = errors.New("the container whose namespace is to be joined is no longer running")

// startTime reads field 22 of /proc/pid/stat. The command (field 2) may hold spaces and parentheses.
func startTime(stat []byte) (uint64, bool) {
	i := len(stat) - 1
	for i >= 0 && stat[i] != ')' {
		i--
	}
	if i < 0 {
		return 0, false
	}
	field := 2
	for i++; i < len(stat); i++ {
		if stat[i] != ' ' {
			continue
		}
		if field++; field == 22 {
			end := i + 1
			for end < len(stat) && stat[end] >= '0' && stat[end] <= '9' {
				end++
			}
			n, err := strconv.ParseUint(string(stat[i+1:end]), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

func (l *launch) openNull() (err error) {
	if l.null, err = unix.Open("/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err != nil {
		return explain("open /dev/null", "open the host's /dev/null", err)
	}
	if !isDevice(l.null, unix.S_IFCHR, 1, 3) {
		return failed("open /dev/null", errors.New("the host's /dev/null is not the null device"))
	}
	return nil
}

func isDevice(fd int, format uint32, major, minor uint32) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == format && st.Rdev == unix.Mkdev(major, minor)
}

// loopback brings up the only interface a new network namespace has.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var ifr struct { // struct ifreq
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(ifr.name[:], "lo")
	ifr.flags = unix.IFF_UP | unix.IFF_RUNNING
	return rawErr(unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&ifr))))
}

func (l *launch) setNames() error {
	if l.spec.Clone&unix.CLONE_NEWNET != 0 {
		if err := loopback(); err != nil {
			return explain("network", "bring up the loopback interface", err)
		}
	}
	if l.spec.Clone&unix.CLONE_NEWUTS == 0 {
		return nil
	}
	if h := l.spec.Hostname; h != "" {
		if err := unix.Sethostname([]byte(h)); err != nil {
			return explain("hostname", "set hostname "+h, err)
		}
	}
	if d := l.spec.Domainname; d != "" {
		if err := unix.Setdomainname([]byte(d)); err != nil {
			return explain("domainname", "set domainname "+d, err)
		}
	}
	return nil
}

// setSysctls does not write below a path, for /proc in the root could be anything (CVE-2025-52881). It writes
// through the descriptor of the procfs that was just made for the container, and never across a mount point; or
// else through an instance that nobody else sees. What sysctls act on are the namespaces of this thread.
func (l *launch) setSysctls() error {
	if len(l.spec.Sysctls) == 0 {
		return nil
	}
	var proc fs.Proc
	if fd, ok := l.mounted["/proc"]; ok && l.ownProc {
		proc = fs.ProcAt(fd)
	} else {
		var err error
		if proc, err = fs.NewProc(); err != nil {
			return failed("proc", err)
		}
		defer proc.Close()
	}
	for k, v := range l.spec.Sysctls {
		path := []byte("sys/" + k)
		for i, c := range path {
			// As sysctl(8): dots and slashes change places, whichever comes first being the separator.
			if c == '.' {
				path[i] = '/'
			}
		}
		if err := proc.Write(string(path), v); err != nil {
			return explain("sysctl", "set sysctl "+k, err)
		}
	}
	return nil
}

// setLimits sets what is a process's and not a thread's. It goes through the host's /proc, which shows this
// process in any PID namespace, and which no container can have changed.
func (l *launch) setLimits() error {
	proc, err := fs.HostProc()
	if err != nil {
		return failed("proc", err)
	}
	defer proc.Close()
	return setLimits(proc, &l.spec.Exec)
}

func setLimits(proc fs.Proc, e *spec.Exec) error {
	self, err := ownPID(proc)
	if err != nil {
		return failed("proc", err)
	}
	if adj := e.OOMScoreAdj; adj != nil {
		err := proc.Write(self+"/oom_score_adj", strconv.Itoa(*adj))
		// Back to 0 may be forbidden too, where the supervisor has a higher one. Nobody asked for it.
		if err != nil && (*adj != 0 || !errors.Is(err, unix.EACCES)) {
			return explain("oom_score_adj", "set oom_score_adj to "+strconv.Itoa(*adj), err)
		}
	}
	return setLabels(proc, self+"/task/"+self+"/attr/", e)
}

// ownPID returns the caller's pid as proc shows it: the target of its link "self".
func ownPID(proc fs.Proc) (string, error) {
	var buf [16]byte
	n, err := unix.Readlinkat(proc.Fd(), "self", buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// rlimits adds the setting of limits, last of all that this program does for itself: under a low one for open
// files or memory it could not run. The limits are the process's, whichever thread sets them.
func (p *program) rlimits(limits []spec.Rlimit) {
	for _, r := range limits {
		p.call("rlimit", "error setting rlimit type "+strconv.Itoa(r.Type), unix.SYS_PRLIMIT64, 0, uintptr(r.Type), ptr(p, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}), 0)
	}
}

// setLabels sets what the security modules shall make of the process at execve(2).
func setLabels(proc fs.Proc, attr string, e *spec.Exec) error {
	if e.AppArmor != "" {
		err := proc.Write(attr+"apparmor/exec", "exec "+e.AppArmor) // Linux 5.8
		if errors.Is(err, unix.ENOENT) {
			err = proc.Write(attr+"exec", "exec "+e.AppArmor)
		}
		if err != nil {
			return explain("apparmor", "unable to apply apparmor profile "+e.AppArmor, err)
		}
	}
	if e.Label != "" {
		if err := proc.Write(attr+"exec", e.Label); err != nil {
			return explain("label", "unable to set SELinux label "+e.Label, err)
		}
	}
	return nil
}

// execute is the end of mode init.
func (l *launch) execute(fork bool) error {
	e := &l.spec.Exec
	a, err := lookupAccount(l.root, e.User, e.Groups)
	if err != nil {
		return failed("user", err)
	}
	if err := chownStdio(a.uid); err != nil {
		return err
	}
	p := newProgram()
	env := environment(e.Env, a.home)
	if e.Reaper {
		err = p.reaper(e.Args, env)
	} else {
		p.exec(e.Args, env)
	}
	if err != nil {
		return failed("init", err)
	}
	p.finish(e, a, false, fork)
	p.run()
	return nil
}

// reaperFd is where the reaper's program is, when it is wanted. Nothing else is open but the status socket.
const reaperFd = spec.FdPayload

// finish adds all that comes between standing in the right namespaces and execve(2).
func (p *program) finish(e *spec.Exec, a account, newUser, fork bool) {
	// From here on nothing of the host may be open: a working directory like /proc/self/fd/7 would be a way
	// out of the root (CVE-2024-21626). Closed is better than close-on-exec for that.
	if p.fd != reaperFd {
		p.try(unix.SYS_CLOSE, spec.FdPayload)
	}
	p.try(unix.SYS_CLOSE_RANGE, spec.FdStatus+1, uintptr(^uint32(0)), 0)
	p.rlimits(e.Rlimits)
	p.chdir(directory(e.Cwd))
	if !fork {
		p.session(e)
	}
	p.secure(e, a, newUser)
	p.chdirAgain()
	if fork {
		p.fork(true)
		p.session(e)
	}
	p.add(opExec)
}

// fork adds a fork whose child goes on as a child of the supervisor, and whose parent ends.
func (p *program) fork(report bool) {
	o := op{kind: opFork, fail: p.head("fork", codeFailed, "fork")}
	o.args[0] = unix.CLONE_PARENT | uintptr(unix.SIGCHLD)
	if report {
		o.args[1] = 1
	}
	p.ops = append(p.ops, o)
}

// session gives the process a session, with a terminal makes stdin its controlling one, and tells that the
// exec is near: as late as it can be, but before a filter that may forbid to tell.
func (p *program) session(e *spec.Exec) {
	p.try(unix.SYS_SETSID)
	if e.Terminal {
		p.call("terminal", "set controlling terminal", unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	}
	p.try(unix.SYS_UMASK, uintptr(umask(e)))
	p.add(opSignals)
	p.message(spec.StatusExec)
	if e.AwaitPids { // nothing of the container may run before the limit is set
		p.try(unix.SYS_READ, spec.FdStatus, p.cstring("  "), 2)
	}
}

// message adds the sending of a status message.
func (p *program) message(m string) {
	p.try(unix.SYS_WRITE, spec.FdStatus, p.cstring(m), uintptr(len(m)))
}

func directory(cwd string) string {
	if cwd == "" {
		return "/"
	}
	return cwd
}

func umask(e *spec.Exec) uint32 {
	if e.Umask != nil {
		return *e.Umask
	}
	return 0o022
}

// environment adds HOME where it is missing.
func environment(env []string, home string) []string {
	for _, v := range env {
		if len(v) >= 5 && v[:5] == "HOME=" {
			return env
		}
	}
	return append(env[:len(env):len(env)], "HOME="+home)
}

// chownStdio gives the process's streams to its user, so that it can open /dev/stdout; devices other than
// terminals stay whose they are.
func chownStdio(uid uint32) error {
	if uid == 0 {
		return nil
	}
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return explain("stdio", "stat fd "+strconv.Itoa(fd), err)
		}
		if st.Uid == uid || st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}
		err := unix.Fchown(fd, int(uid), int(st.Gid))
		// Read-only file systems, unmapped owners and sockets: the streams still work as they are.
		if err != nil && err != unix.EINVAL && err != unix.EPERM && err != unix.EROFS {
			return explain("stdio", "chown fd "+strconv.Itoa(fd), err)
		}
	}
	return nil
}
