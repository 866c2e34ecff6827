package changefeed

import (
	"context"
	"iter"
	"slices"

	"github.com/google/btree"
)

// A Selection is a part of a table. It can be read and followed. In [Transact] and [Read], it
// is read by [Selection.In]. There are these selections:
//
//   - all rows: [Table.Selection]
//   - one row, or the rows with several keys: [Table.Row], [Table.Rows]
//   - the rows in a range of keys: [Table.Range], [Table.From]
//   - the rows with a value, one of several values, or a range of values, in an index:
//     [Index.Equal], [Index.Any], [Index.Range], [Index.From]
//   - the rows of any of these for which a predicate holds: [Selection.Where], [Table.Where]
//
// Making a Selection does not read the table. A zero Selection must not be used.
//
// A selection's feed reports changes relative to the selection. A row that starts to
// match is an [Insert], with Old nil. A row that stops matching is a [Delete], with New
// nil. This holds whatever the write was. Seq is always that of the write.
//
// A feed of a row adds nothing to the cost of writes to other rows. Feeds of ranges and
// of index values add only a lookup to writes of other rows. The lookup takes time in the
// logarithm of the number of ranges and values.
type Selection[K, V any] struct {
	table *Table[K, V]
	part  part[K, V]
	keep  func(row *V) bool // nil: all rows of part
}

// Table returns the table that s is a part of. For a selection of a [View], that is the table in which
// the view has its rows. A write to it panics.
func (s Selection[K, V]) Table() *Table[K, V] { return s.table }

// A part is a selection without a predicate, which a table and its indexes can look up.
type part[K, V any] interface {
	// has reports whether row is in the part. It calls users' functions.
	has(row *V) bool

	// scopeLocked returns the part's scope, and makes it if there is none.
	// forgetScopeLocked removes it. The whole table's scope is never removed.
	scopeLocked() *scope[K, V]
	forgetScopeLocked()

	// scan begins a scan of the part's rows in v. If v is nil, it is of the rows as they are
	// now, and the table's lock must be held, for reading at least.
	scan(v *view[K, V], backward bool) *scan[K, V]

	// String describes the part: see [FeedInfo].
	String() string
}

// Row selects the row with a key. There need not be such a row: the feed reports when the
// row is inserted, updated and deleted.
//
// A feed on a single row uses at most 1 KB and adds nothing to the cost of writes to other
// rows, so ten thousand of them are fine.
func (t *Table[K, V]) Row(key K) Selection[K, V] {
	return t.selection(interval[K]{from: key, extent: point})
}

// Rows selects the rows with any of the keys, in the order of the table. There need not be such
// rows. Keys that are passed twice count once. Without a key, no row is selected.
//
// A feed costs each write of the table a lookup in the logarithm of the number of keys and ranges
// that are followed. Feeds share their unread changes if they are made from the same Selection.
func (t *Table[K, V]) Rows(keys ...K) Selection[K, V] {
	return Selection[K, V]{table: t, part: &keysPart[K, V]{pointSet[K, K, V]{points: sortedSet(keys, t.order)}, t}}
}

// Range selects the rows whose key is at least from and less than to. If to is not greater
// than from, there are none.
func (t *Table[K, V]) Range(from, to K) Selection[K, V] {
	return t.selection(interval[K]{from: from, to: to, extent: between})
}

// From selects the rows whose key is at least from.
func (t *Table[K, V]) From(from K) Selection[K, V] {
	return t.selection(interval[K]{from: from, extent: onwards})
}

// Where selects the rows for which keep returns true. keep must depend on the row alone,
// and must not modify it. Where panics if keep is nil.
//
// keep runs in the loop's goroutine, on rows of a snapshot or of a change, without a
// lock, except in [Transact]. It may be slow. If the selection is the source of a [View], keep also
// runs under the table's lock. It must then be quick, and must call no table. A panic in it reaches the loop's caller, and
// the change that it was about counts as delivered, as with [Stream.Filter].
//
// A feed of the selection therefore reads the same changes as a feed without the
// predicate. Its buffer and its [FeedInfo] count these changes.
func (t *Table[K, V]) Where(keep func(row *V) bool) Selection[K, V] {
	return t.Selection().Where(keep)
}

// Where is like [Table.Where] but selects among the rows of s.
func (s Selection[K, V]) Where(keep func(row *V) bool) Selection[K, V] {
	if keep == nil {
		panic("changefeed: Where: nil function; pass the predicate of the rows to select")
	}
	s.keep = and(s.keep, keep)
	return s
}

// and returns a predicate that holds where both a and b hold. A nil predicate always holds.
func and[V any](a, b func(row *V) bool) func(row *V) bool {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(row *V) bool { return a(row) && b(row) }
}

