package changefeed

import (
	"context"
	"iter"
	"slices"
)

// A Selection is a part of a table that can be read and followed:
//
//   - one row: [Table.Row]
//   - the rows in a range of keys: [Table.Range], [Table.From]
//   - the rows with a value, or a range of values, in an index: [Index.Equal],
//     [Index.Range], [Index.From]
//   - the rows of any of these, or of the table, for which a predicate holds:
//     [Selection.Where], [Table.Where]
//
// Making a Selection costs nothing and does nothing. A zero Selection must not be used.
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

// A part is a selection without a predicate, which a table and its indexes can look up.
type part[K, V any] interface {
	// has reports whether row is in the part. It calls users' functions.
	has(row *V) bool

	// scopeLocked returns the part's scope, and makes it if there is none.
	// forgetScopeLocked removes it. The whole table's scope is never removed.
	scopeLocked() *scope[K, V]
	forgetScopeLocked()

	// snapshotLocked returns the present rows. If mayClone is true, the lock must be held
	// for writing. Otherwise snapshotLocked returns nil if it would have to clone a tree.
	snapshotLocked(mayClone bool) *snapshot[K, V]
}

// Row selects the row with a key. There need not be such a row: the feed reports when the
// row is inserted, updated and deleted.
//
// A feed on a single row uses at most 1 KB and adds nothing to the cost of writes to other
// rows, so ten thousand of them are fine.
func (t *Table[K, V]) Row(key K) Selection[K, V] {
	return t.selection(interval[K]{from: key, extent: point})
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
// lock. It may be slow. A panic in it reaches the loop's caller, and the change that it
// was about counts as delivered, as with [Stream.Filter].
//
// A feed of the selection therefore reads the same changes as a feed without the
// predicate. Its buffer and its [FeedInfo] count these changes.
func (t *Table[K, V]) Where(keep func(row *V) bool) Selection[K, V] {
	return t.all().Where(keep)
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
func (s Selection[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { s.snapshot().forward(s.yielding(yield)) }
}

// Backward is like [Selection.All] but in the opposite order.
func (s Selection[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { s.snapshot().backward(s.yielding(yield)) }
}

// yielding returns a visitor that passes copies of the selected rows to yield.
func (s Selection[K, V]) yielding(yield func(K, V) bool) func(key K, row *V) bool {
	if s.keep == nil {
		return func(key K, row *V) bool { return yield(key, *row) }
	}
	return func(key K, row *V) bool { return !s.keep(row) || yield(key, *row) }
}

// Len returns the number of rows in the selection. It counts them, so it takes as long as
// a range over [Selection.All].
func (s Selection[K, V]) Len() int {
	n := 0
	s.snapshot().forward(func(_ K, row *V) bool {
		if s.keep == nil || s.keep(row) {
			n++
		}
		return true
	})
	return n
}

// snapshot returns the present rows of the part. keep is not applied to them.
func (s Selection[K, V]) snapshot() *snapshot[K, V] {
	t := s.table
	if snap := s.snapshotIfCloned(); snap != nil {
		return snap
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.part.snapshotLocked(true)
}

// snapshotIfCloned is like snapshot but returns nil if a tree would have to be cloned.
func (s Selection[K, V]) snapshotIfCloned() *snapshot[K, V] {
	s.table.mu.RLock()
	defer s.table.mu.RUnlock()
	return s.part.snapshotLocked(false)
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

// all selects the whole table.
func (t *Table[K, V]) all() Selection[K, V] { return Selection[K, V]{table: t, part: t.allPart} }

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
		c := t.cellLocked(p.keys.from)
		if c == nil {
			c = t.newCellLocked(p.keys.from, nil, nil)
		}
		if c.scope == nil {
			c.scope = newScope[K](t.seqOf) // also if a clone has the cell, because a clone's scopes are not used
		}
		return c.scope
	default:
		return t.ranges.scope(&p.keys)
	}
}

func (p *keyPart[K, V]) forgetScopeLocked() {
	t := p.table
	if p.keys.extent != point {
		t.ranges.remove(&p.keys)
		return
	}
	c := t.cellLocked(p.keys.from)
	if c == nil {
		return // the table is dropped
	}
	c.scope = nil
	if c.row == nil {
		t.removeCellLocked(p.keys.from)
	}
}

func (p *keyPart[K, V]) snapshotLocked(mayClone bool) *snapshot[K, V] {
	t, keys := p.table, &p.keys
	if keys.extent == point {
		return snapshotOfRow(t.key, t.cellLocked(keys.from).rowOrNil())
	}
	tree := t.rows.frozenLocked(mayClone)
	if tree == nil {
		return nil
	}
	var first, end *entry[K, V]
	if keys.extent != unbounded {
		first = &entry[K, V]{key: keys.from}
	}
	if keys.extent == between {
		end = &entry[K, V]{key: keys.to}
	}
	forward := func(e entry[K, V]) (*cell[K, V], bool) {
		return e.cell, !keys.endsBefore(e.key, t.order)
	}
	backward := func(e entry[K, V]) (*cell[K, V], bool) {
		if keys.endsBefore(e.key, t.order) {
			return nil, true // the walk begins at the end of the interval, which is not part of it
		}
		return e.cell, keys.extent == unbounded || t.order(keys.from, e.key) <= 0
	}
	return walks(t.key, tree, first, end, forward, backward)
}
