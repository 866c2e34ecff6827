package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/btree"
)

// A subscription is the part of a feed that the table and the context refer to. Its
// changes come from a window on the ring of its scope, or from a squash. With [After], those
// of a backlog come before.
type subscription[K, V any] struct {
	window window[Change[V]]
	squash *squash[K, V] // nil if the feed reads the window
	table  *Table[K, V]
	part   part[K, V]
	scope  *scope[K, V] // of part
	about  *about       // nil if the feed has no such options
	id     uint64       // in order of subscription
	unhook func() bool  // stops the context from calling end

	// The rows that come before the changes, or nil if all of them were delivered. The
	// reader sets it, and endInitial clears it.
	initial atomic.Pointer[initialRows[K, V]]

	backlog  *backlog[V] // nil without After
	progress *progress   // nil without Track
}

func (s *subscription[K, V]) number() uint64 { return s.id }

// A reader has changes that are ready to be read, by one goroutine at a time.
type reader[V any] interface {
	// deliver calls yield with each change that is ready, and a nil error. It returns
	// false as soon as yield does. It returns true when no more are ready or ctx is done.
	deliver(ctx context.Context, yield func(Change[V], error) bool) bool

	// take appends up to n of the changes that are ready to the slice. It appends more
	// than n rather than a part of a transaction, and nothing if none are ready or ctx is
	// done.
	take(ctx context.Context, to *[]Change[V], n int)
}

// A source supplies the changes of one feed. It is a window on a ring, or a squash.
//
// When no more changes are ready, advance makes the next ones ready. close, closeQuietly,
// caughtUp and usage can be called from any goroutine. The other methods are for one
// goroutine at a time, the feed's reader.
type source[V any] interface {
	reader[V]

	// advance makes the next changes ready, after those that were skipped.
	advance() step

	// skipAllTableLocked skips all unread changes. seq becomes the sequence number that was
	// passed. If the source is closed, it does nothing.
	skipAllTableLocked(seq uint64) step

	// passed returns the sequence number of the last change that was read or skipped.
	passed() uint64

	// caughtUp reports whether everything that was published has been read, and the source
	// is not closed.
	caughtUp() bool

	// drained reports whether everything has been read and no more changes will come.
	drained() bool

	// wait blocks until there is something to read, no more changes will come, or the
	// source is closed.
	wait()

	// arm arranges for the user's wake channel to be notified when wait would return. It
	// returns false, and arranges nothing, if wait would return immediately. disarm
	// undoes arm.
	arm() bool
	disarm()

	// close ends the source and wakes its reader. It can be called again. closeQuietly is
	// like close, but wakes nobody. It reports whether a reader was waiting.
	close()
	closeQuietly() (waited bool)

	// release drops changes that are ready. It is called when the feed has ended.
	release()

	// usage returns the figures for [Table.Feeds].
	usage() usage
}

// source returns the source that the subscription's feed reads.
func (s *subscription[K, V]) source() source[V] {
	if s.squash != nil {
		return s.squash
	}
	return &s.window
}

// end ends the subscription and wakes its loop. It can be called from any goroutine. If
// the subscription has ended already, end does nothing. F4
func (s *subscription[K, V]) end() {
	if s.table.feeds.remove(s) {
		s.rememberEnd()
		s.source().close()
		s.leave()
	}
}

// rememberEnd stores what a Feed returns after the end of the subscription.
func (s *subscription[K, V]) rememberEnd() {
	if p := s.progress; p != nil {
		seq := p.epoch.Load().history.published.Load()
		if s.caughtUp() {
			p.atEnd.Store(seq)
		}
		p.last.Store(new(s.info()))
	}
}

// collected ends a subscription whose stream is garbage. It is like end, but notifies
// nobody. There is no loop to wake, and the user's wake channel may belong to a synctest
// bubble, which the runtime's cleanup goroutine is not in.
func (s *subscription[K, V]) collected() {
	s.unhook()
	if s.table.feeds.remove(s) {
		s.rememberEnd()
		s.source().closeQuietly()
		s.leave()
	}
	s.source().release() // nobody reads any more, but a Feed may refer to s
}

