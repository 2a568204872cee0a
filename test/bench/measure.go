package main

import (
	"fmt"
	"os"
	"time"

	"gantry/test/engine"
)

// row is one thing to measure, by args (a command line) or by do. before and after are not part of it.
type row struct {
	name      string
	wall, cpu float64 // the goals: Gantry's time over Docker's, at most; 0 where none is set
	before    [][]string
	args      []string
	after     [][]string

	do    func(*pair, *engine.Engine) error // instead of args, for what is not a command line
	setup func(*pair, *engine.Engine) error // before the measurement, instead of before
	clean func(*pair, *engine.Engine) error // after it
}

// sample is one measurement, in seconds.
type sample struct{ wall, cpu float64 }

const (
	gap    = 150 * time.Millisecond // idle before each measurement
	settle = 350 * time.Millisecond // after the reply: until the kernel objects are gone
)

func (r row) measure(p *pair, e *engine.Engine, idle float64) (sample, error) {
	for _, args := range r.before {
		if err := p.do(e, args...); err != nil {
			return sample{}, fmt.Errorf("before: %w", err)
		}
	}
	if r.setup != nil {
		if err := r.setup(p, e); err != nil {
			return sample{}, fmt.Errorf("before: %w", err)
		}
	}
	do := r.do
	if do == nil {
		cmd := p.command(e, r.args...)
		do = func(*pair, *engine.Engine) error {
			if res := engine.Run(cmd); res.Code != 0 {
				return fmt.Errorf("%v", res)
			}
			return nil
		}
	}
	if err := p.settle(); err != nil {
		return sample{}, err
	}
	time.Sleep(gap)
	cpu, began := busyCPU(), time.Now()
	err := do(p, e)
	wall := time.Since(began)
	time.Sleep(settle)
	used := busyCPU() - cpu - idle*time.Since(began).Seconds()
	if err != nil {
		return sample{}, err
	}
	for _, args := range r.after {
		if err := p.do(e, args...); err != nil {
			return sample{}, fmt.Errorf("after: %w", err)
		}
	}
	if r.clean != nil {
		if err := r.clean(p, e); err != nil {
			return sample{}, fmt.Errorf("after: %w", err)
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
