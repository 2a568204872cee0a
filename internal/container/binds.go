package container

import (
	"os"
	"path"
	"path/filepath"
	"strings"

	api "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"gantry/internal/errs"
)

// parseBind reads one value of `-v`: host:container[:options] or volume:container[:options]. A path alone is an
// anonymous volume, which the CLI sends as Config.Volumes.
func parseBind(spec string) (m api.MountPoint, o MountOptions, err error) {
	invalid := func(format string, args ...any) (api.MountPoint, MountOptions, error) {
		return m, o, errs.Invalid.Errorf("invalid volume specification: '%s'"+format, append([]any{spec}, args...)...)
	}
	parts := strings.Split(spec, ":")
	if i := strings.Index(spec, ":map="); i > 0 && len(parts) == 4 { // its own value may hold a colon
		parts = []string{parts[0], parts[1], parts[2] + ":" + parts[3]}
	}
	switch {
	case len(parts) > 3 || parts[0] == "":
		return invalid("")
	case len(parts) == 1:
		parts = append([]string{""}, parts...)
	case len(parts) == 2 && isMode(parts[1]):
		return invalid("") // a volume without a name has no options
	case len(parts) == 3:
		m.Mode = parts[2]
	}
	m.Type, m.Source, m.RW, m.Propagation = mount.TypeBind, filepath.Clean(parts[0]), true, mount.PropagationRPrivate
	o.MakeSource = true
	if !path.IsAbs(parts[0]) {
		m.Type, m.Name, m.Source, m.Propagation, o = mount.TypeVolume, parts[0], "", "", MountOptions{}
	}
	m.Destination = path.Clean(parts[1])
	switch {
	case parts[1] == "":
		return invalid(": invalid mount config for type %q: field Target must not be empty", m.Type)
	case m.Destination == "/":
		return invalid(": invalid mount config for type %q: invalid specification: destination can't be '/'", m.Type)
	case !path.IsAbs(parts[1]):
		return invalid(": invalid mount config for type %q: invalid mount path: '%s' mount path must be absolute", m.Type, parts[1])
	}
	if m.Mode == "" {
		return m, o, nil
	}
	seen := map[string]bool{}
	for w := range strings.SplitSeq(m.Mode, ",") {
		kind := modeWord(w)
		switch {
		case kind == "" || seen[kind], kind == "map" && m.Type != mount.TypeBind:
			return m, o, errs.Invalid.Errorf("invalid mode: %s", m.Mode)
		case kind == "rw":
			m.RW = w == "rw"
		case kind == "copy":
			if m.Type != mount.TypeVolume {
				return invalid(": invalid mount config for type %q: field VolumeOptions must not be specified", m.Type)
			}
			o.NoCopy = true
		case kind == "propagation":
			if m.Type != mount.TypeBind {
				return invalid(": invalid mount config for type %q: field BindOptions must not be specified", m.Type)
			}
			m.Propagation = mount.Propagation(w)
		case kind == "map":
			if err := checkMap(w); err != nil {
				return invalid(": %w", err)
			}
			o.Map = w
		}
		seen[kind] = true
	}
	return m, o, nil
}

// modeWord tells what a word of a mode is about; of each kind there may be one.
func modeWord(w string) string {
	switch w {
	case "ro", "rw":
		return "rw"
	case "z", "Z":
		return "label"
	case "nocopy":
		return "copy"
	case "consistent", "cached", "delegated":
		return "consistency"
	case "private", "rprivate", "shared", "rshared", "slave", "rslave":
		return "propagation"
	}
	if w == "map" || strings.HasPrefix(w, "map=") {
		return "map"
	}
	return ""
}

func isMode(s string) bool {
	for w := range strings.SplitSeq(s, ",") {
		if modeWord(w) == "" {
			return false
		}
	}
	return true
}

// makeSources creates the host directories that `-v` names and that do not exist, as Docker does; `--mount`
// refuses them.
func makeSources(snap *Snapshot) error {
	for _, m := range snap.Mounts {
		if m.Type != mount.TypeBind {
			continue
		}
		if o, known := snap.MountOptions[m.Destination]; known && !o.MakeSource {
			if _, err := os.Stat(m.Source); os.IsNotExist(err) {
				return errs.Invalid.Errorf("invalid mount config for type %q: bind source path does not exist: %s", m.Type, m.Source)
			}
			continue
		}
		if _, err := os.Stat(m.Source); os.IsNotExist(err) {
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return errs.Internal.Errorf("error while creating mount source path '%s': %w", m.Source, err)
			}
		}
	}
	return nil
}
