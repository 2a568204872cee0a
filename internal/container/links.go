package container

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"gantry/internal/errs"
)

// Legacy links (`--link CONTAINER:ALIAS` on the default network, which has no names): the container finds the other one in
// its /etc/hosts, and what the other one exposes and was given in its environment. In networks of users a link is a
// name that only this container has for another, and the name server's business.

// Link is a container that another one is linked to.
type Link struct {
	ID    string `json:"id"` // so that it may be renamed
	Alias string `json:"alias"`
	Name  string `json:"name"` // when the link was made, for when it is gone
}

// parseLink reads CONTAINER[:ALIAS], or /CONTAINER:/PARENT/ALIAS as inspect shows it.
func parseLink(s string) (name, alias string, err error) {
	name, alias, given := strings.Cut(s, ":")
	switch {
	case s == "":
		return "", "", errs.Invalid.Errorf("empty string specified for links")
	case strings.Contains(alias, ":"):
		return "", "", errs.Invalid.Errorf("bad format for links: %s", s)
	case !given:
		return name, name, nil
	case strings.HasPrefix(name, "/"):
		return name[1:], path.Base(alias), nil
	}
	return name, alias, nil
}

// resolveLinks finds the containers that a new one is linked to.
func (s *Service) resolveLinks(h *api.HostConfig) (links []Link, err error) {
	const undefined = "This would result in undefined behavior"
	switch {
	case len(h.Links) > 0 && h.NetworkMode.IsContainer():
		return nil, errs.Invalid.Errorf("conflicting options: container type network can't be used with links. %s", undefined)
	case len(h.Links) > 0 && h.NetworkMode.IsHost():
		return nil, errs.Invalid.Errorf("conflicting options: host type networking can't be used with links. %s", undefined)
	case h.NetworkMode.IsUserDefined():
		return nil, nil
	}
	for _, l := range h.Links {
		name, alias, err := parseLink(l)
		if err != nil {
			return nil, err
		}
		c, err := s.find(name)
		for err == nil && c.get().HostConfig.NetworkMode.IsContainer() {
			name = c.get().HostConfig.NetworkMode.ConnectedContainer()
			c, err = s.find(name)
		}
		if err != nil {
			// Not of the kind "not found": to clients that would mean the image.
			return nil, errs.Invalid.Errorf("could not get container for %s: %w", name, err)
		}
		if c.get().HostConfig.NetworkMode.IsHost() {
			return nil, errs.Invalid.Errorf("conflicting options: host type networking can't be used with links. %s", undefined)
		}
		if !slices.ContainsFunc(links, func(l Link) bool { return l.Alias == alias }) {
			links = append(links, Link{c.id, alias, c.get().Name})
		}
	}
	return links, nil
}

// linked is a container that another one is linked to, as it is now.
type linked struct {
	Snapshot
	alias string
	e     *network.EndpointSettings // on the default network
}

// linked returns those that snap is linked to. All of them must run: as in Docker, a container is not started without
// one that was removed, until `rm --link` takes the link away.
func (s *Service) linked(snap *Snapshot) (list []linked, err error) {
	for _, l := range snap.Links {
		child, err := s.Get(l.ID)
		if _, on := child.Wanted["bridge"]; err == nil && !on {
			return nil, errs.Internal.Errorf("Cannot link to /%s, as it does not belong to the default network", child.Name)
		}
		if err == nil {
			l.Name = child.Name
		}
		e := child.Endpoints["bridge"]
		if err != nil || !child.Status.Alive() || e == nil {
			return nil, errs.Internal.Errorf("Cannot link to a non running container: /%s AS /%s/%s", l.Name, snap.Name, l.Alias)
		}
		list = append(list, linked{child, l.Alias, e})
	}
	return list, nil
}

// names are what the hosts file calls it.
func (l *linked) names() string {
	names := l.alias + " " + l.Config.Hostname
	if l.alias != l.Name {
		names += " " + l.Name
	}
	return names
}

// linkHosts are the lines of a hosts file.
func linkHosts(list []linked) []byte {
	var b bytes.Buffer
	for i := range list {
		for _, a := range []netip.Addr{list[i].e.IPAddress, list[i].e.GlobalIPv6Address} {
			if a.IsValid() {
				fmt.Fprintf(&b, "%s\t%s\n", a, list[i].names())
			}
		}
	}
	return b.Bytes()
}

// linkEnv are the variables that tell of linked containers.
func linkEnv(parent string, list []linked) (env []string) {
	for i := range list {
		env = append(env, list[i].env(parent)...)
	}
	return env
}

