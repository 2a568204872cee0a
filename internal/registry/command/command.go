// Package command is `gantry registry`: flags and a file make a registry's configuration, and it runs over a folder.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"gantry/internal/registry"
	"gantry/internal/registry/disk"
)

const usage = `Usage:  gantry registry COMMAND [OPTIONS]

A private registry

Commands:
  serve   Run it; SIGHUP reads its configuration again
  gc      Free what nothing needs any more, now: of a registry that runs, or of its folder

Options of both:
`

// Main runs `registry ARGS…` and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := Run(ctx, args, os.Stdout, os.Stderr, nil)
	switch {
	case err == nil, errors.Is(err, pflag.ErrHelp):
		return 0
	default:
		fmt.Fprintln(os.Stderr, "gantry registry:", err)
		return 1
	}
}

// Run runs `registry ARGS…` until ctx ends. ready, if set, is told the address.
func Run(ctx context.Context, args []string, out, logTo io.Writer, ready func(net.Addr)) error {
	if len(args) > 0 && args[0] == "gc" {
		return collect(ctx, args[1:], os.Stdin, out)
	}
	if len(args) == 0 || args[0] != "serve" {
		_, fs := flags()
		fmt.Fprint(out, usage+fs.FlagUsages())
		if len(args) > 0 && args[0] != "--help" && args[0] != "-h" && args[0] != "help" {
			return fmt.Errorf("unknown command: registry %s", args[0])
		}
		return nil
	}
	cfg, level, err := Parse(args[1:], os.Getenv, out)
	if err != nil {
		return err
	}
	cfg = trusting(cfg)
	st, err := disk.Open(cfg.Data)
	if errors.Is(err, disk.ErrUsed) {
		return fmt.Errorf("%w: stop that one, or give this one another folder (--data)", err)
	}
	if err != nil {
		return err
	}
	defer st.Close()
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: level}))
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	reloads := make(chan registry.Config)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			cfg, _, err := Parse(args[1:], os.Getenv, io.Discard)
			if err != nil {
				log.Error("reloading the configuration failed; the old one stays", "err", err)
				continue
			}
			select {
			case reloads <- trusting(cfg):
			case <-ctx.Done():
			}
		}
	}()
	err = registry.Serve(ctx, cfg, st, log, ready, reloads)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: stop who listens there, or give this one another address (--listen)", err)
	}
	return err
}

// trusting settles where the authority of an automatic certificate is put.
func trusting(cfg registry.Config) registry.Config {
	if cfg.TLS.Mode == "auto" && cfg.TLS.Trust == "" && os.Geteuid() == 0 {
		cfg.TLS.Trust = certDir
	}
	if cfg.TLS.Trust == "none" {
		cfg.TLS.Trust = ""
	}
	return cfg
}

// certDir is where the engine looks for authorities of registries, as HOST:PORT/ca.crt.
const certDir = "/etc/gantry/certs.d"

type options struct {
	config, listen, data, tls, cert, key, htpasswd, level string
	trust                                                 string
	names, upstreams                                      []string
	user                                                  string // of gc
}

