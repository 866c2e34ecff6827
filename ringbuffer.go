package changefeed

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
)

// Pages start small, so that a ring which sees few elements costs little (there is
// one for each row that is followed), and double up to maxPage. At 256 slots the
// mutex that a reader takes once a page no longer shows: pages of 64 cost 1.6 times as
// much with 1,000 readers, pages of 512 gain nothing (BenchmarkFanOut).
const (
	minPage = 4
	maxPage = 256
)

// maxTold is how many windows that poll are told by the append itself.
const maxTold = 8

// A ring keeps a sequence of elements for any number of readers, each of which
// sees a bounded ring buffer of its own. What they see is stored once: elements
// lie in pages, in slots that are not written any more once they are published, and a
// reader is a [window] on them, that is a position, a limit and a count of what it
// lost. To append, that is to put and publish, therefore costs the same whatever the
// number of readers, and readers that stalled at one place hold what one of them holds.
//
// Elements are numbered by position, from 0. The end is the position of the next
// element; a slot is written before the end passes it, and read only below the
// end, so that reading takes no lock:
//
//	R1  A slot that the ring's end covers is not written any more; only such a slot is
//	    read.
//	R2  appended = delivered + skipped + buffered, for every window, at any time.
//	R3  To within a page of maxPage, the ring holds what some window may still read
//	    or retain asks for, and nothing else, whatever the windows' limits; a stalled
//	    window pins one page.
//
// Pages do not point to each other, or a stalled window would hold all that came
// after the page it stands on. The ring keeps a directory of them instead. Each
// page counts the windows that stand on it, by limit. The oldest one is dropped as soon
// as no window on it, or on one dropped earlier, may still read it: the next read of such
// a window jumps over it in any case. Windows stay on a dropped page until that read, and
// the ring counts the dropped pages by the largest limit on each. To drop a page therefore
// moves no window, however many there are.
//
// Elements are put behind the end one by one and published together, so that a reader
// sees all of them or none, or are taken back. What was published together is joined.
//
// The calls of open, put, publish, takeBack, begin, hold, skipAll and close must not
// overlap; everything else may be called at any time. mu is a leaf: it is held for a
// few steps of the ring's own, never while a user's code runs. A reader takes it at a
// page's end, when it has fallen too far behind, and to wait; put takes it to add a
// page, publish for several elements, takeBack always, and wake when somebody waits.
//
// The zero value is an empty ring without readers.
type ring[T any] struct {
	end     atomic.Uint64           // of what is published
	tail    atomic.Pointer[page[T]] // the page that is being filled; nil: nothing is kept
	parked  atomic.Int64            // length of queue; changes under mu
	closed  atomic.Uint64           // one more than the end, which is final then; 0: elements may still come
	windows int32                   // open ones; guarded by mu
	next    uint64                  // position of the next element to put; the writer's
	number  func(v T) uint64        // the owner's number of an element; nil: its position + 1

	mu       sync.Mutex // guards what follows, and standing of each page
	pages    []*page[T] // the directory, oldest first; the last is tail
	behind   *tally     // the dropped pages on which windows stand, by the largest limit on each; nil: none
	retain   uint64     // how many of the newest elements are kept for windows to come
	heldFrom uint64     // the first position that retain is about
	queue    queue[T]   // windows that wait
}

// A page holds the elements at the positions from first up to, not including, end.
type page[T any] struct {
	first    uint64
	slots    []T
	standing tally // the windows that stand here; guarded by ring.mu
	joints   atomic.Pointer[joints]
}

// joints has a bit for each slot of a page: whether the element is joined to the
// next one.
type joints [maxPage / 64]atomic.Uint64

// join joins the elements in the slots from i on, and before n, each to the next.
func (p *page[T]) join(i, n uint64) {
	bits := p.joints.Load()
	if bits == nil {
		bits = new(joints)
		p.joints.Store(bits)
	}
	for i < n {
		run := min(n-i, 64-i%64)
		bits[i/64].Or(^uint64(0) >> (64 - run) << (i % 64))
		i += run
	}
}

