package changefeed

import (
	"context"
	"iter"
	"runtime"
	"slices"
)

// A Source is a *[Table], a *[View], or a [Selection] of one of them. Views are made of sources.
type Source[K, V any] interface{ source() Selection[K, V] }

// Rows is a *[Table] or a *[View]. Indexes are made of either: see [NewIndex].
type Rows[K, V any] interface {
	Source[K, V]
	tableOf() *Table[K, V]
}

func (t *Table[K, V]) source() Selection[K, V] {
	if t == nil {
		return Selection[K, V]{}
	}
	return t.Selection()
}

func (v *View[K, V]) source() Selection[K, V]     { return v.tableOf().source() }
func (s Selection[K, V]) source() Selection[K, V] { return s }

func (t *Table[K, V]) tableOf() *Table[K, V] { return t }

func (v *View[K, V]) tableOf() *Table[K, V] {
	if v == nil {
		return nil
	}
	return v.table
}

// A View is a table whose rows follow from the rows of other tables or views, its sources. At any time, its rows
// are what its definition makes of the rows of its sources. A view is read and followed like a table. It can have
// indexes, and can be a source of further views. A program cannot write to it. Make a view with [Select], [Group],
// [Count], [Join], [LeftJoin], [Top], [Bottom], [TopEach] or [BottomEach]. A zero View must not be used.
//
// A write to a source updates its views before it returns. Readers see the source and its views change at one
// moment. So do feeds: all changes that one write or transaction makes to a view are one batch. If a change of a
// source leaves a row of the view equal to the one before, it is no change of the view.
//
// The functions that define a view run under the lock of its sources. So does the predicate of a
// [Selection.Where] that is a source. These functions must depend on their arguments alone, must not modify a row of the
// source, must be quick, and must call no table at all: see [Table]. They may be called again for rows that were written long ago.
//
// If one of these functions panics during a write, the panic reaches the writer, and nothing is written. If two
// rows of a view have one value in a unique index at the end of a write, the write fails with [ErrDuplicateKey], and
// the error names the view. In a transaction, only the write that fails is undone.
//
// One write can change a row of a view several times, for example a sum of two rows that one customer changes.
// Changes then yields each step. Batches yields all of them together.
//
// A write to a source and its views is a transaction. It costs about as much as one more write, and as much again
// for each row that it writes in a view (BenchmarkViews). If no view takes the row, neither before nor after the
// write, the write is an ordinary one. A view does not take a row that is outside the selection that the view is
// made of. Nor does a [Top] take a row that ranks behind its rows.
//
// Making a view takes linear time. Other goroutines can use the sources meanwhile, because the view takes a few rows
// at a time. If another goroutine writes to a row that the view has taken, the write updates the view, too. Top and
// [Bottom] are made in one step, which takes time in proportion to the rows of the view.
//
// A view shares the lock of its sources. It has a history and sequence numbers of its own, which begin when the
// view is made. A [Table.Reset] of a source writes only the rows of the view that differ, and is no Reset of the
// view. A view is not stored with its sources: a program that restores the sources makes the view again. Feeds of
// the new view cannot resume at a position in the old view.
//
// A source keeps a reference to its views until they are dropped, by [View.Drop] or because a source is dropped. A
// view of a dropped table is itself dropped, and is empty.
//
// A view has its rows in the order of their keys, even if its source is a view with another order. Only Top, Bottom,
// TopEach and BottomEach have them in the order of their ranks.
type View[K, V any] struct{ table *Table[K, V] }

// A dependent is the definition of a view, as a source with rows of type V uses it. These invariants hold for
// every view. Code that keeps one names it.
//
//	V1  Whenever the lock is free, the rows of a view are what its definition makes of the rows of its
//	    sources.
//	V2  The changes of a view, applied to the rows with which it was made, give its rows.
//	V3  The changes that one write or transaction makes, in sources and views, are published together. A
//	    feed gets them as one batch.
//	V4  A write that fails in a view leaves sources, views, sequence numbers and feeds as they were. In a
//	    transaction, only this write fails, and the transaction can continue.
//	V5  The functions of a definition depend on their arguments alone, and call no table. The library may
//	    call them again for old rows. This is the user's part.
//	V6  A change that leaves a view's row equal is no change of the view, and goes no further.
//	V7  Each source of a view was made before the view, so no view follows itself.
type dependent[K, V any] interface {
	// follow makes the changes to the view that follow from a change of the source. Either old or new may be
	// nil. It calls functions of the user.
	follow(tx *Tx, key K, old, new *V)

	viewTable() txTable
}

