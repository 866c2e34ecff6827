package changefeed

import "unsafe"

// A cell holds the row of a key. The hash index, the tree and the indexes share the row's
// cell, so a write to the row changes one cell and none of them (BenchmarkWrite). The row
// keeps its cell until it is deleted. A row that is inserted later gets another one.
//
// A cell is written to with the table's lock held for writing. There is one exception: when a
// snapshot closes, the earlier rows that it needed are removed with the lock held for reading.
// Readers without the lock use published and at. ARCHITECTURE.md explains why they find the
// right row.
type cell[K, V any] struct {
	key      K                      // as in the cell's entry. It must be the first field: see cellOf
	row      atomicPointer[V]       // the published row, or nil. T3
	versions atomicPointer[version] // rows other than row: see version
	scope    *scope[K, V]           // the scope of this row, or nil if no feed follows it. Guarded by the table's lock
}

// cellOf returns the cell whose key has this address, which is also the address of the cell. It returns nil for nil.
func cellOf[K, V any](key *K) *cell[K, V] { return (*cell[K, V])(unsafe.Pointer(key)) }

// A version is a row of a cell other than the published one. The first version of a cell
// may be the row of a transaction that is running. Then come earlier rows that open
// snapshots need, the newest first. The type version does not depend on the type of the row,
// so that a transaction can allocate the versions of all its tables together.
type version struct {
	row     unsafe.Pointer         // the row, a *V of the cell, or nil if there is none
	tx      *outcome               // of the transaction that wrote the row, or nil for an earlier row
	keptFor atomicUint64           // for an earlier row: the moment of the newest snapshot that needs it
	next    atomicPointer[version] // nil at the end
}

// An outcome says whether a transaction has committed. Setting committed publishes the transaction's rows in all of
// its tables at once.
type outcome struct{ committed atomicBool }

// published returns the row that is published now. It needs no lock, and c may be nil.
//
// A transaction sets its flag committed once, for all of its rows in all of its tables. Only
// then does it move its rows to row. Therefore row can never be rolled back, and published may
// return it unless the cell has the version of a committed transaction. Between the two loads,
// row can only become newer.
func (c *cell[K, V]) published() *V {
	if c == nil {
		return nil
	}
	if v := c.versions.Load(); v != nil && v.tx != nil && v.tx.committed.Load() {
		return (*V)(v.row)
	}
	return c.row.Load()
}

// at returns the cell's row in an open snapshot. It needs no lock. The cell must have been in
// the tree when the snapshot was taken.
func (c *cell[K, V]) at(snapshot uint64) *V { return c.rowAt(c.row.Load(), snapshot) }

// rowAt is like at, but takes a published row that was loaded before. A write adds the earlier
// row to versions before it stores the new one, so rowAt finds the earlier row.
func (c *cell[K, V]) rowAt(row *V, snapshot uint64) *V {
	if v := c.versions.Load(); v != nil {
		return (*V)(v.rowAt(unsafe.Pointer(row), snapshot))
	}
	return row
}

// rowAt returns the row in a snapshot. v is the cell's first version. rowAt goes back from row, the
// published row, through the earlier rows that are kept for the snapshot or for a newer one.
func (v *version) rowAt(row unsafe.Pointer, snapshot uint64) unsafe.Pointer {
	if v.tx != nil {
		v = v.next.Load()
	}
	for v != nil && v.keptFor.Load() >= snapshot {
		row = v.row
		v = v.next.Load()
	}
	return row
}

// latest returns the row that the next write replaces. If a running transaction has written to
// the cell, that is the transaction's row. Otherwise it is the published row. The table's lock
// must be held, and c may be nil.
func (c *cell[K, V]) latest() *V {
	if c == nil {
		return nil
	}
	if v := c.versions.Load(); v != nil && v.tx != nil {
		return (*V)(v.row)
	}
	return c.row.Load()
}
