package changefeed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"
)

// readNext reads as a feed does: deliver hands out an element, or advance makes it
// ready or tells of a gap before it.
func (w *window[T]) readNext() (v T, skipped uint64, ok bool) {
	for {
		w.deliver(context.Background(), func(next T, _ error) bool {
			v, ok = next, true
			return false
		})
		if ok {
			return v, 0, true
		}
		if s := w.advance(); s.skipped > 0 || !s.advanced {
			return v, s.skipped, false
		}
	}
}

// taken returns what take appends.
func (w *window[T]) taken(ctx context.Context, n int) (elements []T) {
	w.take(ctx, &elements, n)
	return elements
}

// ringLimits are at, and next to, the sizes of pages.
var ringLimits = []uint64{1, 2, 7, 8, 9, 255, 256, 257, 1000}

// A modelWindow is a window beside a model of it.
type modelWindow struct {
	window[uint64]
	model struct {
		pos, passed        uint64 // the next position to read, and the sequence number before it
		delivered, skipped uint64
		waits              bool
	}
}

// A ringModel is a ring whose elements are their own positions, beside a model of it: the
// numbers that say what each window may still read.
type ringModel struct {
	*testing.T
	ring[uint64]
	roll           func(n int) int // the dice: 0 to n-1
	reached        map[string]int
	end            uint64
	continues      map[uint64]bool // positions of elements that were published with the next
	retain, oldest uint64          // the newest elements to retain, of those from oldest on
	reset          ringReset       // the last one, if there was one
	open           []*modelWindow
	taken          []retainedElements
}

func newRingModel(t *testing.T, numbered bool, roll func(n int) int, reached map[string]int) *ringModel {
	m := &ringModel{T: t, roll: roll, reached: reached, continues: make(map[uint64]bool)}
	if numbered {
		m.seqOf = func(v uint64) uint64 { return 7*v + 100 }
	}
	return m
}

// keeps reports whether elements are kept.
func (m *ringModel) keeps() bool { return len(m.open) > 0 || m.retain > 0 }

// retained returns the first position that is retained.
func (m *ringModel) retained() uint64 { return max(m.oldest, m.end-min(m.end, m.retain)) }

// held returns the first position that w may still read.
func (m *ringModel) held(w *modelWindow) uint64 {
	held := m.inBuffer(w)
	for m.whole && held > w.model.pos && m.continues[held-1] {
		m.reached["the rest of a transaction is skipped"]++
		held++
	}
	return held
}

// inBuffer is held of a ring that is not whole.
func (m *ringModel) inBuffer(w *modelWindow) uint64 {
	held := max(w.model.pos, m.end-min(m.end, w.limit))
	if m.mustReset(w) {
		held = max(held, m.reset.pos)
	}
	return held
}

// mustReset reports whether w has yet to read that the ring was reset.
func (m *ringModel) mustReset(w *modelWindow) bool { return w.model.pos < m.reset.pos }

// between returns the number of elements from the position of w to another one.
func (m *ringModel) between(w *modelWindow, pos uint64) uint64 { return (pos - w.model.pos) % resetGap }

// resetTo returns what the next gap of w reports as reset.
func (m *ringModel) resetTo(w *modelWindow) any {
	if m.mustReset(w) {
		return m.reset.marker
	}
	return nil
}

// ready reports whether w has a reason not to wait.
func (m *ringModel) ready(w *modelWindow) bool { return w.model.pos < m.end || m.isClosed() }

func (m *ringModel) usage(w *modelWindow) usage {
	held := m.held(w)
	return usage{
		passed: w.model.passed, limit: w.limit, delivered: w.model.delivered,
		skipped: w.model.skipped + m.between(w, held), buffered: m.end - held,
	}
}

// put puts n elements, publishes them together or discards them, and does something else
// before that. Readers see all of them or none.
func (m *ringModel) put(n uint64, publish bool, before func()) {
	for i := range n {
		m.putTableLocked(m.end + i)
	}
	if !m.keeps() {
		n = 0 // the elements have no positions
	}
	require.Equal(m, n > 0, m.unpublished())
	m.compare()
	before()
	if publish {
		m.publishTableLocked()
		for i := range max(n, 1) - 1 {
			m.continues[m.end+i] = true
		}
		m.end += n
		m.wake(1)
	} else {
		m.discardTableLocked()
		for _, p := range m.pages {
			for i, v := range p.slots {
				if p.first+uint64(i) >= m.end {
					require.Zero(m, v, "a discarded element is held")
				}
			}
		}
		for _, p := range m.pages[len(m.pages):cap(m.pages)] {
			require.Nil(m, p, "a discarded page is held")
		}
	}
	require.False(m, m.unpublished())
}

// open opens a window.
func (m *ringModel) openWindow(limit uint64) {
	w := new(modelWindow)
	w.beginAfter(77)
	m.openTableLocked(&w.window, limit)
	w.model.pos, w.model.passed = m.end, 77
	if m.seqOf == nil {
		w.model.passed = m.end
	}
	m.open = append(m.open, w)
}

// resetRing resets the ring, with commits of some elements to retain.
func (m *ringModel) resetRing(commits []int) {
	seq, to := uint64(m.roll(1000)), m.roll(1000)
	m.oldest = m.end + resetGap
	var elements [][]uint64
	for _, n := range commits {
		m.oldest -= uint64(n)
	}
	next := m.oldest
	for _, n := range commits {
		var commit []uint64
		for i := range n {
			m.continues[next] = i < n-1
			commit = append(commit, next)
			next++
		}
		elements = append(elements, commit)
	}
	m.end = next
	m.reset = ringReset{next, seq, to}
	m.resetTableLocked(seq, to, elements)
	m.wake(1)
}

// readReset reads that the ring was reset.
func (m *ringModel) readReset(w *modelWindow) {
	held := m.held(w)
	require.Empty(m, w.taken(context.Background(), 10))
	w.deliver(context.Background(), func(uint64, error) bool { require.Fail(m, "an element from before the reset"); return false })
	skipped := m.between(w, held)
	require.Equal(m, step{true, skipped, m.reset.marker}, w.advance())
	switch {
	case held > m.reset.pos:
		m.reached["reset and overflow"]++
	case skipped == 0:
		m.reached["reset without a gap"]++
	default:
		m.reached["reset with a gap"]++
	}
	w.model.pos, w.model.skipped = held, w.model.skipped+skipped
	switch {
	case m.seqOf == nil:
		w.model.passed = held
	case held == m.reset.pos:
		w.model.passed = m.reset.seq
	default:
		w.model.passed = m.seqOf(held) - 1
	}
	require.Equal(m, w.model.passed, w.passed())
}

// A retainedElements is what was retained at a moment.
type retainedElements struct {
	pages      []*page[uint64]
	first, end uint64
}

