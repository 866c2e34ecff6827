package changefeed

import "github.com/google/btree"

// A snapshot is the rows of a part at one moment. They can be visited either forward or
// backward. A second call resumes after the last row that was visited. A snapshot is for
// one goroutine at a time.
type snapshot[K, V any] struct {
	forward, backward func(visit func(key K, row *V) bool)
}

// snapshotOfRow returns the snapshot of one row, or an empty one if the row is nil.
func snapshotOfRow[K, V any](key func(row *V) K, row *V) *snapshot[K, V] {
	visitLeft := func(visit func(key K, row *V) bool) {
		if left := row; left != nil {
			row = nil
			visit(key(left), left)
		}
	}
	return &snapshot[K, V]{visitLeft, visitLeft}
}

// A walk visits the rows of a tree that is not modified. It visits the rows in the cells
// that cellOf returns, until cellOf reports that an element is not in the part.
//
// It collects several cells before it reads the rows in them. Cells and rows are scattered
// in memory, and a processor can load several of them at the same time. It cannot if there
// is a call of the visitor after each of them (BenchmarkScan).
type walk[E, K, V any] struct {
	all    func(visit btree.ItemIteratorG[E])          // iterates over the tree
	from   func(first E, visit btree.ItemIteratorG[E]) // iterates over it from an element on
	first  *E                                          // where the walk begins, or nil for all
	cellOf func(e E) (c *cell[K, V], inPart bool)      // c is nil if there is none to visit
	key    func(row *V) K

	started, ended bool
	last           E             // the last element collected
	cells          []*cell[K, V] // collected, but not looked into yet
	rows           []*V          // found in cells
	keys           []K           // of rows
	next           int           // index of the next row to visit
}

// The number of cells collected at a time doubles from minWalk to maxWalk. The first rows
// therefore come soon, and a few rows cost little.
const (
	minWalk = 8
	maxWalk = 64
)

// walks returns the snapshot of a tree. The forward walk begins at first, and its cellOf is
// forward. The backward walk begins at last, and its cellOf is backward. If first or last
// is nil, that walk covers the whole tree.
func walks[E, K, V any](key func(row *V) K, tree *btree.BTreeG[E], first, last *E, forward, backward func(e E) (c *cell[K, V], inPart bool)) *snapshot[K, V] {
	up := &walk[E, K, V]{all: tree.Ascend, from: tree.AscendGreaterOrEqual, first: first, cellOf: forward, key: key}
	down := &walk[E, K, V]{all: tree.Descend, from: tree.DescendLessOrEqual, first: last, cellOf: backward, key: key}
	return &snapshot[K, V]{up.resume, down.resume}
}

// resume visits the rows that have not been visited yet.
func (w *walk[E, K, V]) resume(visit func(key K, row *V) bool) {
	if !w.visitRows(visit) || w.ended {
		return
	}
	if w.cells == nil {
		w.cells = make([]*cell[K, V], 0, minWalk)
	}
	w.cells = w.cells[:0] // cells left by a panic in key are collected again
	skipFirst, more := w.started, true
	collect := func(e E) bool {
		if skipFirst {
			skipFirst = false
			return true // e is w.last, which has been collected
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
		w.last, w.started = e, true
		more = w.visitRows(visit)
		return more
	}
	switch {
	case w.started:
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

// lookUp reads the rows in the cells that were collected, and their keys.
func (w *walk[E, K, V]) lookUp() {
	rows, keys := w.rows[:0], w.keys[:0]
	for _, c := range w.cells {
		if row := c.row; row != nil {
			rows = append(rows, row)
		}
	}
	for _, row := range rows { // a second loop, so that the loads of rows overlap, too
		keys = append(keys, w.key(row))
	}
	w.rows, w.keys, w.next = rows, keys, 0
	w.cells = w.cells[:0]
	if n := cap(w.cells); n < maxWalk {
		w.cells = make([]*cell[K, V], 0, 2*n)
	}
}

// visitRows visits the rows that were found. It returns false if visit did.
func (w *walk[E, K, V]) visitRows(visit func(key K, row *V) bool) bool {
	rows, keys := w.rows, w.keys
	for i := w.next; i < len(rows); i++ {
		w.next = i + 1 // first, because visit may panic
		if !visit(keys[i], rows[i]) {
			return false
		}
	}
	return true
}
