package container

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"

	"gantry/internal/resolvconf"
)

// writeFiles writes hostname, hosts and resolv.conf, which are bound over the image's, and returns the directory
// they lie in. They are written in place, not replaced: a container that has them bound would keep the old ones.
//
// linked are the lines of the hosts file for linked containers.
func (c *container) writeFiles(net *Connection, linked []byte) (string, error) {
	if err := os.Mkdir(filepath.Join(c.dir, "rootfs"), 0o755); err != nil && !os.IsExist(err) {
		return "", err
	}
	h := c.now.HostConfig
	if h.NetworkMode.IsContainer() {
		other, err := c.s.find(h.NetworkMode.ConnectedContainer())
		if err != nil {
			return "", err
		}
		if m := other.get().HostConfig.NetworkMode; m.IsContainer() {
			if other, err = c.s.find(m.ConnectedContainer()); err != nil {
				return "", err
			}
		}
		return other.dir, nil
	}
	hosts, err := hostsFile(h, c.now.Config, c.s.hostGateway)
	if err != nil {
		return "", err
	}
	hosts = append(hosts, linked...)
	hosts = append(hosts, ownHosts(net, c.now.Config)...)
	for _, f := range []struct {
		name string
		data []byte
	}{{"hostname", []byte(c.now.Config.Hostname + "\n")}, {"hosts", hosts}, {"resolv.conf", resolvConf(h, net != nil && net.Resolver)}} {
		if err := overwrite(filepath.Join(c.dir, f.name), f.data); err != nil {
			return "", fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return c.dir, nil
}

// overwrite writes a file in place. It gives up no block before the new content has one: on a full disk the old content would be gone.
func overwrite(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	return errors.Join(err, f.Close())
}

// rewriteFiles brings hosts and resolv.conf of a running container in line with its connections, which are about to be n.
// They are mounted in it, and so changed in place. What the user changed in them stays.
func (c *container) rewriteFiles(n *Connection) {
	h := c.now.HostConfig
	hosts := filepath.Join(c.dir, "hosts")
	old, err := os.ReadFile(hosts)
	if err == nil {
		before := ownHosts(&Connection{Endpoints: c.now.Endpoints}, c.now.Config)
		after := ownHosts(n, c.now.Config)
		now := slices.DeleteFunc(strings.SplitAfter(string(old), "\n"), func(line string) bool {
			return line != "" && strings.Contains(string(before), line) && !strings.Contains(string(after), line)
		})
		for line := range strings.Lines(string(after)) {
			if !slices.Contains(now, line) {
				now = append(now, line)
			}
		}
		if text := strings.Join(now, ""); text != string(old) {
			err = overwrite(hosts, []byte(text))
		}
	}
	conf := filepath.Join(c.dir, "resolv.conf")
	if err == nil && n.Resolver {
		if old, err = os.ReadFile(conf); err == nil && bytes.Equal(old, resolvConf(h, false)) {
			err = overwrite(conf, resolvConf(h, true))
		}
	}
	if err != nil {
		c.s.Log.Warn("a running container's hosts and resolv.conf do not follow its networks", "container", c.id, "err", err)
	}
}

const loopbackHosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::	ip6-localnet
ff00::	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// ownHosts are the lines of a container's own addresses.
func ownHosts(net *Connection, c *api.Config) []byte {
	var b bytes.Buffer
	if net == nil || c.Hostname == "" {
		return nil
	}
	names := c.Hostname // which may be the whole name already
	if c.Domainname != "" {
		names += "." + c.Domainname
	}
	if first, _, ok := strings.Cut(names, "."); ok {
		names += " " + first
	}
	for _, name := range slices.Sorted(maps.Keys(net.Endpoints)) {
		e := net.Endpoints[name]
		for _, a := range []netip.Addr{e.IPAddress, e.GlobalIPv6Address} {
			if a.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", a, names)
			}
		}
	}
	return b.Bytes()
}

// hostGateway is what host-gateway stands for.
func (s *Service) hostGateway() (netip.Addr, error) {
	if s.Connector == nil {
		return netip.Addr{}, errors.New("unable to derive the IP value for host-gateway")
	}
	return s.Connector.HostGateway()
}

func hostsFile(h *api.HostConfig, c *api.Config, gateway func() (netip.Addr, error)) ([]byte, error) {
	var b bytes.Buffer
	if h.NetworkMode.IsHost() {
		own, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		b.Write(own)
		if len(own) > 0 && own[len(own)-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString(loopbackHosts)
	}
	for _, e := range h.ExtraHosts {
		x, err := parseExtraHost(e)
		if err != nil {
			return nil, err
		}
		if !x.addr.IsValid() {
			if x.addr, err = gateway(); err != nil {
				return nil, err
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", x.addr, x.name)
	}
	return b.Bytes(), nil
}

// resolvConf is the host's, with what the user asked for in its place (resolv.conf(5)).
//
// With resolver, names are answered inside the container, and it asks the others itself.
func resolvConf(h *api.HostConfig, resolver bool) []byte {
	conf := resolvconf.Private
	if h.NetworkMode.IsHost() {
		conf = resolvconf.Host
	}
	var b bytes.Buffer
	options := append([]string(nil), h.DNSOptions...)
	if resolver {
		b.WriteString("nameserver 127.0.0.11\n")
	}
	for _, f := range conf() {
		switch f[0] {
		case "nameserver":
			if resolver || len(h.DNS) > 0 || len(f) < 2 {
				continue
			}
		case "search", "domain":
			if len(h.DNSSearch) > 0 {
				continue
			}
		case "options":
			if len(h.DNSOptions) == 0 {
				options = append(options, f[1:]...)
			}
			continue
		}
		b.WriteString(strings.Join(f, " ") + "\n")
	}
	for _, a := range h.DNS {
		if resolver {
			break
		}
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	// `--dns-search .` means: none.
	if len(h.DNSSearch) > 0 && (len(h.DNSSearch) != 1 || h.DNSSearch[0] != ".") {
		fmt.Fprintf(&b, "search %s\n", strings.Join(h.DNSSearch, " "))
	}
	// Names without a dot are asked for as they are.
	if resolver && !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "ndots:") }) {
		options = append(options, "ndots:0")
	}
	if len(options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(options, " "))
	}
	return b.Bytes()
}
