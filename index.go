package changefeed

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"unsafe"

	"github.com/google/btree"

	"github.com/seed-637b77f9/changefeed/internal/inspection"
)

// An Index finds the rows of a table by a value that depends on the row, instead of by the
// primary key. Its selections are read and followed like the table, in the order of value
// and key. Values are in the order of [cmp.Compare], or in one of the user's. Make an index
// with [NewIndex], [NewMultiIndex] or [NewUniqueIndex], or with [NewIndexFunc],
// [NewMultiIndexFunc] or [NewUniqueIndexFunc]. It lasts as long as its table. A zero Index
// must not be used.
//
// The table updates its indexes with every write. A value that comes or goes costs the
// write a B-tree operation. A value that stays costs none, except in a row with several
// values when the value directly before it comes or goes.
//
// An index shares the table's lock and its history. A selection of it shows the table at
// one sequence number.
//
// The function that returns a row's value runs with and without the table's lock, also for
// rows written long ago. It must depend on the row alone, must not modify it, and should be
// quick. It must call no table: see [Table]. If it panics during a write, the panic reaches
// the caller, and nothing was written. It is not called when a transaction is rolled back. If
// it does not always return the same value for a row, the index becomes inconsistent with its
// table.
type Index[S, K, V any] struct {
	guard  indexGuard[S, K, V] // like Table.guard
	table  *Table[K, V]
	name   string
	values func(row *V, to []S) []S // appends the row's values
	value  func(row *V) S           // returns the only one; nil in an index of several
	order  func(a, b S) int
	multi  bool
	unique bool
	hidden bool       // only a view uses it
	tap    *tap[K, V] // of a view that uses it, or nil: while the view is being made, both have the same rows

	// Guarded by the table's lock.
	rows     tree[indexEntry[S, K]]
	scopes   intervals[S, K, V]
	old, new []S // the row's values before and after the write under way, in order, each once

	undo  []indexWrite[S, K] // the writes of the running transaction
	saved int                // the length of undo at the last save

	// Entries with these cells are not rows. They come before and after all rows with
	// their value.
	before, after unsafe.Pointer
}

// An indexEntry is a row under one of its values. It has the row's previous value, from
// which a walk sees whether the row has an earlier value in an interval. An entry is never
// changed, because a clone of the tree may share it.
type indexEntry[S, K any] struct {
	value    S
	key      K
	cell     unsafe.Pointer // a *cell[K, V]
	previous *S             // nil: value is the row's first
}

// An indexWrite is what rolls back a write to an index's tree. It puts the entry, or if
// remove is true, it removes it.
type indexWrite[S, K any] struct {
	entry  indexEntry[S, K]
	remove bool
}

// A tableIndex is an [Index] without the type of its values, as its table uses it. All
// methods are called with the table's lock held.
type tableIndex[K, V any] interface {
	indexName() string
	isHidden() bool // only a view uses it

	// plan prepares the write that replaces old by new, of which one may be nil. Only plan
	// calls functions of the user, which may panic (T4). A forget must follow, also after
	// a panic.
	plan(old, new *V)

	// check returns an error if the planned write would break a unique index.
	check() error

	// checkWritten returns an error if the writes of the transaction since the last save have broken a unique
	// index, and the key of a row with the value of another.
	checkWritten() (key K, err error)

	// apply makes the planned write, which was made to the cell of the key.
	apply(key K, c *cell[K, V])

	// touch adds to the outbox the scopes that the row of the planned write was or is in.
	touch(o *outbox[K, V])

	// forget releases the values of the planned write.
	forget()

	// rollback undoes the writes of the transaction, or those since the last save. It calls no
	// function of the user. endTx forgets them.
	save()
	rollback(toSaved bool)
	endTx()

	inspectionOrder() inspection.Order

	freeze() any // the tree as it is now: a *btree.BTreeG[indexEntry[S, K]]
	clear()

	// another returns an index like this one of another table. add adds a row of the table, and
	// addAll all of them. They return an error if the index is unique and a value is there
	// already. take takes over the entries of an index that another made.
	another(t *Table[K, V]) tableIndex[K, V]
	add(c *cell[K, V], row *V) error
	addAll() error
	take(from tableIndex[K, V])
}

