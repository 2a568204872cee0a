package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// procsDir is the directory whose cgroup.procs is believed.
func (g *Group) procsDir() string {
	if g.host.kind == V2 {
		return g.Path("")
	}
	// A container that runs systemd moves processes in name=systemd and cgroup2, not in these.
	for _, c := range []string{"pids", "devices", "freezer", "memory", "cpu"} {
		if d := g.Path(c); d != "" {
			return d
		}
	}
	return g.Dirs()[0]
}

// Procs returns the processes of the group and of those below it, unsorted; none if it is gone.
func (g *Group) Procs() ([]int, error) {
	var pids []int
	dir := g.procsDir()
	fd, err := openFile(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := procsBelow(fd, dir, 0, &pids); err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", g.name, err)
	}
	return pids, nil
}

func procsBelow(fd int, dir string, depth int, pids *[]int) error {
	b, err := readFileAt(fd, "cgroup.procs")
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return nil // removed meanwhile
	case errors.Is(err, unix.EOPNOTSUPP):
		// A threaded group of version 2: its processes are listed in the group above that is not.
	case err != nil:
		return err
	}
	for f := range strings.FieldsSeq(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
			*pids = append(*pids, pid)
		}
	}
	if depth == maxDepth {
		return nil
	}
	var last error
	err = subdirs(fd, dir, func(name string) {
		sub, err := openFileAt(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return
		}
		if err := procsBelow(sub, dir+"/"+name, depth+1, pids); err != nil {
			last = err
		}
		unix.Close(sub)
	})
	if err != nil {
		return err
	}
	return last
}

// Kill sends SIGKILL to every process of the group and of those below it, and wakes it if it is frozen. It
// does not wait for them to end.
func (g *Group) Kill() error {
	if d := g.Path(""); d != "" {
		// Since 5.14: all at once, so that no fork escapes. It works on the cgroup2 tree beside version 1
		// too, but a process may be missing there.
		err := writeFile(d+"/cgroup.kill", "1")
		if err == nil && g.host.kind == V2 {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("kill cgroup %s: %w", g.name, err)
		}
	}
	killed := map[int]bool{}
	for round := range 100 {
		if d := g.Path("freezer"); d != "" && round == 3 {
			// They fork as fast as they are killed. Frozen ones cannot, and their children are born frozen; it is not
			// waited for, since one that is stuck in the kernel would hold up everything.
			_ = writeFile(d+"/freezer.state", "FROZEN")
		}
		pids, err := g.Procs()
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", g.name, err)
		}
		fresh := false
		for _, pid := range pids {
			if !killed[pid] {
				killed[pid], fresh = true, true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
					return fmt.Errorf("kill process %d of cgroup %s: %w", pid, g.name, err)
				}
			}
		}
		if !fresh {
			break
		}
	}
	// Version 1 keeps frozen even what has been killed.
	if d := g.Path("freezer"); d != "" {
		if err := writeFile(d+"/freezer.state", "THAWED"); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("kill cgroup %s: %w", g.name, err)
		}
	}
	return nil
}

// Freeze stops every process of the group and waits until all have stopped. If ctx ends before, they are thawed.
func (g *Group) Freeze(ctx context.Context) error {
	var err error
	if d := g.Path("freezer"); d != "" {
		err = freezeV1(ctx, d)
	} else if d := g.Path(""); d != "" {
		err = freezeV2(ctx, d)
	} else {
		err = errs.NotImplemented.Errorf("no freezer controller and no cgroup2 hierarchy is mounted")
	}
	if err != nil {
		_ = g.Thaw()
		return fmt.Errorf("freeze cgroup %s: %w", g.name, err)
	}
	return nil
}

