package changefeed

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/google/btree"
)

// A squash is the [source] of a feed with the option [Squash]. It holds one change for
// each row that has changed since the last set was taken: from the row as it was then to
// the row as it is now. However much is written, it holds no more than that, so it never
// overflows. A write costs one operation on its B-tree. It costs a second one if the row
// is new in the tree, or if it was inserted and is deleted again.
//
// A publication locks the mu of each squash that it adds to, and keeps all of them locked
// until everything is published. While it holds them, it locks only the mu of rings. A
// reader locks mu for a moment to take a set, because it exchanges the whole tree. It
// sorts the set without the lock.
type squash[K, V any] struct {
	order func(a, b K) int
	equal func(a, b *V) bool
	delay time.Duration
	wake  chan<- struct{} // notified when an armed reader need not wait any longer, or nil
	ready <-chan struct{} // the receiving end of wake, or nil if the user has it

	// Guarded by the table's lock.
	index      int  // position in scope.squashes
	publishing bool // a publication has locked mu

	mu      sync.Mutex // guards the fields up to timer
	rows    squashedRows[K]
	due     time.Time   // if there are rows, the time from which they can be taken
	newest  uint64      // sequence number of the last change added
	skipped uint64      // number of changes dropped by resets
	restart squashReset // not reported yet

	closed bool        // no more changes will be added
	ended  bool        // the subscription has ended
	armed  bool        // wake is to be notified
	timer  *time.Timer // runs until due while the reader is armed, or nil

	// The set that was taken. It belongs to the reader.
	set          []unsafe.Pointer // to the changes that are not read yet, each a *Change[V]
	setNewest    uint64           // newest when the set was taken
	setBegin     uint64           // setNewest of the set before
	setContinues bool             // rows.continues when the set was taken

	// The figures for Feeds. Only the reader changes them.
	delivered, read, left atomic.Uint64
}

// A squashedRow is the combined change of a row by one or more writes. The Kind of the
// change is meaningless: next computes it. See [entry] for why the pointer has no type.
type squashedRow[K any] struct {
	key    K
	change unsafe.Pointer // a *Change[V]
}

type squashedRows[K any] struct {
	*btree.BTreeG[squashedRow[K]]
	continues bool // some of the changes belong to the same transaction
}

// settle is called when all changes of a publication are in rows. If they have left no
// rows, nothing is left that belongs together.
func (rows *squashedRows[K]) settle() {
	if rows.Len() == 0 {
		rows.continues = false
	}
}

func newSquash[K, V any](order func(a, b K) int, equal func(a, b *V) bool, seq uint64, c *feedConfig) *squash[K, V] {
	q := &squash[K, V]{order: order, equal: equal, delay: c.wait, wake: c.wake, newest: seq, setNewest: seq}
	q.rows = q.newRows()
	q.read.Store(seq)
	if !c.polls {
		ready := make(chan struct{}, 1)
		q.wake, q.ready = ready, ready
	}
	return q
}

func (q *squash[K, V]) newRows() squashedRows[K] {
	return squashedRows[K]{BTreeG: btree.NewG(degree, func(a, b squashedRow[K]) bool { return q.order(a.key, b.key) < 0 })}
}

// combine combines a change with the earlier ones of its row.
func (q *squash[K, V]) combine(key K, c Change[V]) {
	row, ok := q.rows.Get(squashedRow[K]{key: key})
	switch combined := (*Change[V])(row.change); {
	case !ok:
		q.rows.ReplaceOrInsert(squashedRow[K]{key, unsafe.Pointer(new(c))})
	case combined.Old == nil && c.New == nil:
		q.rows.Delete(row)
	default:
		combined.New, combined.Seq = c.New, c.Seq
	}
}

// begin starts a publication, and returns false if it has started already. It is called
// before each add. It locks q until end, so that a reader sees all of a transaction or
// nothing of it.
func (q *squash[K, V]) begin() (started bool) {
	if q.publishing {
		q.rows.continues = true // the publication has more than one change
		return false
	}
	q.publishing = true
	q.mu.Lock()
	return true
}

// add adds a change to the publication that begin started.
func (q *squash[K, V]) add(key K, c Change[V]) {
	if q.ended {
		return // an ended squash retains no rows
	}
	if q.rows.Len() == 0 && q.delay > 0 {
		q.due = time.Now().Add(q.delay)
	}
	q.combine(key, c)
	q.newest = c.Seq
}

// end ends the publication that begin started.
func (q *squash[K, V]) end() {
	q.publishing = false
	q.announceLocked()
	q.mu.Unlock()
}

// announceLocked makes sure that an armed reader is notified when the set is due.
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

// onDue is called by the timer. The set is due, unless its changes have canceled each
// other out since and other rows have been added. These are due later.
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

// disarm undoes arm.
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

// finish is called when no more changes will be added.
func (q *squash[K, V]) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.rows.Len() == 0 { // otherwise the reader is notified when the set is due
		q.signalLocked()
	}
}

// close ends the subscription. It drops all rows, and notifies an armed reader.
func (q *squash[K, V]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endLocked()
	q.signalLocked()
}

// closeQuietly is like close, but does not notify. It leaves the timer running, which
// then finds nothing to do. The timer may belong to a synctest bubble, and a cleanup must
// not touch it in that case.
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

// readyLocked reports whether a set is due, or a reset is to be reported.
func (q *squash[K, V]) readyLocked() bool {
	return q.restart.marker != nil || q.rows.Len() > 0 && (q.delay == 0 || !time.Now().Before(q.due))
}

// drained reports whether everything has been read and no more changes will come.
func (q *squash[K, V]) drained() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed && q.rows.Len() == 0 && len(q.set) == 0 && q.restart.marker == nil
}

