package events

import (
	"strings"

	api "github.com/moby/moby/api/types/events"
)

// Filter selects messages as the filters of GET /events do: values of one key are alternatives, keys must all
// match. The keys are type, event, scope, image, label, and each type of object by its name or ID
// (container, volume, network, daemon, plugin, node, service, secret, config). Unknown keys select nothing
// out, as in Docker. A nil Filter lets everything pass.
type Filter map[string][]string

// objects are the types that can be filtered for by name or ID.
var objects = [...]api.Type{
	api.ContainerEventType, api.VolumeEventType, api.NetworkEventType, api.DaemonEventType, api.PluginEventType,
	api.NodeEventType, api.ServiceEventType, api.SecretEventType, api.ConfigEventType,
}

// Match reports whether m passes.
func (f Filter) Match(m *api.Message) bool {
	if len(f) == 0 {
		return true
	}
	if !f.exact("type", string(m.Type)) || !f.exact("scope", m.Scope) || !f.event(string(m.Action)) ||
		!f.image(m) || !f.labels(m.Actor.Attributes) {
		return false
	}
	for _, t := range objects {
		k := string(t)
		if len(f[k]) > 0 && !f.prefix(k, m.Actor.ID) && !f.prefix(k, m.Actor.Attributes["name"]) {
			return false
		}
	}
	return true
}

func (f Filter) exact(key string, have ...string) bool {
	want := f[key]
	if len(want) == 0 {
		return true
	}
	for _, w := range want {
		for _, h := range have {
			if w == h {
				return true
			}
		}
	}
	return false
}

func (f Filter) prefix(key, have string) bool {
	for _, w := range f[key] {
		if have != "" && strings.HasPrefix(have, w) {
			return true
		}
	}
	return false
}

// event matches exactly, except for the three actions that carry more after a colon
// ("exec_start: sh -c …"): asking for one of them makes all of the key's values prefixes.
func (f Filter) event(action string) bool {
	for _, w := range f["event"] {
		switch w {
		case "health_status", "exec_create", "exec_start":
			return f.prefix("event", action)
		}
	}
	return f.exact("event", action)
}

// image matches an image's events by ID or name, and those of containers made from it, with or without the tag.
func (f Filter) image(m *api.Message) bool {
	if len(f["image"]) == 0 {
		return true
	}
	name := m.Actor.Attributes["image"]
	if m.Type == api.ImageEventType {
		name = m.Actor.Attributes["name"]
	}
	return f.exact("image", m.Actor.ID, name, repository(m.Actor.ID), repository(name))
}

// labels wants each value, "key" or "key=value", among the attributes: a container's labels are there.
func (f Filter) labels(attrs map[string]string) bool {
	for _, w := range f["label"] {
		k, v, hasValue := strings.Cut(w, "=")
		have, ok := attrs[k]
		if !ok || hasValue && have != v {
			return false
		}
	}
	return true
}

// repository cuts a reference to its familiar name: "docker.io/library/debian:12" to "debian". (No use
// of distribution/reference here: its regular expressions cost 2 ms at start.)
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	ref = strings.TrimPrefix(ref, "docker.io/")
	return strings.TrimPrefix(ref, "library/")
}
