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
	delay time.Duration
	wake  chan<- struct{} // gets a value when an armed reader has something to do; nil: it does not want it
	ready <-chan struct{} // the other end of wake, unless the user has it

	index      int  // in the scope; guarded by the table's lock
	publishing bool // a publication has locked mu; guarded by the table's lock

	mu     sync.Mutex // guards what follows
	rows   squashedRows[K, V]
	due    time.Time   // when the set may be taken, if there are rows
	newest uint64      // number of the last change added
	closed bool        // nothing will be added any more
	ended  bool        // the subscription ended
	armed  bool        // the reader is to be woken
	timer  *time.Timer // at due, while the reader sleeps; nil: none

	set          []*squashedRow[K, V] // what is left of the set that was taken; the reader's
	setNewest    uint64               // newest when it was taken
	setContinues bool                 // whether it was joined

	// What Feeds tells; the reader's to change.
	delivered, skipped, read, left atomic.Uint64
}

// A squashed is what became of a row by several writes. Its change has no Kind.
type squashedRow[K, V any] struct {
	key    K
	change Change[V]
}

type squashedRows[K, V any] struct {
	*btree.BTreeG[*squashedRow[K, V]]
	continues bool // some of the changes came of one transaction
}

// settle is called when all that was published together is in rows: what left none of
// them joins nothing.
func (rows *squashedRows[K, V]) settle() {
	if rows.Len() == 0 {
		rows.continues = false
	}
}

func newSquash[K, V any](order func(a, b K) int, equal func(a, b *V) bool, seq uint64, c *feedConfig) *squash[K, V] {
	q := &squash[K, V]{order: order, equal: equal, delay: c.wait, wake: c.wake, newest: seq, setNewest: seq}
	q.rows = q.newRows()
	if c.after != nil {
		q.setNewest = *c.after
	}
	q.read.Store(q.setNewest)
	if !c.polls {
		woken := make(chan struct{}, 1)
		q.wake, q.ready = woken, woken
	}
	return q
}

func (q *squash[K, V]) newRows() squashedRows[K, V] {
	return squashedRows[K, V]{BTreeG: btree.NewG(degree, func(a, b *squashedRow[K, V]) bool { return q.order(a.key, b.key) < 0 })}
}

// add puts a change behind those of its row.
func (rows squashedRows[K, V]) add(key K, c Change[V]) {
	next := &squashedRow[K, V]{key, c}
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

// begin begins a publication, unless it has begun already. It locks q until end, so that
// a reader sees all of a transaction or nothing.
func (q *squash[K, V]) begin() (begun bool) {
	if q.publishing {
		q.rows.continues = true // what follows is not the first change
		return false
	}
	q.publishing = true
	q.mu.Lock()
	return true
}

// add adds a change, after begin.
func (q *squash[K, V]) add(key K, c Change[V]) {
	if q.ended {
		return // it holds nothing any more
	}
	if q.rows.Len() == 0 && q.delay > 0 {
		q.due = time.Now().Add(q.delay)
	}
	q.rows.add(key, c)
	q.newest = c.Seq
}

// end ends the publication.
func (q *squash[K, V]) end() {
	q.publishing = false
	q.announceLocked()
	q.mu.Unlock()
}

// announceLocked sees to it that a reader that sleeps is woken in time.
func (q *squash[K, V]) announceLocked() {
	q.rows.settle()
	if !q.armed || q.rows.Len() == 0 || q.timer != nil {
		return
	}
	if q.delay == 0 {
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
	if !q.armed {
		return
	}
	q.disarmLocked()
	notify(q.wake)
}

// disarm takes back what arm arranged.
func (q *squash[K, V]) disarm() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.disarmLocked()
}

func (q *squash[K, V]) disarmLocked() {
	q.armed = false
	if q.timer != nil {
		q.timer.Stop()
		q.timer = nil
	}
}

// finish tells that nothing will be added any more.
func (q *squash[K, V]) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.rows.Len() == 0 { // else the reader is woken when the set is due
		q.signalLocked()
	}
}

// close ends the subscription: q holds nothing any more, and a reader that waits is woken.
func (q *squash[K, V]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endLocked()
	q.signalLocked()
}

