package changefeed

import (
	"unsafe"

	"github.com/google/btree"
)

// A scan reads the rows of a part, in order, as they were when the scan began. It is for one
// goroutine at a time. Each scan has to be closed.
//
// It reads several rows at a time. Cells and rows are scattered in memory, and a processor
// can load several of them at the same time. It cannot if a loop's body runs after each of
// them (BenchmarkScan).
type scan[K, V any] struct {
	source cellSource[K, V]

	// Where the rows are read: in a snapshot, of which the scan is a reader. Otherwise in
	// recorded, and if a cell is not there, in the running transaction tx.
	snapshot *snapshot[K, V]
	recorded map[*cell[K, V]]*V
	tx       *txState[K, V]

	// The rows that were read last, and their cells.
	rows  []*V
	cells []*cell[K, V]

	loaded byte // depends on all rows, so that the compiler keeps the loads
}

// A cellSource has the cells of a part, in order.
type cellSource[K, V any] interface {
	// each passes the cells to visit, several at a time, until visit returns false. A later
	// call goes on after the cells that were passed last, also if visit panicked or is still
	// running. The slice belongs to visit.
	each(visit func(cells []*cell[K, V]) (more bool))
}

// The number of cells passed at a time doubles from minCells to maxCells. The first rows
// therefore come soon, and a few rows cost little.
const (
	minCells = 8
	maxCells = 64
)

// scanRow returns a scan of one row, or of none if it is nil.
func scanRow[K, V any](c *cell[K, V], row *V) *scan[K, V] {
	if row == nil {
		return &scan[K, V]{source: &cellList[K, V]{}}
	}
	return &scan[K, V]{source: &cellList[K, V]{c}, recorded: map[*cell[K, V]]*V{c: row}}
}

// each reads the rows in chunks, and calls visit after each chunk, until visit returns false.
// A later call resumes with the next chunk.
func (s *scan[K, V]) each(visit func() (more bool)) {
	source, more := s.source, true
	source.each(func(cells []*cell[K, V]) bool {
		s.cells = cells
		s.readRows()
		more = len(s.rows) == 0 || visit()
		return more && s.source == source
	})
	if more && s.source != source { // visit has ended the transaction
		s.each(visit)
	}
}

// readRows reads the rows in the cells, and leaves out the cells without a row. The first
// loop only loads cells, and the last one rows, so that the loads overlap.
func (s *scan[K, V]) readRows() {
	cells := s.cells
	if cap(s.rows) < len(cells) {
		s.rows = make([]*V, len(cells))
	}
	rows := s.rows[:len(cells)]
	for i, c := range cells {
		rows[i] = c.row.Load()
	}
	missing := false
	for i, c := range cells {
		if s.snapshot == nil || c.versions.Load() != nil {
			rows[i] = s.rowIn(c, rows[i])
		}
		missing = missing || rows[i] == nil
	}
	if missing {
		n := 0
		for i, row := range rows {
			if row != nil {
				rows[n], cells[n] = row, cells[i]
				n++
			}
		}
		rows, cells = rows[:n], cells[:n]
	}
	loaded := s.loaded
	for _, row := range rows {
		loaded += *(*byte)(unsafe.Pointer(row))
	}
	s.rows, s.cells, s.loaded = rows, cells, loaded
}

// rowIn returns the scan's row in a cell, whose published row was loaded before.
func (s *scan[K, V]) rowIn(c *cell[K, V], published *V) *V {
	if s.snapshot != nil {
		return c.rowAt(published, s.snapshot.moment)
	}
	if row, ok := s.recorded[c]; ok {
		return row
	}
	return c.latest()
}

// record records the row in a cell for the scan, unless one is recorded. It is called before
// the transaction writes to the cell.
func (s *scan[K, V]) record(c *cell[K, V]) {
	if _, ok := s.recorded[c]; !ok {
		s.recorded[c] = c.latest()
	}
}

// detach records all remaining rows, because the transaction ends. It takes linear time.
func (s *scan[K, V]) detach() {
	rest := new(cellList[K, V])
	s.source.each(func(cells []*cell[K, V]) bool {
		*rest = append(*rest, cells...)
		return true
	})
	for _, c := range *rest {
		s.record(c)
	}
	s.source, s.tx = rest, nil
}

// close ends the scan.
func (s *scan[K, V]) close() {
	if s.snapshot != nil {
		s.snapshot.release()
	}
	if s.tx != nil {
		s.tx.remove(s)
	}
}

// A cellList is a [cellSource] of the cells in a list.
type cellList[K, V any] []*cell[K, V]

func (l *cellList[K, V]) each(visit func(cells []*cell[K, V]) bool) {
	for more := true; more && len(*l) > 0; {
		n := min(len(*l), maxCells)
		cells := (*l)[:n]
		*l = (*l)[n:]
		more = visit(cells)
	}
}

// A cellSources is a [cellSource] of several others, one after the other.
type cellSources[K, V any] []cellSource[K, V]

func (l *cellSources[K, V]) each(visit func(cells []*cell[K, V]) bool) {
	for more := true; more && len(*l) > 0; {
		(*l)[0].each(func(cells []*cell[K, V]) bool {
			more = visit(cells)
			return more
		})
		if more {
			*l = (*l)[1:]
		}
	}
}

// A walk is a [cellSource] of a tree that is not modified. It has the cells that cellOf
// returns, until cellOf reports that an element is not in the part.
type walk[E, K, V any] struct {
	tree     *btree.BTreeG[E]
	backward bool
	from     *E                                     // where the walk begins; nil: at the end of the tree
	cellOf   func(e E) (c *cell[K, V], inPart bool) // c is nil if there is none to pass

	started, done bool
	last          E // of the last cell that was passed
}

func (w *walk[E, K, V]) each(visit func(cells []*cell[K, V]) bool) {
	if w.done {
		return
	}
	skip, more := w.started, true
	cells := make([]*cell[K, V], 0, minCells)
	collect := func(e E) bool {
		if skip { // e is w.last
			skip = false
			return true
		}
		c, inPart := w.cellOf(e)
		if !inPart {
			return false
		}
		if c == nil {
			return true
		}
		cells = append(cells, c)
		if len(cells) < cap(cells) {
			return true
		}
		w.last, w.started = e, true
		more = visit(cells)
		if size := cap(cells); size < maxCells {
			cells = make([]*cell[K, V], 0, 2*size)
		} else {
			cells = cells[:0]
		}
		return more
	}
	from := w.from
	if w.started {
		from = &w.last
	}
	switch {
	case from == nil && w.backward:
		w.tree.Descend(collect)
	case from == nil:
		w.tree.Ascend(collect)
	case w.backward:
		w.tree.DescendLessOrEqual(*from, collect)
	default:
		w.tree.AscendGreaterOrEqual(*from, collect)
	}
	if more {
		w.done = true
		visit(cells)
	}
}