// leave drops the remaining initial rows and the backlog, and leaves the scope. The last
// subscription to leave a scope removes it. leave does not wait for the table's lock: if the
// lock is taken, a goroutine does the rest. A loop has to end at once, and all cleanups of
// the runtime share one goroutine.
func (s *subscription[K, V]) leave() {
	s.endInitial()
	s.backlog.close()
	if s.scope == &s.table.allScope && s.squash == nil {
		return // this scope stays, and has no reference to the subscription
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

// endInitial drops the remaining initial rows. A range that is reading them does not stop.
func (s *subscription[K, V]) endInitial() {
	if initial := s.initial.Swap(nil); initial != nil {
		initial.rows.close()
	}
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

// forget is like end, but also stops the context from calling end. It is called when
// something other than the context ends the subscription.
func (s *subscription[K, V]) forget() {
	if s.unhook != nil {
		s.unhook()
	}
	s.end()
}

// A feed is the subscriber's side of a subscription, and belongs to a stream. The ring,
// the table and the context refer to the subscription only, so a feed is garbage as soon
// as its stream is. These invariants hold for every feed:
//
//	F1  Changes, other than initial rows, are delivered in sequence order, each at most
//	    once. A gap is reported once, with its exact size, before the first change after
//	    it.
//	F2  Subscription, initial rows and position are taken in one step: no change is
//	    missed or delivered twice.
//	F3  No lost wake-up: a loop that waits while it has something to read is woken, even
//	    if other loops stall or exit.
//	F4  When the context is done or the table is dropped, every waiting loop ends, and
//	    nothing of the subscription stays behind.
type feed[K, V any] struct {
	ctx      context.Context
	sub      *subscription[K, V]
	keep     func(row *V) bool // selects the feed's rows, or nil for all rows of its scope
	overflow Overflow
	polls    bool
	resyncs  bool // the present rows come after the notice
	atReady  bool // Ready was passed on, but the loop may not have it
	ranging  atomic.Bool
	wake     chan<- struct{} // the channel given to Poll, which may be nil

	// keepBacklog selects the feed's rows in the backlog, which also has changes of other rows. It
	// is not in the backlog, because the table refers to that: see AddCleanup in endWith.
	keepBacklog func(row *V) bool

	notice *notice // to be delivered next, or nil
	final  error   // nil until the feed has ended
}

// A notice is a SkippedError that is to be delivered.
type notice struct {
	SkippedError
	resetTo *history // with which the feed continues after a Reset, or nil
}

// A consumer passes a feed's changes to a loop, one by one or in batches. Its methods
// return false for more if the loop exited.
type consumer[K, V any] interface {
	// drain passes on the changes that are ready in r.
	drain(r reader[V]) (more bool)

	// add passes on a change that does not come from a source. addInitial passes on the
	// initial rows that were read, until the context is done.
	add(c Change[V]) (more bool)
	addInitial(rows *initialRows[K, V]) (more bool)

	// flush delivers the changes that were collected and are not delivered yet. flushed is
	// false if there were none.
	flush() (flushed, more bool)

	// fail delivers an error, and discards changes that were not flushed.
	fail(err error) (more bool)

	// pending reports whether a panic left changes that are still to be delivered.
	pending() bool
}

// An initialRows is the present rows that a feed has yet to deliver, followed by Ready.
type initialRows[K, V any] struct {
	rows *scan[K, V]
	next int    // in rows.rows, the next one to deliver
	seq  uint64 // of the last change that the rows show
}

// take returns up to n of the rows that were read and are not delivered yet.
func (i *initialRows[K, V]) take(n int) []*V {
	rows := i.rows.rows[min(i.next, len(i.rows.rows)):]
	rows = rows[:min(n, len(rows))]
	i.next += len(rows)
	return rows
}

// newFeed subscribes to a selection. It returns an error for an invalid option, for a position
// of another history and for a dropped table.
func newFeed[K, V any](ctx context.Context, s Selection[K, V], opts []FeedOption) (*feed[K, V], error) {
	c, err := newFeedConfig(ctx, "Changes", opts)
	if err != nil {
		return nil, s.table.feedError(err)
	}
	f := &feed[K, V]{
		ctx:      ctx,
		sub:      &subscription[K, V]{table: s.table, part: s.part, about: c.about(s.keep != nil)},
		keep:     s.keep,
		overflow: c.overflow,
		polls:    c.polls,
		wake:     c.wake,
	}
	if err := f.subscribe(&c); err != nil {
		return nil, s.table.feedError(err)
	}
	f.sub.unhook = endWith(ctx, f, f.sub)
	return f, nil
}

// endWith makes a subscription end when the context is done, and when its feed is garbage. It
// returns the function that stops the context from calling end.
func endWith[F any, S subscriber](ctx context.Context, feed *F, s S) (unhook func() bool) {
	defer func() {
		if unhook == nil { // a method of the context panicked
			s.forget()
		}
	}()
	unhook = context.AfterFunc(ctx, s.end)
	runtime.AddCleanup(feed, S.collected, s)
	return unhook
}

func (t *Table[K, V]) feedError(err error) error {
	return fmt.Errorf("changefeed: changes of %q: %w", t.name, err)
}

// subscribe adds the subscription to the scope of its part. The feed begins with the next
// change, or with [After] at an earlier position. F2
func (f *feed[K, V]) subscribe(c *feedConfig) error {
	s, t := f.sub, f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return ErrTableDropped
	}
	begin := t.seq
	if c.after != nil {
		var err error
		if begin, err = f.resumeLocked(*c.after); err != nil {
			return err
		}
	}
	s.scope = s.part.scopeLocked()
	s.scope.feeds++ // leaveLocked removes a scope with its last feed, except the whole table's
	if c.squashes {
		s.squash = newSquash(t.order, t.equal, t.seq, c)
		s.scope.addSquash(s.squash)
	} else {
		s.window.notifyOn(c.wake)
		s.window.beginAfter(t.seq)
		s.scope.ring.openTableLocked(&s.window, uint64(c.buffer))
	}
	if c.initial || f.resyncs {
		f.beginInitialLocked()
	}
	if c.track == nil {
		t.feeds.add(s, &s.id)
		return nil
	}
	s.progress = f.newProgress(begin)
	t.feeds.add(s, &s.id)
	c.track.tracked.Store(new(trackedFeed(s)))
	return nil
}

// resumeLocked makes the feed begin after a position, whose Seq it returns. The notice counts the
// changes that the table does not retain. With [Resync], it counts all changes after the position,
// and the present rows follow it.
func (f *feed[K, V]) resumeLocked(after Position) (begin uint64, err error) {
	s, t := f.sub, f.sub.table
	from := after.Seq
	if known := t.lineageNow().has(after, t.seq); !known {
		if f.overflow != Resync {
			return 0, fmt.Errorf("%w: After(%v)", ErrOtherHistory, after)
		}
		after, from = Position{}, 0
	}
	b := newBacklogTableLocked(&t.allScope.ring, from, t.seq)
	if f.overflow == Resync && (after.IsZero() || b.skipped > 0) {
		f.notice = f.skipped(t.seq-from, from, t.seq)
		f.resyncs = true
		return from, nil
	}
	s.backlog = b
	f.keepBacklog = f.keep
	if s.part != t.allPart {
		f.keepBacklog = and(s.part.has, f.keep)
	}
	if b.skipped > 0 {
		f.notice = f.skipped(b.skipped, from, from+b.skipped)
	}
	return from, nil
}

// beginInitialLocked makes the feed continue with the present rows.
func (f *feed[K, V]) beginInitialLocked() {
	t := f.sub.table
	f.sub.initial.Store(&initialRows[K, V]{rows: f.sub.part.scan(nil, false), seq: t.seq})
}

// keepsAll reports whether the feed reports every change that it reads.
func (f *feed[K, V]) keepsAll() bool {
	return f.keep == nil && f.keepBacklog == nil
}

// project makes c the change that the feed reports, which is relative to its predicate.
// It returns false if the feed reports nothing for c.
func (f *feed[K, V]) project(c *Change[V]) bool {
	keep := f.keep
	if b := f.sub.backlog; b != nil && c.Seq <= b.to {
		keep = f.keepBacklog
	}
	if keep == nil || c.Kind == Ready {
		return true
	}
	before := c.Old != nil && keep(c.Old)
	after := c.New != nil && keep(c.New)
	*c = c.within(before, after)
	return before || after
}

// begin starts a range. The caller must defer end.
func (f *feed[K, V]) begin() {
	if !f.ranging.CompareAndSwap(false, true) {
		panic("changefeed: another range over the stream is running; call Changes once for each goroutine")
	}
	if f.wake != nil {
		f.sub.source().disarm()
	}
	f.hold()
}

// end ends a range, also if a panic or runtime.Goexit ended it. It arranges for the wake
// channel to be notified when there is something to read, which includes the final error.
// If there is something already, end notifies at once.
func (f *feed[K, V]) end(c consumer[K, V]) {
	defer f.ranging.Store(false) // also keeps f reachable until here
	f.settle(c)
	if f.wake == nil || f.final != nil {
		return
	}
	if f.notice != nil || f.sub.initial.Load() != nil || f.sub.backlog.unread() || c.pending() || !f.sub.source().arm() {
		notify(f.wake)
	}
}

// run is the body of a range. It passes everything that there is to the consumer, and
// waits for more, until the loop exits or the feed ends. If the feed polls, run returns
// where it would wait.
//
// The end of the context comes before anything that is buffered. Then come the notice,
// which counts changes older than those that are left, the initial rows, and the changes.
// f.final is set only when everything that precedes the final error has been delivered,
// because end notifies nobody once it is set.
func (f *feed[K, V]) run(c consumer[K, V]) {
	for f.final == nil {
		if f.ctx.Err() != nil {
			f.finish(c, context.Cause(f.ctx))
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
		switch flushed, more := c.flush(); { // before run waits, or ends with the table
		case !more:
			return
		case flushed:
			continue
		case f.sub.source().drained():
			// If ctx is done, the subscription may have ended before the table did, and
			// then some changes are missing. The error is the context's.
			if f.ctx.Err() == nil {
				f.finish(c, f.sub.table.feedError(ErrTableDropped))
			}
			continue
		}
		if f.polls {
			return
		}
		f.settle(c)
		f.sub.source().wait()
		f.hold()
	}
	c.fail(f.final)
}

// deliverNotice delivers the notice. With [Fail], it makes it the final error. Collected
// changes come before the notice, so it flushes them first.
func (f *feed[K, V]) deliverNotice(c consumer[K, V]) (more bool) {
	if flushed, more := c.flush(); flushed || !more {
		return more // run looks at the context again: the loop may have canceled it
	}
	notice := f.notice
	f.sub.backlog.reportSkipped()
	if f.overflow == Fail {
		f.finish(c, &notice.SkippedError)
		return true
	}
	f.notice = nil
	f.handOutNotice(notice)
	return c.fail(&notice.SkippedError)
}

// deliver passes on the remaining initial rows, the backlog, and the changes that are ready.
func (f *feed[K, V]) deliver(c consumer[K, V]) (more bool) {
	if initial := f.sub.initial.Load(); initial != nil && !f.deliverInitial(initial, c) {
		return false
	}
	if b := f.sub.backlog; b.unread() && !c.drain(b) {
		return false
	}
	return c.drain(f.sub.source()) // nothing if the context is done
}

// deliverInitial passes on the remaining initial rows, and Ready.
func (f *feed[K, V]) deliverInitial(initial *initialRows[K, V], c consumer[K, V]) (more bool) {
	more = f.deliverRows(initial, c)
	if !more || f.ctx.Err() != nil {
		return more
	}
	f.sub.endInitial()
	f.atReady = true
	return c.add(Change[V]{Kind: Ready, Seq: initial.seq})
}

// deliverRows passes on the remaining initial rows. It is a reader of their snapshot, because
// the subscription may end meanwhile.
func (f *feed[K, V]) deliverRows(initial *initialRows[K, V], c consumer[K, V]) (more bool) {
	if snapshot := initial.rows.snapshot; snapshot != nil {
		if !snapshot.retain() {
			return true // the subscription has ended
		}
		defer snapshot.release()
	}
	more = c.addInitial(initial) // those that an earlier range left
	if more && f.ctx.Err() == nil {
		initial.rows.each(func() bool {
			initial.next = 0
			more = c.addInitial(initial)
			return more && f.ctx.Err() == nil
		})
	}
	return more
}

// advance makes the next changes of the source ready. If changes were skipped, it sets
// the notice, and resynchronizes a feed with [Resync]. It returns false if there is
// nothing to read.
func (f *feed[K, V]) advance() bool {
	src := f.sub.source()
	before := src.passed()
	s := src.advance()
	if s.skipped > 0 || s.reset != nil {
		f.notice = f.skipped(0, before, src.passed()) // F1
		f.note(s)
		if f.overflow == Resync {
			f.resync()
		}
	}
	return s.advanced
}

// note adds what was skipped to the notice.
func (f *feed[K, V]) note(s step) {
	f.notice.Count += s.skipped
	if to, ok := s.reset.(*history); ok {
		f.notice.Reset, f.notice.resetTo = true, to
	}
}

// skipped returns the notice of count skipped changes. The gap lies after the change
// numbered before, and reaches to the change numbered to.
func (f *feed[K, V]) skipped(count, before, to uint64) *notice {
	return &notice{SkippedError: SkippedError{Count: count, From: before + 1, To: to, Table: f.sub.table.name, Feed: f.sub.about.feedName()}}
}

// resync makes the feed continue with the present rows. The unread changes are in them,
// so they are skipped, and added to the notice. If the table is dropped, there are no
// rows, and the feed continues as with [Skip]. F2
func (f *feed[K, V]) resync() {
	t := f.sub.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return
	}
	s := f.sub.source().skipAllTableLocked(t.seq)
	if !s.advanced {
		return // the context has ended the subscription
	}
	f.note(s)
	f.notice.To = t.seq
	f.resyncs = true
	f.beginInitialLocked()
	if f.ctx.Err() != nil {
		f.sub.endInitial() // end may have come before
	}
}

// finish ends the feed with a final error, which run delivers. Unread changes are dropped.
func (f *feed[K, V]) finish(c consumer[K, V], err error) {
	f.sub.forget()
	if p := f.sub.progress; p != nil && !f.holds(c) {
		p.holding.Store(false)
	}
	f.final = err
	f.notice = nil
	f.sub.endInitial() // resync may have set it after end cleared it
	f.sub.source().release()
}

// changes is the feed's stream.
func (f *feed[K, V]) changes(yield func(Change[V], error) bool) {
	f.begin()
	c := &each[K, V]{f, yield}
	defer f.end(c)
	f.run(c)
}

// An each is a [consumer] for a loop that receives changes one by one. It collects
// nothing.
type each[K, V any] struct {
	feed  *feed[K, V]
	yield func(Change[V], error) bool
}

func (e *each[K, V]) drain(r reader[V]) bool {
	f := e.feed
	p := f.sub.progress
	switch {
	case !f.keepsAll() || f.sub.squash != nil && p != nil:
		return r.deliver(f.ctx, func(c Change[V], _ error) bool { return e.add(c) })
	case p == nil:
		return r.deliver(f.ctx, e.yield)
	}
	yield, handed := e.yield, &p.epoch.Load().handed
	return r.deliver(f.ctx, func(c Change[V], _ error) bool {
		handed.Store(c.Seq) // what handOut does, without the calls of add (BenchmarkTrack)
		return yield(c, nil)
	})
}

func (e *each[K, V]) add(c Change[V]) bool {
	e.feed.handOut(&c)
	return !e.feed.project(&c) || e.yield(c, nil)
}

func (e *each[K, V]) addInitial(i *initialRows[K, V]) (more bool) {
	for e.feed.ctx.Err() == nil {
		rows := i.take(1)
		if len(rows) == 0 {
			break
		}
		if !e.add(Change[V]{Kind: Initial, New: rows[0]}) {
			return false
		}
	}
	return true
}

func (e *each[K, V]) fail(err error) bool         { return e.yield(Change[V]{}, err) }
func (e *each[K, V]) flush() (flushed, more bool) { return false, true }
func (e *each[K, V]) pending() bool               { return false }

// A feedSet is the set of the subscriptions of a table, or of a [commitSet]. It has a lock of
// its own, because a subscription can end while the table's lock is held. Changes takes the
// set's lock while it holds the table's. The set's lock is therefore held for at most maxListed
// steps (T6).
type feedSet struct {
	mu   sync.Mutex                // a leaf, guards subs
	subs *btree.BTreeG[subscriber] // newest first
}

// A subscriber is a *[subscription] or a *[commitSubscription].
type subscriber interface {
	number() uint64 // in order of subscription
	info() FeedInfo

	end()       // when the context is done
	collected() // when the feed is garbage
	forget()    // when the feed ends by itself
}

// maxListed is the number of subscriptions that are listed before the lock is released.
const maxListed = 64

// feeds is the number of feeds made, of all tables.
var feeds atomic.Uint64

// newFeedTree returns an empty tree of subscriptions, the newest first. A node that fills up keeps its first half and
// its memory, so the nodes that are left behind take no more memory than they need.
func newFeedTree() *btree.BTreeG[subscriber] {
	return btree.NewG(degree, func(a, b subscriber) bool { return a.number() > b.number() })
}

// add stores the next number in *number, and adds s.
func (f *feedSet) add(s subscriber, number *uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*number = feeds.Add(1)
	f.subs.ReplaceOrInsert(s)
}

func (f *feedSet) isEmpty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.subs.Len() == 0
}

// remove reports whether s was in the set.
func (f *feedSet) remove(s subscriber) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.subs.Delete(s)
	return ok
}

