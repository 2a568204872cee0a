package portmap

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
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

// holder names the process that has a port of the calling thread's namespace: "pid 12 (nginx)", or "".
func holder(proto string, port uint16) string {
	var inodes []string
	for _, f := range []string{proto, proto + "6"} {
		data, err := os.Open("/proc/thread-self/net/" + f)
		if err != nil {
			continue
		}
		inodes = append(inodes, socketsOn(bufio.NewScanner(data), proto, port)...)
		data.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		fds, _ := os.ReadDir("/proc/" + p.Name() + "/fd")
		for _, fd := range fds {
			to, err := os.Readlink("/proc/" + p.Name() + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(to, "socket:[") {
				continue
			}
			if slices.Contains(inodes, strings.Trim(to[len("socket:"):], "[]")) {
				comm, _ := os.ReadFile("/proc/" + p.Name() + "/comm")
				return "pid " + p.Name() + " (" + strings.TrimSpace(string(comm)) + ")"
			}
		}
	}
	return ""
}

// socketsOn reads the inodes of sockets that wait on the port from one of /proc/net/{tcp,tcp6,udp,udp6} (proc_net(5)).
func socketsOn(lines *bufio.Scanner, proto string, port uint16) (inodes []string) {
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 {
			continue
		}
		_, p, ok := strings.Cut(f[1], ":")
		raw, err := hex.DecodeString(p)
		if !ok || err != nil || len(raw) != 2 || uint16(raw[0])<<8|uint16(raw[1]) != port {
			continue
		}
		const listen, closed = "0A", "07" // of udp: bound
		if proto == "tcp" && f[3] != listen || proto == "udp" && f[3] != closed {
			continue
		}
		inodes = append(inodes, f[9])
	}
	return inodes
}
