package changefeed

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
)

// A squash is what a feed with the option [Squash] reads in place of a window: for
// each row that has changed since the last set was taken, one change from what the
// row was then to what it is now. Whatever is written, it holds at most one change a
// row, so it never overflows; a write pays one operation on its B-tree (and another
// for a row that comes into it, or came and went).
//
// Each publication takes mu, and holds that of all squashes that it adds to until all is
// published; under it, only the rings' are taken. A reader takes it for each set, by
// exchanging the tree: to put the set in order is its own work.
type squash[K, V any] struct {
	order func(a, b K) int
	equal func(a, b *V) bool
	wait  time.Duration
	wake  chan<- struct{} // gets a value when a reader that sleeps has something to do; nil: it does not want it
	woken <-chan struct{} // the other end of wake, unless the user has it

	place      int  // in the scope; guarded by the table's lock
	publishing bool // a publication has locked mu; guarded by the table's lock

	mu     sync.Mutex // guards what follows
	rows   squashedRows[K, V]
	due    time.Time   // when the set may be taken, if there are rows
	newest uint64      // number of the last change added
	closed bool        // nothing will be added any more
	ended  bool        // the subscription ended
	asleep bool        // the reader is to be woken
	timer  *time.Timer // at due, while the reader sleeps; nil: none

	set       []*squashed[K, V] // what is left of the set that was taken; the reader's
	setNewest uint64            // newest when it was taken
	setJoined bool              // whether it was joined

	// What Feeds tells; the reader's to change.
	delivered, skipped, passed, left atomic.Uint64
}

// A squashed is what became of a row by several writes. Its change has no Kind.
type squashed[K, V any] struct {
	key    K
	change Change[V]
}

type squashedRows[K, V any] struct {
	*btree.BTreeG[*squashed[K, V]]
	joined bool // some of the changes came of one transaction
}

// settle is called when all that was published together is in rows: what left none of
// them joins nothing.
func (rows *squashedRows[K, V]) settle() {
	if rows.Len() == 0 {
		rows.joined = false
	}
}

func newSquash[K, V any](t *Table[K, V], c *feedConfig) *squash[K, V] {
	q := &squash[K, V]{order: t.order, equal: t.equal, wait: c.wait, wake: c.wake, newest: t.seq, setNewest: t.seq}
	q.rows = q.newRows()
	q.passed.Store(t.seq)
	if c.after != nil {
		q.passed.Store(*c.after)
	}
	if !c.polls {
		woken := make(chan struct{}, 1)
		q.wake, q.woken = woken, woken
	}
	return q
}

func (q *squash[K, V]) newRows() squashedRows[K, V] {
	return squashedRows[K, V]{BTreeG: btree.NewG(degree, func(a, b *squashed[K, V]) bool { return q.order(a.key, b.key) < 0 })}
}

// add puts a change behind those of its row.
func (rows squashedRows[K, V]) add(key K, c Change[V]) {
	next := &squashed[K, V]{key, c}
	row, ok := rows.Get(next)
	switch {
	case !ok:
		rows.ReplaceOrInsert(next)
	case row.change.Old == nil && c.New == nil:
		rows.Delete(row)
	default:
		row.change.New, row.change.Seq = c.New, c.Seq
	}
}

// addLocked adds a change. announceLocked follows when all that is published
// together is added.
func (q *squash[K, V]) addLocked(key K, c Change[V]) {
	if q.ended {
		return // it holds nothing any more
	}
	if q.rows.Len() == 0 && q.wait > 0 {
		q.due = time.Now().Add(q.wait)
	}
	q.rows.add(key, c)
	q.newest = c.Seq
}

// announceLocked sees to it that a reader that sleeps is woken in time.
func (q *squash[K, V]) announceLocked() {
	q.rows.settle()
	if !q.asleep || q.rows.Len() == 0 || q.timer != nil {
		return
	}
	if q.wait == 0 {
		q.signalLocked()
		return
	}
	q.timer = time.AfterFunc(time.Until(q.due), q.onDue)
}

// onDue is what the timer does: the set is due, unless its rows have vanished and
// others come since.
func (q *squash[K, V]) onDue() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timer = nil
	if q.readyLocked() {
		q.signalLocked()
	} else {
		q.announceLocked()
	}
}

