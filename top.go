package changefeed

import "cmp"

// A topView is the definition of [Top], [Bottom], [TopEach] and [BottomEach]. The rows of the view are the stored
// rows of the source. P is the type of the values by which rows are ranked.
//
// Comments in this file call an entry of an index a place. A place is behind another if it comes later in the order
// of the ranks.
type topView[P, K, V any] struct {
	from   tap[K, V]
	ranked *Index[P, K, V] // the index of the source
	rank   *Index[P, K, V] // the view's own index, in the same order
	to     *Table[K, V]
	n      int
	bottom bool              // the ranks are in the order of the indexes. Otherwise they are in the reverse order
	same   func(a, b P) bool // reports whether two values are of one group, or is nil if there is one group
}

// Top makes a view of the n rows with the largest values in an index. If several rows have one value, those with the
// larger keys come first. The view has the keys of the index's table.
//
// A row that is pushed out of the view is a [Delete] in its feeds. The row that takes its place is then an [Insert], in
// the same batch. The feeds do not report other rows whose ranks change. [Ranked] reports ranks.
//
// [View.All] and selections by [View.Where] have the rows in the order of their ranks, the largest value first.
// [View.Backward] has them in the opposite order. A feed that begins with the present rows has them in the order of
// the ranks, too. [View.Row], [View.Rows], [View.Range] and [View.From] select by key, and have the order of the keys.
//
// For the largest of a selection of rows, make an index of a view with these rows: a [Select] whose f returns the row.
//
// A write to a row that is outside the view before and after adds a lookup and a comparison with the view's last row.
// Any other write costs at most two more writes. Top makes the view in one step, which takes time in proportion to n,
// while other readers and writers of the table wait. It panics if the index is nil or was made by [NewMultiIndex] or
// [NewMultiIndexFunc], or if n is below 1. The name is for messages.
func Top[S, K, V any](x *Index[S, K, V], name string, n int) *View[K, V] {
	return newTop(x, "Top", name, n, false)
}

// Bottom is like [Top] but has the rows with the smallest values, the smallest first. If several rows have one value,
// those with the smaller keys come first.
func Bottom[S, K, V any](x *Index[S, K, V], name string, n int) *View[K, V] {
	return newTop(x, "Bottom", name, n, true)
}

func newTop[S, K, V any](x *Index[S, K, V], function, name string, n int, bottom bool) *View[K, V] {
	checkTop(x, function, n)
	d := &topView[S, K, V]{from: newTap(x.table, function), ranked: x, n: n, bottom: bottom}
	d.init(name)
	x.table.mu.Lock()
	defer x.table.mu.Unlock()
	v := newViewLocked(d.to, &x.table.mu, &d.from)
	ok := false
	defer func() {
		if !ok { // a function of the user has panicked
			d.to.dropLocked(nil)
		}
	}()
	d.startLocked()
	ok = true
	return v
}

// TopEach makes a view of the n rows of each group that have the largest values in an index. The function by returns
// the group of a row. With n = 1, the view has one row of each group, such as the latest message of each room or the
// best score of each player.
//
// Within a group, the view is like [Top]. In the order of the ranks, the groups come one after the other, in ascending
// order. Its keys are those of the index's table, not the groups. The view is made a few rows at a time: see [View].
//
// The view keeps an index of the source by group and value. A write to the source also writes to that index, and
// visits up to n rows of the view, those of the row's group. If the row is in the view before or after, the write costs
// at most two more writes, or four if the row moves to another group. TopEach panics as Top does, and also if by is
// nil. See [View] for what by may do.
func TopEach[G cmp.Ordered, S, K, V any](x *Index[S, K, V], name string, n int, by func(row *V) G) *View[K, V] {
	return newTopEach(x, "TopEach", name, n, by, false)
}

// BottomEach is like [TopEach] but has the rows with the smallest values of each group, in the order of [Bottom].
func BottomEach[G cmp.Ordered, S, K, V any](x *Index[S, K, V], name string, n int, by func(row *V) G) *View[K, V] {
	return newTopEach(x, "BottomEach", name, n, by, true)
}

// A groupValue is the value by which [TopEach] ranks a row.
type groupValue[G, S any] struct {
	group G
	value S
}

func newTopEach[G cmp.Ordered, S, K, V any](x *Index[S, K, V], function, name string, n int, by func(row *V) G, bottom bool) *View[K, V] {
	checkTop(x, function, n)
	if by == nil {
		panic("changefeed: " + function + ": nil function; pass one that returns the group of a row")
	}
	d := &topView[groupValue[G, S], K, V]{
		from: newTap(x.table, function), n: n, bottom: bottom,
		same: func(a, b groupValue[G, S]) bool { return cmp.Compare(a.group, b.group) == 0 },
	}
	value := func(row *V) groupValue[G, S] { return groupValue[G, S]{by(row), x.value(row)} }
	d.ranked = newHiddenIndex(&d.from, value, func(a, b groupValue[G, S]) int {
		c := cmp.Compare(a.group, b.group)
		if !bottom {
			c = -c // ranks go backward in the index, but groups must come in ascending order
		}
		return cmp.Or(c, x.order(a.value, b.value))
	})
	d.init(name)
	return growView(d.to, &d.from, d)
}

