package changefeed

import (
	"cmp"
	"iter"
	"sync"

	"github.com/google/btree"
)

// degree is that of the B-tree: a node has up to 63 rows.
const degree = 32

// A Table is a set of rows, each under the primary key that is in it, in the order
// of the keys. Its writes can be followed: see [Table.Changes]. Make one with
// [NewTable] or [NewTableFunc]; it lives in memory. A zero Table
// must not be used.
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
//	T1  One lock guards the tree, the sequence number and the appends to the ring: a
//	    write does all three or none.
//	T2  The change numbered s is the s-th; a reader that has seen s has seen 1..s,
//	    less what it was told it skipped.
//	T3  A stored row is never changed again, by anyone.
//	T4  A failed or panicking write leaves rows, sequence and feeds as they were.
//	T5  Clone happens under the write lock only.
//	T6  The writer never waits for a subscriber's code: all it shares with readers
//	    is a leaf mutex, held for no user code, and taken only to add a page or to wake.
type Table[K, V any] struct {
	name  string
	key   func(row *V) K
	copy  func(row *V) *V
	equal func(a, b *V) bool
	order func(a, b K) int

	mu       sync.RWMutex               // T1; guards what follows
	tree     *btree.BTreeG[entry[K, V]] // the rows
	snapshot *btree.BTreeG[entry[K, V]] // a clone of tree as it is, or nil
	seq      uint64                     // of the last change
	dropped  bool

	ring  ring[Change[V]] // append, open and close under mu
	feeds feedSet[V]
}

// An entry is a row in the tree. Without a row, it stands for the absence of one.
type entry[K, V any] struct {
	key K
	row *V // T3
}

// NewTable returns an empty table of rows of type V whose primary key is what key
// returns. Keys are in the order of [cmp.Compare]; so all NaN are one key, the
// lowest.
//
// key is called for each row written, with and without the table's lock held; it
// must depend on the row alone, and must not change it or call the table. The name
// is for messages. NewTable panics if key is nil.
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
	return &Table[K, V]{
		name:  name,
		key:   key,
		order: order,
		copy:  chooseCopy[V](),
		equal: chooseEqual[V](),
		tree:  btree.NewG(degree, less),
	}
}

// Insert adds a row.
//
// Possible errors: [ErrDuplicateKey], [ErrTableDropped].
func (t *Table[K, V]) Insert(row V) (Change[V], error) {
	key := t.key(&row)
	return t.write("insert into", key, func(old *V) (entry[K, V], error) {
		if old != nil {
			return entry[K, V]{}, ErrDuplicateKey
		}
		return entry[K, V]{key, &row}, nil
	})
}

// Upsert adds a row, or puts it in the place of the one with its key.
//
// Possible errors: [ErrTableDropped].
func (t *Table[K, V]) Upsert(row V) (Change[V], error) {
	key := t.key(&row)
	return t.write("upsert into", key, func(*V) (entry[K, V], error) {
		return entry[K, V]{key, &row}, nil
	})
}

// Replace puts a row in the place of the one with its key.
//
// Possible errors: [ErrNotFound], [ErrTableDropped].
func (t *Table[K, V]) Replace(row V) (Change[V], error) {
	key := t.key(&row)
	return t.write("replace in", key, func(old *V) (entry[K, V], error) {
		if old == nil {
			return entry[K, V]{}, ErrNotFound
		}
		return entry[K, V]{key, &row}, nil
	})
}

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
// Possible errors: [ErrNotFound], [ErrKeyChanged], [ErrTableDropped].
func (t *Table[K, V]) Update(key K, edit func(row *V)) (Change[V], error) {
	if edit == nil {
		panic("changefeed: Table.Update: nil function; pass one that edits the row")
	}
	return t.write("update in", key, func(old *V) (entry[K, V], error) {
		if old == nil {
			return entry[K, V]{}, ErrNotFound
		}
		row := t.copy(old)
		edit(row)
		return t.entryFor(key, row)
	})
}

// Compute lets f decide, by the row that is there, what shall be there instead. f
// gets a copy as Update makes it, or nil if there is no row, and returns the new
// row, which belongs to the table from then on; nil deletes. It may edit and return
// what it got. An equal row, or nil where there was none, is no change; in the
// latter case Old and New are nil too.
//
// f runs as edit does in [Table.Update]. Compute panics if f is nil.
//
// Possible errors: [ErrKeyChanged], [ErrTableDropped].
func (t *Table[K, V]) Compute(key K, f func(old *V) *V) (Change[V], error) {
	if f == nil {
		panic("changefeed: Table.Compute: nil function; pass one that returns the new row")
	}
	return t.write("compute in", key, func(old *V) (entry[K, V], error) {
		if old != nil {
			old = t.copy(old) // T3: f might edit it
		}
		row := f(old)
		if row == nil {
			return entry[K, V]{key: key}, nil
		}
		return t.entryFor(key, row)
	})
}

