package changefeed

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
)

// A Tx is a running transaction or Read: see [Transact] and [Read].
type Tx struct {
	tables  []txTable  // those passed to it, in the order of their lockIDs, and then the views that it has reached
	domains domainList // the locked domains of the tables that were passed to a transaction
	views   []anyView  // the tables as [Read] sees them, or nil for a transaction
	*outcome
	spare   []version  // for rows that the transaction writes
	written int        // number of versions used
	resets  bool       // a table is restored or reset
	log     []logEntry // the changes of tables that are followed by [Commits]
	cascade cascade    // the write to a table with views that is under way
	failed  error      // why the transaction cannot commit, or nil
	ended   atomic.Bool

	single       bool       // it is one write to a table with views, or one step of making a view
	firstDomains [2]*domain // the memory for domains, if there are at most two
}

// AnyTable is a *[Table] or a *[View] with keys and rows of any type.
type AnyTable interface {
	Name() string
	Len() int
	Position() Position
	At(seq uint64) Position
	Info() TableInfo
	Feeds() []FeedInfo
	anyTable() txTable
}

// A txTable is a table as a transaction sees it.
type txTable interface {
	lockOrder() uint64
	domainLock() *domainLock
	isDroppedLocked() bool
	dropLocked(dropped []txTable) []txTable
	endFeeds()
	bornLocked()
	changesLocked() uint64

	// Each beginLocked is followed by prepareLocked and publishTxLocked, or by rollbackLocked, and
	// then by endTxLocked. The caller calls the function that publishTxLocked returns when it
	// holds no lock.
	beginLocked(tx *Tx)
	goBackLocked()
	checkWrittenLocked(reached []txTable) error
	isView() bool
	viaLocked(text string, reached []txTable) string
	forgetSavepointLocked()
	prepareLocked()
	publishTxLocked() (wake func())
	rollbackLocked()
	endTxLocked()

	viewLocked() anyView
	inspectionOrders() []inspection.Order

	commitTable
}

// Transact makes all writes of fn to the tables, or none of them. If fn returns an error,
// Transact rolls the writes back and returns the error. If fn panics, it rolls them back,
// too, and the panic reaches the caller. Every table, index, sequence number and feed is
// then as it was. A transaction can move an amount from one row to another, or keep two
// tables in step, which a single write cannot.
//
// The tables are locked until Transact returns, and with them all tables that a [View]
// connects with them. Transact locks them in an order of its own, so transactions do not
// deadlock, whatever order they name the tables in. In fn, tables are reached through
// [Table.In], [View.In] and [Selection.In] only. Any other call to one of the tables, or a
// read of one of their selections, blocks forever. The exceptions are [Table.Name],
// [Table.String], and [Table.Get] of a table that [NewTable] made, which returns the row
// before the transaction. A range over one of their streams may block, too. fn must call no
// other table at all, because it would be locked out of order: two transactions that only
// read each other's table deadlock. Pass all tables that fn reads or writes. A view of one of
// them need not be passed.
//
// fn runs in the caller's goroutine. It should be quick, because writers of the tables
// wait, and ranges that begin. It sees its own writes. To read several tables without making
// others wait, use [Read].
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
// Transactions are atomic for readers. A transaction becomes visible in all of its tables at
// once. After a reader has seen a row or a change of a transaction, reads of any of its tables
// see all of it. No feed can yield the first change of a transaction before it can yield the
// last, although one feed may see a transaction a moment later than another. Nobody sees a
// row that is rolled back.
//
// A transaction costs about as much as its writes cost one by one. A single write has no
// commit that a transaction could save.
func Transact(fn func(tx *Tx) error, tables ...AnyTable) error {
	if fn == nil {
		panic("changefeed: Transact: nil function; pass one that writes to the tables")
	}
	return transact("transaction on", fn, tables...)
}

// transact is Transact for an operation, which the error of a dropped table names.
func transact(op string, fn func(tx *Tx) error, tables ...AnyTable) error {
	tx := newTx("Transact", tables)
	wake, err := tx.run(op, fn)
	for _, f := range wake {
		f()
	}
	return err
}

// newTx returns a Tx of the tables for the function of that name.
func newTx(function string, tables []AnyTable) *Tx {
	tx := new(Tx)
	for _, t := range tables {
		if t == nil {
			panic("changefeed: " + function + ": nil table")
		}
		tx.tables = append(tx.tables, t.anyTable())
	}
	slices.SortFunc(tx.tables, func(a, b txTable) int { return cmp.Compare(a.lockOrder(), b.lockOrder()) })
	tx.tables = slices.Compact(tx.tables)
	return tx
}

