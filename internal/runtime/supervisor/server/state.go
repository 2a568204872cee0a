package server

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"gantry/internal/runtime/jsonlog"
)

// The state memory is a memfd of which the engine holds a duplicate: what a supervisor killed at any
// instruction leaves there tells the next one exactly how far each stream has come.
//
// It is an array of slots, two (stdout, stderr) for each process, and behind it a sparse area of unfinished lines, two buffers for each slot.
// Both are touched, and so take memory, only where they are used.
const (
	maxProcesses = 8192
	slotSize     = 128
	slotsSize    = maxProcesses * 2 * slotSize
	carrySize    = jsonlog.MaxLine
	stateSize    = slotsSize + maxProcesses*2*2*carrySize
)

// Phases of a slot.
const (
	idle    = 0 // nothing under way
	logging = 1 // records of the piece [Consumed, Next) are being written to the log, behind LogSize
	logged  = 2 // they are written; the piece goes to the readers, and then is consumed
)

// slot is the progress of one stream. A piece of output is looked at in the pipe without being consumed (tee(2)),
// written to the log, delivered to the attached readers, and only then consumed:
//
//   - killed in phase logging: the log is cut at LogSize again, the pipe still has all;
//   - killed in phase logged: the log has the piece. Whether the pipe still has it is told by Marker: it is set to another
//     value than the piece's first byte, and the read(2) that consumes the piece puts that byte there. The kernel ends a
//     read of bytes that are there even if a SIGKILL is pending;
//   - readers know themselves by the frames' offsets what they have.
type slot struct {
	Phase       uint32
	Used        uint32
	Consumed    uint64 // bytes taken from the pipe since the process began
	Next        uint64 // Consumed after the piece
	LogInode    uint64 // the newest log file, and its size, before the piece
	LogSize     uint64
	Partial     int64 // when the unfinished line began, ns since 1970, if a part of it is in the log
	NextPartial int64
	// Carry is the length of the unfinished line, which is consumed but not in the log, and (bit 31) which of the two
	// buffers it is in; the piece's is prepared in the other one.
	Carry     uint32
	NextCarry uint32
	First     byte // of the piece
	Marker    byte
	_         [46]byte
}

func (s *slot) phase() uint32     { return atomic.LoadUint32(&s.Phase) }
func (s *slot) setPhase(p uint32) { atomic.StoreUint32(&s.Phase, p) }

const carryBit = 1 << 31

// carried tells the unfinished line's length and buffer.
func carried(carry uint32) (length, side int) { return int(carry &^ carryBit), int(carry >> 31) }

// commit makes the piece part of the past. It may be repeated until the phase is idle, which is set last.
func (s *slot) commit() {
	atomic.StoreUint32(&s.Carry, s.NextCarry)
	atomic.StoreUint64(&s.Consumed, s.Next)
	atomic.StoreInt64(&s.Partial, s.NextPartial)
	s.setPhase(idle)
}

type state struct {
	fd  int
	mem []byte

	mu   sync.Mutex
	used map[int]struct{} // processes' indexes
	low  int              // all below are used
}

// newState makes a state memory; with fd >= 0 it takes over that one.
func newState(fd int) (*state, error) {
	if fd < 0 {
		var err error
		if fd, err = unix.MemfdCreate("gantry-state", unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL); err == unix.EINVAL {
			fd, err = unix.MemfdCreate("gantry-state", unix.MFD_CLOEXEC)
		}
		if err != nil {
			return nil, fmt.Errorf("memfd_create: %w", err)
		}
		if err := unix.Ftruncate(fd, stateSize); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("ftruncate state memory: %w", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != stateSize {
		return nil, fmt.Errorf("state memory of %d bytes, not %d: %w", st.Size, int64(stateSize), unix.EINVAL)
	}
	mem, err := unix.Mmap(fd, 0, stateSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap state memory: %w", err)
	}
	return &state{fd: fd, mem: mem, used: make(map[int]struct{})}, nil
}

// alloc returns a free process index with clean slots, or -1.
func (st *state) alloc() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	for i := st.low; i < maxProcesses; i++ {
		if _, ok := st.used[i]; !ok {
			st.used[i] = struct{}{}
			st.low = i + 1
			*st.slot(i, 0), *st.slot(i, 1) = slot{Used: 1}, slot{Used: 1}
			return i
		}
	}
	return -1
}

// take marks the index of an adopted process as used; false if it is so already or out of range.
func (st *state) take(i int) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.used[i]; ok || i < 0 || i >= maxProcesses {
		return false
	}
	st.used[i] = struct{}{}
	return true
}

func (st *state) free(i int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if _, ok := st.used[i]; !ok {
		return
	}
	for s := range 2 {
		if st.slot(i, s).Used == 2 { // give the memory of its unfinished lines back
			unix.Fallocate(st.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(st.carryOffset(i, s, 0)), 2*carrySize)
		}
		*st.slot(i, s) = slot{}
	}
	delete(st.used, i)
	st.low = min(st.low, i)
}

func (st *state) slot(i, s int) *slot {
	return (*slot)(unsafe.Pointer(&st.mem[(i*2+s)*slotSize]))
}

// marker is the Marker of a slot, for the kernel to write to.
func (st *state) marker(i, s int) []byte {
	o := (i*2+s)*slotSize + int(unsafe.Offsetof(slot{}.Marker))
	return st.mem[o : o+1 : o+1]
}

func (st *state) carryOffset(i, s, side int) int {
	return slotsSize + ((i*2+s)*2+side)*carrySize
}

func (st *state) carry(i, s, side int) []byte {
	o := st.carryOffset(i, s, side)
	return st.mem[o : o+carrySize : o+carrySize]
}