// All is like [Table.All] but returns only the rows of the selection. They come in the
// order of their keys, or for an index in the order of value and key. A row that has
// several values in an index comes once, at the first of them that is selected. A range
// takes time in proportion to the number of rows selected, before predicates, and to the
// logarithm of the number of all rows.
func (s Selection[K, V]) All() iter.Seq2[K, V] { return s.iterate(false) }

// Backward is like [Selection.All] but in the opposite order.
func (s Selection[K, V]) Backward() iter.Seq2[K, V] { return s.iterate(true) }

func (s Selection[K, V]) iterate(backward bool) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { s.yieldRows(s.scan(backward), yield) }
}

// Len returns the number of rows in the selection. It counts them, so it takes as long as
// a range over [Selection.All].
func (s Selection[K, V]) Len() int { return s.count(s.scan(false)) }

// scan begins a scan of the part's present rows. keep is not applied to them.
func (s Selection[K, V]) scan(backward bool) *scan[K, V] {
	s.table.mu.RLock()
	defer s.table.mu.RUnlock()
	return s.part.scan(nil, backward)
}

// yieldRows yields copies of the selected rows of a scan, and closes it.
func (s Selection[K, V]) yieldRows(rows *scan[K, V], yield func(K, V) bool) {
	defer rows.close()
	rows.each(func() bool {
		for i, row := range rows.rows {
			if s.selects(row) && !yield(s.table.keyOf(rows.cells[i], row), *row) {
				return false
			}
		}
		return true
	})
}

// count returns the number of the selected rows of a scan, and closes it.
func (s Selection[K, V]) count(rows *scan[K, V]) (n int) {
	defer rows.close()
	rows.each(func() bool {
		for _, row := range rows.rows {
			if s.selects(row) {
				n++
			}
		}
		return true
	})
	return n
}

// selects reports whether a row of the part is in the selection.
func (s Selection[K, V]) selects(row *V) bool {
	s.table.guard.check(row)
	return s.keep == nil || s.keep(row)
}

// scan returns a scan of the cells of a source, which are those of v, or of now if v is nil.
func (t *Table[K, V]) scan(v *view[K, V], source cellSource[K, V]) *scan[K, V] {
	s := &scan[K, V]{source: source}
	switch {
	case v != nil:
		if !v.snapshot.retain() {
			panic(t.endedError())
		}
		s.snapshot = v.snapshot
	case t.tx.running():
		s.recorded = make(map[*cell[K, V]]*V)
		t.tx.add(s)
	default:
		s.snapshot = t.snapshots.take(t.momentLocked())
	}
	return s
}

// keyOf returns the key of a row in a cell. If the cell was made for another row, its key is
// equal to the row's in the table's order, but may be another value.
func (t *Table[K, V]) keyOf(c *cell[K, V], row *V) K {
	if t.keysDiffer {
		return t.key(row)
	}
	return c.key
}

