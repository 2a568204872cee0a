package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const preamble = `# Gantry against Docker

Written by ` + "`make bench`" + `. Both engines run on the same machine at the same time and take turns at every
measurement, with an idle gap before each. Gantry is driven by its own command line, Docker by its own. *Ratio* is
Gantry's median over Docker's; in brackets its 95 % confidence interval (bootstrap). *Goal* is the ratio that we
want to stay below, of wall time and of CPU. Both keep what belongs to this boot on a tmpfs, as they do by default. CPU is the whole machine's, until everything that the command touched
is gone from the kernel. Absolute times say more about the machine than about the engines.
`

// replaceSection puts a section in the place of the report's section of that title, or at its end.
func replaceSection(report, section string) error {
	data, err := os.ReadFile(report)
	if errors.Is(err, fs.ErrNotExist) {
		data = []byte(preamble)
	} else if err != nil {
		return err
	}
	parts := strings.Split(string(data), "\n## ")
	parts[0] = preamble
	heading, _, _ := strings.Cut(strings.TrimPrefix(section, "## "), "\n")
	section = strings.TrimPrefix(section, "## ")
	at := slices.IndexFunc(parts, func(part string) bool { return strings.HasPrefix(part, heading+"\n") })
	if at < 0 {
		parts = append(parts, section)
	} else {
		parts[at] = section
	}
	for i := range parts {
		parts[i] = strings.TrimRight(parts[i], "\n") + "\n"
	}
	return os.WriteFile(report, []byte(strings.Join(parts, "\n## ")), 0o644)
}

func (s subject) header(n int) string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	docker, _ := exec.Command("dockerd", "--version").Output()
	about := s.about
	if about != "" {
		about += " "
	}
	return fmt.Sprintf(`## %s

%s%d measurements each, %s, kernel %s, %s.

| | wall, Gantry | wall, Docker | ratio | goal | CPU, Gantry | CPU, Docker | ratio | goal |
|---|---|---|---|---|---|---|---|---|
`, s.title, about, n, time.Now().Format(time.DateOnly), strings.TrimSpace(string(kernel)), strings.TrimSpace(string(docker)))
}

func (r row) report(ours, theirs []sample) string {
	var cells []string
	for _, part := range []struct {
		pick func(sample) float64
		goal float64
	}{{func(s sample) float64 { return s.wall }, r.wall}, {func(s sample) float64 { return s.cpu }, r.cpu}} {
		a, b := values(ours, part.pick), values(theirs, part.pick)
		lo, hi := interval(a, b)
		goal := ""
		if part.goal > 0 {
			goal = fmt.Sprintf("%.3f", part.goal)
		}
		if median(b) <= 0 { // lost in what the machine does by itself
			cells = append(cells, "", "", "", goal)
			continue
		}
		cells = append(cells, fmt.Sprintf("%.1f ms", 1e3*median(a)), fmt.Sprintf("%.1f ms", 1e3*median(b)),
			fmt.Sprintf("%.3f [%.3f, %.3f]", median(a)/median(b), lo, hi), goal)
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