// A tap passes the changes of a source to a view: those of the rows in a selection. While the view is being made,
// it passes only the changes of rows that the view has reached. A tap is guarded by the table's lock.
type tap[K, V any] struct {
	selection Selection[K, V]
	whole     bool // the selection has all rows
	dependent dependent[K, V]
	kind      string // the function that made the view
	followed  uint64 // number of changes that the view has followed

	// unchanged reports whether the view stays as it is if new becomes the row of key. new is nil if the row is
	// removed. It is called before the view follows the change, and may call functions of the user. It is nil if
	// the view follows all changes.
	unchanged func(key K, new *V) bool

	growing bool             // the view is being made
	upTo    *K               // while it is: the last key that the view has reached, or nil for none
	hidden  tableIndex[K, V] // an index of the source that only the view uses, or nil
}

// newTap returns a tap of a source. It panics if there is no source. The message names the function that makes the
// view.
func newTap[K, V any](s Source[K, V], function string) tap[K, V] {
	var selection Selection[K, V]
	if s != nil {
		selection = s.source()
	}
	if selection.table == nil {
		what := "nil source"
		if _, ok := s.(Selection[K, V]); ok {
			what = "zero Selection"
		}
		panic("changefeed: " + function + ": " + what + "; pass a table, a view or a selection")
	}
	return tap[K, V]{
		selection: selection,
		whole:     selection.keep == nil && selection.part == selection.table.allPart,
		kind:      function,
	}
}

// see returns row if the tap passes it to the view, and nil otherwise. row may be nil.
func (p *tap[K, V]) see(row *V) *V {
	if p.growing {
		row = p.reached(row)
	}
	if row == nil || p.whole || p.selection.part.has(row) && p.selection.selects(row) {
		return row
	}
	return nil
}

// reached is used while the view is being made. It returns row if the view has reached the row's key, and nil
// otherwise. row may be nil.
func (p *tap[K, V]) reached(row *V) *V {
	if row == nil || p.upTo == nil || p.selection.table.order(p.selection.table.key(row), *p.upTo) > 0 {
		return nil
	}
	return row
}

// concerns returns the rows of a change as the view sees them. ok is false if the change leaves the view as it is.
func (p *tap[K, V]) concerns(key K, old, new *V) (seenOld, seenNew *V, ok bool) {
	old, new = p.see(old), p.see(new)
	ok = (old != nil || new != nil) && (p.unchanged == nil || !p.unchanged(key, new))
	return old, new, ok
}

// follow makes the view follow a change of the table, if the change concerns it.
func (p *tap[K, V]) follow(tx *Tx, key K, old, new *V) {
	if old, new, ok := p.concerns(key, old, new); ok {
		p.followed++
		p.dependent.follow(tx, key, old, new)
	}
}

// attachLocked adds the tap to its table, and the hidden index if there is one. It returns false if the table is
// dropped.
func (p *tap[K, V]) attachLocked() (ok bool) {
	t := p.selection.table
	if t.dropped {
		return false
	}
	t.dependents = append(t.dependents, p)
	if p.hidden != nil {
		t.indexes = append(t.indexes, p.hidden)
	}
	return true
}

func (p *tap[K, V]) sourceTable() txTable { return p.selection.table }

// detachLocked undoes attachLocked. It makes a new list of dependents, because dropLocked ranges over the old one.
func (p *tap[K, V]) detachLocked() {
	t := p.selection.table
	t.dependents = slices.DeleteFunc(slices.Clone(t.dependents), func(other *tap[K, V]) bool { return other == p })
	if len(t.dependents) == 0 {
		t.dependents = nil
	}
	if p.hidden != nil {
		t.indexes = slices.DeleteFunc(slices.Clone(t.indexes), func(x tableIndex[K, V]) bool { return x == p.hidden })
	}
}

// growSize is the number of rows that a view takes in one step while it is made. Between two steps, other goroutines
// can have the lock.
const growSize = 16