// arm arranges for wake to be notified when there is something to read, or nothing will
// come any more. If that is so already, it returns false.
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

// wait blocks until there is something to read, or nothing will come any more.
func (q *squash[K, V]) wait() {
	if q.arm() {
		<-q.ready
	}
}

// advance takes the next set if it is due. A squash skips changes only when it is reset.
func (q *squash[K, V]) advance() step {
	rows, s := q.exchange()
	if !s.advanced || s.reset != nil {
		return s
	}
	set := make([]unsafe.Pointer, 0, rows.Len())
	rows.Ascend(func(row squashedRow[K]) bool {
		set = append(set, row.change)
		return true
	})
	slices.SortFunc(set, func(a, b unsafe.Pointer) int { return cmp.Compare((*Change[V])(a).Seq, (*Change[V])(b).Seq) })
	q.set = set
	return s
}

// exchange takes the rows if they are due, and leaves an empty tree. If the squash was reset, it
// reports that first.
func (q *squash[K, V]) exchange() (rows squashedRows[K], s step) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch r := q.restart; {
	case r.marker != nil:
		q.restart = squashReset{}
		q.restartAtLocked(r.seq)
		return rows, step{true, r.skipped, r.marker}
	case !q.readyLocked():
		return rows, s
	}
	rows, q.rows = q.rows, q.newRows()
	q.setBegin, q.setNewest, q.setContinues = q.setNewest, q.newest, rows.continues
	return rows, step{advanced: true}
}

// restartAtLocked makes the next set begin after the change numbered seq.
func (q *squash[K, V]) restartAtLocked(seq uint64) {
	q.setBegin, q.setNewest = seq, seq
	q.read.Store(seq)
}

// A squashReset is a reset that was not reported yet.
type squashReset struct {
	marker  any // as in [ringReset]; nil: there was no reset
	seq     uint64
	skipped uint64 // changes that were dropped
}

// reset drops the changes that are not taken: see [ring.resetTableLocked].
func (q *squash[K, V]) reset(seq uint64, marker any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ended {
		q.restart = squashReset{marker, seq, q.restart.skipped + q.dropLocked(seq)}
		q.signalLocked()
	}
}

// dropLocked drops the changes that are not taken, and returns their number.
func (q *squash[K, V]) dropLocked(seq uint64) (dropped uint64) {
	dropped = uint64(q.rows.Len())
	q.rows = q.newRows()
	q.newest = seq
	q.skipped += dropped
	return dropped
}

// skipAllTableLocked is like [window.skipAllTableLocked]. It is called when the last set was
// read.
func (q *squash[K, V]) skipAllTableLocked(seq uint64) (s step) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return s
	}
	s = step{true, q.restart.skipped + q.dropLocked(seq), q.restart.marker}
	q.restart = squashReset{}
	q.restartAtLocked(seq)
	return s
}

// deliver calls yield with each change that is left in the set: see [source].
func (q *squash[K, V]) deliver(ctx context.Context, yield func(Change[V], error) bool) bool {
	for q.more() && ctx.Err() == nil {
		if !yield(q.next(), nil) {
			return false
		}
	}
	return true
}

// take appends up to n of the changes that are left in the set. If some of the set's
// changes belong to the same transaction, it appends all that are left. See [source].
func (q *squash[K, V]) take(ctx context.Context, to *[]Change[V], n int) {
	for ; (n > 0 || q.setContinues) && q.more() && ctx.Err() == nil; n-- {
		*to = append(*to, q.next())
	}
}

// more reports whether a change is left in the set. It first drops changes that left
// their row as it was. While the user's Equal compares the rows of a change, that change
// is not in the set, so a panic does not repeat in the next range.
func (q *squash[K, V]) more() bool {
	defer func() { q.left.Store(uint64(len(q.set))) }()
	for len(q.set) > 0 {
		set := q.set
		q.set = set[1:]
		if c := (*Change[V])(set[0]); c.Old == nil || c.New == nil || !q.equal(c.Old, c.New) {
			q.set = set
			return true
		}
	}
	q.read.Store(q.setNewest)
	return false
}

// next removes and returns the first change of the set, after more has returned true.
func (q *squash[K, V]) next() Change[V] {
	c := *(*Change[V])(q.set[0])
	c.Kind = kindOf(c.Old, c.New)
	q.set[0] = nil
	q.set = q.set[1:]
	q.left.Add(^uint64(0))
	q.read.Store(c.Seq)
	q.delivered.Add(1)
	return c
}

// release drops the changes that are left in the set.
func (q *squash[K, V]) release() { q.set = nil }

// passed returns the sequence number of the last change that was read. At the end of a set,
// that is the newest change of the set, even if it is not in there because it left its row
// as it was.
func (q *squash[K, V]) passed() uint64 { return q.read.Load() }

// complete returns the number of the newest change of all sets that were read completely.
func (q *squash[K, V]) complete() uint64 {
	if len(q.set) > 0 {
		return q.setBegin
	}
	return q.setNewest
}

// caughtUp reports whether nothing is left to be taken. A set that was taken does not count.
func (q *squash[K, V]) caughtUp() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.ended && q.rows.Len() == 0 && q.restart.marker == nil
}

// usage counts the rows, and the changes that are left in the set, as buffered.
func (q *squash[K, V]) usage() usage {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := usage{
		passed:    q.passed(),
		delivered: q.delivered.Load(),
		skipped:   q.skipped,
		buffered:  q.left.Load() + uint64(q.rows.Len()),
	}
	if u.buffered == 0 {
		u.passed = q.newest // the last changes may have canceled each other out
	}
	return u
}