// takeRetained takes the pages of those of the newest n elements that are retained, and
// compares them at once and later.
func (m *ringModel) takeRetained(n uint64) {
	pages, first := m.retainedPagesTableLocked(n)
	pos := m.end - min(m.end, n)
	require.Equal(m, max(pos, m.retained()), first)
	switch {
	case first == pos && pos < m.end:
		m.reached["all is held"]++
	case first > pos && first == m.end:
		m.reached["nothing is held"]++
	case first > pos:
		m.reached["some is held"]++
	}
	m.taken = append(m.taken, retainedElements{pages, first, m.end})
	if len(m.taken) > 5 {
		m.taken = m.taken[1:]
	}
}

// compareRetained: what was taken stays as it was, whatever the ring drops. R1
func (m *ringModel) compareRetained() {
	for _, taken := range m.taken {
		next := taken.first
		for i, p := range taken.pages {
			require.False(m, i == 0 && p.end() <= next, "a page that nobody needs")
			for ; next < min(p.end(), taken.end); next++ {
				require.Equal(m, next, p.slots[next-p.first])
			}
		}
		require.Equal(m, taken.end, next)
	}
}

// read reads n times, or until there is nothing to read.
func (m *ringModel) read(w *modelWindow, n int) {
	for range n {
		if m.mustReset(w) {
			m.readReset(w)
			continue
		}
		page, first := w.page.Load(), m.pages[0].first
		v, skipped, ok := w.readNext()
		moved := page != w.page.Load()
		switch held := m.held(w); {
		case held > w.model.pos:
			require.Equal(m, []any{held - w.model.pos, false}, []any{skipped, ok}, "a gap")
			w.model.pos, w.model.skipped = held, w.model.skipped+skipped
			if held == m.end {
				m.reached["everything is skipped"]++
			}
			if m.seqOf == nil {
				w.model.passed = held
			} else {
				w.model.passed = m.seqOf(held) - 1
			}
			switch {
			case page.first < first:
				m.reached["jump over dropped pages"]++
			case moved:
				m.reached["jump to another page"]++
			default:
				m.reached["jump within a page"]++
			}
		case held < m.end:
			if v != held || skipped > 0 || !ok {
				require.Equal(m, []any{held, uint64(0), true}, []any{v, skipped, ok})
			}
			m.delivered(w, 1)
			if w.model.pos == w.page.Load().end() && w.model.pos < m.end && m.held(w) == w.model.pos {
				m.reached["page's end"]++
				require.Equal(m, step{advanced: true}, w.advance())
				require.Equal(m, w.model.passed, w.passed(), "on the next page")
			}
		default:
			require.Equal(m, []any{uint64(0), false}, []any{skipped, ok}, "nothing to read")
			m.reached["nothing to read"]++
			return
		}
	}
}

// delivered moves w on by n elements.
func (m *ringModel) delivered(w *modelWindow, n int) {
	w.model.pos, w.model.delivered = w.model.pos+uint64(n), w.model.delivered+uint64(n)
	if w.model.passed = w.model.pos; m.seqOf != nil {
		w.model.passed = m.seqOf(w.model.pos - 1)
	}
}

// take takes the oldest unread elements of a page, at most n, and the others that were
// published together with the last of them, on whatever pages they lie. It divides no
// publication, except one that a gap cut.
func (m *ringModel) take(w *modelWindow, n int) {
	const before = 12345
	page, taken := w.page.Load(), []uint64{before}
	w.take(context.Background(), &taken, n)
	require.EqualValues(m, before, taken[0])
	taken = taken[1:]
	if len(taken) == 0 {
		require.True(m, m.held(w) > w.model.pos || w.model.pos == m.end || w.model.pos == page.end(), "an element can be taken")
		return
	}
	require.Equal(m, m.held(w), w.model.pos, "too far behind")
	for i, v := range taken {
		require.Equal(m, w.model.pos+uint64(i), v)
	}
	last := taken[len(taken)-1]
	require.False(m, m.continues[last], "a publication is divided behind %d", last)
	for _, v := range taken[min(n, len(taken))-1 : len(taken)-1] {
		require.True(m, m.continues[v], "%d need not be taken", v+1)
	}
	if next := last + 1; len(taken) < n && next < m.end {
		for m.continues[next] {
			next++
		}
		require.GreaterOrEqual(m, next, page.end()-1, "the publication behind %d lies on the page", last)
		m.reached["publication over the page's end"]++
	}
	if len(taken) > n {
		m.reached["more than n taken"]++
	}
	if w.page.Load().first > page.end() {
		m.reached["taken over a page between"]++
	}
	m.delivered(w, len(taken))
}

// goOn lets the reader of a window that waits go on, if it was woken. It wakes two others
// before it does anything else.
func (m *ringModel) goOn(w *modelWindow) (woken bool) {
	if len(w.wakeup) == 0 {
		return false
	}
	<-w.wakeup
	w.model.waits = false
	m.reached["woken"]++
	m.wake(2)
	return true
}

// close closes a window, which then finds nothing.
func (m *ringModel) close(i int) {
	w := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	w.window.close()
	w.window.close()
	require.EqualValues(m, len(m.open), m.windows, "closed once")
	if w.model.waits {
		require.True(m, m.goOn(w))
	}
	require.Zero(m, w.skipAllTableLocked(1))
	_, skipped, ok := w.readNext()
	require.Equal(m, []any{uint64(0), false}, []any{skipped, ok})
	require.False(m, w.arm(), "nothing to wait for")
}

// compare checks R2, that each window has the figures of its model.
func (m *ringModel) compare() {
	for _, w := range m.open {
		if got, want := w.usage(), m.usage(w); got != want {
			require.Equal(m, want, got)
		}
	}
}

