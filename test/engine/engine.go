// Package engine starts container engines for tests and measurements: a Gantry from bin/, and beside it a
// real dockerd in network and mount namespaces of its own, so that it cannot touch the host's.
package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"gantry/internal/kernel/netns"
)

// Engine is one running engine. Its files lie below Root.
type Engine struct {
	Name   string // "gantry" or "docker"
	Root   string
	Socket string
	Log    string // what the engine printed
	// Program is the gantry to start and whose command line to use; it may be changed between two starts.
	Program string

	netns   *netns.Namespace // a host network of its own: a gantry's is for all its runs
	given   bool             // netns is somebody else's
	beside  *Engine          // whose network it is in
	args    []string
	guarded bool
	cmd     *exec.Cmd
	done    chan struct{} // closed when the engine's process has ended
}

// Repo returns the top folder of the checkout.
func Repo() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			panic("not inside the checkout")
		}
		dir = filepath.Dir(dir)
	}
}

// CgroupParent returns the cgroup below which a Gantry at root puts its containers.
func CgroupParent(root string) string {
	return "/gantry-" + strings.ReplaceAll(strings.Trim(root, "/"), "/", "-")
}

// Gantry returns an engine that is not started yet, with everything of it below root. It makes bridges and firewall
// rules in a network namespace of its own, with nothing in it but loopback, not in the host's.
func Gantry(root string, flags ...string) *Engine {
	e := &Engine{Name: "gantry", Root: root, Socket: filepath.Join(root, "gantry.sock"), Log: filepath.Join(root, "daemon.log")}
	e.Program = filepath.Join(Repo(), "bin", "gantry")
	e.args = append([]string{"daemon",
		"--data-root", filepath.Join(root, "data"), "--exec-root", filepath.Join(root, "exec"),
		"--pidfile", filepath.Join(root, "pid"), "--host", "unix://" + e.Socket,
		"--cgroup-parent", CgroupParent(root)}, flags...)
	return e
}

// Docker returns a dockerd that is not started yet, without bridge and firewall rules.
func Docker(root string, flags ...string) *Engine {
	return docker(root, append([]string{"--bridge", "none", "--iptables=false", "--ip-masq=false", "--ip-forward=false"}, flags...))
}

// DockerWithNetworks returns a dockerd that is not started yet, with its default bridge and firewall rules.
func DockerWithNetworks(root string, flags ...string) *Engine { return docker(root, flags) }

// docker gives dockerd its own network namespace, with nothing in it but loopback, and a mount namespace that
// dies with it.
func docker(root string, flags []string) *Engine {
	e := &Engine{Name: "docker", Root: root, Socket: filepath.Join(root, "docker.sock"), Log: filepath.Join(root, "dockerd.log")}
	e.Program = "unshare"
	e.args = append([]string{"--net", "--mount", "sh", "-c", `ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward; exec "$0" "$@"`,
		"dockerd", "--data-root", filepath.Join(root, "data"), "--exec-root", filepath.Join(root, "exec"),
		"--pidfile", filepath.Join(root, "pid"), "--host", "unix://" + e.Socket, "--storage-driver", "overlay2"}, flags...)
	return e
}

// DockerBeside is Docker in the network of another engine, which has been started: what listens on one's loopback does
// on the other's.
func DockerBeside(root string, other *Engine, flags ...string) *Engine {
	e := Docker(root, flags...)
	e.args = slices.DeleteFunc(e.args, func(arg string) bool { return arg == "--net" })
	e.beside = other
	return e
}

// Within has the engine use a host network that the test has made, and will make an end of. It is said before the first start.
func (e *Engine) Within(host *netns.Namespace) *Engine {
	if e.Name == "docker" {
		// As the host has it: dockerd drops what is forwarded only where it has turned on forwarding itself.
		e.args = append([]string{"--mount"}, e.args[slices.Index(e.args, "dockerd"):]...)
	}
	e.netns, e.given = host, true
	return e
}

