package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// trash deletes directories in the background: to throw one away costs a rename, and what is in the trash when the
// program ends is deleted after the next start.
type trash struct {
	dir  string
	wake chan struct{}
	quit chan struct{}
	done chan struct{}

	mu sync.Mutex
	n  uint64
}

func openTrash(dir string) (*trash, error) {
	t := &trash{
		dir: dir, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
		n: uint64(time.Now().UnixNano()), // names of before are not met again
	}
	go t.sweep()
	t.wake <- struct{}{}
	return t, nil
}

// throw takes the path away; one that is not there is no error.
func (t *trash) throw(path string) error {
	t.mu.Lock()
	t.n++
	to := filepath.Join(t.dir, strconv.FormatUint(t.n, 36))
	t.mu.Unlock()
	if err := os.Rename(path, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("throw away: %w", err)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return nil
}

func (t *trash) close() {
	close(t.quit)
	<-t.done
}

// sweep deletes what lies in the trash whenever it is woken. What cannot be deleted now (a file made immutable) is
// tried again at the next wake, and in the way of nobody.
func (t *trash) sweep() {
	defer close(t.done)
	for {
		select {
		case <-t.wake:
		case <-t.quit:
			return
		}
		t.empty()
	}
}

func (t *trash) empty() {
	fd, err := unix.Open(t.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		select {
		case <-t.quit:
			return
		default:
		}
		removeAll(fd, e.Name())
	}
}
