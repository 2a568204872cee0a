// Package state keeps what must survive a reboot: one bbolt file of small JSON records.
//
// Writers that come while a commit is under way share the next one, so that fifty containers created at
// once cost a few syncs and not fifty. The file carries a schema version: older files are migrated step by
// step in one transaction, newer ones are refused.
package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// Schema is the version of the records this program writes.
const Schema = 1

// migrations[i] turns schema i into i+1.
var migrations = [Schema]func(*bolt.Tx) error{
	func(tx *bolt.Tx) error { return nil }, // 0: an empty file
}

var (
	metaBucket = []byte("meta")
	schemaKey  = []byte("schema")
)

// Store is an open state file. Its methods may be called from any goroutine.
type Store struct {
	db      *bolt.DB
	pending chan *update
	done    chan struct{}
}

type update struct {
	fn   func(Tx) error
	lazy bool
	err  error
	done chan struct{}
}

// lull is how long a change of Later waits for others, in the hope that one commit does for all: a container of `run --rm` that is gone
// as soon as this costs one instead of three.
const lull = 50 * time.Millisecond

// Open opens or creates the file at path. It fails when another process holds it, or when a newer Gantry wrote it.
func Open(path string) (*Store, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errs.Conflict.Errorf("state file %s is held by another gantry daemon: give this one its own --data-root", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open state file %s: %w", path, err)
	}
	if err := migrate(db); err != nil {
		db.Close()
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	s := &Store{db: db, pending: make(chan *update, 256), done: make(chan struct{})}
	s.setAside()
	go s.commitLoop()
	return s, nil
}

func migrate(db *bolt.DB) error {
	return db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(metaBucket)
		if err != nil {
			return err
		}
		var have uint64
		if v := meta.Get(schemaKey); len(v) == 8 {
			have = binary.BigEndian.Uint64(v)
		}
		if have > Schema {
			return errs.Conflict.Errorf("schema %d was written by a newer gantry; this one knows %d: run the newer one, or another --data-root", have, Schema)
		}
		for ; have < Schema; have++ {
			if err := migrations[have](tx); err != nil {
				return fmt.Errorf("migrate schema %d: %w", have, err)
			}
		}
		return meta.Put(schemaKey, binary.BigEndian.AppendUint64(nil, Schema))
	})
}

// Close waits for writers and closes the file.
func (s *Store) Close() error {
	close(s.pending)
	<-s.done
	return s.db.Close()
}

// View runs fn on a consistent picture of the state.
func (s *Store) View(fn func(Tx) error) error {
	return s.db.View(func(tx *bolt.Tx) error { return fn(Tx{tx}) })
}

// Update runs fn in a transaction and returns when it is on disk. When fn fails nothing of it is kept. fn may
// run more than once, so it must have no effect but on the transaction and on variables it sets anew.
func (s *Store) Update(fn func(Tx) error) error { return s.Submit(fn)() }

// Submit queues what Update does, in order with the others, and returns at once; calling what it returns waits
// until it is on disk and tells how that went.
func (s *Store) Submit(fn func(Tx) error) (wait func() error) { return s.queue(&update{fn: fn}) }

// Later is Submit without haste: the change is ordered with the others, and on disk with the next of them, or soon. For facts
// whose loss in a power cut is repaired at the next start, or does not matter.
func (s *Store) Later(fn func(Tx) error) (wait func() error) {
	return s.queue(&update{fn: fn, lazy: true})
}

func (s *Store) queue(u *update) func() error {
	u.done = make(chan struct{})
	s.pending <- u
	return func() error {
		<-u.done
		return u.err
	}
}

var errRetry = errors.New("a member of the group failed")

func (s *Store) commitLoop() {
	defer close(s.done)
	size := s.Size()
	for first := range s.pending {
		if now := s.Size(); now != size {
			size = now
			s.setAside()
		}
		group := []*update{first}
		haste := !first.lazy
		timer := time.NewTimer(lull)
		for more := true; more && len(group) < cap(s.pending); {
			var u *update
			ok := false
			select {
			case u, ok = <-s.pending:
			default:
				if !haste {
					select {
					case u, ok = <-s.pending:
					case <-timer.C:
					}
				}
			}
			if more = ok; ok {
				group = append(group, u)
				haste = haste || !u.lazy
			}
		}
		timer.Stop()
		s.commit(group)
	}
}

// commit runs the group in one transaction. When one fails the transaction is undone and run again
// without it, as bbolt's own Batch does.
func (s *Store) commit(group []*update) {
	for len(group) > 0 {
		failed := -1
		err := s.db.Update(func(tx *bolt.Tx) error {
			for i, u := range group {
				if u.err = u.fn(Tx{tx}); u.err != nil {
					failed = i
					return errRetry
				}
			}
			return nil
		})
		if failed >= 0 {
			close(group[failed].done)
			group = append(group[:failed:failed], group[failed+1:]...)
			continue
		}
		for _, u := range group {
			u.err = err
			close(u.done)
		}
		return
	}
}

// Tx is one transaction. What it returns is valid until the transaction ends.
type Tx struct{ tx *bolt.Tx }

// Get decodes the record key of bucket into v; it reports whether there is one.
func (t Tx) Get(bucket, key string, v any) (bool, error) {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return false, nil
	}
	data := b.Get([]byte(key))
	if data == nil {
		return false, nil
	}
	if err := json.Unmarshal(data, v); err != nil {
		return true, fmt.Errorf("decode %s/%s: %w", bucket, key, err)
	}
	return true, nil
}

// Put writes the record key of bucket.
func (t Tx) Put(bucket, key string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s/%s: %w", bucket, key, err)
	}
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		return err
	}
	return b.Put([]byte(key), data)
}

// Delete removes the record key of bucket; a missing one is no error.
func (t Tx) Delete(bucket, key string) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Delete([]byte(key))
}

// Each calls fn for all records of bucket in the order of their keys; decode fills a value from the record.
func (t Tx) Each(bucket string, fn func(key string, decode func(any) error) error) error {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.ForEach(func(k, data []byte) error {
		return fn(string(k), func(v any) error {
			if err := json.Unmarshal(data, v); err != nil {
				return fmt.Errorf("decode %s/%s: %w", bucket, k, err)
			}
			return nil
		})
	})
}

// Check reads the whole file and reports what is inconsistent.
func (s *Store) Check() error {
	// The list of free pages that it looks at is the writers': none may be under way.
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var all []error
	for err := range tx.Check() {
		all = append(all, err)
	}
	return errors.Join(all...)
}

// ahead is how many bytes beyond its end the file has blocks for. On a full disk, where nothing else can be written any
// more, things can so be removed, and what happens to containers is still recorded.
const ahead = 1 << 20

// setAside gives the file blocks for what it will grow by. A file system that can't does without.
func (s *Store) setAside() {
	f, err := os.OpenFile(s.db.Path(), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, s.Size()+ahead)
}

// Size returns the size of the state file in bytes.
func (s *Store) Size() int64 {
	fi, err := os.Stat(s.db.Path())
	if err != nil {
		return 0
	}
	return fi.Size()
}
