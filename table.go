package changefeed

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/google/btree"
)

// A Table is an ordered set of rows in memory. Each row contains its primary key, and
// the rows are in the order of their keys. Make a table with [NewTable] or
// [NewTableFunc]. A zero Table must not be used.
//
// The writes of a table can be followed: see [Table.Changes]. Parts of it can be read
// and followed, too: see [Selection]. [Transact] makes several writes as one, to one
// table or to several.
//
// All methods are safe for concurrent use. Writes exclude each other. Reads run side by
// side. A range, Len and Seq wait for at most one write or transaction, and a range waits
// only to begin. The number of subscribers makes no difference.
//
// In a table of NewTable, Get never waits. A Get and a write to a row that is there take
// constant time. Inserts and deletes take time in the logarithm of the number of rows. In a
// table of NewTableFunc all of them do, and Get waits as Len does.
//
// A row passed to a table belongs to it, with everything that the row refers to, and
// must not be modified any more. A stored row never changes again, because a write
// stores another row in its place. V should be a struct. A pointer, map or slice has no
// top level of its own, so modifying what Get returned would change the stored row
// without an event.
//
// Every write returns the [Change] that it made. A failed write returns the zero Change
// with the error, and leaves the table, its sequence number and its subscribers as they
// were. A panic in a user's function leaves them as they were, too, and reaches the
// caller.
//
// # Equal rows
//
// A write that leaves a row equal to the old one is no change. There is no event and no
// sequence number. The Change that the write returns has Kind [None] and Seq 0, and its
// Old and New are both the stored row.
//
// Rows are compared with V's method Equal(V) bool or Equal(*V) bool, on either receiver,
// if there is one. Otherwise they are compared with == if V is strictly comparable (it
// contains no interface), has no method Clone, and a plain copy of it is a deep one. In
// all other cases they are compared as [reflect.DeepEqual] does, which compares the
// targets of pointers. Contexts and values that hold a lock are compared by address
// instead. V alone decides, when the table is made. A nil row of a pointer or interface type
// equals only another nil row. Neither Clone nor Equal is called for it.
//
// Two [time.Time] values of one instant are equal to == and DeepEqual only if location
// and monotonic reading are, too. Store t.UTC().Round(0), or define Equal. A row with a
// NaN or a non-nil function never equals another. The exception is DeepEqual, which does
// not look into a slice, map or pointer that both rows share.
//
// Deep copies and deep comparisons cost as much as reflection does, so rows that are
// written often should define Clone and Equal. Neither limits the depth of a row: a linked
// list of a million nodes does not overflow the stack.
//
// # Functions under a lock
//
// Key functions, compare functions, functions of indexes, Clone, Equal, and the functions passed
// to Update, Compute and [Transact] can run under a table's lock. So can the functions that define
// a [View], and predicates of selections in a transaction or under a view. They must be quick,
// because readers and writers of the table wait. They must call no table at all, except for
// [Table.Name] and [Table.String], and [Table.Get] of a table that NewTable made. A call to their own table deadlocks. A call to
// another table can deadlock, too: two transactions that only read each other's table wait
// for each other forever. Tables that a [View] connects share a lock, so a call from one to another
// always deadlocks. The function passed to Transact reaches its tables through [Table.In] and
// [Selection.In] only.
type Table[K, V any] struct {
	// These invariants hold at all times. Code that keeps one names it.
	//
	//	T1  One lock guards the tree, the indexes, the sequence number and the scopes. A
	//	    write changes all of them or none.
	//	T2  The change numbered s is the s-th. A reader that has seen s has seen 1 to s,
	//	    except the changes that its SkippedErrors count.
	//	T3  A stored row is never modified, by anyone.
	//	T4  A failed or panicking write leaves rows, sequence number and feeds as they
	//	    were.
	//	T5  Readers without the lock never look into a B-tree that is modified. They have a
	//	    clone of it, and a snapshot, in which they read the cells of the clone.
	//	T6  A writer never waits for a subscriber's code. Besides this table's lock, it
	//	    shares with subscribers the mutex of each squash, and the mutex of a ring, to
	//	    add a page, to publish or discard several changes, and to wake a loop. These
	//	    are held for a few steps each, and never while a subscriber's code runs. It
	//	    shares the mutex of a commit set with the writers of the set's other tables. A
	//	    reader holds this table's lock to begin, and while it drops up to roundSize
	//	    earlier rows.

	allScope scope[K, V] // of all changes, guarded by mu. It is first, so that its ring begins with a line of the cache

	self  AnyTable       // the table, or the view that it is of
	guard rowGuard[K, V] // see debug.go; without its tag, it has no size
	name  string
	key   func(row *V) K
	copy  func(row *V) *V
	equal func(a, b *V) bool
	order func(a, b K) int
	seqOf func(c Change[V]) uint64 // made once, for all scopes

	keysDiffer bool // keys that order finds equal may be different values

	history atomic.Pointer[history] // changes under the table's lock

	lockID  uint64     // transactions have tables in this order
	allPart part[K, V] // the part that is the whole table

	mu      domainLock // T1; guards the fields from here to tx
	handle  *tableHandle
	rows    tree[entry[K]]     // also has a cell for each missing row that is followed
	keys    keyIndex[K]        // of the cells in rows
	len     int                // number of rows
	seq     uint64             // of the last change
	ahead   uint64             // the moment of a snapshot, less seq; it may wrap around
	made    [Delete + 1]uint64 // number of changes, by Kind
	dropped bool
	closed  bool // nobody may write to it: it is dropped, or has the rows of a view
	indexes []tableIndex[K, V]

	dependents []*tap[K, V] // the views of the table, in the order in which they were made
	single     *Tx          // of single writes, which it is used for again; nil before the first
	taps       []anyTap     // if the table is that of a view: the taps of its sources, otherwise nil

	snapshots snapshots[K, V] // that readers have

	ranges intervals[K, K, V] // the scopes of ranges of keys
	outbox outbox[K, V]       // changes that are not published yet

	tx     txState[K, V] // of the running transaction
	locked []*commitSet  // that a single write has locked

	feeds feedSet
	sets  atomic.Pointer[[]*commitSet] // with this table that are followed; changes under the table's lock
}

