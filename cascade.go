package changefeed

import (
	"fmt"
	"slices"
	"unsafe"
)

// A write to a table with views is a cascade. The write goes on to the views, and from them to the views of
// the views. It is made in a transaction. If none is running, the cascade begins one of its own. If a cascade
// fails, every table that it has reached goes back to its state before the cascade. A transaction that was
// running can then continue.

// A cascade is the write to a table with views that is under way in a transaction.
type cascade struct {
	tables []txTable // the tables that the cascade has reached
	logged int       // the length of Tx.log before the cascade
}

// A savepoint is the state of a table before a cascade.
type savepoint[K, V any] struct {
	set    bool
	len    int
	seq    uint64
	made   [Delete + 1]uint64
	rows   []savedRow[K, V] // the rows that the cascade has replaced, in the order of the writes
	rings  []savedRing[V]   // the rings in which it has put changes, in the order of the puts
	events int              // the length of outbox.events
}

type savedRow[K, V any] struct {
	cell *cell[K, V]
	row  *V
}

type savedRing[V any] struct {
	ring *ring[Change[V]]
	next uint64 // ring.next before the put
}

// cascades reports whether a change to the table concerns one of its views. It may call functions of the user.
func (t *Table[K, V]) cascades(key K, old, new *V) bool {
	for _, p := range t.dependents {
		if _, _, ok := p.concerns(key, old, new); ok {
			return true
		}
	}
	return false
}

// isView reports whether the table has the rows of a view.
func (t *Table[K, V]) isView() bool { return t.taps != nil }

// cascadeLocked makes a planned change to a table with views, and then makes the views follow. If no transaction is
// running, cascadeLocked begins one, which endWrite ends.
func (t *Table[K, V]) cascadeLocked(c *Change[V], key K, at *cell[K, V]) error {
	if !t.tx.running() {
		t.beginSingleLocked()
		t.spreadLocked(c, key, at)
		return t.single.checkViewsLocked()
	}
	tx := t.tx.tx
	tx.beginCascade()
	ok := false
	defer func() { tx.endCascade(ok) }() // also if a function of the user panics
	t.spreadLocked(c, key, at)
	err := tx.checkViewsLocked()
	ok = err == nil
	return err
}

// spreadLocked makes a planned change of a cascade, and then makes the views follow.
func (t *Table[K, V]) spreadLocked(c *Change[V], key K, at *cell[K, V]) {
	t.saveOnceLocked()
	t.commitLocked(c, key, at)
	t.followLocked(key, c.Old, c.New)
}

// followLocked makes the views of the table follow a change.
func (t *Table[K, V]) followLocked(key K, old, new *V) {
	for _, p := range t.dependents {
		p.follow(t.tx.tx, key, old, new)
	}
}

func (tx *Tx) beginCascade() { tx.cascade.logged = len(tx.log) }

// endCascade ends the cascade. If ok is false, it first makes the tables what they were before the cascade.
func (tx *Tx) endCascade(ok bool) {
	c := &tx.cascade
	for _, t := range c.tables {
		if !ok {
			t.goBackLocked()
		}
		t.forgetSavepointLocked()
	}
	if !ok {
		clear(tx.log[c.logged:])
		tx.log = tx.log[:c.logged]
	}
	c.tables = recycle(c.tables)
}

// checkViewsLocked returns an error if the cascade has broken a unique index of a view. It is called at the end of the
// cascade, because a row of a view can have the value of another one until that is written, too.
func (tx *Tx) checkViewsLocked() error {
	reached := tx.cascade.tables
	if tx.single {
		reached = tx.tables
	}
	for _, t := range reached {
		if err := t.checkWrittenLocked(reached); err != nil {
			return err
		}
	}
	return nil
}

// checkWrittenLocked returns an error if the table is that of a view, and the cascade, which has reached these tables,
// has broken one of its unique indexes.
func (t *Table[K, V]) checkWrittenLocked(reached []txTable) error {
	if !t.isView() {
		return nil // makeLocked or a Reset has checked its indexes
	}
	for _, x := range t.indexes {
		if key, err := x.checkWritten(); err != nil {
			return &keyError{op: t.wayLocked("in view", reached), table: t.name, key: key, err: err}
		}
	}
	return nil
}

