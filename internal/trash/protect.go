package trash

import (
	"context"
	"fmt"

	"gantry/internal/errs"
	"gantry/internal/state"
)

// protectedBucket holds a record for each protected thing, by kind/key.
const protectedBucket = "protected"

// Protect keeps a thing from being removed and pruned, or with on false lets that happen again. It must be there.
func (b *Bin) Protect(ctx context.Context, kind, key string, on bool) error {
	if b == nil {
		return errs.NotImplemented.Errorf("nothing can be protected here")
	}
	name := kind + "/" + key
	err := b.state.Update(func(tx state.Tx) error {
		if on {
			return tx.Put(protectedBucket, name, struct{}{})
		}
		return tx.Delete(protectedBucket, name)
	})
	if err != nil {
		return fmt.Errorf("protect %s %s: %w", kind, key, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if on {
		b.protected[name] = true
	} else {
		delete(b.protected, name)
	}
	return nil
}

// Protected reports whether a thing is kept from removal.
func (b *Bin) Protected(kind, key string) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.protected[kind+"/"+key]
}

// ErrProtected is the answer to who would remove a protected thing. Force does not help: it was meant.
func ErrProtected(kind, name string) error {
	return errs.Conflict.Errorf("%s %s is protected: `gantry %s update --protect=false %s` lets it go", kind, name, kind, name)
}
