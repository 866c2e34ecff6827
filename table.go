package changefeed

import (
	"cmp"
	"context"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/google/btree"
)

// degree is that of the B-tree: a node has up to 63 rows.
const degree = 32

// A Table is a set of rows, each under the primary key that is in it, in the order
// of the keys. Its writes can be followed: see [Table.Changes]. Parts of it can be
// read and followed too: see [Selection]. Several writes, to one table or to several,
// can be made as one: see [Transact]. Make a table with [NewTable] or [NewTableFunc];
// it lives in memory. A zero Table must not be used.
//
// All methods are safe for concurrent use. Writes exclude each other; reads run
// side by side and wait for no more than one write. A write and Get take time in
// the logarithm of the number of rows, whatever the number of subscribers.
//
// A row handed in belongs to the table, with all that it refers to: it must not be
// changed any more. A stored row never changes again; a write puts another one in
// its place. Every write returns the [Change] it made, RethinkDB's return_changes;
// an error comes with the zero Change, and leaves table, sequence and subscribers
// as they were. So does a panic in a function that the user gave, which reaches
// the caller.
//
// A write that leaves the row equal to what it was is no change: there is no event
// and no sequence number, and the Change it returns has Kind [None], Seq 0, and Old
// and New both the stored row. The package documentation tells which rows are
// equal.
//
// These hold at all times, and are kept where the code says so:
//
//	T1  One lock guards the tree, the indexes, the sequence number and the scopes: a
//	    write changes all of them or none.
//	T2  The change numbered s is the s-th; a reader that has seen s has seen 1..s,
//	    less what it was told it skipped.
//	T3  A stored row is never changed again, by anyone.
//	T4  A failed or panicking write leaves rows, sequence and feeds as they were.
//	T5  Clone happens under the write lock only.
//	T6  The writer never waits for a subscriber's code: all it shares with readers
//	    are mutexes held for no user code and a few steps each: a ring's, to add a page,
//	    to publish several changes or to take them back, and to wake; and that of each
//	    squash.
type Table[K, V any] struct {
	name  string
	key   func(row *V) K
	copy  func(row *V) *V
	equal func(a, b *V) bool
	order func(a, b K) int
	seqOf func(c Change[V]) uint64 // once, for all scopes

	number     uint64     // the order in which transactions lock tables
	everything part[K, V] // all of the table

	mu      sync.RWMutex        // T1; guards what follows
	rows    sorted[entry[K, V]] // some of them absent ones that are followed
	len     int                 // number of rows
	seq     uint64              // of the last change
	clones  uint64              // made of rows and of the indexes' trees
	dropped bool
	indexes []tableIndex[K, V]

	whole  scope[K, V]        // of all changes; the position after one in its ring is the change's number
	ranges intervals[K, K, V] // the scopes of ranges of keys
	outbox outbox[K, V]       // changes that are not published yet

	inTx    bool // a transaction is under way: writes are noted in undo
	writing bool // one of its writes is being made
	undo    []replacement[K, V]

	feeds feedSet[K, V]
}

// An entry is a cell in the tree. In the table's order its key is equal to that of the
// row in the cell; where the order takes several for one it may be another, so what
// users see is the row's own.
type entry[K, V any] struct {
	key  K
	cell *cell[K, V]
}

// A cell is where a row stands in the tree and in the indexes. A write to the row
// finds its cell and puts another row into it; so it need not go through the trees a
// second time (BenchmarkWrite). The exception is a cell that a clone of a tree may have:
// it keeps its row, and the trees get a new cell.
type cell[K, V any] struct {
	row    *V           // T3; nil: there is none, but the key is followed
	scope  *scope[K, V] // of those who follow the row; nil: nobody does
	clones uint64       // the table's when the cell was made: a later clone has it
}

// content returns the row in the cell, if there is a cell.
func (c *cell[K, V]) content() *V {
	if c == nil {
		return nil
	}
	return c.row
}

// tables is the number of tables made.
var tables atomic.Uint64

