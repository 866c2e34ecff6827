package changefeed

import "cmp"

// Joined is a row of [Join] and [LeftJoin]: a row of the left source, and the row of the right source to which it
// refers. Left and Right point to the stored rows, which must not be modified.
type Joined[L, R any] struct {
	Left  *L `json:"left"`
	Right *R `json:"right"` // nil if there is no such row, which happens only in a LeftJoin
}

// Equal reports whether j and other have the same stored rows. It compares pointers.
func (j Joined[L, R]) Equal(other Joined[L, R]) bool { return j == other }

// Clone returns j, because stored rows never change.
func (j Joined[L, R]) Clone() Joined[L, R] { return j }

// A joinView is the definition of [Join] and [LeftJoin].
type joinView[F cmp.Ordered, K, L, R any, Row interface{ Joined[L, R] }] struct {
	left  tap[K, L]
	right tap[F, R]
	byRef *Index[F, K, L] // a hidden index of left's table, by ref
	to    *Table[K, Row]
	ref   func(row *L) F
	outer bool
}

// Join makes a view with a row for each row of left that refers to a row of right. The function ref returns the key
// of the right row to which a left row refers. Several left rows can refer to one right row. The view has the keys of
// left.
//
// A write to left writes at most one row of the view. A write to right writes a row of the view for each left row that
// refers to the right row, and holds the lock meanwhile. The view keeps an index of left by ref. Join makes the tables
// of both sources share a lock, also after the view is dropped.
//
// Join panics if a source or ref is nil. See [View] for what ref may do. Row is Joined[L, R], as [Group] explains.
func Join[F cmp.Ordered, K, L, R any, Row interface{ Joined[L, R] }](left Source[K, L], right Source[F, R], name string, ref func(row *L) F) *View[K, Row] {
	return newJoin[Row](left, right, "Join", name, ref, false)
}

// LeftJoin is like [Join] but has a row for each row of left. Right is nil if the left row refers to no row of right.
// Functions of views that are made of a LeftJoin must allow for that.
func LeftJoin[F cmp.Ordered, K, L, R any, Row interface{ Joined[L, R] }](left Source[K, L], right Source[F, R], name string, ref func(row *L) F) *View[K, Row] {
	return newJoin[Row](left, right, "LeftJoin", name, ref, true)
}

func newJoin[Row interface{ Joined[L, R] }, F cmp.Ordered, K, L, R any](left Source[K, L], right Source[F, R], function, name string, ref func(row *L) F, outer bool) *View[K, Row] {
	if ref == nil {
		panic("changefeed: " + function + ": nil function; pass one that returns the key of the right row")
	}
	d := &joinView[F, K, L, R, Row]{left: newTap(left, function), right: newTap(right, function), ref: ref, outer: outer}
	l, r := d.left.selection.table, d.right.selection.table
	d.to = newViewTable(l, name, func(row *Row) K { return l.key(Joined[L, R](*row).Left) })
	d.left.dependent, d.left.growing = (*joinLeft[F, K, L, R, Row])(d), true
	d.right.dependent = (*joinRight[F, K, L, R, Row])(d)
	d.byRef = newHiddenIndex(&d.left, ref, r.order)
	mergeDomains(l, r)
	v := newView(d.to, &l.mu, &d.left, &d.right)
	d.left.grow()
	return v
}

// row returns the row of the view for a row of left, or nil if the view has none. left may be nil.
func (d *joinView[F, K, L, R, Row]) row(left *L) *Row {
	if left == nil {
		return nil
	}
	right := d.right.see(d.right.selection.table.cellLocked(d.ref(left)).latest())
	if right == nil && !d.outer {
		return nil
	}
	return new(Row(Joined[L, R]{left, right}))
}

// A joinLeft is a joinView as the table of its left source uses it. A joinRight is for that of the right source.
type (
	joinLeft[F cmp.Ordered, K, L, R any, Row interface{ Joined[L, R] }]  joinView[F, K, L, R, Row]
	joinRight[F cmp.Ordered, K, L, R any, Row interface{ Joined[L, R] }] joinView[F, K, L, R, Row]
)

func (j *joinLeft[F, K, L, R, Row]) viewTable() txTable  { return j.to }
func (j *joinRight[F, K, L, R, Row]) viewTable() txTable { return j.to }

func (j *joinLeft[F, K, L, R, Row]) follow(tx *Tx, key K, _, new *L) {
	d := (*joinView[F, K, L, R, Row])(j)
	d.to.setLocked(tx, key, d.row(new))
}

func (j *joinRight[F, K, L, R, Row]) follow(tx *Tx, key F, _, _ *R) {
	d := (*joinView[F, K, L, R, Row])(j)
	d.byRef.each(key, func(e indexEntry[F, K]) (more bool) {
		c := (*cell[K, L])(e.cell)
		left := c.latest()
		d.to.setLocked(tx, d.left.selection.table.keyOf(c, left), d.row(d.left.see(left)))
		return true
	})
}