// joined reports whether the element in slot i is joined to the next one.
func (p *page[T]) joined(i uint64) bool {
	bits := p.joints.Load()
	return bits != nil && bits[i/64].Load()&(1<<(i%64)) != 0
}

// end returns the position after the page's last slot.
func (p *page[T]) end() uint64 { return p.first + uint64(len(p.slots)) }

// put adds v at the end, where nobody sees it before it is published. If nothing
// is kept, it does nothing. It never waits for a reader.
func (r *ring[T]) put(v T) {
	p := r.tail.Load()
	if p == nil {
		return
	}
	if r.next == p.end() {
		if p = r.grow(); p == nil {
			return
		}
	}
	p.slots[r.next-p.first] = v
	r.next++
}

// publish shows readers what was put since the last call. The caller calls wake
// afterwards, when it holds no lock.
func (r *ring[T]) publish() {
	end := r.end.Load()
	if r.next-end > 1 {
		r.publishJoined(end)
		return
	}
	r.end.Store(r.next) // R1: after the slot, for readers take no lock
}

func (r *ring[T]) publishJoined(end uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range slices.Backward(r.pages) {
		if p.end() <= end {
			break
		}
		p.join(max(end, p.first)-p.first, min(r.next-1, p.end())-p.first)
	}
	r.end.Store(r.next) // R1
	r.trimLocked()
}

// unpublished reports whether something was put that is not published.
func (r *ring[T]) unpublished() bool { return r.next != r.end.Load() }

// takeBack forgets what was put and not published.
func (r *ring[T]) takeBack() {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.end.Load()
	for last := len(r.pages) - 1; last >= 0; last-- {
		p := r.pages[last]
		if p.first <= end {
			clear(p.slots[end-p.first : min(r.next, p.end())-p.first])
			r.tail.Store(p)
			break
		}
		r.pages[last] = nil // no window stands on what was never published
		r.pages = r.pages[:last]
	}
	r.next = end
}

// grow adds a page for the next element, unless nothing is kept any more.
func (r *ring[T]) grow() *page[T] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tail.Load() == nil {
		return nil
	}
	return r.addPageLocked(r.next)
}

func (r *ring[T]) addPageLocked(first uint64) *page[T] {
	size := minPage
	if tail := r.tail.Load(); tail != nil {
		size = min(2*len(tail.slots), maxPage)
	}
	p := &page[T]{first: first, slots: make([]T, size)}
	r.pages = append(r.pages, p)
	r.tail.Store(p)
	r.trimLocked()
	return p
}

// close ends the ring: readers get what is still buffered, and then nothing more.
// The caller calls wake afterwards.
func (r *ring[T]) close() { r.closed.Store(r.end.Load() + 1) }

// isClosed reports whether close was called.
func (r *ring[T]) isClosed() bool { return r.closed.Load() > 0 }

// begin makes pos the position of the next element, unless something is kept.
func (r *ring[T]) begin(pos uint64) {
	if r.tail.Load() == nil {
		r.next = pos
		r.end.Store(pos)
	}
}

// hold keeps the newest n of the elements that come from here on for windows that
// open later, and of those that an earlier call kept.
func (r *ring[T]) hold(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heldFrom = r.heldLocked()
	r.retain = n
	if n > 0 && r.tail.Load() == nil {
		r.addPageLocked(r.end.Load())
		return
	}
	r.trimLocked()
}

// heldLocked returns the first position of the elements that retain asks for.
func (r *ring[T]) heldLocked() uint64 {
	end := r.end.Load()
	return max(end-min(end, r.retain), min(end, r.heldFrom))
}

// open makes w a window on the elements from here on, of which it buffers at most
// limit. What w.base is then, w has passed.
func (r *ring[T]) open(w *window[T], limit uint64) { r.openAt(w, limit, r.end.Load()) }

