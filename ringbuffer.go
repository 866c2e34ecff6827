package changefeed

import (
	"cmp"
	"context"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
)

// Pages start small, so that a ring which sees few elements costs little: there is a ring
// for each row that is followed. They double up to maxPage. At 256 slots, the mutex that a
// reader takes once a page no longer shows. Pages of 64 take 1.6x as long with 1,000
// readers, and pages of 512 gain nothing (BenchmarkFanOut).
const (
	minPage = 4
	maxPage = 256
)

// A ring stores a sequence of elements for any number of readers, each of which sees a
// bounded ring buffer of its own. The elements are stored once, in the slots of pages. A
// slot is not written again after its element is published. A reader is a [window] on the
// pages: a position, a limit, and a count of skipped elements. Appending, which is to put
// and publish, therefore costs the same for any number of readers. Readers that stalled at
// one place retain what one of them retains.
//
// Elements are numbered by position, from 0. The end is the position of the next element
// to be published. A slot is written before the end passes it, and read only below the
// end, so reading takes no lock:
//
//	R1  A slot below the ring's end is not written again. Only such slots are read.
//	R2  appended = delivered + skipped + buffered, for every window, at any time.
//	R3  To within a page of maxPage, the ring retains the elements that some window may
//	    still read or that retain asks for, and nothing else, whatever the windows'
//	    limits. A stalled window pins one page.
//
// Pages do not point to each other, because a stalled window would then retain all pages
// after its own. The ring has a directory of pages instead. Each page counts the windows
// that pin it, by limit. The oldest page is dropped as soon as no window on it, or on a
// page that was dropped earlier, may still read it. The next read of such a window jumps
// over the page in any case. Windows stay on a dropped page until that read, and the ring
// counts the dropped pages by the largest limit on each. Dropping a page therefore moves
// no window, however many there are.
//
// Elements are put behind the end one by one and then published together, so that a reader
// sees all of them or none. They can also be discarded. An element continues if the next
// one was published together with it.
//
// Methods whose names end in TableLocked must not overlap. Their callers hold the lock of
// the table that owns the ring. The ring of a [commitSet] belongs to several tables. A commit
// holds the set's mu and the lock of at least one of them, and a subscriber holds the locks of
// all. All other methods may be called at any time. mu is a leaf:
// it is held for a few steps, and never while a user's function runs. A reader takes it at
// the end of a page, when it has fallen too far behind, and to wait. put takes it to add a
// page, publish takes it for several elements, discard takes it always, and wake takes it
// if somebody waits.
//
// The order of the fields is for cache lines of 64 bytes. The writer uses the one with next, and a
// reader that waits the one with closed and mu. In another order, a write that wakes a hundred loops
// took up to 1.3x as long (BenchmarkTransact).
//
// The zero value is an empty ring without readers.
type ring[T any] struct {
	// Seldom used. The last three change under mu.
	seqOf     func(v T) uint64 // returns the sequence number of an element (nil: its position + 1)
	behind    *tally           // the dropped pages that windows pin, by the largest limit on each (nil: none)
	retention *retention       // the elements to keep for later windows (nil: none)
	reset     *ringReset       // the last reset (nil: there was none)

	// The writer's: see TableLocked.
	next uint64 // position of the next element to put

	// Shared by the writer and by readers without a lock.
	end    atomic.Uint64           // of the published elements
	tail   atomic.Pointer[page[T]] // the page that is being filled (nil: no element is kept)
	parked atomic.Int32            // length of queue, changes under mu
	waker  atomic.Uint32           // the state of the goroutine of wakeAll
	closed atomic.Uint64           // one more than the final end (0: elements may still come)

	mu      sync.Mutex // guards what follows, and pins of each page
	windows int32      // open ones
	whole   bool       // windows that skip an element of a transaction skip all of it; set before the first one opens
	pages   []*page[T] // the directory, oldest first, up to tail
	queue   queue[T]   // windows that wait
}

