package changefeed

import (
	"context"
	"iter"
	"slices"

	"github.com/google/btree"
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
	// forgetScopeLocked takes it away.
	scopeLocked() *scope[K, V]
	forgetScopeLocked()

	// snapshotLocked returns the rows as they are. Without the right to clone a tree,
	// for which the lock must be held for writing, it returns nil if it had to.
	snapshotLocked(mayClone bool) *snapshot[V]
}

// A snapshot is the rows of a part as they were. Forward goes on after the last row
// that it visited; it is for one goroutine at a time.
type snapshot[V any] struct {
	forward, backward func(visit func(row *V) bool)
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
	s.keep = both(s.keep, keep)
	return s
}

// both returns a function that reports whether both do; either may be nil, for true.
func both[V any](a, b func(row *V) bool) func(row *V) bool {
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
func (s Selection[K, V]) yielding(yield func(K, V) bool) func(row *V) bool {
	key := s.table.key
	if s.keep == nil {
		return func(row *V) bool { return yield(key(row), *row) }
	}
	return func(row *V) bool { return !s.keep(row) || yield(key(row), *row) }
}

// Len returns the number of rows in the selection. It counts them: see
// [Selection.All] for the time that it takes.
func (s Selection[K, V]) Len() int {
	n := 0
	s.snapshot().forward(func(row *V) bool {
		if s.keep == nil || s.keep(row) {
			n++
		}
		return true
	})
	return n
}

// snapshot returns the present rows, with those for which keep is false.
func (s Selection[K, V]) snapshot() *snapshot[V] {
	t := s.table
	if snap := s.snapshotIfCloned(); snap != nil {
		return snap
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.part.snapshotLocked(true)
}

func (s Selection[K, V]) snapshotIfCloned() *snapshot[V] {
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
// that are there, from 1 up to max. The changes of a transaction are not divided:
// for them a batch is as long as it must be. So is a set of [Squash], if some of it
// came of a transaction. Initial and Ready count as changes here; errors come by
// themselves, in their place.
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
func (t *Table[K, V]) all() Selection[K, V] { return Selection[K, V]{table: t, part: t.everything} }

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
	case everything:
		return &t.whole
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
	switch p.keys.extent {
	case everything:
	case point:
		c := t.cellLocked(p.keys.from)
		if c == nil {
			return // the table is dropped
		}
		c.scope = nil
		if c.row == nil {
			t.rows.remove(entry[K, V]{key: p.keys.from})
		}
	default:
		t.ranges.remove(&p.keys)
	}
}

func (p *keyPart[K, V]) snapshotLocked(mayClone bool) *snapshot[V] {
	t, keys := p.table, &p.keys
	if keys.extent == point {
		return snapshotOfRow(t.cellLocked(keys.from).content())
	}
	tree := t.rows.frozenLocked(mayClone)
	if tree == nil {
		return nil
	}
	visiting := func(visit func(row *V) bool, isOut func(key K) bool) func(e entry[K, V]) bool {
		return func(e entry[K, V]) bool {
			row := e.cell.row
			return !isOut(e.key) && (row == nil || visit(row))
		}
	}
	var first, end *entry[K, V]
	if keys.extent != everything {
		first = &entry[K, V]{key: keys.from}
	}
	if keys.extent == between {
		end = &entry[K, V]{key: keys.to}
	}
	ascend := ascending(tree, first)
	return &snapshot[V]{
		forward: func(visit func(row *V) bool) {
			ascend(visiting(visit, func(key K) bool { return keys.endsBefore(key, t.order) }))
		},
		backward: func(visit func(row *V) bool) {
			isOut := func(key K) bool { return keys.extent != everything && t.order(key, keys.from) < 0 }
			visitEntry := visiting(visit, isOut)
			descend(tree, end, func(e entry[K, V]) bool {
				// The end is no part of the interval, but where the walk begins.
				return keys.endsBefore(e.key, t.order) || visitEntry(e)
			})
		},
	}
}

// snapshotOfRow returns the snapshot of one row, or of none if it is nil.
func snapshotOfRow[V any](row *V) *snapshot[V] {
	left := row
	return &snapshot[V]{
		forward: func(visit func(row *V) bool) {
			if row := left; row != nil {
				left = nil
				visit(row)
			}
		},
		backward: func(visit func(row *V) bool) {
			if row != nil {
				visit(row)
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

// ascending returns a function that visits the elements of a tree in order, from
// first, or from the beginning, until visit returns false; when it is called again,
// it goes on after the last one visited. Nobody may write to the tree.
func ascending[E any](tree *btree.BTreeG[E], first *E) func(visit func(e E) bool) {
	var last E
	begun := false
	return func(visit func(e E) bool) {
		step := func(e E) bool {
			last, begun = e, true
			return visit(e)
		}
		switch {
		case begun:
			again := true // the first that comes is last
			tree.AscendGreaterOrEqual(last, func(e E) bool {
				if again {
					again = false
					return true
				}
				return step(e)
			})
		case first != nil:
			tree.AscendGreaterOrEqual(*first, step)
		default:
			tree.Ascend(step)
		}
	}
}

// descend visits the elements of a tree in descending order, from last, or from the
// end.
func descend[E any](tree *btree.BTreeG[E], last *E, visit func(e E) bool) {
	if last == nil {
		tree.Descend(visit)
	} else {
		tree.DescendLessOrEqual(*last, visit)
	}
}
