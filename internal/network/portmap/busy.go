package portmap

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"gantry/internal/ids"
)

// explain adds who holds the port, and the next one that is free.
func (b *Book) explain(err error, r Request, hosts []netip.Addr, port uint16) error {
	busy := (*Busy)(nil)
	if !errors.As(err, &busy) {
		return err
	}
	who := ""
	if busy.Owner != "" {
		who = "container " + busy.Owner + " has it"
	} else if w := holder(r.Proto, port); w != "" {
		who = w + " has it"
	}
	if next := b.nextFree(r.Proto, hosts, port); next != 0 {
		if who != "" {
			who += "; "
		}
		who += "the next free one is " + strconv.Itoa(int(next))
	}
	if who == "" {
		return busy
	}
	return &Busy{busy.Owner, fmt.Errorf("%w\n(%s)", busy.err, who)}
}

func (b *Book) nextFree(proto string, hosts []netip.Addr, port uint16) uint16 {
	for p := int(port) + 1; p <= min(int(port)+1000, 65535); p++ {
		var list []Binding
		free := true
		for _, a := range hosts {
			x := Binding{Proto: proto, Host: netip.AddrPortFrom(a, uint16(p))}
			if free = b.hold("", x) == nil; !free {
				break
			}
			list = append(list, x)
		}
		b.release(list)
		if free {
			return uint16(p)
		}
	}
	return 0
}

// holder names the process that has a port of the calling thread's namespace: "pid 12 (nginx)", with its container if it is in one, or "".
func holder(proto string, port uint16) string {
	for _, h := range holders(proto, port) {
		if h.Pid > 0 {
			return h.Who()
		}
	}
	return ""
}

// Holder is a socket that waits on a port of the host, and whose it is.
type Holder struct {
	Addr    netip.AddrPort
	Pid     int    // 0: no process could be found
	Command string // its name, as ps shows it
	// Container is the ID of the one that the process belongs to (a container in the host's network), or "".
	Container string `json:",omitempty"`
}

// Holders lists the sockets that wait on a port of the host, but not those of the processes in own.
func (b *Book) Holders(proto string, port uint16, own ...int) (list []Holder, err error) {
	err = b.host.Do(func() error {
		for _, h := range holders(proto, port) {
			if h.Pid == 0 || !slices.Contains(own, h.Pid) {
				list = append(list, h)
			}
		}
		return nil
	})
	return list, err
}

func holders(proto string, port uint16) (list []Holder) {
	inodes := map[string]int{} // → number in list
	for _, f := range []string{proto, proto + "6"} {
		data, err := os.Open("/proc/thread-self/net/" + f)
		if err != nil {
			continue
		}
		for _, s := range socketsOn(bufio.NewScanner(data), proto, port) {
			inodes[s.inode] = len(list)
			list = append(list, Holder{Addr: s.addr})
		}
		data.Close()
	}
	if len(list) == 0 {
		return nil
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		fds, _ := os.ReadDir("/proc/" + p.Name() + "/fd")
		for _, fd := range fds {
			to, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(to, "socket:[") {
				continue
			}
			i, ok := inodes[strings.Trim(to[len("socket:"):], "[]")]
			if !ok || list[i].Pid != 0 {
				continue
			}
			comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
			list[i].Pid, list[i].Command, list[i].Container = pid, strings.TrimSpace(string(comm)), containerOf(p.Name())
		}
	}
	return list
}

// containerOf reads of a process's cgroups whether it is a container's: one is named by its ID.
func containerOf(pid string) string {
	b, _ := os.ReadFile("/proc/" + pid + "/cgroup")
	for line := range strings.Lines(string(b)) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "/") {
			if ids.Valid(part) {
				return part
			}
		}
	}
	return ""
}

// waiting is a socket of /proc/net.
type waiting struct {
	addr  netip.AddrPort
	inode string
}

// socketsOn reads the sockets that wait on the port from one of /proc/net/{tcp,tcp6,udp,udp6} (proc_net(5)).
func socketsOn(lines *bufio.Scanner, proto string, port uint16) (list []waiting) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		a, p, ok := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(p)
		if !ok || err != nil || len(raw) != 2 || uint16(raw[0])<<8|uint16(raw[1]) != port {
			continue
		}
		const listen, closed = "0A", "07" // of udp: bound
		if proto == "tcp" && f[3] != listen || proto == "udp" && f[3] != closed {
			continue
		}
		// An address is written as numbers of 32 bits, in the machine's byte order.
		b, err := hex.DecodeString(a)
		if err != nil || len(b)%4 != 0 {
			continue
		}
		for i := 0; i < len(b); i += 4 {
			binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
		}
		if addr, ok := netip.AddrFromSlice(b); ok {
			list = append(list, waiting{netip.AddrPortFrom(addr, port), f[9]})
		}
	}
	return list
}

// Who names the holder.
func (h *Holder) Who() string {
	switch {
	case h.Pid == 0:
		return "a socket of no process that can be seen"
	case h.Container != "":
		return fmt.Sprintf("pid %d (%s) of container %s", h.Pid, h.Command, ids.Short(h.Container))
	}
	return fmt.Sprintf("pid %d (%s)", h.Pid, h.Command)
}
