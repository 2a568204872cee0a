package session

import (
	"bytes"
	"encoding/json"
	"sync"

	"gantry/internal/build/session/wire"
)

// maxUnsent bounds the events that wait for a client that reads slowly, in bytes; then the build waits for it.
const maxUnsent = 1 << 20

// events are on their way to a client: what happens while one lot is being sent goes with the next.
type events struct {
	s       *wire.Stream
	mu      sync.Mutex
	changed *sync.Cond
	unsent  bytes.Buffer
	over    bool // nothing more is added
	gone    bool // nothing more is sent
}

func newEvents(s *wire.Stream) *events {
	v := &events{s: s}
	v.changed = sync.NewCond(&v.mu)
	go v.send()
	return v
}

func (v *events) add(e wire.Event) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.unsent.Len() > maxUnsent && !v.gone {
		v.changed.Wait()
	}
	if v.gone || v.over {
		return
	}
	_ = json.NewEncoder(&v.unsent).Encode(e) // there is nothing in it that has no JSON
	v.changed.Broadcast()
}

// end says that nothing more comes.
func (v *events) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	v.changed.Broadcast()
}

// stop gives up what is unsent.
func (v *events) stop() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone = true
	v.changed.Broadcast()
}

func (v *events) send() {
	for {
		v.mu.Lock()
		for v.unsent.Len() == 0 && !v.over && !v.gone {
			v.changed.Wait()
		}
		lot := bytes.Clone(v.unsent.Bytes())
		v.unsent.Reset()
		last := v.over || v.gone
		v.changed.Broadcast()
		v.mu.Unlock()
		if len(lot) > 0 {
			if _, err := v.s.Write(lot); err != nil {
				v.stop()
				return
			}
		}
		if len(lot) == 0 && last {
			_ = v.s.CloseWrite()
			return
		}
	}
}