// check checks the ring's directory against what its windows may still read.
func (m *ringModel) check() {
	tail := m.tail.Load()
	if !m.keeps() {
		require.Empty(m, m.pages, "R3: nobody reads")
		require.Nil(m, tail, "R3: nobody reads")
		require.Nil(m, m.behind, "R3: nobody reads")
		m.reached["no pages"]++
		return
	}
	require.Equal(m, m.end, m.ring.end.Load())
	require.Same(m, tail, m.pages[len(m.pages)-1])
	require.LessOrEqual(m, tail.first, m.end)
	require.GreaterOrEqual(m, tail.end(), m.end)
	for i, p := range m.pages[1:] {
		require.Equal(m, m.pages[i].end(), p.first, "no hole")
		require.Len(m, p.slots, min(2*len(m.pages[i].slots), maxPage), "pages double")
	}

	needed := m.end // the first position that is retained, or that some window may still read
	if m.retain > 0 {
		needed = m.retained()
	}
	standing := make(map[*page[uint64]]map[uint64]int)
	for _, w := range m.open {
		needed = min(needed, m.inBuffer(w))
		p := w.page.Load()
		if standing[p] == nil {
			standing[p] = make(map[uint64]int)
		}
		standing[p][w.limit]++
	}
	require.LessOrEqual(m, m.pages[0].first, needed, "R3: what some window may still read is held")
	unneeded := 0
	for i, p := range m.pages {
		if p != tail && p.end() <= needed {
			unneeded += len(p.slots)
		}
		if !maps.Equal(standing[p], p.pins.counts()) {
			require.Equal(m, standing[p], p.pins.counts(), "windows on page %d of %d", i, len(m.pages))
		}
	}
	require.LessOrEqual(m, unneeded, len(tail.slots), "R3: to within a page, nothing else is held")

	behind := make(map[uint64]int)
	for p, limits := range standing {
		if p.first < m.pages[0].first {
			behind[slices.Max(slices.Collect(maps.Keys(limits)))]++
			require.Equal(m, limits, p.pins.counts(), "windows on a page that was dropped")
		}
	}
	if !maps.Equal(behind, m.behind.counts()) {
		require.Equal(m, behind, m.behind.counts(), "pages that were dropped")
	}
	if len(tail.pins.counts()) >= 5 {
		m.reached["many limits on a page"]++
	}
	if len(m.behind.counts()) >= 2 {
		m.reached["several dropped pages"]++
	}
	if len(tail.slots) == maxPage {
		m.reached["largest page"]++
	}
}

// counts returns how many there are of each limit.
func (t *tally) counts() map[uint64]int {
	counts := make(map[uint64]int)
	if t == nil {
		return counts
	}
	if t.one.count > 0 {
		counts[t.one.limit] = t.one.count
	}
	if t.rest != nil {
		t.rest.Ascend(func(c limitCount) bool {
			counts[c.limit] += c.count
			return true
		})
	}
	return counts
}

// To its reader, a window is a ring buffer of its own, whatever other windows there are.
// "With N unread changes and a buffer of n, the next read yields nothing special if N <= n,
// and else one SkippedError{Count: N-n} before the n newest, in order; then the stream
// goes on. This holds at any point, also in the middle of a backlog." After each step, R2
// holds for each window, and R3 for the ring. In a ring that is whole, the rest of a transaction
// whose first elements are skipped is skipped, too.
func TestRingIsOneBufferForEachWindow(t *testing.T) {
	t.Parallel()
	rng, reached := newRand(t), make(map[string]int)
	for run := range 12 {
		m := newRingModel(t, run%2 == 0, rng.IntN, reached)
		m.whole = run%4 == 1
		for range 4000 {
			m.step()
		}
		m.finish()
	}
	requireOutcomes(t, reached, "nothing to read", "page's end", "jump within a page", "jump to another page", "jump over dropped pages",
		"all is held", "some is held", "nothing is held", "append unheard", "no pages", "retain more", "retain less",
		"retain nothing", "trim on append", "trim on read", "trim on close", "trim on skip", "closed while unpublished",
		"publication over the page's end", "more than n taken", "taken over a page between", "waits", "woken",
		"many limits on a page", "several dropped pages", "largest page",
		"the rest of a transaction is skipped", "everything is skipped",
		"reset with commits", "reset and overflow", "reset without a gap", "reset with a gap")
}

// finish closes the ring. A reader that has something to read is awake when all readers
// that were woken have gone on, and each reads to the end.
func (m *ringModel) finish() {
	for slices.ContainsFunc(m.open, m.goOn) {
	}
	for _, w := range m.open {
		require.False(m, w.model.waits && m.ready(w), "F3")
	}
	m.ring.close()
	m.wake(1)
	for slices.ContainsFunc(m.open, m.goOn) {
	}
	for _, w := range m.open {
		require.False(m, w.model.waits, "F4")
		for w.model.pos < m.end {
			require.False(m, w.drained())
			m.read(w, 1)
		}
		require.True(m, w.drained())
		require.False(m, w.arm(), "nothing to wait for")
	}
}

// step does something to the ring, at random, and checks everything.
func (m *ringModel) step() {
	var held uint64 // the first position held
	if len(m.pages) > 0 {
		held = m.pages[0].first
	}
	var w *modelWindow
	if len(m.open) > 0 {
		if w = m.open[m.roll(len(m.open))]; w.model.waits && !m.goOn(w) {
			w = nil // it does nothing
		}
	}
	limit := ringLimits[m.roll(len(ringLimits))]
	if m.roll(3) == 0 {
		limit = 1 + uint64(m.roll(3000)) // many different ones
	}
	did, op := "", m.roll(100)
	switch {
	case op < 8 && len(m.open) < 40:
		m.openWindow(limit)
	case op < 12:
		n := []uint64{0, 0, 1, 3, 30, 300}[m.roll(6)]
		m.oldest = m.retained() // what an earlier call let go does not come back
		switch {
		case n == 0 && m.retain > 0:
			m.reached["retain nothing"]++
		case n > m.retain:
			m.reached["retain more"]++
		case n < m.retain:
			m.reached["retain less"]++
		}
		m.retainTableLocked(n)
		m.retain = n
	case op < 35:
		if did = "append"; !m.keeps() {
			m.reached["append unheard"]++
		}
		for range 1 + m.roll(1<<m.roll(10)) {
			m.putTableLocked(m.end)
			m.publishTableLocked()
			if m.keeps() {
				m.end++
			}
			m.wake(1)
		}
	case op < 45:
		m.put(uint64(m.roll(1<<m.roll(12))), m.roll(4) > 0, func() {
			for len(m.open) > 0 && m.roll(8) == 0 {
				m.close(0)
				m.reached["closed while unpublished"]++
			}
		})
	case op < 50 && len(m.open) > 0:
		did = "close"
		m.close(m.roll(len(m.open)))
	case w == nil:
	case op == 50 && m.roll(2) == 0:
		for len(m.open) > 0 {
			m.close(0)
		}
	case op < 55:
		did = "skip"
		unread := m.between(w, m.end)
		require.Equal(m, step{true, unread, m.resetTo(w)}, w.skipAllTableLocked(12_345))
		w.model.pos, w.model.skipped, w.model.passed = m.end, w.model.skipped+unread, 12_345
		if m.seqOf == nil {
			w.model.passed = m.end
		}
	case op == 55:
		if did = "reset"; !m.keeps() {
			break
		}
		var commits []int
		for range m.roll(3) * m.roll(30) * int(min(m.retain, 1)) {
			commits = append(commits, m.roll(10))
		}
		m.resetRing(commits)
		if len(commits) > 0 {
			m.reached["reset with commits"]++
		}
	case op < 60:
		m.takeRetained(uint64(m.roll(1 << m.roll(12))))
	case op < 65:
		armed := w.arm()
		require.Equal(m, m.ready(w), !armed)
		if w.model.waits = armed; armed {
			m.reached["waits"]++
		}
	case op < 77:
		did = "take"
		m.take(w, 1+m.roll(1<<m.roll(8)))
	case op < 85:
		did = "read"
		m.read(w, 1+m.roll(1<<m.roll(9)))
	default:
		did = "read"
		m.read(w, math.MaxInt)
	}
	if len(m.pages) > 0 && m.pages[0].first > held && held > 0 {
		m.reached["trim on "+did]++
	}
	m.compare()
	m.compareRetained()
	m.check()
}