// closeQuietly is close without the wake-up. It leaves a timer alone, which finds nothing
// to do then: a cleanup must not touch one that belongs to a synctest bubble.
func (q *squash[K, V]) closeQuietly() (waited bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endLocked()
	waited, q.armed = q.armed, false
	return waited
}

func (q *squash[K, V]) endLocked() {
	q.ended = true
	q.rows = q.newRows()
}

// follow puts changes that were made before those added so far before them. They
// are due.
func (q *squash[K, V]) prepend(earlier squashedRows[K, V]) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || earlier.Len() == 0 {
		return
	}
	q.rows.Ascend(func(row *squashedRow[K, V]) bool {
		earlier.add(row.key, row.change)
		return true
	})
	earlier.continues = earlier.continues || q.rows.continues
	q.rows, q.due = earlier, time.Time{}
}

// readyLocked reports whether there is a set to take.
func (q *squash[K, V]) readyLocked() bool {
	return q.rows.Len() > 0 && (q.delay == 0 || !time.Now().Before(q.due))
}

// drained reports whether there is nothing left, and nothing will come.
func (q *squash[K, V]) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && q.rows.Len() == 0 && len(q.set) == 0
}

// arm makes q wake its reader when there is something to do, unless there is now.
func (q *squash[K, V]) arm() (armed bool) {
	if len(q.set) > 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended || q.readyLocked() || q.closed && q.rows.Len() == 0 {
		return false
	}
	q.armed = true
	q.announceLocked()
	return true
}

// wait returns when there is something to do.
func (q *squash[K, V]) wait() {
	if q.arm() {
		<-q.ready
	}
}

// advance takes the next set, if it is due, and reports whether it was.
func (q *squash[K, V]) advance() (skipped uint64, advanced bool) {
	rows, ok := q.exchange()
	if !ok {
		return 0, false
	}
	set := make([]*squashedRow[K, V], 0, rows.Len())
	rows.Ascend(func(row *squashedRow[K, V]) bool {
		set = append(set, row)
		return true
	})
	slices.SortFunc(set, func(a, b *squashedRow[K, V]) int { return cmp.Compare(a.change.Seq, b.change.Seq) })
	q.set = set
	return 0, true
}

func (q *squash[K, V]) exchange() (rows squashedRows[K, V], ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.readyLocked() {
		return rows, false
	}
	rows, q.rows = q.rows, q.newRows()
	q.setNewest, q.setContinues = q.newest, rows.continues
	return rows, true
}

// deliver hands what is left of the set to yield, as window.deliver does it with
// elements.
func (q *squash[K, V]) deliver(ctx context.Context, yield func(Change[V], error) bool) bool {
	for q.more() && ctx.Err() == nil {
		if !yield(q.next(), nil) {
			return false
		}
	}
	return true
}

// take appends what is left of the set to a slice, as window.take does it with elements.
func (q *squash[K, V]) take(ctx context.Context, to *[]Change[V], n int) {
	for ; (n > 0 || q.setContinues) && q.more() && ctx.Err() == nil; n-- {
		*to = append(*to, q.next())
	}
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
	q.read.Store(q.setNewest)
	return false
}

// next takes the first change off the set, after more.
func (q *squash[K, V]) next() Change[V] {
	c := q.set[0].change
	c.Kind = kindOf(c.Old, c.New)
	q.set[0] = nil
	q.set = q.set[1:]
	q.left.Add(^uint64(0))
	q.read.Store(c.Seq)
	q.delivered.Add(1)
	return c
}

// discard lets go of what is left of the set.
func (q *squash[K, V]) release() { q.set = nil }

// passed returns the number of the last change that was read.
func (q *squash[K, V]) passed() uint64 { return q.read.Load() }

// usage tells how the reader is doing. Rows that wait or are left of a set are
// buffered.
func (q *squash[K, V]) usage() usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := usage{
		passed:    q.passed(),
		delivered: q.delivered.Load(),
		skipped:   q.skipped.Load(),
		buffered:  q.left.Load() + uint64(q.rows.Len()),
	}
	if u.buffered == 0 {
		u.passed = q.newest // also if all that came last has vanished
	}
	return u
}
