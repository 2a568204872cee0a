package parse

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/mount"
)

// Mount reads one --mount: comma-separated key=value pairs, quoted as in CSV.
func Mount(s string) (mount.Mount, error) {
	m := mount.Mount{Type: mount.TypeVolume}
	fields, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return m, err
	}
	bind := func() *mount.BindOptions {
		if m.BindOptions == nil {
			m.BindOptions = &mount.BindOptions{}
		}
		return m.BindOptions
	}
	volume := func() *mount.VolumeOptions {
		if m.VolumeOptions == nil {
			m.VolumeOptions = &mount.VolumeOptions{}
		}
		return m.VolumeOptions
	}
	driver := func() *mount.Driver {
		if volume().DriverConfig == nil {
			m.VolumeOptions.DriverConfig = &mount.Driver{}
		}
		return m.VolumeOptions.DriverConfig
	}
	tmpfs := func() *mount.TmpfsOptions {
		if m.TmpfsOptions == nil {
			m.TmpfsOptions = &mount.TmpfsOptions{}
		}
		return m.TmpfsOptions
	}
	for _, field := range fields {
		key, value, has := strings.Cut(field, "=")
		key = strings.ToLower(key)
		if !has {
			switch key {
			case "readonly", "ro", "volume-nocopy", "bind-nonrecursive":
				value = "true"
			default:
				return m, fmt.Errorf("invalid field '%s' must be a key=value pair", field)
			}
		}
		boolean := func() (bool, error) {
			on, err := strconv.ParseBool(value)
			if err != nil {
				return false, fmt.Errorf("invalid value for %s: %s", key, value)
			}
			return on, nil
		}
		switch key {
		case "type":
			m.Type = mount.Type(strings.ToLower(value))
		case "source", "src":
			m.Source = value
			if strings.HasPrefix(value, "."+string(filepath.Separator)) || value == "." {
				if abs, err := filepath.Abs(value); err == nil {
					m.Source = abs
				}
			}
		case "target", "dst", "destination":
			m.Target = value
		case "readonly", "ro":
			m.ReadOnly, err = boolean()
		case "consistency":
			m.Consistency = mount.Consistency(strings.ToLower(value))
		case "bind-propagation":
			bind().Propagation = mount.Propagation(strings.ToLower(value))
		case "bind-nonrecursive":
			bind().NonRecursive, err = boolean()
		case "bind-create-src":
			bind().CreateMountpoint, err = boolean()
		case "bind-recursive":
			switch value {
			case "enabled":
			case "disabled":
				bind().NonRecursive = true
			case "writable":
				bind().ReadOnlyNonRecursive = true
			case "readonly":
				bind().ReadOnlyForceRecursive = true
			default:
				return m, fmt.Errorf(`invalid value for %s: %s (must be "enabled", "disabled", "writable", or "readonly")`, key, value)
			}
		case "volume-subpath":
			volume().Subpath = value
		case "volume-nocopy":
			volume().NoCopy, err = boolean()
		case "volume-label":
			if volume().Labels == nil {
				m.VolumeOptions.Labels = map[string]string{}
			}
			k, v, _ := strings.Cut(value, "=")
			if k != "" {
				m.VolumeOptions.Labels[k] = v
			}
		case "volume-driver":
			driver().Name = value
		case "volume-opt":
			if driver().Options == nil {
				m.VolumeOptions.DriverConfig.Options = map[string]string{}
			}
			k, v, _ := strings.Cut(value, "=")
			if k != "" {
				m.VolumeOptions.DriverConfig.Options[k] = v
			}
		case "image-subpath":
			if m.ImageOptions == nil {
				m.ImageOptions = &mount.ImageOptions{}
			}
			m.ImageOptions.Subpath = value
		case "tmpfs-size":
			n, err := units.RAMInBytes(value)
			if err != nil {
				return m, fmt.Errorf("invalid value for %s: %s", key, value)
			}
			tmpfs().SizeBytes = n
		case "tmpfs-mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return m, fmt.Errorf("invalid value for %s: %s", key, value)
			}
			tmpfs().Mode = os.FileMode(n)
		default:
			return m, fmt.Errorf("unexpected key '%s' in '%s'", key, field)
		}
		if err != nil {
			return m, err
		}
	}
	switch {
	case m.Type == "":
		return m, errors.New("type is required")
	case m.Target == "":
		return m, errors.New("target is required")
	case m.VolumeOptions != nil && m.Type != mount.TypeVolume:
		return m, fmt.Errorf("cannot mix 'volume-*' options with mount type '%s'", m.Type)
	case m.ImageOptions != nil && m.Type != mount.TypeImage:
		return m, fmt.Errorf("cannot mix 'image-*' options with mount type '%s'", m.Type)
	case m.BindOptions != nil && m.Type != mount.TypeBind:
		return m, fmt.Errorf("cannot mix 'bind-*' options with mount type '%s'", m.Type)
	case m.TmpfsOptions != nil && m.Type != mount.TypeTmpfs:
		return m, fmt.Errorf("cannot mix 'tmpfs-*' options with mount type '%s'", m.Type)
	}
	if b := m.BindOptions; b != nil {
		if b.ReadOnlyNonRecursive && !m.ReadOnly {
			return m, errors.New("option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction")
		}
		if b.ReadOnlyForceRecursive {
			if !m.ReadOnly {
				return m, errors.New("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction")
			}
			if b.Propagation != mount.PropagationRPrivate {
				// The engine would make submounts that arrive later writable.
				return m, errors.New("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction")
			}
		}
	}
	return m, nil
}

// Volume reads one -v. bind reports that it names a source (a path or a volume) and belongs to the host's configuration;
// otherwise it is a path for an anonymous volume. A source that begins with a dot is made absolute.
func Volume(s string) (spec string, bind bool, err error) {
	if s == "" {
		return "", false, errors.New("invalid empty volume spec")
	}
	source, rest, ok := strings.Cut(s, ":")
	if !ok {
		return s, false, nil
	}
	if source == "" {
		return "", false, fmt.Errorf("invalid spec: %s: empty section between colons", s)
	}
	if strings.HasPrefix(source, ".") {
		if abs, err := filepath.Abs(source); err == nil {
			source = abs
		}
	}
	return source + ":" + rest, true, nil
}
