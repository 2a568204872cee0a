// Package resolvconf reads the host's resolv.conf(5) for those who are to write one of their own: containers and the steps of builds.
package resolvconf

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Conf is what a resolv.conf says: a line for each setting, split into its words; no comments, no empty lines.
type Conf [][]string

// stub is where systemd-resolved listens, on the host's loopback only (systemd-resolved.service(8)).
var stub = netip.AddrFrom4([4]byte{127, 0, 0, 53})

// Host returns the host's. A host without one has no settings.
func Host() Conf { return host("/") }

// Private returns the host's as somebody with a loopback of his own can use it: without the name servers on the host's
// loopback. Where that only leads to systemd-resolved's stub, it is the one that systemd-resolved itself uses, as Docker does it.
func Private() Conf { return private("/") }

func host(root string) Conf { return read(filepath.Join(root, "etc/resolv.conf")) }

func private(root string) Conf {
	conf := host(root)
	if ns := conf.Servers(); len(ns) == 1 && ns[0] == stub {
		if real := read(filepath.Join(root, "run/systemd/resolve/resolv.conf")); real != nil {
			conf = real
		}
	}
	var kept Conf
	for _, f := range conf {
		if a, ok := server(f); !ok || !a.IsLoopback() {
			kept = append(kept, f)
		}
	}
	return kept
}

func read(path string) (conf Conf) {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 0 && !strings.HasPrefix(f[0], "#") && !strings.HasPrefix(f[0], ";") {
			conf = append(conf, f)
		}
	}
	return conf
}

// Servers are its name servers, in their order; what is no address is not among them.
func (c Conf) Servers() (list []netip.Addr) {
	for _, f := range c {
		if a, ok := server(f); ok {
			list = append(list, a)
		}
	}
	return list
}

func server(f []string) (netip.Addr, bool) {
	if f[0] != "nameserver" || len(f) < 2 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(f[1])
	return a, err == nil
}
