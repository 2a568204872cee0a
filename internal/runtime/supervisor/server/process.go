package server

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/jsonlog"
	"gantry/internal/runtime/supervisor/protocol"
)

// process is one started process and all that belongs to it.
type process struct {
	srv *Server

	mu      sync.Mutex
	info    protocol.Process
	pid     int
	pidfd   int
	stdin   int
	pty     int
	ptyIn   int
	mntns   int
	streams [2]*stream // stdout, stderr; nil where there is none
	clients []*client
	log     *jsonlog.File
	attrs   string // JSON
	slot    int    // index in the state memory, -1 for one of which only the exit is known
	paused  bool
	started bool            // the program runs; before, a death is a failed launch and no exit
	dead    chan struct{}   // closed when the child has been reaped before it was started
	status  unix.WaitStatus // then
	early   bool            // then
	child   bool            // this supervisor's own, reaped by wait4; else its pidfd alone tells of its end
	watch   *pollee         // of pidfd
	// lingering: forgotten, but readers have not got all output that was there then.
	lingering bool
	gone      bool // everything is closed
}

func newProcess(srv *Server, info *protocol.Process) *process {
	return &process{srv: srv, info: *info, pidfd: -1, stdin: -1, pty: -1, ptyIn: -1, mntns: -1, slot: -1,
		attrs: jsonlog.Attrs(info.Log.Attrs), dead: make(chan struct{})}
}

func closeFd(fd *int) {
	if *fd >= 0 {
		unix.Close(*fd)
		*fd = -1
	}
}

// close lets go of everything. The caller holds p.mu.
func (p *process) close() {
	p.gone = true
	for _, s := range p.streams {
		if s != nil {
			s.close()
		}
	}
	for _, c := range p.clients {
		c.close()
	}
	p.clients = nil
	if p.watch != nil {
		p.srv.poll.remove(p.watch)
		p.watch = nil
	}
	closeFd(&p.stdin)
	closeFd(&p.pty)
	closeFd(&p.ptyIn)
	closeFd(&p.pidfd)
	if p.log != nil {
		p.log.Close()
	}
	p.dropMounts()
	if p.slot >= 0 {
		p.srv.state.free(p.slot)
		p.slot = -1
	}
	p.srv.mu.Lock()
	delete(p.srv.ghosts, p)
	p.srv.mu.Unlock()
}

// dropMounts gives up the mount namespace that was held so that the death of PID 1 is told before its mounts are
// taken apart. That takes up to milliseconds (an overlay syncs): it happens aside, and the next launch of the same ID waits for it.
func (p *process) dropMounts() {
	if p.mntns < 0 {
		return
	}
	fd, id, done := p.mntns, p.info.ID, make(chan struct{})
	p.mntns = -1
	p.srv.mu.Lock()
	p.srv.dropping[id] = done
	p.srv.mu.Unlock()
	go func() {
		unix.Close(fd)
		p.srv.mu.Lock()
		if p.srv.dropping[id] == done {
			delete(p.srv.dropping, id)
		}
		p.srv.mu.Unlock()
		close(done)
	}()
}

// fds returns the process's open fds and their names, for the engine to hold.
func (p *process) fds() (names []string, fds []int) {
	add := func(name string, fd int) {
		if fd >= 0 {
			names, fds = append(names, name), append(fds, fd)
		}
	}
	add(protocol.FdPid, p.pidfd)
	add(protocol.FdStdin, p.stdin)
	add(protocol.FdPty, p.pty)
	add(protocol.FdPtyIn, p.ptyIn)
	if s := p.streams[0]; s != nil {
		add(protocol.FdStdout, s.fd)
	}
	if s := p.streams[1]; s != nil {
		add(protocol.FdStderr, s.fd)
	}
	return names, fds
}

// exit records the end of the process, once: what it wrote goes to the log, the watchers are told, and a file keeps
// the exit for an engine that is not there now.
func (p *process) exit(code int, unknown bool) {
	p.mu.Lock()
	if p.info.Exit != nil || p.gone {
		p.mu.Unlock()
		return
	}
	e := protocol.Exit{ID: p.info.ID, Pid: p.info.Pid, StartTime: p.info.StartTime, Code: code, Unknown: unknown, At: time.Now()}
	p.info.Exit = &e
	closeFd(&p.stdin)
	if p.watch != nil {
		p.srv.poll.remove(p.watch)
		p.watch = nil
	}
	p.pump(true)
	p.srv.keepExit(&p.info) // with p locked, so that Forget finds the file; before anybody may rely on it
	p.mu.Unlock()
	if p.srv.tell(&e) == 0 {
		p.mu.Lock()
		p.dropMounts() // else when the engine has answered those who wait, and says so (forget)
		p.mu.Unlock()
	}
	p.srv.endIfIdle()
}

// exitPath is the file that keeps the exit of process id.
func (s *Server) exitPath(id string) string {
	return s.conf.Dir + "/" + protocol.ExitsName + "/" + id + ".json"
}

// keepExit writes the exit file. The exec-root is a tmpfs and dies with the processes: no sync. One that was cut
// short by a kill is no JSON, and is as good as none.
func (s *Server) keepExit(info *protocol.Process) {
	b, err := json.Marshal(info)
	if err == nil {
		err = os.WriteFile(s.exitPath(info.ID), b, 0o600)
	}
	if err != nil {
		s.complain("keep exit", err) // the engine is told, by Watch or by List
	}
}

// loadExits brings back the exits that an earlier supervisor kept and nobody has forgotten.
func (s *Server) loadExits() {
	dir := s.conf.Dir + "/" + protocol.ExitsName
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			os.Remove(dir + "/" + e.Name())
			continue
		}
		b, err := os.ReadFile(dir + "/" + e.Name())
		if err != nil {
			continue
		}
		var info protocol.Process
		if json.Unmarshal(b, &info) != nil || info.ID != id || info.Exit == nil {
			os.Remove(dir + "/" + e.Name())
			continue
		}
		if s.procs[id] == nil {
			p := newProcess(s, &info)
			p.started = true
			s.procs[id] = p
		}
	}
}

// startTime reads field 22 of /proc/pid/stat, in clock ticks since boot, and the state; ok is false if there is no such process.
func startTime(pid int) (ticks uint64, exitCode int, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	// The command in parentheses may hold anything: fields are counted behind the last one.
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return 0, 0, false
	}
	fields := strings.Fields(string(b[i+1:])) // field 3 first
	if len(fields) < 50 {
		return 0, 0, false
	}
	ticks, err = strconv.ParseUint(fields[22-3], 10, 64)
	exitCode = -1
	if fields[0] == "Z" {
		exitCode, _ = strconv.Atoi(fields[52-3])
	}
	return ticks, exitCode, err == nil
}

// parent returns the pid of a process's parent, 0 if there is no such process.
func parent(pid int) int {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}
