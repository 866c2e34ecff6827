package changefeed

import "github.com/google/btree"

// A snapshot is the rows of a part as they were, to be visited forward or backward, not
// both. A second call goes on after the last row that was visited. It is for one
// goroutine at a time.
type snapshot[K, V any] struct {
	forward, backward func(visit func(key K, row *V) bool)
}

// snapshotOfRow returns the snapshot of one row, or of none if it is nil.
func snapshotOfRow[K, V any](t *Table[K, V], row *V) *snapshot[K, V] {
	visitLeft := func(visit func(key K, row *V) bool) {
		if left := row; left != nil {
			row = nil
			visit(t.key(left), left)
		}
	}
	return &snapshot[K, V]{visitLeft, visitLeft}
}

// A sorted is a B-tree and a clone of it to read from.
type sorted[E any] struct {
	tree     *btree.BTreeG[E]
	snapshot *btree.BTreeG[E] // a clone of tree as it is, or nil
	clones   *uint64          // the table's
}

func (s *sorted[E]) put(e E) {
	s.snapshot = nil
	s.tree.ReplaceOrInsert(e)
}

func (s *sorted[E]) remove(e E) {
	s.snapshot = nil
	s.tree.Delete(e)
}

func (s *sorted[E]) clear() {
	s.snapshot = nil
	s.tree.Clear(false)
}

// frozenLocked returns the tree as it is now, which nobody will write to. It is kept
// for others until the next write, and never made for a write, which would have to
// copy nodes each time. Without the right to clone, for which the table's lock must
// be held for writing, it may return nil.
func (s *sorted[E]) frozenLocked(mayClone bool) *btree.BTreeG[E] {
	if s.snapshot == nil && mayClone {
		s.snapshot = s.tree.Clone() // T5: Clone writes to the tree that it reads
		*s.clones++
	}
	return s.snapshot
}

// A walk visits the rows of a tree to which nobody writes: those in the cells that
// cellOf returns, until it reports that an entry is not in the part any more.
//
// It collects some cells before it looks into them. They lie anywhere in memory, as rows
// do, and the processor waits for several at a time, but not for one behind a call of
// the visitor (BenchmarkScan).
type walk[E, K, V any] struct {
	all    func(visit btree.ItemIteratorG[E])          // goes through the tree
	from   func(first E, visit btree.ItemIteratorG[E]) // goes through it from an element on
	first  *E                                          // where it begins; nil: with all
	cellOf func(e E) (c *cell[K, V], inPart bool)      // nil: none to visit
	key    func(row *V) K

	begun, ended bool
	last         E             // collected
	cells        []*cell[K, V] // collected
	rows         []*V          // that were in them
	keys         []K           // of the rows
	next         int           // row to visit
}

// The first rows come soon, and few rows cost little.
const (
	minWalk = 8
	maxWalk = 64
)

// walks returns the snapshot of a tree: forward from first on, and backward from last
// on, or through all of it.
func walks[E, K, V any](t *Table[K, V], tree *btree.BTreeG[E], first, last *E, forward, backward func(e E) (c *cell[K, V], inPart bool)) *snapshot[K, V] {
	up := &walk[E, K, V]{all: tree.Ascend, from: tree.AscendGreaterOrEqual, first: first, cellOf: forward, key: t.key}
	down := &walk[E, K, V]{all: tree.Descend, from: tree.DescendLessOrEqual, first: last, cellOf: backward, key: t.key}
	return &snapshot[K, V]{up.goOn, down.goOn}
}

// goOn visits the rows that were not visited yet.
func (w *walk[E, K, V]) goOn(visit func(key K, row *V) bool) {
	if !w.visitRows(visit) || w.ended {
		return
	}
	if w.cells == nil {
		w.cells = make([]*cell[K, V], 0, minWalk)
	}
	w.cells = w.cells[:0] // those left when key panicked come again
	again, more := w.begun, true
	collect := func(e E) bool {
		if again {
			again = false
			return true // it is last, and was collected
		}
		c, inPart := w.cellOf(e)
		if !inPart {
			return false
		}
		if c != nil {
			w.cells = append(w.cells, c)
		}
		if len(w.cells) < cap(w.cells) {
			return true
		}
		w.lookUp()
		w.last, w.begun = e, true
		more = w.visitRows(visit)
		return more
	}
	switch {
	case w.begun:
		w.from(w.last, collect)
	case w.first != nil:
		w.from(*w.first, collect)
	default:
		w.all(collect)
	}
	if more {
		w.lookUp()
		w.ended = true
		w.visitRows(visit)
	}
}

// lookUp finds the rows in the cells that were collected.
func (w *walk[E, K, V]) lookUp() {
	rows, keys := w.rows[:0], w.keys[:0]
	for _, c := range w.cells {
		if row := c.row; row != nil {
			rows = append(rows, row)
		}
	}
	for _, row := range rows { // a loop of its own: these wait for memory together, too
		keys = append(keys, w.key(row))
	}
	w.rows, w.keys, w.next = rows, keys, 0
	w.cells = w.cells[:0]
	if n := cap(w.cells); n < maxWalk {
		w.cells = make([]*cell[K, V], 0, 2*n)
	}
}

// visitRows visits the rows that were found, and reports whether there may be more.
func (w *walk[E, K, V]) visitRows(visit func(key K, row *V) bool) bool {
	rows, keys := w.rows, w.keys
	for i := w.next; i < len(rows); i++ {
		w.next = i + 1 // before, for visit may panic
		if !visit(keys[i], rows[i]) {
			return false
		}
	}
	return true
}