// run locks the tables, calls fn, and publishes its writes or rolls them back. The
// functions that it returns wake loops. The caller calls them when it holds no lock. A
// transaction costs about as much as its writes (BenchmarkTransact).
func (tx *Tx) run(op string, fn func(tx *Tx) error) (wake []func(), err error) {
	tx.domains = lockDomains(tx.firstDomains[:0], tx.tables, (*domain).lock, (*domain).Unlock)
	defer tx.domains.release((*domain).Unlock)
	for _, t := range tx.tables {
		if t.isDroppedLocked() {
			return nil, fmt.Errorf("changefeed: %s %q: %w", op, t.Name(), ErrTableDropped)
		}
	}
	return tx.runLocked(fn)
}

// runLocked is like run, for tables that are locked and not dropped.
func (tx *Tx) runLocked(fn func(tx *Tx) error) (wake []func(), err error) {
	tx.begin()
	for _, t := range tx.tables {
		t.domainLock().hold()
		t.beginLocked(tx)
	}
	defer func() { // also if fn panics or ends its goroutine
		tx.ended.Store(true)
		if tx.committed.Load() {
			return
		}
		for _, t := range tx.tables { // deferred, so each runs even if another panics
			defer t.endTxLocked()
			defer t.rollbackLocked()
		}
	}()
	if err := fn(tx); err != nil {
		return nil, err
	}
	if tx.failed != nil {
		return nil, tx.failed
	}
	return tx.commitLocked(), nil
}

// commitLocked publishes the writes of the transaction, and ends it in its tables.
func (tx *Tx) commitLocked() (wake []func()) {
	defer tx.endTablesLocked()
	if !tx.single { // a single write has no open ranges, and stages no contents
		for _, t := range tx.tables {
			t.prepareLocked()
		}
	}
	sets := tx.setsLocked()
	lockSets(sets)
	defer unlockSets(sets)
	tx.committed.Store(true)
	for _, t := range tx.tables {
		if f := t.publishTxLocked(); f != nil {
			wake = append(wake, f)
		}
	}
	for _, s := range sets {
		s.publishLocked(tx)
	}
	if sets != nil {
		wake = append(wake, func() { wakeSets(sets) })
	}
	return wake
}

func (tx *Tx) endTablesLocked() { endLocked(tx.tables) }

// endLocked ends the transaction in its tables, also if a compare function panics in one of them.
func endLocked(tables []txTable) {
	i := 0
	defer func() {
		if i < len(tables) {
			endLocked(tables[i+1:])
		}
	}()
	for ; i < len(tables); i++ {
		tables[i].endTxLocked()
	}
}

// maxSpare is the largest number of versions that are allocated at a time.
const maxSpare = 64

// begin gives the transaction an outcome that has not committed, and its first versions.
func (tx *Tx) begin() {
	var first struct { // one allocation, which is never used again, because readers without the lock may still have it
		outcome
		versions [2]version
	}
	tx.outcome, tx.spare, tx.written = &first.outcome, first.versions[:], 0
}

// newVersion returns a version for a row of the transaction.
func (tx *Tx) newVersion() *version {
	if len(tx.spare) == 0 {
		tx.spare = make([]version, min(tx.written, maxSpare))
	}
	tx.written++
	v := &tx.spare[0]
	tx.spare = tx.spare[1:]
	v.tx = tx.outcome
	return v
}

func (t *Table[K, V]) anyTable() txTable {
	if t == nil {
		panic("changefeed: nil table")
	}
	return t
}

func (t *Table[K, V]) lockOrder() uint64       { return t.lockID }
func (t *Table[K, V]) domainLock() *domainLock { return &t.mu }

func (t *Table[K, V]) isDroppedLocked() bool { return t.dropped }

// A txState is the part of the running transaction that belongs to one table.
type txState[K, V any] struct {
	tx      *Tx                // nil: no transaction is running
	len     int                // Table.len before it
	seq     uint64             // Table.seq before it
	made    [Delete + 1]uint64 // Table.made before it
	cells   []*cell[K, V]      // the cells that it has written to, each once
	saved   savepoint[K, V]    // the table before the cascade that is under way
	scans   []*scan[K, V]      // the scans that are not closed
	writing bool               // one of its writes is running
	refill  *refill[K, V]      // the new contents of a Restore or Reset, or nil
}

func (s *txState[K, V]) running() bool { return s.tx != nil }

// write makes row the transaction's row in a cell.
func (s *txState[K, V]) write(c *cell[K, V], row *V) {
	for _, scan := range s.scans {
		scan.record(c)
	}
	first := c.versions.Load()
	if first != nil && first.tx != nil {
		first.row = unsafe.Pointer(row) // nobody else reads it before the commit
		return
	}
	v := s.tx.newVersion()
	v.row = unsafe.Pointer(row)
	if first != nil {
		v.next.Store(first)
	}
	c.versions.Store(v)
	s.cells = append(s.cells, c)
}

