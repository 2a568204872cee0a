package container

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gantry/internal/atomicfile"
	"gantry/internal/ids"
	"gantry/internal/runtime/spec"
	"gantry/internal/runtime/supervisor"
)

// live are the facts of a running container that a reboot voids. They lie in the exec-root, so that the next
// daemon finds them, and finds none after a reboot. Once written a value is not changed.
type live struct {
	V         int       `json:"v"`
	Pid       int       `json:"pid"`
	StartTime uint64    `json:"start_time"`
	Started   time.Time `json:"started"`
	Cgroup    Cgroup    `json:"cgroup"`
	Restarts  int       `json:"restarts,omitempty"`
	Manual    bool      `json:"manual,omitempty"`
	// Exit is set between the end of the process and the durable record of it: the supervisor may forget it
	// as soon as it is written here.
	Exit *supervisor.Exit `json:"exit,omitempty"`
	OOM  bool             `json:"oom,omitempty"`
}

// Cgroup is a container's control group: where it is, and how an exec is forked into it.
type Cgroup struct {
	Dirs []string    `json:"dirs,omitempty"`
	Join spec.Cgroup `json:"join"`
}

func (s *Service) livePath(id string) string { return filepath.Join(s.lives(), id) }

func (s *Service) writeLive(id string, l *live) error {
	l.V = 1
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return atomicfile.Write(s.livePath(id), data, 0o600)
}

func (s *Service) dropLive(id string) { os.Remove(s.livePath(id)) }

// readLives returns all live facts. What can't be read is taken for not there: the supervisor and the
// cgroup tell the rest.
func (s *Service) readLives() (map[string]*live, error) {
	entries, err := os.ReadDir(s.lives())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Sweep(s.lives()); err != nil {
		return nil, err
	}
	all := map[string]*live{}
	for _, e := range entries {
		if !ids.Valid(e.Name()) {
			continue
		}
		data, err := os.ReadFile(s.livePath(e.Name()))
		l := new(live)
		if err != nil || json.Unmarshal(data, l) != nil {
			s.Log.Warn("live facts of a container are unreadable", "container", e.Name())
			l = &live{}
		}
		all[e.Name()] = l
	}
	return all, nil
}
