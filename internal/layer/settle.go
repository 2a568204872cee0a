package layer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"gantry/internal/state"
)

// A layer whose archive is kept need not be on the disk before it is used: should the machine go down first, it is unpacked
// again. So whoever pulls does not wait for gigabytes of small files to be written. Its record carries the boot in which
// it was made until all of it has been synced, behind everything else; in another boot such a record is not
// believed. A crash of the engine alone loses nothing of it: the files are the kernel's.

// settler syncs what was made. The zero value does nothing.
type settler struct {
	after time.Duration
	asked chan struct{} // has one when there is something to sync
	quit  chan struct{}
	ended chan struct{}
	once  sync.Once
}

const (
	settleAfter = 2 * time.Second  // after the last layer: whoever waits for an image has it by then
	settleBy    = 30 * time.Second // however many more come
)

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// Lost names the layers that were not on the disk yet when the machine went down. They are gone; whoever has their archives
// makes them again.
func (s *Store) Lost() []digest.Digest { return slices.Clone(s.lost) }

func (s *Store) forgetLost() error {
	if len(s.lost) == 0 {
		return nil
	}
	return s.state.Update(func(tx state.Tx) error {
		for _, c := range s.lost {
			if err := tx.Delete(bucket, c.String()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) startSettler() {
	s.asked, s.quit, s.ended = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	for _, r := range s.layers {
		if r.Boot != "" { // the last engine did not come to it
			s.soon()
			break
		}
	}
	go s.settleAlways()
}

func (s *settler) soon() {
	select {
	case s.asked <- struct{}{}:
	default:
	}
}

// stopSettler syncs what is left, so that an orderly end loses nothing.
func (s *Store) stopSettler() error {
	s.once.Do(func() { close(s.quit) })
	<-s.ended
	return s.settle()
}

func (s *Store) settleAlways() {
	defer close(s.ended)
	for {
		select {
		case <-s.asked:
		case <-s.quit:
			return
		}
		last := time.After(max(settleBy, s.after))
		for again := true; again; {
			quiet := time.NewTimer(s.after)
			select {
			case <-s.asked:
			case <-quiet.C:
				again = s.busy() // another layer will ask again, or the time is up
			case <-last:
				again = false
			case <-s.quit:
				quiet.Stop()
				return
			}
			quiet.Stop()
		}
		_ = s.settle() // what fails stays as it is recorded, and is tried again with the next layer or by the next engine
	}
}

func (s *Store) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unpacking) > 0
}

// settle syncs all layers that were made and records it.
func (s *Store) settle() error {
	var made []digest.Digest
	s.mu.Lock()
	for c, r := range s.layers {
		if r.Boot != "" {
			made = append(made, c)
		}
	}
	s.mu.Unlock()
	if len(made) == 0 {
		return nil
	}
	if err := syncPath(filepath.Join(s.base, "layers"), unix.Syncfs); err != nil {
		return fmt.Errorf("sync layers: %w", err)
	}
	err := s.state.Update(func(tx state.Tx) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, c := range made {
			r, ok := s.layers[c]
			if !ok { // collected meanwhile
				continue
			}
			r.Boot = ""
			if err := tx.Put(bucket, c.String(), r); err != nil {
				return err
			}
			s.layers[c] = r
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record synced layers: %w", err)
	}
	return nil
}