// tables is the number of tables made. Each table's lockID is the number when it was made.
var tables atomic.Uint64

// NewTable returns an empty table of rows of type V. The function key returns a row's
// primary key. Keys are in the order of [cmp.Compare], so all NaN are one key, the
// lowest. The name is for messages. NewTable panics if key is nil.
//
// key is called for each row that is written, and for rows that a loop reads, by several
// goroutines at once, with and without the table's lock held. It must depend on the row
// alone, and must not modify it. It must be quick and must call no table at all: see
// [Table].
func NewTable[K cmp.Ordered, V any](name string, key func(row *V) K) *Table[K, V] {
	t := newTable(name, key, cmp.Compare[K], func(a, b entry[K]) bool { return cmp.Less(a.key, b.key) })
	t.keys = newHashIndex[K]()
	t.keysDiffer = isFloat[K]() // 0 and -0, and different NaN
	return t
}

// NewTableFunc is like [NewTable] but for keys of any type, in the order of compare.
// compare returns a negative number, zero or a positive number, as [cmp.Compare] does.
// Keys for which it returns zero are one key. The table keeps the key of the row that
// was written last. NewTableFunc panics if key or compare is nil.
//
// A table of NewTable finds a row by a hash of its key, and Get needs no lock. A table of
// NewTableFunc finds a row by calls of compare, whose number is logarithmic in the number of
// rows, and under its lock. Get therefore waits for the write or transaction that is
// running, and must not be called where the lock is held.
//
// compare is called with and without the table's lock held. It must be quick and must
// call no table at all: see [Table]. It must not panic, because that would damage the
// tree of rows.
func NewTableFunc[K, V any](name string, key func(row *V) K, compare func(a, b K) int) *Table[K, V] {
	if compare == nil {
		panic("changefeed: NewTableFunc: nil compare function; pass one, or use NewTable for ordered keys")
	}
	t := newTable(name, key, compare, func(a, b entry[K]) bool { return compare(a.key, b.key) < 0 })
	t.keysDiffer = true
	return t
}

func newTable[K, V any](name string, key func(row *V) K, order func(a, b K) int, less btree.LessFunc[entry[K]]) *Table[K, V] {
	if key == nil {
		panic("changefeed: NewTable: nil key function; pass one that returns a row's primary key")
	}
	t := &Table[K, V]{
		name:   name,
		key:    key,
		copy:   chooseCopy[V](),
		equal:  chooseEqual[V](),
		order:  order,
		lockID: tables.Add(1),
	}
	t.self = t
	t.mu.init(t.lockID)
	t.history.Store(newHistory(lineage{{History: newHistoryID()}}))
	t.setHandleLocked()
	t.allPart = &keyPart[K, V]{table: t}
	t.rows.init(less)
	t.keys = treeIndex[K]{&t.mu, &t.rows}
	t.snapshots.table = &t.mu
	t.seqOf = func(c Change[V]) uint64 { return c.Seq }
	t.allScope.ring.seqOf = t.seqOf
	t.ranges.order, t.ranges.seqOf = order, t.seqOf
	t.feeds.subs = newFeedTree()
	t.guard.begin(t)
	return t
}

