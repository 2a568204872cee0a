package system

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/system"
	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/formatter"
	"gantry/internal/client"
)

// Version is `version`.
var Version = &command.Command{
	Name: "version", Args: "[OPTIONS]", Short: "Show the versions of the command line and the engine",
	Flags: func(fs *pflag.FlagSet, env *command.Env) command.Run {
		format := fs.StringP("format", "f", "", "json, or a Go template")
		return func(ctx context.Context, env *command.Env, args []string) error {
			return showVersion(ctx, env, *format)
		}
	},
}

type versionInfo struct {
	Client clientVersion
	Server *system.VersionResponse
}

type clientVersion struct {
	Platform          *system.PlatformInfo `json:",omitempty"`
	Version           string               `json:"Version,omitempty"`
	APIVersion        string               `json:"ApiVersion,omitempty"`
	DefaultAPIVersion string               `json:"DefaultAPIVersion,omitempty"`
	GitCommit         string               `json:"GitCommit,omitempty"`
	GoVersion         string               `json:"GoVersion,omitempty"`
	Os                string               `json:"Os,omitempty"`
	Arch              string               `json:"Arch,omitempty"`
	BuildTime         string               `json:"BuildTime,omitempty"`
	Context           string               `json:"Context"`
}

func buildTime(s string) string {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t.Format(time.ANSIC)
	}
	return s
}

func showVersion(ctx context.Context, env *command.Env, format string) error {
	if format == "json" {
		format = "{{json .}}"
	}
	tmpl := formatter.Template("version")
	if _, err := tmpl.Parse(format); err != nil {
		return &command.StatusError{Text: "template parsing error: " + err.Error(), Code: 64}
	}
	c, cerr := env.Client()
	v := versionInfo{Client: clientVersion{
		Version: env.Version, APIVersion: client.Version, DefaultAPIVersion: client.Version, GitCommit: env.Commit, GoVersion: runtime.Version(),
		Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: buildTime(env.Built), Context: "default",
	}}
	if cerr == nil {
		var sv system.VersionResponse
		if sv, cerr = c.ServerVersion(ctx); cerr == nil {
			v.Server = &sv
			for _, comp := range sv.Components {
				if comp.Details["BuildTime"] != "" {
					comp.Details["BuildTime"] = buildTime(comp.Details["BuildTime"])
				}
			}
			sv.BuildTime = buildTime(sv.BuildTime)
		}
		v.Client.APIVersion = c.APIVersion()
	}
	if format != "" {
		if err := tmpl.Execute(env.IO.Out, v); err != nil {
			fmt.Fprintln(env.IO.Out)
			return err
		}
		fmt.Fprintln(env.IO.Out)
		return cerr
	}
	printVersion(env.IO.Out, &v)
	return cerr
}

type pair struct{ key, value string }

// block prints keys and values, the values in one column.
func block(w io.Writer, indent string, pairs []pair) {
	const width = 18 // as Docker's client aligns them
	for _, p := range pairs {
		fmt.Fprintf(w, "%s%-*s%s\n", indent, width+1-len(indent), p.key+":", p.value)
	}
}

func printVersion(w io.Writer, v *versionInfo) {
	c := &v.Client
	fmt.Fprintln(w, "Client:")
	apiVersion := c.APIVersion
	if c.APIVersion != c.DefaultAPIVersion {
		apiVersion += " (downgraded from " + c.DefaultAPIVersion + ")"
	}
	block(w, " ", []pair{{"Version", c.Version}, {"API version", apiVersion}, {"Go version", c.GoVersion}, {"Git commit", c.GitCommit},
		{"Built", c.BuildTime}, {"OS/Arch", c.Os + "/" + c.Arch}, {"Context", c.Context}})
	if v.Server == nil {
		return
	}
	s := v.Server
	title := "Server:"
	if s.Platform.Name != "" {
		title += " " + s.Platform.Name
	}
	fmt.Fprintf(w, "\n%s\n", title)
	components := s.Components
	if len(components) == 0 { // engines before 18.05 have none
		components = []system.ComponentVersion{{Name: "Engine", Version: s.Version, Details: map[string]string{
			"ApiVersion": s.APIVersion, "MinAPIVersion": s.MinAPIVersion, "GitCommit": s.GitCommit, "GoVersion": s.GoVersion, "Os": s.Os, "Arch": s.Arch,
			"BuildTime": s.BuildTime, "Experimental": strconv.FormatBool(s.Experimental),
		}}}
	}
	for _, comp := range components {
		fmt.Fprintf(w, " %s:\n", comp.Name)
		d := comp.Details
		if comp.Name == "Engine" {
			pairs := []pair{{"Version", comp.Version}, {"API version", d["ApiVersion"] + " (minimum version " + d["MinAPIVersion"] + ")"},
				{"Go version", d["GoVersion"]}, {"Git commit", d["GitCommit"]}, {"Built", d["BuildTime"]}, {"OS/Arch", d["Os"] + "/" + d["Arch"]},
				{"Experimental", d["Experimental"]}}
			block(w, "  ", pairs)
			continue
		}
		pairs := []pair{{"Version", comp.Version}}
		for _, k := range sortedKeys(d) {
			pairs = append(pairs, pair{k, d[k]})
		}
		block(w, "  ", pairs)
	}
}
