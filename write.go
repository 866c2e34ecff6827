package changefeed

import "fmt"

// A rule returns the row that a write stores. Its argument is the row that is stored now,
// or nil if there is none. If a rule returns nil, the row is deleted. Rules run under the
// table's lock.
type rule[V any] func(old *V) (*V, error)

func inserting[V any](row *V) rule[V] {
	return func(old *V) (*V, error) {
		if old != nil {
			return nil, ErrDuplicateKey
		}
		return row, nil
	}
}

func upserting[V any](row *V) rule[V] {
	return func(*V) (*V, error) { return row, nil }
}

func replacing[V any](row *V) rule[V] {
	return func(old *V) (*V, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		return row, nil
	}
}

func (t *Table[K, V]) updating(key K, edit func(row *V)) rule[V] {
	if edit == nil {
		panic("changefeed: Table.Update: nil function; pass one that edits the row")
	}
	return func(old *V) (*V, error) {
		if old == nil {
			return nil, ErrNotFound
		}
		row := t.copy(old)
		edit(row)
		return t.sameKey(key, row)
	}
}

func (t *Table[K, V]) computing(key K, f func(old *V) *V) rule[V] {
	if f == nil {
		panic("changefeed: Table.Compute: nil function; pass one that returns the new row")
	}
	return func(old *V) (*V, error) {
		if old != nil {
			old = t.copy(old) // T3: f might edit it
		}
		row := f(old)
		if row == nil {
			return nil, nil
		}
		return t.sameKey(key, row)
	}
}

func deleting[V any](old *V) (*V, error) {
	if old == nil {
		return nil, ErrNotFound
	}
	return nil, nil
}

// sameKey returns row, or ErrKeyChanged if its key is not key any more.
func (t *Table[K, V]) sameKey(key K, row *V) (*V, error) {
	if t.order(key, t.key(row)) != 0 {
		return nil, ErrKeyChanged
	}
	return row, nil
}

// write makes a single write, outside a transaction.
func (t *Table[K, V]) write(op string, key K, next rule[V]) (Change[V], error) {
	c, waking, err := t.writeAndPublish(key, next)
	waking.wake()
	return c, t.writeError(op, key, err)
}

func (t *Table[K, V]) writeError(op string, key K, err error) error {
	if err == nil {
		return nil
	}
	return &keyError{op: op, table: t.name, key: key, err: err}
}

func (t *Table[K, V]) writeAndPublish(key K, next rule[V]) (c Change[V], w wakeList[V], err error) {
	t.mu.Lock()
	defer t.endWrite()
	if t.closed {
		t.checkNoView()
		return c, w, ErrTableDropped
	}
	c, err = t.writeLocked(key, next)
	switch {
	case t.tx.running(): // the write is a cascade
		if err == nil {
			w.views = t.tx.tx.commitLocked()
		}
	case c.Kind != None:
		w = t.publishLocked()
		if t.locked != nil {
			w.sets = t.publishCommitLocked(&c)
		}
	}
	return c, w, err
}

// checkNoView panics if the table is the table of a view, to which only the view's definition writes.
func (t *Table[K, V]) checkNoView() {
	if t.isView() {
		panic(fmt.Sprintf("changefeed: a write to the view %q; write to its sources", t.name))
	}
}

// publishLocked publishes the changes since the last call.
func (t *Table[K, V]) publishLocked() wakeList[V] {
	w := t.outbox.publish()
	t.history.Load().published.Store(t.seq)
	return w
}

// writeLocked makes a write without publishing it. Everything in this table that can fail or
// panic has happened when commitLocked begins (T4). A view can fail later, and cascadeLocked then
// undoes the write. The caller must defer endWrite or forgetPlansLocked, which release the plans
// also after a panic.
func (t *Table[K, V]) writeLocked(key K, next rule[V]) (Change[V], error) {
	at := t.cellLocked(key)
	old := at.latest()
	t.guard.check(old)
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
	if err := t.makeLocked(&c, key, at); err != nil {
		return Change[V]{}, err
	}
	return c, nil
}

