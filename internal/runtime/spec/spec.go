// Package spec is what the engine, the supervisor and the init program say to each other about a process
// that is to be started: finished facts, with every decision made. It is plain data and imports nothing
// of Gantry, for it is linked into the smallest programs.
//
// A container's process is born in three hands. The engine builds a Launch (package runtime) and sends it
// to the supervisor. The supervisor, knowing only the outer half, creates pipes or a pty, forks into the
// cgroup and the new namespaces and starts init. Init reads the inner half (Init, or Exec for an exec; opaque to the
// supervisor; it travels as a memfd that becomes init's fd 3), finishes the namespaces from inside and execs.
package spec

import (
	"strconv"
	"strings"
)

// Version is the version of the Launch and Init encodings. A supervisor accepts this one and the one before.
const Version = 1

// Launch asks the supervisor to start one process: a container's first, or one more inside it (an exec).
type Launch struct {
	ID        string `json:"id"`                  // 64 hexadecimal digits: the container's ID or the exec's
	Container string `json:"container,omitempty"` // for an exec: the ID of the container it runs in
	// Pid and StartTime name, for an exec, the container's first process; StartTime (clock ticks since
	// boot, proc_pid_stat(5) field 22) keeps a recycled pid from being taken for it.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`

	// Clone holds the CLONE_NEW* flags of the namespaces to create (clone(2)); those to join are in Init.
	Clone   uintptr  `json:"clone,omitempty"`
	UIDMaps []IDMap  `json:"uid_maps,omitempty"` // with CLONE_NEWUSER
	GIDMaps []IDMap  `json:"gid_maps,omitempty"`
	JoinPID *Process `json:"join_pid,omitempty"` // join the PID namespace of this process (--pid container:)
	Cgroup  Cgroup   `json:"cgroup"`
	Stdio   Stdio    `json:"stdio"`
	Log     Log      `json:"log"`
	// Timeout is how long init may take until it execs, in nanoseconds; then it is killed. 0 is the supervisor's default.
	Timeout int64 `json:"timeout,omitempty"`
}

// Process names a process beyond doubt.
type Process struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, proc_pid_stat(5) field 22
}

// IDMap is one line of a uid_map or gid_map (user_namespaces(7)).
type IDMap struct {
	Container uint32 `json:"container"`
	Host      uint32 `json:"host"`
	Size      uint32 `json:"size"`
}

// Cgroup says where the process is born. All paths are absolute and exist.
type Cgroup struct {
	Unified string `json:"unified,omitempty"` // the cgroup v2 directory, entered by CLONE_INTO_CGROUP
	// Tasks are the v1 `tasks` files. Init enters them itself, where the payload comes by a socket; else the forking thread writes
	// "0" into them, and into those of Home, the supervisor's own, to come back.
	Tasks []string `json:"tasks,omitempty"`
	Home  []string `json:"home,omitempty"`
	// PidsMax is written after the fork, as PidsMaxFile's content: before it, it would count the forking thread.
	PidsMaxFile string `json:"pids_max_file,omitempty"`
	PidsMax     string `json:"pids_max,omitempty"`
}

// initThreads is more than init has threads (they are the Go runtime's, and end when it execs).
const initThreads = 32

// LatePids reports whether the limit of processes is so low that init itself could not run under it. It is then set
// when init says that it is about to exec, and init waits for that (Exec.AwaitPids).
func (c *Cgroup) LatePids() bool {
	n, err := strconv.Atoi(strings.TrimSpace(c.PidsMax))
	return c.PidsMaxFile != "" && err == nil && n < initThreads
}

// Stdio says what the process's streams are.
type Stdio struct {
	Terminal  bool   `json:"terminal,omitempty"`   // one pty for all three
	OpenStdin bool   `json:"open_stdin,omitempty"` // else stdin is /dev/null
	Height    uint16 `json:"height,omitempty"`     // initial window size in characters, with Terminal
	Width     uint16 `json:"width,omitempty"`
}

// Log says where output is kept.
type Log struct {
	Driver   string            `json:"driver"`              // "json-file" or "none"
	Path     string            `json:"path,omitempty"`      // the newest file; older ones are Path.1, Path.2, …
	MaxSize  int64             `json:"max_size,omitempty"`  // bytes; 0 means unbounded
	MaxFiles int               `json:"max_files,omitempty"` // number of files, the newest included
	Attrs    map[string]string `json:"attrs,omitempty"`     // the "attrs" of each line
}

