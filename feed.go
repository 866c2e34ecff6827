package changefeed

import (
	"context"
	"fmt"
	"iter"
	"math"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
)

// A subscription is what a table and a context know of a subscriber. It reads a
// window on the ring of its scope, or a squash.
type subscription[K, V any] struct {
	window window[Change[V]]
	squash *squash[K, V] // nil: it reads the window
	table  *Table[K, V]
	part   part[K, V]   // that the user selected
	scope  *scope[K, V] // the part's, or with After the whole table's
	name   string
	id     uint64 // in order of subscription
	unhook func() bool

	// The rows that come before the changes; nil: they have come. The reader sets it,
	// and end takes it away.
	initial atomic.Pointer[initialRows[K, V]]
}

// madeBefore reports whether s was made before another subscription.
func (s *subscription[K, V]) madeBefore(other *subscription[K, V]) bool { return s.id < other.id }

// A source is where a feed's changes come from: a window on a ring, or a squash. One
// goroutine at a time reads it; close, closeQuietly and usage are for any.
type source[V any] interface {
	// deliver hands changes that are ready to yield, one by one, until yield returns
	// false, which deliver then returns, or ctx is done, or advance is needed.
	deliver(ctx context.Context, yield func(Change[V], error) bool) bool

	// take appends changes that are ready to a slice: at most n, but never a part of a
	// transaction. Like deliver, it takes none when ctx is done or advance is needed.
	take(ctx context.Context, to *[]Change[V], n int)

	// advance makes the next changes ready for deliver and take. It returns the number of
	// changes that were skipped before them, and false if there is nothing to read.
	advance() (skipped uint64, advanced bool)

	// passed returns the sequence number of the last change that was read or skipped.
	passed() uint64

	// drained reports whether everything is read and nothing more will come.
	drained() bool

	// wait returns when there is something to read, or nothing more will come.
	wait()

	// arm arranges for the user's wake channel to be notified when wait would return. It
	// returns false if wait would return now. disarm undoes it.
	arm() bool
	disarm()

	// close ends the reading and wakes a reader that waits; closeQuietly wakes nobody.
	close()
	closeQuietly() (waited bool)

	// discard lets go of changes that are ready. It is called when the feed has ended.
	release()

	usage() usage
}

// source returns what the subscription's feed reads.
func (s *subscription[K, V]) source() source[V] {
	if s.squash != nil {
		return s.squash
	}
	return &s.window
}

// end ends the subscription, from any goroutine, and wakes its loop. To end it again
// does nothing. F4
func (s *subscription[K, V]) end() {
	if s.table.feeds.remove(s) {
		s.source().close()
		s.leave()
	}
}

// collected is end for a subscription whose stream is garbage. There is no loop, and
// nobody is notified: a wake channel may belong to a synctest bubble, in which the
// runtime's goroutine is a stranger.
func (s *subscription[K, V]) collected() {
	s.unhook()
	if s.table.feeds.remove(s) {
		s.source().closeQuietly()
		s.leave()
	}
}

// leave gives up the rows that are left and the scope, which goes with its last
// subscription. It does not wait for the table's lock: a loop is to end at once, and the
// runtime has one goroutine for all cleanups.
func (s *subscription[K, V]) leave() {
	s.initial.Store(nil)
	if s.scope == &s.table.allScope && s.squash == nil {
		return // it stays, and knows nothing of its subscriptions
	}
	mu := &s.table.mu
	if mu.TryLock() {
		defer mu.Unlock()
		s.leaveLocked()
		return
	}
	go func() {
		mu.Lock()
		defer mu.Unlock()
		s.leaveLocked()
	}()
}

func (s *subscription[K, V]) leaveLocked() {
	if s.squash != nil {
		s.scope.removeSquash(s.squash)
	}
	s.scope.feeds--
	if s.scope.feeds == 0 && s.scope != &s.table.allScope {
		s.part.forgetScopeLocked()
	}
}

// forget is end for a subscription that its context did not end: it also takes the
// context's hook back.
func (s *subscription[K, V]) forget() {
	if s.unhook != nil {
		s.unhook()
	}
	s.end()
}

