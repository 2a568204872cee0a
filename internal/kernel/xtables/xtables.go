// Package xtables reads the kernel's older packet filter, which iptables-legacy writes: what it does with forwarded packets.
//
// Nothing tells when it changes, and nothing but whole tables can be written into it, so writing is left to iptables-legacy.
// The structures are those of linux/netfilter_ipv4/ip_tables.h, netfilter_ipv6/ip6_tables.h and netfilter/x_tables.h.
package xtables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Chain is what a table's built-in chain does.
type Chain struct {
	Drops    bool     // by its policy
	Refuses  bool     // by its last rule, which takes everything
	Comments []string // of its rules that have one
}

// layout is of one family's structures.
type layout struct {
	names       string // a file below /proc/net
	domain, opt int
	entry       int // size of struct ipt_entry
	offsets     int // of target_offset in it, and next_offset behind; all before is what packets are compared with
}

var layouts = map[bool]layout{
	false: {"ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 112, 88},
	true:  {"ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 168, 140},
}

const (
	table      = "filter"
	getInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	getEntries = 65
	infoSize   = 84
	headSize   = 40 // of struct ipt_get_entries before the entries
	maxSize    = 64 << 20
)

// Forward reads the chain FORWARD of the calling thread's namespace; v6 says which of the two. It is nil where nobody has written
// such a table: asking the kernel for it would make one.
func Forward(v6 bool) (*Chain, error) {
	l := layouts[v6]
	names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !slices.Contains(strings.Fields(string(names)), table) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(l.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// It may be written between the two questions.
	for range 100 {
		info := make([]byte, infoSize)
		copy(info, table)
		if err := getsockopt(fd, l.opt, getInfo, info); err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, err)
		}
		size := binary.NativeEndian.Uint32(info[80:])
		if size > maxSize {
			return nil, fmt.Errorf("table %s has %d bytes", table, size)
		}
		all := make([]byte, headSize+int(size))
		copy(all, table)
		binary.NativeEndian.PutUint32(all[32:], size)
		err := getsockopt(fd, l.opt, getEntries, all)
		if err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the rules of table %s: %w", table, err)
		}
		return l.parse(info, all[headSize:])
	}
	return nil, fmt.Errorf("read the rules of table %s: %w", table, unix.EAGAIN)
}

func getsockopt(fd, level, opt int, buf []byte) error {
	n := uint32(len(buf))
	if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0); e != 0 {
		return e
	}
	return nil
}

var errBroken = errors.New("a table that cannot be read")

// parse reads the chain out of struct ipt_getinfo and the entries.
func (l layout) parse(info, entries []byte) (*Chain, error) {
	u32 := func(at int) int { return int(binary.NativeEndian.Uint32(info[at:])) }
	begin, policy := u32(36+4*unix.NF_INET_FORWARD), u32(56+4*unix.NF_INET_FORWARD)
	c := &Chain{}
	for at := begin; ; {
		if at < 0 || at > policy || at+l.entry > len(entries) {
			return nil, errBroken
		}
		e := entries[at:]
		target, next := int(binary.NativeEndian.Uint16(e[l.offsets:])), int(binary.NativeEndian.Uint16(e[l.offsets+2:]))
		if target < l.entry || next < target+32 || next > len(e) {
			return nil, errBroken
		}
		e = e[:next]
		name := text(e[target+2 : target+31])
		// A standard target has no name, and a verdict of -NF_DROP-1. Others may have no data at all.
		drops := name == "" && next >= target+36 && int32(binary.NativeEndian.Uint32(e[target+32:])) == -1
		if at == policy {
			c.Drops = drops
			return c, nil
		}
		// Of the bytes that packets are compared with all are zero when all packets do.
		c.Refuses = target == l.entry && (drops || name == "REJECT") && bytes.Count(e[:l.offsets-4], []byte{0}) == l.offsets-4
		for m := l.entry; m < target; {
			if m+32 > target {
				return nil, errBroken
			}
			size := int(binary.NativeEndian.Uint16(e[m:]))
			if size < 32 || m+size > target {
				return nil, errBroken
			}
			if text(e[m+2:m+31]) == "comment" {
				c.Comments = append(c.Comments, text(e[m+32:m+size]))
			}
			m += size
		}
		at += next
	}
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