// wayLocked adds to a text the views by which a cascade has come to a view.
func (t *Table[K, V]) wayLocked(text string, reached []txTable) string {
	for _, p := range t.taps {
		if source := p.sourceTable(); source.isView() && slices.Contains(reached, source) {
			return source.viaLocked(text, reached)
		}
	}
	return text
}

// viaLocked is wayLocked with the view itself.
func (t *Table[K, V]) viaLocked(text string, reached []txTable) string {
	return fmt.Sprintf("%s %q, view", t.wayLocked(text, reached), t.name)
}

// saveOnceLocked makes the savepoint of the table when the cascade first reaches it. A single write needs no
// savepoint, because a failure rolls back its whole transaction.
func (t *Table[K, V]) saveOnceLocked() {
	tx, s := t.tx.tx, &t.tx.saved
	if tx.single || s.set {
		return
	}
	tx.cascade.tables = append(tx.cascade.tables, t)
	s.set, s.len, s.seq, s.made, s.events = true, t.len, t.seq, t.made, len(t.outbox.events)
	t.outbox.saved = s
	for _, x := range t.indexes {
		x.save()
	}
}

// goBackLocked makes the table what it was before the cascade. It calls no function of the user, except
// the compare function of NewTableFunc, so nothing can fail. T4
func (t *Table[K, V]) goBackLocked() {
	s := &t.tx.saved
	for _, r := range slices.Backward(s.rows) {
		r.cell.versions.Load().row = unsafe.Pointer(r.row) // the first version is the transaction's
	}
	t.len, t.seq, t.made = s.len, s.seq, s.made
	for _, x := range t.indexes {
		x.rollback(true)
	}
	for _, r := range slices.Backward(s.rings) {
		r.ring.takeBackTableLocked(r.next)
	}
	o := &t.outbox
	clear(o.events[s.events:])
	o.events = o.events[:s.events]
}

func (t *Table[K, V]) forgetSavepointLocked() {
	s := &t.tx.saved
	*s = savepoint[K, V]{rows: recycle(s.rows), rings: recycle(s.rings)}
	t.outbox.saved = nil
}

// joinLocked adds the table to the tables of the transaction, if it is not one of them. The transaction already
// holds the table's lock.
func (t *Table[K, V]) joinLocked(tx *Tx) {
	if !t.tx.running() {
		tx.tables = append(tx.tables, t)
		t.beginLocked(tx)
	}
}

// setLocked stores row under a key of a view. If row is nil, it removes the row of the key.
func (t *Table[K, V]) setLocked(tx *Tx, key K, row *V) {
	t.setCellLocked(tx, key, t.cellLocked(key), row)
}

// setCellLocked is like setLocked, but the caller passes the cell of the key, or nil if the key has none.
func (t *Table[K, V]) setCellLocked(tx *Tx, key K, at *cell[K, V], row *V) {
	t.joinLocked(tx)
	old := at.latest()
	c := Change[V]{Kind: kindOf(old, row), Old: old, New: row}
	if c.Kind == None || c.Kind == Update && t.equal(old, row) {
		return // V6
	}
	if t.indexes != nil {
		defer t.forgetPlansLocked()
		t.planLocked(&c)
	}
	t.guard.keep(row)
	t.spreadLocked(&c, key, at)
}

// beginSingleLocked begins a transaction for a single write.
func (t *Table[K, V]) beginSingleLocked() {
	if t.single == nil {
		t.single = &Tx{single: true}
	}
	t.single.begin()
	t.joinLocked(t.single)
}

// endSingle rolls the write back if it has not committed, and makes tx ready for the next single write.
func (tx *Tx) endSingle() {
	if !tx.committed.Load() {
		for _, t := range tx.tables {
			t.rollbackLocked()
			t.endTxLocked()
		}
	}
	tx.outcome, tx.spare = nil, nil // they hold rows
	tx.tables, tx.log = recycle(tx.tables), recycle(tx.log)
}
