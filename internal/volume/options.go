package volume

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"

	"gantry/internal/errs"
)

// needs are the options of Docker's local driver, and which others each wants.
var needs = map[string][]string{"type": {"device"}, "device": {"type"}, "o": {"device", "type"}, "size": nil}

// checkOptions refuses what Docker's local driver refuses.
func checkOptions(o map[string]string) error {
	for k := range o {
		if _, ok := needs[k]; !ok {
			return errs.Invalid.Errorf("invalid option: %q", k)
		}
	}
	if v, ok := o["size"]; ok {
		if _, err := units.RAMInBytes(v); err != nil {
			return errs.Invalid.Wrap(err)
		}
	}
	for _, k := range []string{"device", "type", "o"} {
		if _, ok := o[k]; !ok {
			continue
		}
		for _, other := range needs[k] {
			if _, ok := o[other]; !ok {
				return errs.Invalid.Errorf("missing required option: %q", other)
			}
		}
	}
	return nil
}

// Source says how a volume is mounted: a folder of the host that is bound, or a file system of its own.
type Source struct {
	Path string // bound, with Recursive all that is mounted in it

	Type, Device string // when Type is not empty: mounted anew
	Options      []string
	Recursive    bool
	// From names another container that has the file system mounted and holds its content: a tmpfs is shared by being bound
	// from there, at the place where that container has this volume.
	From string
}

// source makes a Source of the options. data is the volume's own folder.
func (r *record) source(data string) Source {
	if !r.mounted() {
		return Source{Path: data, Recursive: true}
	}
	var words []string
	for w := range strings.SplitSeq(r.Options["o"], ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	recursive := slices.Contains(words, "rbind")
	if recursive || slices.Contains(words, "bind") {
		return Source{Path: r.Options["device"], Recursive: recursive, Options: slices.DeleteFunc(words, func(w string) bool { return w == "bind" || w == "rbind" })}
	}
	return Source{Type: r.Options["type"], Device: r.Options["device"], Options: words}
}

// ready refuses a folder that is not there, in Docker's words, and turns a server's name into its address: the kernel knows no names.
func (s *Service) ready(ctx context.Context, r *record, src *Source) error {
	if src.Type == "" {
		if !r.mounted() {
			return nil
		}
		if _, err := os.Stat(src.Path); err != nil {
			err = errors.Unwrap(err)
			return errs.Internal.Errorf("error while mounting volume '%s': failed to mount local volume: mount %s:%s, flags: 0x1000: %w", s.data(r.Name), src.Path, s.data(r.Name), err)
		}
		return nil
	}
	if err := src.resolve(ctx, lookup); err != nil {
		return errs.Internal.Errorf("error while mounting volume '%s': error resolving passed in network volume address: %w", s.data(r.Name), err)
	}
	return nil
}

// resolve puts addresses in the place of names: that in NFS' and CIFS' option addr, or else in CIFS' //server/share.
func (src *Source) resolve(ctx context.Context, lookup func(context.Context, string) (string, error)) error {
	if !strings.HasPrefix(src.Type, "nfs") && src.Type != "cifs" {
		return nil
	}
	for i, o := range src.Options {
		host, ok := strings.CutPrefix(o, "addr=")
		if !ok {
			continue
		}
		addr, err := lookup(ctx, host)
		if err != nil {
			return err
		}
		src.Options[i] = "addr=" + addr
		return nil
	}
	share, ok := strings.CutPrefix(src.Device, "//")
	if host, rest, named := strings.Cut(share, "/"); ok && named && host != "" && src.Type == "cifs" {
		addr, err := lookup(ctx, host)
		if err != nil {
			return err
		}
		src.Device = "//" + addr + "/" + rest
	}
	return nil
}

// lookup returns the address of a host: of several one of IPv4, as Docker does. An address is its own.
func lookup(ctx context.Context, host string) (string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return host, nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	i := max(0, slices.IndexFunc(found, func(a netip.Addr) bool { return a.Unmap().Is4() }))
	return found[i].Unmap().String(), nil
}

// mounted reports whether the options ask for a mount of something else than the volume's own folder.
func (r *record) mounted() bool { return r.Options["type"] != "" || r.Options["device"] != "" }

// bound is the folder of the host that the options bind; empty where they don't.
func (r *record) bound() string {
	if src := r.source(""); r.mounted() && src.Type == "" {
		return src.Path
	}
	return ""
}

// fillable reports whether content of an image can come into the volume.
func (r *record) fillable() bool {
	return !r.mounted() || r.bound() != "" && !slices.Contains(r.source("").Options, "ro")
}