func (q *squash[K, V]) signalLocked() {
	if !q.asleep {
		return
	}
	q.riseLocked()
	tell(q.wake)
}

// rise takes it back that the reader sleeps.
func (q *squash[K, V]) rise() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.riseLocked()
}

func (q *squash[K, V]) riseLocked() {
	q.asleep = false
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
}

// close tells that nothing will be added any more.
func (q *squash[K, V]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.rows.Len() == 0 { // else the reader is woken when the set is due
		q.signalLocked()
	}
}

// end tells that the subscription has ended.
func (q *squash[K, V]) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.rows = q.newRows()
	q.signalLocked()
}

// follow puts changes that were made before those added so far before them. They
// are due.
func (q *squash[K, V]) follow(earlier squashedRows[K, V]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || earlier.Len() == 0 {
		return
	}
	q.rows.Ascend(func(row *squashed[K, V]) bool {
		earlier.add(row.key, row.change)
		return true
	})
	earlier.joined = earlier.joined || q.rows.joined
	q.rows, q.due = earlier, time.Time{}
}

// readyLocked reports whether there is a set to take.
func (q *squash[K, V]) readyLocked() bool {
	return q.rows.Len() > 0 && (q.wait == 0 || !time.Now().Before(q.due))
}

// drained reports whether there is nothing left, and nothing will come.
func (q *squash[K, V]) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && q.rows.Len() == 0 && len(q.set) == 0
}

// sleep makes q wake its reader when there is something to do, unless there is now.
func (q *squash[K, V]) sleep() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || q.readyLocked() || q.closed && q.rows.Len() == 0 {
		return false
	}
	q.asleep = true
	q.announceLocked()
	return true
}

// take takes the next set, if it is due, and reports whether it was.
func (q *squash[K, V]) take() bool {
	rows, ok := q.exchange()
	if !ok {
		return false
	}
	set := make([]*squashed[K, V], 0, rows.Len())
	rows.Ascend(func(row *squashed[K, V]) bool {
		set = append(set, row)
		return true
	})
	slices.SortFunc(set, func(a, b *squashed[K, V]) int { return cmp.Compare(a.change.Seq, b.change.Seq) })
	q.set = set
	return true
}

// more reports whether there is a change left of the set. It drops those before it
// whose rows are what they were; one is off the set while the user's function looks at
// it, so that a panic does not come again.
func (q *squash[K, V]) more() bool {
	defer func() { q.left.Store(uint64(len(q.set))) }()
	for len(q.set) > 0 {
		set := q.set
		q.set = set[1:]
		if c := &set[0].change; c.Old == nil || c.New == nil || !q.equal(c.Old, c.New) {
			q.set = set
			return true
		}
	}
	return false
}

func (q *squash[K, V]) exchange() (rows squashedRows[K, V], ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.readyLocked() {
		return rows, false
	}
	rows, q.rows = q.rows, q.newRows()
	q.setNewest, q.setJoined = q.newest, rows.joined
	return rows, true
}

// deliver hands the sets that are due to yield, as window.deliver does it with
// elements.
func (q *squash[K, V]) deliver(ctx context.Context, yield func(Change[V], error) bool) bool {
	for len(q.set) > 0 || q.take() {
		for q.more() {
			if ctx.Err() != nil {
				return true
			}
			c := q.set[0].change
			q.set[0] = nil
			q.set = q.set[1:]
			q.left.Add(^uint64(0))
			q.passed.Store(c.Seq)
			c.Kind = kindOf(c.Old, c.New)
			q.delivered.Add(1)
			if !yield(c, nil) {
				return false
			}
		}
		q.passed.Store(q.setNewest)
	}
	return true
}

// usage tells how the reader is doing. Rows that wait or are left of a set are
// buffered.
func (q *squash[K, V]) usage() usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := usage{
		passed:    q.passed.Load(),
		delivered: q.delivered.Load(),
		skipped:   q.skipped.Load(),
		buffered:  q.left.Load() + uint64(q.rows.Len()),
	}
	if u.buffered == 0 {
		u.passed = q.newest // also if all that came last has vanished
	}
	return u
}