func TestRingTallyCountsByLimit(t *testing.T) {
	rng := newRand(t)
	reached := make(map[string]int)
	for range 500 {
		var counted tally
		model := make(map[uint64]int)
		limits := 1 + rng.Uint64N(100)
		for range rng.IntN(200) {
			limit, n := 1+rng.Uint64N(limits), 1
			if rng.IntN(2) == 0 && model[limit] > 0 {
				n = -1
			}
			counted.add(limit, n)
			if model[limit] += n; model[limit] == 0 {
				delete(model, limit)
				reached["last of a limit"]++
			}
			require.True(t, maps.Equal(model, counted.counts()))
			var largest uint64
			for limit := range model {
				largest = max(largest, limit)
			}
			require.Equal(t, largest, counted.largest())
			switch one := counted.one; {
			case len(model) == 0:
				require.Nil(t, counted.rest, "an empty tally holds nothing")
				reached["empty"]++
			case one.count == 0:
				reached["only in the tree"]++
			case counted.rest != nil && counted.rest.Has(one):
				reached["a limit counted in two places"]++
			case one.limit == largest:
				reached["the largest is not in the tree"]++
			default:
				reached["the largest is in the tree"]++
			}
		}
	}
	requireOutcomes(t, reached, "last of a limit", "empty", "only in the tree", "a limit counted in two places",
		"the largest is not in the tree", "the largest is in the tree")
}

// A writer may have to wait while a window is opened, and itself drops pages. Both take a
// few steps, though 100,000 windows stall that all have different limits. T6
func TestRingTakesAFewStepsHoweverManyLimitsThereAre(t *testing.T) {
	t.Parallel()
	const n = 100_000
	opening := func(limit func(i int) uint64) (r *ring[int], took time.Duration) {
		r = new(ring[int])
		windows := make([]window[int], n)
		runtime.GC()
		start := time.Now()
		for i := range windows {
			if i == n/2 {
				for range minPage { // the others stand on the next page
					r.append(0)
				}
			}
			r.openTableLocked(&windows[i], limit(i))
		}
		return r, time.Since(start)
	}
	falling, rising, slowest := time.Hour, time.Hour, time.Hour
	for range 3 { // the best counts: others may use the machine
		_, took := opening(func(i int) uint64 { return uint64(i) + 1 })
		rising = min(rising, took)
		r, took := opening(func(i int) uint64 { return uint64(2*n - i%(n/2)*2 - i/(n/2)) }) // even ones on one page, odd ones on the other
		falling = min(falling, took)
		var worst time.Duration
		for range 3 * n {
			start := time.Now()
			r.append(0)
			worst = max(worst, time.Since(start))
		}
		require.Greater(t, r.pages[0].first, uint64(2*minPage), "the pages are dropped")
		slowest = min(slowest, worst)
	}
	t.Logf("opening: %v, in the other order %v; slowest append %v", falling, rising, slowest)
	require.Less(t, slowest, 8*falling, "quadratic, one append takes 25 times as long as to open all windows")
	require.Less(t, rising, 8*falling, "quadratic, one order takes 50 times as long as the other")
}

// A weakRing knows which of its elements can still be reached.
type weakRing struct {
	ring[*weakElement]
	elements []weak.Pointer[weakElement]
}

type weakElement struct{ _ *weakElement } // with a pointer: not for the allocator of tiny objects

// appendMore appends n elements. The windows that keep up read each of them at once.
//
//go:noinline
func (r *weakRing) appendMore(n int, keepUp ...*window[*weakElement]) {
	for range n {
		e := new(weakElement)
		r.elements = append(r.elements, weak.Make(e))
		r.append(e)
		for _, w := range keepUp {
			for {
				if _, skipped, ok := w.readNext(); !ok && skipped == 0 {
					break
				}
			}
		}
	}
}

// reachable returns the positions of elements that are not garbage, as [from, to).
func (r *weakRing) reachable() (spans [][2]int) {
	runtime.GC()
	for pos, e := range r.elements {
		if e.Value() == nil {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1][1] == pos {
			spans[n-1][1]++
		} else {
			spans = append(spans, [2]int{pos, pos + 1})
		}
	}
	return spans
}

// "A ring holds what some window may still read and nothing else, whatever the
// others' limits; a stalled window pins one page." R3
func TestRingHoldsWhatSomeWindowMayRead(t *testing.T) {
	// After the pages that double, one begins at 252 + 256k. One reader keeps up with
	// the first 300 elements, then windows stall; at the end there are 5,000.
	const (
		start, end  = 300, 5000
		tail        = 252 + 18*256
		beforeTail  = tail - 256
		stalledPage = 252
	)
	stalled := [2]int{stalledPage, stalledPage + 256}
	for _, c := range []struct {
		name    string
		stalled []uint64 // their limits
		keepUp  []uint64
		want    [][2]int
	}{
		{"windows that keep up hold no backlog", nil, []uint64{1, 100, 100_000}, [][2]int{{tail, end}}},
		{"a stalled one pins the page it stands on", []uint64{1}, []uint64{100_000}, [][2]int{stalled, {tail, end}}},
		{"a larger limit that keeps up is no matter", []uint64{1000}, []uint64{100_000}, [][2]int{stalled, {3836, end}}},
		{"nor is a smaller one", []uint64{1000}, []uint64{1}, [][2]int{stalled, {3836, end}}},
		{"alone it holds its newest, to within a page", []uint64{1}, nil, [][2]int{stalled, {beforeTail, end}}},
		{"the largest limit of those that stall counts", []uint64{1, 1000, 2}, []uint64{1}, [][2]int{stalled, {3836, end}}},
		{"what is within the limit is held", []uint64{5000, 1}, []uint64{1}, [][2]int{{stalledPage, end}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r weakRing
			open := func(limits []uint64) (windows []*window[*weakElement]) {
				for _, limit := range limits {
					w := new(window[*weakElement])
					r.openTableLocked(w, limit)
					windows = append(windows, w)
				}
				return windows
			}
			first := open([]uint64{1})
			r.appendMore(start, first...)
			stalled, keepUp := open(c.stalled), open(c.keepUp)
			first[0].close()
			r.appendMore(end-start, keepUp...)
			require.Equal(t, c.want, r.reachable())

			for _, w := range stalled {
				w.close()
			}
			if len(keepUp) > 0 {
				require.Equal(t, [][2]int{{tail, end}}, r.reachable(), "closed windows release their pages")
			}
			for _, w := range keepUp {
				w.close()
			}
			require.Empty(t, r.reachable(), "nobody reads")
			require.Nil(t, r.grow(), "nor does an append that meets the last one's close leave a page")
			runtime.KeepAlive([]any{first, stalled, keepUp, &r})
		})
	}
}

