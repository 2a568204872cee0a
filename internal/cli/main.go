package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"gantry/internal/cli/command"
	"gantry/internal/cli/flags"
	"gantry/internal/cli/iostreams"
	"gantry/internal/nearest"
)

// Build is what the linker knows of this program.
type Build struct{ Version, Commit, Time string }

// Main runs the command line and returns the exit code. args is os.Args; start, if set, starts an engine for root (command.Env).
func Main(args []string, b Build, start func(context.Context, *command.Env) error) int {
	return run(args, &command.Env{Version: b.Version, Commit: b.Commit, Built: b.Time, StartEngine: start})
}

func run(args []string, env *command.Env) int {
	env.IO, env.Prog, env.Getenv = iostreams.System(), "gantry", os.Getenv
	if len(args) > 0 && strings.TrimSuffix(filepath.Base(args[0]), ".exe") == "docker" {
		env.Prog = "docker"
	}
	// The first ctrl-c ends what is under way in good order; verbs that send signals on take them over.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(args) > 0 {
		args = args[1:]
	}
	err := Run(ctx, env, args)
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 130
	}
	return command.Report(env, command.Explain(env, err))
}

// Run finds the verb in args and runs it.
func Run(ctx context.Context, env *command.Env, args []string) error {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SetInterspersed(false)
	g := globals(fs, env)
	usage := env.Prog + " [OPTIONS] COMMAND [ARG...]"
	if err := fs.Parse(args); err != nil {
		return command.FlagError(env, usage, err)
	}
	args = fs.Args()
	env.TLS = *g.tls || *g.tlsverify || fs.Changed("tlscacert") || fs.Changed("tlscert") || fs.Changed("tlskey")
	switch {
	case *g.version:
		fmt.Fprintf(env.IO.Out, "%s version %s, build %s\n", product(env), env.Version, env.Commit)
		return nil
	case len(args) == 0 || *g.help && len(args) == 0:
		rootHelp(env, fs)
		return nil
	case args[0] == "help":
		if len(args) == 1 {
			rootHelp(env, fs)
			return nil
		}
		if c, _, _ := find(args[1:]); c == nil && group(args[1]) == nil {
			return fmt.Errorf("unknown help topic: %s", strings.Join(args[1:], " "))
		}
		args = append(append([]string{}, args[1:]...), "--help")
	case *g.help:
		args = append(append([]string{}, args...), "--help")
	}
	if c, gname, n := find(args); c != nil {
		return command.Invoke(ctx, env, c, gname, strings.Join(args[:n], " "), args[n:])
	}
	if gr := group(args[0]); gr != nil {
		rest := args[1:]
		if len(rest) == 0 {
			groupHelp(env, env.IO.Err, gr)
			return nil
		}
		if rest[0] == "--help" || rest[0] == "-h" || rest[0] == "help" {
			groupHelp(env, env.IO.Out, gr)
			return nil
		}
		if strings.HasPrefix(rest[0], "-") {
			env.Path = gr.Name
			kind := "unknown flag: " + rest[0]
			if !strings.HasPrefix(rest[0], "--") {
				kind = fmt.Sprintf("unknown shorthand flag: '%c' in %s", []rune(rest[0] + "-")[1], rest[0])
			}
			return command.FlagError(env, env.Prog+" "+gr.Name, errors.New(kind))
		}
		var names []string
		for _, c := range gr.Commands {
			names = append(names, c.Name)
		}
		err := fmt.Errorf("%s: unknown command: %s %s %s\n\nUsage:  %s %s\n\nRun '%s %s --help' for more information", env.Prog, env.Prog, gr.Name, rest[0], env.Prog, gr.Name, env.Prog, gr.Name)
		return suggest(err, env.Prog+" "+gr.Name, rest[0], names)
	}
	var names []string
	for _, gr := range groups() {
		names = append(names, gr.Name)
		for _, c := range gr.Commands {
			if c.Top != "" {
				names = append(names, c.Top)
			}
		}
	}
	for _, c := range others() {
		names = append(names, c.Name)
	}
	err := fmt.Errorf("%s: unknown command: %s %s\n\nRun '%s --help' for more information", env.Prog, env.Prog, args[0], env.Prog)
	return suggest(err, env.Prog, args[0], append(names, "daemon", "registry"))
}

type global struct {
	help, version, tls, tlsverify *bool
}