// checkTop panics if the index or n does not fit the function.
func checkTop[S, K, V any](x *Index[S, K, V], function string, n int) {
	switch {
	case x == nil:
		panic("changefeed: " + function + ": nil index; pass one of the table")
	case x.value == nil:
		panic("changefeed: " + function + ": a row can have several values in the index; pass one of NewIndex or NewUniqueIndex")
	case n < 1:
		panic("changefeed: " + function + ": n must be at least 1")
	}
}

// init makes the view's table, whose rows are in the order of their ranks.
func (d *topView[P, K, V]) init(name string) {
	source := d.ranked.table
	d.from.dependent, d.from.unchanged = d, d.isOutside
	d.to = newViewTable(source, name, source.key)
	d.rank = &Index[P, K, V]{hidden: true, value: d.ranked.value}
	d.rank.init(d.to, "", d.ranked.values, d.ranked.order)
	d.to.indexes = []tableIndex[K, V]{d.rank}
	d.to.allPart = &rankPart[P, K, V]{indexPart[P, K, V]{d.rank, interval[P]{extent: unbounded}}, d.bottom}
}

// startLocked gives a view of one group its first rows.
func (d *topView[P, K, V]) startLocked() {
	if d.to.dropped {
		return
	}
	d.walk(d.ranked, nil, false, func(e indexEntry[P, K]) (more bool) {
		c := &cell[K, V]{key: e.key}
		row := (*cell[K, V])(e.cell).row.Load()
		c.row.Store(row)
		d.to.guard.keep(row)
		d.to.addCellLocked(c)
		d.to.len++
		_ = d.rank.add(c, row) // it is not unique
		return d.to.len < d.n
	})
}

func (d *topView[P, K, V]) viewTable() txTable { return d.to }

// walk calls visit with the entries of an index in the order of their ranks. If back is true, it goes in the reverse
// order. If from is not nil, walk begins with the next entry after that place.
func (d *topView[P, K, V]) walk(x *Index[P, K, V], from *indexEntry[P, K], back bool, visit func(e indexEntry[P, K]) (more bool)) {
	behind := func(e indexEntry[P, K]) bool {
		return from != nil && x.compare(e, *from) == 0 || visit(e)
	}
	switch tree, up := x.rows.tree, d.bottom != back; {
	case up && from == nil:
		tree.Ascend(behind)
	case up:
		tree.AscendGreaterOrEqual(*from, behind)
	case from == nil:
		tree.Descend(behind)
	default:
		tree.DescendLessOrEqual(*from, behind)
	}
}

// compare compares two places in the order of the index. Both must be entries of rows.
func (x *Index[S, K, V]) compare(a, b indexEntry[S, K]) int {
	if c := x.order(a.value, b.value); c != 0 {
		return c
	}
	return x.table.order(a.key, b.key)
}

// isBehind reports whether a comes after b in the order of the ranks. It uses only their values and keys.
func (d *topView[P, K, V]) isBehind(a, b indexEntry[P, K]) bool {
	c := d.rank.compare(a, b)
	if d.bottom {
		return c > 0
	}
	return c < 0
}

func (d *topView[P, K, V]) follow(tx *Tx, key K, _, new *V) {
	var at indexEntry[P, K] // the place of the new row
	if new != nil {
		at = indexEntry[P, K]{value: d.ranked.value(new), key: key}
	}
	if shown := d.to.cellLocked(key).latest(); shown != nil {
		was := indexEntry[P, K]{value: d.ranked.value(shown), key: key}
		if new != nil && d.sameGroup(was.value, at.value) {
			d.move(tx, was, at, new)
			return
		}
		d.leave(tx, was)
	}
	if new != nil {
		d.enter(tx, at, new)
	}
}

// isOutside reports whether the view has no row with the key, and would not take new, which may be nil. It depends on
// the rows of the view alone, so it can be called before and after the source has the row.
func (d *topView[P, K, V]) isOutside(key K, new *V) bool {
	if d.to.cellLocked(key).latest() != nil {
		return false
	}
	if new == nil {
		return true
	}
	at := indexEntry[P, K]{value: d.ranked.value(new), key: key}
	last, full := d.lastIfFull(at)
	return full && d.isBehind(at, last)
}

func (d *topView[P, K, V]) sameGroup(a, b P) bool { return d.same == nil || d.same(a, b) }