// NewIndex makes an index of a table or a view by the value that the function returns for a row. It
// adds the rows that are in the table in one step. That takes linear time, during which
// other readers and writers wait. The index of a dropped table is empty.
//
// The name is for messages. NewIndex panics if the table or the function is nil, or if the
// table has an index of that name.
func NewIndex[S cmp.Ordered, K, V any](rows Rows[K, V], name string, value func(row *V) S) *Index[S, K, V] {
	return NewIndexFunc(rows, name, value, cmp.Compare[S])
}

// NewIndexFunc is like [NewIndex] but for values of any type, for example [time.Time] or a
// struct of several values, in the order of compare. compare returns a negative number, zero
// or a positive number, as [cmp.Compare] does. Values for which it returns zero are one value.
//
// compare is called with and without the table's lock held. It must be quick and must call
// no table at all: see [Table]. It must not panic, because that would damage the index.
// NewIndexFunc also panics if compare is nil.
func NewIndexFunc[S, K, V any](rows Rows[K, V], name string, value func(row *V) S, compare func(a, b S) int) *Index[S, K, V] {
	return mustIndex(newIndex(rows, name, oneValue(value), compare, &Index[S, K, V]{value: value}))
}

// NewMultiIndex is like [NewIndex] for rows with any number of values. A value that the
// function returns twice counts once. A row without a value is not in the index. Reading a
// Range or From takes linear time in the number of selected values of all rows together.
func NewMultiIndex[S cmp.Ordered, K, V any](rows Rows[K, V], name string, values func(row *V) []S) *Index[S, K, V] {
	return NewMultiIndexFunc(rows, name, values, cmp.Compare[S])
}

// NewMultiIndexFunc is like [NewMultiIndex] but for values of any type: see [NewIndexFunc].
func NewMultiIndexFunc[S, K, V any](rows Rows[K, V], name string, values func(row *V) []S, compare func(a, b S) int) *Index[S, K, V] {
	var all func(row *V, to []S) []S
	if values != nil {
		all = func(row *V, to []S) []S { return append(to, values(row)...) }
	}
	return mustIndex(newIndex(rows, name, all, compare, &Index[S, K, V]{multi: true}))
}

// NewUniqueIndex is like [NewIndex] for values that no two rows may share. A write that
// would give a row the value of another row fails with [ErrDuplicateKey] and changes
// nothing. The error names the index. Every row has a value, even if it is the zero value.
// If two rows of the table share a value, NewUniqueIndex returns ErrDuplicateKey and makes
// no index.
func NewUniqueIndex[S cmp.Ordered, K, V any](rows Rows[K, V], name string, value func(row *V) S) (*Index[S, K, V], error) {
	return NewUniqueIndexFunc(rows, name, value, cmp.Compare[S])
}

// NewUniqueIndexFunc is like [NewUniqueIndex] but for values of any type: see [NewIndexFunc].
func NewUniqueIndexFunc[S, K, V any](rows Rows[K, V], name string, value func(row *V) S, compare func(a, b S) int) (*Index[S, K, V], error) {
	return newIndex(rows, name, oneValue(value), compare, &Index[S, K, V]{value: value, unique: true})
}

func oneValue[S, V any](value func(row *V) S) func(row *V, to []S) []S {
	if value == nil {
		return nil
	}
	return func(row *V, to []S) []S { return append(to, value(row)) }
}

// mustIndex returns an index that is not unique. Only a unique one can fail.
func mustIndex[S, K, V any](x *Index[S, K, V], err error) *Index[S, K, V] {
	if err != nil {
		panic(err)
	}
	return x
}

