package workload

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/seed-637b77f9/changefeed/benchmarks/contest"
)

// patience is how long a writer that waits for slow readers may stand still before it
// counts as blocked.
const patience = time.Second

// A writer updates the rows with the keys, each to a version one higher than the last,
// in a goroutine that may be blocked.
type writer struct {
	contestant contest.Contestant
	store      contest.Store
	keys       []int
	base       int // the version before the first

	made    atomic.Int64
	stopped atomic.Bool
	done    sync.WaitGroup
}

// write returns when all writes are made; or, of a contestant whose writer waits for
// readers, when none has been made for a while.
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

// end returns when no write is under way. If the writer was blocked, the feeds must
// have been closed.
func (w *writer) end() { w.done.Wait() }
