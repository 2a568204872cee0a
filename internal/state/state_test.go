package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"gantry/internal/errs"
)

func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRecordsSurviveReopening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	if err := s.Update(func(tx Tx) error { return tx.Put("b", "k", []int{1, 2}) }); err != nil {
		t.Fatal(err)
	}
	s.Later(func(tx Tx) error { return tx.Put("b", "l", "later") })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	var got []string
	if err := s.View(func(tx Tx) error {
		return tx.Each("b", func(k string, _ func(any) error) error { got = append(got, k); return nil })
	}); err != nil || len(got) != 2 {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestGroupCommitKeepsTheGoodAndReportsTheBad(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	defer s.Close()
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			err := s.Update(func(tx Tx) error {
				if err := tx.Put("b", fmt.Sprint(i), i); err != nil {
					return err
				}
				if i%7 == 0 {
					return boom
				}
				return nil
			})
			if want := i%7 == 0; errors.Is(err, boom) != want {
				t.Errorf("update %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	s.View(func(tx Tx) error {
		for i := range 200 {
			var v int
			if ok, err := tx.Get("b", fmt.Sprint(i), &v); err != nil || ok == (i%7 == 0) {
				t.Errorf("record %d: present %v, %v", i, ok, err)
			}
		}
		return nil
	})
}

// What is not urgent waits for company, keeps its place in the order, and is not waited for in vain.
func TestLaterGoesWithTheNext(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "state.db"))
	defer s.Close()
	var order []int
	note := func(n int) func(Tx) error {
		return func(tx Tx) error { order = append(order, n); return tx.Put("b", "k", n) }
	}
	first := s.Later(note(1))
	if err := s.Update(note(2)); err != nil {
		t.Fatal(err)
	}
	if err := first(); err != nil || len(order) != 2 || order[0] != 1 {
		t.Errorf("%v, %v", order, err)
	}
	if err := s.Later(note(3))(); err != nil || len(order) != 3 { // nobody comes
		t.Errorf("%v, %v", order, err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	s.db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, Schema+1))
	})
	s.Close()
	if _, err := Open(path); !errs.Conflict.Is(err) {
		t.Fatalf("got %v", err)
	}
}

func TestHeldFileIsRefusedInWords(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := open(t, path)
	defer s.Close()
	if _, err := Open(path); !errs.Conflict.Is(err) {
		t.Fatalf("got %v", err)
	}
}