// A retention says which elements a ring keeps for later windows: the newest n of those from a
// position on.
type retention struct{ n, from uint64 }

// A ringReset is the last reset of a ring. A window that is before pos continues at pos.
type ringReset struct {
	pos    uint64
	seq    uint64 // the sequence number that a window has passed at pos
	marker any    // step.reset of the windows that were before pos, not nil
}

// resetGap is the number of positions that a reset adds, with and without elements. It is greater
// than any limit of a window, so that the unread elements of each window are dropped. The
// positions last for a million resets.
const resetGap = 1 << 44

// A page holds the elements at the positions from first up to, not including, end.
type page[T any] struct {
	first         uint64
	slots         []T
	pins          tally                    // counts the windows here, guarded by ring.mu
	continuesBits atomic.Pointer[slotBits] // nil: no element continues or is continued
}

// A slotBits says which elements of a page belong together.
type slotBits struct {
	continues [maxPage / 64]atomic.Uint64 // a bit for each slot
	continued bool                        // the last element of the page before continues, guarded by ring.mu
}

// setContinuesLocked marks the elements in the slots from i up to, not including, n as ones
// that continue. The element before the page continues if continued is true.
func (p *page[T]) setContinuesLocked(i, n uint64, continued bool) {
	bits := p.continuesBits.Load()
	if bits == nil {
		bits = &slotBits{continued: continued}
		p.continuesBits.Store(bits)
	}
	for i < n {
		run := min(n-i, 64-i%64)
		bits.continues[i/64].Or(^uint64(0) >> (64 - run) << (i % 64))
		i += run
	}
}

// beginsTransactionLocked reports whether the element in slot i does not belong to the
// transaction of the one before.
func (p *page[T]) beginsTransactionLocked(i uint64) bool {
	if i > 0 {
		return !p.continues(i - 1)
	}
	bits := p.continuesBits.Load()
	return bits == nil || !bits.continued
}

// continues reports whether the element in slot i was published together with the next.
func (p *page[T]) continues(i uint64) bool {
	bits := p.continuesBits.Load()
	return bits != nil && bits.continues[i/64].Load()&(1<<(i%64)) != 0
}

// transactionEnd returns the first slot from i on whose element does not continue. If all
// of them continue, it returns len(p.slots).
func (p *page[T]) transactionEnd(i uint64) uint64 {
	b, n := p.continuesBits.Load(), uint64(len(p.slots))
	for b != nil && i < n {
		run := uint64(bits.TrailingZeros64(^(b.continues[i/64].Load() >> (i % 64)))) // within a word
		if run == 0 {
			return i
		}
		i += run
	}
	return min(i, n)
}

// end returns the position after the page's last slot.
func (p *page[T]) end() uint64 { return p.first + uint64(len(p.slots)) }

