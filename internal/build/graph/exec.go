package graph

import (
	"errors"
	"fmt"
)

// Exec runs a program. The mount with Dest "/" is its root file system; there is exactly one.
type Exec struct {
	// Args is the program with its arguments, found by PATH of Env.
	Args []string
	// Env is NAME=value, in order, each name once.
	Env []string
	// Cwd is absolute; it is made if it isn't there.
	Cwd string
	// User is user[:group], by name or number, looked up in the root file system; "" is root.
	User     string
	Hostname string
	// Hosts are further lines of /etc/hosts.
	Hosts        []Host
	Ulimits      []Ulimit
	CgroupParent string
	Network      NetworkMode
	Security     SecurityMode
	// SecretEnv are variables whose values are secrets.
	SecretEnv []SecretEnv
	// ValidExitCodes are the codes that mean success; none means 0.
	ValidExitCodes []int
	// Mounts are in the order in which they are made.
	Mounts []Mount
}

// Host is a line of /etc/hosts. IP may be "host-gateway", which the solver replaces.
type Host struct{ Name, IP string }

// Ulimit is a limit by its name without RLIMIT_, in lower case; -1 is unlimited.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// NetworkMode is the network that an Exec has.
type NetworkMode string

// Default is whatever the solver gives (a network with a way out), Host the host's, None none but the loopback.
const (
	NetworkDefault NetworkMode = ""
	NetworkHost    NetworkMode = "host"
	NetworkNone    NetworkMode = "none"
)

// SecurityMode is how far an Exec is fenced in.
type SecurityMode string

// Sandbox is a default container, Insecure a privileged one.
const (
	SecuritySandbox  SecurityMode = ""
	SecurityInsecure SecurityMode = "insecure"
)

// SecretEnv is an environment variable whose value is a secret of the client's.
type SecretEnv struct {
	ID, Name string
	// Optional secrets may be missing; then the variable isn't set.
	Optional bool
}

// MountType is what is mounted.
type MountType string

// Bind mounts an input (or scratch), Cache a directory that the builder keeps, Tmpfs memory, Secret a file with a secret, SSH the
// socket of an agent.
const (
	MountBind   MountType = "bind"
	MountCache  MountType = "cache"
	MountTmpfs  MountType = "tmpfs"
	MountSecret MountType = "secret"
	MountSSH    MountType = "ssh"
)

// Mount is one mount of an Exec.
type Mount struct {
	Type MountType
	// Dest is where: absolute, or below Cwd. It is made if it isn't there, and then it isn't in the output.
	Dest string
	// Input is what a bind shows and what a new cache starts with: an index into Inputs, or Scratch.
	Input int
	// Source is the part of Input that is mounted, "" for all of it.
	Source   string
	ReadOnly bool
	// Output is the number of the file system that Input with the changes becomes, or NoOutput. Only a bind has one. Outputs
	// are numbered from 0 without gaps.
	Output int
	// Size limits a tmpfs, in bytes; 0 is the kernel's default.
	Size int64
	// ID names a cache, a secret or an agent.
	ID string
	// Sharing says what happens if two use a cache at once.
	Sharing CacheSharing
	// UID, GID and Mode are of the file or socket that a secret or an agent is, and of a cache's directory when it is new and
	// has no Input.
	UID, GID, Mode uint32
	// Optional secrets and agents may be missing; then there is no mount.
	Optional bool
}

// CacheSharing says what happens if two use a cache mount at once.
type CacheSharing string

// Shared lets both write, Private gives the second one another cache, Locked lets the second one wait.
const (
	CacheShared  CacheSharing = "shared"
	CachePrivate CacheSharing = "private"
	CacheLocked  CacheSharing = "locked"
)

// Kind implements Op.
func (*Exec) Kind() string { return "exec" }

func (o *Exec) outputs() int {
	n := 0
	for _, m := range o.Mounts {
		if m.Output != NoOutput {
			n++
		}
	}
	return n
}

func (o *Exec) check(inputs int) error {
	if len(o.Args) == 0 {
		return errors.New("no program to run")
	}
	roots, seen := 0, make([]bool, o.outputs())
	for _, m := range o.Mounts {
		if m.Dest == "/" {
			roots++
			if m.Type != MountBind {
				return fmt.Errorf("the root can't be a %s mount", m.Type)
			}
		}
		if m.Input < Scratch || m.Input >= inputs {
			return fmt.Errorf("mount %s: no input %d", m.Dest, m.Input)
		}
		if m.Output == NoOutput {
			continue
		}
		if m.Type != MountBind {
			return fmt.Errorf("mount %s: a %s mount has no output", m.Dest, m.Type)
		}
		if m.Output < 0 || m.Output >= len(seen) || seen[m.Output] {
			return fmt.Errorf("mount %s: outputs are not numbered from 0 without gaps", m.Dest)
		}
		seen[m.Output] = true
	}
	if roots != 1 {
		return fmt.Errorf("want one mount on /, have %d", roots)
	}
	return nil
}