// len returns the number of subscriptions.
func (f *feedSet) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.subs.Len()
}

// oldestFirst yields the subscriptions in the order in which they were added. It yields
// every subscription that is in the set during the whole range. The set's lock is not held
// while yield runs.
func (f *feedSet) oldestFirst() iter.Seq[subscriber] {
	return func(yield func(subscriber) bool) {
		var last subscriber
		for list := f.next(last, nil); len(list) > 0; list = f.next(last, list[:0]) {
			for _, last = range list {
				if !yield(last) {
					return
				}
			}
		}
	}
}

// next appends up to maxListed subscriptions that were added after the given one, which may
// have left the set. If after is nil, it begins with the oldest.
func (f *feedSet) next(after subscriber, list []subscriber) []subscriber {
	f.mu.Lock()
	defer f.mu.Unlock()
	add := func(s subscriber) bool {
		if s != after {
			list = append(list, s)
		}
		return len(list) < maxListed
	}
	if after == nil {
		f.subs.Descend(add)
	} else {
		f.subs.DescendLessOrEqual(after, add)
	}
	return list
}

// infos appends the figures of each subscription.
func (f *feedSet) infos(to []FeedInfo) []FeedInfo {
	for s := range f.oldestFirst() {
		to = append(to, s.info())
	}
	return to
}