// A feed is the subscriber's side of a subscription, which a stream owns. Its ring,
// the table and the context refer to the subscription only, so that the feed is
// garbage when its stream is. Of each feed it holds:
//
//	F1  Its changes (initial rows aside) come in sequence order, each at most once; a
//	    gap is told once, with its exact size, before the first change after it.
//	F2  Subscribing, initial rows and position are one step: nothing is missed,
//	    nothing double.
//	F3  Who waits while there is something to read is woken, also when others leave
//	    or are slow.
//	F4  After the context is done or the table dropped, every waiting loop ends;
//	    nothing of it stays behind.
type feed[K, V any] struct {
	ctx      context.Context
	sub      *subscription[K, V]
	keep     func(row *V) bool // the rows that it is about; nil: all of its scope
	catchUp  int               // the buffer when it will have caught up, if it is larger until then; else 0
	overflow Overflow
	polls    bool
	ranging  atomic.Bool
	wake     chan<- struct{} // if it polls; may be nil

	notice *SkippedError // comes next; nil: there is none
	final  error         // nil until the feed has ended
}

// A consumer hands a feed's changes to a loop: one by one, or in batches.
type consumer[V any] interface {
	// drain hands over what is ready in a source. It returns false, as the other methods
	// do, if the loop was left.
	drain(s source[V]) (more bool)

	// add hands over a change that does not come from a source.
	add(c Change[V]) (more bool)

	// flush hands over what was collected, and reports whether that was anything.
	flush() (flushed, more bool)

	// fail hands over an error. What was collected and not flushed is discarded.
	fail(err error) (more bool)

	// pending reports whether there is something that a panic kept from being handed over.
	pending() bool
}

// An initial is the present rows that a feed has not handed out, and Ready.
type initialRows[K, V any] struct {
	rows *snapshot[K, V]
	seq  uint64
}

// newFeed subscribes to a selection.
func newFeed[K, V any](ctx context.Context, s Selection[K, V], opts []FeedOption) (*feed[K, V], error) {
	if ctx == nil {
		panic("changefeed: Changes: nil context; pass context.Background() to follow without an end")
	}
	c, err := newFeedConfig(opts)
	if err != nil {
		return nil, s.table.feedError(err)
	}
	f := &feed[K, V]{
		ctx:      ctx,
		sub:      &subscription[K, V]{table: s.table, part: s.part, name: c.name},
		keep:     s.keep,
		overflow: c.overflow,
		polls:    c.polls,
		wake:     c.wake,
	}
	followed := s.part
	if c.after != nil && followed != s.table.allPart {
		followed = s.table.allPart // only its ring holds what came before
		f.keep = and(s.part.has, f.keep)
	}
	seq, err := f.subscribe(&c, followed)
	if err != nil {
		return nil, s.table.feedError(err)
	}
	sub, subscribed := f.sub, false
	defer func() {
		if !subscribed { // a method of the context or a function of the user's panicked
			sub.forget()
		}
	}()
	if c.squashes && c.after != nil {
		f.squashBacklog(seq)
	}
	sub.unhook = context.AfterFunc(ctx, sub.end)
	runtime.AddCleanup(f, (*subscription[K, V]).collected, sub)
	subscribed = true
	return f, nil
}

func (t *Table[K, V]) feedError(err error) error {
	return fmt.Errorf("changefeed: changes of %q: %w", t.name, err)
}