// newIndex completes x and adds it to the table.
func newIndex[S, K, V any](rows Rows[K, V], name string, values func(row *V, to []S) []S, compare func(a, b S) int, x *Index[S, K, V]) (*Index[S, K, V], error) {
	if rows == nil || rows.tableOf() == nil {
		panic("changefeed: NewIndex: nil table")
	}
	t := rows.tableOf()
	switch {
	case values == nil:
		panic("changefeed: NewIndex: nil function; pass one that returns a row's value")
	case compare == nil:
		panic("changefeed: NewIndexFunc: nil compare function; pass one, or use NewIndex for ordered values")
	}
	x.init(t, name, values, compare)
	if err := x.build(); err != nil {
		return nil, fmt.Errorf("changefeed: new index of %q: %w", t.name, err)
	}
	return x, nil
}

func (x *Index[S, K, V]) init(t *Table[K, V], name string, values func(row *V, to []S) []S, compare func(a, b S) int) {
	x.table, x.name, x.values, x.order = t, name, values, compare
	x.scopes.order, x.scopes.seqOf = compare, t.seqOf
	x.before, x.after = unsafe.Pointer(new(cell[K, V])), unsafe.Pointer(new(cell[K, V]))
	x.rows.init(func(a, b indexEntry[S, K]) bool {
		if c := compare(a.value, b.value); c != 0 {
			return c < 0
		}
		if c := x.sideOf(a.cell) - x.sideOf(b.cell); c != 0 {
			return c < 0
		}
		return t.order(a.key, b.key) < 0
	})
}

// build adds the table's rows to the index, and the index to the table.
func (x *Index[S, K, V]) build() error {
	t := x.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if slices.ContainsFunc(t.shownIndexes(), func(other tableIndex[K, V]) bool { return other.indexName() == x.name }) {
		panic(fmt.Sprintf("changefeed: NewIndex: the table %q has an index %q already; give each its own name", t.name, x.name))
	}
	return x.buildLocked()
}

func (x *Index[S, K, V]) buildLocked() error {
	if err := x.addAll(); err != nil {
		return err
	}
	x.table.indexes = append(x.table.indexes, x)
	return nil
}

// newHiddenIndex returns an empty index that only a view uses, of what it takes from a source.
func newHiddenIndex[S, K, V any](p *tap[K, V], value func(row *V) S, compare func(a, b S) int) *Index[S, K, V] {
	x := &Index[S, K, V]{hidden: true, tap: p, value: value}
	x.init(p.selection.table, "", oneValue(value), compare)
	p.hidden = x
	return x
}

// shownIndexes returns the indexes that users have made.
func (t *Table[K, V]) shownIndexes() (shown []tableIndex[K, V]) {
	for _, x := range t.indexes {
		if !x.isHidden() {
			shown = append(shown, x)
		}
	}
	return shown
}

func (x *Index[S, K, V]) addAll() (err error) {
	x.table.rows.tree.Ascend(func(e entry[K]) bool {
		c := (*cell[K, V])(e.cell)
		if row := c.row.Load(); row != nil {
			err = x.add(c, row)
		}
		return err == nil
	})
	return err
}

func (x *Index[S, K, V]) add(c *cell[K, V], row *V) error {
	defer x.forget()
	x.plan(nil, row)
	if err := x.check(); err != nil {
		return fmt.Errorf("%w %s", err, quoted(x.table.key(row)))
	}
	x.apply(c.key, c)
	return nil
}

// sideOf returns -1 for an entry before all rows with its value, 1 for one after them, and
// 0 for a row.
func (x *Index[S, K, V]) sideOf(cell unsafe.Pointer) int {
	switch cell {
	case x.before:
		return -1
	case x.after:
		return 1
	}
	return 0
}

func (x *Index[S, K, V]) indexName() string { return x.name }
func (x *Index[S, K, V]) isHidden() bool    { return x.hidden }

func (x *Index[S, K, V]) plan(old, new *V) {
	if x.tap != nil && x.tap.growing {
		old, new = x.tap.reached(old), x.tap.reached(new)
	}
	x.old = x.valuesOf(old, x.old)
	x.new = x.valuesOf(new, x.new)
	x.guard.plan(x, old, new)
}