// enter makes the view follow a change of a row that is not in it. If the group is full, the row pushes out the last
// row, unless it comes behind that row.
func (d *topView[P, K, V]) enter(tx *Tx, at indexEntry[P, K], row *V) {
	if last, full := d.lastIfFull(at); full {
		if d.isBehind(at, last) {
			return
		}
		d.to.setLocked(tx, last.key, nil)
	}
	d.to.setLocked(tx, at.key, row)
}

// move makes the view follow a change of one of its rows that stays in its group. If the row falls behind a row that is
// not in the view, that row takes its place.
func (d *topView[P, K, V]) move(tx *Tx, was, at indexEntry[P, K], row *V) {
	if last := d.lastWithout(was); d.isBehind(at, last) {
		if next, ok := d.next(last); ok && d.to.order(next.key, at.key) != 0 {
			d.replace(tx, was.key, next)
			return
		}
	}
	d.to.setLocked(tx, at.key, row)
}

// leave removes a row of the view that was deleted or has left its group. The next row of the group takes its place.
func (d *topView[P, K, V]) leave(tx *Tx, was indexEntry[P, K]) {
	if next, ok := d.next(d.lastWithout(was)); ok {
		d.replace(tx, was.key, next)
		return
	}
	d.to.setLocked(tx, was.key, nil)
}

// replace removes the row of a key from the view, and adds the source's row at the entry by.
func (d *topView[P, K, V]) replace(tx *Tx, key K, by indexEntry[P, K]) {
	d.to.setLocked(tx, key, nil)
	d.to.setLocked(tx, by.key, (*cell[K, V])(by.cell).latest())
}

// next returns the first entry of the source behind a place, if it is in the same group.
func (d *topView[P, K, V]) next(at indexEntry[P, K]) (next indexEntry[P, K], ok bool) {
	d.walk(d.ranked, &at, false, func(e indexEntry[P, K]) (more bool) {
		next, ok = e, d.sameGroup(e.value, at.value)
		return false
	})
	return next, ok
}

// lastWithout returns the place of the view's last row in the group of was, other than the row at was. If there is
// no other row, it returns was. Rows of the group that come before this place in the source are in the view.
func (d *topView[P, K, V]) lastWithout(was indexEntry[P, K]) indexEntry[P, K] {
	if last, ok := d.lastOther(was); ok {
		return last
	}
	return was
}

// lastIfFull returns the place of the view's last row in the group of at, if the view has n rows of the group. The
// view must have no row at the place at.
func (d *topView[P, K, V]) lastIfFull(at indexEntry[P, K]) (last indexEntry[P, K], full bool) {
	if d.count(at) < d.n {
		return last, false
	}
	last, _ = d.lastOther(at)
	return last, true
}

// lastOther returns the place of the view's last row in the group of at, other than the row at the place at. ok is
// false if there is none.
func (d *topView[P, K, V]) lastOther(at indexEntry[P, K]) (last indexEntry[P, K], ok bool) {
	if d.same == nil {
		end := d.rank.rows.tree.Min
		if d.bottom {
			end = d.rank.rows.tree.Max
		}
		if e, found := end(); !found || d.rank.compare(e, at) != 0 {
			return e, found
		}
	}
	d.walkGroup(at, false, func(e indexEntry[P, K]) (more bool) {
		last, ok = e, true
		return true
	})
	if !ok {
		d.walkGroup(at, true, func(e indexEntry[P, K]) (more bool) {
			last, ok = e, true
			return false
		})
	}
	return last, ok
}

// count returns the number of the view's rows in the group of at. The view must have no row at the place at.
func (d *topView[P, K, V]) count(at indexEntry[P, K]) (n int) {
	if d.same == nil {
		return d.to.len
	}
	for _, back := range []bool{false, true} {
		d.walkGroup(at, back, func(indexEntry[P, K]) (more bool) {
			n++
			return true
		})
	}
	return n
}

// walkGroup is like walk, over the view's rows in the group of at that come behind at, or before it if back is true.
func (d *topView[P, K, V]) walkGroup(at indexEntry[P, K], back bool, visit func(e indexEntry[P, K]) (more bool)) {
	d.walk(d.rank, &at, back, func(e indexEntry[P, K]) (more bool) {
		return d.sameGroup(e.value, at.value) && visit(e)
	})
}

// A rankPart is the part that has all rows of a view, in the order of their ranks.
type rankPart[P, K, V any] struct {
	indexPart[P, K, V]
	bottom bool
}

func (p *rankPart[P, K, V]) has(*V) bool               { return true }
func (p *rankPart[P, K, V]) scopeLocked() *scope[K, V] { return &p.index.table.allScope }
func (p *rankPart[P, K, V]) forgetScopeLocked()        {}
func (p *rankPart[P, K, V]) String() string            { return "" }

func (p *rankPart[P, K, V]) scan(v *view[K, V], backward bool) *scan[K, V] {
	return p.indexPart.scan(v, backward == p.bottom)
}