// NewTable returns an empty table of rows of type V whose primary key is what key
// returns. Keys are in the order of [cmp.Compare]; so all NaN are one key, the
// lowest.
//
// key is called for each row that is written and for each that a loop reads, with and
// without the table's lock held, by several goroutines at once. It must depend on the
// row alone, must not change it or call the table, and should be quick. The name is for
// messages. NewTable panics if key is nil.
func NewTable[K cmp.Ordered, V any](name string, key func(row *V) K) *Table[K, V] {
	return newTable(name, key, cmp.Compare[K], func(a, b entry[K, V]) bool { return cmp.Less(a.key, b.key) })
}

// NewTableFunc is [NewTable] for keys of any type, in the order of compare, which
// returns a negative number, zero or a positive one, as cmp.Compare does. Keys for
// which it returns zero are one key; the table keeps the one of the row written
// last.
//
// compare is called with the table's lock held, and must not panic: the tree of
// rows would not survive it.
func NewTableFunc[K, V any](name string, key func(row *V) K, compare func(a, b K) int) *Table[K, V] {
	if compare == nil {
		panic("changefeed: NewTableFunc: nil compare function; pass one, or use NewTable for ordered keys")
	}
	return newTable(name, key, compare, func(a, b entry[K, V]) bool { return compare(a.key, b.key) < 0 })
}

func newTable[K, V any](name string, key func(row *V) K, order func(a, b K) int, less btree.LessFunc[entry[K, V]]) *Table[K, V] {
	if key == nil {
		panic("changefeed: NewTable: nil key function; pass one that returns a row's primary key")
	}
	t := &Table[K, V]{
		name:   name,
		key:    key,
		copy:   chooseCopy[V](),
		equal:  chooseEqual[V](),
		order:  order,
		number: tables.Add(1),
	}
	t.everything = &keyPart[K, V]{table: t}
	t.rows = sorted[entry[K, V]]{tree: btree.NewG(degree, less), clones: &t.clones}
	t.seqOf = func(c Change[V]) uint64 { return c.Seq }
	t.ranges.order, t.ranges.seqOf = order, t.seqOf
	t.feeds.subs = btree.NewG(degree, (*subscription[K, V]).before)
	return t
}

// Insert adds a row.
//
// Possible errors: [ErrDuplicateKey], also of a unique index; [ErrTableDropped].
func (t *Table[K, V]) Insert(row V) (Change[V], error) { return t.alone().Insert(row) }

// Upsert adds a row, or puts it in the place of the one with its key.
//
// Possible errors: [ErrDuplicateKey] of a unique index, [ErrTableDropped].
func (t *Table[K, V]) Upsert(row V) (Change[V], error) { return t.alone().Upsert(row) }

// Replace puts a row in the place of the one with its key.
//
// Possible errors: [ErrNotFound], [ErrDuplicateKey] of a unique index,
// [ErrTableDropped].
func (t *Table[K, V]) Replace(row V) (Change[V], error) { return t.alone().Replace(row) }

// Update edits a copy of a row and puts it in the row's place. An edit may append
// to a slice, set a map's entry and write through a pointer, where exported fields
// lead to it. What unexported fields refer to is shared with the stored row and must
// not be changed in place: rows that need it want a Clone method (see Rows in the
// package documentation).
//
// edit runs with the table's lock held, once if at all. It must not call the table,
// or it deadlocks, and should be quick, for all other writers and readers of the
// table wait. It may keep nothing of the row. Update panics if edit is nil.
//
// Possible errors: [ErrNotFound], [ErrKeyChanged], [ErrDuplicateKey] of a unique
// index, [ErrTableDropped].
func (t *Table[K, V]) Update(key K, edit func(row *V)) (Change[V], error) {
	return t.alone().Update(key, edit)
}

// Compute lets f decide, by the row that is there, what shall be there instead. f
// gets a copy as Update makes it, or nil if there is no row, and returns the new
// row, which belongs to the table from then on; nil deletes. It may edit and return
// what it got. An equal row, or nil where there was none, is no change; in the
// latter case Old and New are nil too.
//
// f runs as edit does in [Table.Update]. Compute panics if f is nil.
//
// Possible errors: [ErrKeyChanged], [ErrDuplicateKey] of a unique index,
// [ErrTableDropped].
func (t *Table[K, V]) Compute(key K, f func(old *V) *V) (Change[V], error) {
	return t.alone().Compute(key, f)
}

// Delete removes a row.
//
// Possible errors: [ErrNotFound], [ErrTableDropped].
func (t *Table[K, V]) Delete(key K) (Change[V], error) { return t.alone().Delete(key) }

