package changefeed

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
)

// A Tx is a running transaction: see [Transact].
type Tx struct {
	tables []txTable // in the order of their lockIDs
	ended  atomic.Bool
}

// AnyTable is a *[Table] with keys and rows of any type.
type AnyTable interface{ anyTable() txTable }

// A txTable is a table as a transaction sees it.
type txTable interface {
	lockOrder() uint64
	lock()
	unlock()

	// canBeginLocked returns an error if the table is dropped. Each beginLocked is
	// followed by a publishLocked or a rollbackLocked. The caller calls the function that
	// publishLocked returns when it holds no lock.
	canBeginLocked() error
	beginLocked()
	publishLocked() (wake func())
	rollbackLocked()
}

// Transact makes all writes of fn to the tables, or none of them. If fn returns an error,
// Transact rolls the writes back and returns the error. If fn panics, it rolls them back,
// too, and the panic reaches the caller. Every table, index, sequence number and feed is
// then as it was. A transaction can move an amount from one row to another, or keep two
// tables in step, which a single write cannot.
//
// The tables are locked until Transact returns. Transact locks them in an order of its
// own, so transactions do not deadlock, whatever order they name the tables in. In fn,
// tables are reached through [Table.In] only. Any other call to one of the tables, or a
// read of one of their selections or indexes, blocks forever. A range over one of their
// streams may block, too. fn must call no other table at all, because it would be locked
// out of order: two transactions that only read each other's table deadlock. Pass all
// tables that fn reads or writes.
//
// fn runs in the caller's goroutine. It should be quick, because readers and writers of
// the tables wait. It sees its own writes.
//
// A table that is passed twice counts once. If one of the tables is dropped, Transact
// returns [ErrTableDropped] and does not call fn. Without a table, it only calls fn. It
// panics if fn or a table is nil.
//
// Each write in fn is a change of its own, also a second write to the same row. Unique
// indexes are checked at each write. To exchange the values of two rows, first give one
// of them a third value. The Change that a write returns is valid only once Transact
// has returned nil.
//
// Transactions are atomic for readers. No feed can yield the first change of a
// transaction before it can yield the last, although one feed may see a transaction a
// moment later than another. Once a subscriber has seen one change of a transaction,
// reads of its tables see all of them.
//
// A transaction costs about as much as its writes cost one by one. A single write has no
// commit that a transaction could save.
func Transact(fn func(tx *Tx) error, tables ...AnyTable) error {
	if fn == nil {
		panic("changefeed: Transact: nil function; pass one that writes to the tables")
	}
	tx := new(Tx)
	for _, t := range tables {
		if t == nil {
			panic("changefeed: Transact: nil table")
		}
		tx.tables = append(tx.tables, t.anyTable())
	}
	slices.SortFunc(tx.tables, func(a, b txTable) int { return cmp.Compare(a.lockOrder(), b.lockOrder()) })
	tx.tables = slices.Compact(tx.tables)

	wake, err := tx.run(fn)
	for _, f := range wake {
		f()
	}
	return err
}

// run locks the tables, calls fn, and publishes its writes or rolls them back. The
// functions that it returns wake loops, and are to be called without the locks. A
// transaction costs about what its writes cost (BenchmarkTransact).
func (tx *Tx) run(fn func(tx *Tx) error) (wake []func(), err error) {
	for _, t := range tx.tables {
		t.lock()
		defer t.unlock()
	}
	for _, t := range tx.tables {
		if err := t.canBeginLocked(); err != nil {
			return nil, err
		}
	}
	for _, t := range tx.tables {
		t.beginLocked()
	}
	published := false
	defer func() { // also if fn panics or ends its goroutine
		tx.ended.Store(true)
		if published {
			return
		}
		for _, t := range tx.tables {
			defer t.rollbackLocked() // deferred, so each runs even if another panics
		}
	}()
	if err := fn(tx); err != nil {
		return nil, err
	}
	for _, t := range tx.tables {
		wake = append(wake, t.publishLocked())
	}
	published = true
	return wake, nil
}

func (t *Table[K, V]) anyTable() txTable {
	if t == nil {
		panic("changefeed: Transact: nil table")
	}
	return t
}

func (t *Table[K, V]) lockOrder() uint64 { return t.lockID }
func (t *Table[K, V]) lock()             { t.mu.Lock() }
func (t *Table[K, V]) unlock()           { t.mu.Unlock() }

func (t *Table[K, V]) canBeginLocked() error {
	if t.dropped {
		return fmt.Errorf("changefeed: transaction on %q: %w", t.name, ErrTableDropped)
	}
	return nil
}

func (t *Table[K, V]) beginLocked() { t.inTx = true }