// putTableLocked adds v behind the end. Readers do not see it before it is published. If
// nothing is kept, it does nothing. It never waits for a reader.
func (r *ring[T]) putTableLocked(v T) {
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

// publishTableLocked publishes the elements that were put since the last call. The caller
// calls wake afterwards, when it holds no lock.
func (r *ring[T]) publishTableLocked() {
	end := r.end.Load()
	if r.next-end > 1 {
		r.publishTransaction(end)
		return
	}
	r.end.Store(r.next) // R1: after the slot, because readers take no lock
}

func (r *ring[T]) publishTransaction(end uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.markTransactionLocked(end)
	r.end.Store(r.next) // R1
	r.trimLocked()
}

// markTransactionLocked marks the elements that were put from first on as published together.
func (r *ring[T]) markTransactionLocked(first uint64) {
	if r.next-first < 2 {
		return
	}
	for _, p := range slices.Backward(r.pages) {
		if p.end() <= first {
			break
		}
		p.setContinuesLocked(max(first, p.first)-p.first, min(r.next-1, p.end())-p.first, p.first > first)
	}
}

// unpublished reports whether there are elements that were put and not published.
func (r *ring[T]) unpublished() bool { return r.next != r.end.Load() }

// discardTableLocked discards the elements that were put and not published.
func (r *ring[T]) discardTableLocked() { r.takeBackTableLocked(r.end.Load()) }

// takeBackTableLocked discards the elements that were put from a position on, and not published.
func (r *ring[T]) takeBackTableLocked(pos uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.end.Load()
	for last := len(r.pages) - 1; last >= 0; last-- {
		p := r.pages[last]
		if p.first < pos || p.first <= end {
			clear(p.slots[pos-p.first : min(r.next, p.end())-p.first])
			r.tail.Store(p)
			break
		}
		r.pages[last] = nil // no window is on a page without published elements
		r.pages = r.pages[:last]
	}
	r.next = pos
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

// close ends the ring. Readers get the elements that are still buffered, and then nothing
// more. It is called when nothing can be put any more. If it returns true, the ring was
// open, and the caller calls wake afterwards.
func (r *ring[T]) close() (wasOpen bool) { return r.closed.CompareAndSwap(0, r.end.Load()+1) }

// isClosed reports whether close was called.
func (r *ring[T]) isClosed() bool { return r.closed.Load() > 0 }

// keeps reports whether elements are kept: a window is open, or some are retained.
func (r *ring[T]) keeps() bool { return r.tail.Load() != nil }

// hasWaiting reports whether a window waits.
func (r *ring[T]) hasWaiting() bool { return r.parked.Load() > 0 }

// retainTableLocked keeps the newest n elements for windows that open later: of those that
// come from now on, and of those that an earlier call kept.
func (r *ring[T]) retainTableLocked(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n == 0 {
		r.retention = nil
	} else {
		r.retention = &retention{n, r.retainedLocked()}
	}
	if n > 0 && r.tail.Load() == nil {
		r.addPageLocked(r.end.Load())
		return
	}
	r.trimLocked()
}

// resetTableLocked makes each window skip what it has not read. seq is the sequence number that
// the window has passed then. If the ring has a retention, the elements of commits become its
// retained elements. Windows that are open do not get them. Everything that was put must be
// published. The caller calls wake afterwards, when it holds no lock.
func (r *ring[T]) resetTableLocked(seq uint64, marker any, commits [][]T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.keeps() {
		return
	}
	r.next += resetGap
	if r.retention == nil {
		commits = nil
	} else {
		for _, commit := range commits {
			r.next -= uint64(len(commit)) // so that windows do not count them as skipped
		}
		r.retention.from = r.next
	}
	p := r.addPageLocked(r.next)
	for _, commit := range commits {
		first := r.next
		for _, v := range commit {
			if r.next == p.end() {
				p = r.addPageLocked(r.next)
			}
			p.slots[r.next-p.first] = v
			r.next++
		}
		r.markTransactionLocked(first)
	}
	r.reset = &ringReset{r.next, seq, marker}
	r.end.Store(r.next) // R1
	r.trimLocked()
}

// retained returns the number of elements that are retained.
func (r *ring[T]) retained() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.end.Load() - r.retainedLocked())
}

// retainedLocked returns the position of the first element that is retained.
func (r *ring[T]) retainedLocked() uint64 {
	end := r.end.Load()
	if r.retention == nil {
		return end
	}
	return max(end-min(end, r.retention.n), r.retention.from)
}

// openTableLocked opens w on the elements that are published from now on. It buffers at
// most limit of them. See beginAfter for the sequence number that w has passed.
func (r *ring[T]) openTableLocked(w *window[T], limit uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.windows++
	end := r.end.Load()
	p := r.tail.Load()
	if p == nil || p.end() == end {
		p = r.addPageLocked(end)
	}
	w.ring, w.limit, w.start = r, min(limit, resetGap/2), end
	w.basePos = end
	w.pos.Store(end)
	w.pinLocked(p)
}

// retainedPagesTableLocked returns the pages of those of the newest n elements that are
// retained, and the position of the first of these. The caller may read the published slots of
// the pages without a lock (R1).
func (r *ring[T]) retainedPagesTableLocked(n uint64) (pages []*page[T], first uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := r.end.Load()
	first = max(end-min(end, n), r.retainedLocked())
	if first < end {
		i := r.indexLocked(first)
		pages = slices.Clone(r.pages[i:])
	}
	return pages, first
}