// planLocked makes the indexes plan a change.
func (t *Table[K, V]) planLocked(c *Change[V]) {
	for _, x := range t.indexes {
		x.plan(c.Old, c.New)
	}
}

// makeLocked makes a change to the row of a key. The cell of the key is at, or nil if there is none.
func (t *Table[K, V]) makeLocked(c *Change[V], key K, at *cell[K, V]) error {
	t.planLocked(c)
	for _, x := range t.indexes {
		if err := x.check(); err != nil {
			return err
		}
	}
	t.guard.keep(c.New)
	if t.dependents != nil && t.cascades(key, c.Old, c.New) {
		return t.cascadeLocked(c, key, at)
	}
	t.commitLocked(c, key, at)
	return nil
}

// endWrite ends a write and unlocks the table. It is one deferred call, because a write
// with a second one takes 1.07x as long (BenchmarkWrite).
func (t *Table[K, V]) endWrite() {
	t.forgetPlansLocked()
	if t.locked != nil { // a compare function has panicked
		unlockSets(t.locked)
		t.locked = nil
	}
	if t.single != nil && t.single.outcome != nil {
		t.single.endSingle()
	}
	t.mu.Unlock()
}

// forgetPlansLocked releases the values that the indexes planned for a write.
func (t *Table[K, V]) forgetPlansLocked() {
	for _, x := range t.indexes {
		x.forget()
	}
}

// cellLocked returns the cell of a key, or nil if there is none.
func (t *Table[K, V]) cellLocked(key K) *cell[K, V] { return cellOf[K, V](t.keys.get(key)) }

// commitLocked stores the new row of a change, numbers the change, and adds it to the
// outbox for each scope to which it belongs. The cell of the key is at, or nil if there
// is none. T1, T2
func (t *Table[K, V]) commitLocked(c *Change[V], key K, at *cell[K, V]) {
	c.Seq = t.seq + 1
	if sets := t.commitSets(); sets != nil {
		t.beginCommitLocked(sets, c)
	}
	t.storeLocked(key, at, c)
	t.seq = c.Seq
	t.made[c.Kind]++

	o := &t.outbox
	o.add(&t.allScope, key, *c)
	if at != nil && at.scope != nil {
		o.add(at.scope, key, *c)
	}
	if t.ranges.root != nil {
		t.ranges.find(key, func(s *scope[K, V]) { o.add(s, key, *c) })
	}
	for _, x := range t.indexes {
		x.touch(o)
		o.addTouched(key, *c)
	}
}

// storeLocked makes a change to a cell, or to a new one if c is nil, and to the indexes,
// which have planned it. In a transaction, the row becomes a version. Otherwise it is
// published.
func (t *Table[K, V]) storeLocked(key K, c *cell[K, V], change *Change[V]) {
	switch change.Kind {
	case Insert:
		t.len++
	case Delete:
		t.len--
	}
	isNew := c == nil
	if isNew {
		c = &cell[K, V]{key: key}
	}
	switch {
	case t.tx.running():
		if t.tx.saved.set {
			t.tx.saved.rows = append(t.tx.saved.rows, savedRow[K, V]{c, c.latest()})
		}
		t.tx.write(c, change.New)
	case isNew:
		c.row.Store(change.New)
	default:
		t.snapshots.replace(c, change.New)
	}
	switch {
	case isNew:
		t.addCellLocked(c)
	case !t.tx.running():
		t.removeUnusedLocked(c)
	}
	for _, x := range t.indexes {
		x.apply(key, c)
	}
}

// addCellLocked adds a new cell to the tree and to keys.
func (t *Table[K, V]) addCellLocked(c *cell[K, V]) {
	t.rows.put(entryOf(c))
	t.keys.put(&c.key)
}

// removeUnusedLocked removes the cell from the tree and from keys, if it has no row and is
// not followed.
func (t *Table[K, V]) removeUnusedLocked(c *cell[K, V]) {
	if c.row.Load() == nil && c.scope == nil {
		t.rows.remove(entry[K]{key: c.key})
		t.keys.remove(c.key)
	}
}
