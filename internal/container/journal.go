package container

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gantry/internal/failpoint"
	"gantry/internal/ids"
	"gantry/internal/trash"
)

// The operations that are carried out in recorded steps.
const (
	opCreate = "create"
	opStart  = "start"
	opStop   = "stop"
	opRemove = "remove"
)

// The steps of each, in their order. Every one is written to the journal before it is done.
var opSteps = map[string][]string{
	opCreate: {"dir", "volumes", "record"},
	opStart:  {"cgroup", "network", "files", "launch", "live"},
	opStop:   {"signal", "ended"},
	opRemove: {"mark", "kill", "cgroup", "record", "files"},
}

// Failpoints lists the places where a test may kill the daemon (package failpoint): one after each
// recorded step. "container.stop.kill" is reached only where the first signal was not heeded.
func Failpoints() []string {
	var all []string
	for op, steps := range opSteps {
		for _, s := range steps {
			all = append(all, "container."+op+"."+s)
		}
	}
	all = append(all, "container.stop.kill")
	slices.Sort(all)
	return all
}

// intent is the first line of a journal: what was begun.
type intent struct {
	V  int    `json:"v"`
	Op string `json:"op"`
	ID string `json:"id"`

	Record *record     `json:"record,omitempty"` // create: all of it
	Parent string      `json:"parent,omitempty"` // start, remove: of its cgroup
	Signal int         `json:"signal,omitempty"` // stop
	Until  time.Time   `json:"until,omitzero"`   // stop: when to kill; zero is never
	Name   string      `json:"name,omitempty"`   // remove: to be freed
	Item   *trash.Item `json:"item,omitempty"`   // remove: what goes into the trash
	Kill   bool        `json:"-"`                // remove: carried on by a later daemon
	// Volumes go with the container that is removed, unless somebody else holds them.
	Volumes []string `json:"volumes,omitempty"`
}

// journal is the record of one operation under way on one container. It lies in the exec-root: it is there
// after a crash of the daemon, and gone, as are the processes and cgroups it tells of, after a reboot.
type journal struct {
	path string
	f    *os.File
	op   string
}

// begin opens the journal of an operation. One operation at a time is under way on a container, but for a
// removal, which takes the place of a stop that it hurries.
func begin(dir string, in intent) (*journal, error) {
	in.V = 1
	line, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, in.ID)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		f.Close()
		os.Remove(path)
		return nil, fmt.Errorf("write journal: %w", err)
	}
	return &journal{path, f, in.Op}, nil
}

// record notes that step is about to be done.
func (j *journal) record(step string) error {
	if _, err := j.f.WriteString(step + "\n"); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}

// did is passed after each step.
func (j *journal) did(step string) { failpoint.Hit("container." + j.op + "." + step) }

// end forgets the operation: it is complete, or undone.
func (j *journal) end() {
	j.f.Close()
	os.Remove(j.path)
}

// setAside renames the journal, so that the next operation on the container can have one: what remains of
// this one goes on beside it.
func (j *journal) setAside() error {
	aside := j.path + "." + j.op
	if err := os.Rename(j.path, aside); err != nil {
		return err
	}
	j.path = aside
	return nil
}

// step is one recorded step. Its undo may run twice, and for a step that was begun but not done.
type step struct {
	name string
	do   func() error
	undo func()
}

// run does the steps in order. When one fails, it and those before it are undone, and the journal ends.
func (j *journal) run(steps []step) error {
	for i, s := range steps {
		err := j.record(s.name)
		if err == nil {
			err = s.do()
		}
		if err != nil {
			for ; i >= 0; i-- {
				if steps[i].undo != nil {
					steps[i].undo()
				}
			}
			j.end()
			return err
		}
		j.did(s.name)
	}
	return nil
}

// left is a journal that a daemon left behind.
type left struct {
	intent
	path  string
	aside bool     // it had been set aside: the operation was done but for the disk
	steps []string // those begun
}

// reached reports whether step was begun.
func (l *left) reached(step string) bool { return slices.Contains(l.steps, step) }

// leftovers reads all journals below dir, those set aside first. One whose first line was cut short tells of an
// operation that had not begun, and is deleted.
func leftovers(dir string) ([]*left, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []*left
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		id, _, aside := strings.Cut(e.Name(), ".")
		if !ids.Valid(id) {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		l := &left{path: path, aside: aside}
		lines := bufio.NewScanner(bytes.NewReader(data))
		lines.Buffer(nil, 16<<20)
		if !lines.Scan() || json.Unmarshal(lines.Bytes(), &l.intent) != nil || l.ID != id {
			os.Remove(path)
			continue
		}
		for lines.Scan() {
			l.steps = append(l.steps, lines.Text())
		}
		if aside {
			all = slices.Insert(all, 0, l)
		} else {
			all = append(all, l)
		}
	}
	return all, nil
}

// discard deletes the journal: what it tells of has been finished or undone.
func (l *left) discard() { os.Remove(l.path) }
