// Command bench measures Gantry against a real dockerd in the same run and writes docs/bench.md.
//
// The two take turns at every single measurement, with an idle gap before each, so that whatever else the
// machine does hits both alike; back-to-back loops would hide costs that only show after idle time. Wall
// time ends when the command returns. CPU time is the whole machine's, from before the command until the
// kernel objects that it touched are gone, less what the machine uses when idle: it counts what is done
// behind the reply, in the kernel too. Only ratios mean anything.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gantry/test/engine"
)

// row is one thing to measure. before and after are not part of the measurement.
type row struct {
	name   string
	before [][]string
	args   []string
	after  [][]string
}

var rows = []row{
	{name: "run --rm", args: words("run --rm --network none busybox true")},
	{name: "run -d", args: words("run -d --name bench --network none busybox sleep 1000"), after: [][]string{words("rm -f bench")}},
	{name: "exec", args: words("exec idle true")},
	{name: "start", before: [][]string{words("create --name bench --network none busybox sleep 1000")}, args: words("start bench"), after: [][]string{words("rm -f bench")}},
	{name: "stop", before: [][]string{words("run -d --init --name bench --network none busybox sleep 1000")}, args: words("stop bench"), after: [][]string{words("rm -f bench")}},
	{name: "rm -f, running", before: [][]string{words("run -d --name bench --network none busybox sleep 1000")}, args: words("rm -f bench")},
	{name: "ps", args: words("ps")},
}

func words(s string) []string { return strings.Fields(s) }

// sample is one measurement, in seconds.
type sample struct{ wall, cpu float64 }

const (
	gap    = 150 * time.Millisecond // idle before each measurement
	settle = 350 * time.Millisecond // after the reply: until the kernel objects are gone
)

