package changefeed

import (
	"errors"
	"fmt"
	"iter"
	"slices"
)

// A Past has the rows of a table at some position, and the history that led there. Another table
// can be made from it: see [Table.Restore].
type Past[V any] struct {
	// Lineage is the names of the table's history, as [Table.Lineage] returned them when the
	// table had the rows. The last one is the position of the rows, where the history goes on.
	Lineage []Position

	// Rows are the rows, in any order. nil is no rows. They belong to the table, with everything
	// that they refer to.
	Rows iter.Seq[V]

	// Newest are the last commits before the position, the oldest first: the changes of one
	// write or transaction each. nil is no commits. The table retains them if [Table.Retain] was
	// called before. No change may be missing, and the last one is that of the position. They
	// are not compared with the rows. To save what a table retains, read it with [After] the zero
	// Position, [Poll], and Batches with a maximum of 1. Skip the notice of what is not retained.
	Newest iter.Seq[[]Change[V]]
}

// Restore gives a table its past: rows, lineage and sequence number, as they were saved by an
// earlier process, or by another one. The history goes on from there, so positions that were
// saved for [After] remain valid. Restore reports no changes.
//
// The table must be new: nobody has written to it, and nobody follows it. Otherwise Restore
// returns [ErrNotEmpty]. [Table.Reset] takes any table. Indexes can be made before, or after. If
// Restore returns an error, or if an iterator of the Past panics, the table is as it was.
//
// Rows are read without a lock, so readers of the table do not wait for them. Readers see the
// table empty and then with all rows. Rows in the order of their keys are the fastest. They take
// less time than as many inserts (BenchmarkRestore).
//
// If the copy may lack the last changes of a table that others followed, call [Table.Fork]
// afterwards.
//
// Possible errors: [ErrNotEmpty], [ErrDuplicateKey] of the primary key or of a unique index,
// [ErrGap] if a change of Newest is missing, and [ErrTableDropped]. It is also an error if Lineage
// is empty or cannot be that of a table, or if its last number is below the number of rows.
func (t *Table[K, V]) Restore(p Past[V]) error { return t.refill("restore", &p, true) }

// Reset replaces all rows of a table, and its history, by those of a Past. It is like
// [Table.Restore] for a table that is in use, such as a replica that has missed changes of its
// source: see [Table.Apply].
//
// Readers see the rows before or after Reset. Each follower gets a [*SkippedError] whose Reset
// is true. It takes the place of the changes in the follower's buffer. Present rows and retained
// changes with which a feed begins come before it. With [OnOverflow] and [Resync], the present
// rows follow, and with [Fail] the feed ends. Otherwise the feed continues with the changes after
// the Reset. Until the notice, the position of a feed is in the history before. A follower that
// needs every change can use Fail, and follow again [After] its last position: it then gets the
// changes of Newest, if the position is in the new history.
//
// If Reset returns an error, the table is as it was. Possible errors are those of Restore, without
// ErrNotEmpty.
//
// The rows are built without a lock. Then readers and writers wait for a few steps for each
// subscription to the table. If the table has views, they also wait for the comparison of all rows, and for
// the writes to the views. Rows that are equal to the new ones then stay as they are.
func (t *Table[K, V]) Reset(p Past[V]) error { return t.refill("reset", &p, false) }

// Restore is like [Table.Restore]. Reset describes what differs.
func (x TxTable[K, V]) Restore(p Past[V]) error { return x.refill("restore", &p, true) }

// Reset is like [Table.Reset], for several tables at one moment. It must be the only write to
// its table in the transaction, and the last use of it: a later one panics. Rows are read with
// the locks held.
func (x TxTable[K, V]) Reset(p Past[V]) error { return x.refill("reset", &p, false) }

func (t *Table[K, V]) refill(op string, p *Past[V], onlyNew bool) error {
	r, err := t.newRefill(p, onlyNew)
	if err == nil {
		err = r.fill(p)
	}
	if err != nil {
		return t.refillError(op, err)
	}
	return transact(op, func(tx *Tx) error { return t.refillError(op, t.In(tx).stage(op, r)) }, t)
}

func (x TxTable[K, V]) refill(op string, p *Past[V], onlyNew bool) error {
	x.beginWrite()
	defer x.endWrite()
	r, err := x.table.newRefillLocked(p, onlyNew)
	if err == nil {
		err = r.fill(p)
	}
	if err == nil {
		err = x.stage(op, r)
	}
	return x.table.refillError(op, err)
}