// openAt makes w a window on the elements from pos on: on those that hold has kept,
// after a gap for the others. It stands on a page from the start, so that a ring has
// a tail for as long as it has a window.
func (r *ring[T]) openAt(w *window[T], limit, pos uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows++
	end := r.end.Load()
	p := r.tail.Load()
	if p == nil || p.end() == end {
		p = r.addPageLocked(end)
	}
	w.ring, w.limit, w.start = r, limit, pos
	w.floor = max(pos, r.heldLocked())
	w.jumped = pos
	w.pos.Store(pos)
	if w.floor < p.first {
		p = r.findLocked(w.floor)
	}
	w.standLocked(p)
}

// findLocked returns the page that holds pos, which must be held.
func (r *ring[T]) findLocked(pos uint64) *page[T] {
	i, found := slices.BinarySearchFunc(r.pages, pos, func(p *page[T], pos uint64) int {
		return cmp.Compare(p.first, pos)
	})
	if !found {
		i--
	}
	return r.pages[i]
}

// trimLocked drops the oldest pages that no window may still read.
func (r *ring[T]) trimLocked() { // R3
	if r.windows == 0 && r.retain == 0 {
		r.pages, r.behind = nil, nil
		r.tail.Store(nil)
		return
	}
	end, held := r.end.Load(), r.heldLocked()
	for len(r.pages) > 1 { // the tail is always needed
		oldest := r.pages[0]
		limit := oldest.standing.largest()
		if oldest.end() > held || max(limit, r.behind.largest()) > end-oldest.end() {
			return
		}
		r.countBehindLocked(limit, 1)
		r.pages[0] = nil // the array behind the directory outlives its first element
		r.pages = r.pages[1:]
	}
}

// countLocked counts one window more of that limit on p, or one less if n is -1.
func (r *ring[T]) countLocked(p *page[T], limit uint64, n int) {
	dropped := p.first < r.pages[0].first
	if dropped {
		r.countBehindLocked(p.standing.largest(), -1)
	}
	p.standing.add(limit, n)
	if dropped {
		r.countBehindLocked(p.standing.largest(), 1)
	}
}

// countBehindLocked counts a dropped page by the largest limit on it, unless no window
// stands on it.
func (r *ring[T]) countBehindLocked(limit uint64, n int) {
	if limit == 0 {
		return
	}
	if r.behind == nil {
		r.behind = new(tally)
	}
	r.behind.add(limit, n)
}

// wake wakes up to n of the windows that wait although there is something for
// them to read.
//
// Whoever appends wakes one, and each window that was woken wakes two more before
// it does anything else, so that an append pays for one, whatever the crowd, and
// a crowd wakes in the logarithm of its number of turns (BenchmarkParked). None is
// forgotten: the queue is in order of position, for a window enters it when it has
// read to the end and the end only grows. So if the first in the queue has nothing
// to read, none has; and if it has, it is taken off and answers for those behind
// it.
//
// A window that polls does not run when it is told, so it answers for none and does
// not count. If many of them wait, a goroutine tells the rest, so that an append pays
// for a few, whatever the crowd (BenchmarkPoll).
func (r *ring[T]) wake(n int) {
	if left := r.wakeSome(n, maxTold); left > 0 {
		go r.wakeSome(left, math.MaxInt)
	}
}

// wakeSome wakes up to n windows, and tells less than max that poll. If there may be
// more to tell, it returns how many are left to wake.
func (r *ring[T]) wakeSome(n, max int) (left int) {
	for told := 0; n > 0 && told < max; {
		w := r.takeParked()
		if w == nil {
			return 0
		}
		w.signal()
		if w.polls() {
			told++
		} else {
			n--
		}
	}
	return n
}

// takeParked takes the window that has waited longest off the queue, if there is
// something for it to read. The caller owes it a send.
func (r *ring[T]) takeParked() *window[T] {
	// An append stores the end before it looks here, and a window enters the queue
	// before it looks at the end: one of the two sees the other.
	if r.parked.Load() == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.queue.front
	if w == nil || !w.readyLocked() {
		return nil
	}
	w.leaveQueueLocked()
	return w
}