func (s *txState[K, V]) add(rows *scan[K, V]) {
	rows.tx = s
	s.scans = append(s.scans, rows)
}

func (s *txState[K, V]) remove(rows *scan[K, V]) {
	i := slices.Index(s.scans, rows)
	s.scans = slices.Delete(s.scans, i, i+1)
}

func (t *Table[K, V]) beginLocked(tx *Tx) {
	t.tx.tx, t.tx.len, t.tx.seq, t.tx.made = tx, t.len, t.seq, t.made
}

// prepareLocked is called before the transaction commits. If a Restore or Reset has staged other
// contents, it makes readers without the lock use them from the moment of the commit. A table
// with views has got the new rows by writes instead.
func (t *Table[K, V]) prepareLocked() {
	t.endScansLocked()
	if r := t.tx.refill; r != nil && t.dependents == nil {
		t.keys.stage(r.contents.keys, t.tx.tx.outcome)
	}
}

// storeVersionsLocked publishes the transaction's rows in their cells. Since the transaction
// has committed, this makes no difference to a reader of a cell, at any step. If the
// transaction has reset the table, the table takes over the new contents.
func (t *Table[K, V]) storeVersionsLocked() {
	for _, c := range t.tx.cells {
		v := c.versions.Load()
		earlier := v.next.Load()
		isNew := c.row.Load() == nil && c.scope == nil // in no snapshot
		if !isNew && t.snapshots.needRow(earlier) {
			earlier = t.snapshots.keep(c, earlier)
			v.next.Store(earlier) // before row, as in snapshots.replace
		}
		c.row.Store((*V)(v.row))
		c.versions.Store(earlier)
	}
	if t.tx.refill != nil {
		t.takeOverLocked(t.tx.refill)
	}
}

// publishTxLocked publishes the transaction's rows and changes.
func (t *Table[K, V]) publishTxLocked() (wake func()) {
	t.storeVersionsLocked()
	if t.tx.refill != nil {
		w := t.publishRefillLocked(t.tx.refill)
		return w.wake
	}
	w := t.publishLocked()
	if w.isEmpty() {
		return nil
	}
	return w.later()
}

// rollbackLocked undoes the transaction's writes. Nobody has seen them. It calls no function
// of the user, except the compare function of NewTableFunc, so nothing can fail. T4
func (t *Table[K, V]) rollbackLocked() {
	defer func() {
		for _, c := range t.tx.cells {
			c.versions.Store(c.versions.Load().next.Load())
		}
		t.len, t.seq, t.made = t.tx.len, t.tx.seq, t.tx.made
		t.outbox.discard()
	}()
	t.endScansLocked()
	for _, x := range t.indexes {
		x.rollback(false)
	}
}

// endScansLocked makes the scans in the transaction independent of it.
func (t *Table[K, V]) endScansLocked() {
	for _, s := range t.tx.scans {
		s.detach()
	}
}

// endTxLocked ends the transaction in the table. It removes the cells that the transaction has
// written to and that have no row now.
func (t *Table[K, V]) endTxLocked() {
	cells := t.tx.cells
	t.tx.tx, t.tx.cells, t.tx.scans, t.tx.refill, t.tx.writing = nil, nil, nil, nil, false
	for _, x := range t.indexes {
		x.endTx()
	}
	for _, c := range cells {
		t.removeUnusedLocked(c)
	}
	t.tx.cells = recycle(cells)
}

// A TxTable is a table in a transaction, or in [Read]: see [Transact] and [Table.In]. It has
// some of the methods of [Table]. In a transaction, they see its writes. In Read, they see
// the table as it was when Read began, and a write panics.
//
// A TxTable is for the function passed to Transact or Read, and for one goroutine at a time.
// A zero TxTable must not be used. Use after the end of the function panics. A write also
// panics if it is made in a function that another write to the table calls.
//
// A range stays at the moment at which it began, and may outlive the function, with [iter.Pull2].
// When a transaction ends, the remaining rows of its open ranges are recorded, under the lock.
// That takes time and memory in proportion to their number. While a range in a transaction is
// open, each row that the transaction writes to is recorded, too.
type TxTable[K, V any] struct {
	table *Table[K, V]
	tx    *Tx
	view  *view[K, V] // what Read sees, or nil in a transaction
}

