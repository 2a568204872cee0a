package system

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/system"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
)

// Info is `system info`.
var Info = &command.Command{
	Name: "info", Top: "info", Args: "[OPTIONS]", Short: "Show what the engine knows of itself and its host",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error { return showInfo(ctx, env, *format) }
	},
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

type clientInfo struct {
	Debug    bool
	Platform struct{ Name string } `json:",omitzero"`
	Version  string                `json:",omitempty"`
	Context  string
	Plugins  []string
	Warnings []string
}

type dockerInfo struct {
	*system.Info `json:",omitempty"`
	ServerErrors []string    `json:",omitempty"`
	UserName     string      `json:"-"`
	ClientInfo   *clientInfo `json:",omitempty"`
	ClientErrors []string    `json:",omitempty"`
}

func showInfo(ctx context.Context, env *command.Env, format string) error {
	d := dockerInfo{ClientInfo: &clientInfo{Debug: env.Debug || os.Getenv("DEBUG") != "", Version: env.Version, Context: "default", Plugins: []string{}}}
	c, err := env.Client()
	if err == nil {
		var raw []byte
		if raw, err = c.Info(ctx); err == nil {
			d.Info = &system.Info{}
			err = json.Unmarshal(raw, d.Info)
		}
	}
	if format != "" {
		if format == "json" {
			format = "{{json .}}"
		}
		t, perr := formatter.Template("").Parse(format)
		if perr != nil {
			return &command.StatusError{Text: "template parsing error: " + perr.Error(), Code: 64}
		}
		if err != nil {
			d.ServerErrors = append(d.ServerErrors, err.Error())
			d.Info = &system.Info{}
		}
		xerr := t.Execute(env.IO.Out, d)
		fmt.Fprintln(env.IO.Out)
		if xerr != nil {
			return xerr
		}
		if err != nil {
			return err
		}
		return nil
	}
	w := env.IO.Out
	fmt.Fprintln(w, "Client:")
	fmt.Fprintf(w, " Version:    %s\n Context:    %s\n Debug Mode: %t\n\nServer:\n", d.ClientInfo.Version, d.ClientInfo.Context, d.ClientInfo.Debug)
	if err != nil {
		fmt.Fprintln(env.IO.Err, err)
		return &command.StatusError{Text: "errors pretty printing info", Code: 1}
	}
	printInfo(w, env.IO.Err, d.Info)
	for _, warn := range d.Warnings {
		fmt.Fprintln(env.IO.Err, warn)
	}
	return nil
}

func printInfo(w, stderr io.Writer, i *system.Info) {
	p := func(format string, a ...any) { fmt.Fprintf(w, " "+format+"\n", a...) }
	opt := func(label, v string) {
		if v != "" {
			p("%s: %s", label, v)
		}
	}
	p("Containers: %d", i.Containers)
	p(" Running: %d", i.ContainersRunning)
	p(" Paused: %d", i.ContainersPaused)
	p(" Stopped: %d", i.ContainersStopped)
	p("Images: %d", i.Images)
	opt("Server Version", i.ServerVersion)
	opt("Storage Driver", i.Driver)
	for _, kv := range i.DriverStatus {
		p(" %s: %s", kv[0], kv[1])
	}
	opt("Logging Driver", i.LoggingDriver)
	opt("Cgroup Driver", i.CgroupDriver)
	opt("Cgroup Version", i.CgroupVersion)
	p("Plugins:")
	p(" Volume: %s", strings.Join(i.Plugins.Volume, " "))
	p(" Network: %s", strings.Join(i.Plugins.Network, " "))
	if len(i.Plugins.Authorization) > 0 {
		p(" Authorization: %s", strings.Join(i.Plugins.Authorization, " "))
	}
	p(" Log: %s", strings.Join(i.Plugins.Log, " "))
	if len(i.CDISpecDirs) > 0 {
		p("CDI spec directories:")
		for _, d := range i.CDISpecDirs {
			p("  %s", d)
		}
	}
	p("Swarm: %s", i.Swarm.LocalNodeState)
	if len(i.Runtimes) > 0 {
		p("Runtimes: %s", strings.Join(sortedKeys(i.Runtimes), " "))
	}
	if i.OSType == "linux" {
		p("Default Runtime: %s", i.DefaultRuntime)
		p("Init Binary: %s", i.InitBinary)
		p("containerd version: %s", i.ContainerdCommit.ID)
		p("runc version: %s", i.RuncCommit.ID)
		p("init version: %s", i.InitCommit.ID)
		if len(i.SecurityOptions) > 0 {
			p("Security Options:")
			for _, o := range i.SecurityOptions {
				printSecurity(w, o)
			}
		}
	}
	opt("Kernel Version", i.KernelVersion)
	opt("Operating System", i.OperatingSystem)
	opt("OSType", i.OSType)
	opt("Architecture", i.Architecture)
	p("CPUs: %d", i.NCPU)
	p("Total Memory: %s", units.BytesSize(float64(i.MemTotal)))
	opt("Name", i.Name)
	opt("ID", i.ID)
	p("Docker Root Dir: %s", i.DockerRootDir)
	p("Debug Mode: %t", i.Debug)
	if i.Debug {
		p(" File Descriptors: %d", i.NFd)
		p(" Goroutines: %d", i.NGoroutines)
		p(" System Time: %s", i.SystemTime)
		p(" EventsListeners: %d", i.NEventsListener)
	}
	opt("HTTP Proxy", i.HTTPProxy)
	opt("HTTPS Proxy", i.HTTPSProxy)
	opt("No Proxy", i.NoProxy)
	if len(i.Labels) > 0 {
		p("Labels:")
		for _, l := range i.Labels {
			p(" %s", l)
		}
	}
	p("Experimental: %t", i.ExperimentalBuild)
	if r := i.RegistryConfig; r != nil {
		if len(r.InsecureRegistryCIDRs) > 0 || len(r.IndexConfigs) > 0 {
			p("Insecure Registries:")
			for _, name := range sortedKeys(r.IndexConfigs) {
				if !r.IndexConfigs[name].Secure {
					p(" %s", name)
				}
			}
			for _, c := range r.InsecureRegistryCIDRs {
				p(" %s", c.String())
			}
		}
		if len(r.Mirrors) > 0 {
			p("Registry Mirrors:")
			for _, m := range r.Mirrors {
				p(" %s", m)
			}
		}
	}
	p("Live Restore Enabled: %t", i.LiveRestoreEnabled)
	opt("Product License", i.ProductLicense)
	if len(i.DefaultAddressPools) > 0 {
		p("Default Address Pools:")
		for _, a := range i.DefaultAddressPools {
			p("  Base: %s, Size: %d", a.Base, a.Size)
		}
	}
	if i.FirewallBackend != nil {
		p("Firewall Backend: %s", i.FirewallBackend.Driver)
		for _, v := range i.FirewallBackend.Info {
			p("  %s: %s", v[0], v[1])
		}
	}
	fmt.Fprintln(w)
}

// printSecurity prints an option such as name=seccomp,profile=default.
func printSecurity(w io.Writer, o string) {
	for j, kv := range strings.Split(o, ",") {
		k, v, ok := strings.Cut(kv, "=")
		switch {
		case !ok:
			fmt.Fprintf(w, "  %s\n", kv)
		case j == 0 && k == "name":
			fmt.Fprintf(w, "  %s\n", v)
		case k == "profile":
			fmt.Fprintf(w, "   Profile: %s\n", v)
		default:
			fmt.Fprintf(w, "   %s: %s\n", k, v)
		}
	}
}