// Init is the inner half of a container's Launch.
type Init struct {
	Root       Root              `json:"root"`
	Mounts     []Mount           `json:"mounts,omitempty"` // in order, after Root
	Devices    []Device          `json:"devices,omitempty"`
	Masked     []string          `json:"masked,omitempty"`
	ReadOnly   []string          `json:"read_only,omitempty"`
	Hostname   string            `json:"hostname,omitempty"`
	Domainname string            `json:"domainname,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	Join       []Join            `json:"join,omitempty"`
	// Clone repeats Launch.Clone: what is new may be set up, what is not must be left alone. CgroupNS asks
	// init to unshare the cgroup namespace itself, once it stands in its cgroup.
	Clone    uintptr `json:"clone,omitempty"`
	CgroupNS bool    `json:"cgroup_ns,omitempty"`
	User     bool    `json:"user,omitempty"` // runs in a new user namespace
	Exec     Exec    `json:"exec"`
}

// Root is the root file system: an overlay, mounted by init inside the container's own mount namespace, so
// that nothing of it is seen or left on the host; or, when Dir is set, a directory that is ready.
type Root struct {
	Base     string   `json:"base,omitempty"` // init's working directory while it mounts; the others may be relative to it
	Lower    []string `json:"lower,omitempty"`
	Upper    string   `json:"upper,omitempty"`
	Work     string   `json:"work,omitempty"`
	Dir      string   `json:"dir,omitempty"`
	Target   string   `json:"target"` // an empty directory on the host, on which the overlay is mounted
	ReadOnly bool     `json:"read_only,omitempty"`
	// Volatile has nothing of the upper directory synced, whoever asks for it: after a crash nobody wants it (overlayfs's
	// option, Linux 5.10).
	Volatile bool `json:"volatile,omitempty"`
	// Propagation of the whole mount tree inside: "rprivate" (default), "rslave" or "rshared".
	Propagation string `json:"propagation,omitempty"`
}

// Mount is one mount(2) inside the root. Target is resolved inside the root, never following a link out of it.
type Mount struct {
	Type        string   `json:"type"`             // "bind", "tmpfs", "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue" or any other file system
	Source      string   `json:"source,omitempty"` // a host path, for bind
	Target      string   `json:"target"`
	Options     []string `json:"options,omitempty"`      // as in mount(8): ro, nosuid, rbind, size=…, rprivate, …
	Create      bool     `json:"create,omitempty"`       // make a missing target
	CopyContent bool     `json:"copy_content,omitempty"` // tmpfs with tmpcopyup
	// Subpath is what of the source is mounted: it is resolved inside it, never following a link out of it.
	Subpath string `json:"subpath,omitempty"`
	// IDMap is a process in whose user namespace the files of a bind are seen: an owner on disk is an ID inside the namespace, and
	// the container sees the one outside that it stands for (mount_setattr(2), MOUNT_ATTR_IDMAP, Linux 5.12).
	IDMap *Process `json:"id_map,omitempty"`
	// Of: the source of a bind is a path in this process's root and mount namespace, not on the host (the
	// /dev/shm of --ipc container:).
	Of *Process `json:"of,omitempty"`
	// Root: the source of a bind is a path in this file system, which is mounted on its Target for that.
	Root *Root `json:"root,omitempty"`
}

// Device is a node below /dev, made by mknod or, in a user namespace, bound from the host.
type Device struct {
	Path  string `json:"path"`
	Host  string `json:"host"` // the same node on the host
	Type  byte   `json:"type"` // 'c' or 'b'
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	Mode  uint32 `json:"mode"` // permission bits
	UID   uint32 `json:"uid,omitempty"`
	GID   uint32 `json:"gid,omitempty"`
}

// Join names an existing namespace to enter.
type Join struct {
	Type string  `json:"type"`           // "net", "ipc", "uts", "cgroup"
	Of   Process `json:"of"`             // the namespace of this process, or
	Path string  `json:"path,omitempty"` // a bind-mounted namespace file
}

// Exec is what happens last, in a container's first process and in an exec alike.
type Exec struct {
	Args []string `json:"args"`
	Env  []string `json:"env,omitempty"` // PATH among them; HOME is added from the container's passwd when missing
	Cwd  string   `json:"cwd,omitempty"`
	// User is Docker's: "", name, uid, name:group, uid:gid; resolved against the container's own passwd and group.
	User            string   `json:"user,omitempty"`
	Groups          []string `json:"groups,omitempty"` // --group-add: names or gids
	Caps            Caps     `json:"caps"`
	Rlimits         []Rlimit `json:"rlimits,omitempty"`
	NoNewPrivileges bool     `json:"no_new_privileges,omitempty"`
	OOMScoreAdj     *int     `json:"oom_score_adj,omitempty"`
	Seccomp         []byte   `json:"seccomp,omitempty"` // struct sock_filter[], host byte order; nil is unconfined
	AppArmor        string   `json:"apparmor,omitempty"`
	Label           string   `json:"label,omitempty"` // SELinux
	Umask           *uint32  `json:"umask,omitempty"`
	Reaper          bool     `json:"reaper,omitempty"`   // --init: stay as PID 1, forward signals, reap
	Terminal        bool     `json:"terminal,omitempty"` // make stdin the controlling terminal
	// AwaitPids: the limit of processes is set after StatusExec, and answered by StatusOK (Cgroup.LatePids).
	AwaitPids bool `json:"await_pids,omitempty"`
}

// Caps are sets of capability numbers as bit masks: bit n is capability n of linux/capability.h.
type Caps struct {
	Bounding    uint64 `json:"bounding,omitempty"`
	Effective   uint64 `json:"effective,omitempty"`
	Permitted   uint64 `json:"permitted,omitempty"`
	Inheritable uint64 `json:"inheritable,omitempty"`
	Ambient     uint64 `json:"ambient,omitempty"`
}

// Rlimit is one setrlimit(2); Type is its RLIMIT_* number.
type Rlimit struct {
	Type int    `json:"type"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Failure is what init reports, as JSON on its status pipe, when the process could not be started; the
// pipe closing without one means that execve(2) succeeded.
type Failure struct {
	Stage string `json:"stage"` // what was being done: "mount /proc", "exec", "user", "chdir", …
	Errno int    `json:"errno,omitempty"`
	// Message is the whole text for the user, in the words Docker's users know.
	Message string `json:"message"`
	// Code is the exit code of `run`: 126 (cannot be invoked), 127 (not found), or 125 for the rest.
	Code int `json:"code"`
}
