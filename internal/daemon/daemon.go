// Package daemon puts the engine together: it opens what the services stand on, makes the services, wires them
// to each other, and serves the API until it is told to end. There is no domain logic here.
//
// The order is that of need: configuration, log, lock, sockets (clients that come early wait in their backlog
// instead of being refused), state, content, layers, images, supervisor, containers, API. Ending goes backwards, and
// ends the engine only: containers and the supervisor that holds them go on, always.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"gantry/internal/api"
	"gantry/internal/config"
	"gantry/internal/version"
)

// grace is how long the engine waits at its end for requests under way.
const grace = 5 * time.Second

// Main runs the engine with the arguments that follow `daemon`, and returns its exit code. programs are the
// embedded programs by name, or nil.
func Main(args []string, programs map[string][]byte) int {
	cfg, err := config.Load(args)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Print(config.Usage())
		return 0
	case errors.Is(err, config.ErrVersion):
		fmt.Printf("Gantry version %s\n", version.Version)
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "gantry daemon:", err)
		return 1
	}
	level := new(slog.LevelVar)
	setLevel(level, cfg)
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	slog.SetDefault(log)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	if err := run(cfg, args, programs, level, log, signals); err != nil {
		log.Error("the engine could not start", "err", err)
		return 1
	}
	return 0
}

func setLevel(level *slog.LevelVar, cfg *config.Config) {
	l := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "fatal": slog.LevelError}[cfg.LogLevel]
	if cfg.Debug {
		l = slog.LevelDebug
	}
	level.Set(l)
}

func run(cfg *config.Config, args []string, programs map[string][]byte, level *slog.LevelVar, log *slog.Logger, signals <-chan os.Signal) (err error) {
	began := time.Now()
	syscall.Umask(0o022)
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{cfg.DataRoot, 0o711}, {cfg.ExecRoot, 0o700}} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
	}
	unlock, err := lock(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	listeners, err := listen(cfg, log)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	e, err := open(context.Background(), cfg, programs, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.close()) }()

	server := api.New(e.deps(cfg, log))
	var serving sync.WaitGroup
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		serving.Go(func() {
			if err := server.Serve(l); err != nil {
				failed <- fmt.Errorf("serve on %s: %w", l.Addr(), err)
			}
		})
	}
	log.Info("ready", "version", version.Version, "pid", os.Getpid(), "took", time.Since(began).Round(time.Millisecond))
	notify("READY=1")
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				cfg = reload(cfg, args, level, e, log)
				continue
			}
			log.Info("ending; containers go on", "signal", sig.String())
		case err = <-failed:
		}
		break
	}
	notify("STOPPING=1")
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if serr := server.Shutdown(ctx); serr != nil && !errors.Is(serr, context.DeadlineExceeded) {
		err = errors.Join(err, serr)
	}
	serving.Wait()
	return err
}

// reload takes in what may change while the engine runs. A file that has become wrong changes nothing.
func reload(cfg *config.Config, args []string, level *slog.LevelVar, e *engine, log *slog.Logger) *config.Config {
	notify("RELOADING=1")
	defer notify("READY=1")
	n, err := cfg.Reload(args)
	if err == nil {
		err = e.remote.Configure(registries(n))
	}
	if err != nil {
		log.Error("reloading the configuration failed; the old one stays", "err", err)
		return cfg
	}
	setLevel(level, n)
	log.Info("configuration reloaded", "debug", n.Debug, "log-level", n.LogLevel)
	return n
}

// lock makes sure that no other engine works on the same roots, and writes the pidfile. A pidfile is held by a
// lock, not by its content: one that a crash left behind, or whose number another process has now, is no obstacle.
func lock(cfg *config.Config) (unlock func(), err error) {
	root, err := flock(filepath.Join(cfg.ExecRoot, "lock"))
	if err != nil {
		return nil, fmt.Errorf("exec-root %s is held by another engine: give this one its own --exec-root (%w)", cfg.ExecRoot, err)
	}
	if cfg.Pidfile == "" {
		return func() { root.Close() }, nil
	}
	if err := os.MkdirAll(filepath.Dir(cfg.Pidfile), 0o755); err != nil {
		root.Close()
		return nil, err
	}
	f, err := flock(cfg.Pidfile)
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("pidfile %s is held by another engine: give this one its own --pidfile (%w)", cfg.Pidfile, err)
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintf(f, "%d", os.Getpid())
	}
	unlock = func() {
		os.Remove(cfg.Pidfile)
		f.Close()
		root.Close()
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func flock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	// Of an engine that was killed, a child that was just being forked may hold the lock until it execs.
	for range 100 {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		f.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

// notify tells systemd how it goes (sd_notify(3)). Nobody may be listening.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write([]byte(state))
}
