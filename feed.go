package changefeed

import (
	"context"
	"fmt"
	"iter"
	"math"
	"runtime"
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
	number uint64 // in order of subscription
	unhook func() bool

	// The rows that come before the changes; nil: they have come. The reader sets it,
	// and end takes it away.
	initial atomic.Pointer[initial[K, V]]
}

// before reports whether s was made before another subscription.
func (s *subscription[K, V]) before(other *subscription[K, V]) bool { return s.number < other.number }

// end ends the subscription, from any goroutine. To end it again does nothing. F4
func (s *subscription[K, V]) end() {
	if !s.table.feeds.remove(s) {
		return
	}
	s.initial.Store(nil)
	if s.squash == nil {
		s.window.close()
	} else {
		s.squash.end()
	}
	if s.scope != &s.table.whole || s.squash != nil {
		s.leave()
	}
}

// leave gives up the scope, which goes with its last subscription. It does not wait for
// the table's lock: a loop is to end at once, and the runtime has one goroutine for all
// cleanups.
func (s *subscription[K, V]) leave() {
	if s.table.mu.TryLock() {
		s.leaveLocked()
		return
	}
	go func() {
		s.table.mu.Lock()
		s.leaveLocked()
	}()
}

// leaveLocked leaves, and unlocks the table.
func (s *subscription[K, V]) leaveLocked() {
	defer s.table.mu.Unlock()
	if s.squash != nil {
		s.scope.removeSquash(s.squash)
	}
	s.scope.feeds--
	if s.scope.feeds == 0 && s.scope != &s.table.whole {
		s.part.forgetScopeLocked()
	}
}

// forget is end for a subscription that its context did not end: it also takes the
// context's hook back.
func (s *subscription[K, V]) forget() {
	s.unhook()
	s.end()
}

func (s *subscription[K, V]) usage() usage {
	if s.squash != nil {
		return s.squash.usage()
	}
	return s.window.usage()
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

	ranging atomic.Bool
	final   error         // nil until the feed has ended
	untold  *SkippedError // comes first; nil: there is none
}

// An initial is the present rows that a feed has not handed out, and Ready.
type initial[K, V any] struct {
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
	}
	followed := s.part
	if c.after != nil && followed != s.table.everything {
		followed = s.table.everything // only its ring holds what came before
		f.keep = both(s.part.has, f.keep)
	}
	if err := f.subscribe(&c, followed); err != nil {
		return nil, s.table.feedError(err)
	}
	sub := f.sub
	sub.unhook = context.AfterFunc(ctx, sub.end)
	runtime.AddCleanup(f, (*subscription[K, V]).forget, sub)
	if c.squashes && c.after != nil {
		f.squashBacklog()
	}
	return f, nil
}

func (t *Table[K, V]) feedError(err error) error {
	return fmt.Errorf("changefeed: changes of %q: %w", t.name, err)
}

// subscribe begins the subscription to a part here, or after a change that was. F2
func (f *feed[K, V]) subscribe(c *feedConfig, followed part[K, V]) error {
	s, t := f.sub, f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return ErrTableDropped
	}
	if c.after != nil && *c.after > t.seq {
		return fmt.Errorf("%w: After(%d): the table has only come to %d", ErrInvalidOption, *c.after, t.seq)
	}
	s.scope = followed.scopeLocked()
	s.scope.feeds++ // but for the whole table's, every scope goes with its last
	if c.squashes {
		s.squash = newSquash(t, c)
		s.scope.addSquash(s.squash)
	} else if c.polls {
		s.window.notify = c.wake
	}
	switch {
	case c.after != nil:
		t.whole.ring.begin(t.seq)
		limit := uint64(c.buffer) + t.whole.ring.retain
		if c.squashes {
			limit = math.MaxUint64 // it is read before Changes returns
		} else if t.whole.ring.retain > 0 {
			f.catchUp = c.buffer
		}
		t.whole.ring.openAt(&s.window, limit, *c.after)
	case !c.squashes:
		if s.scope == &t.whole {
			t.whole.ring.begin(t.seq)
		}
		s.window.base = t.seq
		s.scope.ring.open(&s.window, uint64(c.buffer))
	}
	if c.initial {
		s.initial.Store(&initial[K, V]{s.part.snapshotLocked(true), t.seq})
	}
	t.feeds.add(s)
	return nil
}