// alone returns what makes writes each by itself: the rules are those of [TxTable].
func (t *Table[K, V]) alone() TxTable[K, V] { return TxTable[K, V]{table: t} }

// sameKey returns row, whose key must still be key.
func (t *Table[K, V]) sameKey(key K, row *V) (*V, error) {
	if t.order(key, t.key(row)) != 0 {
		return nil, ErrKeyChanged
	}
	return row, nil
}

// write makes one write: next decides, by the row that is stored or nil, what
// shall be there instead. It runs under the lock.
func (t *Table[K, V]) write(key K, next func(old *V) (*V, error)) (Change[V], error) {
	c, waking, err := t.writeAndPublish(key, next)
	waking.wake()
	return c, err
}

func (t *Table[K, V]) writeAndPublish(key K, next func(old *V) (*V, error)) (c Change[V], w waking[V], err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return c, w, ErrTableDropped
	}
	if c, err = t.writeLocked(key, next); c.Kind != None {
		w = t.outbox.publish()
	}
	return c, w, err
}

// writeLocked makes a write that is not published. All that may fail or panic is done
// when commitLocked begins (T4).
func (t *Table[K, V]) writeLocked(key K, next func(old *V) (*V, error)) (Change[V], error) {
	at := t.cellLocked(key)
	old := at.content()
	row, err := next(old)
	if err != nil {
		return Change[V]{}, err
	}
	c := Change[V]{Kind: kindOf(old, row), Old: old, New: row}
	if c.Kind == Update && t.equal(c.Old, c.New) {
		c.Kind, c.New = None, c.Old
	}
	if c.Kind == None {
		return c, nil
	}
	for _, x := range t.indexes {
		x.plan(c.Old, c.New)
	}
	for _, x := range t.indexes {
		if err := x.check(); err != nil {
			return Change[V]{}, err
		}
	}
	t.commitLocked(&c, key, at)
	return c, nil
}

// cellLocked returns the cell of a key, or nil.
func (t *Table[K, V]) cellLocked(key K) *cell[K, V] {
	e, _ := t.rows.tree.Get(entry[K, V]{key: key})
	return e.cell
}

// kindOf returns the Kind of a change between rows that are not equal.
func kindOf[V any](old, new *V) Kind {
	switch {
	case old == nil && new == nil:
		return None
	case old == nil:
		return Insert
	case new == nil:
		return Delete
	}
	return Update
}

// commitLocked makes a change to what is in a cell, or nowhere if it is nil, numbers it
// and tells the scopes that it belongs to. T1, T2
func (t *Table[K, V]) commitLocked(c *Change[V], key K, at *cell[K, V]) {
	t.storeLocked(key, at, c.New)
	t.seq++
	c.Seq = t.seq
	if t.inTx {
		t.undo = append(t.undo, replacement[K, V]{key, c.Old, c.New})
	}

	o := &t.outbox
	o.add(&t.whole, key, *c)
	if at != nil && at.scope != nil {
		o.add(at.scope, key, *c)
	}
	if t.ranges.root != nil {
		t.ranges.find(key, func(s *scope[K, V]) { o.add(s, key, *c) })
	}
	for _, x := range t.indexes {
		x.enter(o)
		o.addEntered(key, *c)
	}
}

// storeLocked puts row in the place of what is in c, the cell of the key, also in the
// indexes, which have planned it. Either may be nil, not both.
func (t *Table[K, V]) storeLocked(key K, c *cell[K, V], row *V) {
	if c.content() != nil {
		t.len--
	}
	if row != nil {
		t.len++
	}
	isNew := false
	switch {
	case row == nil && c.scope == nil:
		t.rows.remove(entry[K, V]{key: key})
	case c == nil:
		c, isNew = t.newCellLocked(key, row, nil), true
	case c.clones != t.clones:
		c, isNew = t.newCellLocked(key, row, c.scope), true
	default:
		c.row = row
	}
	for _, x := range t.indexes {
		x.apply(key, c, isNew)
	}
}

// newCellLocked puts a new cell into the tree.
func (t *Table[K, V]) newCellLocked(key K, row *V, s *scope[K, V]) *cell[K, V] {
	c := &cell[K, V]{row: row, scope: s, clones: t.clones}
	t.rows.put(entry[K, V]{key, c})
	return c
}