// grow gives a new view all rows of the table, a few at a time. Between these steps, the view follows the changes
// of rows that it has reached.
func (p *tap[K, V]) grow() {
	for p.growMore() {
		runtime.Gosched() // a writer that waits for the lock comes first
	}
}

// growMore gives the view the next rows. It reports whether there may be more of them.
func (p *tap[K, V]) growMore() (more bool) {
	t := p.selection.table
	t.mu.Lock()
	defer t.mu.Unlock()
	view := p.dependent.viewTable()
	if view.isDroppedLocked() {
		return false
	}
	ok := false
	defer func() {
		if !ok { // a function of the user has panicked
			view.dropLocked(nil)
		}
	}()
	cells := p.nextCells()
	tx := &Tx{single: true}
	_, err := tx.runLocked(func(tx *Tx) error {
		for _, c := range cells {
			p.upTo = &c.key
			row := c.row.Load()
			if row == nil {
				continue // the cell has no row: it is only followed
			}
			if p.hidden != nil {
				if err := p.hidden.add(c, row); err != nil {
					return err
				}
			}
			if row = p.see(row); row == nil {
				continue
			}
			p.dependent.follow(tx, t.keyOf(c, row), nil, row)
		}
		return nil
	})
	if err != nil {
		panic(err) // the hidden index is not unique
	}
	ok = true
	if len(cells) == growSize {
		return true
	}
	p.growing, p.upTo = false, nil
	view.bornLocked()
	return false
}

// nextCells returns the next growSize cells that the view has not reached, or fewer at the end.
func (p *tap[K, V]) nextCells() []*cell[K, V] {
	cells := make([]*cell[K, V], 0, growSize)
	add := func(e entry[K]) bool {
		if p.upTo == nil || p.selection.table.order(e.key, *p.upTo) > 0 {
			cells = append(cells, (*cell[K, V])(e.cell))
		}
		return len(cells) < growSize
	}
	if p.upTo == nil {
		p.selection.table.rows.tree.Ascend(add)
	} else {
		p.selection.table.rows.tree.AscendGreaterOrEqual(entry[K]{key: *p.upTo}, add)
	}
	return cells
}

// bornLocked ends the making of a view. The rows that it has by now are those that it was made with. They have no
// sequence numbers, so the next change is number 1.
func (t *Table[K, V]) bornLocked() {
	t.seq, t.made = 0, [Delete + 1]uint64{}
	t.history.Load().published.Store(0)
}

// newViewTable returns the table of a view that has the keys of a source, in the order of the source.
func newViewTable[K, V, W any](source *Table[K, V], name string, key func(row *W) K) *Table[K, W] {
	t := newTable(name, key, source.order, func(a, b entry[K]) bool { return source.order(a.key, b.key) < 0 })
	t.keysDiffer, t.keys = source.keysDiffer, source.keys.another(&t.mu, &t.rows)
	return t
}

// An anyTap is a *[tap] of a source with rows of any type.
type anyTap interface {
	attachLocked() (ok bool)
	detachLocked()
	sourceTable() txTable
}

// newViewLocked returns a view without rows, whose sources have the taps. The view shares the lock of the sources,
// which the caller holds. If a source is dropped, the view is dropped, too.
func newViewLocked[K, V any](t *Table[K, V], lock *domainLock, taps ...anyTap) *View[K, V] {
	v := &View[K, V]{table: t}
	t.self, t.closed = v, true
	t.mu.join(lock)
	t.taps = taps
	for _, p := range taps {
		if !p.attachLocked() {
			t.dropLocked(nil)
			break
		}
	}
	return v
}

// newView is like newViewLocked, but takes the lock.
func newView[K, V any](t *Table[K, V], lock *domainLock, taps ...anyTap) *View[K, V] {
	lock.Lock()
	defer lock.Unlock()
	return newViewLocked(t, lock, taps...)
}

// growView makes a view of one source, and gives it the rows that follow from those of the source.
func growView[L, W, K, V any](t *Table[L, W], from *tap[K, V], d dependent[K, V]) *View[L, W] {
	from.dependent, from.growing = d, true
	v := newView(t, &from.selection.table.mu, from)
	from.grow()
	return v
}

// Drop drops the view, as [Table.Drop] drops a table, and all views that are made of it. The sources of the view
// stay as they are.
func (v *View[K, V]) Drop() { v.table.Drop() }