func (x *Index[S, K, V]) forget() { x.old, x.new = recycle(x.old), recycle(x.new) }

func (x *Index[S, K, V]) save() { x.saved = len(x.undo) }

func (x *Index[S, K, V]) rollback(toSaved bool) {
	to := 0
	if toSaved {
		to = x.saved
	}
	for _, w := range slices.Backward(x.undo[to:]) {
		if w.remove {
			x.rows.remove(w.entry)
		} else {
			x.rows.put(w.entry)
		}
	}
	clear(x.undo[to:])
	x.undo = x.undo[:to]
}

func (x *Index[S, K, V]) endTx() { x.undo, x.saved = recycle(x.undo), 0 }

func (x *Index[S, K, V]) freeze() any { return x.rows.freeze() }

// valuesOf appends the row's values, in order, each once.
func (x *Index[S, K, V]) valuesOf(row *V, to []S) []S {
	if row == nil {
		return to
	}
	to = x.values(row, to)
	if x.multi {
		slices.SortFunc(to, x.order)
		to = slices.CompactFunc(to, func(a, b S) bool { return x.order(a, b) == 0 })
	}
	return to
}

func (x *Index[S, K, V]) check() (err error) {
	if !x.unique {
		return nil
	}
	for _, v := range x.new {
		if _, has := x.find(x.old, v); has {
			continue // it is this row's own
		}
		x.each(v, func(e indexEntry[S, K]) (more bool) {
			err = &uniqueError{index: x.name, value: v, owner: x.table.key((*cell[K, V])(e.cell).latest())}
			return false
		})
	}
	return err
}

func (x *Index[S, K, V]) checkWritten() (key K, err error) {
	if !x.unique {
		return key, nil
	}
	for _, w := range x.undo[x.saved:] {
		written := false // the row that was written has the value
		var other *K
		x.each(w.entry.value, func(e indexEntry[S, K]) (more bool) {
			if x.table.order(e.key, w.entry.key) == 0 {
				written = true
			} else {
				other = &e.key
			}
			return !written || other == nil
		})
		if written && other != nil {
			return w.entry.key, &uniqueError{index: x.name, value: w.entry.value, owner: *other}
		}
	}
	return key, nil
}

// each calls visit with the entries of the rows with a value, in the order of their keys.
func (x *Index[S, K, V]) each(value S, visit func(e indexEntry[S, K]) (more bool)) {
	x.rows.tree.AscendGreaterOrEqual(indexEntry[S, K]{value: value, cell: x.before}, func(e indexEntry[S, K]) bool {
		return x.order(e.value, value) == 0 && visit(e)
	})
}

func (x *Index[S, K, V]) apply(key K, c *cell[K, V]) {
	for _, v := range x.old {
		if _, stays := x.find(x.new, v); !stays {
			x.remove(indexEntry[S, K]{value: v, key: key})
		}
	}
	for i, v := range x.new {
		at, stays := x.find(x.old, v)
		if !stays || x.multi && !x.sameLast(x.old[:at], x.new[:i]) {
			x.put(indexEntry[S, K]{v, key, unsafe.Pointer(c), lastOf(x.new[:i])})
		}
	}
}

func (x *Index[S, K, V]) put(e indexEntry[S, K]) {
	replaced, ok := x.rows.put(e)
	if !x.table.tx.running() {
		return
	}
	if ok {
		e = replaced
	}
	x.undo = append(x.undo, indexWrite[S, K]{entry: e, remove: !ok})
}

func (x *Index[S, K, V]) remove(e indexEntry[S, K]) {
	removed, _ := x.rows.remove(e)
	if x.table.tx.running() {
		x.undo = append(x.undo, indexWrite[S, K]{entry: removed})
	}
}

// find returns the place of a value in a sorted list, and whether the list has it.
func (x *Index[S, K, V]) find(values []S, v S) (at int, ok bool) {
	return slices.BinarySearchFunc(values, v, x.order)
}

