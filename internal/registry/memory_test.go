package registry

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"
)

// memory is a Storage that forgets.
type memory struct {
	mu      sync.Mutex
	objects map[string]memoryObject
	stages  map[string]*memoryStage
}

type memoryObject struct {
	data []byte
	time time.Time
}

func newMemory() *memory {
	return &memory{objects: map[string]memoryObject{}, stages: map[string]*memoryStage{}}
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

func (m *memory) Open(key string) (io.ReadSeekCloser, Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return nil, Info{}, fmt.Errorf("open %s: %w", key, fs.ErrNotExist)
	}
	return memoryReader{bytes.NewReader(o.data)}, Info{int64(len(o.data)), o.time}, nil
}

func (m *memory) Stat(key string) (Info, error) {
	_, info, err := m.Open(key)
	return info, err
}

func (m *memory) Put(key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = memoryObject{bytes.Clone(data), time.Now()}
	return nil
}

func (m *memory) Delete(key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	return nil
}

func (m *memory) List(key string, f func(Entry) error) error {
	if key != "" {
		key += "/"
	}
	found := map[string]Entry{}
	m.mu.Lock()
	for k, o := range m.objects {
		if rest, ok := strings.CutPrefix(k, key); ok {
			name, _, dir := strings.Cut(rest, "/")
			found[name] = Entry{Name: name, Dir: dir, Info: Info{int64(len(o.data)), o.time}}
		}
	}
	m.mu.Unlock()
	for _, e := range found {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Stages(f func(Entry) error) error {
	m.mu.Lock()
	var all []Entry
	for id, s := range m.stages {
		all = append(all, Entry{Name: id, Info: Info{Size: s.Size(), Time: s.time}})
	}
	m.mu.Unlock()
	for _, e := range all {
		if err := f(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Stage(id string, create bool) (Stage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.stages[id]
	if create == ok {
		return nil, fs.ErrNotExist
	}
	if create {
		s = &memoryStage{m: m, id: id, time: time.Now()}
		m.stages[id] = s
	}
	return s, nil
}

type memoryStage struct {
	m    *memory
	id   string
	time time.Time

	mu   sync.Mutex
	data []byte
}

func (s *memoryStage) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = append(s.data, p...)
	return len(p), nil
}

func (s *memoryStage) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.NewReader(s.data).ReadAt(p, off)
}

func (s *memoryStage) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.data))
}

func (s *memoryStage) Truncate(n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.data = s.data[:n]
	return nil
}

func (s *memoryStage) Sync() error  { return nil }
func (s *memoryStage) Close() error { return nil }

func (s *memoryStage) Commit(key string) error {
	if err := s.m.Put(key, s.data); err != nil {
		return err
	}
	return s.Discard()
}

func (s *memoryStage) Discard() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	delete(s.m.stages, s.id)
	return nil
}