// "1,000 stalled subscribers as cheap as one."
func TestRingThousandStalledHoldWhatOneHolds(t *testing.T) {
	held := func(windows int) int {
		var r ring[[4096]byte]
		all := make([]window[[4096]byte], windows)
		size := heldBy(func() {
			for i := range all {
				r.openTableLocked(&all[i], 100_000)
			}
			for range 4000 {
				r.append([4096]byte{})
			}
		})
		runtime.KeepAlive(&r)
		runtime.KeepAlive(all)
		return size
	}
	one := held(1)
	require.Greater(t, one, 4000*4096)
	require.LessOrEqual(t, float64(held(1000)), 1.1*float64(one))
}

// "All it shares with readers is a leaf mutex, held for no user code, and taken only
// to add a page or to wake." T6. And a reader takes it "only at a page's end, to
// wait, or when it is too far behind".
func TestRingMutexIsForPagesAndWaitingOnly(t *testing.T) {
	var r ring[int]
	var w window[int]
	r.openTableLocked(&w, 100)
	for range 13 { // what follows is about the third page
		r.append(0)
		w.readNext()
	}

	r.mu.Lock()
	defer r.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 14 {
			r.append(0)
			r.wake(1)
			w.readNext()
		}
		w.readNext()
		w.drained()
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		require.Fail(t, "the ring's mutex was taken")
	}
}

// "The writer takes one that is behind off the front and wakes it; each that wakes
// takes two more before anything else."
func TestRingWriterWakesOneAndTheWokenTwo(t *testing.T) {
	synctest.Test(t, testRingWake) // a send too many fails in place of blocking
}

func testRingWake(t *testing.T) {
	var r ring[int]
	windows := make([]window[int], 5)
	sent := func() (n []int) {
		for i := range windows {
			n = append(n, len(windows[i].wakeup))
		}
		return n
	}
	for i := range windows {
		r.openTableLocked(&windows[i], 10)
	}
	for i := range windows[:4] {
		require.True(t, windows[i].arm())
	}
	r.wake(1)
	require.Equal(t, []int{0, 0, 0, 0, 0}, sent(), "nothing to read: nobody is woken")

	r.append(1)
	r.wake(1)
	require.Equal(t, []int{1, 0, 0, 0, 0}, sent(), "the one that waited longest")

	woken := &windows[4]
	woken.readNext()
	woken.wakeup = make(chan struct{}, 1)
	woken.wakeup <- struct{}{} // so that its wait is over as it begins
	woken.wait()
	require.Equal(t, []int{1, 1, 1, 0, 0}, sent(), "two by the one that was woken")
	require.False(t, windows[0].arm(), "there is something to read")
}

// The waking protocol, in every interleaving: actors go through the methods of ring
// and window step by step, calling the same small methods in the same order, and
// between two steps of one any other may take a step. An actor that has to wait,
// for the mutex or for its wake-up, cannot take one. Every schedule runs on a real
// ring and from the beginning, for a ring cannot be copied, and is pursued only
// where it leads to a state not seen before.
//
// A step has one effect that others can see, or looks once at what they do. Anything else
// is part of the step before it, for example to unlock the mutex, and to look whether the
// context is done (it may as well have ended just before that step).

// A crowd is a ring and its users.
type crowd struct {
	ring      ring[int]
	windows   []*window[int]
	cancelled []bool // by window: the context is done
	locked    bool   // ring.mu, between two steps of a reader
	actors    []actor
	dequeued  []int // by window: how often it left the queue by another's hand
	received  []int // by window
}

// An actor is a goroutine. Two actors that are equal go on equally.
type actor struct {
	at            string // what it does next; "": it has ended
	then          string // what it does when it has woken others
	window, woken int
	writes        int  // appends to do
	toWake        int  // windows to wake
	slow          bool // the body of its loop never comes back
}

// enabled reports whether a can take a step.
func (c *crowd) enabled(a *actor) bool {
	end := c.ring.end.Load()
	switch a.at {
	case "", "busy":
		return false
	case "append":
		tail := c.ring.tail.Load()
		return !c.locked || tail == nil || end < tail.end()
	case "read":
		w := c.windows[a.window]
		unread, p := end-w.pos.Load(), w.page.Load()
		return !c.locked || unread == 0 || unread <= w.limit && p != nil && w.pos.Load() < p.end()
	case "enter queue", "take", "close window":
		return !c.locked
	case "receive":
		return len(c.windows[a.window].wakeup) > 0
	case "close ring": // Table.Drop and writes exclude each other
		return !slices.ContainsFunc(c.actors, func(a actor) bool { return a.writes > 0 })
	}
	return true
}

// wake makes a wake n windows before it goes on.
func (a *actor) wake(n int, then string) { a.at, a.toWake, a.then = "look at queue", n, then }

// step takes the next step of a, which is enabled.
func (c *crowd) step(a *actor) error {
	w := c.windows[a.window]
	switch a.at {
	// Table.write and Table.Drop
	case "append":
		a.writes--
		c.ring.append(0)
		a.wake(1, "append")
		if a.writes == 0 {
			a.then = ""
		}
	case "close ring":
		c.ring.close()
		a.wake(1, "")

	// ring.wake, and takeParked in two steps: that it looks again is no matter
	case "look at queue":
		a.at = "take"
		if c.ring.parked.Load() == 0 {
			a.at = a.then
		}
	case "take":
		a.at = a.then
		if taken := c.ring.takeParked(); taken != nil {
			a.at, a.woken = "send", slices.Index(c.windows, taken)
			c.dequeued[a.woken]++
		}
	case "send":
		select {
		case c.windows[a.woken].wakeup <- struct{}{}:
		default:
			return fmt.Errorf("a second send to window %d", a.woken)
		}
		a.at, a.woken = "look at queue", 0
		if a.toWake--; a.toWake == 0 {
			a.at = a.then
		}

	// The end of a context, window.close
	case "cancel":
		c.cancelled[a.window] = true
		a.at = "close window"
	case "close window":
		a.at = ""
		if w.closeQuietly() {
			a.at, a.woken, a.toWake = "send", a.window, 1
			c.dequeued[a.woken]++
		}

	// feed.changes
	case "read":
		_, skipped, ok := w.readNext()
		switch {
		case !ok && skipped == 0:
			a.at = "look for end"
		case a.slow:
			a.at = "busy"
		}
	case "look for end":
		end := c.ring.end.Load()
		a.at = "enter queue"
		if w.drained() {
			a.at = ""
			if w.pos.Load() != end {
				return fmt.Errorf("window %d: drained at %d of %d", a.window, w.pos.Load(), end)
			}
		}

	// window.wait, window.park
	case "enter queue":
		c.ring.mu.Lock()
		c.locked = true
		w.enterQueueLocked()
		a.at = "stay or leave"
	case "stay or leave":
		a.at = "read"
		if w.stayLocked() {
			a.at = "receive"
		}
		c.ring.mu.Unlock()
		c.locked = false
	case "receive":
		<-w.wakeup
		c.received[a.window]++
		a.wake(2, "read")
	}
	if a.at == "read" && c.cancelled[a.window] {
		a.at = ""
	}
	return nil
}

