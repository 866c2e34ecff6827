package changefeed

import (
	"context"
	"fmt"
	"iter"
)

// A Source is what a view can be made of: a *[Table], a *[View], or a [Selection] of one of them.
type Source[K, V any] interface{ source() Selection[K, V] }

func (t *Table[K, V]) source() Selection[K, V]    { return t.Selection() }
func (s Selection[K, V]) source() Selection[K, V] { return s }
func (v *View[K, V]) source() Selection[K, V]     { return v.table.Selection() }

// A View is a table that follows others. Its rows are at any time what its definition makes of theirs.
// It is read and followed as a table is, and can be a source of further views. Nobody writes to it. Make
// a view with [Select], [Group] or [Count]. A zero View must not be used.
//
// A write to a source writes to its views, before it returns. Readers see both at one moment, and so do
// feeds: what one write or transaction changes in a view is one batch. A change of a source after which
// the view's row is equal to the one before is no change of the view.
//
// The functions of a definition run under the lock of the source. They must depend on their arguments
// alone, must be quick, and must call no table at all: see [Table]. If one panics during a write, the
// panic reaches the caller, and nothing was written. In a transaction, only that write is undone.
//
// A view shares the locks of its sources. It has a history and sequence numbers of its own, which begin
// when it is made. Its source holds it until [View.Drop].
type View[K, V any] struct {
	table  *Table[K, V]
	detach func() // from the sources; their lock is held
}

// newView returns a view without rows, which has the lock of its source. That lock is held.
func newView[K, V any](t *Table[K, V], source *domainLock) *View[K, V] {
	t.isView = true
	t.mu.join(source)
	return &View[K, V]{table: t}
}

// A tap is a selection, as its views see it.
type tap[K, V any] struct {
	Selection[K, V]
	whole bool // all rows of the table
}

func newTap[K, V any](s Source[K, V], function string) tap[K, V] {
	selection := s.source()
	if selection.table == nil {
		panic("changefeed: " + function + ": zero Selection")
	}
	return tap[K, V]{selection, selection.keep == nil && selection.part == selection.table.allPart}
}

// see returns row if it is in the selection, and nil otherwise.
func (p *tap[K, V]) see(row *V) *V {
	if row == nil || p.whole || p.part.has(row) && p.selects(row) {
		return row
	}
	return nil
}

// attach adds a view to a table. Before that, it passes all rows to start. The lock is held.
func (t *Table[K, V]) attachLocked(f dependent[K, V], start func(key K, row *V)) (detach func()) {
	t.rows.tree.Ascend(func(e entry[K, V]) bool {
		if row := e.cell.row.Load(); row != nil {
			start(t.keyOf(e.cell, row), row)
		}
		return true
	})
	t.dependents = append(t.dependents, f)
	return func() {
		for i, other := range t.dependents {
			if other == f {
				t.dependents = append(t.dependents[:i:i], t.dependents[i+1:]...)
				break
			}
		}
		if len(t.dependents) == 0 {
			t.dependents = nil
		}
	}
}

// startLocked adds a row to a view that nobody knows yet.
func (t *Table[K, V]) startLocked(key K, row *V) {
	c := &cell[K, V]{key: key}
	c.row.Store(row)
	t.guard.keep(row)
	t.addCellLocked(c)
	t.len++
}

// A selectView is the definition of [Select].
type selectView[K, V, W any] struct {
	from tap[K, V]
	to   *Table[K, W]
	make func(row *V) *W
}

// Select makes a view with a row for each row of a source for which f returns one. It keeps the source's
// keys: key returns the key of a row of the view, which must be that of the source's row. A write to the
// source costs about one more write.
//
// The name is for messages. Select panics if a function is nil. f must return a row that belongs to the
// view, or nil. See [View] for what it may do.
func Select[W, K, V any](s Source[K, V], name string, key func(row *W) K, f func(row *V) *W) *View[K, W] {
	if key == nil || f == nil {
		panic("changefeed: Select: nil function")
	}
	d := &selectView[K, V, W]{from: newTap(s, "Select"), make: f}
	source := d.from.table
	d.to = newTable(name, key, source.order, func(a, b entry[K, W]) bool { return source.order(a.key, b.key) < 0 })
	d.to.keysDiffer = source.keysDiffer
	source.mu.Lock()
	defer source.mu.Unlock()
	v := newView(d.to, &source.mu)
	v.detach = source.attachLocked(d, func(key K, row *V) {
		if row := d.row(key, row); row != nil {
			d.to.startLocked(key, row)
		}
	})
	return v
}

func (d *selectView[K, V, W]) follow(tx *Tx, key K, _, new *V) error {
	return d.to.setLocked(tx, key, d.row(key, new))
}

// row returns the row of the view for one of the source.
func (d *selectView[K, V, W]) row(key K, row *V) *W {
	row = d.from.see(row)
	if row == nil {
		return nil
	}
	made := d.make(row)
	if made != nil && d.to.order(d.to.key(made), key) != 0 {
		panic(fmt.Sprintf("changefeed: Select: the row of %q for the key %s has the key %s; keep the key of the source",
			d.to.name, quoted(key), quoted(d.to.key(made))))
	}
	return made
}

// In returns the view as it is in a transaction, or as it is in [Read]. In a transaction, it has the
// writes that the transaction has made to the view's sources. It panics if tx is nil or has ended. It
// also panics if neither the view nor a table that it is connected with was passed to [Transact], or if
// the view was not passed to Read.
func (v *View[K, V]) In(tx *Tx) TxView[K, V] {
	if tx != nil && tx.views == nil && !tx.ended.Load() && tx.holds(&v.table.mu) {
		tx.joinLocked(v.table)
	}
	return TxView[K, V]{v.table.In(tx)}
}

// A TxView is a view in a transaction, or in [Read]: see [View.In]. The rules of [TxTable] hold.
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

// Seq is like [Table.Seq]. The rows with which the view was made have no numbers.
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

func (v *View[K, V]) anyTable() txTable { return v.table.anyTable() }
