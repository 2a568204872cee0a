package api

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Host is what /version and /info say of the engine and of the machine, as far as it does not change while
// the engine runs. The daemon fills it; ReadHost gives what can be read from files.
type Host struct {
	// The engine.
	Version, GitCommit, BuildTime string // BuildTime as RFC 3339
	ID                            string // of this engine, kept in the data-root
	DataRoot                      string
	BackingFS                     string // what the data-root lies on, as fs.TypeName says it
	Debug                         bool
	Labels                        []string
	LoggingDriver                 string // default of new containers; empty: json-file
	InitBinary                    string
	Warnings                      []string // lines "WARNING: …"

	// The machine.
	Name          string // host name
	KernelVersion string
	OS            string // "Debian GNU/Linux 13 (trixie)"
	OSVersion     string // "13"
	Arch          string // as uname(1) says: "x86_64"
	NCPU          int
	MemTotal      int64 // bytes

	// What can be limited and confined.
	CgroupVersion  string // "1" or "2"
	CgroupDriver   string // empty: cgroupfs
	MemoryLimit    bool
	SwapLimit      bool
	CPUCfs         bool
	CPUShares      bool
	CPUSet         bool
	PidsLimit      bool
	OomKillDisable bool
	AppArmor       bool
	Seccomp        bool
	CgroupNS       bool
}

// ReadHost returns the facts about the machine that files tell; what can't be read stays empty.
func ReadHost() Host {
	var h Host
	h.Name, _ = os.Hostname()
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		h.KernelVersion = strings.TrimSpace(string(b))
	}
	for _, path := range []string{"/etc/os-release", "/usr/lib/os-release"} { // os-release(5)
		if b, err := os.ReadFile(path); err == nil {
			h.OS, h.OSVersion = parseOSRelease(b)
			break
		}
	}
	if b, err := os.ReadFile("/proc/meminfo"); err == nil {
		h.MemTotal = parseMemTotal(b)
	}
	h.Arch = machine(runtime.GOARCH)
	h.NCPU = runtime.NumCPU()
	_, err := os.Stat("/proc/self/ns/cgroup")
	h.CgroupNS = err == nil
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil {
		h.AppArmor = len(b) > 0 && b[0] == 'Y'
	}
	_, err = os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	h.Seccomp = err == nil
	return h
}

// machine returns uname(2)'s name of a Go architecture: clients show and match it.
func machine(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return goarch
}

func parseOSRelease(b []byte) (name, version string) {
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		k, val, ok := strings.Cut(s.Text(), "=")
		if !ok {
			continue
		}
		if q, err := strconv.Unquote(val); err == nil {
			val = q
		} else {
			val = strings.Trim(val, `'"`)
		}
		switch k {
		case "PRETTY_NAME":
			name = val
		case "VERSION_ID":
			version = val
		}
	}
	if name == "" {
		name = "Linux" // os-release(5)'s own default
	}
	return name, version
}

func parseMemTotal(b []byte) int64 {
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(rest, "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}