// Start starts the engine and returns when it answers. env is added to its environment.
func (e *Engine) Start(env ...string) error {
	if err := os.MkdirAll(e.Root, 0o711); err != nil {
		return err
	}
	log, err := os.OpenFile(e.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := e.guard(); err != nil {
		return err
	}
	e.cmd = exec.Command(e.Program, e.args...)
	e.cmd.Env = append(os.Environ(), env...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	start := e.cmd.Start
	if e.Name == "gantry" && os.Getuid() == 0 {
		if e.netns == nil {
			if e.netns, err = netns.New(); err != nil {
				return err
			}
		}
		start = func() error { return e.netns.Do(e.cmd.Start) }
	}
	if e.beside != nil {
		e.netns, e.given = e.beside.netns, true
	}
	if e.given {
		start = func() error { return e.netns.Do(e.cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	done := make(chan struct{})
	e.done = done
	go func() { e.cmd.Wait(); close(done) }()
	deadline := time.After(60 * time.Second)
	for {
		if e.Ping() == nil {
			return e.learnNetwork()
		}
		select {
		case <-e.done:
			return fmt.Errorf("%s ended at its start: %s", e.Name, e.LogTail())
		case <-deadline:
			return fmt.Errorf("%s does not answer at %s: %s", e.Name, e.Socket, e.LogTail())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Client returns an HTTP client that speaks to the engine; use any host name in the URL.
func (e *Engine) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", e.Socket)
	}}}
}

// Ping asks the engine whether it is there.
func (e *Engine) Ping() error {
	c := e.Client()
	defer c.CloseIdleConnections()
	resp, err := c.Get("http://engine/_ping")
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// learnNetwork opens the network namespace that a dockerd has made for itself.
func (e *Engine) learnNetwork() (err error) {
	if e.Name != "docker" || os.Getuid() != 0 || e.given {
		return nil
	}
	if e.netns != nil {
		e.netns.Close()
	}
	e.netns, err = netns.Open(fmt.Sprintf("/proc/%d/ns/net", e.Pid()))
	return err
}

// Inside runs fn on a thread in the engine's host network.
func (e *Engine) Inside(fn func() error) error { return e.netns.Do(fn) }

// Pid returns the engine's process ID.
func (e *Engine) Pid() int { return e.cmd.Process.Pid }

// Done is closed when the engine's process has ended.
func (e *Engine) Done() <-chan struct{} { return e.done }

// Kill ends the engine as a crash would, and waits for its end.
func (e *Engine) Kill() {
	e.cmd.Process.Kill()
	<-e.done
}

// Stop ends the engine in order, and waits for its end.
func (e *Engine) Stop() error {
	if e.cmd == nil {
		return nil
	}
	e.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-e.done:
		return nil
	case <-time.After(60 * time.Second):
		e.Kill()
		return fmt.Errorf("%s did not end within a minute of SIGTERM: %s", e.Name, e.LogTail())
	}
}

// LogTail returns the last lines of what the engine printed.
func (e *Engine) LogTail() string {
	b, _ := os.ReadFile(e.Log)
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

// Result is what a command printed, and how it ended.
type Result struct {
	Args   []string
	Out    string
	Err    string
	Code   int
	Failed error // it could not be run at all
}

func (r Result) String() string {
	return fmt.Sprintf("%s\n-> %d\nstdout: %s\nstderr: %s", strings.Join(r.Args, " "), r.Code, r.Out, r.Err)
}

// CLI returns a command of Gantry's own command line, pointed at the engine.
func (e *Engine) CLI(args ...string) *exec.Cmd {
	return e.command(e.Program, args...)
}

// StockCLI returns a command of the docker command line from Debian's packages, pointed at the engine.
func (e *Engine) StockCLI(args ...string) *exec.Cmd { return e.command("/usr/bin/docker", args...) }

func (e *Engine) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+e.Socket, "DOCKER_CONFIG="+filepath.Join(e.Root, "config"))
	return cmd
}

// Run runs cmd to its end.
func Run(cmd *exec.Cmd) Result {
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	r := Result{Args: cmd.Args, Out: out.String(), Err: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		r.Failed = err
	}
	return r
}