// A FeedInfo describes the progress of one subscription. It counts the changes that the
// feed reads, which can be more than it yields: see Options in the package documentation.
//
// Delivered + Skipped + Buffered is the number of changes made since the subscription. With
// [After], the table's changes from the position up to the subscription are counted, too, unless
// the feed begins with the present rows in their place: see [Resync].
// Initial rows are not counted: while some of them are still to come, Buffered can be 0, and
// Initial is true. A change counts as delivered as soon as the loop
// receives it. With Batches, it counts when it is collected for a batch. If the context ends
// first, the loop never gets it. The table does not know when a consumer has handled a
// change, so a program that needs to know must record that itself.
//
// In the figures of a feed that has ended, Buffered counts the changes that were discarded.
//
// With [Squash] there is no such sum. Buffered is the number of rows with changes to read,
// and Delivered is the number of squashed changes delivered. Capacity is 0, because there
// is no limit. These figures are not all of one moment.
type FeedInfo struct {
	ID        uint64 // unique in the process, and greater for later feeds
	Name      string // see [Named]
	Initial   bool   // present rows, or Ready, are still to come: see [IncludeInitial]
	Buffered  int    // changes waiting to be read
	Capacity  int    // of the buffer, see [Buffer]
	Delivered uint64 // changes that the loop received, or that the predicate left out

	// Skipped is the number of changes skipped, including those that no [SkippedError]
	// has reported yet. A change that the loop is receiving at that moment may be
	// included.
	Skipped uint64

	// Seq is the sequence number of the last change read, reported as skipped, or made
	// before the subscription. It is 0 with [Commits].
	Seq uint64

	// Lag is how many changes to the table came after Seq, also those that the feed does not
	// read. It is 0 if Buffered is 0, because then the feed has read all of its changes. With
	// [Commits], it is Buffered.
	Lag uint64

	// Selection describes what the feed follows, such as key = 7 or team in ("blue", "red"), and
	// ends with "where" if there is a predicate. It is empty for all rows of a table, and names
	// the tables with [Commits]. It is for people. At most 64 characters of a value are in it.
	Selection string

	Commits  bool          // a feed of [Commits]
	Overflow Overflow      // see [OnOverflow]
	Squash   time.Duration // see [Squash]. With Squash(0), it is 0, and so is Capacity
	Polls    bool          // see [Poll]
}