// Drop ends the table: it is empty from now on, every write fails with
// [ErrTableDropped], and so do the streams of its changes once they have handed
// out what they still buffered. There are no changes for the rows that it had. To
// drop a table again does nothing.
func (t *Table[K, V]) Drop() {
	t.drop()
	for s := range t.feeds.oldestFirst() { // all of them: none is added to a dropped table
		if r := &s.scope.ring; !r.isClosed() {
			r.close()
			r.wake(1)
		}
		if s.squash != nil {
			s.squash.close()
		}
	}
}

// drop makes the table a dropped one.
func (t *Table[K, V]) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped = true
	t.len = 0
	t.whole.ring.hold(0)
	t.rows.clear()
	for _, x := range t.indexes {
		x.clear()
	}
}

// Changes subscribes to the table and returns the stream of all changes made from
// now on, in the order of their sequence numbers: it follows RethinkDB's
// table.changes(). A write made before the first range is not lost.
//
// A range waits when there is nothing to read. To break out of the loop pauses it:
// ranging again goes on after the last change handed out, and so it does after a
// panic in the loop's body. The stream is for one goroutine at a time: a second
// range while one runs panics. It holds no lock while the loop's body runs, so the
// body may write to the same table.
//
// Of the changes not yet handed to the loop the newest are buffered, up to
// [Buffer]. Where older ones had to make room, the stream yields a [*SkippedError]
// and goes on. The writers never wait for a subscriber.
//
// The subscription ends, and with it the range, with one of these errors, which is
// then the only pair of every later range:
//
//   - the cause of ctx, when ctx is done. This comes before anything still buffered.
//   - [ErrTableDropped], when the table is dropped, after everything still buffered.
//   - a [*SkippedError], with [OnOverflow] and [Fail].
//   - [ErrInvalidOption], at once, for an option that cannot be.
//
// It also ends when the stream is garbage, so one that is forgotten costs nothing
// once the collector has seen it; but cancel ctx where you can. Changes panics if
// ctx or an option is nil.
//
// [FeedOption] tells what a stream may do in place of some of this.
func (t *Table[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	return t.all().Changes(ctx, opts...)
}

// Batches is [Table.Changes] for a loop that takes several changes at a time: see
// [Selection.Batches].
func (t *Table[K, V]) Batches(ctx context.Context, max int, opts ...FeedOption) Stream[[]Change[V]] {
	return t.all().Batches(ctx, max, opts...)
}

// Retain makes the table hold exactly the newest n of the changes made from now on,
// also while nobody follows it, so that a feed may begin with them: see [After].
// Without it nothing is held. To call it again changes the number; of what is held
// already, the newest n stay. If n is below 1, nothing is held.
func (t *Table[K, V]) Retain(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.dropped {
		t.whole.ring.begin(t.seq)
		t.whole.ring.hold(uint64(max(n, 0)))
	}
}

// Name returns the name that the table was given.
func (t *Table[K, V]) Name() string { return t.name }

// Len returns the number of rows.
func (t *Table[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.len
}

// Seq returns the sequence number of the last change made, or 0. It belongs to
// this Table value: another one, in this process or the next, counts anew.
func (t *Table[K, V]) Seq() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.seq
}

// Get returns a copy of the row with the key, and whether there is one. What the
// row refers to (all of it, where V is a pointer, a map or a slice) is the table's
// own and must not be changed. Get allocates nothing.
func (t *Table[K, V]) Get(key K) (V, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.getLocked(key)
}

func (t *Table[K, V]) getLocked(key K) (row V, ok bool) {
	stored := t.cellLocked(key).content()
	if stored == nil {
		return row, false
	}
	return *stored, true
}

// All returns the rows in the order of their keys. A range sees the table as it is
// when the range begins, whatever is written meanwhile, and holds no lock; the
// rows are copies as Get makes them. To begin takes the same time for many rows as
// for few; the writes after it copy the nodes of the tree that they touch, each
// once.
func (t *Table[K, V]) All() iter.Seq2[K, V] { return t.all().All() }

// Backward is [Table.All] in descending order.
func (t *Table[K, V]) Backward() iter.Seq2[K, V] { return t.all().Backward() }
