package workload

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// patience is the time without a write after which a writer that waits for slow readers
// counts as blocked.
const patience = time.Second

// A writer updates the rows with the keys in a goroutine, which may block. Each update
// increases the version by one.
type writer struct {
	contestant contest.Contestant
	store      contest.Store
	keys       []int
	base       int // the version before the first

	made    atomic.Int64
	stopped atomic.Bool
	done    sync.WaitGroup
}

// write returns when all writes are made. If the contestant's writer waits for readers, it
// also returns when there was no write for a while.
func (w *writer) write() (made int, blocked bool) {
	finished := make(chan struct{})
	w.done.Go(func() {
		defer close(finished)
		for i, key := range w.keys {
			if w.stopped.Load() {
				return
			}
			w.store.Update(key, w.base+i+1)
			w.made.Store(int64(i + 1))
		}
	})
	const looks = 10
	for last, idle := int64(0), 0; ; {
		select {
		case <-finished:
			return int(w.made.Load()), false
		case <-time.After(patience / looks):
		}
		if now := w.made.Load(); now > last || !w.contestant.Traits.Waits {
			last, idle = now, 0
		} else if idle++; idle == looks {
			w.stopped.Store(true)
			return int(now), true
		}
	}
}

// end waits for the writer's goroutine. If the writer was blocked, the feeds must have been
// closed.
func (w *writer) end() { w.done.Wait() }
