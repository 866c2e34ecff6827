package changefeed

import "cmp"

// Joined is a row of [Join] and [LeftJoin]: a row of the left source, and the row of the right one to
// which it refers. Both are the stored rows, and must not be modified.
type Joined[L, R any] struct {
	Left  *L `json:"left"`
	Right *R `json:"right"` // nil: there is none, which only LeftJoin has
}

// Equal reports whether both have the same stored rows.
func (j Joined[L, R]) Equal(other Joined[L, R]) bool { return j == other }

// Clone returns j, because stored rows never change.
func (j Joined[L, R]) Clone() Joined[L, R] { return j }

// A joinView is the definition of [Join] and [LeftJoin].
type joinView[F cmp.Ordered, K, L, R any] struct {
	left  tap[K, L]
	right tap[F, R]
	byRef *Index[F, K, L] // the rows of left's table, by ref
	to    *Table[K, Joined[L, R]]
	ref   func(row *L) F
	outer bool
}

// Join makes a view with a row for each row of left that refers to one of right: ref returns the key of
// the right row for a left one. The keys are those of left. Several left rows can refer to one right row.
//
// A write to left costs about one more write. A write to right costs one for each left row that refers to
// it, all under the lock. The view keeps an index of left. The tables of both sources share a lock from
// then on, also after Drop.
func Join[F cmp.Ordered, K, L, R any](left Source[K, L], right Source[F, R], name string, ref func(row *L) F) *View[K, Joined[L, R]] {
	return newJoin(left, right, name, ref, false)
}

// LeftJoin is like [Join] but has a row for each row of left. Its Right is nil if there is no such row.
func LeftJoin[F cmp.Ordered, K, L, R any](left Source[K, L], right Source[F, R], name string, ref func(row *L) F) *View[K, Joined[L, R]] {
	return newJoin(left, right, name, ref, true)
}

func newJoin[F cmp.Ordered, K, L, R any](left Source[K, L], right Source[F, R], name string, ref func(row *L) F, outer bool) *View[K, Joined[L, R]] {
	if ref == nil {
		panic("changefeed: Join: nil function")
	}
	d := &joinView[F, K, L, R]{left: newTap(left, "Join"), right: newTap(right, "Join"), ref: ref, outer: outer}
	l, r := d.left.table, d.right.table
	d.to = newTable(name, func(row *Joined[L, R]) K { return l.key(row.Left) }, l.order, func(a, b entry[K, Joined[L, R]]) bool { return l.order(a.key, b.key) < 0 })
	d.to.keysDiffer = l.keysDiffer
	mergeDomains(l, r)
	l.mu.Lock()
	defer l.mu.Unlock()
	d.byRef = hiddenIndexLocked(l, ref)
	v := newView(d.to, &l.mu)
	detachLeft := l.attachLocked((*joinLeft[F, K, L, R])(d), func(key K, row *L) {
		if row := d.row(d.left.see(row)); row != nil {
			d.to.startLocked(key, row)
		}
	})
	detachRight := r.attachLocked((*joinRight[F, K, L, R])(d), func(F, *R) {})
	v.detach = func() { detachLeft(); detachRight() }
	return v
}

// row returns the row of the view for one of left, or nil.
func (d *joinView[F, K, L, R]) row(left *L) *Joined[L, R] {
	if left == nil {
		return nil
	}
	right := d.right.see(d.right.table.cellLocked(d.ref(left)).latest())
	if right == nil && !d.outer {
		return nil
	}
	return &Joined[L, R]{left, right}
}

// A joinLeft and a joinRight are a joinView, as the tables of its sources use it.
type (
	joinLeft[F cmp.Ordered, K, L, R any]  joinView[F, K, L, R]
	joinRight[F cmp.Ordered, K, L, R any] joinView[F, K, L, R]
)

func (j *joinLeft[F, K, L, R]) follow(tx *Tx, key K, _, new *L) error {
	d := (*joinView[F, K, L, R])(j)
	return d.to.setLocked(tx, key, d.row(d.left.see(new)))
}

func (j *joinRight[F, K, L, R]) follow(tx *Tx, key F, _, _ *R) (err error) {
	d := (*joinView[F, K, L, R])(j)
	d.byRef.eachLocked(key, func(c *cell[K, L]) bool {
		left := c.latest()
		err = d.to.setLocked(tx, d.left.table.keyOf(c, left), d.row(d.left.see(left)))
		return err == nil
	})
	return err
}

// eachLocked calls visit with the cells of the rows with a value, until it returns false.
func (x *Index[S, K, V]) eachLocked(value S, visit func(c *cell[K, V]) (more bool)) {
	x.rows.tree.AscendGreaterOrEqual(indexEntry[S, K, V]{value: value, cell: x.before}, func(e indexEntry[S, K, V]) bool {
		return x.order(e.value, value) == 0 && visit(e.cell)
	})
}