// sameLast reports whether both lists end with the same value, or are empty.
func (x *Index[S, K, V]) sameLast(a, b []S) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	return x.order(a[len(a)-1], b[len(b)-1]) == 0
}

// lastOf returns the last of the values, or nil if there are none. It returns a copy, so
// that nothing holds the list.
func lastOf[S any](values []S) *S {
	if len(values) == 0 {
		return nil
	}
	return new(values[len(values)-1])
}

func (x *Index[S, K, V]) touch(o *outbox[K, V]) {
	if x.scopes.root == nil {
		return
	}
	for _, v := range x.old {
		x.scopes.find(v, func(s *scope[K, V]) { o.touch(s, false) })
	}
	for _, v := range x.new {
		x.scopes.find(v, func(s *scope[K, V]) { o.touch(s, true) })
	}
}

func (x *Index[S, K, V]) clear() { x.rows.clear() }

func (x *Index[S, K, V]) another(t *Table[K, V]) tableIndex[K, V] {
	other := &Index[S, K, V]{
		guard: x.guard, table: t, name: x.name, values: x.values, order: x.order, multi: x.multi, unique: x.unique,
		before: x.before, after: x.after, // which x's order of entries knows
	}
	other.rows.init(x.rows.less)
	return other
}

func (x *Index[S, K, V]) take(from tableIndex[K, V]) { x.rows.take(&from.(*Index[S, K, V]).rows) }

// All returns an iterator over all rows in the index, in the order of value and key. A row that
// has several values comes once, at the first of them. A range behaves as one over
// [Selection.All]. To follow all rows, follow the table.
func (x *Index[S, K, V]) All() iter.Seq2[K, V] { return x.all().All() }

// Backward is like [Index.All] but in the opposite order.
func (x *Index[S, K, V]) Backward() iter.Seq2[K, V] { return x.all().Backward() }

// Len returns the number of rows in the index. It takes as long as a range over [Index.All].
func (x *Index[S, K, V]) Len() int { return x.all().Len() }

// all selects all rows in the index, to be read. It cannot be followed.
func (x *Index[S, K, V]) all() Selection[K, V] { return x.selection(interval[S]{extent: unbounded}) }

// Equal selects the rows with a value.
func (x *Index[S, K, V]) Equal(value S) Selection[K, V] {
	return x.selection(interval[S]{from: value, extent: point})
}

// Range selects the rows with values from from up to, not including, to. If to is not after
// from, it selects no rows.
func (x *Index[S, K, V]) Range(from, to S) Selection[K, V] {
	return x.selection(interval[S]{from: from, to: to, extent: between})
}

// From selects the rows with the value from and those with greater values.
func (x *Index[S, K, V]) From(from S) Selection[K, V] {
	return x.selection(interval[S]{from: from, extent: onwards})
}

// Any selects the rows with any of the values. They come in the order of value and key, and a
// row that has several of the values comes once, at the first of them. Values that are passed
// twice count once. Without a value, no row is selected.
//
// A range takes time in proportion to the number of rows and values selected, and to the
// logarithm of the number of all rows. A feed costs each write a lookup in the logarithm of the
// number of all values that are followed. Feeds share their unread changes if they are made from
// the same Selection.
func (x *Index[S, K, V]) Any(values ...S) Selection[K, V] {
	return Selection[K, V]{table: x.table, part: &valuesPart[S, K, V]{pointSet[S, K, V]{points: sortedSet(values, x.order)}, x}}
}

func (x *Index[S, K, V]) selection(values interval[S]) Selection[K, V] {
	return Selection[K, V]{table: x.table, part: &indexPart[S, K, V]{x, values}}
}

// An indexPart is the part of a table with the values of an interval.
type indexPart[S, K, V any] struct {
	index  *Index[S, K, V]
	values interval[S]
}

func (p *indexPart[S, K, V]) has(row *V) bool {
	return slices.ContainsFunc(p.index.values(row, nil), func(v S) bool {
		return p.values.contains(v, p.index.order)
	})
}