// subscribe begins the subscription to a part here, or after a change that was, and
// returns the table's sequence number. F2
func (f *feed[K, V]) subscribe(c *feedConfig, followed part[K, V]) (seq uint64, err error) {
	s, t := f.sub, f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return 0, ErrTableDropped
	}
	if c.after != nil && *c.after > t.seq {
		return 0, fmt.Errorf("%w: After(%d): the table has only come to %d", ErrInvalidOption, *c.after, t.seq)
	}
	s.scope = followed.scopeLocked()
	s.scope.feeds++ // but for the whole table's, every scope goes with its last
	if c.squashes {
		s.squash = newSquash(t.order, t.equal, t.seq, c)
		s.scope.addSquash(s.squash)
	} else if c.polls {
		s.window.notifyOn(c.wake)
	}
	switch {
	case c.after != nil:
		t.allScope.ring.beginTableLocked(t.seq)
		retained := t.allScope.ring.retainedTableLocked()
		limit := uint64(c.buffer) + retained
		if c.squashes {
			limit = math.MaxUint64 // it is read before Changes returns
		} else if retained > 0 {
			f.catchUp = c.buffer
		}
		t.allScope.ring.openAtTableLocked(&s.window, limit, *c.after)
	case !c.squashes:
		if s.scope == &t.allScope {
			t.allScope.ring.beginTableLocked(t.seq)
		}
		s.window.beginAfter(t.seq)
		s.scope.ring.openTableLocked(&s.window, uint64(c.buffer))
	}
	if c.initial {
		s.initial.Store(&initialRows[K, V]{s.part.snapshotLocked(true), t.seq})
	}
	t.feeds.add(s)
	return t.seq, nil
}

// squashBacklog puts the changes between the one that a feed with [After] begins after
// and the subscription, at seq, before those that its squash has got since.
func (f *feed[K, V]) squashBacklog(seq uint64) {
	w, q, t := &f.sub.window, f.sub.squash, f.sub.table
	defer w.close()
	earlier := q.newRows()
	before := w.passed()
	var changes []Change[V]
	for w.passed() < seq {
		changes = recycle(changes)
		w.take(context.Background(), &changes, 1) // with those of its transaction
		if len(changes) == 0 {
			if skipped, _ := w.advance(); skipped > 0 {
				f.notice = f.skipped(skipped, before, w.passed())
				q.skipped.Store(skipped)
			}
			continue
		}
		for _, c := range changes {
			earlier.add(t.key(c.Row()), c)
		}
		earlier.continues = earlier.continues || len(changes) > 1
		earlier.settle()
	}
	q.prepend(earlier)
}

// see makes c what the feed is to see of it, and reports whether that is
// anything.
func (f *feed[K, V]) project(c *Change[V]) bool {
	if f.keep == nil || c.Kind == Ready {
		return true
	}
	was := c.Old != nil && f.keep(c.Old)
	is := c.New != nil && f.keep(c.New)
	*c = c.within(was, is)
	return was || is
}

// begin begins a range. Its end is deferred.
func (f *feed[K, V]) begin() {
	if !f.ranging.CompareAndSwap(false, true) {
		panic("changefeed: a second range over a stream while one runs; call Changes for each goroutine")
	}
	if f.wake != nil {
		f.sub.source().disarm()
	}
}

// end ends a range, also one that a panic or a Goexit ends. It arranges for a feed that
// polls to be notified when there is something to read, now if there is.
func (f *feed[K, V]) end(c consumer[V]) {
	defer f.ranging.Store(false) // this also keeps f from being collected until here
	if f.wake == nil || f.final != nil {
		return
	}
	if f.notice != nil || f.sub.initial.Load() != nil || c.pending() || !f.sub.source().arm() {
		notify(f.wake)
	}
}

// run hands over what there is, and waits for more, until the loop is left or the feed
// ends. An error comes after everything that was before it, so f.final is set when that
// has been handed over.
func (f *feed[K, V]) run(c consumer[V]) {
	for f.final == nil {
		if f.ctx.Err() != nil {
			f.finish(context.Cause(f.ctx))
			break
		}
		if f.notice != nil {
			if !f.deliverNotice(c) {
				return
			}
			continue
		}
		if !f.deliver(c) {
			return
		}
		if f.ctx.Err() != nil || f.advance() {
			continue
		}
		switch flushed, more := c.flush(); { // before it waits or ends
		case !more:
			return
		case flushed:
			continue
		case f.sub.source().drained():
			if f.ctx.Err() == nil { // else the subscription may have ended, and have missed some
				f.finish(f.sub.table.feedError(ErrTableDropped))
			}
			continue
		}
		if f.catchUp > 0 {
			f.sub.window.setLimit(uint64(f.catchUp))
			f.catchUp = 0
		}
		if f.polls {
			return
		}
		f.sub.source().wait()
	}
	c.fail(f.final)
}

