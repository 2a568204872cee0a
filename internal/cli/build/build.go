// Package build is the verbs of building: build, and builder's prune and du.
//
// A build talks to the engine through a session (internal/build/session/wire). The Dockerfile is read here, and understood there.
package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"gantry/internal/build/graph"
	"gantry/internal/build/session/offer"
	"gantry/internal/build/session/wire"
	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/client"
	"gantry/internal/errs"
)

// options are build's flags.
type options struct {
	tags, buildArgs, labels, contexts, secrets, ssh, outputs, platforms, hosts, allow, cacheTo, cacheFrom, noCacheFilter, annotations *flags.List

	file, target, network, cgroupParent, progress, iidfile, metadata, cpusetCPUs, cpusetMems, call string
	noCache, pull, quiet, check, why, load, push, debug, squash                                    bool
	ulimits                                                                                        flags.Ulimits
	shm, memory, swap                                                                              flags.Bytes
	cpuShares, cpuPeriod, cpuQuota                                                                 int64
}

func (o *options) register(fs *pflag.FlagSet) {
	list := func(name, short, kind, usage string) *flags.List {
		l := flags.NewList(kind, nil)
		fs.VarP(l, name, short, usage)
		return l
	}
	o.tags = list("tag", "t", "list", "Name of the image: name[:tag]")
	o.buildArgs = list("build-arg", "", "list", "Value of an ARG: name=value, or name to take it from the environment")
	o.labels = list("label", "", "list", "Label of the image: name=value")
	o.contexts = list("build-context", "", "list", "Another source of files: name=folder, name=docker-image://image, name=address")
	o.secrets = list("secret", "", "list", "Secret for RUN --mount=type=secret: id=name[,src=file][,env=variable]")
	o.ssh = list("ssh", "", "list", "SSH agent for RUN --mount=type=ssh: default or id[=socket]")
	o.outputs = list("output", "o", "list", "Where the result goes: type=image|local|tar|docker|oci|registry[,dest=path][,name=…], or a folder, or -")
	o.platforms = list("platform", "", "list", "Platform of the image")
	o.hosts = list("add-host", "", "list", "Line of /etc/hosts for RUN: name:ip")
	o.allow = list("allow", "", "list", "Allow RUN --network=host (network.host) or --security=insecure (security.insecure)")
	o.cacheTo = list("cache-to", "", "list", "Where else the cache goes: type=inline|registry|local[,ref=…][,dest=…][,mode=min|max]")
	o.cacheFrom = list("cache-from", "", "list", "A cache to use besides the engine's: type=registry|local[,ref=…][,src=…], or an image")
	o.noCacheFilter = list("no-cache-filter", "", "list", "Stages that are built even if the cache has them")
	o.annotations = list("annotation", "", "list", "Not supported yet")
	fs.StringVarP(&o.file, "file", "f", "", "Dockerfile (default: Dockerfile in the context); - for stdin")
	fs.StringVar(&o.target, "target", "", "Stage to build")
	fs.StringVar(&o.network, "network", "default", "Network of RUN: default, none, host")
	fs.StringVar(&o.cgroupParent, "cgroup-parent", "", "Cgroup above those of RUN")
	fs.StringVar(&o.progress, "progress", "auto", "How to show progress: auto, plain, tty, rawjson, quiet")
	fs.StringVar(&o.iidfile, "iidfile", "", "Write the image's ID to this file")
	fs.StringVar(&o.metadata, "metadata-file", "", "Write what was built to this file, as JSON")
	fs.BoolVar(&o.noCache, "no-cache", false, "Do every step, even if the cache has it")
	fs.BoolVar(&o.pull, "pull", false, "Ask the registry for newer base images")
	fs.BoolVarP(&o.quiet, "quiet", "q", false, "Print the image's ID only")
	fs.BoolVar(&o.check, "check", false, "Look for mistakes in the Dockerfile, and build nothing")
	fs.BoolVar(&o.why, "why", false, "Say of each step why the cache did not have it")
	fs.BoolVar(&o.load, "load", false, "Put the result into the engine's images, as is done by default")
	fs.BoolVar(&o.push, "push", false, "Push the image when it is built")
	fs.BoolVar(&o.debug, "debug", false, "When a step fails, open a shell in the state before it")
	fs.Var(&o.ulimits, "ulimit", "Resource limit of RUN: name=soft[:hard]")
	fs.Var(&o.shm, "shm-size", "Size of /dev/shm of RUN")
	fs.VarP(&o.memory, "memory", "m", "Memory limit of RUN")
	o.swap.Minus = true
	fs.Var(&o.swap, "memory-swap", "Memory and swap together, -1 for no limit on swap")
	fs.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "Weight among those that want CPU")
	fs.Int64Var(&o.cpuPeriod, "cpu-period", 0, "Period of the CPU quota, in microseconds")
	fs.Int64Var(&o.cpuQuota, "cpu-quota", 0, "CPU time a period, in microseconds")
	fs.StringVar(&o.cpusetCPUs, "cpuset-cpus", "", "CPUs that RUN may use: 0-3, 0,1")
	fs.StringVar(&o.cpusetMems, "cpuset-mems", "", "Memory nodes that RUN may use")
	fs.StringVar(&o.call, "call", "build", "What to do: build, check")
	fs.BoolVar(&o.squash, "squash", false, "Not supported")
	fs.Lookup("squash").Hidden = true
	// Scripts give these, and nothing depends on them here: steps leave no containers behind, and what travels is small.
	for _, name := range []string{"rm", "force-rm", "compress"} {
		fs.Bool(name, false, "Accepted and ignored")
		fs.Lookup(name).Hidden = true
	}
	for _, name := range []string{"isolation", "builder", "provenance", "sbom", "attest", "security-opt"} {
		fs.Var(flags.NewList("string", nil), name, "Accepted and ignored")
		fs.Lookup(name).Hidden = true
		fs.Lookup(name).NoOptDefVal = "true"
	}
}

