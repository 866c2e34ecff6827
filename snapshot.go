package changefeed

import "github.com/google/btree"

// A snapshot is the rows of a part as they were. Forward, when it is called again, goes
// on after the last row that it visited. Each is for one goroutine at a time.
type snapshot[K, V any] struct {
	forward, backward func(visit func(key K, row *V) bool)
}

// snapshotOfRow returns the snapshot of one row, or of none if it is nil.
func snapshotOfRow[K, V any](t *Table[K, V], row *V) *snapshot[K, V] {
	left := row
	return &snapshot[K, V]{
		forward: func(visit func(key K, row *V) bool) {
			if row := left; row != nil {
				left = nil
				visit(t.key(row), row)
			}
		},
		backward: func(visit func(key K, row *V) bool) {
			if row != nil {
				visit(t.key(row), row)
			}
		},
	}
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

// A walk visits the rows of a tree to which nobody writes, those whose cells cellOf
// returns, until it reports that there are no more. When it is called again, it goes on
// after the last row that it visited.
//
// It collects some cells before it looks into them. They lie anywhere in memory, as rows
// do, and the processor waits for several at a time, but not for one behind a call of
// the visitor (BenchmarkScan).
type walk[E, K, V any] struct {
	each   func(from *E, visit func(e E) bool) // from nil: all
	from   *E
	cellOf func(e E) (c *cell[K, V], more bool) // nil: none
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

// ascending returns a walk in the order of the tree, from first or from its beginning.
func ascending[E, K, V any](t *Table[K, V], tree *btree.BTreeG[E], first *E, cellOf func(e E) (c *cell[K, V], more bool)) func(visit func(key K, row *V) bool) {
	w := &walk[E, K, V]{from: first, cellOf: cellOf, key: t.key}
	w.each = func(from *E, visit func(e E) bool) {
		if from == nil {
			tree.Ascend(visit)
		} else {
			tree.AscendGreaterOrEqual(*from, visit)
		}
	}
	return w.visit
}

// descending returns a walk against the order of the tree, from last or from its end.
func descending[E, K, V any](t *Table[K, V], tree *btree.BTreeG[E], last *E, cellOf func(e E) (c *cell[K, V], more bool)) func(visit func(key K, row *V) bool) {
	w := &walk[E, K, V]{from: last, cellOf: cellOf, key: t.key}
	w.each = func(from *E, visit func(e E) bool) {
		if from == nil {
			tree.Descend(visit)
		} else {
			tree.DescendLessOrEqual(*from, visit)
		}
	}
	return w.visit
}

func (w *walk[E, K, V]) visit(visit func(key K, row *V) bool) {
	if !w.visitRows(visit) || w.ended {
		return
	}
	from, again := w.from, w.begun
	if again {
		from = &w.last // which comes first, and was collected
	}
	more := true
	if w.cells == nil {
		w.cells = make([]*cell[K, V], 0, minWalk)
	}
	w.cells = w.cells[:0] // if cellOf panicked
	w.each(from, func(e E) bool {
		if again {
			again = false
			return true
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
	})
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
	for _, row := range rows {
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