// deliverNotice hands over the notice, after what came before it.
func (f *feed[K, V]) deliverNotice(c consumer[V]) (more bool) {
	if flushed, more := c.flush(); flushed || !more {
		return more // the context may be done
	}
	notice := f.notice
	if f.overflow == Fail {
		f.finish(notice)
		return true
	}
	f.notice = nil
	return c.fail(notice)
}

// deliver hands over the rows that are left, and the changes that are ready.
func (f *feed[K, V]) deliver(c consumer[V]) (more bool) {
	if initial := f.sub.initial.Load(); initial != nil && !f.deliverInitial(initial, c) {
		return false
	}
	return c.drain(f.sub.source())
}

// deliverInitial hands over the rows that are left, and Ready.
func (f *feed[K, V]) deliverInitial(initial *initialRows[K, V], c consumer[V]) (more bool) {
	more = true
	initial.rows.forward(func(_ K, row *V) bool {
		if f.ctx.Err() != nil {
			return false
		}
		more = c.add(Change[V]{Kind: Initial, New: row})
		return more
	})
	if !more || f.ctx.Err() != nil {
		return more
	}
	f.sub.initial.Store(nil)
	return c.add(Change[V]{Kind: Ready, Seq: initial.seq})
}

// advance makes the source ready to be read, and takes note of changes that were
// skipped. It reports whether there is anything.
func (f *feed[K, V]) advance() bool {
	src := f.sub.source()
	before := src.passed()
	skipped, advanced := src.advance()
	if skipped > 0 {
		f.notice = f.skipped(skipped, before, src.passed()) // F1
		if f.overflow == Resync {
			f.resync()
		}
	}
	return advanced
}

// skipped returns the notice of changes that were skipped behind the one numbered
// before, up to the one numbered to.
func (f *feed[K, V]) skipped(count, before, to uint64) *SkippedError {
	return &SkippedError{Count: count, From: before + 1, To: to, Table: f.sub.table.name, Feed: f.sub.name}
}

// resync goes on with the rows as they are now, and counts in the notice what they
// make needless. F2
func (f *feed[K, V]) resync() {
	t := f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return
	}
	skipped, open := f.sub.window.skipAllTableLocked(t.seq)
	if !open {
		return // the context is done
	}
	f.notice.Count += skipped
	f.notice.To = t.seq
	f.sub.initial.Store(&initialRows[K, V]{f.sub.part.snapshotLocked(true), t.seq})
}

func (f *feed[K, V]) finish(err error) {
	f.final = err
	f.notice = nil
	f.sub.forget()
	f.sub.initial.Store(nil) // if it began anew just before
	f.sub.source().release()
}

// changes is the feed's stream.
func (f *feed[K, V]) changes(yield func(Change[V], error) bool) {
	f.begin()
	c := &each[K, V]{f, yield}
	defer f.end(c)
	f.run(c)
}

// An each is a [consumer] for a loop that takes changes one by one.
type each[K, V any] struct {
	feed  *feed[K, V]
	yield func(Change[V], error) bool
}

func (e *each[K, V]) drain(s source[V]) bool {
	if e.feed.keep == nil {
		return s.deliver(e.feed.ctx, e.yield)
	}
	return s.deliver(e.feed.ctx, func(c Change[V], _ error) bool { return e.add(c) })
}

func (e *each[K, V]) add(c Change[V]) bool { return !e.feed.project(&c) || e.yield(c, nil) }

func (e *each[K, V]) fail(err error) bool         { return e.yield(Change[V]{}, err) }
func (e *each[K, V]) flush() (flushed, more bool) { return false, true }
func (e *each[K, V]) pending() bool               { return false }

