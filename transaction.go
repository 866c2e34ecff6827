package changefeed

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
)

// A Tx is a transaction under way: see [Transact].
type Tx struct {
	tables []txTable // in the order of their numbers
	ended  atomic.Bool
}

// AnyTable is a *[Table], whatever its keys and rows.
type AnyTable interface{ anyTable() txTable }

// A txTable is a table as a transaction sees it.
type txTable interface {
	lockOrder() uint64
	lock()
	unlock()

	// canBeginLocked returns an error if the table is dropped. A beginLocked is followed
	// by a publishLocked, which returns what is to be done without the lock, or by a
	// rollbackLocked.
	canBeginLocked() error
	beginLocked()
	publishLocked() (wake func())
	rollbackLocked()
}

// A replacement is a write that a transaction made, for it to be taken back. The
// indexes keep what they need for that themselves.
type replacement[K, V any] struct {
	key K
	was *V
}

// Transact makes all writes of fn to the tables, or none: if fn returns an error,
// which Transact returns then, or panics, every table, index, sequence number and
// feed is as it was. What a single write cannot do, such as to move an amount from
// one row to another, or to keep two tables in step, a transaction can.
//
// All tables are locked until Transact returns, in an order of the library's own, so
// that transactions do not deadlock whatever order they name them in. So name all
// tables that fn writes to: another one is locked out of that order. In fn they are
// reached through [Table.In] only; any other call on them blocks for ever, and so may a
// range over one of their streams. fn runs in the caller's goroutine, and should be
// quick: readers and writers of the tables wait. It sees what it wrote itself.
//
// A table given twice counts once. If one of the tables is dropped, Transact returns
// [ErrTableDropped] and does not call fn; without a table, it only calls fn. It panics
// if fn or a table is nil.
//
// Each write in fn is a change of its own, also the second one to a row, and is held
// against unique indexes at once: to exchange the values of two rows, give one of them
// a third value first. The Change that it returns is good when Transact has returned
// nil.
//
// A feed does not see the first change of a transaction before it can see the last;
// another feed may see it a moment later. Whoever has seen one of them and then reads
// the rows of any of the tables, sees them all.
//
// A transaction costs about what its writes cost one by one, for those have no commit
// to save: most of a write is its way through the B-tree (BenchmarkTransact).
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