// Build is `build`.
func Build(fs *pflag.FlagSet, _ *command.Env) command.Run {
	o := &options{}
	o.register(fs)
	return func(ctx context.Context, env *command.Env, args []string) error {
		p, err := o.plan(ctx, env, args[0])
		if err != nil {
			return fmt.Errorf("failed to build: %w", err)
		}
		defer p.close()
		return p.run(ctx, env)
	}
}

// plan is a build that is ready to be asked for.
type plan struct {
	o       *options
	request wire.Request
	offer   offer.Offer
	names   []string
	push    []string
	display display
	clean   []func()

	last wire.Event // how it ended
}

func (p *plan) close() {
	for _, f := range p.clean {
		f()
	}
}

func (o *options) plan(ctx context.Context, env *command.Env, where string) (*plan, error) {
	p := &plan{o: o}
	p.offer = offer.Offer{Folders: map[string]offer.Folder{}, Secrets: map[string]func() ([]byte, error){}, Agents: map[string]string{},
		Outputs: map[int]func(io.Reader) error{}, Event: p.event, Cache: cacheDir(env)}
	if err := p.describe(ctx, env, where); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *plan) describe(ctx context.Context, env *command.Env, where string) (err error) {
	o, r := p.o, &p.request
	switch {
	case o.squash:
		return errors.New("--squash is not supported: copy the files of one stage into another (COPY --from) instead")
	case o.call != "build" && o.call != "check":
		return fmt.Errorf("--call %s is not supported: build and check are", o.call)
	case len(o.annotations.Values) > 0:
		return errors.New("--annotation is not supported yet: labels (--label) are")
	}
	r.Debug = o.debug && env.IO.InIsTerminal() && env.IO.OutIsTerminal()
	r.Check = o.check || o.call == "check"
	r.Target, r.NoCache, r.Pull, r.CgroupParent = o.target, o.noCache, o.pull, o.cgroupParent
	r.NoCacheFilter = split(o.noCacheFilter.Values)
	r.Args = map[string]*string{}
	for _, a := range o.buildArgs.Values {
		name, value, ok := strings.Cut(a, "=")
		if name == "" {
			return fmt.Errorf("invalid --build-arg %q: it has no name", a)
		}
		if !ok {
			if value, ok = os.LookupEnv(name); !ok {
				r.Args[name] = nil
				continue
			}
		}
		r.Args[name] = &value
	}
	r.Labels = map[string]string{}
	for _, l := range o.labels.Values {
		name, value, _ := strings.Cut(l, "=")
		r.Labels[name] = value
	}
	if r.Platforms, err = platforms(split(o.platforms.Values)); err != nil {
		return err
	}
	if r.Network = o.network; r.Network == "default" {
		r.Network = ""
	}
	for _, h := range o.hosts.Values {
		name, ip, ok := strings.Cut(h, "=")
		if !ok {
			name, ip, ok = strings.Cut(h, ":")
		}
		if !ok || name == "" || ip == "" {
			return fmt.Errorf("bad format for add-host: %q", h)
		}
		r.ExtraHosts = append(r.ExtraHosts, name+":"+strings.Trim(ip, "[]"))
	}
	for _, u := range o.ulimits.Values {
		r.Ulimits = append(r.Ulimits, graph.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	r.ShmSize = o.shm.N
	r.Resources = graph.Resources{Memory: o.memory.N, MemorySwap: o.swap.N, CPUShares: uint64(max(o.cpuShares, 0)),
		CPUPeriod: uint64(max(o.cpuPeriod, 0)), CPUQuota: o.cpuQuota, CPUSetCPUs: o.cpusetCPUs, CPUSetMems: o.cpusetMems}
	for _, a := range o.allow.Values {
		switch a {
		case "network.host":
			r.HostNetwork = true
		case "security.insecure":
			r.Insecure = true
		default:
			return fmt.Errorf("invalid --allow %q: network.host and security.insecure can be allowed", a)
		}
	}
	if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" && r.Args["SOURCE_DATE_EPOCH"] == nil {
		r.Args["SOURCE_DATE_EPOCH"] = &s
	}
	if s := r.Args["SOURCE_DATE_EPOCH"]; s != nil {
		n, err := strconv.ParseInt(*s, 10, 64)
		if err != nil {
			return fmt.Errorf("invalid SOURCE_DATE_EPOCH %q: it should be seconds since 1970", *s)
		}
		t := time.Unix(n, 0).UTC()
		r.Epoch = &t
	}
	for _, add := range []func() error{p.addSecrets, p.addAgents, p.addContexts, func() error { return p.addContext(env, where) }, func() error { return p.addOutputs(env) }, p.addCaches} {
		if err := add(); err != nil {
			return err
		}
	}
	p.display, err = newDisplay(env, o)
	return err
}

func cacheDir(env *command.Env) string {
	dir := env.Getenv("XDG_CACHE_HOME")
	if dir == "" {
		home := env.Getenv("HOME")
		if home == "" {
			return ""
		}
		dir = filepath.Join(home, ".cache")
	}
	return filepath.Join(dir, "gantry", "digests")
}

// split takes lists apart that were given as one flag.
func split(values []string) (out []string) {
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

func platforms(list []string) (out []ocispec.Platform, err error) {
	for _, s := range list {
		parts := strings.Split(s, "/")
		if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
			return nil, fmt.Errorf("invalid platform %q: it should be like linux/amd64", s)
		}
		p := ocispec.Platform{OS: parts[0], Architecture: parts[1]}
		if len(parts) == 3 {
			p.Variant = parts[2]
		}
		out = append(out, p)
	}
	return out, nil
}

func (p *plan) event(e wire.Event) {
	if e.Kind == wire.Ended {
		p.last = e
	}
	p.display.event(e)
}

// run asks the engine, and shows what it does.
func (p *plan) run(ctx context.Context, env *command.Env) error {
	c, err := env.Client()
	if err != nil {
		return err
	}
	header, err := registryConfig(ctx, env)
	if err != nil {
		return err
	}
	began := time.Now()
	stream, err := c.Upgrade(ctx, client.Request{Method: "POST", Path: wire.Path, Body: &p.request, Header: header})
	if err != nil {
		if strings.Contains(err.Error(), "page not found") {
			return errors.New("failed to build: the engine is not Gantry, which alone knows how this program builds: use the docker command with it")
		}
		return err
	}
	defer stream.Close()
	err = p.offer.Serve(ctx, stream.Conn())
	p.display.close()
	if err != nil {
		if errs.Canceled.Is(err) {
			return context.Canceled
		}
		return fmt.Errorf("failed to build: %w", err)
	}
	if !p.o.quiet && p.o.progress != "quiet" && p.o.progress != "rawjson" || p.last.Error != "" {
		p.display.report(p.request.File, p.request.Dockerfile)
	}
	return p.finish(ctx, env, c, time.Since(began))
}

// finish reports how it ended.
func (p *plan) finish(ctx context.Context, env *command.Env, c *client.Client, took time.Duration) error {
	if p.last.Error != "" {
		text := "ERROR: failed to build: " + p.last.Error
		if !p.o.debug {
			return &command.StatusError{Text: text, Code: 1}
		}
		fmt.Fprintln(env.IO.Err, text)
		p.shell(ctx, env, c)
		return &command.StatusError{Code: 1}
	}
	built := p.last.Built
	if p.request.Check {
		if p.display.warned() > 0 {
			return &command.StatusError{Code: 1}
		}
		return nil
	}
	if built == nil {
		return errors.New("failed to build: the engine does not say what it built")
	}
	if p.o.iidfile != "" && built.Image != "" {
		if err := os.WriteFile(p.o.iidfile, []byte(built.Image), 0o644); err != nil {
			return err
		}
	}
	if p.o.metadata != "" {
		data, err := json.MarshalIndent(metadata(built, took), "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(p.o.metadata, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if (p.o.quiet || p.o.progress == "quiet") && built.Image != "" {
		fmt.Fprintln(env.IO.Out, built.Image)
	}
	for _, name := range p.push {
		if err := push(ctx, env, c, name); err != nil {
			return err
		}
	}
	return nil
}

func metadata(b *wire.Built, took time.Duration) map[string]any {
	m := map[string]any{"gantry.build.seconds": took.Seconds()}
	if b.Image != "" {
		m["containerimage.config.digest"] = b.Image
	}
	if b.Manifest != "" {
		m["containerimage.digest"] = b.Manifest
		m["containerimage.descriptor"] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: b.Manifest}
	}
	if len(b.Names) > 0 {
		m["image.name"] = strings.Join(b.Names, ",")
	}
	return m
}