// refillError returns the error of a refill that failed, or nil if err is nil.
func (t *Table[K, V]) refillError(op string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*keyError); ok {
		err = pathError{e}
	}
	return fmt.Errorf("changefeed: %s %q: %w", op, t.name, err)
}

// A refill is the new contents of a table, before the table takes them over.
type refill[K, V any] struct {
	contents *Table[K, V] // a table that nobody else has
	onlyNew  bool         // the table that takes them over must be new
	names    lineage
	newest   [][]Change[V]
	of       []tableIndex[K, V] // for each index, the table's that it will replace
}

func (t *Table[K, V]) newRefill(p *Past[V], onlyNew bool) (*refill[K, V], error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.newRefillLocked(p, onlyNew)
}

// newRefillLocked returns a refill without rows.
func (t *Table[K, V]) newRefillLocked(p *Past[V], onlyNew bool) (*refill[K, V], error) {
	t.checkNoView()
	if t.dropped {
		return nil, ErrTableDropped
	}
	if onlyNew && !t.isNewLocked() {
		return nil, ErrNotEmpty
	}
	if err := lineage(p.Lineage).check(); err != nil {
		return nil, err
	}
	r := &refill[K, V]{
		contents: &Table[K, V]{guard: t.guard, key: t.key, order: t.order},
		onlyNew:  onlyNew,
		names:    slices.Clone(lineage(p.Lineage)),
	}
	r.contents.seq = r.names[len(r.names)-1].Seq
	r.contents.rows.init(t.rows.less)
	r.contents.keys = t.keys.another(nil, &r.contents.rows)
	for _, x := range t.shownIndexes() {
		r.addIndex(x)
	}
	return r, nil
}

// isNewLocked reports whether nobody has written to the table, and nobody follows it.
func (t *Table[K, V]) isNewLocked() bool {
	return t.seq == 0 && t.len == 0 && t.feeds.isEmpty() && t.commitSets() == nil
}

// check returns an error if l cannot be the names of a history.
func (l lineage) check() error {
	if len(l) == 0 {
		return errors.New("Past without a Lineage; pass that of the table that had the rows")
	}
	for i, name := range l {
		switch {
		case name.History == HistoryID{}:
			return errors.New("a Lineage with a zero HistoryID")
		case l[:i].includes(name.History):
			return fmt.Errorf("a Lineage that has %v twice", name.History)
		case i > 0 && name.Seq < l[i-1].Seq:
			return fmt.Errorf("a Lineage that goes back from %d to %d", l[i-1].Seq, name.Seq)
		}
	}
	return nil
}

// fill adds the rows and the newest commits.
func (r *refill[K, V]) fill(p *Past[V]) error {
	if err := r.contents.fillRows(p.Rows); err != nil {
		return err
	}
	length, seq := r.contents.len, r.contents.seq
	if uint64(length) > seq {
		return fmt.Errorf("%d rows after %d changes; each row takes a change", length, seq)
	}
	if p.Newest == nil {
		return nil
	}
	var last uint64
	for commit := range p.Newest {
		for _, c := range commit {
			if c.Seq == 0 || last > 0 && c.Seq != last+1 {
				return fmt.Errorf("%w: in Newest, %d comes after %d", ErrGap, c.Seq, last)
			}
			last = c.Seq
		}
		r.newest = append(r.newest, slices.Clone(commit))
	}
	if last > 0 && last != seq {
		return fmt.Errorf("%w: Newest ends with %d, and the Lineage with %d", ErrGap, last, seq)
	}
	return nil
}

// fillRows adds rows to the tree, to keys and to the indexes of a table that nobody else has. It fills one after the
// other, because each stays in the processor's caches then (BenchmarkRestore).
func (t *Table[K, V]) fillRows(rows iter.Seq[V]) error {
	if rows == nil {
		return nil
	}
	for row := range rows {
		c := &cell[K, V]{key: t.key(&row)}
		c.row.Store(&row)
		if _, ok := t.rows.put(entryOf(c)); ok {
			return fmt.Errorf("%w %s", ErrDuplicateKey, quoted(c.key))
		}
		t.guard.keep(&row)
		t.len++
	}
	cells := make([]*K, 0, t.len)
	t.rows.tree.Ascend(func(e entry[K]) bool {
		cells = append(cells, (*K)(e.cell))
		return true
	})
	t.keys.fill(cells)
	for _, x := range t.indexes {
		if err := x.addAll(); err != nil {
			return err
		}
	}
	return nil
}