// String describes the feed and its figures in one line:
//
//	feed 7 "audit" of team = "red" (resync, poll): buffered 3/100, delivered 17, skipped 2, seq 22, lag 5
//
// It omits what is empty, and options that have their default.
func (i FeedInfo) String() string {
	text := fmt.Appendf(nil, "feed %d", i.ID)
	if i.Name != "" {
		text = fmt.Appendf(text, " %q", i.Name)
	}
	if i.Selection != "" {
		text = fmt.Appendf(text, " of %s", i.Selection)
	}
	if options := i.Options(); options != "" {
		text = fmt.Appendf(text, " (%s)", options)
	}
	text = append(text, ": "...)
	if i.Initial {
		text = append(text, "initial rows to come, "...)
	}
	text = fmt.Appendf(text, "buffered %d", i.Buffered)
	if i.Capacity > 0 {
		text = fmt.Appendf(text, "/%d", i.Capacity)
	}
	text = fmt.Appendf(text, ", delivered %d, skipped %d, seq %d, lag %d", i.Delivered, i.Skipped, i.Seq, i.Lag)
	return string(text)
}

// Options describes the options of the feed that do not have their default, apart from its name and
// its buffer, such as "resync, poll". It is for people.
func (i FeedInfo) Options() string {
	var options []string
	if i.Overflow != Skip {
		options = append(options, i.Overflow.String())
	}
	if i.Capacity == 0 {
		options = append(options, "squash "+i.Squash.String())
	}
	if i.Polls {
		options = append(options, "poll")
	}
	return strings.Join(options, ", ")
}

