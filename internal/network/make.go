package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
	"gantry/internal/kernel/link"
	"gantry/internal/kernel/netns"
	"gantry/internal/network/ipam"
)

// ensure makes what stands for a network on the host, unless it is there. A bridge that is there already, the user's
// or that of an engine before, is taken.
func (s *Service) ensure(n *network) (made bool, err error) {
	n.making.Lock()
	defer n.making.Unlock()
	if n.index != 0 {
		return false, nil
	}
	links := s.Options.Host.Links()
	n.mtu = s.MTU
	if v, err := strconv.Atoi(n.Options[optMTU]); err == nil && v > 0 {
		n.mtu = v
	}
	if n.mtu == 0 {
		n.mtu = links.UplinkMTU()
	}
	if n.isMacvlan() {
		_, err := s.parent(n)
		return false, err
	}
	if n.Driver != "bridge" {
		return false, nil
	}
	var addrs []netip.Prefix
	for _, x := range n.subnets {
		if x.Gateway.IsValid() && !n.without(x.Subnet.Addr().Is6()) {
			addrs = append(addrs, netip.PrefixFrom(x.Gateway, x.Subnet.Bits()))
		}
	}
	l, err := links.Find(n.BridgeName)
	if errors.Is(err, link.ErrNotFound) {
		var seed [4]byte
		rand.Read(seed[:])
		// One of its own: else it would change as containers come and go, and with it their gateway's.
		br := &link.Bridge{Name: n.BridgeName, MTU: n.mtu, MAC: ipam.MAC(n.subnets[0].Gateway, seed), Addrs: addrs}
		err = links.AddBridge(br)
		switched := errors.Is(err, unix.EACCES)
		if switched {
			br.Addrs = nil
			if err = links.AddBridge(br); err == nil {
				err = switchIPv6On(s.Options.Host, n.BridgeName)
			}
		}
		if err == nil {
			l, err = links.Find(n.BridgeName)
		}
		if err == nil && switched {
			err = links.AddGateways(l.Index, addrs)
		}
	} else if err == nil {
		if l.Kind != "bridge" {
			return false, errs.Conflict.Errorf("interface %s exists and is no bridge: give the network another name by -o %s", n.BridgeName, optName)
		}
		if err = links.AddAddrs(l.Index, addrs); errors.Is(err, unix.EACCES) {
			if err = switchIPv6On(s.Options.Host, n.BridgeName); err == nil {
				err = links.AddAddrs(l.Index, addrs)
			}
		}
		if err == nil {
			err = links.Up(n.BridgeName)
		}
	}
	if err != nil {
		return false, err
	}
	if err := s.Options.Host.Do(func() error { return s.sysctls(n) }); err != nil {
		return false, err
	}
	if err := s.table.AddNetwork(n.rules()); err != nil {
		return false, err
	}
	n.index = l.Index
	return true, nil
}

// unmake takes away what ensure made. A bridge that was there before the network stays.
func (s *Service) unmake(n *network) {
	n.making.Lock()
	defer n.making.Unlock()
	if n.isMacvlan() {
		s.forsake(n)
	}
	if n.Driver != "bridge" {
		return
	}
	if err := s.table.RemoveNetwork(n.BridgeName); err != nil {
		s.Log.Warn("removing a network's firewall rules failed", "network", n.Name, "err", err)
	}
	if n.Foreign {
		n.index = 0
		return
	}
	if err := s.Options.Host.Links().Delete(n.BridgeName); err != nil {
		s.Log.Warn("removing a bridge failed", "network", n.Name, "err", err)
	}
	n.index = 0
}

// retire takes away what stands for networks on the host, unless somebody is connected or the user has rules of his own in our table,
// which would go with it. It is all made again when a container needs it.
func (s *Service) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.kept || len(s.joined) > 0 || s.table.Users() {
		return
	}
	if err := s.table.Set(nil, nil); err != nil {
		s.Log.Warn("removing the firewall rules failed", "err", err)
	}
	for _, n := range s.nets {
		n.making.Lock()
		if n.Driver == "bridge" && !n.Foreign && !(n.Name == Bridge && s.Options.Foreign) {
			if err := s.Options.Host.Links().Delete(n.BridgeName); err != nil {
				s.Log.Warn("removing a bridge failed", "network", n.Name, "err", err)
			}
		}
		if n.isMacvlan() {
			s.forsake(n)
		}
		n.index = 0
		n.making.Unlock()
	}
}

// sysctls sets what a bridge needs. The calling thread is in the host's namespace.
func (s *Service) sysctls(n *network) error {
	n.bridged4, n.bridged6 = isOn("net/bridge/bridge-nf-call-iptables"), isOn("net/bridge/bridge-nf-call-ip6tables")
	// Published ports on 127.0.0.1: packets with such addresses may pass the bridge. The firewall lets none in from elsewhere.
	if err := sysctl("net/ipv4/conf/"+n.BridgeName+"/route_localnet", "1"); err != nil {
		return err
	}
	if n.mode(false) == modeIsolated || n.mode(true) == modeIsolated {
		// Nor the address that the kernel makes itself.
		if err := sysctl("net/ipv6/conf/"+n.BridgeName+"/disable_ipv6", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !n.flag(optICC, true) {
		if err := sysctl("net/ipv4/conf/"+n.BridgeName+"/proxy_arp_pvlan", "1"); err != nil { // links.go
			return err
		}
	} else if n.Internal {
		return nil
	}
	if on, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(on)) == "0" {
		s.Log.Info("turning on net.ipv4.ip_forward: the host routes between its networks and containers from now on, and between its own interfaces too unless a firewall says otherwise")
		if err := sysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	if !n.IPv6 {
		return nil
	}
	const all = "net/ipv6/conf/all/forwarding"
	if on, err := os.ReadFile("/proc/sys/" + all); err == nil && strings.TrimSpace(string(on)) == "0" {
		// A forwarding host ignores router advertisements unless told otherwise, and would lose its default route.
		files, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
		for _, f := range files {
			if v, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(v)) == "1" {
				os.WriteFile(f, []byte("2"), 0o644)
			}
		}
		s.Log.Info("turning on net.ipv6.conf.all.forwarding, and accept_ra=2 where router advertisements were accepted")
		return sysctl(all, "1")
	}
	return nil
}

// switchIPv6On lets an interface have IPv6 addresses where new ones may not (net.ipv6.conf.default.disable_ipv6): they are refused
// with EACCES. As Docker, we take a network that was asked for with IPv6 for the more particular wish.
func switchIPv6On(ns *netns.Namespace, iface string) error {
	return ns.Do(func() error { return sysctl("net/ipv6/conf/"+iface+"/disable_ipv6", "0") })
}

// isOn reads a switch below /proc/sys.
func isOn(name string) bool {
	v, err := os.ReadFile("/proc/sys/" + name)
	return err == nil && strings.TrimSpace(string(v)) == "1"
}

func sysctl(name, value string) error {
	path := "/proc/sys/" + name
	if have, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(have)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl: %w", err)
	}
	return nil
}