func (p *indexPart[S, K, V]) scopeLocked() *scope[K, V] { return p.index.scopes.scope(&p.values) }
func (p *indexPart[S, K, V]) forgetScopeLocked()        { p.index.scopes.remove(&p.values) }

func (p *indexPart[S, K, V]) scan(v *view[K, V], backward bool) *scan[K, V] {
	w := &walk[indexEntry[S, K], K, V]{tree: p.index.treeIn(v), backward: backward, cellOf: p.cellOf}
	switch {
	case p.values.extent == unbounded:
	case !backward:
		w.from = &indexEntry[S, K]{value: p.values.from, cell: p.index.before}
	case p.values.extent == between:
		w.from = &indexEntry[S, K]{value: p.values.to, cell: p.index.before}
	case p.values.extent == point:
		w.from = &indexEntry[S, K]{value: p.values.from, cell: p.index.after}
	}
	return p.index.table.scan(v, w)
}

// treeIn returns the index's tree in v, or as it is now if v is nil.
func (x *Index[S, K, V]) treeIn(v *view[K, V]) *btree.BTreeG[indexEntry[S, K]] {
	if v == nil {
		return x.rows.freeze()
	}
	i := slices.IndexFunc(v.indexes, func(f frozenIndex[K, V]) bool { return f.index == tableIndex[K, V](x) })
	if i < 0 {
		panic(fmt.Sprintf("changefeed: the index %q of table %q was made after Read began; make it before", x.name, x.table.name))
	}
	return v.indexes[i].tree.(*btree.BTreeG[indexEntry[S, K]])
}

// cellOf returns the cell of an entry, unless the row comes at an earlier value, or came.
func (p *indexPart[S, K, V]) cellOf(e indexEntry[S, K]) (c *cell[K, V], inPart bool) {
	switch {
	case !p.values.contains(e.value, p.index.order):
		return nil, false
	case e.previous != nil && p.values.contains(*e.previous, p.index.order):
		return nil, true
	}
	return (*cell[K, V])(e.cell), true
}

// A valuesPart is the part of a table with any of several values in an index.
type valuesPart[S, K, V any] struct {
	pointSet[S, K, V]
	index *Index[S, K, V]
}

func (p *valuesPart[S, K, V]) has(row *V) bool {
	return slices.ContainsFunc(p.index.values(row, nil), p.hasValue)
}

func (p *valuesPart[S, K, V]) hasValue(v S) bool {
	_, ok := p.index.find(p.points, v)
	return ok
}

func (p *valuesPart[S, K, V]) scopeLocked() *scope[K, V] { return p.scopeIn(&p.index.scopes) }
func (p *valuesPart[S, K, V]) forgetScopeLocked()        { p.forgetScopeIn(&p.index.scopes) }

func (p *valuesPart[S, K, V]) scan(v *view[K, V], backward bool) *scan[K, V] {
	tree := p.index.treeIn(v)
	var walks cellSources[K, V]
	for _, value := range p.points {
		w := &walk[indexEntry[S, K], K, V]{tree: tree, backward: backward}
		w.from = &indexEntry[S, K]{value: value, cell: p.index.before}
		if backward {
			w.from.cell = p.index.after
		}
		w.cellOf = func(e indexEntry[S, K]) (c *cell[K, V], inPart bool) {
			if p.index.order(e.value, value) != 0 {
				return nil, false
			}
			if p.comesEarlier(tree, e) {
				return nil, true
			}
			return (*cell[K, V])(e.cell), true
		}
		walks = append(walks, w)
	}
	if backward {
		slices.Reverse(walks)
	}
	return p.index.table.scan(v, &walks)
}

// comesEarlier reports whether the row of an entry has an earlier value that is selected.
func (p *valuesPart[S, K, V]) comesEarlier(tree *btree.BTreeG[indexEntry[S, K]], e indexEntry[S, K]) bool {
	for e.previous != nil {
		if p.hasValue(*e.previous) {
			return true
		}
		e, _ = tree.Get(indexEntry[S, K]{value: *e.previous, key: e.key})
	}
	return false
}
