package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"gantry/internal/config"
)

// listen opens the sockets of all hosts.
func listen(cfg *config.Config, log *slog.Logger) (all []net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	for _, h := range cfg.Hosts {
		scheme, addr, _ := strings.Cut(h, "://")
		switch scheme {
		case "unix":
			l, err := listenUnix(addr, cfg)
			if err != nil {
				return all, fmt.Errorf("listen on %s: %w", h, err)
			}
			all = append(all, l)
		case "tcp":
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return all, fmt.Errorf("listen on %s: %w", h, err)
			}
			all = append(all, l)
			log.Warn("THE API IS REACHABLE OVER TCP WITHOUT ENCRYPTION OR AUTHENTICATION: WHOEVER REACHES IT IS ROOT ON THIS HOST", "host", h)
		case "fd":
			ls, err := activated(addr)
			if err != nil {
				return all, fmt.Errorf("listen on %s: %w", h, err)
			}
			all = append(all, ls...)
		}
	}
	return all, nil
}

// listenUnix makes a socket of mode 0660 that root and the group may use.
func listenUnix(path string, cfg *config.Config) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// A socket that a crash left behind answers nobody. One that answers belongs to somebody.
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return nil, errors.New("another process listens there")
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&fs.ModeSocket == 0 {
			return nil, errors.New("a file that is no socket is there")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Made for nobody first: between bind and chown only root may connect.
	old := syscall.Umask(0o777)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := own(path, cfg); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func own(path string, cfg *config.Config) error {
	gid := -1
	if cfg.Group != "" {
		if n, err := strconv.Atoi(cfg.Group); err == nil {
			gid = n
		} else if g, err := user.LookupGroup(cfg.Group); err == nil {
			gid, _ = strconv.Atoi(g.Gid)
		} else if cfg.GroupRequired() {
			return fmt.Errorf("group %s not found", cfg.Group)
		}
	}
	if gid >= 0 {
		if err := os.Chown(path, 0, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, 0o660)
}

// activated returns the sockets that systemd opened (sd_listen_fds(3)): all of them, or the one of the number or
// name that addr gives.
func activated(addr string) ([]net.Listener, error) {
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 1 {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	var all []net.Listener
	for i := range n {
		fd := 3 + i
		if addr != "" && addr != "*" && addr != strconv.Itoa(fd) && (i >= len(names) || names[i] != addr) {
			continue
		}
		f := os.NewFile(uintptr(fd), "listen")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no activated socket is called %q", addr)
	}
	return all, nil
}