// A window is one reader's bounded ring buffer: the newest limit elements at most
// of those that came after it was opened and that it has not read. close and usage
// are for any goroutine, the other methods for one at a time.
type window[T any] struct {
	ring   *ring[T]
	limit  uint64                  // changes under ring.mu
	start  uint64                  // position when it was opened
	floor  uint64                  // the first position that was held then
	pos    atomic.Uint64           // of the next element to read
	lost   atomic.Uint64           // elements skipped and told; changes under ring.mu
	page   atomic.Pointer[page[T]] // where it stands; changes under ring.mu; nil: closed
	wakeup chan struct{}           // gets one value for each time another takes it off the queue; nil until it waits
	notify chan<- struct{}         // in place of wakeup, for a window that polls

	// Where it was put other than by reading, and the number that it has passed
	// there; change under ring.mu.
	jumped, base uint64

	// The place in ring.queue; guarded by ring.mu.
	queued     bool
	prev, next *window[T]
}

// deliver hands the oldest unread elements to yield, with a nil error, without
// taking a lock. It leaves off where there is something else to see to, which read
// does: the next element is not there, lies on another page, or was dropped. It
// also leaves off when ctx is done, at which it looks before each element, and
// when yield returns false; only then it returns false.
//
// An element counts as read when yield is called. This loop is what a reader costs
// (BenchmarkDrain, BenchmarkFanOut), so what cannot change meanwhile is not loaded
// for each element: a method that returns one takes 1.2 times as long.
func (w *window[T]) deliver(ctx context.Context, yield func(T, error) bool) bool {
	p := w.page.Load()
	if p == nil || w.pos.Load() < w.floor {
		return true
	}
	end, limit := &w.ring.end, w.limit
	for pos := w.pos.Load(); ; {
		// One comparison for both: nothing unread wraps around to the largest number.
		// ctx comes after the end (R1): when it is done, w may be closed, and once no
		// window is open the ring begins anew on other pages, so that the end no longer
		// tells what is written on p.
		i := pos - p.first
		if end.Load()-pos-1 >= limit || i >= uint64(len(p.slots)) || ctx.Err() != nil {
			break
		}
		pos++
		w.pos.Store(pos)
		if !yield(p.slots[i], nil) {
			return false
		}
	}
	return true
}

// take appends the oldest unread elements to a slice, without taking a lock: at most n,
// and those to which the last of them is joined. It leaves off where deliver does, and
// takes nothing when ctx is done. It costs a few steps and the copying, so it is for
// who takes many at a time (BenchmarkFanOut).
func (w *window[T]) take(ctx context.Context, to []T, n int) []T {
	p, pos := w.page.Load(), w.pos.Load()
	if p == nil || pos < w.floor {
		return to
	}
	unread, i := w.ring.end.Load()-pos, pos-p.first
	if unread-1 >= w.limit || i >= uint64(len(p.slots)) || ctx.Err() != nil { // as in deliver
		return to
	}
	j := i + min(unread, uint64(n), uint64(len(p.slots))-i)
	for end := min(i+unread, uint64(len(p.slots))); j < end && p.joined(j-1); j++ {
	}
	to = append(to, p.slots[i:j]...)
	w.pos.Store(p.first + j)
	return to
}

// read returns the oldest element that was not read, with ok.
//
// If elements were dropped before it, read returns the number of those first, with
// ok false. If there is nothing to read, it returns 0 and false.
func (w *window[T]) read() (v T, skipped uint64, ok bool) {
	r, pos := w.ring, w.pos.Load()
	if r.end.Load() == pos {
		return v, 0, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return v, 0, false
	}
	end := r.end.Load()
	if oldest := max(w.floor, end-min(end, w.limit)); pos < oldest {
		skipped = oldest - pos
		pos = oldest
		w.lost.Add(skipped) // R2: with pos, under mu
		w.pos.Store(pos)
		w.jumped = pos
		if pos == end { // nothing was held when w was opened, nor came since
			return v, skipped, false
		}
	}
	p := r.findLocked(pos)
	w.moveLocked(p)
	next := p.slots[pos-p.first]
	if skipped > 0 {
		if r.number != nil {
			w.base = r.number(next) - 1
		}
		return v, skipped, false
	}
	w.pos.Store(pos + 1)
	return next, 0, true
}