// Feeds returns the figures of each subscription that has not ended, in the order in which
// they were made. Feeds of [Commits] are listed in each of their tables. After a Drop, a
// subscription is listed until its loop has received the final error. After the end of a
// context, it may be listed for a moment. Each FeedInfo is exact, but not all of them are of one
// moment.
//
// Feeds takes linear time in the number of subscriptions. No writer waits that long, because
// Feeds releases its lock after every few subscriptions.
func (t *Table[K, V]) Feeds() []FeedInfo {
	return feedInfos(&t.feeds, t.commitSets())
}

func feedInfos(feeds *feedSet, sets []*commitSet) []FeedInfo {
	infos := feeds.infos([]FeedInfo{})
	for _, s := range sets {
		infos = s.feeds.infos(infos)
	}
	slices.SortFunc(infos, func(a, b FeedInfo) int { return cmp.Compare(a.ID, b.ID) })
	return infos
}

// subscriptions yields the subscriptions of the table: see [feedSet.oldestFirst].
func (t *Table[K, V]) subscriptions() iter.Seq[*subscription[K, V]] {
	return func(yield func(*subscription[K, V]) bool) {
		for s := range t.feeds.oldestFirst() {
			if !yield(s.(*subscription[K, V])) {
				return
			}
		}
	}
}

