package changefeed

import (
	"context"
	"iter"
	"slices"
)

// A Selection is a part of a table that can be read and followed: one row
// ([Table.Row]), those in a range of keys ([Table.Range], [Table.From]), those with
// an index's value ([Index.Equal], [Index.Range], [Index.From]), and of each of them,
// or of the table, the rows for which a predicate holds ([Table.Where],
// [Selection.Where]). To make one costs nothing and does nothing. A zero Selection
// must not be used.
//
// What is followed is the selection: a row that comes into it is an [Insert], with
// Old nil, and one that leaves it a [Delete], with New nil, whatever the write was.
// Seq is always the write's. A feed of a row costs a write to another row nothing;
// feeds of ranges and of index values cost a write that is not to their rows no more
// than the search for them, in the logarithm of their number.
type Selection[K, V any] struct {
	table *Table[K, V]
	part  part[K, V]
	keep  func(row *V) bool // nil: all rows of part
}

// A part is a selection without a predicate: what a table and its indexes can find.
type part[K, V any] interface {
	// has reports whether row is in the part. It calls functions of the user's.
	has(row *V) bool

	// scopeLocked returns the part's scope. If there is none, it makes one, and
	// forgetScopeLocked takes it away; not the whole table's, which stays.
	scopeLocked() *scope[K, V]
	forgetScopeLocked()

	// snapshotLocked returns the rows as they are. Without the right to clone a tree,
	// for which the lock must be held for writing, it returns nil if it had to.
	snapshotLocked(mayClone bool) *snapshot[K, V]
}

// Row selects the row with a key, which need not be there: RethinkDB's get. A feed
// of it sees the row come, change and go.
func (t *Table[K, V]) Row(key K) Selection[K, V] {
	return t.selection(interval[K]{from: key, extent: point})
}

// Range selects the rows with keys from from, and before to: RethinkDB's between. If
// to is not after from, there are none.
func (t *Table[K, V]) Range(from, to K) Selection[K, V] {
	return t.selection(interval[K]{from: from, to: to, extent: between})
}

// From selects the rows with keys from from on.
func (t *Table[K, V]) From(from K) Selection[K, V] {
	return t.selection(interval[K]{from: from, extent: onwards})
}

// Where selects the rows for which keep returns true: RethinkDB's filter before
// changes. keep must depend on the row alone, and must not change it.
//
// keep runs on the reader's side: in the loop's goroutine, on rows of a snapshot or
// of a change, without a lock. It may be slow, and a panic reaches the loop's caller; the
// change that it was about counts as handed out, as with [Stream.Filter].
// So a feed of the selection reads what a feed without the predicate does, and its
// buffer, and what [Table.Feeds] tells of it, are about that.
//
// Where panics if keep is nil.
func (t *Table[K, V]) Where(keep func(row *V) bool) Selection[K, V] {
	return t.all().Where(keep)
}

// Where selects those rows of s for which keep returns true, as [Table.Where] does.
func (s Selection[K, V]) Where(keep func(row *V) bool) Selection[K, V] {
	if keep == nil {
		panic("changefeed: Where: nil function; pass the predicate of the rows to select")
	}
	s.keep = and(s.keep, keep)
	return s
}

// both returns a function that reports whether both do; either may be nil, for true.
func and[V any](a, b func(row *V) bool) func(row *V) bool {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return func(row *V) bool { return a(row) && b(row) }
}

// All returns the rows of the selection, as [Table.All] does: in the order of their
// keys, or for an index in the order of value and key. A row that has several values
// in an index comes once, at the first of them that is selected. It takes time in
// proportion to the rows selected (before predicates), and to the logarithm of the
// number of all.
func (s Selection[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { s.snapshot().forward(s.yielding(yield)) }
}

// Backward is [Selection.All] in the opposite order.
func (s Selection[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { s.snapshot().backward(s.yielding(yield)) }
}

// yielding returns the visitor that hands copies of the selected rows to yield.
func (s Selection[K, V]) yielding(yield func(K, V) bool) func(key K, row *V) bool {
	if s.keep == nil {
		return func(key K, row *V) bool { return yield(key, *row) }
	}
	return func(key K, row *V) bool { return !s.keep(row) || yield(key, *row) }
}

// Len returns the number of rows in the selection. It counts them: see
// [Selection.All] for the time that it takes.
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

// snapshot returns the present rows, with those for which keep is false.
func (s Selection[K, V]) snapshot() *snapshot[K, V] {
	t := s.table
	if snap := s.snapshotIfCloned(); snap != nil {
		return snap
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.part.snapshotLocked(true)
}

func (s Selection[K, V]) snapshotIfCloned() *snapshot[K, V] {
	s.table.mu.RLock()
	defer s.table.mu.RUnlock()
	return s.part.snapshotLocked(false)
}

// Changes follows the selection as [Table.Changes] follows the table: with the same
// options, errors and promises.
func (s Selection[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	f, err := newFeed(ctx, s, opts)
	if err != nil {
		return failed[Change[V]](err)
	}
	return f.changes
}

// Batches is [Selection.Changes] for a loop that takes several changes at a time: all
// that are there, from 1 up to max. The changes of a transaction are not divided, but
// by a notice of some that were skipped: for them a batch is as long as it must be. So
// is a set of [Squash], if some of it came of a transaction. Initial and Ready count as
// changes here; errors come by themselves, in their place.
//
// A change of a backlog costs a fraction of what it does in a loop over Changes: it is
// copied with others, where that one makes a call for each (BenchmarkFanOut). A max of a
// few dozen does for that, and takes 32 bytes a change.
//
// The slice is the stream's own, for the consumer to read and to change, and valid
// until the loop goes on. If max is below 1, the stream yields [ErrInvalidOption] and
// ends.
func (s Selection[K, V]) Batches(ctx context.Context, max int, opts ...FeedOption) Stream[[]Change[V]] {
	f, err := newFeed(ctx, s, append(slices.Clip(opts), func(c *feedConfig) { c.batch = max }))
	if err != nil {
		return failed[[]Change[V]](err)
	}
	return f.batches(max)
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
			c.scope = newScope[K](t.seqOf) // also if a clone has the cell: there it is not looked at
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
		t.rows.remove(entry[K, V]{key: p.keys.from})
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
			return nil, true // the end is no part of the interval, but where the walk begins
		}
		return e.cell, keys.extent == unbounded || t.order(keys.from, e.key) <= 0
	}
	return walks(t.key, tree, first, end, forward, backward)
}