// In returns the table as it is in a transaction, for reads and writes, or as it is in [Read],
// for reads. It panics if tx is nil or has ended, or if the table was not passed to
// [Transact] or Read.
func (t *Table[K, V]) In(tx *Tx) TxTable[K, V] {
	if tx == nil {
		panic("changefeed: Table.In: nil transaction; pass the one that Transact or Read passes to its function")
	}
	if t.isView() && tx.views == nil && !tx.ended.Load() && tx.holds(&t.mu) {
		t.joinLocked(tx)
	}
	i := slices.Index(tx.tables, txTable(t))
	if i < 0 {
		panic(fmt.Sprintf("changefeed: Table.In: the table %q is not in the transaction; pass it to Transact or Read", t.name))
	}
	x := TxTable[K, V]{table: t, tx: tx}
	if tx.views != nil {
		x.view = tx.views[i].(*view[K, V])
	}
	x.check()
	return x
}

func (x TxTable[K, V]) check() {
	if x.tx.ended.Load() {
		panic(x.table.endedError())
	}
	if x.view == nil && x.table.tx.refill != nil {
		panic(fmt.Sprintf("changefeed: the table %q is used after a Restore or Reset in the same transaction", x.table.name))
	}
}

func (t *Table[K, V]) endedError() string {
	return fmt.Sprintf("changefeed: the table %q is used in a Transact or Read that has ended", t.name)
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
	x.beginWrite()
	defer x.endWrite()
	return x.table.writeLocked(key, next)
}

// beginWrite begins a write. The caller must defer endWrite.
func (x TxTable[K, V]) beginWrite() {
	x.check()
	t := x.table
	if x.view != nil {
		panic(fmt.Sprintf("changefeed: a write to the table %q in Read; use Transact", t.name))
	}
	t.checkNoView()
	if t.tx.writing {
		panic(fmt.Sprintf("changefeed: a function that a write to the table %q calls writes to the same table; write before or after it", t.name))
	}
	t.tx.writing = true
}

func (x TxTable[K, V]) endWrite() {
	x.table.tx.writing = false
	x.table.forgetPlansLocked()
}

// Get is like [Table.Get]. In [Read], it takes time in the logarithm of the number of rows.
func (x TxTable[K, V]) Get(key K) (V, bool) {
	x.check()
	if x.view != nil {
		return x.table.value(x.view.row(x.view.cell(key)))
	}
	return x.table.value(x.table.cellLocked(key).latest())
}

// Len is like [Table.Len].
func (x TxTable[K, V]) Len() int {
	x.check()
	if x.view != nil {
		return x.view.len
	}
	return x.table.len
}

// Lineage is like [Table.Lineage]. With All, it is what a copy of the table needs: see
// [Table.Restore].
func (x TxTable[K, V]) Lineage() []Position {
	x.check()
	if x.view != nil {
		return x.view.names.upTo(x.view.seq)
	}
	return x.table.lineageNow().upTo(x.table.seq)
}

// All is like [Table.All]. A range sees the table with the writes of the transaction up to
// the beginning of the range. The loop's body may write to the table.
func (x TxTable[K, V]) All() iter.Seq2[K, V] { return x.all().All() }

// Backward is like [TxTable.All] but in descending order.
func (x TxTable[K, V]) Backward() iter.Seq2[K, V] { return x.all().Backward() }

func (x TxTable[K, V]) all() TxSelection[K, V] { return TxSelection[K, V]{x, x.table.Selection()} }

// A TxSelection is a selection in a transaction, or in [Read]: see [Selection.In]. The same
// rules hold as for [TxTable].
type TxSelection[K, V any] struct {
	in        TxTable[K, V]
	selection Selection[K, V]
}

// In returns the selection as it is in a transaction, or in [Read], for reads. It panics as
// [Table.In] does. In Read, a range over the values of an index panics if the index was made
// after Read began.
//
// In a transaction, the predicates of the selection run with the table's lock held. They
// must be quick and must call no table at all.
func (s Selection[K, V]) In(tx *Tx) TxSelection[K, V] { return TxSelection[K, V]{s.table.In(tx), s} }

// All is like [Selection.All]. A range sees the rows with the writes of the transaction up to
// the beginning of the range. The loop's body may write to the table.
func (x TxSelection[K, V]) All() iter.Seq2[K, V] { return x.iterate(false) }

// Backward is like [TxSelection.All] but in the opposite order.
func (x TxSelection[K, V]) Backward() iter.Seq2[K, V] { return x.iterate(true) }

// Len is like [Selection.Len].
func (x TxSelection[K, V]) Len() int { return x.selection.count(x.scan(false)) }

func (x TxSelection[K, V]) iterate(backward bool) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) { x.selection.yieldRows(x.scan(backward), yield) }
}

func (x TxSelection[K, V]) scan(backward bool) *scan[K, V] {
	x.in.check()
	return x.selection.part.scan(x.in.view, backward)
}