// passed returns the number of the last element that was read, or the last one
// before the next if others were skipped, or w.base as it was when w was opened.
func (w *window[T]) passed() uint64 { return w.passedAt(w.pos.Load()) }

func (w *window[T]) passedAt(pos uint64) uint64 {
	switch p := w.page.Load(); {
	case w.ring.number == nil:
		return pos
	case pos == w.jumped || p == nil:
		return w.base
	default:
		return w.ring.number(p.slots[pos-1-p.first])
	}
}

// joined reports whether the element read last was published together with the one
// after it.
func (w *window[T]) joined() bool {
	p, pos := w.page.Load(), w.pos.Load()
	if p == nil || pos == w.jumped {
		return false
	}
	return p.joined(pos - 1 - p.first)
}

// skipAll makes base the number that w has passed, and leaves out what it has not
// read, of which it returns the number. It does nothing if w is closed.
func (w *window[T]) skipAll(base uint64) (skipped uint64, open bool) {
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return 0, false
	}
	end := r.end.Load()
	skipped = end - w.pos.Load()
	w.lost.Add(skipped) // R2: with pos, under mu
	w.pos.Store(end)
	w.jumped, w.base = end, base
	w.moveLocked(r.pages[len(r.pages)-1])
	return skipped, true
}

// setLimit changes the limit.
func (w *window[T]) setLimit(limit uint64) {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	if p := w.page.Load(); p != nil {
		w.ring.countLocked(p, w.limit, -1)
		w.ring.countLocked(p, limit, 1)
		w.limit = limit
		w.ring.trimLocked()
	}
}

// moveLocked makes p, which is held, the page on which w stands.
func (w *window[T]) moveLocked(p *page[T]) {
	if p != w.page.Load() {
		w.unstandLocked()
		w.standLocked(p)
		w.ring.trimLocked()
	}
}

// drained reports whether the ring is closed and w has read all of it. One load tells
// both, so that no element can come between the two.
func (w *window[T]) drained() bool { return w.ring.closed.Load() == w.pos.Load()+1 }

// wait returns when there is something to read, or the ring or w is closed; at
// once if that is so already. No wake-up is lost (F3): the window is in the queue
// before it looks for the last time.
func (w *window[T]) wait() {
	if w.park() {
		<-w.wakeup
		w.ring.wake(2)
	}
}

// park puts w into the queue, unless there is no need to wait.
func (w *window[T]) park() bool {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	w.enterQueueLocked()
	return w.stayLocked()
}

// stayLocked reports whether w is to wait in the queue that it is in, and else takes it
// off again.
func (w *window[T]) stayLocked() bool {
	if !w.readyLocked() {
		return true
	}
	w.leaveQueueLocked()
	return false
}

// unpark takes w, which polls, off the queue if it is still there.
func (w *window[T]) unpark() {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	if w.queued {
		w.leaveQueueLocked()
	}
}

// polls reports whether w does not run while it is in the queue, but is told.
func (w *window[T]) polls() bool { return w.notify != nil }

// signal tells w, which was taken off the queue, that it need not wait.
func (w *window[T]) signal() {
	if w.polls() {
		tell(w.notify)
	} else {
		w.wakeup <- struct{}{}
	}
}

// tell sends one value, unless there is no room for it.
func tell(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// readyLocked reports whether w need not wait.
func (w *window[T]) readyLocked() bool {
	return w.page.Load() == nil || w.ring.end.Load() != w.pos.Load() || w.ring.isClosed()
}

// close gives up the window: it holds nothing any more, its reads find nothing,
// and if it waits it is woken. To close it again does nothing.
func (w *window[T]) close() {
	if w.closeAndUnpark() {
		w.signal()
	}
}

// closeAndUnpark reports whether w was waiting: it is owed a send then.
func (w *window[T]) closeAndUnpark() (parked bool) {
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return false
	}
	w.unstandLocked()
	r.windows--
	r.trimLocked()
	if w.queued {
		w.leaveQueueLocked()
		return true
	}
	return false
}