// run locks the tables and runs fn.
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
	defer func() { // also if fn panics, or ends the goroutine
		tx.ended.Store(true)
		if published {
			return
		}
		for _, t := range tx.tables {
			defer t.rollbackLocked() // each, whatever becomes of the others
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

func (t *Table[K, V]) lockOrder() uint64 { return t.number }
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

// rollbackLocked takes the writes back, the last one first. It calls no function of the
// user's but compare, so nothing may fail. T4
func (t *Table[K, V]) rollbackLocked() {
	defer func() {
		t.endTxLocked()
		t.outbox.discard()
	}()
	for _, r := range slices.Backward(t.undo) {
		for _, x := range t.indexes {
			x.planUndo()
		}
		t.storeLocked(r.key, t.cellLocked(r.key), r.was)
		t.forgetPlansLocked()
		t.seq--
	}
}

func (t *Table[K, V]) endTxLocked() {
	t.inTx = false
	t.undo = emptied(t.undo)
	for _, x := range t.indexes {
		x.endTx()
	}
}

// A TxTable is a table in a transaction: see [Transact]. Its methods are some of the
// [Table]'s, and see what the transaction wrote; selections and indexes cannot be read
// in a transaction. It is for fn, and for one goroutine at a time; to use it after the
// transaction's end panics, and so does a write in a function that a write calls.
// A zero TxTable must not be used.
type TxTable[K, V any] struct {
	table *Table[K, V]
	tx    *Tx // nil: each write is by itself
}

// In returns the table as it is in a transaction, to be read and written there. It
// panics if the transaction was not given the table, or has ended.
func (t *Table[K, V]) In(tx *Tx) TxTable[K, V] {
	if tx == nil {
		panic("changefeed: Table.In: nil transaction; pass the one that Transact gives to its function")
	}
	x := TxTable[K, V]{t, tx}
	x.check()
	if !slices.Contains(tx.tables, txTable(t)) {
		panic(fmt.Sprintf("changefeed: Table.In: the transaction does not know the table %q; give it to Transact", t.name))
	}
	return x
}

func (x TxTable[K, V]) check() {
	if x.tx.ended.Load() {
		panic(fmt.Sprintf("changefeed: the table %q is used in a transaction that has ended", x.table.name))
	}
}

// Insert is [Table.Insert].
func (x TxTable[K, V]) Insert(row V) (Change[V], error) {
	key := x.table.key(&row)
	return x.write("insert into", key, func(old *V) (*V, error) {
		if old != nil {
			return nil, ErrDuplicateKey
		}
		return &row, nil
	})
}

// Upsert is [Table.Upsert].
func (x TxTable[K, V]) Upsert(row V) (Change[V], error) {
	key := x.table.key(&row)
	return x.write("upsert into", key, func(*V) (*V, error) {
		return &row, nil
	})
}

// Replace is [Table.Replace].
func (x TxTable[K, V]) Replace(row V) (Change[V], error) {
	key := x.table.key(&row)
	return x.write("replace in", key, func(old *V) (*V, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		return &row, nil
	})
}

// Update is [Table.Update].
func (x TxTable[K, V]) Update(key K, edit func(row *V)) (Change[V], error) {
	if edit == nil {
		panic("changefeed: Table.Update: nil function; pass one that edits the row")
	}
	t := x.table
	return x.write("update in", key, func(old *V) (*V, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		row := t.copy(old)
		edit(row)
		return t.sameKey(key, row)
	})
}

// Compute is [Table.Compute].
func (x TxTable[K, V]) Compute(key K, f func(old *V) *V) (Change[V], error) {
	if f == nil {
		panic("changefeed: Table.Compute: nil function; pass one that returns the new row")
	}
	t := x.table
	return x.write("compute in", key, func(old *V) (*V, error) {
		if old != nil {
			old = t.copy(old) // T3: f might edit it
		}
		row := f(old)
		if row == nil {
			return nil, nil
		}
		return t.sameKey(key, row)
	})
}

// Delete is [Table.Delete].
func (x TxTable[K, V]) Delete(key K) (Change[V], error) {
	return x.write("delete from", key, func(old *V) (*V, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		return nil, nil
	})
}

// write makes a write, in the transaction if there is one.
func (x TxTable[K, V]) write(op string, key K, next func(old *V) (*V, error)) (c Change[V], err error) {
	if x.tx == nil {
		c, err = x.table.write(key, next)
	} else {
		c, err = x.writeInTx(key, next)
	}
	if err != nil {
		return Change[V]{}, &keyError{op: op, table: x.table.name, key: key, err: err}
	}
	return c, nil
}

// writeInTx makes a write of the transaction. A user's function that writes to the
// table itself would have it go on from a row that is not there any more; where each
// write takes the lock, it deadlocks.
func (x TxTable[K, V]) writeInTx(key K, next func(old *V) (*V, error)) (Change[V], error) {
	x.check()
	t := x.table
	if t.writing {
		panic(fmt.Sprintf("changefeed: a function that a write to the table %q calls writes to it; write before or after", t.name))
	}
	t.writing = true
	defer func() {
		t.writing = false
		t.forgetPlansLocked()
	}()
	return t.writeLocked(key, next)
}

// Get is [Table.Get].
func (x TxTable[K, V]) Get(key K) (V, bool) {
	x.check()
	return x.table.getLocked(key)
}

// Len is [Table.Len].
func (x TxTable[K, V]) Len() int {
	x.check()
	return x.table.len
}

// All is [Table.All]: a range sees the table as the transaction has made it when the
// range begins, and may write.
func (x TxTable[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		x.check()
		rows := x.table.everything.snapshotLocked(true)
		rows.forward(x.table.all().yielding(yield))
	}
}
