package dockerfile

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

func (w *walk) expose(cmd *instructions.ExposeCommand) error {
	var said, ports []string
	for _, p := range cmd.Ports {
		words, err := w.s.c.expandWords(p, w.s.env)
		if err != nil {
			return err
		}
		said = append(said, words...)
	}
	for _, p := range said {
		list, err := w.ports(p)
		if err != nil {
			return err
		}
		ports = append(ports, list...)
		if err := w.s.c.spend(16 * len(list)); err != nil {
			return err
		}
	}
	config := &w.s.image.Config
	if config.ExposedPorts == nil {
		config.ExposedPorts = make(map[string]struct{}, len(ports))
	}
	for _, p := range ports {
		config.ExposedPorts[p] = struct{}{}
	}
	if w.s.c.o.Classic {
		return w.s.note("EXPOSE "+strings.Join(said, " "), nil)
	}
	return w.s.note(fmt.Sprintf("EXPOSE %v", ports), nil)
}

// ports reads [[ip:]public:]private[/protocol], where private may be a range. Only private matters, but the rest must be
// right.
func (w *walk) ports(spec string) ([]string, error) {
	parts := strings.Split(spec, ":")
	n := len(parts)
	private, ip, public := parts[n-1], "", ""
	if n > 1 {
		public = parts[n-2]
		ip = strings.Join(parts[:n-2], ":")
	}
	private, proto, _ := strings.Cut(private, "/")
	if private == "" {
		return nil, fmt.Errorf("invalid port: %q: no port specified", spec)
	}
	switch strings.ToLower(proto) {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid port: %q: invalid proto: %s", spec, proto)
	}
	if proto != strings.ToLower(proto) {
		w.lint.Run(&linter.RuleExposeProtoCasing, w.cmd.Location(), linter.RuleExposeProtoCasing.Format(spec))
	}
	if ip != "" || public != "" {
		w.lint.Run(&linter.RuleExposeInvalidFormat, w.cmd.Location(), linter.RuleExposeInvalidFormat.Format(spec))
	}
	if ip != "" && ip[0] == '[' {
		bare, _, err := net.SplitHostPort(ip + ":")
		if err != nil {
			return nil, fmt.Errorf("invalid IP address %v: %w", ip, err)
		}
		ip = bare
	}
	if ip != "" && net.ParseIP(ip) == nil {
		return nil, errors.New("invalid IP address: " + ip)
	}
	from, to, err := portRange(private)
	if err != nil {
		return nil, errors.New("invalid containerPort: " + private)
	}
	if public != "" {
		start, end, err := portRange(public)
		if err != nil {
			return nil, errors.New("invalid hostPort: " + public)
		}
		if from != to && to-from != end-start {
			return nil, fmt.Errorf("invalid ranges specified for container and host Ports: %s and %s", private, public)
		}
	}
	list := make([]string, 0, to-from+1)
	for p := from; p <= to; p++ {
		list = append(list, strconv.Itoa(p)+"/"+strings.ToLower(proto))
	}
	return list, nil
}

func portRange(s string) (from, to int, err error) {
	first, last, ok := strings.Cut(s, "-")
	if from, err = port(first); err != nil {
		return 0, 0, err
	}
	if !ok || first == last {
		return from, from, nil
	}
	if to, err = port(last); err != nil {
		return 0, 0, err
	}
	if to < from {
		return 0, 0, errors.New("invalid port range: " + s)
	}
	return from, to, nil
}

func port(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err
}
