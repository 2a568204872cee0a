package content

import (
	"context"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"gantry/internal/errs"
)

// intake writes what comes to a file and hashes it beside, in a goroutine of its own; another has the kernel begin writing
// it to the disk, so that the sync at the end finds little to do.
type intake struct {
	hash hash.Hash
	f    *os.File // nil: nothing is written
}

const (
	intakeChunk  = 512 << 10 // bytes; the larger a write, the larger the pages that the kernel takes for it
	intakeChunks = 4         // one being read, the others waiting to be hashed
)

// copy takes in r, and stops when ctx ends or r gives more than expected.
func (in *intake) copy(ctx context.Context, r io.Reader, e Expect) (n int64, err error) {
	limit := e.bound()
	if e.Sized && e.Size <= intakeChunk {
		buf := make([]byte, e.Size+1)
		n, err := in.pass(ctx, r, limit, func() []byte { return buf }, func(p []byte) { in.hash.Write(p) })
		if err == nil {
			err = e.check(n)
		}
		return n, err
	}
	full, free := make(chan []byte, intakeChunks), make(chan []byte, intakeChunks)
	for range intakeChunks {
		free <- make([]byte, intakeChunk)
	}
	hashed, behind, begun := make(chan struct{}), make(chan int64, 1), make(chan struct{})
	go func() {
		defer close(hashed)
		for p := range full {
			in.hash.Write(p)
			free <- p[:cap(p)]
		}
	}()
	go func() {
		defer close(begun)
		in.writeBehind(behind)
	}()
	var at int64
	n, err = in.pass(ctx, r, limit, func() []byte { return <-free }, func(p []byte) {
		full <- p
		at += int64(len(p))
		if len(p) == 0 {
			return
		}
		select {
		case behind <- at:
		default: // it is busy with what came before, and will be told more next time
		}
	})
	close(full)
	close(behind)
	<-hashed
	<-begun
	if err == nil {
		err = e.check(n)
	}
	return n, err
}

// pass reads r piece by piece, each as full as it gets, writes it to the file and hands it on.
func (in *intake) pass(ctx context.Context, r io.Reader, limit int64, buffer func() []byte, hand func([]byte)) (n int64, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		buf := buffer()
		m, rerr := fill(r, buf)
		if n += int64(m); n > limit {
			return n, errs.Invalid.Errorf("blob is larger than %d bytes", limit)
		}
		if in.f != nil && m > 0 {
			if _, err := in.f.Write(buf[:m]); err != nil {
				return n, err
			}
		}
		hand(buf[:m])
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// fill reads until p is full. Unlike [io.ReadFull] it returns r's own error, and so tells an end from an archive that was cut off.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

func (in *intake) writeBehind(at <-chan int64) {
	done := int64(0)
	for n := range at {
		if in.f == nil || n-done < writeBehind {
			continue
		}
		// A hint: what goes wrong with the disk, the sync at the end says.
		_ = unix.SyncFileRange(int(in.f.Fd()), done, n-done, unix.SYNC_FILE_RANGE_WRITE)
		done = n
	}
}