func main() {
	n := flag.Int("n", 20, "measurements of each engine and row")
	out := flag.String("o", "docs/bench.md", "the report, relative to the checkout")
	flag.Parse()
	if err := run(*n, filepath.Join(engine.Repo(), *out)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(n int, report string) error {
	root, err := os.MkdirTemp("/var/tmp", "gantry-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(root)
	ours, theirs := engine.Gantry(filepath.Join(root, "gantry")), engine.Docker(filepath.Join(root, "docker"))
	images, err := exec.Command(filepath.Join(engine.Repo(), "test/images/make"), "busybox").Output()
	if err != nil {
		return err
	}
	for _, e := range []*engine.Engine{ours, theirs} {
		if err := e.Start(); err != nil {
			return err
		}
		defer e.Stop()
		for _, args := range [][]string{{"load", "-q", "-i", strings.TrimSpace(string(images))}, words("run -d --name idle --network none busybox sleep 100000")} {
			if r := engine.Run(e.StockCLI(args...)); r.Code != 0 {
				return fmt.Errorf("prepare %s: %v", e.Name, r)
			}
		}
		defer engine.Run(e.StockCLI("rm", "-f", "idle"))
	}
	idle := idleCPU()
	command := map[*engine.Engine]func(...string) *exec.Cmd{ours: ours.CLI, theirs: theirs.StockCLI}
	var b bytes.Buffer
	header(&b, n)
	for _, r := range rows {
		samples := map[*engine.Engine][]sample{}
		for i := range n + 1 { // the first of each is thrown away
			order := []*engine.Engine{ours, theirs}
			if i%2 == 1 {
				slices.Reverse(order)
			}
			for _, e := range order {
				s, err := r.measure(command[e], idle)
				if err != nil {
					return fmt.Errorf("%s on %s: %w", r.name, e.Name, err)
				}
				if i > 0 {
					samples[e] = append(samples[e], s)
				}
			}
		}
		line := r.report(samples[ours], samples[theirs])
		fmt.Print(line)
		b.WriteString(line)
	}
	return os.WriteFile(report, b.Bytes(), 0o644)
}

func (r row) measure(command func(...string) *exec.Cmd, idle float64) (sample, error) {
	for _, args := range r.before {
		if res := engine.Run(command(args...)); res.Code != 0 {
			return sample{}, fmt.Errorf("before: %v", res)
		}
	}
	time.Sleep(gap)
	cmd := command(r.args...)
	cpu, began := busyCPU(), time.Now()
	res := engine.Run(cmd)
	wall := time.Since(began)
	time.Sleep(settle)
	used := busyCPU() - cpu - idle*time.Since(began).Seconds()
	if res.Code != 0 {
		return sample{}, fmt.Errorf("%v", res)
	}
	for _, args := range r.after {
		if res := engine.Run(command(args...)); res.Code != 0 {
			return sample{}, fmt.Errorf("after: %v", res)
		}
	}
	return sample{wall.Seconds(), max(used, 0)}, nil
}

// busyCPU returns the CPU seconds that the whole machine has spent on anything but idling, as the root
// cgroup counts them: in nanoseconds, while /proc/stat counts in hundredths of a second.
func busyCPU() float64 {
	if data, err := os.ReadFile("/sys/fs/cgroup/cpuacct/cpuacct.usage"); err == nil {
		var ns float64
		fmt.Sscan(string(data), &ns)
		return ns / 1e9
	}
	data, err := os.ReadFile("/sys/fs/cgroup/cpu.stat")
	if err != nil {
		panic("no cgroup says how much CPU the machine used: " + err.Error())
	}
	var usec float64
	fmt.Sscanf(string(data), "usage_usec %f", &usec)
	return usec / 1e6
}

// idleCPU returns the CPU seconds a second that the machine uses when nothing is asked of it.
func idleCPU() float64 {
	from, began := busyCPU(), time.Now()
	time.Sleep(2 * time.Second)
	return (busyCPU() - from) / time.Since(began).Seconds()
}

func header(b *bytes.Buffer, n int) {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	docker, _ := exec.Command("dockerd", "--version").Output()
	fmt.Fprintf(b, `# Gantry against Docker

Written by `+"`make bench`"+`. Both engines run on the same machine at the same time and take turns at every
measurement, %d times each, with an idle gap before each. Gantry is driven by its own command line, Docker by
its own. *Ratio* is Gantry's median over Docker's; in brackets its 95 %% confidence interval (bootstrap).
CPU is the whole machine's, until everything that the command touched is gone from the kernel.
Absolute times say more about the machine than about the engines.

Kernel %s, %s.

| command | wall, Gantry | wall, Docker | ratio | CPU, Gantry | CPU, Docker | ratio |
|---|---|---|---|---|---|---|
`, n, strings.TrimSpace(string(kernel)), strings.TrimSpace(string(docker)))
}

func (r row) report(ours, theirs []sample) string {
	var cells []string
	for _, pick := range []func(sample) float64{func(s sample) float64 { return s.wall }, func(s sample) float64 { return s.cpu }} {
		a, b := values(ours, pick), values(theirs, pick)
		lo, hi := interval(a, b)
		cells = append(cells, fmt.Sprintf("%.1f ms", 1e3*median(a)), fmt.Sprintf("%.1f ms", 1e3*median(b)),
			fmt.Sprintf("%.3f [%.3f, %.3f]", median(a)/median(b), lo, hi))
	}
	return fmt.Sprintf("| `%s` | %s |\n", r.name, strings.Join(cells, " | "))
}

func values(s []sample, pick func(sample) float64) []float64 {
	out := make([]float64, len(s))
	for i := range s {
		out[i] = pick(s[i])
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 1 {
		return v[n/2]
	} else {
		return (v[n/2-1] + v[n/2]) / 2
	}
}

// interval returns the 95 % bootstrap confidence interval of the ratio of medians.
func interval(a, b []float64) (lo, hi float64) {
	rng := rand.New(rand.NewPCG(1, 2))
	draw := func(v []float64) []float64 {
		out := make([]float64, len(v))
		for i := range out {
			out[i] = v[rng.IntN(len(v))]
		}
		return out
	}
	ratios := make([]float64, 2000)
	for i := range ratios {
		ratios[i] = median(draw(a)) / median(draw(b))
	}
	slices.Sort(ratios)
	return ratios[len(ratios)*25/1000], ratios[len(ratios)*975/1000]
}