// squashBacklog puts the changes between the one that a feed with [After] begins after
// and the subscription before those that its squash has got since.
func (f *feed[K, V]) squashBacklog() {
	w, q, t := &f.sub.window, f.sub.squash, f.sub.table
	defer w.close()
	earlier := q.newRows()
	before := w.passed()
	for w.passed() < q.setNewest {
		c, skipped, ok := w.read()
		if ok {
			earlier.add(t.key(c.Row()), c)
			if w.joined() {
				earlier.joined = true
			} else {
				earlier.settle()
			}
		} else {
			f.untold = &SkippedError{Count: skipped, From: before + 1, To: w.passed()}
			q.skipped.Store(skipped)
		}
	}
	q.follow(earlier)
}

// changes is the feed's stream.
func (f *feed[K, V]) changes(yield func(Change[V], error) bool) {
	if f.keep == nil {
		f.run(yield, nil)
		return
	}
	f.run(func(c Change[V], err error) bool {
		if err == nil && !f.see(&c) {
			return true
		}
		return yield(c, err)
	}, nil)
}

// see makes c what the feed is to see of it, and reports whether that is
// anything.
func (f *feed[K, V]) see(c *Change[V]) bool {
	if f.keep == nil || c.Kind == Ready {
		return true
	}
	was := c.Old != nil && f.keep(c.Old)
	is := c.New != nil && f.keep(c.New)
	*c = c.seenFrom(was, is)
	return was || is
}

// joined reports whether the change handed out last belongs together with the next.
func (f *feed[K, V]) joined() bool {
	switch {
	case f.sub.initial.Load() != nil:
		return false
	case f.sub.squash != nil:
		return f.sub.squash.setJoined && f.sub.squash.more()
	}
	return f.sub.window.joined()
}

// run hands out what there is, and waits for more, until yield returns false or the
// feed ends. If batches is not nil, yield is its add; before run waits, it has that
// hand out what it has put by.
func (f *feed[K, V]) run(yield func(Change[V], error) bool, batches *batchLoop[K, V]) {
	if !f.ranging.CompareAndSwap(false, true) {
		panic("changefeed: a second range over a stream while one runs; call Changes for each goroutine")
	}
	defer f.ranging.Store(false) // this also keeps f from being collected until here
	if f.polls {
		f.rise()
		defer f.sleep(batches)
	}
	for f.final == nil {
		if !f.deliver(yield, batches) {
			return
		}
		if f.ctx.Err() != nil {
			f.finish(context.Cause(f.ctx))
			break
		}
		switch advanced, more := f.advance(yield); {
		case !more:
			return
		case advanced:
			continue
		case f.drained() && f.ctx.Err() == nil: // else the subscription may have ended, and have missed some
			f.finish(f.sub.table.feedError(ErrTableDropped))
			continue
		}
		if batches != nil {
			switch flushed, more := batches.flush(); {
			case !more:
				return
			case flushed:
				continue
			}
		}
		if f.catchUp > 0 {
			f.sub.window.setLimit(uint64(f.catchUp))
			f.catchUp = 0
		}
		if f.polls {
			return
		}
		f.wait()
	}
	yield(Change[V]{}, f.final)
}

// deliver hands out what is there, as window.deliver does.
func (f *feed[K, V]) deliver(yield func(Change[V], error) bool, batches *batchLoop[K, V]) bool {
	if notice := f.untold; notice != nil && f.ctx.Err() == nil {
		f.untold = nil
		if !yield(Change[V]{}, notice) {
			return false
		}
	}
	if initial := f.sub.initial.Load(); initial != nil && !f.deliverInitial(initial, yield) {
		return false
	}
	switch {
	case f.sub.squash != nil:
		return f.sub.squash.deliver(f.ctx, yield)
	case batches != nil:
		return batches.deliver()
	}
	return f.sub.window.deliver(f.ctx, yield)
}