// Changes is like [Table.Changes] but follows the selection. Options, errors and
// guarantees are the same.
func (s Selection[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	f, err := newFeed(ctx, s, opts)
	if err != nil {
		return failed[Change[V]](err)
	}
	return s.table.guard.changes(f.changes)
}

// Batches is like [Selection.Changes] but yields several changes at a time: all that are
// ready, from 1 to max, without waiting for more. Initial and Ready count as changes
// here. An error comes alone, at its place in the order.
//
// A transaction is never delivered in part, however large it is. If it has more than max
// changes, the batch is longer than max. The same holds for a set of [Squash], if some of
// its changes came from a transaction. There are two exceptions. With [OnOverflow] and
// [Skip], the buffer may have dropped the first changes of a transaction, so the batch
// after a notice may begin with the rest of one. With [After], the position may lie
// within a transaction, and the first batch then begins with the rest of it.
//
// Reading a backlog in batches costs a fraction of reading it with Changes, because the
// changes of a batch are copied together, and Changes makes a call for each. A max of 64
// is usually enough. A batch uses 32 bytes per change.
//
// The slice belongs to the stream. The consumer may read and modify it until the loop
// continues. If max is below 1, the stream yields [ErrInvalidOption] and ends.
func (s Selection[K, V]) Batches(ctx context.Context, max int, opts ...FeedOption) Stream[[]Change[V]] {
	// BenchmarkFanOut compares batches with single changes.
	f, err := newFeed(ctx, s, append(slices.Clip(opts), func(c *feedConfig) { c.batch = max }))
	if err != nil {
		return failed[[]Change[V]](err)
	}
	return s.table.guard.batches(f.batches(max))
}

// Selection selects all rows of the table. Its methods do what those of the table do.
func (t *Table[K, V]) Selection() Selection[K, V] { return Selection[K, V]{table: t, part: t.allPart} }

func (t *Table[K, V]) selection(keys interval[K]) Selection[K, V] {
	return Selection[K, V]{table: t, part: &keyPart[K, V]{t, keys}}
}

// A keyPart is the part of a table with the keys of an interval.
type keyPart[K, V any] struct {
	table *Table[K, V]
	keys  interval[K]
}

func (p *keyPart[K, V]) has(row *V) bool {
	return p.keys.contains(p.table.key(row), p.table.order)
}

func (p *keyPart[K, V]) scopeLocked() *scope[K, V] {
	t := p.table
	switch p.keys.extent {
	case unbounded:
		return &t.allScope
	case point:
		c := p.cellLocked()
		if c.scope == nil {
			c.scope = newScope[K](t.seqOf)
		}
		return c.scope
	default:
		return t.ranges.scope(&p.keys)
	}
}

// keepScopeLocked gives the scope of a single row to the row's cell, after a Reset.
func (p *keyPart[K, V]) keepScopeLocked(s *scope[K, V]) {
	if p.keys.extent == point {
		p.cellLocked().scope = s
	}
}

// cellLocked returns the cell of a single row, which it adds if there is none.
func (p *keyPart[K, V]) cellLocked() *cell[K, V] {
	c := p.table.cellLocked(p.keys.from)
	if c == nil {
		c = &cell[K, V]{key: p.keys.from}
		p.table.addCellLocked(c)
	}
	return c
}

func (p *keyPart[K, V]) forgetScopeLocked() {
	t := p.table
	if p.keys.extent != point {
		t.ranges.remove(&p.keys)
		return
	}
	c := t.cellLocked(p.keys.from)
	if c == nil || c.scope == nil || c.scope.feeds > 0 {
		return // the table is dropped, or was reset after the feed had ended
	}
	c.scope = nil
	t.removeUnusedLocked(c)
}

func (p *keyPart[K, V]) scan(v *view[K, V], backward bool) *scan[K, V] {
	t, keys := p.table, &p.keys
	if keys.extent == point {
		if v != nil {
			c := v.cell(keys.from)
			return scanRow(c, v.row(c))
		}
		c := t.cellLocked(keys.from)
		return scanRow(c, c.latest())
	}
	w := &walk[entry[K], K, V]{tree: p.treeIn(v), backward: backward}
	switch {
	case backward && keys.extent == between:
		w.from = &entry[K]{key: keys.to}
	case !backward && keys.extent != unbounded:
		w.from = &entry[K]{key: keys.from}
	}
	switch {
	case keys.extent == unbounded: // not cellForward, which takes longer (BenchmarkScan)
		w.cellOf = func(e entry[K]) (c *cell[K, V], inPart bool) { return (*cell[K, V])(e.cell), true }
	case backward:
		w.cellOf = p.cellBackward
	default:
		w.cellOf = p.cellForward
	}
	return t.scan(v, w)
}

func (p *keyPart[K, V]) treeIn(v *view[K, V]) *btree.BTreeG[entry[K]] {
	if v == nil {
		return p.table.rows.freeze()
	}
	return v.rows
}

func (p *keyPart[K, V]) cellForward(e entry[K]) (c *cell[K, V], inPart bool) {
	return (*cell[K, V])(e.cell), !p.keys.endsBefore(e.key, p.table.order)
}

// cellBackward leaves out the end of the interval, where the walk begins.
func (p *keyPart[K, V]) cellBackward(e entry[K]) (c *cell[K, V], inPart bool) {
	if p.keys.endsBefore(e.key, p.table.order) {
		return nil, true
	}
	return (*cell[K, V])(e.cell), p.table.order(p.keys.from, e.key) <= 0
}

// A keysPart is the part of a table with several keys.
type keysPart[K, V any] struct {
	pointSet[K, K, V]
	table *Table[K, V]
}

func (p *keysPart[K, V]) has(row *V) bool {
	_, ok := slices.BinarySearchFunc(p.points, p.table.key(row), p.table.order)
	return ok
}

func (p *keysPart[K, V]) scopeLocked() *scope[K, V] { return p.scopeIn(&p.table.ranges) }
func (p *keysPart[K, V]) forgetScopeLocked()        { p.forgetScopeIn(&p.table.ranges) }

func (p *keysPart[K, V]) scan(v *view[K, V], backward bool) *scan[K, V] {
	find := p.table.cellLocked
	if v != nil {
		find = v.cell
	}
	var cells cellList[K, V]
	for _, key := range p.points {
		if c := find(key); c != nil {
			cells = append(cells, c)
		}
	}
	if backward {
		slices.Reverse(cells)
	}
	return p.table.scan(v, &cells)
}
