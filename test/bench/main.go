// Command bench measures Gantry against a real dockerd in the same run and writes docs/bench.md.
//
// The two take turns at every single measurement, with an idle gap before each, so that whatever else the
// machine does hits both alike; back-to-back loops would hide costs that only show after idle time. Wall
// time ends when the command returns. CPU time is the whole machine's, from before the command until the
// kernel objects that it touched are gone, less what the machine uses when idle: it counts what is done
// behind the reply, in the kernel too. Only ratios mean anything.
//
// A subject is a file here and a section of the report. -run measures some of them again and leaves the
// other sections as they are.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/test/engine"
)

// subject is a group of rows that share a pair of engines.
type subject struct {
	title   string // of the section in the report; -run matches it
	about   string // what a reader must know of how it is measured; may be empty
	n       int    // measurements of each engine and row, for rows that are slow; 0: what -n says
	prepare func(*pair) error
	finish  func() // ends what prepare started; may be nil
	disk    bool   // on a file system made for it: see mountDisk
	rows    []row
	after   func(*pair) string // what is to stand below the rows; may be nil
}

// subjects, in the report's order.
var subjects = []subject{containers, many, files, networks, ports, registries, registryServers, builds}

// pair is the two engines side by side, each with a network namespace and folders of its own.
type pair struct {
	ours, theirs *engine.Engine
	dir          string // for what prepare makes; removed at the end
	disk         bool   // all of it is on a file system made for it
}

func (p *pair) both() []*engine.Engine { return []*engine.Engine{p.ours, p.theirs} }

// command returns the engine's own command line.
func (p *pair) command(e *engine.Engine, args ...string) *exec.Cmd {
	if e == p.ours {
		return e.CLI(args...)
	}
	return e.StockCLI(args...)
}

// do runs a command on an engine and returns an error unless it succeeds.
func (p *pair) do(e *engine.Engine, args ...string) error {
	if r := engine.Run(p.command(e, args...)); r.Code != 0 {
		return fmt.Errorf("%s: %v", e.Name, r)
	}
	return nil
}

// settle writes to the disk what is not there yet: what one engine left to the kernel, the other would pay for that syncs.
func (p *pair) settle() error {
	if !p.disk {
		return nil
	}
	f, err := os.Open(p.dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// load makes test images and loads them into both engines.
func (p *pair) load(names ...string) error {
	for _, name := range names {
		archive, err := exec.Command(filepath.Join(engine.Repo(), "test/images/make"), name).Output()
		if err != nil {
			return fmt.Errorf("make image %s: %w", name, err)
		}
		for _, e := range p.both() {
			if err := p.do(e, "load", "-q", "-i", strings.TrimSpace(string(archive))); err != nil {
				return err
			}
		}
	}
	return nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "serve" { // inside a container: see ports
		fmt.Fprintln(os.Stderr, "bench:", serve())
		os.Exit(1)
	}
	n := flag.Int("n", 20, "measurements of each engine and row")
	pick := flag.String("run", "", "measure only the subjects whose title matches this regular expression")
	only := flag.String("rows", "", "measure only the rows whose name matches this regular expression, and print them: no report")
	out := flag.String("o", "docs/bench.md", "the report, relative to the checkout")
	flag.Parse()
	if err := apart(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if err := run(*n, *pick, *only, filepath.Join(engine.Repo(), *out)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(n int, pick, only, report string) error {
	wanted, err := regexp.Compile(pick)
	if err != nil {
		return err
	}
	rows, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		if !wanted.MatchString(s.title) {
			continue
		}
		s.rows = slices.DeleteFunc(slices.Clone(s.rows), func(r row) bool { return !rows.MatchString(r.name) })
		if len(s.rows) == 0 {
			continue
		}
		section, err := s.measure(n)
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		if only != "" {
			continue
		}
		if err := replaceSection(report, section); err != nil {
			return err
		}
	}
	return nil
}

// execRoot makes a folder for what both engines keep until the next boot. It lies on a tmpfs, as /run does where they usually keep it.
func execRoot(root string) (string, error) {
	const tmpfs = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(tmpfs, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return os.MkdirTemp(root, "exec-")
	}
	return os.MkdirTemp(tmpfs, "gantry-bench-")
}

// measure runs the subject's rows on a fresh pair of engines and returns its section of the report.
func (s subject) measure(n int) (string, error) {
	if s.n > 0 {
		n = min(n, s.n)
	}
	root, err := os.MkdirTemp("/var/tmp", "gantry-bench-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(root)
	if s.disk {
		if err := mountDisk(root); err != nil {
			return "", err
		}
		defer unix.Unmount(root, unix.MNT_DETACH)
	}
	exec, err := execRoot(root)
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(exec)
	p := &pair{ours: engine.Gantry(filepath.Join(root, "gantry"), "--exec-root", filepath.Join(exec, "gantry")),
		theirs: engine.DockerWithNetworks(filepath.Join(root, "docker"), "--exec-root", filepath.Join(exec, "docker")), dir: filepath.Join(root, "made"), disk: s.disk}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return "", err
	}
	for _, e := range p.both() {
		if err := e.Start(); err != nil {
			return "", err
		}
		defer e.Stop()
		defer func() { // an engine that ends leaves its containers running
			ids := strings.Fields(engine.Run(e.StockCLI("ps", "-aq")).Out)
			if len(ids) > 0 {
				engine.Run(e.StockCLI(append([]string{"rm", "-f"}, ids...)...))
			}
		}()
	}
	if s.finish != nil {
		defer s.finish()
	}
	if s.prepare != nil {
		if err := s.prepare(p); err != nil {
			return "", fmt.Errorf("prepare: %w", err)
		}
	}
	idle := idleCPU()
	section := s.header(n)
	for _, r := range s.rows {
		samples := map[*engine.Engine][]sample{}
		for i := range n + 1 { // the first of each is thrown away
			order := p.both()
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, e := range order {
				one, err := r.measure(p, e, idle)
				if err != nil {
					return "", fmt.Errorf("%s on %s: %w", r.name, e.Name, err)
				}
				if i > 0 {
					samples[e] = append(samples[e], one)
				}
			}
		}
		line := r.report(samples[p.ours], samples[p.theirs])
		fmt.Print(line)
		section += line
	}
	if s.after != nil {
		text := s.after(p)
		fmt.Print(text)
		section += text
	}
	return section, nil
}