// deliverInitial hands out the rows that are left, and Ready.
func (f *feed[K, V]) deliverInitial(initial *initial[K, V], yield func(Change[V], error) bool) bool {
	more := true
	initial.rows.forward(func(_ K, row *V) bool {
		if f.ctx.Err() != nil {
			return false
		}
		more = yield(Change[V]{Kind: Initial, New: row}, nil)
		return more
	})
	if !more || f.ctx.Err() != nil {
		return more
	}
	f.sub.initial.Store(nil)
	return yield(Change[V]{Kind: Ready, Seq: initial.seq}, nil)
}

// advance takes the window's next change, or tells of those that were skipped before
// it. It reports whether there was anything.
func (f *feed[K, V]) advance(yield func(Change[V], error) bool) (advanced, more bool) {
	if f.sub.squash != nil {
		return false, true
	}
	w := &f.sub.window
	before := w.passed()
	c, skipped, ok := w.read()
	switch {
	case ok:
		return true, yield(c, nil)
	case skipped == 0:
		return false, true
	}
	notice := &SkippedError{Count: skipped, From: before + 1, To: w.passed()} // F1
	switch f.overflow {
	case Fail:
		f.finish(notice)
		return true, true
	case Resync:
		f.resync(notice)
	}
	return true, yield(Change[V]{}, notice)
}

// resync goes on with the rows as they are now, and counts in the notice what they
// make needless. F2
func (f *feed[K, V]) resync(notice *SkippedError) {
	t := f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return
	}
	skipped, open := f.sub.window.skipAll(t.seq)
	if !open {
		return // the context is done
	}
	notice.Count += skipped
	notice.To = t.seq
	f.sub.initial.Store(&initial[K, V]{f.sub.part.snapshotLocked(true), t.seq})
}

// drained reports whether all is read that will ever be.
func (f *feed[K, V]) drained() bool {
	if f.sub.squash != nil {
		return f.sub.squash.drained()
	}
	return f.sub.window.drained()
}

// wait waits until there is something to do.
func (f *feed[K, V]) wait() {
	if q := f.sub.squash; q == nil {
		f.sub.window.wait()
	} else if q.sleep() {
		<-q.woken
	}
}

// sleep sees to it, for a feed that polls and was left, that the user is told when there
// is something to do; at once, if there is.
func (f *feed[K, V]) sleep(batches *batchLoop[K, V]) {
	if f.final != nil {
		return // it was told
	}
	w, q := &f.sub.window, f.sub.squash
	left := f.untold != nil || f.sub.initial.Load() != nil || batches != nil && batches.left()
	switch {
	case q != nil:
		if left || len(q.set) > 0 || !q.sleep() {
			tell(q.wake)
		}
	case w.polls():
		if left || !w.park() {
			tell(w.notify)
		}
	}
}

// rise takes back what sleep arranged.
func (f *feed[K, V]) rise() {
	if q := f.sub.squash; q != nil {
		q.rise()
	} else if f.sub.window.polls() {
		f.sub.window.unpark()
	}
}

func (f *feed[K, V]) finish(err error) {
	f.final = err
	f.untold = nil
	f.sub.forget()
	f.sub.initial.Store(nil) // if it began anew just before
	if f.sub.squash != nil {
		f.sub.squash.set = nil
	}
}

// A feedSet is the set of a table's subscriptions. It has a lock of its own, because a
// subscription can end while the table's lock is held. A Changes takes that lock under the
// table's, so nobody holds it for longer than maxListed steps (T6).
type feedSet[K, V any] struct {
	mu     sync.Mutex                         // a leaf; guards what follows
	subs   *btree.BTreeG[*subscription[K, V]] // oldest first
	number uint64                             // of the last one added
}

// maxListed is how many subscriptions are listed before the mutex is given up.
const maxListed = 64

func (f *feedSet[K, V]) add(s *subscription[K, V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.number++
	s.number = f.number
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
		last := new(subscription[K, V]) // its number comes before the first
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