// beginAfter sets the sequence number that w has passed when it is opened.
func (w *window[T]) beginAfter(seq uint64) { w.baseSeq = seq }

// notifyOn makes w poll, unless wake is nil: wake is notified instead of a waiting reader.
// It is called before w is opened.
func (w *window[T]) notifyOn(wake chan<- struct{}) { w.notify = wake }

// findLocked returns the page of pos, which must be in the directory.
func (r *ring[T]) findLocked(pos uint64) *page[T] { return r.pages[r.indexLocked(pos)] }

// indexLocked returns the index in the directory of the page of pos.
func (r *ring[T]) indexLocked(pos uint64) int {
	i, found := slices.BinarySearchFunc(r.pages, pos, func(p *page[T], pos uint64) int {
		return cmp.Compare(p.first, pos)
	})
	if !found {
		i--
	}
	return i
}

// trimLocked drops the oldest pages that no window may still read and retain does not keep.
func (r *ring[T]) trimLocked() { // R3
	if r.windows == 0 && r.retention == nil {
		r.pages, r.behind = nil, nil
		r.tail.Store(nil)
		return
	}
	end, retained := r.end.Load(), r.retainedLocked()
	for len(r.pages) > 1 { // the tail is always needed
		oldest := r.pages[0]
		limit := oldest.pins.largest()
		if oldest.end() > retained || max(limit, r.behind.largest()) > end-oldest.end() {
			return
		}
		r.countBehindLocked(limit, 1)
		r.pages[0] = nil // the array of the directory outlives its first element
		r.pages = r.pages[1:]
	}
}

// countLocked counts one window more with the limit on p, or one less if n is -1.
func (r *ring[T]) countLocked(p *page[T], limit uint64, n int) {
	dropped := p.first < r.pages[0].first
	if dropped {
		r.countBehindLocked(p.pins.largest(), -1)
	}
	p.pins.add(limit, n)
	if dropped {
		r.countBehindLocked(p.pins.largest(), 1)
	}
}

// countBehindLocked counts a dropped page by the largest limit on it, or one less if n is
// -1. A limit of 0 means that no window is on the page, which is then not counted.
func (r *ring[T]) countBehindLocked(limit uint64, n int) {
	if limit == 0 {
		return
	}
	if r.behind == nil {
		r.behind = new(tally)
	}
	r.behind.add(limit, n)
}

// wake wakes up to n waiting windows that have something to read.
//
// An append wakes one window. Each window that was woken wakes two more before it does
// anything else. An append therefore pays for one wake-up, however many windows wait, and
// all of them are awake after a logarithmic number of rounds (BenchmarkParked).
//
// No window is forgotten. The queue is in order of position, because a window enters it
// when it has read to the end, and the end only grows. If the first window in the queue has
// nothing to read, no window has. Otherwise the first is taken off the queue, and is
// responsible for those behind it.
//
// A polling window does not run when it is notified, so it is not responsible for others. If
// such a window is the first, and others wait, a goroutine wakes all of them. While it runs, an
// append leaves them to it. So an append wakes at most one goroutine, however many windows poll
// (BenchmarkPoll).
func (r *ring[T]) wake(n int) {
	for ; n > 0 && r.hasWaiting(); n-- {
		if r.waker.Load() != wakerIdle {
			r.wakeAll(nil)
			return
		}
		w := r.takeParked()
		if w == nil {
			return
		}
		if w.polls() && r.hasWaiting() {
			r.wakeAll(w)
			return
		}
		w.signal()
	}
}

// The states of the goroutine of wakeAll.
const (
	wakerIdle  = iota // there is none
	wakerRuns         // it wakes windows
	wakerAgain        // it wakes windows, and then those that have come since
)