func (t *Table[K, V]) publishLocked() (wake func()) {
	t.endTxLocked()
	w := t.outbox.publish()
	return w.wake
}

// rollbackLocked undoes the transaction's writes, the last one first. It calls no function
// of the user except compare, so nothing can fail. T4
func (t *Table[K, V]) rollbackLocked() {
	defer func() {
		t.endTxLocked()
		t.outbox.discard()
	}()
	for _, r := range slices.Backward(t.undo) {
		for _, x := range t.indexes {
			x.planUndo()
		}
		t.storeLocked(r.key, t.cellLocked(r.key), r.old)
		t.forgetPlansLocked()
		t.seq--
	}
}

func (t *Table[K, V]) endTxLocked() {
	t.inTx = false
	t.undo = recycle(t.undo)
	for _, x := range t.indexes {
		x.endTx()
	}
}

// A TxTable is a table in a transaction: see [Transact] and [Table.In]. It has some of the
// methods of [Table], and they see the writes of the transaction. Selections and indexes
// cannot be read in a transaction.
//
// A TxTable is for the function passed to Transact, and for one goroutine at a time. A
// zero TxTable must not be used. Use after the end of the transaction panics. A write
// also panics if it is made in a function that another write to the table calls.
type TxTable[K, V any] struct {
	table *Table[K, V]
	tx    *Tx
}

// In returns the table as it is in a transaction, for reads and writes. It panics if tx is
// nil or has ended, or if the table was not passed to [Transact].
func (t *Table[K, V]) In(tx *Tx) TxTable[K, V] {
	if tx == nil {
		panic("changefeed: Table.In: nil transaction; pass the one that Transact passes to its function")
	}
	x := TxTable[K, V]{t, tx}
	x.check()
	if !slices.Contains(tx.tables, txTable(t)) {
		panic(fmt.Sprintf("changefeed: Table.In: the table %q is not in the transaction; pass it to Transact", t.name))
	}
	return x
}

func (x TxTable[K, V]) check() {
	if x.tx.ended.Load() {
		panic(fmt.Sprintf("changefeed: the table %q is used in a transaction that has ended", x.table.name))
	}
}

// Insert is like [Table.Insert].
func (x TxTable[K, V]) Insert(row V) (Change[V], error) {
	return x.write("insert into", x.table.key(&row), inserting(&row))
}

// Upsert is like [Table.Upsert].
func (x TxTable[K, V]) Upsert(row V) (Change[V], error) {
	return x.write("upsert into", x.table.key(&row), upserting(&row))
}

// Replace is like [Table.Replace].
func (x TxTable[K, V]) Replace(row V) (Change[V], error) {
	return x.write("replace in", x.table.key(&row), replacing(&row))
}

// Update is like [Table.Update].
func (x TxTable[K, V]) Update(key K, edit func(row *V)) (Change[V], error) {
	return x.write("update in", key, x.table.updating(key, edit))
}

// Compute is like [Table.Compute].
func (x TxTable[K, V]) Compute(key K, f func(old *V) *V) (Change[V], error) {
	return x.write("compute in", key, x.table.computing(key, f))
}

// Delete is like [Table.Delete].
func (x TxTable[K, V]) Delete(key K) (Change[V], error) {
	return x.write("delete from", key, deleting[V])
}

// write makes a write of the transaction, and adds operation, table and key to its error.
func (x TxTable[K, V]) write(op string, key K, next rule[V]) (Change[V], error) {
	c, err := x.writeLocked(key, next)
	if err != nil {
		return Change[V]{}, x.table.writeError(op, key, err)
	}
	return c, nil
}

// writeLocked makes a write of the transaction. It panics in a user's function that
// another write to the table calls, because the outer write would continue with a row
// that is not stored any more. Outside a transaction, where each write takes the lock,
// such a write deadlocks.
func (x TxTable[K, V]) writeLocked(key K, next rule[V]) (Change[V], error) {
	x.check()
	t := x.table
	if t.writing {
		panic(fmt.Sprintf("changefeed: a function that a write to the table %q calls writes to the same table; write before or after it", t.name))
	}
	t.writing = true
	defer func() {
		t.writing = false
		t.forgetPlansLocked()
	}()
	return t.writeLocked(key, next)
}

// Get is like [Table.Get].
func (x TxTable[K, V]) Get(key K) (V, bool) {
	x.check()
	return x.table.getLocked(key)
}

// Len is like [Table.Len].
func (x TxTable[K, V]) Len() int {
	x.check()
	return x.table.len
}

// All is like [Table.All]. A range sees the table with the writes of the transaction up
// to the beginning of the range. The loop's body may write to the table.
func (x TxTable[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		x.check()
		rows := x.table.allPart.snapshotLocked(true)
		rows.forward(x.table.all().yielding(yield))
	}
}
