package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

func value(t *testing.T, g *Group, controller, file string) string {
	t.Helper()
	b, err := readFile(g.Path(controller) + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestLimitsAreWritten(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "limits", Resources{
		Memory: 64 << 20, MemoryReservation: 32 << 20, CPUShares: 2048, CPUQuota: 20000, CPUPeriod: 50000, CpusetCpus: "0", PidsLimit: 9,
	})
	type limit struct{ controller, file, want string }
	want := []limit{
		{"memory", "memory.limit_in_bytes", "67108864"}, {"memory", "memory.soft_limit_in_bytes", "33554432"}, {"cpu", "cpu.shares", "2048"},
		{"cpu", "cpu.cfs_quota_us", "20000"}, {"cpu", "cpu.cfs_period_us", "50000"}, {"cpuset", "cpuset.cpus", "0"},
		// Before a process is in, its forker would count.
		{"pids", "pids.max", "max"},
	}
	if h.Support().SwapLimit {
		want = append(want, limit{"memory", "memory.memsw.limit_in_bytes", "134217728"})
	}
	if h.Kind() == V2 {
		want = []limit{
			{"memory", "memory.max", "67108864"}, {"memory", "memory.low", "33554432"}, {"cpu", "cpu.weight", strconv.FormatUint(weight(2048), 10)},
			{"cpu", "cpu.max", "20000 50000"}, {"cpuset", "cpuset.cpus", "0"}, {"pids", "pids.max", "max"}, // so low a limit comes when init has done
		}
		if h.Support().SwapLimit {
			want = append(want, limit{"memory", "memory.swap.max", "67108864"})
		}
	}
	for _, w := range want {
		if got := value(t, g, w.controller, w.file); got != w.want {
			t.Errorf("%s: got %s, want %s", w.file, got, w.want)
		}
	}
	if h.Kind() != V2 {
		if value(t, g, "cpuset", "cpuset.mems") == "" {
			t.Error("cpuset.mems is empty: nothing could join")
		}
	}
	if j := g.Join(h.Own()); j.PidsMax != "9" || j.PidsMaxFile != g.Path("pids")+"/pids.max" {
		t.Errorf("got %+v", j)
	}
}

func TestBlkio(t *testing.T) {
	h := needRoot(t)
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	disk := []DeviceLimit{{unix.Major(st.Dev), unix.Minor(st.Dev), 1 << 20}}
	if sys := fmt.Sprintf("/sys/dev/block/%d:%d/", disk[0].Major, disk[0].Minor); exists(sys + "partition") {
		// Only whole disks can be throttled.
		b, err := readFile(sys + "../dev")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(b), "%d:%d", &disk[0].Major, &disk[0].Minor); err != nil {
			t.Fatal(err)
		}
	}
	if disk[0].Major == 0 || !h.Support().Blkio {
		t.Skip("the root is on no block device, or there is no controller")
	}
	g := mustCreate(t, h, "blkio", Resources{BlkioWeight: 500, BlkioDeviceReadBps: disk, BlkioDeviceWriteIOps: disk})
	dev := fmt.Sprintf("%d:%d", disk[0].Major, disk[0].Minor)
	controller, files := "blkio", map[string]string{
		"blkio.throttle.read_bps_device": dev + " 1048576", "blkio.throttle.write_iops_device": dev + " 1048576", "blkio.bfq.weight": "500",
	}
	if h.Kind() == V2 {
		controller, files = "io", map[string]string{"io.max": dev + " rbps=1048576 wbps=max riops=max wiops=1048576", "io.bfq.weight": "default 500"}
	}
	if slices.Contains(g.Warnings, warnWeight) {
		t.Log(warnWeight)
		delete(files, "blkio.bfq.weight")
		delete(files, "io.bfq.weight")
	}
	for file, want := range files {
		if file == "io.bfq.weight" && !exists(g.Path("io")+"/"+file) {
			file, want = "io.weight", "default "+strconv.FormatUint(ioWeight(500), 10)
		}
		if got := value(t, g, controller, file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	if _, err := g.Stats(); err != nil {
		t.Error(err)
	}
}

func TestFailureLeavesNothing(t *testing.T) {
	h := needRoot(t)
	parent := testParent(t, h)
	for _, r := range []Resources{
		{CpusetCpus: "4000"},
		{CpusetMems: "nonsense"},
		{CPUQuota: 1000, CPUPeriod: 999999, CPUShares: 2, BlkioDeviceReadBps: []DeviceLimit{{4000, 4000, 5}}},
	} {
		g, err := h.Create(parent, "wrong", r)
		if err == nil {
			_ = g.Remove()
			t.Errorf("%+v: no error", r)
			continue
		}
		left, err := h.Open(parent, "wrong")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range left.Dirs() {
			if exists(d) {
				t.Errorf("%s is left", d)
			}
		}
	}
	_, err := h.Create(parent, "wrong", Resources{CpusetCpus: "4000"})
	if !errs.Invalid.Is(err) || !strings.Contains(err.Error(), "Requested CPUs or memory nodes are not available - requested 4000") {
		t.Errorf("got %v", err)
	}
}

func TestMemoryHogIsKilled(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "hog", Resources{Memory: 64 << 20})
	if n, err := g.OOMKills(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	cmd := helper("hog")
	start(t, g, cmd)
	_ = cmd.Wait()
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ws.Signaled() || ws.Signal() != syscall.SIGKILL {
		t.Errorf("the hog ended with %v", cmd.ProcessState)
	}
	if n, err := g.OOMKills(); n == 0 || err != nil {
		t.Errorf("OOMKills: got %d, %v", n, err)
	}
	s, err := g.Stats()
	if err != nil || s.Memory.Limit != 64<<20 || s.Memory.FailCount == 0 || len(s.Memory.Detail) == 0 {
		t.Errorf("got %+v, %v", s.Memory, err)
	}
}

func TestForkBombStops(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "bomb", Resources{PidsLimit: 12})
	// It waits for a line, for on version 1 the limit comes just after the fork.
	cmd := exec.Command("sh", "-c", "read x; i=0; while [ $i -lt 100 ]; do sleep 600 & i=$((i+1)); done")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, g, cmd)
	_, _ = in.Write([]byte("go\n"))
	if cmd.Wait() == nil {
		t.Error("the shell could fork 100 times")
	}
	pids, err := g.Procs()
	if err != nil || len(pids) != 11 {
		t.Errorf("got %d processes, %v", len(pids), err)
	}
	s, err := g.Stats()
	if err != nil || s.Pids.Limit != 12 || s.Pids.Current > 12 {
		t.Errorf("got %+v, %v", s.Pids, err)
	}
	if yes, err := g.Populated(); !yes || err != nil {
		t.Error(yes, err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if yes, err := g.Populated(); yes || err != nil {
		t.Error(yes, err)
	}
}

func TestQuotaHolds(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "quota", Resources{NanoCPUs: 3e8})
	cmd := helper("spin 3s")
	begin := time.Now()
	start(t, g, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	// By the kernel's own count. A machine that is slow or busy makes it less, never more.
	if limit := 1.1 * 0.3 * float64(took); float64(s.CPU.Usage) > limit {
		t.Errorf("used %v of CPU in %v, more than 1.1 of 0.3 CPUs", time.Duration(s.CPU.Usage), took)
	}
	// Where others leave it less than its quota nobody need hold it back.
	had := float64(s.CPU.Usage) > 0.9*0.3*float64(3*time.Second)
	if s.CPU.Usage == 0 || s.CPU.Periods == 0 || had && (s.CPU.ThrottledPeriods == 0 || s.CPU.ThrottledTime == 0) {
		t.Errorf("got %+v", s.CPU)
	}
	t.Logf("%v of CPU in %v", time.Duration(s.CPU.Usage), took)
}

func TestDeviceFilter(t *testing.T) {
	h := needRoot(t)
	parent := testParent(t, h)
	dir := t.TempDir()
	extra, err := ParseDeviceRule("c 1:78 r")
	if err != nil {
		t.Fatal(err)
	}
	// No driver has minors 77 and 78 of major 1; the filter is asked before.
	for _, c := range []struct {
		name  string
		rules []DeviceRule
		want  map[string]string
	}{
		{"default", nil, map[string]string{
			"c,1,3,rw": "ok", "c,1,5,r": "ok", "c,1,77,r": "EPERM", "c,1,1,r": "EPERM", "b,254,0,r": "EPERM", "c,10,229,rw": "EPERM",
		}},
		{"extra", append(DefaultDevices(), extra), map[string]string{"c,1,78,r": "ENXIO", "c,1,78,w": "EPERM", "c,1,78,rw": "EPERM", "c,1,3,rw": "ok"}},
		{"all", AllDevices(), map[string]string{"c,1,77,rw": "ENXIO", "c,1,3,rw": "ok"}},
		{"none", []DeviceRule{{Type: 'a', Major: Any, Minor: Any, Access: rwm}}, map[string]string{"c,1,3,r": "mknod EPERM"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := h.Create(parent, "devices-"+c.name, Resources{Devices: c.rules})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := g.Remove(); err != nil {
					t.Error(err)
				}
			}()
			what := "open"
			for k := range c.want {
				what += " " + k
			}
			cmd := helper(what)
			cmd.Dir = dir
			var out strings.Builder
			cmd.Stdout = &out
			start(t, g, cmd)
			if err := cmd.Wait(); err != nil {
				t.Fatal(err, out.String())
			}
			if got := strings.Count(out.String(), "\n"); got != len(c.want) {
				t.Errorf("%d answers: %s", got, out.String())
			}
			for line := range strings.Lines(out.String()) {
				k, got, _ := strings.Cut(strings.TrimSpace(line), " ")
				if c.want[k] != got {
					t.Errorf("%s: got %s, want %s", k, got, c.want[k])
				}
			}
		})
	}
}

func TestFreezeStopsProgress(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "freeze", Resources{})
	cmd := helper("count")
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = w
	start(t, g, cmd)
	w.Close()
	buf := make([]byte, 1<<16)
	raw, err := out.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// drain reads what is there. (A read with a deadline may find it passed, and leave what is there.)
	drain := func() {
		err := raw.Read(func(fd uintptr) bool {
			for {
				if n, err := unix.Read(int(fd), buf); err != unix.EINTR && n <= 0 {
					return true
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	count := func() {
		_ = out.SetReadDeadline(time.Time{})
		if _, err := out.Read(buf); err != nil {
			t.Fatal("nothing is counted: ", err)
		}
	}
	count()
	for range 5 {
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if yes, err := g.Frozen(); !yes || err != nil {
			t.Fatal(yes, err)
		}
		drain()
		_ = out.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // it would count to 20
		if n, _ := out.Read(buf); n != 0 {
			t.Errorf("frozen, it wrote %d bytes", n)
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
		if yes, err := g.Frozen(); yes || err != nil {
			t.Fatal(yes, err)
		}
		count()
	}
	// What is killed frozen must end.
	if err := g.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Freeze(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if yes, err := g.Frozen(); yes && err == nil {
		if err := g.Thaw(); err != nil {
			t.Error(err)
		}
	}
}

func TestFreezeUnderForks(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "forks", Resources{NanoCPUs: 5e8})
	cmd := exec.Command("sh", "-c", "while :; do /bin/true; done")
	start(t, g, cmd)
	for range 20 {
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// TestAdoption is what a daemon that comes back does with groups of the one before.
func TestAdoption(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "adopt", Resources{Memory: 64 << 20})
	cmd := exec.Command("sleep", "600")
	start(t, g, cmd)
	again, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	byName, err := again.Open(testParentName(), "adopt")
	if err != nil {
		t.Fatal(err)
	}
	byDirs, err := again.OpenDirs(g.Dirs())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []*Group{byName, byDirs} {
		pids, err := a.Procs()
		if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
			t.Errorf("got %v, %v", pids, err)
		}
		if !slices.Equal(a.Dirs(), g.Dirs()) {
			t.Errorf("got %v, want %v", a.Dirs(), g.Dirs())
		}
	}
	// A group in use is not taken over.
	if _, err := again.Create(testParentName(), "adopt", Resources{}); !errs.Conflict.Is(err) {
		t.Errorf("got %v", err)
	}
	// Of an exec: in the same group, beside the first.
	exec2 := exec.Command("sleep", "600")
	start(t, byName, exec2)
	if pids, err := g.Procs(); err != nil || len(pids) != 2 {
		t.Errorf("got %v, %v", pids, err)
	}
	if err := byName.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Wait(), exec2.Wait()
	if err := byDirs.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stats of what is gone: %v", err)
	}
	if pids, err := g.Procs(); len(pids) != 0 || err != nil {
		t.Errorf("Procs of what is gone: %v, %v", pids, err)
	}
	for _, err := range []error{g.Kill(), g.Thaw(), g.Remove()} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestLeftoverIsReplaced(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "again", Resources{Memory: 64 << 20})
	if err := mkdir(g.procsDir() + "/inner"); err != nil {
		t.Fatal(err)
	}
	// Half of it is gone already.
	if err := removeTree(g.Dirs()[0]); err != nil {
		t.Fatal(err)
	}
	g, err := h.Create(testParentName(), "again", Resources{})
	if err != nil {
		t.Fatal(err)
	}
	if exists(g.procsDir() + "/inner") {
		t.Error("what was below is still there")
	}
	if d := g.Path("memory"); h.Kind() == V2 && value(t, g, "memory", "memory.max") != "max" {
		t.Error(d, "kept its limit")
	}
}

func TestParentRemovedMeanwhile(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "one", Resources{})
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	parent, err := h.Open("/", path.Base(testParentName()))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Remove(); err != nil {
		t.Fatal(err)
	}
	g, err = h.Create(testParentName(), "one", Resources{Memory: 64 << 20, CpusetCpus: "0", PidsLimit: 3})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("true")
	start(t, g, cmd)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestRemoveTakesWhatIsNested(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "nest", Resources{})
	for _, d := range []string{"/a", "/a/b", "/a/b/c", "/a/d", "/e"} {
		if err := mkdir(g.procsDir() + d); err != nil {
			t.Fatal(err)
		}
	}
	// Deeper than a path can say.
	fd, err := openFile(g.procsDir(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 250)
	for range 20 {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openFileAt(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	if _, err := g.Procs(); err != nil {
		t.Error(err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if exists(g.procsDir()) {
		t.Error("it is left")
	}
}

func TestKillReachesNested(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "killnested", Resources{})
	inner := g.procsDir() + "/inner"
	if err := mkdir(inner); err != nil {
		t.Fatal(err)
	}
	if h.Kind() != V2 {
		if d := g.Path("cpuset"); g.procsDir() == d {
			t.Skip("nothing can be nested simply")
		}
	}
	cmd := exec.Command("sleep", "600")
	start(t, g, cmd)
	if err := writeFile(inner+"/cgroup.procs", strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Procs(); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("got %v, %v", pids, err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestUpdate(t *testing.T) {
	h := needRoot(t)
	g := mustCreate(t, h, "update", Resources{Memory: 64 << 20, CPUQuota: 20000, CPUPeriod: 50000, PidsLimit: 9})
	memory, swap, pids, quota := "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max", "cpu.cfs_quota_us"
	if h.Kind() == V2 {
		memory, swap, quota = "memory.max", "memory.swap.max", "cpu.max"
	}
	for _, c := range []struct {
		r                         Resources
		memory, swap, pids, quota string
	}{
		// Up beyond the old swap limit, down below the old memory limit, off.
		{Resources{Memory: 256 << 20, MemorySwap: 512 << 20, PidsLimit: 20, CPUQuota: 200000, CPUPeriod: 100000}, "268435456", "536870912", "20", "200000"},
		{Resources{Memory: 32 << 20, MemorySwap: 32 << 20, PidsLimit: 5, CPUQuota: 1000, CPUPeriod: 10000}, "33554432", "33554432", "5", "1000"},
		{Resources{Memory: 48 << 20, MemorySwap: -1, PidsLimit: -1, CPUQuota: -1}, "50331648", "", "max", "-1"},
	} {
		if err := g.Update(c.r); err != nil {
			t.Fatal(err)
		}
		if h.Kind() == V2 {
			if c.swap != "" {
				c.swap = strconv.FormatInt(c.r.MemorySwap-c.r.Memory, 10)
			}
			if c.quota = "max 10000"; c.r.CPUQuota > 0 {
				c.quota = fmt.Sprint(c.r.CPUQuota, c.r.CPUPeriod)
			}
		}
		if got := value(t, g, "memory", memory); got != c.memory {
			t.Errorf("memory: got %s, want %s", got, c.memory)
		}
		if c.swap != "" && h.Support().SwapLimit {
			if got := value(t, g, "memory", swap); got != c.swap {
				t.Errorf("swap: got %s, want %s", got, c.swap)
			}
		}
		if got := value(t, g, "pids", pids); got != c.pids {
			t.Errorf("pids: got %s, want %s", got, c.pids)
		}
		if got := value(t, g, "cpu", quota); got != c.quota {
			t.Errorf("quota: got %s, want %s", got, c.quota)
		}
	}
}

func TestCreatePlain(t *testing.T) {
	h := needRoot(t)
	name := testParent(t, h) + "/supervisor"
	for range 2 { // the second time it is there
		g, err := h.CreatePlain(name)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "600")
		start(t, g, cmd)
		if pids, err := g.Procs(); err != nil || !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("got %v, %v", pids, err)
		}
		t.Cleanup(func() { _ = g.Kill() })
	}
}

func TestManyAtOnce(t *testing.T) {
	h := needRoot(t)
	parent := testParent(t, h)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 5 {
				g, err := h.Create(parent, fmt.Sprintf("many-%d-%d", i, j), Resources{PidsLimit: 5})
				if err != nil {
					t.Error(err)
					return
				}
				if err := g.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestInternalProcesses: version 2 lets a group below the root either hold processes or hand controllers down.
func TestInternalProcesses(t *testing.T) {
	h := needRoot(t)
	if h.Kind() != V2 {
		t.Skip("a rule of version 2")
	}
	parent := testParent(t, h)
	service, err := h.CreatePlain(parent + "/service")
	if err != nil {
		t.Fatal(err)
	}
	cmd := helper("vacate")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	start(t, service, cmd)
	lines := bufio.NewScanner(out)
	lines.Scan()
	made := lines.Text()
	lines.Scan()
	own := lines.Text()
	if made != service.Path("")+"/below/x" || own != service.Path("")+"/"+vacateTo {
		t.Errorf("got %q and %q", made, own)
	}
	b, err := readFile(service.Path("") + "/" + vacateTo + "/cgroup.procs")
	if err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("got %q, %v", b, err)
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}

	// A group with someone else's processes is not touched.
	foreign, err := h.CreatePlain(parent + "/foreign")
	if err != nil {
		t.Fatal(err)
	}
	sleeper := exec.Command("sleep", "600")
	start(t, foreign, sleeper)
	_, err = h.Create(parent+"/foreign", "x", Resources{})
	if !errs.Conflict.Is(err) || !strings.Contains(err.Error(), "--cgroup-parent") {
		t.Errorf("got %v", err)
	}
	if err := foreign.Kill(); err != nil {
		t.Error(err)
	}
	_ = sleeper.Wait()
}