// env is what dockerd makes of a link; scripts of that age read it.
func (l *linked) env(parent string) (env []string) {
	add := func(format string, args ...any) { env = append(env, fmt.Sprintf(format, args...)) }
	prefix := strings.ReplaceAll(strings.ToUpper(l.alias), "-", "_")
	var ports []network.Port
	for p := range l.Config.ExposedPorts {
		ports = append(ports, p)
	}
	byNumber := func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(a.Num(), b.Num()), cmp.Compare(protoRank(a), protoRank(b)))
	}
	ip := l.e.IPAddress
	url := func(p network.Port) string { return fmt.Sprintf("%s://%s:%d", p.Proto(), ip, p.Num()) }
	name := func(p network.Port) string {
		return fmt.Sprintf("%s_PORT_%d_%s", prefix, p.Num(), strings.ToUpper(string(p.Proto())))
	}
	if len(ports) > 0 {
		add("%s_PORT=%s", prefix, url(slices.MinFunc(ports, byNumber)))
	}
	slices.SortFunc(ports, func(a, b network.Port) int {
		return cmp.Or(cmp.Compare(protoRank(a), protoRank(b)), cmp.Compare(a.Proto(), b.Proto()), cmp.Compare(a.Num(), b.Num()))
	})
	for i := 0; i < len(ports); {
		j := i
		for j+1 < len(ports) && ports[j+1].Num() == ports[j].Num()+1 {
			j++
		}
		if p, q := ports[i], ports[j]; j > i+1 {
			add("%s_START=%s", name(p), url(p))
			add("%s_ADDR=%s", name(p), ip)
			add("%s_PROTO=%s", name(p), p.Proto())
			add("%s_PORT_START=%d", name(p), p.Num())
			add("%s_END=%s", name(p), url(q))
			add("%s_PORT_END=%d", name(p), q.Num())
			i = j + 1
		} else {
			i++
		}
	}
	for _, p := range ports {
		add("%s=%s", name(p), url(p))
		add("%s_ADDR=%s", name(p), ip)
		add("%s_PORT=%d", name(p), p.Num())
		add("%s_PROTO=%s", name(p), p.Proto())
	}
	add("%s_NAME=/%s/%s", prefix, parent, l.alias)
	for _, e := range l.Config.Env {
		if k, v, ok := strings.Cut(e, "="); ok && k != "HOME" && k != "PATH" {
			add("%s_ENV_%s=%s", prefix, k, v)
		}
	}
	return env
}

// protoRank puts TCP first.
func protoRank(p network.Port) int {
	if p.Proto() == network.TCP {
		return 0
	}
	return 1
}

// relink brings the hosts files of those that are linked to c in line with its address, which each start may change.
func (c *container) relink() {
	s := c.s
	if !s.links.Load() {
		return
	}
	now := *c.snap.Load()
	s.work.Go(func() { // behind: two containers that are linked to each other must not wait for each other
		for _, p := range s.all() {
			if !p.Status.Alive() || !slices.ContainsFunc(p.Links, func(l Link) bool { return l.ID == now.ID }) {
				continue
			}
			if parent, err := s.find(p.ID); err == nil {
				parent.post(func() { parent.rewriteLinks(&now) })
			}
		}
	})
}

// rewriteLinks puts the address of a linked container into the hosts file, in the place of the one before.
func (c *container) rewriteLinks(child *Snapshot) {
	file := filepath.Join(c.dir, "hosts")
	old, err := os.ReadFile(file)
	if err != nil {
		return
	}
	text := string(old)
	for _, l := range c.now.Links {
		e := child.Endpoints["bridge"]
		if l.ID != child.ID || e == nil {
			continue
		}
		x := linked{*child, l.Alias, e}
		text = withoutNames(text, x.names()) + string(linkHosts([]linked{x}))
	}
	if text != string(old) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			c.s.Log.Warn("a container's hosts file does not follow its links", "container", c.id, "err", err)
		}
	}
}

// withoutNames leaves out the lines of a hosts file that are for these names.
func withoutNames(hosts, names string) string {
	var b strings.Builder
	for line := range strings.Lines(hosts) {
		if _, n, ok := strings.Cut(line, "\t"); !ok || strings.TrimSuffix(n, "\n") != names {
			b.WriteString(line)
		}
	}
	return b.String()
}

// LinkNames tells by which names, PARENT/ALIAS, containers are known through links, by ID.
func (s *Service) LinkNames() map[string][]string {
	if !s.links.Load() {
		return nil
	}
	names := map[string][]string{}
	for _, p := range s.all() {
		for _, l := range p.Links {
			names[l.ID] = append(names[l.ID], p.Name+"/"+l.Alias)
		}
	}
	return names
}

// Linked are a container's links as inspect shows them: /CHILD:/PARENT/ALIAS.
func (s *Service) Linked(snap *Snapshot) (list []string) {
	for _, l := range snap.Links {
		if child, err := s.Get(l.ID); err == nil {
			l.Name = child.Name
		}
		list = append(list, "/"+l.Name+":/"+snap.Name+"/"+l.Alias)
	}
	return list
}

// byLink finds a container by PARENT/ALIAS. s.mu is held for reading.
func (s *Service) byLink(ref string) *container {
	name, alias, ok := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	p := s.byID[s.names[name]]
	if !ok || p == nil {
		return nil
	}
	for _, l := range p.snap.Load().Links {
		if l.Alias == alias {
			return s.byID[l.ID]
		}
	}
	return nil
}

// removeLink is `rm --link PARENT/ALIAS`: the link goes, the containers stay.
func (s *Service) removeLink(ctx context.Context, ref string) error {
	name, alias, ok := strings.Cut(strings.TrimPrefix(ref, "/"), "/")
	if !ok {
		if _, err := s.find(ref); err != nil {
			return err
		}
		return errs.Internal.Errorf("Conflict, cannot remove the default link name of the container")
	}
	p, err := s.find(name)
	if err != nil {
		return errs.Internal.Errorf("Cannot get parent /%s for name /%s", name, strings.TrimPrefix(ref, "/"))
	}
	if !slices.ContainsFunc(p.get().Links, func(l Link) bool { return l.Alias == alias }) {
		return errNoSuch(ref)
	}
	return p.do(ctx, func() error {
		if l, err := s.linked(&p.now); err == nil {
			file := filepath.Join(p.dir, "hosts")
			if old, err := os.ReadFile(file); err == nil {
				for i := range l {
					if l[i].alias == alias {
						os.WriteFile(file, []byte(withoutNames(string(old), l[i].names())), 0o644)
					}
				}
			}
		}
		p.now.Links = slices.DeleteFunc(slices.Clone(p.now.Links), func(l Link) bool { return l.Alias == alias })
		p.publish()
		return p.save(p.s.State.Submit)()
	})
}
