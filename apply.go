package changefeed

import "fmt"

// Apply makes changes that were made to another table, its source, in this table. It keeps the
// table a replica of its source: it has the same rows and sequence numbers, and its feeds report
// the same changes. of is the history of the changes: that of [Feed.Position] in a loop over the
// source's changes, or AnyChange.History.
//
// The changes are those of a feed of the whole source, in order. They become one transaction. If
// one of them cannot be applied, none is. So a program passes the changes of one transaction of
// the source: a batch of Batches with a maximum of 1, which is always one transaction. The
// changes of a [Commit] are applied with [TxTable.Apply] in one [Transact]. After a
// [*SkippedError], the program resets all of the tables together.
//
// A table becomes a replica with [Table.Restore] or [Table.Reset], which give it a history of
// the source. The program follows the source before it reads the source's rows and Lineage, with
// [Read]. Changes that the rows show already are left out. From then on only Apply may write to
// the replica. After another write, a change of the source with the same number is lost without
// an error. [Table.Fork] of the replica ends the replication. After a Fork of the source, each
// replica needs [Table.ForkTo], when it has all changes from before the fork.
//
// Apply can be repeated. Changes whose numbers the table has are left out, so a program that does
// not know how far it came can begin with an earlier change. The next change must have the next
// sequence number, and its Old must be equal to the stored row. An update is made and published
// even if the row does not change, because a program may have dropped some fields on the way.
// A program that sends the changes to another process sends the Seq and the Kind of each, too.
// The JSON of a Change has neither.
//
// The rows of the changes belong to the table afterwards. The functions of the table and of its
// indexes run under the lock.
//
// Possible errors:
//
//   - [ErrOtherHistory], if the change is of a history that the table does not have
//   - [ErrGap], if changes are missing before it
//   - [ErrDiverged], if somebody else has written to the table, or if the rows are not equal to
//     copies of themselves
//   - [ErrKeyChanged], and [ErrDuplicateKey] of a unique index
//   - [ErrTableDropped]
//   - an error for a change without a Seq, or one that is not an insert, update or delete with
//     the rows of its Kind
//
// After the first three, the program gets the source's rows anew and calls Reset.
func (t *Table[K, V]) Apply(of HistoryID, changes ...Change[V]) error {
	return transact("apply to", func(tx *Tx) error { return t.In(tx).Apply(of, changes...) }, t)
}

// Apply is like [Table.Apply]. If it fails, the whole transaction is rolled back, whatever else
// its function does. If the function returns nil, Transact returns the error of Apply. Every later
// Apply in the transaction returns it, too.
func (x TxTable[K, V]) Apply(of HistoryID, changes ...Change[V]) error {
	x.beginWrite()
	defer x.endWrite()
	if x.tx.failed != nil {
		return x.tx.failed
	}
	x.tx.failed = fmt.Errorf("changefeed: apply to %q: panicked", x.table.name) // remains if it does
	x.tx.failed = x.table.applyLocked(of, changes)
	return x.tx.failed
}

func (t *Table[K, V]) applyLocked(of HistoryID, changes []Change[V]) error {
	if !t.lineageNow().includes(of) {
		return fmt.Errorf("changefeed: apply to %q: %w: %v, the table's is %v", t.name, ErrOtherHistory, of, t.lineageNow().present())
	}
	for _, c := range changes {
		if err := t.applyChangeLocked(of, c); err != nil {
			return fmt.Errorf("changefeed: apply to %q: change %d: %w", t.name, c.Seq, err)
		}
		t.forgetPlansLocked()
	}
	return nil
}

func (t *Table[K, V]) applyChangeLocked(of HistoryID, c Change[V]) error {
	if c.Seq == 0 {
		return fmt.Errorf("must have a sequence number: %v", c)
	}
	if c.Row() == nil || c.Kind != kindOf(c.Old, c.New) {
		return fmt.Errorf("must be an insert, update or delete with the rows of its kind, but is %v", c)
	}
	switch names := t.lineageNow(); {
	case names.has(Position{of, c.Seq}, t.seq):
		return nil
	case of != names.present():
		return fmt.Errorf("%w: %v ends at change %d", ErrOtherHistory, of, names.end(of))
	case c.Seq != t.seq+1:
		return fmt.Errorf("%w: the last change of the table is %d", ErrGap, t.seq)
	}
	key := t.key(c.Row())
	if c.Kind == Update && t.order(t.key(c.Old), key) != 0 {
		return fmt.Errorf("%w %s", ErrKeyChanged, quoted(t.key(c.Old)))
	}
	at := t.cellLocked(key)
	old := at.latest()
	t.guard.check(old)
	switch {
	case old == nil && c.Old != nil:
		return fmt.Errorf("%w %s: no row is stored", ErrDiverged, quoted(key))
	case old != nil && c.Old == nil:
		return fmt.Errorf("%w %s: a row is stored already", ErrDiverged, quoted(key))
	case old != nil && !t.equal(old, c.Old):
		return fmt.Errorf("%w %s: the stored row is not the old row of the change", ErrDiverged, quoted(key))
	}
	c.Old = old
	switch err := t.makeLocked(&c, key, at).(type) {
	case nil:
		return nil
	case *keyError:
		return pathError{err}
	default:
		return fmt.Errorf("%w %s", err, quoted(key))
	}
}
