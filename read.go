package changefeed

import "github.com/google/btree"

// Read calls fn with the tables as they are at one moment, whatever is written while fn runs.
// Of each transaction, fn sees all writes to all of the tables, or none. Read returns the
// error that fn returns.
//
// In fn, the tables are read through [Table.In] and [Selection.In]. A write to what In
// returns panics. Calls to the tables themselves are allowed, too. They see the tables as
// they are by then, and may write.
//
// To begin, Read waits for the write or transaction that is running on each table. While it
// waits for one of them, writers of the others may wait, too. Once fn runs, nobody waits, so fn
// can take its time. Until it returns, the first write to each row keeps the earlier row in
// memory, and an insert or a delete copies the nodes of the trees that it touches, each once.
//
// In fn, a Get takes time in the logarithm of the number of rows. A range over the values of an
// index panics if the index was made after Read began.
//
// A table that is passed twice counts once. A dropped table is empty. Read panics if fn or a
// table is nil.
func Read(fn func(tx *Tx) error, tables ...AnyTable) error {
	if fn == nil {
		panic("changefeed: Read: nil function; pass one that reads the tables")
	}
	tx := newTx("Read", tables)
	defer tx.closeViews() // also if fn panics
	tx.openViews()
	return fn(tx)
}

// openViews takes snapshots of all tables while it holds all of their locks. A transaction
// holds its locks until all of its writes are published, so each snapshot has them or none.
func (tx *Tx) openViews() {
	domains := lockDomains(tx.firstDomains[:0], tx.tables, (*domain).rlock, (*domain).RUnlock)
	defer domains.release((*domain).RUnlock)
	for _, t := range tx.tables {
		tx.views = append(tx.views, t.viewLocked())
	}
}

func (tx *Tx) closeViews() {
	tx.ended.Store(true)
	for _, v := range tx.views {
		v.close()
	}
}

// An anyView is a *[view] of any table.
type anyView interface{ close() }

// A view is a table as [Read] sees it.
type view[K, V any] struct {
	snapshot *snapshot[K, V]
	rows     *btree.BTreeG[entry[K]]
	indexes  []frozenIndex[K, V]
	len      int
	names    lineage // not to be modified; its last Seq is out of date
	seq      uint64
}

// A frozenIndex is an index as Read sees it.
type frozenIndex[K, V any] struct {
	index tableIndex[K, V]
	tree  any // a *btree.BTreeG[indexEntry[S, K]]
}

func (t *Table[K, V]) viewLocked() anyView {
	v := &view[K, V]{
		snapshot: t.snapshots.take(t.momentLocked()), rows: t.rows.freeze(), len: t.len, names: t.lineageNow(), seq: t.seq,
	}
	for _, x := range t.indexes {
		v.indexes = append(v.indexes, frozenIndex[K, V]{x, x.freeze()})
	}
	return v
}

func (v *view[K, V]) close() { v.snapshot.release() }

// cell returns the cell of a key. It does not use the hash index, which has the cells of now.
func (v *view[K, V]) cell(key K) *cell[K, V] {
	e, _ := v.rows.Get(entry[K]{key: key})
	return (*cell[K, V])(e.cell)
}

// row returns the row in a cell, which may be nil.
func (v *view[K, V]) row(c *cell[K, V]) *V {
	if c == nil {
		return nil
	}
	return c.at(v.snapshot.moment)
}