// standLocked makes p the page on which w stands.
func (w *window[T]) standLocked(p *page[T]) {
	w.page.Store(p)
	w.ring.countLocked(p, w.limit, 1)
}

// unstandLocked takes w off its page.
func (w *window[T]) unstandLocked() {
	w.ring.countLocked(w.page.Load(), w.limit, -1)
	w.page.Store(nil)
}

// A usage tells what became of the elements appended since a window was opened.
type usage struct {
	passed, limit                uint64 // see window
	delivered, skipped, buffered uint64
}

// usage is exact at one moment during the call. R2
//
// A reader moves pos without mu, so the end counts only if pos was the same before
// and after it was loaded. That comes about soon: at a page's end the reader needs mu.
func (w *window[T]) usage() usage {
	w.ring.mu.Lock() // so that pos and lost are of one moment
	defer w.ring.mu.Unlock()
	pos, end := w.pos.Load(), w.ring.end.Load()
	for now := w.pos.Load(); now != pos; now = w.pos.Load() {
		pos, end = now, w.ring.end.Load()
	}
	u := usage{passed: w.passedAt(pos), limit: w.limit, skipped: w.lost.Load()}
	u.delivered = pos - w.start - u.skipped
	u.buffered = min(end-max(pos, w.floor), w.limit)
	u.skipped += end - pos - u.buffered
	return u
}

// A queue is a list of the windows that wait, in order of arrival. Its links are
// in the windows, so that waiting allocates nothing and one that is cancelled
// leaves at once, from the middle.
type queue[T any] struct{ front, back *window[T] }

func (w *window[T]) enterQueueLocked() {
	if w.wakeup == nil && !w.polls() {
		w.wakeup = make(chan struct{}, 1)
	}
	q := &w.ring.queue
	w.queued, w.prev = true, q.back
	if q.back == nil {
		q.front = w
	} else {
		q.back.next = w
	}
	q.back = w
	w.ring.parked.Add(1)
}

func (w *window[T]) leaveQueueLocked() {
	q := &w.ring.queue
	if w.prev == nil {
		q.front = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.back = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.queued, w.prev, w.next = false, nil, nil
	w.ring.parked.Add(-1)
}

// A tally counts windows by their limits. They have one limit as a rule, which costs no
// allocation. However many others there are, to count a window takes the logarithm of
// their number, for the ring's mutex is held meanwhile.
type tally struct {
	one  limitCount                // of no limit if its count is 0
	rest *btree.BTreeG[limitCount] // the others, and those that came to one's limit before one did; nil: none
}

type limitCount struct {
	limit uint64
	count int
}

// largest returns the largest limit counted, or 0; also of a nil tally.
func (t *tally) largest() (limit uint64) {
	if t == nil {
		return 0
	}
	if t.one.count > 0 {
		limit = t.one.limit
	}
	if t.rest != nil {
		last, _ := t.rest.Max()
		limit = max(limit, last.limit)
	}
	return limit
}

// add counts one window more of that limit, or one less if n is -1.
func (t *tally) add(limit uint64, n int) {
	switch one := &t.one; {
	case one.count == 0 && n > 0:
		*one = limitCount{limit, n}
	case one.count > 0 && one.limit == limit:
		one.count += n
	default:
		t.addToRest(limit, n)
	}
}

func (t *tally) addToRest(limit uint64, n int) {
	if t.rest == nil {
		t.rest = btree.NewWithFreeListG(degree, func(a, b limitCount) bool { return a.limit < b.limit }, btree.NewFreeListG[limitCount](0))
	}
	c, _ := t.rest.Get(limitCount{limit: limit})
	c = limitCount{limit, c.count + n}
	if c.count > 0 {
		t.rest.ReplaceOrInsert(c)
		return
	}
	t.rest.Delete(c)
	if t.rest.Len() == 0 {
		t.rest = nil
	}
}