// Delete removes a row.
//
// Possible errors: [ErrNotFound], [ErrTableDropped].
func (t *Table[K, V]) Delete(key K) (Change[V], error) {
	return t.write("delete from", key, func(old *V) (entry[K, V], error) {
		if old == nil {
			return entry[K, V]{}, ErrNotFound
		}
		return entry[K, V]{key: key}, nil
	})
}

// entryFor returns the entry of a row whose key must still be key.
func (t *Table[K, V]) entryFor(key K, row *V) (entry[K, V], error) {
	e := entry[K, V]{t.key(row), row}
	if t.order(key, e.key) != 0 {
		return entry[K, V]{}, ErrKeyChanged
	}
	return e, nil
}

// write makes one write: next decides, by the row that is stored or nil, what
// shall be there instead. It runs under the lock.
func (t *Table[K, V]) write(op string, key K, next func(old *V) (entry[K, V], error)) (Change[V], error) {
	c, err := t.apply(key, next)
	if err != nil {
		return Change[V]{}, &keyError{op: op, table: t.name, key: key, err: err}
	}
	if c.Kind != None {
		t.ring.wake(1) // T6: one, whatever the crowd; without the lock, for who wakes wants to read
	}
	return c, nil
}

// apply is write under the lock. All that may fail or panic is done when commit
// begins (T4).
func (t *Table[K, V]) apply(key K, next func(old *V) (entry[K, V], error)) (Change[V], error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return Change[V]{}, ErrTableDropped
	}
	found, _ := t.tree.Get(entry[K, V]{key: key})
	e, err := next(found.row)
	if err != nil {
		return Change[V]{}, err
	}
	c := Change[V]{Old: found.row, New: e.row}
	switch {
	case c.Old == nil && c.New == nil:
		return c, nil
	case c.Old == nil:
		c.Kind = Insert
	case c.New == nil:
		c.Kind = Delete
	case t.equal(c.Old, c.New):
		c.New = c.Old
		return c, nil
	default:
		c.Kind = Update
	}
	t.commitLocked(&c, e)
	return c, nil
}

// commitLocked puts a change into the tree, numbers it and hands it to the
// subscribers. T1, T2
func (t *Table[K, V]) commitLocked(c *Change[V], e entry[K, V]) {
	t.snapshot = nil
	if e.row == nil {
		t.tree.Delete(e)
	} else {
		t.tree.ReplaceOrInsert(e)
	}
	t.seq++
	c.Seq = t.seq
	t.ring.append(*c)
}

// Drop ends the table: it is empty from now on, every write fails with
// [ErrTableDropped], and so do the streams of its changes once they have handed
// out what they still buffered. There are no changes for the rows that it had. To
// drop a table again does nothing.
func (t *Table[K, V]) Drop() {
	t.drop()
	t.ring.wake(1)
}

func (t *Table[K, V]) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropped = true
	t.snapshot = nil
	t.tree.Clear(false)
	t.ring.close()
}

// subscribe adds a subscriber to all changes from here on. F2
func (t *Table[K, V]) subscribe(s *subscription[V], buffer int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped {
		return ErrTableDropped
	}
	s.seq = t.seq
	t.ring.open(&s.window, uint64(buffer))
	return nil
}

// Name returns the name that the table was given.
func (t *Table[K, V]) Name() string { return t.name }

// Len returns the number of rows.
func (t *Table[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Len()
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
	e, ok := t.tree.Get(entry[K, V]{key: key})
	if !ok {
		var zero V
		return zero, false
	}
	return *e.row, true
}

// All returns the rows in the order of their keys. A range sees the table as it is
// when the range begins, whatever is written meanwhile, and holds no lock; the
// rows are copies as Get makes them. To begin takes the same time for many rows as
// for few; the writes after it copy the nodes of the tree that they touch, each
// once.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.frozen().Ascend(func(e entry[K, V]) bool { return yield(e.key, *e.row) })
	}
}

// Backward is [Table.All] in descending order.
func (t *Table[K, V]) Backward() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		t.frozen().Descend(func(e entry[K, V]) bool { return yield(e.key, *e.row) })
	}
}

// frozen returns the tree as it is now, which nobody will write to. It is kept for
// others until the next write, and never made for a write, which would have to
// copy nodes each time.
func (t *Table[K, V]) frozen() *btree.BTreeG[entry[K, V]] {
	t.mu.RLock()
	snapshot := t.snapshot
	t.mu.RUnlock()
	if snapshot != nil {
		return snapshot
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.snapshot == nil {
		t.snapshot = t.tree.Clone() // T5: Clone writes to the tree that it reads
	}
	return t.snapshot
}