// Insert adds a row.
//
// Possible errors: [ErrDuplicateKey] of the primary key or of a unique index,
// [ErrTableDropped].
func (t *Table[K, V]) Insert(row V) (Change[V], error) {
	return t.write("insert into", t.key(&row), inserting(&row))
}

// Upsert adds a row, or replaces the row with the same key.
//
// Possible errors: [ErrDuplicateKey] of a unique index, [ErrTableDropped].
func (t *Table[K, V]) Upsert(row V) (Change[V], error) {
	return t.write("upsert into", t.key(&row), upserting(&row))
}

// Replace replaces the row with the same key.
//
// Possible errors: [ErrNotFound], [ErrDuplicateKey] of a unique index,
// [ErrTableDropped].
func (t *Table[K, V]) Replace(row V) (Change[V], error) {
	return t.write("replace in", t.key(&row), replacing(&row))
}

// Update calls edit with a copy of the row with the key, and stores the edited copy.
// edit may append to a slice, set an entry of a map and write through a pointer, where
// exported fields lead to it. Whatever unexported fields refer to is shared with the
// stored row and must not be modified. A row that needs this must have a method Clone.
// Rows in the package documentation lists everything that is shared.
//
// edit runs at most once, with the table's lock held. It must be quick and must call no
// table at all, or it can deadlock: see [Table]. It must not retain the row or anything
// that the row refers to. Update panics if edit is nil.
//
// Possible errors: [ErrNotFound], [ErrKeyChanged], [ErrDuplicateKey] of a unique
// index, [ErrTableDropped].
func (t *Table[K, V]) Update(key K, edit func(row *V)) (Change[V], error) {
	return t.write("update in", key, t.updating(key, edit))
}

// Compute calls f with a copy of the row with the key, or nil if there is none, and
// stores the row that f returns. If f returns nil, the row is deleted. The copy is made
// as in [Table.Update], and f may edit it and return it. The row that f returns belongs
// to the table.
//
// It is no change if f returns an equal row, or nil when there was no row. Old and New
// of the returned Change are nil in the latter case.
//
// f runs under the same rules as edit in Update. Compute panics if f is nil.
//
// Possible errors: [ErrKeyChanged], [ErrDuplicateKey] of a unique index,
// [ErrTableDropped].
func (t *Table[K, V]) Compute(key K, f func(old *V) *V) (Change[V], error) {
	return t.write("compute in", key, t.computing(key, f))
}

// Delete removes the row with the key.
//
// Possible errors: [ErrNotFound], [ErrTableDropped].
func (t *Table[K, V]) Delete(key K) (Change[V], error) {
	return t.write("delete from", key, deleting[V])
}

// Drop ends the table. From now on it is empty, and every write fails with
// [ErrTableDropped]. The streams of its changes deliver everything that they have
// buffered, and then end with ErrTableDropped. There are no changes for the rows that
// the table had. Views of the table are dropped with it. Dropping a table again does nothing.
func (t *Table[K, V]) Drop() {
	for _, t := range t.drop() {
		t.endFeeds()
	}
}

// endFeeds ends the streams of a dropped table.
func (t *Table[K, V]) endFeeds() {
	for s := range t.subscriptions() { // all of them: none is added to a dropped table
		if r := &s.scope.ring; r.close() {
			r.wake(1)
		}
		if s.squash != nil {
			s.squash.finish()
		}
	}
	for _, s := range t.commitSets() { // none is added to a dropped table, either
		s.drop(t.name)
	}
}

// drop is dropLocked when the lock is not held.
func (t *Table[K, V]) drop() (dropped []txTable) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.dropLocked(nil)
}

// dropLocked marks the table and its views as dropped, and removes their rows. It appends the tables that it
// has dropped. The caller must call endFeeds of each when it holds no lock.
func (t *Table[K, V]) dropLocked(dropped []txTable) []txTable {
	if t.dropped {
		return dropped
	}
	t.dropped, t.closed = true, true
	if t.isView() {
		for _, p := range t.taps {
			p.detachLocked()
		}
	}
	for _, p := range t.dependents {
		dropped = p.dependent.viewTable().dropLocked(dropped)
	}
	t.len = 0
	t.allScope.ring.retainTableLocked(0)
	t.rows.clear()
	t.keys.clear()
	for _, x := range t.indexes {
		x.clear()
	}
	return append(dropped, t)
}