// A feedSet is the set of a table's subscriptions. It has a lock of its own, because a
// subscription can end while the table's lock is held. A Changes takes that lock under the
// table's, so nobody holds it for longer than maxListed steps (T6).
type feedSet[K, V any] struct {
	mu     sync.Mutex                         // a leaf; guards what follows
	subs   *btree.BTreeG[*subscription[K, V]] // oldest first
	lastID uint64                             // of the last one added
}

// maxListed is how many subscriptions are listed before the mutex is given up.
const maxListed = 64

func (f *feedSet[K, V]) add(s *subscription[K, V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastID++
	s.id = f.lastID
	f.subs.ReplaceOrInsert(s)
}

// remove reports whether s was in the set.
func (f *feedSet[K, V]) remove(s *subscription[K, V]) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.subs.Delete(s)
	return ok
}

// oldestFirst yields the subscriptions in the order in which they were added. It yields
// each one that is in the set throughout the range. The mutex is not held while yield
// runs.
func (f *feedSet[K, V]) oldestFirst() iter.Seq[*subscription[K, V]] {
	return func(yield func(*subscription[K, V]) bool) {
		last := new(subscription[K, V]) // its id comes before the first
		for list := f.next(last, nil); len(list) > 0; list = f.next(last, list[:0]) {
			for _, last = range list {
				if !yield(last) {
					return
				}
			}
		}
	}
}

// next appends the subscriptions that come after one which may have left the set, up to
// maxListed of them.
func (f *feedSet[K, V]) next(after *subscription[K, V], list []*subscription[K, V]) []*subscription[K, V] {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs.AscendGreaterOrEqual(after, func(s *subscription[K, V]) bool {
		if s != after {
			list = append(list, s)
		}
		return len(list) < maxListed
	})
	return list
}

// A FeedInfo tells how a subscriber is doing. Since it subscribed, or began by
// [After], Delivered + Skipped + Buffered changes were made to what it reads: see
// Options in the package documentation. Initial rows do not count: while some are to
// come, Buffered may be 0. A change counts as delivered when the loop gets it: to know
// when a consumer has handled one, have it say so.
//
// With [Squash], Buffered is the number of rows that wait to be told of, Delivered
// that of changes handed out, and Capacity is 0, for there is no limit; the figures
// are not of one moment.
type FeedInfo struct {
	Name      string // see [Named]
	Buffered  int    // changes waiting to be read
	Capacity  int    // of the buffer, see [Buffer] and [After]
	Delivered uint64 // changes handed to the loop
	Skipped   uint64 // changes lost, those included that no [SkippedError] has told of yet; a change being taken at that moment may count here
	Seq       uint64 // sequence number of the last change read, or told to be skipped, or made before the subscription
}

// String returns all figures in one line:
//
//	feed "audit": buffered 3/100, delivered 17, skipped 2, seq 22
//
// It leaves out a name that is empty, and a Capacity of 0.
func (i FeedInfo) String() string {
	feed, buffered := "feed", strconv.Itoa(i.Buffered)
	if i.Name != "" {
		feed = fmt.Sprintf("feed %q", i.Name)
	}
	if i.Capacity > 0 {
		buffered = fmt.Sprintf("%d/%d", i.Buffered, i.Capacity)
	}
	return fmt.Sprintf("%s: buffered %s, delivered %d, skipped %d, seq %d", feed, buffered, i.Delivered, i.Skipped, i.Seq)
}

// Feeds tells of each subscription that has not ended, in the order in which they
// were made. After a drop, one stays listed until its loop has read the final error; when
// a context is done, for a moment. Each FeedInfo is exact, but they are not all of one
// moment. Feeds takes time in proportion to their number. A writer never waits that long:
// Feeds gives up its locks after a few subscriptions.
func (t *Table[K, V]) Feeds() []FeedInfo {
	infos := []FeedInfo{}
	for s := range t.feeds.oldestFirst() {
		u := s.source().usage()
		infos = append(infos, FeedInfo{
			Name:      s.name,
			Buffered:  int(u.buffered),
			Capacity:  int(min(u.limit, math.MaxInt)),
			Delivered: u.delivered,
			Skipped:   u.skipped,
			Seq:       u.passed,
		})
	}
	return infos
}