// A crowdState is all that decides how a crowd goes on.
type crowdState struct {
	actors         [6]actor
	windows        [4]windowState
	queue          [4]int // indexes of windows, from 1
	end            uint64
	oldest, tail   uint64 // the first positions of the pages
	closed, locked bool
}

type windowState struct {
	pos, page         uint64
	sent              int
	closed, cancelled bool
}

func (c *crowd) state() (s crowdState) {
	copy(s.actors[:], c.actors)
	for i, w := range c.windows {
		s.windows[i] = windowState{pos: w.pos.Load(), sent: len(w.wakeup), closed: true, cancelled: c.cancelled[i]}
		if p := w.page.Load(); p != nil {
			s.windows[i].page, s.windows[i].closed = p.first, false
		}
	}
	for i, w := range c.queued() {
		s.queue[i] = 1 + slices.Index(c.windows, w)
	}
	if n := len(c.ring.pages); n > 0 {
		s.oldest, s.tail = c.ring.pages[0].first, c.ring.pages[n-1].first
	}
	s.end, s.closed, s.locked = c.ring.end.Load(), c.ring.isClosed(), c.locked
	return s
}

func (c *crowd) queued() (windows []*window[int]) {
	for w := c.ring.queue.front; w != nil; w = w.next {
		windows = append(windows, w)
	}
	return windows
}

// check checks what holds at any time.
func (c *crowd) check() error {
	queued := c.queued()
	if c.locked {
		return nil
	}
	if n := c.ring.parked.Load(); n != int32(len(queued)) {
		return fmt.Errorf("%d in the queue, %d counted", len(queued), n)
	}
	if !slices.IsSortedFunc(queued, func(a, b *window[int]) int { return cmp.Compare(a.pos.Load(), b.pos.Load()) }) {
		return errors.New("the queue is not in order of position")
	}
	for i, w := range c.windows {
		if w.queuedLocked() != slices.Contains(queued, w) {
			return fmt.Errorf("window %d: queued is %t", i, w.queuedLocked())
		}
	}
	return nil
}

// checkEnd checks a state in which nobody can take a step.
func (c *crowd) checkEnd() error {
	for i, w := range c.windows {
		if c.dequeued[i] != c.received[i] || len(w.wakeup) > 0 {
			return fmt.Errorf("window %d: left the queue by another's hand %d times, woken %d times", i, c.dequeued[i], c.received[i])
		}
	}
	for _, a := range c.actors {
		w := c.windows[a.window]
		switch {
		case a.at == "" || a.at == "busy":
		case a.at != "receive":
			return fmt.Errorf("an actor cannot %s", a.at)
		case w.pos.Load() != c.ring.end.Load():
			return fmt.Errorf("F3: window %d waits while there is something to read", a.window)
		case c.ring.isClosed() || c.cancelled[a.window]:
			return fmt.Errorf("F4: window %d waits after the end", a.window)
		case !w.queuedLocked():
			return fmt.Errorf("window %d waits outside the queue", a.window)
		}
	}
	return nil
}

// A crowdCase is a crowd to be.
type crowdCase struct {
	name    string
	readers int
	slow    int   // so many of them
	writes  []int // of each writer
	cancel  []int // windows
	drop    bool
	start   int    // position
	limit   uint64 // of each window; 0: large
}

// crowd returns it after some steps, each of an actor by index.
func (cc crowdCase) crowd(schedule ...int) *crowd {
	c := &crowd{
		windows:   make([]*window[int], cc.readers),
		cancelled: make([]bool, cc.readers),
		dequeued:  make([]int, cc.readers),
		received:  make([]int, cc.readers),
	}
	for i := range c.windows {
		c.windows[i] = new(window[int])
		c.ring.openTableLocked(c.windows[i], cmp.Or(cc.limit, 100))
		c.actors = append(c.actors, actor{at: "read", then: "read", window: i, slow: i < cc.slow})
	}
	for range cc.start {
		c.ring.append(0)
		for _, w := range c.windows {
			w.readNext()
		}
	}
	for _, n := range cc.writes {
		c.actors = append(c.actors, actor{at: "append", writes: n})
	}
	for _, i := range cc.cancel {
		c.actors = append(c.actors, actor{at: "cancel", window: i})
	}
	if cc.drop {
		c.actors = append(c.actors, actor{at: "close ring"})
	}
	for _, i := range schedule {
		c.step(&c.actors[i])
	}
	return c
}

func (cc crowdCase) fail(t *testing.T, schedule []int, err error) {
	for n, i := range schedule {
		t.Logf("actor %d: %s", i, cc.crowd(schedule[:n]...).actors[i].at)
	}
	require.NoError(t, err)
}