// Changes subscribes to the table and returns the stream of all changes made from now on,
// in the order of their sequence numbers. A write made before the first range is not
// missed.
//
// A range waits when there is nothing to read. Breaking out of the loop pauses it. The
// next range resumes after the last change delivered, also after a panic in the loop's
// body. A stream is for one goroutine at a time: a second range while one runs panics.
// The loop's body runs without a lock, so it may write to the same table.
//
// Changes that are not delivered yet are buffered, up to the number that [Buffer] sets.
// If there are more, the oldest are dropped. The stream yields a [*SkippedError] in
// their place, and continues. Writers never wait for a subscriber.
//
// The subscription and the range end with one of these errors. Every later range yields
// only the same error:
//
//   - the cause of ctx, when ctx is done. It comes before anything still buffered.
//   - [ErrTableDropped], when the table is dropped. It comes after everything still
//     buffered.
//   - a [*SkippedError], with [OnOverflow] and [Fail].
//   - [ErrInvalidOption], immediately, if an option is invalid.
//
// The subscription also ends when the garbage collector finds the stream unreachable, so
// a forgotten stream costs nothing after that. Cancel ctx where you can. Changes panics
// if ctx or an option is nil.
//
// A [FeedOption] changes some of this.
func (t *Table[K, V]) Changes(ctx context.Context, opts ...FeedOption) Stream[Change[V]] {
	return t.Selection().Changes(ctx, opts...)
}

// Batches is like [Table.Changes] but yields several changes at a time: see
// [Selection.Batches].
func (t *Table[K, V]) Batches(ctx context.Context, max int, opts ...FeedOption) Stream[[]Change[V]] {
	return t.Selection().Batches(ctx, max, opts...)
}

// Retain makes the table retain exactly the newest n of the changes made from now on,
// even while nobody follows it. A later feed can begin with them: see [After]. Without
// Retain the table retains no changes of its own. Calling it again changes n, and keeps
// the newest n of the changes that are retained already. If n is below 1, nothing is
// retained.
func (t *Table[K, V]) Retain(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.dropped {
		t.allScope.ring.retainTableLocked(uint64(max(n, 0)))
	}
}

// Key returns the primary key of a row, which need not be in the table.
func (t *Table[K, V]) Key(row *V) K { return t.key(row) }

// Name returns the table's name.
func (t *Table[K, V]) Name() string { return t.name }

// String returns the name, the number of rows and the last sequence number in one line:
//
//	table "games": rows 3, seq 7
//
// It does not wait for the table's lock, so a function that runs under the lock may log
// the table. If a write or a transaction holds the lock or waits for it, String returns
// only the name: table "games" (locked).
func (t *Table[K, V]) String() string {
	if !t.mu.TryRLock() {
		return fmt.Sprintf("table %q (locked)", t.name)
	}
	defer t.mu.RUnlock()
	text := fmt.Sprintf("table %q: rows %d, seq %d", t.name, t.len, t.seq)
	if t.dropped {
		text += ", dropped"
	}
	return text
}

// Len returns the number of rows.
func (t *Table[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.len
}

// Seq returns the sequence number of the last change, or 0 if there was none. A number means
// nothing in another table: see [Table.Position].
func (t *Table[K, V]) Seq() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.seq
}

// Get returns a copy of the row with the key, and reports whether there is one.
// Everything that the row refers to belongs to the table and must not be modified. That
// is all of the row if V is a pointer, a map or a slice. Get allocates nothing.
//
// Get takes no lock and does not wait, except in a table of [NewTableFunc]. It returns the row
// that was stored at some moment during the call. While a transaction runs, that is the row
// from before it. Get never returns a row that is rolled back.
func (t *Table[K, V]) Get(key K) (V, bool) {
	return t.value(cellOf[K, V](t.keys.find(key)).published())
}

// value returns a copy of a stored row, or false if it is nil.
func (t *Table[K, V]) value(stored *V) (row V, ok bool) {
	if stored == nil {
		return row, false
	}
	t.guard.check(stored)
	return *stored, true
}

// All returns an iterator over the rows, in the order of their keys. A range sees the
// table as it is when the range begins, whatever is written during the range. It holds
// no lock. The rows are copies as in [Table.Get].
//
// Beginning a range takes the same time for many rows as for few. While it runs, the first
// write to each row keeps the earlier row in memory. An insert or a delete copies the nodes
// of the tree that it touches, each node once. If a range never ends, the rows stay.
// This happens to an [iter.Pull2] whose stop function is not called: it is not garbage, even
// if nobody can reach it. It costs at most one earlier row for each row.
func (t *Table[K, V]) All() iter.Seq2[K, V] { return t.Selection().All() }

// Backward is like [Table.All] but in descending order.
func (t *Table[K, V]) Backward() iter.Seq2[K, V] { return t.Selection().Backward() }