// wakeAll wakes w, which was taken off the queue or is nil, and all windows in the queue that have
// something to read. A goroutine does that. If one is running already, it goes on.
func (r *ring[T]) wakeAll(w *window[T]) {
	if r.waker.Swap(wakerAgain) != wakerIdle {
		if w != nil {
			w.signal()
		}
		return
	}
	go r.runWaker(w)
}

// runWaker is the goroutine of wakeAll.
func (r *ring[T]) runWaker(w *window[T]) {
	for again := true; again; again = !r.waker.CompareAndSwap(wakerRuns, wakerIdle) {
		r.waker.Store(wakerRuns) // before it looks into the queue, so that no later append is missed
		if w == nil {
			w = r.takeParked()
		}
		for ; w != nil; w = r.takeParked() {
			w.signal()
		}
	}
}

// takeParked takes the window that has waited longest off the queue, if it has something to
// read. The caller must signal it.
func (r *ring[T]) takeParked() *window[T] {
	// An append stores the end before it looks here. A window enters the queue before it
	// looks at the end. So one of the two sees the other.
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

// A window is one reader's bounded ring buffer. It holds the unread elements, at most the
// newest limit of them. close, closeQuietly and usage are for any goroutine. The other
// methods are for the reader, which is one goroutine at a time.
type window[T any] struct {
	ring   *ring[T]
	limit  uint64
	notify chan<- struct{} // of a polling window (nil: the reader waits for wakeup)

	// The reader's. Others only load them.
	pos    atomic.Uint64 // of the next element to read
	wakeup chan struct{} // gets a value each time that somebody else takes it off the queue, nil until it waits

	// These change under ring.mu.
	start   uint64                  // position when it was opened, and the empty positions that it skipped
	skipped atomic.Uint64           // elements that it skipped
	page    atomic.Pointer[page[T]] // where pos is, or was (nil: closed)
	basePos uint64                  // the last position at which baseSeq was set
	baseSeq uint64                  // the sequence number that it had passed there

	// Its links in ring.queue, guarded by ring.mu.
	prev, next *window[T]
}

// deliver passes the oldest unread elements to yield, with a nil error, without taking a
// lock. It returns true when the slow path, advance, must take over: there is no next
// element, it is on another page, or it was dropped. It also returns true when ctx is
// done, which it checks before each element. It returns false when yield does.
//
// An element counts as read when yield is called. This loop is the cost of a reader
// (BenchmarkDrain, BenchmarkFanOut). Therefore values that cannot change meanwhile are not
// loaded for each element. A method that returns one element takes 1.2x as long.
func (w *window[T]) deliver(ctx context.Context, yield func(T, error) bool) bool {
	p := w.page.Load()
	if p == nil {
		return true
	}
	end, limit := &w.ring.end, w.limit
	for pos := w.pos.Load(); ; {
		// One comparison for two cases: if nothing is unread, the difference wraps around
		// to the largest number. ctx is checked after the end is loaded (R1). When ctx is
		// done, w may be closed. Once no window is open, the ring begins again on other
		// pages, and its end says nothing about the slots of p any more.
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

// take appends unread elements to the slice, the oldest first: at most n, and the rest of
// the last one's transaction. It never takes a part of the elements that were published
// together. Like deliver, it stops at the end of a page, and takes nothing if the next
// element was dropped or ctx is done. It takes the ring's mutex only for a transaction that
// goes on on another page. A call costs a few steps and the copying, so take is for
// consumers of many elements at a time (BenchmarkFanOut).
func (w *window[T]) take(ctx context.Context, to *[]T, n int) {
	p, pos := w.page.Load(), w.pos.Load()
	if p == nil {
		return
	}
	unread, i := w.ring.end.Load()-pos, pos-p.first
	if unread-1 >= w.limit || i >= uint64(len(p.slots)) || ctx.Err() != nil { // as in deliver
		return
	}
	j := p.transactionEnd(i+min(unread, uint64(n), uint64(len(p.slots))-i)-1) + 1
	if j > uint64(len(p.slots)) { // the last transaction goes on on another page
		for j--; j > i && p.continues(j-1); j-- {
		}
		if j == i {
			w.takeAcross(to)
			return
		}
	}
	*to = append(*to, p.slots[i:j]...)
	w.pos.Store(p.first + j)
}

// takeAcross appends the oldest unread element and the rest of its transaction, on
// whatever pages they are, unless the element was dropped. It finds the pages under the
// ring's mutex, so that none of them is missing. It copies without the mutex, because the
// slots are not written again (R1).
func (w *window[T]) takeAcross(to *[]T) {
	pages, i, j := w.moveAcross()
	for k, p := range pages {
		end := uint64(len(p.slots))
		if k == len(pages)-1 {
			end = j
		}
		*to = append(*to, p.slots[i:end]...)
		i = 0
	}
}

// moveAcross moves w past the oldest unread element and the rest of its transaction. They
// are in the slots of pages, from i of the first page up to, not including, j of the last.
func (w *window[T]) moveAcross() (pages []*page[T], i, j uint64) {
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	pos := w.pos.Load()
	if w.page.Load() == nil || r.end.Load()-pos-1 >= w.limit {
		return nil, 0, 0
	}
	end := r.transactionEndLocked(pos)
	pages = slices.Clone(r.pages[r.indexLocked(pos) : r.indexLocked(end-1)+1])
	last := pages[len(pages)-1]
	w.moveLocked(last)
	w.pos.Store(end)
	return pages, pos - pages[0].first, end - last.first
}

// transactionEndLocked returns the position after the transaction of the element at pos.
func (r *ring[T]) transactionEndLocked(pos uint64) uint64 {
	p := r.findLocked(pos)
	i := p.transactionEnd(pos - p.first)
	for i == uint64(len(p.slots)) {
		p = r.findLocked(p.end())
		i = p.transactionEnd(0)
	}
	return p.first + i + 1
}

// advance is the slow path of deliver and take. It moves w to the page of its next
// element. If elements before that one were dropped, it moves w past them and returns
// their number, and whether the ring was reset meanwhile.
func (w *window[T]) advance() (s step) {
	r, pos := w.ring, w.pos.Load()
	if r.end.Load() == pos {
		return s
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return s
	}
	oldest := w.oldestLocked(pos, r.end.Load())
	if oldest == pos {
		w.baseSeq, w.basePos = w.passedAt(pos), pos
		w.moveLocked(r.findLocked(pos))
		return step{advanced: true}
	}
	s = w.skipLocked(pos, oldest)
	p := r.findLocked(oldest)
	w.moveLocked(p)
	switch {
	case r.reset != nil && r.reset.pos == oldest:
		w.baseSeq = r.reset.seq
	case r.seqOf != nil && oldest < r.end.Load():
		w.baseSeq = r.seqOf(p.slots[oldest-p.first]) - 1
	}
	return s
}

// A step is the result of the slow path of a reader.
type step struct {
	advanced bool   // false: there was nothing to do, or the reader's subscription has ended
	skipped  uint64 // the number of elements that were dropped
	reset    any    // the marker of the last reset, if the reader passed it in this step, or nil
}

// skipLocked moves w from one position to another, past the elements between them.
func (w *window[T]) skipLocked(from, to uint64) step {
	s := step{advanced: true, skipped: w.betweenLocked(from, to)}
	if w.beforeResetLocked(from) {
		s.reset = w.ring.reset.marker
	}
	w.skipped.Add(s.skipped) // R2: with pos, under mu
	w.start += to - from - s.skipped
	w.pos.Store(to)
	w.basePos = to
	return s
}

// betweenLocked returns the number of elements from the position of w up to another. A window
// that is before a reset has fewer than resetGap elements to skip. Each reset since then has
// added resetGap positions.
func (w *window[T]) betweenLocked(from, to uint64) uint64 {
	if w.beforeResetLocked(from) {
		return (to - from) % resetGap
	}
	return to - from
}

// beforeResetLocked reports whether the ring was reset after pos.
func (w *window[T]) beforeResetLocked(pos uint64) bool {
	return w.ring.reset != nil && pos < w.ring.reset.pos
}

// oldestLocked returns the position of the oldest element that w may still read, if pos is
// its position and end is the ring's.
func (w *window[T]) oldestLocked(pos, end uint64) uint64 {
	oldest := max(pos, end-min(end, w.limit))
	if w.beforeResetLocked(oldest) {
		oldest = w.ring.reset.pos
	}
	if w.ring.whole && oldest > pos && w.page.Load() != nil {
		oldest = w.ring.transactionStartLocked(oldest)
	}
	return oldest
}

// transactionStartLocked returns the first position from pos on, which must be in the
// directory, that begins a transaction or is the end.
func (r *ring[T]) transactionStartLocked(pos uint64) uint64 {
	if p := r.findLocked(pos); p.beginsTransactionLocked(pos - p.first) {
		return pos
	}
	return r.transactionEndLocked(pos)
}

// passed returns the sequence number of the last element that was read. If w was opened or
// skipped elements since, it returns the number just before the next element.
func (w *window[T]) passed() uint64 { return w.passedAt(w.pos.Load()) }

// caughtUp reports whether w is open and has read everything that was published. The end
// is loaded first, because both grow.
func (w *window[T]) caughtUp() bool {
	end := w.ring.end.Load()
	return w.pos.Load() >= end && w.page.Load() != nil
}

func (w *window[T]) passedAt(pos uint64) uint64 {
	switch p := w.page.Load(); {
	case w.ring.seqOf == nil:
		return pos
	case pos == w.basePos || p == nil:
		return w.baseSeq
	default:
		return w.ring.seqOf(p.slots[pos-1-p.first])
	}
}

// skipAllTableLocked skips all unread elements. seq becomes the sequence number that w has
// passed. If w is closed, it does nothing.
func (w *window[T]) skipAllTableLocked(seq uint64) (s step) {
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return s
	}
	s = w.skipLocked(w.pos.Load(), r.end.Load())
	w.baseSeq = seq
	w.moveLocked(r.pages[len(r.pages)-1])
	return s
}

// moveLocked moves w to p, which must be in the directory.
func (w *window[T]) moveLocked(p *page[T]) {
	if p != w.page.Load() {
		w.unpinLocked()
		w.pinLocked(p)
		w.ring.trimLocked()
	}
}

// drained reports whether the ring is closed and w has read all of it. A single load
// answers both, so no element can come in between.
func (w *window[T]) drained() bool { return w.ring.closed.Load() == w.pos.Load()+1 }

// wait returns when there is something to read, or when the ring or w is closed. No wake-up
// is lost (F3), because arm puts w into the queue before it checks for the last time.
func (w *window[T]) wait() {
	if w.arm() {
		<-w.wakeup
		w.ring.wake(2)
	}
}

// arm puts w into the queue. It returns false if there is no need to wait.
func (w *window[T]) arm() (armed bool) {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	w.enterQueueLocked()
	return w.stayLocked()
}

// stayLocked reports whether w, which is in the queue, must wait. If not, it takes w off.
func (w *window[T]) stayLocked() bool {
	if !w.readyLocked() {
		return true
	}
	w.leaveQueueLocked()
	return false
}

// disarm takes w off the queue if it is still there. It is for windows that poll.
func (w *window[T]) disarm() {
	w.ring.mu.Lock()
	defer w.ring.mu.Unlock()
	if w.queuedLocked() {
		w.leaveQueueLocked()
	}
}

// polls reports whether a user is notified instead of a waiting reader.
func (w *window[T]) polls() bool { return w.notify != nil }

// signal wakes the reader of w, which was taken off the queue, or notifies its user.
func (w *window[T]) signal() {
	if w.polls() {
		notify(w.notify)
	} else {
		w.wakeup <- struct{}{}
	}
}

// notify sends a value on a user's channel, unless there is no room for it or the user has
// closed the channel. The caller may be a writer, another user's loop, or a goroutine in
// which nobody can recover. None of them must suffer from a closed channel.
func notify(wake chan<- struct{}) {
	defer func() { _ = recover() }() // only a send on a closed channel can panic here
	select {
	case wake <- struct{}{}:
	default:
	}
}

// readyLocked reports whether w need not wait.
func (w *window[T]) readyLocked() bool {
	return w.page.Load() == nil || w.ring.end.Load() != w.pos.Load() || w.ring.isClosed()
}

// close closes the window and wakes its reader. A closed window retains nothing, and its
// reads find nothing. Closing it again does nothing.
func (w *window[T]) close() {
	if w.closeQuietly() {
		w.signal()
	}
}

// release does nothing, because a window stores no elements of its own.
func (w *window[T]) release() {}

// closeQuietly is like close but wakes nobody. It reports whether w was in the queue, in
// which case its reader, if there is one, must be signaled.
func (w *window[T]) closeQuietly() (parked bool) {
	r := w.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.page.Load() == nil {
		return false
	}
	w.unpinLocked()
	r.windows--
	r.trimLocked()
	if w.queuedLocked() {
		w.leaveQueueLocked()
		return true
	}
	return false
}

// pinLocked puts w on p.
func (w *window[T]) pinLocked(p *page[T]) {
	w.page.Store(p)
	w.ring.countLocked(p, w.limit, 1)
}

// unpinLocked takes w off its page.
func (w *window[T]) unpinLocked() {
	w.ring.countLocked(w.page.Load(), w.limit, -1)
	w.page.Store(nil)
}

// A usage says what has become of the elements since a window was opened.
type usage struct {
	passed, limit                uint64 // as in window
	delivered, skipped, buffered uint64
}

// usage is exact for one moment during the call. R2
//
// A reader moves pos without mu. The end therefore counts only if pos was the same before
// and after it was loaded. That happens soon, because the reader needs mu at the end of a
// page.
func (w *window[T]) usage() usage {
	w.ring.mu.Lock() // so that pos and skipped are of one moment
	defer w.ring.mu.Unlock()
	pos, end := w.pos.Load(), w.ring.end.Load()
	for now := w.pos.Load(); now != pos; now = w.pos.Load() {
		pos, end = now, w.ring.end.Load()
	}
	u := usage{passed: w.passedAt(pos), limit: w.limit, skipped: w.skipped.Load()}
	u.delivered = pos - w.start - u.skipped
	oldest := w.oldestLocked(pos, end)
	u.buffered = end - oldest
	u.skipped += w.betweenLocked(pos, oldest)
	return u
}

// A queue is a list of waiting windows, in order of arrival. Its links are in the windows,
// so waiting allocates nothing, and a window can leave from the middle.
type queue[T any] struct{ front, back *window[T] }

// queuedLocked reports whether w is in the queue.
func (w *window[T]) queuedLocked() bool { return w.prev != nil || w.ring.queue.front == w }

func (w *window[T]) enterQueueLocked() {
	if w.wakeup == nil && !w.polls() {
		w.wakeup = make(chan struct{}, 1)
	}
	q := &w.ring.queue
	w.prev = q.back
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
	w.prev, w.next = nil, nil
	w.ring.parked.Add(-1)
}

// A tally counts windows by their limits. Usually all windows have one limit, which costs
// no allocation. Counting a window takes logarithmic time in the number of different limits
// beside it, because the ring's mutex is held meanwhile.
type tally struct {
	one  limitCount                // the first limit, which may count no windows
	rest *btree.BTreeG[limitCount] // the other limits, and one's limit if it was here first (nil: none)
}

type limitCount struct {
	limit uint64
	count int
}

// largest returns the largest limit that is counted, or 0. t may be nil.
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

// add counts one window more with the limit, or one less if n is -1.
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
		t.rest = btree.NewWithFreeListG(8, func(a, b limitCount) bool { return a.limit < b.limit }, btree.NewFreeListG[limitCount](0))
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
