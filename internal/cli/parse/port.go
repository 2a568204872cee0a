package parse

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// Publish reads one -p, either [[ip:]hostPort:]containerPort[/proto] with ranges, or target=80,published=8080,protocol=tcp, and
// adds what it says to ports. The protocol may also follow a colon, as courses have it: 8080:80:tcp.
func Publish(s string, ports network.PortMap) error {
	if strings.Contains(s, "=") {
		long := map[string]string{"protocol": "tcp"}
		for field := range strings.SplitSeq(s, ",") {
			k, v, ok := strings.Cut(field, "=")
			if !ok || k == "" {
				return fmt.Errorf("invalid publish opts format (should be name=value but got '%s')", field)
			}
			long[k] = v
		}
		s = long["published"] + ":" + long["target"] + "/" + long["protocol"]
	}
	if i := strings.LastIndexByte(s, ':'); i >= 0 && isProto(s[i+1:]) {
		s = s[:i] + "/" + s[i+1:]
	}
	spec, proto, hasProto := strings.Cut(s, "/")
	if !hasProto || proto == "" && spec != "" {
		proto = "tcp"
	}
	ip, host, inner := splitPublish(spec)
	var addr netip.Addr
	if ip != "" {
		raw := ip
		if strings.HasPrefix(ip, "[") {
			h, _, err := net.SplitHostPort(ip + ":")
			if err != nil {
				return fmt.Errorf("invalid IP address %v: %w", ip, err)
			}
			raw = h
		}
		a, err := netip.ParseAddr(raw)
		if err != nil {
			return fmt.Errorf("invalid IP address: %s", raw)
		}
		addr = a
	}
	if inner == "" {
		return fmt.Errorf("no port specified: %s<empty>", s)
	}
	first, last, err := portRange(inner)
	if err != nil {
		return fmt.Errorf("invalid containerPort: %s", inner)
	}
	var hostFirst, hostLast uint64
	if host != "" {
		if hostFirst, hostLast, err = portRange(host); err != nil {
			return fmt.Errorf("invalid hostPort: %s", host)
		}
		// One container port may be given a range of host ports to choose from.
		if last-first != hostLast-hostFirst && last != first {
			return fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", inner, host)
		}
	}
	proto = strings.ToLower(proto)
	if !isProto(proto) {
		return fmt.Errorf("invalid proto: %s", proto)
	}
	for i := uint64(0); i <= last-first; i++ {
		b := network.PortBinding{HostIP: addr}
		if host != "" {
			b.HostPort = strconv.FormatUint(hostFirst+i, 10)
			if first == last && hostFirst != hostLast {
				b.HostPort += "-" + strconv.FormatUint(hostLast, 10)
			}
		}
		p, _ := network.PortFrom(uint16(first+i), network.IPProtocol(proto))
		ports[p] = append(ports[p], b)
	}
	return nil
}

func isProto(s string) bool { return s == "tcp" || s == "udp" || s == "sctp" }

func splitPublish(s string) (ip, host, inner string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", s
	}
	s, inner = s[:i], s[i+1:]
	if i = strings.LastIndexByte(s, ':'); i < 0 {
		return "", s, inner
	}
	return s[:i], s[i+1:], inner
}

func portRange(s string) (first, last uint64, err error) {
	a, b, ok := strings.Cut(s, "-")
	if first, err = strconv.ParseUint(a, 10, 16); err != nil {
		return 0, 0, err
	}
	if !ok {
		return first, first, nil
	}
	if last, err = strconv.ParseUint(b, 10, 16); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("invalid range specified for port: %s", s)
	}
	return first, last, nil
}