// F3: "a loop that waits while it has something to read is woken, even if other loops
// stall or exit." F4: "After ctx is done or the table dropped, every waiting loop ends."
// And "every enqueue gets exactly one send".
func TestRingWakesInEveryInterleaving(t *testing.T) {
	t.Parallel()
	for _, cc := range []crowdCase{
		{name: "one reader", readers: 1, writes: []int{2}},
		{name: "two readers", readers: 2, writes: []int{2}},
		{name: "three readers", readers: 3, writes: []int{1}},
		{name: "two writers", readers: 2, writes: []int{1, 1}},
		{name: "slow reader", readers: 2, slow: 1, writes: []int{2}},
		{name: "slow readers", readers: 3, slow: 3, writes: []int{1}},
		{name: "cancel", readers: 2, writes: []int{1}, cancel: []int{0}},
		{name: "cancel all", readers: 2, writes: []int{1}, cancel: []int{0, 1}},
		{name: "cancel one of three", readers: 3, slow: 3, writes: []int{1}, cancel: []int{1}},
		{name: "drop", readers: 2, drop: true},
		{name: "drop after write", readers: 2, writes: []int{1}, drop: true},
		{name: "drop and cancel", readers: 2, cancel: []int{0}, drop: true},
		{name: "page's end", readers: 2, writes: []int{2}, start: 7},
		{name: "overflow", readers: 2, writes: []int{3}, limit: 2},
		{name: "four slow readers", readers: 4, slow: 4, writes: []int{1}},
	} {
		t.Run(cc.name, func(t *testing.T) {
			seen := make(map[crowdState]struct{})
			ends := 0
			var pursue func(c *crowd, schedule []int)
			follow := func(c *crowd, schedule []int) {
				i := schedule[len(schedule)-1]
				if err := c.step(&c.actors[i]); err != nil {
					cc.fail(t, schedule, err)
				}
				pursue(c, schedule)
			}
			pursue = func(c *crowd, schedule []int) {
				s := c.state()
				if _, again := seen[s]; again {
					return
				}
				seen[s] = struct{}{}
				if err := c.check(); err != nil {
					cc.fail(t, schedule, err)
				}
				var next []int
				for i := range c.actors {
					if c.enabled(&c.actors[i]) {
						next = append(next, i)
					}
				}
				for n, i := range next {
					if n > 0 {
						c = cc.crowd(schedule...) // the one at hand has gone on
					}
					follow(c, append(schedule, i))
				}
				if len(next) == 0 {
					ends++
					if err := c.checkEnd(); err != nil {
						cc.fail(t, schedule, err)
					}
				}
			}
			pursue(cc.crowd(), nil)
			t.Logf("%d states, %d ends", len(seen), ends)
			require.Greater(t, len(seen), 100, "this is no check of every interleaving")
			require.Positive(t, ends)
		})
	}
}

// "A waiter enqueues before it loads the end; a writer stores the end before it looks
// at the queue." Here the one does so while the other does, again and again.
func TestRingWaitsWhileAnElementComes(t *testing.T) {
	const rounds = 100_000
	seed := testSeed(t)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	synctest.Test(t, func(t *testing.T) { // fails if both wait
		var (
			r    ring[int]
			w    window[int]
			read atomic.Int64
		)
		progress := make(chan struct{}, 1)
		r.openTableLocked(&w, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			for read.Load() < rounds {
				if _, _, ok := w.readNext(); !ok {
					w.wait()
					continue
				}
				read.Add(1)
				select {
				case progress <- struct{}{}:
				default:
				}
			}
		})
		rng := rand.New(rand.NewPCG(seed, 0))
		for n := range int64(rounds) {
			r.append(0)
			r.wake(1)
			for spins := 1000; read.Load() <= n; spins-- {
				if spins < 0 {
					<-progress
				}
			}
			for range rng.IntN(100) { // until about when it waits
				read.Load()
			}
		}
		wg.Wait()
	})
}

// R2, exact at one moment: a window that never has more than one element unread has
// never skipped any, and says so also while it reads.
func TestRingUsageIsOfOneMoment(t *testing.T) {
	t.Parallel()
	var r ring[int]
	var w window[int]
	r.openTableLocked(&w, 1)
	var over atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1_000_000 {
			r.append(0)
			w.readNext()
		}
		over.Store(true)
	})
	for last := w.usage(); !over.Load(); {
		u := w.usage()
		if u.skipped != 0 || u.buffered > 1 || u.delivered < last.delivered || u.delivered != u.passed {
			require.Fail(t, "R2", "%+v", u)
		}
		last = u
	}
	wg.Wait()
}

// A page costs its head, its slots and its place in the directory; to
// append, read, wait and wake cost nothing on top of that.
func TestRingAllocatesForPagesOnly(t *testing.T) {
	for name, f := range map[string]func(*ring[int], *window[int]){
		"append": func(r *ring[int], _ *window[int]) { r.append(0) },
		"read": func(r *ring[int], w *window[int]) {
			r.append(0)
			w.readNext()
			w.readNext()
		},
		"wait": func(r *ring[int], w *window[int]) {
			if !w.arm() {
				panic("something to read")
			}
			r.append(0)
			r.wake(1)
			<-w.wakeup
			r.wake(2)
			w.readNext()
		},
		"overflow": func(r *ring[int], w *window[int]) {
			r.append(0)
			r.append(0)
			w.readNext()
			w.usage()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var r ring[int]
			var w window[int]
			for i := range 100 { // windows that stall, each with a limit of its own
				r.openTableLocked(new(window[int]), uint64(i)+1)
			}
			r.openTableLocked(&w, 1)
			page := func() {
				for first := r.tail.Load().first; r.tail.Load().first == first; {
					f(&r, &w)
				}
			}
			for range 10 { // to the largest page
				page()
			}
			n := testing.AllocsPerRun(100, page)
			require.LessOrEqual(t, n, 3.0)
		})
	}
}

// append puts one element and publishes it, as a single write does.
func (r *ring[T]) append(v T) {
	r.putTableLocked(v)
	r.publishTableLocked()
}

// A watchedContext calls a function each time that it has looked whether it is done.
type watchedContext struct {
	context.Context
	looked func()
}

func (c *watchedContext) Err() error {
	err := c.Context.Err()
	c.looked()
	return err
}

// A context may end as soon as a reader has looked at it. Then the window is closed, and
// if it was the last one the ring begins anew, on another page. The reader takes nothing
// more from its own page, the rest of which was never written. R1
func TestRingReadsNothingThatCameAfterTheContextEnded(t *testing.T) {
	for unread := range minPage {
		for name, read := range map[string]func(w *window[int], ctx context.Context) []int{
			"take": func(w *window[int], ctx context.Context) []int { return w.taken(ctx, 100) },
			"deliver": func(w *window[int], ctx context.Context) (got []int) {
				w.deliver(ctx, func(v int, _ error) bool {
					got = append(got, v)
					return true
				})
				return got
			},
		} {
			t.Run(fmt.Sprintf("%s/%d", name, unread), func(t *testing.T) {
				var r ring[int]
				var w, next window[int]
				r.openTableLocked(&w, 100)
				for range unread {
					r.append(1)
				}
				inner, cancel := context.WithCancel(t.Context())
				ctx := &watchedContext{inner, func() {
					if inner.Err() != nil {
						return
					}
					cancel()
					w.close()
					require.Empty(t, r.pages)
					r.openTableLocked(&next, 100)
					for range 2 * minPage {
						r.append(2)
					}
				}}
				want := slices.Repeat([]int{1}, unread)
				if name == "deliver" {
					want = want[:min(unread, 1)] // it looks before each
				}
				require.ElementsMatch(t, want, read(&w, ctx))
				require.Equal(t, unread > 0, inner.Err() != nil, "the context has ended while it was read")
				require.Empty(t, read(&w, t.Context()), "the window is closed")
			})
		}
	}
}