// stage makes r the contents of the table when the transaction commits.
func (x TxTable[K, V]) stage(op string, r *refill[K, V]) error {
	t := x.table
	if t.seq != t.tx.seq {
		panic(fmt.Sprintf("changefeed: %s of the table %q after a write to it in the same transaction", op, t.name))
	}
	if r.onlyNew && !t.isNewLocked() {
		return ErrNotEmpty
	}
	for _, index := range t.shownIndexes() {
		if !slices.Contains(r.of, index) { // made since
			if err := r.addIndex(index).addAll(); err != nil {
				return err
			}
		}
	}
	if t.dependents != nil {
		if err := t.rewriteLocked(x.tx, r); err != nil {
			return err
		}
	}
	t.tx.refill, x.tx.resets = r, true
	return nil
}

// addIndex adds an empty index like one of the table.
func (r *refill[K, V]) addIndex(x tableIndex[K, V]) tableIndex[K, V] {
	other := x.another(r.contents)
	r.contents.indexes, r.of = append(r.contents.indexes, other), append(r.of, x)
	return other
}

// rewriteLocked makes the staged contents of a table with views by writes to the rows that differ, which the views
// follow. If it fails, the table is as it was.
func (t *Table[K, V]) rewriteLocked(tx *Tx, r *refill[K, V]) error {
	tx.beginCascade()
	ok := false
	defer func() { tx.endCascade(ok) }() // also if a function of the user panics
	t.saveOnceLocked()
	var gone []*cell[K, V]
	t.rows.tree.Ascend(func(e entry[K]) bool {
		if c := (*cell[K, V])(e.cell); c.row.Load() != nil && !r.contents.rows.tree.Has(entry[K]{key: e.key}) {
			gone = append(gone, c)
		}
		return true
	})
	for _, c := range gone {
		t.rewriteRowLocked(c.key, c, nil)
	}
	r.contents.rows.tree.Ascend(func(e entry[K]) bool {
		t.rewriteRowLocked(e.key, t.cellLocked(e.key), (*cell[K, V])(e.cell).row.Load())
		return true
	})
	err := tx.checkViewsLocked()
	ok = err == nil
	return err
}

// rewriteRowLocked makes row the row of a cell. The table reports no change. Its unique indexes were checked when
// the contents were staged.
func (t *Table[K, V]) rewriteRowLocked(key K, at *cell[K, V], row *V) {
	defer t.forgetPlansLocked()
	old := at.latest()
	c := Change[V]{Kind: kindOf(old, row), Old: old, New: row}
	if c.Kind == Update && t.equal(old, row) {
		return
	}
	t.planLocked(&c)
	t.storeLocked(key, at, &c)
	t.followLocked(key, old, row)
}

// takeOverLocked makes the staged contents those of the table. Scans that are open keep the
// cells that they have, to which nobody writes any more.
func (t *Table[K, V]) takeOverLocked(r *refill[K, V]) {
	now := t.momentLocked()
	if t.dependents == nil {
		t.rows.take(&r.contents.rows)
		t.keys.take(r.contents.keys)
		for i, x := range r.of {
			x.take(r.contents.indexes[i])
		}
	}
	t.len, t.seq = r.contents.len, r.contents.seq
	t.ahead = now + 1 - t.seq
}

// publishRefillLocked makes all feeds of the table report the reset.
func (t *Table[K, V]) publishRefillLocked(r *refill[K, V]) (w wakeList[V]) {
	to := newHistory(r.names)
	t.history.Store(to)
	t.setHandleLocked()
	rings := map[*ring[Change[V]]]bool{&t.allScope.ring: true}
	t.allScope.ring.resetTableLocked(t.seq, to, r.newest)
	w.add(&t.allScope.ring)
	for s := range t.subscriptions() {
		if p, ok := s.part.(*keyPart[K, V]); ok {
			p.keepScopeLocked(s.scope)
		}
		if s.squash != nil {
			s.squash.reset(t.seq, to)
		} else if ring := &s.scope.ring; !rings[ring] {
			rings[ring] = true
			ring.resetTableLocked(t.seq, to, nil)
			w.add(ring)
		}
	}
	return w
}
