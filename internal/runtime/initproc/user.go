package initproc

import (
	"errors"
	"strconv"
	"strings"

	"gantry/internal/kernel/fs"

	"golang.org/x/sys/unix"
)

// maxID is the highest uid or gid that Docker takes.
const maxID = 1<<31 - 1

// maxAccounts bounds the container's passwd and group files, in bytes.
const maxAccounts = 16 << 20

// account is who a process runs as.
type account struct {
	uid, gid uint32
	groups   []uint32 // supplementary; the primary one comes first, as with Docker (CVE-2022-36109)
	home     string
}

// lookupAccount finds user ("", name, uid, each with an optional :group or :gid) and the added groups in the
// passwd and group files of root. The phrases are Docker's.
func lookupAccount(root fs.Root, user string, added []string) (account, error) {
	passwd, err := accounts(root, "/etc/passwd")
	if err != nil {
		return account{}, err
	}
	group, err := accounts(root, "/etc/group")
	if err != nil {
		return account{}, err
	}
	return resolveAccount(user, added, passwd, group)
}

// accounts reads a file; one that is missing is empty.
func accounts(root fs.Root, path string) (string, error) {
	b, err := root.ReadFile(path, maxAccounts)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	return string(b), err
}

var errRange = errors.New("uids and gids must be in range 0-2147483647")

func resolveAccount(user string, added []string, passwd, group string) (account, error) {
	a := account{home: "/"}
	name, groupName, hasGroup := strings.Cut(user, ":")
	hasGroup = hasGroup && groupName != ""
	wanted, numeric := parseID(name)
	found := ""
	for line := range strings.Lines(passwd) {
		f := fields(line, 7)
		uid, ok := parseID(f[2])
		if f[0] == "" || !ok || uid > maxID {
			continue
		}
		if name == "" && uid != 0 || name != "" && numeric && uint64(uid) != wanted || name != "" && !numeric && f[0] != name {
			continue
		}
		gid, _ := parseID(f[3])
		if gid > maxID {
			return a, errRange
		}
		found, a.uid, a.gid, a.home = f[0], uint32(uid), uint32(gid), f[5]
		break
	}
	if found == "" && name != "" {
		if !numeric {
			return a, errors.New("unable to find user " + name + ": no matching entries in passwd file")
		}
		if wanted > maxID {
			return a, errRange
		}
		a.uid = uint32(wanted)
	}
	if a.home == "" {
		a.home = "/"
	}

	if hasGroup {
		gid, err := findGroup(group, groupName)
		if err != nil {
			return a, err
		}
		a.gid = gid
	}
	a.groups = append(a.groups, a.gid)
	if !hasGroup && found != "" {
		for line := range strings.Lines(group) {
			f := fields(line, 4)
			gid, ok := parseID(f[2])
			if ok && gid <= maxID && member(f[3], found) {
				a.add(uint32(gid))
			}
		}
	}
	for _, g := range added {
		gid, err := findGroup(group, g)
		if err != nil {
			return a, err
		}
		a.add(gid)
	}
	return a, nil
}

func (a *account) add(gid uint32) {
	for _, g := range a.groups {
		if g == gid {
			return
		}
	}
	a.groups = append(a.groups, gid)
}

// findGroup returns the gid of a group given by name or number; a number need not be in the file.
func findGroup(file, name string) (uint32, error) {
	id, numeric := parseID(name)
	if numeric {
		if id > maxID {
			return 0, errRange
		}
		return uint32(id), nil
	}
	for line := range strings.Lines(file) {
		f := fields(line, 4)
		gid, ok := parseID(f[2])
		if f[0] == name && ok && gid <= maxID {
			return uint32(gid), nil
		}
	}
	return 0, errors.New("unable to find group " + name + ": no matching entries in group file")
}

func member(list, name string) bool {
	for m := range strings.SplitSeq(list, ",") {
		if m == name {
			return true
		}
	}
	return false
}

// fields splits a line of passwd(5) or group(5) into n fields, empty ones where the line is short.
func fields(line string, n int) []string {
	f := strings.SplitN(strings.TrimSpace(line), ":", n)
	for len(f) < n {
		f = append(f, "")
	}
	return f
}

func parseID(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}