func flags() (*options, *pflag.FlagSet) {
	var o options
	fs := pflag.NewFlagSet("registry serve", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.StringVarP(&o.config, "config", "c", "", "Configuration file (YAML); the other options come on top of it")
	fs.StringVarP(&o.listen, "listen", "l", "", "Address to serve at (default \":5000\")")
	fs.StringVarP(&o.data, "data", "d", "", "Folder of everything (default \"/var/lib/registry\")")
	fs.StringVar(&o.tls, "tls", "", "HTTPS: off, auto (a certificate is made on the first start) or files (default \"off\")")
	fs.StringVar(&o.cert, "tls-cert", "", "Certificate file")
	fs.StringVar(&o.key, "tls-key", "", "Key file")
	fs.StringSliceVar(&o.names, "tls-name", nil, "Further name or address of the automatic certificate")
	fs.StringVar(&o.trust, "tls-trust", "", "Folder where engines of this host look for authorities; none for none (default \"/etc/gantry/certs.d\" for root)")
	fs.StringVar(&o.htpasswd, "htpasswd", "", "File of users (htpasswd -B): only they may do anything")
	fs.StringSliceVar(&o.upstreams, "proxy", nil, "Be a cache of HOST, which is at HOST=URL if not at https://HOST")
	fs.StringVar(&o.level, "log-level", "info", "Least level that is logged: debug, info, warn, error")
	fs.SetOutput(io.Discard)
	return &o, fs
}

// environment understands those of the official registry image's variables that its lessons use.
func environment(cfg *registry.Config, getenv func(string) string) error {
	for name, to := range map[string]*string{
		"REGISTRY_HTTP_ADDR":                        &cfg.Listen,
		"REGISTRY_HTTP_TLS_CERTIFICATE":             &cfg.TLS.Cert,
		"REGISTRY_HTTP_TLS_KEY":                     &cfg.TLS.Key,
		"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": &cfg.Data,
		"REGISTRY_AUTH_HTPASSWD_PATH":               &cfg.Auth.Htpasswd,
	} {
		if v := getenv(name); v != "" {
			*to = v
		}
	}
	if getenv("REGISTRY_HTTP_TLS_CERTIFICATE") != "" {
		cfg.TLS.Mode = "files"
	}
	switch getenv("REGISTRY_AUTH") {
	case "":
	case "htpasswd":
		if cfg.Auth.Htpasswd == "" {
			return errors.New("REGISTRY_AUTH=htpasswd needs REGISTRY_AUTH_HTPASSWD_PATH")
		}
		cfg.Auth.Mode = "basic"
	default:
		// Serving everyone where somebody asked for another kind of login would be the worst answer.
		return fmt.Errorf("REGISTRY_AUTH=%s: want htpasswd; other kinds are in the configuration file", getenv("REGISTRY_AUTH"))
	}
	if remote := getenv("REGISTRY_PROXY_REMOTEURL"); remote != "" {
		u, err := url.Parse(remote)
		if err != nil || u.Host == "" {
			return fmt.Errorf("REGISTRY_PROXY_REMOTEURL=%s: want http(s)://HOST[:PORT]", remote)
		}
		host := u.Host
		if host == "registry-1.docker.io" {
			host = "docker.io"
		}
		cfg.Proxy.Default = host
		if cfg.Proxy.Upstreams == nil {
			cfg.Proxy.Upstreams = map[string]registry.Upstream{}
		}
		if _, ok := cfg.Proxy.Upstreams[host]; !ok {
			cfg.Proxy.Upstreams[host] = registry.Upstream{URL: remote,
				Username: getenv("REGISTRY_PROXY_USERNAME"), Password: getenv("REGISTRY_PROXY_PASSWORD")}
		}
	}
	return nil
}

// Parse makes a configuration of `registry serve`'s arguments and environment. Help goes to out.
func Parse(args []string, getenv func(string) string, out io.Writer) (cfg registry.Config, level slog.Level, err error) {
	o, fs := flags()
	return o.parse(fs, args, getenv, out)
}

func (o *options) parse(fs *pflag.FlagSet, args []string, getenv func(string) string, out io.Writer) (cfg registry.Config, level slog.Level, err error) {
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			fmt.Fprint(out, usage+fs.FlagUsages())
		}
		return cfg, 0, err
	}
	if fs.NArg() > 0 {
		return cfg, 0, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return cfg, 0, fmt.Errorf("log level %q: want debug, info, warn or error", o.level)
	}
	if o.config != "" {
		if cfg, err = registry.ReadConfig(o.config); err != nil {
			return cfg, 0, err
		}
	}
	set := func(to *string, v string) {
		if v != "" {
			*to = v
		}
	}
	if err := environment(&cfg, getenv); err != nil {
		return cfg, 0, err
	}
	set(&cfg.Listen, o.listen)
	set(&cfg.Data, o.data)
	set(&cfg.TLS.Cert, o.cert)
	set(&cfg.TLS.Key, o.key)
	set(&cfg.TLS.Trust, o.trust)
	set(&cfg.Auth.Htpasswd, o.htpasswd)
	if o.cert != "" {
		cfg.TLS.Mode = "files"
	}
	set(&cfg.TLS.Mode, o.tls)
	cfg.TLS.Names = append(cfg.TLS.Names, o.names...)
	if cfg.Data == "" {
		cfg.Data = "/var/lib/registry"
	}
	if cfg.Data, err = filepath.Abs(cfg.Data); err != nil {
		return cfg, 0, err
	}
	for _, up := range o.upstreams {
		host, url, _ := strings.Cut(up, "=")
		if cfg.Proxy.Upstreams == nil {
			cfg.Proxy.Upstreams = map[string]registry.Upstream{}
		}
		cfg.Proxy.Upstreams[host] = registry.Upstream{URL: url}
	}
	return cfg, level, cfg.Check()
}
