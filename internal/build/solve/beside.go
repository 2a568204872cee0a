package solve

import (
	"path"
	"runtime"
	"sync"

	"gantry/internal/layer"
)

// beside puts a copy's files into directories that were not there before, where their order does not matter: on several processors, a
// directory at a time.
type beside struct {
	x    *copier
	dir  string
	lot  []put // of dir
	lots chan []put
	work sync.WaitGroup
	mu   sync.Mutex
	err  error
}

// put is a file on its way.
type put struct {
	target, from string
	node         layer.Node
}

// maxLot is how many files of one directory one goroutine takes.
const maxLot = 128

func (b *beside) put(target, from string, n *layer.Node) error {
	if err := b.x.w.Admit(n.Size); err != nil {
		return err
	}
	if dir := path.Dir(target); dir != b.dir || len(b.lot) >= maxLot {
		if err := b.send(); err != nil {
			return err
		}
		b.dir = dir
	}
	b.lot = append(b.lot, put{target, from, *n})
	return nil
}

func (b *beside) send() error {
	if len(b.lot) == 0 {
		return nil
	}
	if b.lots == nil {
		b.lots = make(chan []put)
		for range min(runtime.GOMAXPROCS(0), 4) {
			b.work.Go(b.run)
		}
	}
	b.lots <- b.lot
	b.lot = nil
	return b.failed()
}

func (b *beside) run() {
	w := b.x.w.Beside()
	for lot := range b.lots {
		for i := range lot {
			if b.failed() != nil {
				break
			}
			if err := b.x.file(w, lot[i].target, lot[i].from, &lot[i].node); err != nil {
				b.fail(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		b.fail(err)
	}
}

func (b *beside) failed() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *beside) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

// wait returns when all files are there.
func (b *beside) wait() error {
	err := b.send()
	if b.lots != nil {
		close(b.lots)
		b.work.Wait()
		b.lots = nil
	}
	if err != nil {
		return err
	}
	return b.failed()
}
