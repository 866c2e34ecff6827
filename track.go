package changefeed

import (
	"math"
	"sync/atomic"
)

// A Feed gives access to a feed while a loop reads its stream: see [Track]. Its methods are for
// any goroutine, and do not take the table's lock. A zero Feed is ready to be passed to Track. A
// Feed must not be copied.
type Feed struct{ tracked atomic.Pointer[trackedFeed] }

// A trackedFeed is a *subscription[K, V].
type trackedFeed interface {
	position() Position
	info() FeedInfo
}

// Track makes f give access to the feed. If f is passed to several feeds, it gives access to
// the one that was made last. If that one is refused, because of its options or because the table
// is dropped, f gives access to none. Track panics if f is nil.
//
// A Feed takes no part in the feed's life: the feed ends as it does without one, and its last
// position and figures remain. A Feed keeps the table in memory.
func Track(f *Feed) FeedOption {
	if f == nil {
		panic("changefeed: Track: nil Feed; pass the address of a variable")
	}
	return func(c *feedConfig) { c.track = f }
}

// Position returns the position to save, from which [After] resumes the feed. A program that
// keeps a copy of the rows saves both together.
//
// Everything up to the position was handed to the loop, or reported as skipped. It includes the
// element that the loop's body is handling. So a program saves the position in the body, after
// it has handled the element, or after the loop. A batch is an element, and so is a set of
// [Squash]: within the set, the position is that before it. A change for which the predicate of
// a selection does not hold counts as handed to the loop.
//
// While the loop waits and nothing is unread, the position is the table's, however long ago the
// last change of the selection was.
//
// Position returns the zero Position while there is none: before [Ready], and from the
// SkippedError of [Resync] to the next Ready. Before the first SkippedError of a feed that cannot
// resume, it is the position that After was given, unless that is not in the table's history.
// With [Fail], the position stays before the gap. Otherwise a position never goes back.
func (f *Feed) Position() Position {
	if s := f.tracked.Load(); s != nil {
		return (*s).position()
	}
	return Position{}
}

// Info returns the figures of the feed: see [Table.Feeds]. After the end of the feed, they are
// those of its end, and may lack a change that the loop was receiving then. Before the feed, they
// are zero.
func (f *Feed) Info() FeedInfo {
	if s := f.tracked.Load(); s != nil {
		return (*s).info()
	}
	return FeedInfo{}
}

// A progress is how far the loop of a tracked feed has come.
//
// The feed's goroutine moves handed. While the loop waits or has ended, everything that was read
// has been handed to the loop. Then position moves handed, too, to the last change of the table
// if nothing is unread. holding keeps it from doing so at other times.
type progress struct {
	epoch   atomic.Pointer[epoch]
	holding atomic.Bool // the loop runs, or something was read that the loop does not have

	// When the feed ended: its figures, and if nothing was unread, the table's last change.
	last  atomic.Pointer[FeedInfo]
	atEnd atomic.Uint64
}

// An epoch is the part of a progress from the beginning of the feed, or the notice of a Reset, to
// the next such notice. Each has a history of its own.
type epoch struct {
	history *history
	handed  atomic.Uint64 // everything up to this change was handed to the loop, or noPosition
}

// noPosition is the value of epoch.handed before Ready.
const noPosition = math.MaxUint64

// raise moves handed to seq, unless it is there already or there is no position.
func (e *epoch) raise(seq uint64) {
	for {
		was := e.handed.Load()
		if was >= seq || e.handed.CompareAndSwap(was, seq) {
			return
		}
	}
}

// begin begins an epoch.
func (p *progress) begin(h *history, handed uint64) {
	e := &epoch{history: h}
	e.handed.Store(handed)
	p.epoch.Store(e)
}

// position is [Feed.Position]. The order of the loads makes it sound. A change is in the source
// before it is in published. The loop holds a change before the change leaves the source.
func (s *subscription[K, V]) position() Position {
	p := s.progress
	e := p.epoch.Load()
	seq := e.history.published.Load()
	if !s.caughtUp() {
		seq = p.atEnd.Load()
	}
	if !p.holding.Load() {
		e.raise(seq)
	}
	if seq = e.handed.Load(); seq == noPosition {
		return Position{}
	}
	return e.history.position(seq)
}

// newProgress returns the progress of a feed that begins after the change numbered begin.
func (f *feed[K, V]) newProgress(begin uint64) *progress {
	p := new(progress)
	p.holding.Store(f.notice != nil)
	if f.sub.initial.Load() != nil && (!f.resyncs || begin == 0) {
		begin = noPosition // the position of After is none, if there is one
	}
	p.begin(f.sub.table.history.Load(), begin)
	return p
}

// caughtUp reports whether everything that was published has been read, in a subscription that
// has not ended.
func (s *subscription[K, V]) caughtUp() bool { return !s.backlog.unread() && s.source().caughtUp() }

// hold is called before a loop of a tracked feed reads anything.
func (f *feed[K, V]) hold() {
	if p := f.sub.progress; p != nil {
		p.holding.Store(true)
	}
}

// settle is called when the loop waits or exits.
func (f *feed[K, V]) settle(c consumer[K, V]) {
	if p := f.sub.progress; p != nil && f.final == nil && !f.holds(c) {
		p.epoch.Load().raise(f.readUpTo())
		p.holding.Store(false)
	}
}

// holds reports whether something was read that the loop does not have.
func (f *feed[K, V]) holds(c consumer[K, V]) bool {
	return f.notice != nil || c.pending() || f.sub.squash != nil && len(f.sub.squash.set) > 0
}

// handOut is called before the loop gets c, which was read last. The predicate may not have seen
// c yet.
func (f *feed[K, V]) handOut(c *Change[V]) {
	switch p := f.sub.progress; {
	case p == nil || c.Kind == Initial:
	case c.Kind == Ready || f.sub.squash != nil:
		f.handOutAll(c.Seq)
	default:
		p.epoch.Load().handed.Store(c.Seq)
	}
}

// handOutAll is called before the loop gets the last of everything that was read, which is the
// change numbered last, or nothing. A notice that is to be delivered next comes after it.
func (f *feed[K, V]) handOutAll(last uint64) {
	p := f.sub.progress
	if p == nil {
		return
	}
	seq := f.readUpTo()
	if f.sub.squash == nil {
		seq = max(seq, last) // a window that the end of the context has closed returns less
	}
	if f.atReady {
		f.atReady = false
		p.epoch.Load().handed.Store(seq)
		return
	}
	p.epoch.Load().raise(seq)
}

// handOutNotice is called before the loop gets a notice, after which it continues.
func (f *feed[K, V]) handOutNotice(n *notice) {
	switch p := f.sub.progress; {
	case p == nil:
	case f.resyncs && n.resetTo != nil:
		p.begin(n.resetTo, noPosition)
	case f.resyncs:
		p.epoch.Load().handed.Store(noPosition)
	case n.resetTo != nil:
		p.begin(n.resetTo, n.To)
	default:
		p.epoch.Load().raise(n.To)
	}
	f.resyncs = false
}

// readUpTo returns the last sequence number up to which everything was read.
func (f *feed[K, V]) readUpTo() uint64 {
	switch b := f.sub.backlog; {
	case f.notice != nil:
		return f.notice.From - 1
	case b != nil && b.read.Load() < b.to: // also if the end of the context has closed it
		return b.read.Load()
	case f.sub.squash != nil:
		return f.sub.squash.complete()
	default:
		return f.sub.source().passed()
	}
}