// R3 holds when a publication is large, too: once it is there, the pages that nobody
// may still read are gone.
func TestRingHoldsLittleAfterALargePublication(t *testing.T) {
	const n = 5000
	publish := func(r *weakRing) {
		for range n {
			e := new(weakElement)
			r.elements = append(r.elements, weak.Make(e))
			r.putTableLocked(e)
		}
		r.publishTableLocked()
	}
	for _, c := range []struct {
		name   string
		limits []uint64
		retain uint64
		most   int // held, and two pages: the stalled one's and the rest of another
	}{
		{"one stalled", []uint64{1}, 0, 1},
		{"some stalled", []uint64{1, 1000, 3}, 0, 1000},
		{"retained", nil, 700, 700},
		{"retained beside one stalled", []uint64{1}, 700, 700},
	} {
		var r weakRing
		windows := make([]window[*weakElement], len(c.limits))
		r.retainTableLocked(c.retain)
		for i := range windows {
			r.openTableLocked(&windows[i], c.limits[i])
		}
		publish(&r)
		held := 0
		for _, span := range r.reachable() {
			held += span[1] - span[0]
		}
		require.GreaterOrEqual(t, held, c.most, c.name)
		require.Less(t, held, c.most+2*maxPage, c.name)
		for i := range windows {
			_, skipped, _ := windows[i].readNext()
			require.Equal(t, n-c.limits[i], skipped)
		}
		runtime.KeepAlive(&r)
	}
}

// A ringPoll is a window that polls, and the channel on which it is notified.
type ringPoll struct {
	window[int]
	wake chan struct{}
}

func newRingPoll(r *ring[int], room int) *ringPoll {
	p := &ringPoll{wake: make(chan struct{}, room)}
	p.notify = p.wake
	r.openTableLocked(&p.window, 100)
	return p
}

// A window that polls is notified once, without blocking, when there is something to read
// or the end. It does not wait, and leaves the queue when it reads.
func TestRingPolls(t *testing.T) {
	for name, something := range map[string]func(r *ring[int], p *ringPoll){
		"append":     func(r *ring[int], _ *ringPoll) { r.append(0); r.append(0); r.wake(1) },
		"close ring": func(r *ring[int], _ *ringPoll) { r.close(); r.wake(1) },
		"close":      func(_ *ring[int], p *ringPoll) { p.close(); p.close() },
	} {
		for room := range 3 {
			var r ring[int]
			p := newRingPoll(&r, room)
			require.True(t, p.arm(), name)
			r.wake(1)
			require.Empty(t, p.wake)
			require.EqualValues(t, 1, r.parked.Load())
			something(&r, p)
			r.wake(1)
			require.Len(t, p.wake, min(room, 1), name)
			require.Zero(t, r.parked.Load())
			require.False(t, p.arm(), "%s: nothing to wait for", name)
			require.Zero(t, r.parked.Load())
		}
	}
	var r ring[int]
	p := newRingPoll(&r, 1)
	p.disarm() // it is not there
	require.True(t, p.arm())
	p.disarm()
	require.Nil(t, r.queue.front)
	require.Zero(t, r.parked.Load())
	r.append(0)
	r.wake(1)
	require.Empty(t, p.wake, "it does not want it any more")
	require.False(t, p.arm())
}

// Windows that poll and windows that wait are in one queue, in every order. The writer's one
// wake-up, and the two of each woken window, reach each of them once. A window that polls
// does not run when it is notified, so it wakes no other and does not count. F3
func TestRingForgetsNobodyInAMixedQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 7
		for polling := range 1 << n {
			for leaves := range n { // one is closed while it is in the queue
				var r ring[int]
				var polls []*ringPoll
				windows := make([]*window[int], n)
				for i := range n {
					if polling>>i&1 == 1 {
						p := newRingPoll(&r, 5)
						polls = append(polls, p)
						windows[i] = &p.window
					} else {
						windows[i] = new(window[int])
						r.openTableLocked(windows[i], 100)
					}
					require.True(t, windows[i].arm())
				}
				windows[leaves].close()
				r.append(0)
				r.wake(1)
				synctest.Wait()
				for woken := 0; ; { // each that was woken wakes two more
					again := false
					for _, w := range windows {
						if !w.polls() && len(w.wakeup) > 0 {
							<-w.wakeup
							woken++
							again = true
							r.wake(2)
							synctest.Wait()
						}
					}
					if !again {
						require.Equal(t, n-len(polls), woken, "polling: %07b, %d leaves", polling, leaves)
						break
					}
				}
				for _, p := range polls {
					require.Len(t, p.wake, 1, "polling: %07b, %d leaves", polling, leaves)
				}
				require.Zero(t, r.parked.Load())
				require.Equal(t, uint32(wakerIdle), r.waker.Load())
			}
		}
	})
}

// An append wakes one window that waits. It leaves the queue to the goroutine if that runs, and
// starts it only if there are several windows, the first of which polls.
func TestRingStartsOneWaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r ring[int]
		waiting := make([]window[int], 3)
		for i := range waiting {
			r.openTableLocked(&waiting[i], 100)
			require.True(t, waiting[i].arm())
		}
		r.append(0)
		r.wake(1)
		require.Equal(t, []int{1, 0, 0}, []int{len(waiting[0].wakeup), len(waiting[1].wakeup), len(waiting[2].wakeup)})
		r.wake(2)
		require.Zero(t, r.parked.Load())

		polls := []*ringPoll{newRingPoll(&r, 5), newRingPoll(&r, 5)}
		require.True(t, polls[0].window.arm())
		r.append(1)
		r.wake(1)
		require.Len(t, polls[0].wake, 1, "one is notified at once")
		polls[0].window.pos.Store(2)
		<-polls[0].wake

		for _, p := range polls {
			p.window.pos.Store(2)
			require.True(t, p.window.arm())
		}
		r.append(2)
		r.waker.Store(wakerRuns) // as if it ran
		r.wake(1)
		r.wake(1)
		synctest.Wait()
		require.Equal(t, int32(2), r.parked.Load(), "they are left to it")
		require.Equal(t, uint32(wakerAgain), r.waker.Load())
		require.False(t, r.waker.CompareAndSwap(wakerRuns, wakerIdle), "it cannot end")
		r.runWaker(nil)
		require.Equal(t, uint32(wakerIdle), r.waker.Load())
		for _, p := range polls {
			require.Len(t, p.wake, 1)
		}
	})
}