// In returns the view as it is in a transaction, or in [Read]. In a transaction, the view shows the writes that
// the transaction has made to its sources. The view need not be passed to [Transact] itself. It is enough that a
// table or view is passed which shares the view's lock, such as a source. To write to a source, pass the source.
//
// In panics if tx is nil or has ended, or if the transaction does not hold the view's lock. In Read, it panics if
// the view was not passed to Read.
func (v *View[K, V]) In(tx *Tx) TxView[K, V] {
	return TxView[K, V]{v.table.In(tx)}
}

// A TxView is a view in a transaction, or in [Read]: see [View.In]. It follows the rules of [TxTable], but has no
// writes. A zero TxView must not be used.
type TxView[K, V any] struct{ in TxTable[K, V] }

// Get is like [View.Get].
func (x TxView[K, V]) Get(key K) (V, bool) { return x.in.Get(key) }

// Len is like [View.Len].
func (x TxView[K, V]) Len() int { return x.in.Len() }

// All is like [View.All].
func (x TxView[K, V]) All() iter.Seq2[K, V] { return x.in.All() }

// Backward is like [View.Backward].
func (x TxView[K, V]) Backward() iter.Seq2[K, V] { return x.in.Backward() }

// Name is like [Table.Name].
func (v *View[K, V]) Name() string { return v.table.Name() }

// String is like [Table.String].
func (v *View[K, V]) String() string { return v.table.String() }

// Len is like [Table.Len].
func (v *View[K, V]) Len() int { return v.table.Len() }

// Seq is like [Table.Seq]. It counts the changes since the view was made. The rows with which it was made have no
// numbers.
func (v *View[K, V]) Seq() uint64 { return v.table.Seq() }

// Get is like [Table.Get].
func (v *View[K, V]) Get(key K) (V, bool) { return v.table.Get(key) }

// All is like [Table.All].
func (v *View[K, V]) All() iter.Seq2[K, V] { return v.table.All() }

// Backward is like [Table.Backward].
func (v *View[K, V]) Backward() iter.Seq2[K, V] { return v.table.Backward() }

// Selection is like [Table.Selection].
func (v *View[K, V]) Selection() Selection[K, V] { return v.table.Selection() }

// Row is like [Table.Row].
func (v *View[K, V]) Row(key K) Selection[K, V] { return v.table.Row(key) }

// Rows is like [Table.Rows].
func (v *View[K, V]) Rows(keys ...K) Selection[K, V] { return v.table.Rows(keys...) }

// Range is like [Table.Range].
func (v *View[K, V]) Range(from, to K) Selection[K, V] { return v.table.Range(from, to) }

// From is like [Table.From].
func (v *View[K, V]) From(from K) Selection[K, V] { return v.table.From(from) }

// Where is like [Table.Where].
func (v *View[K, V]) Where(keep func(row *V) bool) Selection[K, V] { return v.table.Where(keep) }

// Changes is like [Table.Changes].
func (v *View[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	return v.table.Changes(ctx, opts...)
}

// Batches is like [Table.Batches].
func (v *View[K, V]) Batches(ctx context.Context, max int, opts ...FeedOption) Stream[[]Change[V]] {
	return v.table.Batches(ctx, max, opts...)
}

// Views is like [Table.Views].
func (v *View[K, V]) Views() []ViewInfo { return v.table.Views() }

// Key is like [Table.Key].
func (v *View[K, V]) Key(row *V) K { return v.table.Key(row) }

// Typed is like [Table.Typed].
func (v *View[K, V]) Typed(c AnyChange) (Change[V], bool) { return v.table.Typed(c) }

// Retain is like [Table.Retain].
func (v *View[K, V]) Retain(n int) { v.table.Retain(n) }

// Position is like [Table.Position].
func (v *View[K, V]) Position() Position { return v.table.Position() }

// At is like [Table.At].
func (v *View[K, V]) At(seq uint64) Position { return v.table.At(seq) }

// Info is like [Table.Info].
func (v *View[K, V]) Info() TableInfo { return v.table.Info() }

// Feeds is like [Table.Feeds].
func (v *View[K, V]) Feeds() []FeedInfo { return v.table.Feeds() }

func (v *View[K, V]) anyTable() txTable { return v.tableOf().anyTable() }
