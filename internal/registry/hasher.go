package registry

import "hash"

// hasher hashes one piece of a body while the next one is received and written.
type hasher struct {
	h    hash.Hash
	bufs [2]*[]byte
	turn int
	busy chan struct{} // has one while a piece is being hashed
}

// worthwhile is from how many bytes on a piece is hashed beside.
const worthwhile = 32 << 10

func newHasher(h hash.Hash) *hasher {
	return &hasher{h: h, bufs: [2]*[]byte{buffers.Get().(*[]byte), nil}, busy: make(chan struct{}, 1)}
}

// buffer is one to receive into, until the next call of write.
func (h *hasher) buffer() []byte { return *h.bufs[h.turn] }

// write hashes p, a part of buffer.
func (h *hasher) write(p []byte) {
	h.busy <- struct{}{}
	if len(p) < worthwhile {
		h.h.Write(p)
		<-h.busy
		return
	}
	if h.turn = 1 - h.turn; h.bufs[h.turn] == nil {
		h.bufs[h.turn] = buffers.Get().(*[]byte)
	}
	go func() {
		h.h.Write(p)
		<-h.busy
	}()
}

// close waits until everything is hashed. It may be called twice, and nothing may follow.
func (h *hasher) close() {
	h.busy <- struct{}{}
	for i, b := range h.bufs {
		if b != nil {
			buffers.Put(b)
			h.bufs[i] = nil
		}
	}
	<-h.busy
}