func (s *subscription[K, V]) info() FeedInfo {
	published := s.table.history.Load().published.Load() // before the feed reads on
	b, u := s.backlog.usage(), s.source().usage()
	for again := s.backlog.usage(); again != b; again = s.backlog.usage() {
		b, u = again, s.source().usage() // so that both are of one moment
	}
	if p := s.progress; p != nil {
		if last := p.last.Load(); last != nil { // stored before the source was closed
			return *last
		}
	}
	if s.backlog != nil && b.passed < s.backlog.to {
		u.passed = b.passed
	}
	u.buffered += b.buffered
	u.delivered += b.delivered
	u.skipped += b.skipped
	info := u.info(s.id, s.initial.Load() != nil)
	if info.Buffered > 0 && info.Seq < published {
		info.Lag = max(info.Lag, published-info.Seq)
	}
	s.about.addTo(&info, s.part.String())
	if s.squash != nil {
		info.Squash = s.squash.delay
	}
	return info
}

// info returns the figures of a feed, of which initial rows are to come or not.
func (u usage) info(id uint64, initial bool) FeedInfo {
	return FeedInfo{
		ID:        id,
		Initial:   initial,
		Buffered:  int(u.buffered),
		Capacity:  int(min(u.limit, math.MaxInt)),
		Delivered: u.delivered,
		Skipped:   u.skipped,
		Seq:       u.passed,
		Lag:       u.buffered,
	}
}
