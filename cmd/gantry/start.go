package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/cli/command"
)

// startWait bounds how long a started engine may take until it answers. Adopting thousands of containers takes a while.
const startWait = 20 * time.Second

// startEngine starts the engine when root uses the default socket and nobody listens there. It says so in one line.
func startEngine(ctx context.Context, env *command.Env) error {
	const socket = "/run/gantry.sock"
	cannot := func(err error) error {
		return fmt.Errorf("Cannot connect to the Docker daemon at unix://%s. Is the docker daemon running?\n%w", socket, err) //nolint:staticcheck // Docker's words
	}
	if os.Geteuid() != 0 {
		return &command.Hint{
			Err:  fmt.Errorf("Cannot connect to the Docker daemon at unix://%s. Is the docker daemon running?", socket), //nolint:staticcheck // Docker's words
			Line: "Start it with: sudo systemctl start gantry   (or without systemd: sudo gantry daemon)",
		}
	}
	// Two commands at once start one engine: the second waits for the first's.
	lock, err := os.OpenFile("/run/gantry.start.lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err == nil {
		defer lock.Close()
		if err := flock(ctx, lock); err != nil {
			return err
		}
		if answers(socket) {
			return nil
		}
	}
	if unitInstalled() {
		fmt.Fprintln(env.IO.Err, "Starting the engine: systemctl start gantry")
		if out, err := exec.CommandContext(ctx, "systemctl", "start", "gantry").CombinedOutput(); err != nil {
			return cannot(fmt.Errorf("systemctl start gantry: %w: %s\nSee: journalctl -u gantry", err, strings.TrimSpace(string(out))))
		}
		return await(ctx, socket, nil, "journalctl -u gantry", cannot)
	}
	logPath, log, err := openLog()
	if err != nil {
		return cannot(err)
	}
	defer log.Close()
	exe, err := os.Executable()
	if err != nil {
		return cannot(err)
	}
	fmt.Fprintf(env.IO.Err, "Starting the engine: gantry daemon (its log is %s)\n", logPath)
	// A session of its own, no streams of ours, the root folder: nothing of this command's life is the engine's.
	cmd := exec.Command(exe, "daemon")
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = daemonEnv()
	keepNothing()
	if err := cmd.Start(); err != nil {
		return cannot(fmt.Errorf("start the engine: %w", err))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return await(ctx, socket, ended, logPath, cannot)
}

// keepNothing marks every descriptor that came from the caller to be closed on exec. An engine that held the write end of a caller's
// pipe would keep its reader waiting for as long as the engine lives.
func keepNothing() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil { // Linux 5.11
		return
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range fds {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// daemonEnv leaves out what is meant for the command line alone.
func daemonEnv() []string {
	var out []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DOCKER_") && !strings.HasPrefix(kv, "GANTRY_") {
			out = append(out, kv)
		}
	}
	return out
}

func openLog() (string, *os.File, error) {
	var first error
	for _, p := range []string{"/var/log/gantry.log", "/run/gantry/daemon.log"} {
		if p == "/run/gantry/daemon.log" {
			_ = os.MkdirAll(filepath.Dir(p), 0o711)
		}
		f, err := os.OpenFile(p, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err == nil {
			return p, f, nil
		}
		if first == nil {
			first = err
		}
	}
	return "", nil, first
}

// unitInstalled reports whether systemd runs and knows the unit.
func unitInstalled() bool {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return false // sd_booted(3)
	}
	for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if _, err := os.Stat(filepath.Join(dir, "gantry.service")); err == nil {
			return true
		}
	}
	return false
}

func flock(ctx context.Context, f *os.File) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil // a file system without locks: two engines at once refuse each other by their pid files
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func answers(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// await returns when the engine listens.
func await(ctx context.Context, socket string, ended <-chan error, log string, cannot func(error) error) error {
	limit := time.After(startWait)
	for wait := 500 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if answers(socket) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			if err == nil {
				err = errors.New("it ended")
			}
			return cannot(fmt.Errorf("the engine did not come up: %w\nSee: %s", err, log))
		case <-limit:
			return cannot(fmt.Errorf("the engine did not come up within %s\nSee: %s", startWait, log))
		case <-time.After(wait):
		}
	}
}