// freezeV1 asks again while the state is FREEZING: a process that forks at the wrong moment, or one in
// vfork(2) or being traced, keeps the kernel from finishing. Thawing now and then lets it come to a place
// where it can be frozen.
func freezeV1(ctx context.Context, dir string) error {
	file := dir + "/freezer.state"
	pause := 100 * time.Microsecond
	for i := 1; ; i++ {
		if i%50 == 0 {
			if err := writeFile(file, "THAWED"); err != nil {
				return err
			}
			if err := sleep(ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
		if err := writeFile(file, "FROZEN"); err != nil {
			return err
		}
		b, err := readFile(file)
		if err != nil {
			return err
		}
		switch s := strings.TrimSpace(string(b)); s {
		case "FROZEN":
			return nil
		case "FREEZING":
		default:
			return errs.Conflict.Errorf("unexpected state %q: someone thaws it", s)
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 10*time.Millisecond)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

func freezeV2(ctx context.Context, dir string) error {
	if err := writeFile(dir+"/cgroup.freeze", "1"); err != nil {
		return err
	}
	return awaitEvent(ctx, dir, "frozen", 1)
}

// awaitEvent waits until cgroup.events says "key want". The kernel wakes pollers at every change of it.
func awaitEvent(ctx context.Context, dir, key string, want uint64) error {
	file := dir + "/cgroup.events"
	fd, err := openFile(file, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := make([]byte, 512)
	for {
		n, err := unix.Pread(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: file, Err: err}
		}
		if parseKeyed(buf[:n])[key] == want {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// In short turns, to notice the end of ctx.
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, 50); err != nil && err != unix.EINTR {
			return &fs.PathError{Op: "poll", Path: file, Err: err}
		}
	}
}

// Thaw lets the processes of the group run on. A group that is not frozen, or gone, is left as it is.
func (g *Group) Thaw() error {
	var err error
	if d := g.Path("freezer"); d != "" {
		err = writeFile(d+"/freezer.state", "THAWED")
	} else if d := g.Path(""); d != "" {
		err = writeFile(d+"/cgroup.freeze", "0")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("thaw cgroup %s: %w", g.name, err)
	}
	return nil
}

// Frozen reports whether the group has been told to freeze: what a daemon that comes back needs to know.
func (g *Group) Frozen() (bool, error) {
	if d := g.Path("freezer"); d != "" {
		b, err := readFile(d + "/freezer.state")
		return err == nil && strings.TrimSpace(string(b)) != "THAWED", err
	}
	v, err := readUint(path.Join(g.Path(""), "cgroup.freeze"))
	return v == 1, err
}

// Populated reports whether a process lives in the group or below it.
func (g *Group) Populated() (bool, error) {
	if g.host.kind == V2 {
		m, err := readKeyed(g.Path("") + "/cgroup.events")
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return m["populated"] == 1, err
	}
	pids, err := g.Procs()
	return len(pids) > 0, err
}

// OOMKills returns how many processes the kernel has killed for want of memory in this group; on version 2, in
// those below it too.
func (g *Group) OOMKills() (uint64, error) {
	d := g.Path("memory")
	if d == "" {
		return 0, nil
	}
	file := "/memory.oom_control"
	if g.host.kind == V2 {
		file = "/memory.events"
	}
	m, err := readKeyed(d + file)
	if err != nil {
		return 0, err
	}
	return m["oom_kill"], nil
}

// probe looks at what the mounted hierarchies can do.
func (h *Host) probe() Support {
	has := func(controller string) bool { _, ok := h.where[controller]; return ok }
	file := func(controller, name string) bool {
		i, ok := h.where[controller]
		return ok && exists(h.trees[i].mount+"/"+name)
	}
	if h.kind == V2 {
		t := h.trees[h.unified]
		swap := true
		if own := path.Join(t.mount, t.own); exists(own + "/memory.max") {
			swap = exists(own + "/memory.swap.max") // the top itself never has it
		}
		return Support{
			MemoryLimit: has("memory"), SwapLimit: has("memory") && swap, MemoryReservation: has("memory"),
			CPUShares: has("cpu"), CPUCfs: has("cpu"), Cpuset: has("cpuset"), PidsLimit: has("pids"),
			Blkio: has("io"), BlkioWeight: has("io"), Freezer: true, Devices: true,
		}
	}
	return Support{
		MemoryLimit:       has("memory"),
		SwapLimit:         file("memory", "memory.memsw.limit_in_bytes"),
		MemoryReservation: file("memory", "memory.soft_limit_in_bytes"),
		Swappiness:        file("memory", "memory.swappiness"),
		OOMKillDisable:    file("memory", "memory.oom_control"),
		CPUShares:         file("cpu", "cpu.shares"),
		CPUCfs:            file("cpu", "cpu.cfs_quota_us"),
		CPURealtime:       file("cpu", "cpu.rt_runtime_us"),
		Cpuset:            has("cpuset"),
		PidsLimit:         has("pids"),
		Blkio:             file("blkio", "blkio.throttle.read_bps_device"),
		// The weight files are not at the top; BFQ's statistics, which come with them, are.
		BlkioWeight: file("blkio", "blkio.weight") || file("blkio", "blkio.bfq.io_service_bytes"),
		Freezer:     has("freezer") || h.unified >= 0,
		Devices:     has("devices") || h.unified >= 0,
	}
}

// Controllers returns the names of the controllers in use, sorted.
func (h *Host) Controllers() []string {
	var c []string
	for name := range h.where {
		if name != systemd {
			c = append(c, name)
		}
	}
	slices.Sort(c)
	return c
}