func globals(fs *pflag.FlagSet, env *command.Env) global {
	var g global
	host := &flags.Each{Kind: "list", Parse: func(s string) error { env.Hosts = append(env.Hosts, s); return nil }}
	fs.VarP(host, "host", "H", "Address of the engine: unix:///path/of.sock or tcp://host:port")
	fs.StringVar(&env.ConfigDir, "config", "", "Folder of config.json")
	fs.StringVarP(&env.Context, "context", "c", "", "No contexts here: use -H")
	fs.Lookup("context").Hidden = true
	fs.BoolVarP(&env.Debug, "debug", "D", false, "Show more")
	fs.StringP("log-level", "l", "info", "Least level that is shown: debug, info, warn, error, fatal")
	g.tls = fs.Bool("tls", false, "Use TLS")
	fs.String("tlscacert", "", "Trust only certificates signed by this authority")
	fs.String("tlscert", "", "Own certificate")
	fs.String("tlskey", "", "Own key")
	g.tlsverify = fs.Bool("tlsverify", false, "Use TLS and check the engine's certificate")
	g.version = fs.BoolP("version", "v", false, "Show the version and end")
	g.help = fs.BoolP("help", "h", false, "Show this help")
	return g
}

func product(env *command.Env) string {
	if env.AsDocker() {
		return "Docker"
	}
	return "Gantry"
}

func group(name string) *command.Group {
	for _, g := range groups() {
		if g.Name == name {
			return g
		}
	}
	return nil
}

// find returns the verb that args begin with, the name of its group, and how many of args named it.
func find(args []string) (c *command.Command, groupName string, n int) {
	if len(args) == 0 {
		return nil, "", 0
	}
	for _, c := range others() {
		if c.Name == args[0] {
			return c, "", 1
		}
	}
	for _, g := range groups() {
		for _, c := range g.Commands {
			if c.Top != "" && c.Top == args[0] {
				return c, g.Name, 1
			}
		}
		if g.Name == args[0] && len(args) > 1 {
			if c := g.Find(args[1]); c != nil {
				return c, g.Name, 2
			}
		}
	}
	return nil, "", 0
}

// suggest adds the name that was most likely meant.
func suggest(err error, prefix, typed string, names []string) error {
	n := nearest.To(typed, names)
	if n == "" {
		return err
	}
	return &command.Hint{Err: err, Line: fmt.Sprintf("Did you mean '%s %s'?", prefix, n)}
}

func listing(w io.Writer, title string, lines [][2]string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	width := 0
	for _, l := range lines {
		width = max(width, len(l[0]))
	}
	for _, l := range lines {
		fmt.Fprintf(w, "  %-*s  %s\n", width, l[0], l[1])
	}
}

func groupHelp(env *command.Env, w io.Writer, g *command.Group) {
	fmt.Fprintf(w, "Usage:  %s %s COMMAND\n\n%s\n", env.Prog, g.Name, g.Short)
	var lines [][2]string
	for _, c := range g.Commands {
		lines = append(lines, [2]string{c.Name, c.Short})
	}
	listing(w, "Commands", lines)
	fmt.Fprintf(w, "\nRun '%s %s COMMAND --help' for more information on a command.\n", env.Prog, g.Name)
}

func rootHelp(env *command.Env, fs *pflag.FlagSet) {
	w := env.IO.Out
	fmt.Fprintf(w, "Usage:  %s [OPTIONS] COMMAND\n\nA container engine for Linux\n", env.Prog)
	common := map[string]bool{"run": true, "exec": true, "ps": true, "images": true, "version": true, "info": true}
	order := []string{"run", "exec", "ps", "images", "version", "info"}
	short := map[string]string{}
	var rest, nouns [][2]string
	for _, g := range groups() {
		nouns = append(nouns, [2]string{g.Name, g.Short})
		for _, c := range g.Commands {
			if c.Top == "" {
				continue
			}
			if short[c.Top] = c.Short; !common[c.Top] {
				rest = append(rest, [2]string{c.Top, c.Short})
			}
		}
	}
	for _, c := range others() {
		if short[c.Name] = c.Short; !common[c.Name] {
			rest = append(rest, [2]string{c.Name, c.Short})
		}
	}
	rest = append(rest, [2]string{"daemon", "Run the engine"}, [2]string{"registry", "Run a private registry"})
	var first [][2]string
	for _, n := range order {
		first = append(first, [2]string{n, short[n]})
	}
	listing(w, "Common Commands", first)
	listing(w, "Management Commands", nouns)
	listing(w, "Commands", rest)
	_, width := env.IO.Size()
	if width == 0 {
		width = 80
	}
	fmt.Fprintf(w, "\nGlobal Options:\n%s\nRun '%s COMMAND --help' for more information on a command.\n", fs.FlagUsagesWrapped(int(width)), env.Prog)
}
